//! Where the linker put the image (see boot's `image.ld`).

use core::ops::Range;

mod symbol {
    unsafe extern "C" {
        pub static image_start: u8;
        pub static text_end: u8;
        pub static rodata_end: u8;
        pub static mut backtrace_start: u8;
        pub static mut backtrace_end: u8;
        pub static image_end: u8;
        pub static boot_stack_guard: u8;
    }
}

fn address(symbol: *const u8) -> u64 {
    symbol as u64
}

/// The whole image in memory.
pub fn all() -> Range<u64> {
    address(&raw const symbol::image_start)..address(&raw const symbol::image_end)
}

/// Code.
pub fn text() -> Range<u64> {
    address(&raw const symbol::image_start)..address(&raw const symbol::text_end)
}

/// Constants.
pub fn rodata() -> Range<u64> {
    text().end.next_multiple_of(4096)..address(&raw const symbol::rodata_end)
}

/// The page below the boot stack.
pub fn boot_stack_guard() -> u64 {
    address(&raw const symbol::boot_stack_guard)
}

/// The address for which the linker made call frame information.
pub fn call_frames() -> u64 {
    address(&raw const symbol::backtrace_start)
}

/// What backtraces are made of, with the room to unpack it: see `boot::backtrace`.
///
/// # Safety
/// No other reference to it is alive.
pub unsafe fn backtrace() -> &'static mut [u8] {
    let (start, end) = (&raw mut symbol::backtrace_start, &raw mut symbol::backtrace_end);
    // SAFETY: the linker script reserves what is between the symbols for this; the rest is the caller's contract.
    unsafe { core::slice::from_raw_parts_mut(start, end as usize - start as usize) }
}
