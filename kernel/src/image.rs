//! Where the linker put the image (see boot's `image.ld`).

use core::ops::Range;

mod symbol {
    unsafe extern "C" {
        pub static image_start: u8;
        pub static text_end: u8;
        pub static rodata_end: u8;
        pub static eh_frame_start: u8;
        pub static eh_frame_end: u8;
        pub static symbols_start: u8;
        pub static symbols_end: u8;
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

/// Call frame information.
pub fn eh_frame() -> &'static [u8] {
    // SAFETY: the linker script puts the section between these symbols, and nothing writes to it.
    unsafe { between(&raw const symbol::eh_frame_start, &raw const symbol::eh_frame_end) }
}

/// The symbol table's room, see `boot::symbols`.
pub fn symbols() -> &'static [u8] {
    // SAFETY: the linker script puts the room between these symbols, and nothing writes to it.
    unsafe { between(&raw const symbol::symbols_start, &raw const symbol::symbols_end) }
}

/// # Safety
/// What lies between the two is readable and never written.
unsafe fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: the caller's contract.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}
