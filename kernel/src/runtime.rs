//! Symbols that compiled code expects of its environment.

use core::arch::naked_asm;

/// `memcpy` of the C library.
///
/// # Safety
/// As [`kernel::mem::copy`].
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!("jmp {}", sym kernel::mem::copy)
}

/// `memmove` of the C library.
///
/// # Safety
/// As [`kernel::mem::copy`].
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!("jmp {}", sym kernel::mem::copy)
}

/// `memset` of the C library.
///
/// # Safety
/// As [`kernel::mem::fill`].
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    naked_asm!("jmp {}", sym kernel::mem::fill)
}

/// `memcmp` of the C library.
///
/// # Safety
/// As [`kernel::mem::compare`].
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    naked_asm!("jmp {}", sym kernel::mem::compare)
}

/// `bcmp` of the C library.
///
/// # Safety
/// As [`kernel::mem::compare`].
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    naked_asm!("jmp {}", sym kernel::mem::compare)
}

/// Named by the prebuilt `alloc`'s unwind tables; a panic aborts, so nothing ever calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Called by the prebuilt `alloc` where unwinding would go on; a panic aborts, so nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding in an image that aborts")
}
