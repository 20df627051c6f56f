//! The end of a run: stops every core, says what happened and where, keeps it for the next run, restarts.

mod on_purpose;
mod report;

use crate::console::Line;
use crate::traps::TrapFrame;
use crate::{apic, cores, cpu, image, memory, power, time};
use alloc::format;
use alloc::string::String;
use control::Date;
use core::fmt::Arguments;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};
use kernel::crash::{self, Record, Recorder};
use kernel::unwind::{Registers, register};
use log::{info, warn};
use report::Report;

pub use on_purpose::crash_on_purpose;

/// Number of the core that crashed, plus one; 0 while none did.
static CRASHING: AtomicUsize = AtomicUsize::new(0);

/// The record that this run found at boot.
static PREVIOUS: spin::Once<Previous> = spin::Once::new();

struct Previous {
    text: String,
    in_a_row: u32,
}

/// Takes over the record of an earlier crash. It stays in its place for the runs after this, until another crash.
pub fn init() {
    // SAFETY: the boot code reserves this memory for the record, and only this and `crash` use it.
    let memory = unsafe { record_memory() };
    let Some(found) = crash::find(memory) else { return };
    let Record { text, in_a_row, runs_since } = found;
    let first = text.lines().next().unwrap_or_default();
    let previous = match runs_since {
        0 => {
            warn!(target: "crash", "the run before crashed ({in_a_row} in a row): {first}");
            Previous { text: text.into(), in_a_row }
        }
        _ => {
            info!(target: "crash", "{runs_since} runs went well since the last crash: {first}");
            Previous { text: format!("{text}runs that went well since: {runs_since}\n"), in_a_row: 0 }
        }
    };
    let _ = PREVIOUS.call_once(|| previous);
    crash::keep(memory);
}

/// What the last crash before this run reported.
pub fn previous() -> Option<&'static str> {
    PREVIOUS.get().map(|previous| previous.text.as_str())
}

// Clippy sees the whole workspace at once, in which some dependency has `std` switched on by a tool.
// There the standard library brings the panic handler.
#[cfg_attr(not(clippy), panic_handler)]
#[cfg_attr(clippy, expect(dead_code))]
fn panicked(info: &PanicInfo<'_>) -> ! {
    let registers = capture();
    let core = this_core();
    match info.location() {
        Some(at) => crash(
            &registers,
            &register::PRESERVED,
            format_args!("panic on core {core} at {}:{}: {}", at.file(), at.line(), info.message()),
        ),
        None => {
            crash(&registers, &register::PRESERVED, format_args!("panic on core {core}: {}", info.message()))
        }
    }
}

/// Ends the run for an exception.
pub fn exception(frame: &TrapFrame) -> ! {
    let mut cause = Line::new();
    let _ = report::describe(frame, &mut cause);
    let registers = report::registers_of(frame);
    crash(&registers, &register::ALL, format_args!("{} on core {}", cause.0, this_core()))
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

/// Stops all other cores, reports, and restarts. `known` are the numbers of the registers that tell something.
fn crash(registers: &Registers, known: &[usize], cause: Arguments<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    let this = this_core() + 1;
    match CRASHING.compare_exchange(0, this, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        // The report itself crashed: what is recorded so far must do.
        Err(other) if other == this => power::restart(),
        Err(_) => cpu::halt(),
    }
    stop_others();
    let uptime_ns = time::now_ns();
    // SAFETY: this is the only core that runs, and it comes here once.
    let mut report = Report::new(Recorder::new(unsafe { record_memory() }));
    report.line(cause);
    if let Some(unix_ns) = time::calendar::unix_ns() {
        report.line(format_args!("at {}", Date(unix_ns / 1_000_000_000)));
    }
    // Sealed after each part, in case a later one crashes.
    let previous = PREVIOUS.get().map_or(0, |previous| previous.in_a_row);
    let in_a_row = report.recorder.seal(previous, uptime_ns);
    report.registers(registers, known);
    // SAFETY: as for the record.
    report.unpack(unsafe { image::backtrace() });
    report.backtrace(registers, registers[register::RIP]);
    report.other_cores(this - 1);
    report.log_before();
    let _ = report.recorder.seal(previous, uptime_ns);

    let pause_ns = crash::pause_ns(in_a_row);
    report.line(format_args!("restart in {} s", pause_ns / 1_000_000_000));
    time::spin_ns(pause_ns);
    power::restart()
}

fn stop_others() {
    const TIME_TO_STOP_NS: u64 = 1_000_000;
    if cores::all().len() > 1 {
        apic::interrupt_all_others();
        time::spin_ns(TIME_TO_STOP_NS);
    }
}

fn this_core() -> usize {
    cores::current().map_or(0, |core| core.index)
}

/// The memory that keeps a record over a restart.
///
/// # Safety
/// No other reference to it is alive.
unsafe fn record_memory() -> &'static mut [u8] {
    let range = memory::CRASH_RECORD;
    let len = (range.end - range.start) as usize;
    // SAFETY: the range is RAM that the frame allocator never had.
    unsafe { core::slice::from_raw_parts_mut(range.start as *mut u8, len) }
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
