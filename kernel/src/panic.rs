//! The end of a run: says what happened and where, on the console.

use crate::console::{CrashConsole, Line};
use crate::traps::{TrapFrame, vector};
use crate::{apic, cores, cpu, image, memory, time};
use core::fmt::{self, Arguments, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};
use kernel::page_table::Access;
use kernel::unwind::{CallFrames, Registers, register};
use x86_64::registers::control::Cr2;

/// Deepest stack that is shown.
const MAX_FRAMES: usize = 48;

/// Number of the core that crashed, plus one; 0 while none did.
static CRASHING: AtomicUsize = AtomicUsize::new(0);

// Clippy sees the whole workspace at once, in which some dependency has `std` switched on by a tool.
// There the standard library brings the panic handler.
#[cfg_attr(not(clippy), panic_handler)]
#[cfg_attr(clippy, expect(dead_code))]
fn panicked(info: &PanicInfo<'_>) -> ! {
    let registers = capture();
    let pc = registers[register::RIP];
    let core = cores::current().map_or(0, |core| core.index);
    match info.location() {
        Some(at) => crash(
            &registers,
            pc,
            format_args!("panic on core {core} at {}:{}: {}", at.file(), at.line(), info.message()),
        ),
        None => crash(&registers, pc, format_args!("panic on core {core}: {}", info.message())),
    }
}

/// Ends the run for an exception.
pub fn exception(frame: &TrapFrame) -> ! {
    let registers = registers_of(frame);
    let core = cores::current().map_or(0, |core| core.index);
    let mut cause = Line::new();
    let _ = describe(frame, &mut cause);
    crash(&registers, frame.rip, format_args!("{} on core {core}", cause.0))
}

/// Stops this core for good if another one crashed, which interrupts all others.
pub fn stop_if_crashing(frame: &TrapFrame) {
    let Some(core) = cores::current() else { return };
    let crashing = CRASHING.load(Ordering::Acquire);
    if crashing != 0 && crashing != core.index + 1 {
        core.stopped_at.store(frame.rip, Ordering::Release);
        cpu::halt();
    }
}

/// Stops all other cores, reports, and stops. `pc` is the address of the code that crashed.
fn crash(registers: &Registers, pc: u64, cause: Arguments<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    let this = cores::current().map_or(0, |core| core.index) + 1;
    match CRASHING.compare_exchange(0, this, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            stop_others();
            report(cause);
            print_registers(registers);
            backtrace(registers, pc);
            print_others(this);
        }
        Err(other) if other == this => report(format_args!("while reporting: {cause}")),
        Err(_) => cpu::halt(),
    }
    cpu::halt()
}

fn stop_others() {
    const TIME_TO_STOP_NS: u64 = 1_000_000;
    if cores::all().len() > 1 {
        apic::interrupt_all_others();
        time::spin_ns(TIME_TO_STOP_NS);
    }
}

fn print_others(this: usize) {
    for core in cores::all().iter().filter(|core| core.index + 1 != this) {
        match core.stopped_at.load(Ordering::Acquire) {
            0 => report(format_args!("core {} did not stop", core.index)),
            at => report(format_args!("core {} was at {at:#x}", core.index)),
        }
    }
}

fn print_registers(registers: &Registers) {
    const NAMES: [&str; register::COUNT] = [
        "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15", "rip",
    ];
    for (names, values) in NAMES.chunks(4).zip(registers.chunks(4)) {
        let mut line = Line::new();
        for (name, value) in names.iter().zip(values) {
            let _ = write!(line, "  {name:>3} {value:016x}");
        }
        report(format_args!("{}", line.0));
    }
}

/// The registers of an exception, by DWARF number.
fn registers_of(frame: &TrapFrame) -> Registers {
    [
        frame.rax, frame.rdx, frame.rcx, frame.rbx, frame.rsi, frame.rdi, frame.rbp, frame.rsp, frame.r8,
        frame.r9, frame.r10, frame.r11, frame.r12, frame.r13, frame.r14, frame.r15, frame.rip,
    ]
}

/// Says what an exception means.
fn describe(frame: &TrapFrame, f: &mut Line) -> fmt::Result {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    let address = Cr2::read_raw();
    match frame.vector {
        vector::DOUBLE_FAULT if is_guard(address) || is_guard(frame.rsp.wrapping_sub(8)) => {
            write!(f, "stack overflow: double fault with the stack pointer at {:#x}", frame.rsp)
        }
        vector::PAGE_FAULT if is_guard(address) => {
            write!(f, "stack overflow: access to the guard page at {address:#x}")
        }
        vector::PAGE_FAULT => {
            let action = match frame.error {
                error if error & FETCH != 0 => "executing",
                error if error & WRITE != 0 => "writing",
                _ => "reading",
            };
            let reason = if frame.error & PRESENT != 0 { "not allowed" } else { "nothing there" };
            write!(f, "page fault {action} {address:#x}: {reason}")
        }
        other => {
            let name =
                usize::try_from(other).ok().and_then(|other| EXCEPTIONS.get(other)).unwrap_or(&"exception");
            write!(f, "{name} (vector {other}, error {:#x})", frame.error)
        }
    }
}

/// Names of exceptions by vector (Intel SDM volume 3A, table 6-1).
const EXCEPTIONS: [&str; 32] = [
    "divide error",
    "debug exception",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid TSS",
    "segment not present",
    "stack-segment fault",
    "general protection fault",
    "page fault",
    "reserved exception",
    "x87 floating-point error",
    "alignment check",
    "machine check",
    "SIMD floating-point exception",
    "virtualization exception",
    "control protection exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "hypervisor injection exception",
    "VMM communication exception",
    "security exception",
    "reserved exception",
];

fn is_guard(address: u64) -> bool {
    memory::access(address) == Some(Access::Guard)
}

/// Writes one line of the report.
fn report(text: Arguments<'_>) {
    let us = time::now_ns() / 1000;
    let mut line = Line::new();
    let _ = write!(line, "[{:3}.{:06}] crash {text}", us / 1_000_000, us % 1_000_000);
    CrashConsole.line(&line.0);
}

/// Writes the chain of callers that `registers` belong to.
fn backtrace(registers: &Registers, mut pc: u64) {
    let section = image::eh_frame();
    let frames = CallFrames::new(section, section.as_ptr() as u64);
    let mut registers = *registers;
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
