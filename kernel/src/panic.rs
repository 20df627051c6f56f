//! The end of a run: says what happened and where, on the console.

use crate::console::{CrashConsole, Line};
use crate::{image, memory, time};
use core::fmt::{Arguments, Write};
use core::panic::PanicInfo;
use kernel::page_table::Access;
use kernel::unwind::{CallFrames, Registers, register};

/// Deepest stack that is shown.
const MAX_FRAMES: usize = 48;

// Clippy sees the whole workspace at once, in which some dependency has `std` switched on by a tool.
// There the standard library brings the panic handler.
#[cfg_attr(not(clippy), panic_handler)]
#[cfg_attr(clippy, expect(dead_code))]
fn panicked(info: &PanicInfo<'_>) -> ! {
    let registers = capture();
    match info.location() {
        Some(at) => {
            crash(&registers, format_args!("panic at {}:{}: {}", at.file(), at.line(), info.message()))
        }
        None => crash(&registers, format_args!("panic: {}", info.message())),
    }
}

/// Reports and stops.
fn crash(registers: &Registers, cause: Arguments<'_>) -> ! {
    report(format_args!("{cause}"));
    backtrace(registers);
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Writes one line of the report.
fn report(text: Arguments<'_>) {
    let us = time::now_ns() / 1000;
    let mut line = Line::new();
    let _ = write!(line, "[{:3}.{:06}] crash {text}", us / 1_000_000, us % 1_000_000);
    CrashConsole.line(&line.0);
}

/// Writes the chain of callers that `registers` belong to.
fn backtrace(registers: &Registers) {
    let section = image::eh_frame();
    let frames = CallFrames::new(section, section.as_ptr() as u64);
    let mut registers = *registers;
    let mut pc = registers[register::RIP];
    for depth in 0..MAX_FRAMES {
        report(format_args!("  {depth:2}: {:#x}", registers[register::RIP]));
        match frames.caller(&registers, pc, read_word) {
            Some(caller) => registers = caller,
            None => return,
        }
        // A return address may be the first byte after a function that never returns.
        pc = registers[register::RIP] - 1;
    }
}

/// A word of memory, where there is memory.
fn read_word(address: u64) -> Option<u64> {
    let readable = |at| matches!(memory::access(at), Some(Access::ReadWrite | Access::ReadOnly));
    if !address.is_multiple_of(8) || !readable(address) {
        return None;
    }
    // SAFETY: the word is aligned and lies in a page that may be read.
    Some(unsafe { (address as *const u64).read_volatile() })
}

/// The registers as they are in the caller, as far as unwinding needs them.
fn capture() -> Registers {
    let mut registers = [0; register::COUNT];
    // SAFETY: the function stores eight words within the array.
    unsafe { store_registers(&raw mut registers) };
    registers
}

/// Stores the callee-saved registers, the caller's stack pointer and the return address.
#[unsafe(naked)]
unsafe extern "C" fn store_registers(to: *mut Registers) {
    core::arch::naked_asm!(
        "mov [rdi + 8 * {rbx}], rbx",
        "mov [rdi + 8 * {rbp}], rbp",
        "lea rax, [rsp + 8]",
        "mov [rdi + 8 * {rsp}], rax",
        "mov [rdi + 8 * {r12}], r12",
        "mov [rdi + 8 * {r12} + 8], r13",
        "mov [rdi + 8 * {r12} + 16], r14",
        "mov [rdi + 8 * {r12} + 24], r15",
        "mov rax, [rsp]",
        "mov [rdi + 8 * {rip}], rax",
        "ret",
        rbx = const register::RBX,
        rbp = const register::RBP,
        rsp = const register::RSP,
        r12 = const register::R12,
        rip = const register::RIP,
    )
}
