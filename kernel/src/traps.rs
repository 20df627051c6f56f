//! Exceptions and interrupts: the interrupt descriptor table and the code behind it.
//!
//! Every vector switches to a stack of its own by IST, so that what a function keeps below its stack
//! pointer (the red zone) survives. Interrupts are let in only while a core sleeps
//! ([`crate::cores::sleep`]) and where it asks for them ([`crate::cores::take_interrupts`]), and their whole handler is
//! a few instructions: count the vector, acknowledge. Exceptions end the run.

use crate::panic;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Indexes into the TSS's interrupt stack table (1-based), see [`crate::cores`].
pub mod stack {
    /// Interrupts of devices, of other cores and of the timer.
    pub const INTERRUPT: u8 = 1;
    /// Exceptions but the following.
    pub const EXCEPTION: u8 = 2;
    /// Double fault.
    pub const DOUBLE_FAULT: u8 = 3;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 4;
    /// Machine check.
    pub const MACHINE_CHECK: u8 = 5;
    /// How many there are.
    pub const COUNT: usize = 5;
}

/// Vectors of exceptions.
pub mod vector {
    /// Non-maskable interrupt.
    pub const NMI: u64 = 2;
    /// Double fault.
    pub const DOUBLE_FAULT: u64 = 8;
    /// Page fault.
    pub const PAGE_FAULT: u64 = 14;
    /// Machine check.
    pub const MACHINE_CHECK: u64 = 18;
}

/// First vector that is not an exception.
const FIRST_INTERRUPT: usize = 32;
const VECTORS: usize = 256;

/// Registers as an exception found them, as the stub below pushes them.
#[repr(C)]
#[derive(Debug)]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<TrapFrame>() == 22 * 8);

/// How often each vector fired, modulo 2^32; the stubs count. Vectors may be shared, by devices and by cores: each
/// that waits for one remembers how far it has seen.
#[unsafe(no_mangle)]
static TRAP_COUNTS: [AtomicU32; VECTORS] = [const { AtomicU32::new(0) }; VECTORS];

core::arch::global_asm!(
    // 256 stubs of 16 bytes each. Exceptions push a zero where the CPU pushes no error code.
    ".pushsection .text.trap_stubs, \"ax\"",
    ".balign 16",
    ".type trap_stubs, @function",
    "trap_stubs:",
    ".set trap_vector, 0",
    ".rept 32",
    ".balign 16",
    ".if trap_vector == 8 || (trap_vector >= 10 && trap_vector <= 14) || trap_vector == 17 || trap_vector == 21 || trap_vector == 29 || trap_vector == 30",
    ".else",
    "push 0",
    ".endif",
    ".byte 0x6a, trap_vector",
    "jmp trap_exception",
    ".set trap_vector, trap_vector + 1",
    ".endr",
    ".rept 224",
    ".balign 16",
    "push rax",
    ".byte 0xb8",
    ".long trap_vector",
    "jmp trap_interrupt",
    ".set trap_vector, trap_vector + 1",
    ".endr",
    ".balign 16",
    ".type trap_exception, @function",
    "trap_exception:",
    "cld",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rdi, rsp",
    // The frame is 22 words on a 16-byte aligned stack: the call finds it aligned.
    "call {exception}",
    "ud2",
    ".type trap_interrupt, @function",
    "trap_interrupt:",
    "lock inc dword ptr [TRAP_COUNTS + rax * 4]",
    "cmp eax, {spurious}",
    "je 3f",
    "cmp byte ptr [APIC_IS_X2], 0",
    "je 2f",
    "push rcx",
    "push rdx",
    "xor eax, eax",
    "xor edx, edx",
    "mov ecx, 0x80b",
    "wrmsr",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "iretq",
    "2:",
    "mov rax, [APIC_EOI_ADDRESS]",
    "mov dword ptr [rax], 0",
    "3:",
    "pop rax",
    "iretq",
    ".popsection",
    exception = sym exception,
    spurious = const crate::apic::SPURIOUS_VECTOR,
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// One gate (Intel SDM volume 3A, figure 6-8).
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Gate>() == 16);

/// The interrupt descriptor table, which all cores share.
pub struct Table(#[expect(dead_code, reason = "the CPU reads it")] [Gate; VECTORS]);

impl Table {
    /// A gate for every vector. `code` is the selector of the kernel's code segment.
    pub fn new(code: u16) -> Self {
        const PRESENT_INTERRUPT_GATE: u8 = 0x8e;
        let stubs = &raw const trap_stubs as u64;
        Self(core::array::from_fn(|vector| {
            let offset = stubs + 16 * vector as u64;
            Gate {
                offset_low: offset as u16,
                selector: code,
                ist: stack_of(vector),
                kind: PRESENT_INTERRUPT_GATE,
                offset_middle: (offset >> 16) as u16,
                offset_high: (offset >> 32) as u32,
                reserved: 0,
            }
        }))
    }
}

/// The stack that a vector runs on.
fn stack_of(vector: usize) -> u8 {
    match vector as u64 {
        vector::NMI => stack::NMI,
        vector::DOUBLE_FAULT => stack::DOUBLE_FAULT,
        vector::MACHINE_CHECK => stack::MACHINE_CHECK,
        _ if vector < FIRST_INTERRUPT => stack::EXCEPTION,
        _ => stack::INTERRUPT,
    }
}

/// A vector that somebody waits for.
pub struct Waiter {
    vector: u8,
    seen: u32,
}

impl Waiter {
    /// Waits for what fires from now on.
    pub fn new(vector: u8) -> Self {
        Self { vector, seen: TRAP_COUNTS[usize::from(vector)].load(Ordering::Relaxed) }
    }

    /// Whether the vector fired since the last call.
    pub fn take(&mut self) -> bool {
        let count = TRAP_COUNTS[usize::from(self.vector)].load(Ordering::Relaxed);
        core::mem::replace(&mut self.seen, count) != count
    }
}

/// Gives out a vector for a device's interrupt. When all are taken, devices share them.
pub fn allocate_vector() -> u8 {
    const FIRST: u8 = 0x40;
    const LAST: u8 = 0xef;
    static NEXT: AtomicU8 = AtomicU8::new(FIRST);
    let following = |vector| Some(if vector == LAST { FIRST } else { vector + 1 });
    match NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, following) {
        Ok(vector) | Err(vector) => vector,
    }
}

/// Masks the legacy interrupt controllers (Intel 8259), whose vectors would collide with exceptions.
pub fn mask_legacy_interrupts() {
    use x86_64::instructions::port::Port;
    // SAFETY: the ports are the controllers' data ports on every PC; all ones masks every line.
    unsafe {
        Port::<u8>::new(0x21).write(0xff);
        Port::<u8>::new(0xa1).write(0xff);
    }
}

/// What every exception ends up in.
extern "C" fn exception(frame: &TrapFrame) -> ! {
    if frame.vector == vector::NMI {
        panic::stop_if_crashing(frame);
    }
    panic::exception(frame)
}
