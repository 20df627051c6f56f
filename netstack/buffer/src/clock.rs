//! The processor's time stamp counter.

/// Clocks of the time stamp counter: what nodes' cost is counted in. 0 on processors without one.
#[inline(always)]
pub fn clocks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and no platform of ours forbids it.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}
