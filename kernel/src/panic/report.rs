//! What a crash says, on the console and into the record.

use crate::console::{CrashConsole, Line};
use crate::traps::{TrapFrame, vector};
use crate::{cores, image, memory, time};
use boot::backtrace::Unpacked;
use boot::symbols::Symbols;
use core::fmt::{self, Arguments, Write};
use core::sync::atomic::Ordering;
use kernel::crash::Recorder;
use kernel::page_table::Access;
use kernel::unwind::{CallFrames, Registers, register};
use x86_64::registers::control::Cr2;

/// Deepest stack that is walked.
const MAX_FRAMES: usize = 1000;

/// Most frames that are shown; a recursion counts as one.
const MAX_SHOWN: usize = 48;

/// Names of [`Registers`], by DWARF number.
const REGISTER_NAMES: [&str; register::COUNT] = [
    "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15", "rip",
];

/// Names of exceptions by vector (Intel SDM volume 3A, table 6-1); the vectors that follow are reserved.
const EXCEPTION_NAMES: [&str; 22] = [
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
];

/// A report being written.
pub struct Report {
    /// Where it is kept.
    pub recorder: Recorder<'static>,
    /// Not known until they are unpacked.
    unpacked: Option<Unpacked<'static>>,
    /// Number of the first line of the report.
    log_end: u64,
}

impl Report {
    /// A report that goes to the console and to `recorder`.
    pub fn new(recorder: Recorder<'static>) -> Self {
        Self { recorder, unpacked: None, log_end: CrashConsole.next_line() }
    }

    /// Unpacks what backtraces are made of. `region` is [`image::backtrace`].
    pub fn unpack(&mut self, region: &'static mut [u8]) {
        self.unpacked = boot::backtrace::unpack(region);
    }

    /// Writes one line.
    pub fn line(&mut self, text: Arguments<'_>) {
        let us = time::now_ns() / 1000;
        let mut line = Line::new();
        let _ = write!(line, "[{:3}.{:06}] crash {text}", us / 1_000_000, us % 1_000_000);
        CrashConsole.line(&line.0);
        let _ = writeln!(self.recorder, "{text}");
    }

    /// Records, but does not print again, what the log said last before the crash.
    pub fn log_before(&mut self) {
        const LINES: u64 = 16;
        let _ = writeln!(self.recorder, "the log before:");
        let (end, recorder) = (self.log_end, &mut self.recorder);
        CrashConsole.lines_since(end.saturating_sub(LINES), |number, line| {
            let before = number < end;
            if before {
                let _ = writeln!(recorder, "  {line}");
            }
            before
        });
    }

    /// Writes those registers whose DWARF number is in `known`, four in a line.
    pub fn registers(&mut self, registers: &Registers, known: &[usize]) {
        for numbers in known.chunks(4) {
            let mut line = Line::new();
            for &number in numbers {
                let _ = write!(line, "  {:>3} {:016x}", REGISTER_NAMES[number], registers[number]);
            }
            self.line(format_args!("{}", line.0));
        }
    }

    /// Writes the chain of callers, from the function that `pc` lies in outwards; that one alone if nothing is unpacked.
    pub fn backtrace(&mut self, registers: &Registers, mut pc: u64) {
        let section = self.unpacked.map_or(&[][..], |unpacked| unpacked.call_frames);
        let frames = CallFrames::new(section, image::call_frames());
        let mut registers = *registers;
        let (mut last, mut repeated, mut shown) = (0, 0, 0);
        for depth in 0..MAX_FRAMES {
            if pc == last {
                repeated += 1;
            } else {
                self.repeated(core::mem::take(&mut repeated));
                if shown == MAX_SHOWN {
                    break;
                }
                self.line(format_args!("  {depth:3} {}", self.location(pc)));
                last = pc;
                shown += 1;
            }
            match frames.caller(&registers, pc, read_word) {
                Some(caller) => registers = caller,
                None => return,
            }
            // A return address may be the first byte after a function that never returns.
            pc = registers[register::RIP].saturating_sub(1);
        }
        self.repeated(repeated);
        self.line(format_args!("      and so on"));
    }

    fn location(&self, address: u64) -> Location {
        Location { address, symbols: self.unpacked.map(|unpacked| unpacked.symbols) }
    }

    fn repeated(&mut self, times: u32) {
        if times > 0 {
            self.line(format_args!("      the same {times} times more"));
        }
    }

    /// Says where each core but this was stopped.
    pub fn other_cores(&mut self, this: usize) {
        for core in cores::all().iter().filter(|core| core.index != this) {
            match core.stopped_at.load(Ordering::Acquire) {
                0 => self.line(format_args!("core {} did not stop", core.index)),
                address => {
                    let location = self.location(address);
                    self.line(format_args!("core {} was at {location}", core.index));
                }
            }
        }
    }
}

/// An address of code, with the function's name where the image was packed.
struct Location {
    address: u64,
    symbols: Option<Symbols<'static>>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address)?;
        let inside = image::text().contains(&self.address);
        match self.symbols.filter(|_| inside).and_then(|symbols| symbols.lookup(self.address)) {
            Some((name, offset)) => write!(f, " {name} + {offset:#x}"),
            None => Ok(()),
        }
    }
}

/// Says what an exception means.
pub fn describe(frame: &TrapFrame, f: &mut Line) -> fmt::Result {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    let address = Cr2::read_raw();
    match frame.vector {
        vector::DOUBLE_FAULT if is_guard(address) || is_guard(frame.rsp.wrapping_sub(8)) => {
            write!(f, "stack overflow (double fault, stack pointer {:#x})", frame.rsp)
        }
        vector::PAGE_FAULT if is_guard(address) => {
            write!(f, "stack overflow (guard page touched at {address:#x})")
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
            let name = usize::try_from(other).ok().and_then(|other| EXCEPTION_NAMES.get(other));
            write!(f, "{} (vector {other}, error {:#x})", name.unwrap_or(&"reserved exception"), frame.error)
        }
    }
}

/// The registers of an exception, by DWARF number.
pub fn registers_of(frame: &TrapFrame) -> Registers {
    let f = frame;
    [
        f.rax, f.rdx, f.rcx, f.rbx, f.rsi, f.rdi, f.rbp, f.rsp, f.r8, f.r9, f.r10, f.r11, f.r12, f.r13,
        f.r14, f.r15, f.rip,
    ]
}

fn is_guard(address: u64) -> bool {
    memory::access(address) == Some(Access::Guard)
}

/// A word of memory, where there is memory.
fn read_word(address: u64) -> Option<u64> {
    if !address.is_multiple_of(8) || memory::access(address) != Some(Access::ReadWrite) {
        return None;
    }
    // SAFETY: the word is aligned and lies in a page that may be read.
    Some(unsafe { (address as *const u64).read_volatile() })
}
