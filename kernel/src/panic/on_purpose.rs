//! Crashes on purpose, by which tests see that each kind is reported and survived.

use crate::{cores, image};
use core::hint::black_box;
use kernel::command_line::CrashKind;

/// Crashes the running core.
pub fn crash_on_purpose(kind: CrashKind) {
    match kind {
        CrashKind::Panic => panic!("on purpose"),
        CrashKind::Stack => {
            let _ = recurse(0);
        }
        // SAFETY: never: the page at address zero is not mapped, so that the access faults.
        CrashKind::Read => unsafe {
            let _ = black_box((0x10 as *const u64).read_volatile());
        },
        // SAFETY: never: code is read-only, so that the access faults.
        CrashKind::Write => unsafe { (image::text().start as *mut u8).write_volatile(0) },
        // SAFETY: never: data cannot be executed, so that the call faults.
        CrashKind::Execute => unsafe {
            let data = [0xc3u8; 16];
            core::mem::transmute::<*const u8, extern "C" fn()>(black_box(data.as_ptr()))();
        },
        CrashKind::Double => {
            cores::take_exception_stack();
            let _ = recurse(0);
        }
    }
}

/// Uses stack without end.
#[inline(never)]
#[expect(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let ballast = black_box([depth; 64]);
    recurse(depth + 1) + ballast[0]
}
