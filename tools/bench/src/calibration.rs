//! A fixed piece of work by which machines can be compared.

use buffer::clocks;

const ADDITIONS: u64 = 1 << 16;
const ROUNDS: usize = 200;

/// Clocks of one addition that waits for the one before, in the best of many rounds: 1 on a core that runs at the rate
/// of its time stamp counter, less on one that runs faster.
pub fn clocks_per_addition() -> f64 {
    let best = (0..ROUNDS).map(|_| time_additions()).min().unwrap_or(0);
    best as f64 / ADDITIONS as f64
}

#[cfg(target_arch = "x86_64")]
fn time_additions() -> u64 {
    let start = clocks();
    // Two registers, since processors fold additions of constants away.
    // SAFETY: the loop changes the two registers that it is given and the flags, and no memory.
    unsafe {
        core::arch::asm!(
            "2:",
            "add {sum}, {left}", "add {sum}, {left}", "add {sum}, {left}", "add {sum}, {left}",
            "add {sum}, {left}", "add {sum}, {left}", "add {sum}, {left}", "add {sum}, {left}",
            "dec {left}",
            "jnz 2b",
            sum = inout(reg) 0u64 => _,
            left = inout(reg) ADDITIONS / 8 => _,
            options(nomem, nostack),
        );
    }
    clocks() - start
}

#[cfg(not(target_arch = "x86_64"))]
fn time_additions() -> u64 {
    0
}
