//! The local APIC: interrupts between cores, and the timer that ends a core's sleep.
//!
//! x2APIC where the CPU has it, through model-specific registers; else the memory-mapped xAPIC.
//!
//! Source: Intel SDM volume 3A, chapter 11.

use crate::{cpu, memory, time};
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::page_table::Access;
use x86_64::registers::model_specific::Msr;

const IA32_APIC_BASE: u32 = 0x1b;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_MSRS: u32 = 0x800;

/// Offsets of registers in the memory-mapped page.
mod register {
    pub const TASK_PRIORITY: u32 = 0x80;
    pub const SPURIOUS: u32 = 0xf0;
    pub const COMMAND_LOW: u32 = 0x300;
    pub const COMMAND_HIGH: u32 = 0x310;
    pub const TIMER: u32 = 0x320;
    pub const LINT0: u32 = 0x350;
    pub const LINT1: u32 = 0x360;
    pub const INITIAL_COUNT: u32 = 0x380;
    pub const CURRENT_COUNT: u32 = 0x390;
    pub const DIVIDE: u32 = 0x3e0;
}

/// Vector of an interrupt that only ends a core's sleep.
pub const WAKE_VECTOR: u8 = 0x30;

/// Vector that the APIC gives when an interrupt vanished before it was delivered.
pub const SPURIOUS_VECTOR: u8 = 0xff;

const MASKED: u32 = 1 << 16;

/// The timer counts at the rate of its clock; every core's must, as one core's was measured for all.
const DIVIDE_BY_1: u32 = 0b1011;

/// Whether end-of-interrupt goes to the MSR; the interrupt stubs read it.
#[unsafe(no_mangle)]
static APIC_IS_X2: AtomicBool = AtomicBool::new(false);

/// The end-of-interrupt register of the memory-mapped APIC; the interrupt stubs write to it.
#[unsafe(no_mangle)]
static APIC_EOI_ADDRESS: AtomicU64 = AtomicU64::new(0xfee0_00b0);

static TIMER: spin::Once<Timer> = spin::Once::new();

/// How the timer is programmed.
enum Timer {
    /// With the counter value at which to fire.
    Deadline,
    /// With a count of its own clock, of which so many ticks, times 2^32, pass in each of the time-stamp counter's.
    OneShot(u64),
}

/// Finds out how the APIC is accessed, before any core switches its own on, with the kernel's page tables in use.
pub fn detect() {
    const X2APIC: u32 = 1 << 21;
    let features = __cpuid(1).ecx;
    APIC_IS_X2.store(features & X2APIC != 0, Ordering::Relaxed);
    if features & X2APIC == 0 {
        // SAFETY: every x86-64 CPU has the MSR.
        let base = unsafe { Msr::new(IA32_APIC_BASE).read() } & 0x000f_ffff_ffff_f000;
        APIC_EOI_ADDRESS.store(base + 0xb0, Ordering::Relaxed);
        memory::set_access(base..base + 4096, Access::Device);
    }
}

/// When the timer was started whose rate [`finish`] measures.
static TIMER_BEGAN_TSC: AtomicU64 = AtomicU64::new(0);

/// Has the first core take what comes from outside; the core's APIC is on. [`finish`] comes later.
pub fn init_first() {
    const NMI: u32 = 4 << 8;
    // An operator's or the chipset's NMI ends the run: the report shows what the node was at.
    write(register::LINT1, NMI);
    if !has_deadline() {
        TIMER_BEGAN_TSC.store(time::tsc(), Ordering::Relaxed);
        write(register::INITIAL_COUNT, u32::MAX);
    }
}

/// Measures the timer on the first core, by the time since [`init_first`]. Until then nobody can sleep for a time.
pub fn finish() {
    let _ =
        TIMER.call_once(|| if has_deadline() { Timer::Deadline } else { Timer::OneShot(measure_timer()) });
}

fn has_deadline() -> bool {
    const TSC_DEADLINE: u32 = 1 << 24;
    __cpuid(1).ecx & TSC_DEADLINE != 0
}

/// Switches this core's APIC on. Legacy interrupt lines stay masked, and NMIs from outside but on the first core.
pub fn enable() {
    const GLOBAL_ENABLE: u64 = 1 << 11;
    const X2_ENABLE: u64 = 1 << 10;
    const SOFTWARE_ENABLE: u32 = 1 << 8;
    let mut base = Msr::new(IA32_APIC_BASE);
    let mode = if is_x2() { GLOBAL_ENABLE | X2_ENABLE } else { GLOBAL_ENABLE };
    // SAFETY: CPUID says that the mode exists; going from disabled to x2APIC takes the step in between.
    unsafe {
        let value = base.read() | GLOBAL_ENABLE;
        base.write(value);
        base.write(value | mode);
    }
    write(register::TASK_PRIORITY, 0);
    write(register::LINT0, MASKED);
    write(register::LINT1, MASKED);
    write(register::TIMER, MASKED);
    write(register::DIVIDE, DIVIDE_BY_1);
    write(register::SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
}

/// Makes the timer fire the wake vector on this core at `at_ns`, instead of what was set before.
pub fn set_timer(at_ns: u64) {
    const DEADLINE_MODE: u32 = 2 << 17;
    match TIMER.get() {
        Some(Timer::Deadline) => {
            write(register::TIMER, DEADLINE_MODE | u32::from(WAKE_VECTOR));
            // The mode must have changed before the deadline is written (section 11.5.4.1); zero would disarm.
            // SAFETY: CPUID says that the deadline mode, and with it the MSR, exists.
            unsafe {
                core::arch::x86_64::_mm_mfence();
                Msr::new(IA32_TSC_DEADLINE).write(time::clock().at(at_ns).max(1));
            }
        }
        Some(Timer::OneShot(rate)) => {
            let wait = time::clock().at(at_ns).saturating_sub(time::tsc());
            let ticks = (u128::from(wait) * u128::from(*rate)) >> 32;
            write(register::TIMER, u32::from(WAKE_VECTOR));
            write(register::INITIAL_COUNT, u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
        }
        None => {}
    }
}

/// Keeps the timer from firing.
pub fn stop_timer() {
    write(register::TIMER, MASKED);
}

/// Whether interrupts can reach the core with this identifier: the memory-mapped APIC has 8 bits for it.
pub fn reaches(apic_id: u32) -> bool {
    const BROADCAST: u32 = 0xff;
    is_x2() || apic_id < BROADCAST
}

/// Where a device writes to interrupt the core with this identifier (section 11.11.1). `None`: messages have 8 bits
/// for the core, of which all ones reach every core, or 15 where a hypervisor says so; this one has more.
pub fn message_address(apic_id: u32) -> Option<u32> {
    const MESSAGES: u32 = 0xfee0_0000;
    const BROADCAST: u32 = 0xff;
    const EXTENDED_IDS: u32 = 1 << 15;
    if apic_id < BROADCAST {
        return Some(MESSAGES | apic_id << 12);
    }
    let extended = cpu::kvm_features().is_some_and(|features| features & EXTENDED_IDS != 0);
    // Bits 5 to 11 are the upper ones of the identifier (Linux, `Documentation/virt/kvm/x86/cpuid.rst`,
    // KVM_FEATURE_MSI_EXT_DEST_ID).
    (extended && is_x2() && apic_id < 1 << 15)
        .then_some(MESSAGES | (apic_id & 0xff) << 12 | apic_id >> 8 << 5)
}

/// Ends the sleep of the core with this identifier, or keeps it from its next one.
pub fn wake(apic_id: u32) {
    const FIXED: u32 = 0;
    command(apic_id, FIXED | u32::from(WAKE_VECTOR));
}

/// Resets a core, which then waits for [`start`].
pub fn reset(apic_id: u32) {
    const INIT: u32 = 5 << 8;
    const ASSERT: u32 = 1 << 14;
    command(apic_id, INIT | ASSERT);
}

/// Starts a reset core in real mode at `page`, a page-aligned address below 1 MiB.
pub fn start(apic_id: u32, page: u32) {
    const STARTUP: u32 = 6 << 8;
    const ASSERT: u32 = 1 << 14;
    command(apic_id, STARTUP | ASSERT | (page >> 12));
}

/// Interrupts every other core, whatever it does, by NMI.
pub fn interrupt_all_others() {
    const NMI: u32 = 4 << 8;
    const ASSERT: u32 = 1 << 14;
    const ALL_BUT_SELF: u32 = 3 << 18;
    command(0, NMI | ASSERT | ALL_BUT_SELF);
}

/// Writes the interrupt command register, having waited for the last command to be sent.
fn command(apic_id: u32, low: u32) {
    const DELIVERY_PENDING: u32 = 1 << 12;
    const PATIENCE: u32 = 1_000_000;
    if is_x2() {
        let value = u64::from(apic_id) << 32 | u64::from(low);
        // What was written for the other core to find must be visible before it is interrupted
        // (section 11.12.3: the MSR write does not order stores).
        // SAFETY: SSE2 and, by `is_x2`, the MSR exist.
        unsafe {
            core::arch::x86_64::_mm_mfence();
            Msr::new(X2APIC_MSRS + (register::COMMAND_LOW >> 4)).write(value);
        }
    } else {
        let _ = (0..PATIENCE).find(|_| read(register::COMMAND_LOW) & DELIVERY_PENDING == 0);
        write(register::COMMAND_HIGH, apic_id << 24);
        write(register::COMMAND_LOW, low);
    }
}

/// The rate of the timer's own clock, against the time-stamp counter, over a millisecond or longer; see
/// [`Timer::OneShot`].
fn measure_timer() -> u64 {
    const SHORTEST_NS: u64 = 1_000_000;
    // Delays between the readings of the two clocks make the rate too low: the core then wakes early.
    let start = TIMER_BEGAN_TSC.load(Ordering::Relaxed);
    while time::tsc() - start < time::clock().ticks(SHORTEST_NS) {
        core::hint::spin_loop();
    }
    let mut left = read(register::CURRENT_COUNT);
    let mut elapsed_tsc = time::tsc() - start;
    if left == 0 {
        // It ran out: boot took seconds.
        let start = time::tsc();
        write(register::INITIAL_COUNT, u32::MAX);
        time::spin_ns(SHORTEST_NS);
        left = read(register::CURRENT_COUNT);
        elapsed_tsc = time::tsc() - start;
    }
    write(register::INITIAL_COUNT, 0);
    (u64::from(u32::MAX - left) << 32) / elapsed_tsc.max(1)
}

fn is_x2() -> bool {
    APIC_IS_X2.load(Ordering::Relaxed)
}

fn read(register: u32) -> u32 {
    if is_x2() {
        // SAFETY: by `is_x2`; the register's MSR is at its offset divided by 16.
        unsafe { Msr::new(X2APIC_MSRS + (register >> 4)).read() as u32 }
    } else {
        // SAFETY: `init` mapped the page as device registers, and the offset lies within it.
        unsafe { address(register).read_volatile() }
    }
}

fn write(register: u32, value: u32) {
    if is_x2() {
        // SAFETY: as in `read`; no register written here can break memory safety.
        unsafe { Msr::new(X2APIC_MSRS + (register >> 4)).write(u64::from(value)) };
    } else {
        // SAFETY: as in `read`.
        unsafe { address(register).write_volatile(value) };
    }
}

fn address(register: u32) -> *mut u32 {
    let page = APIC_EOI_ADDRESS.load(Ordering::Relaxed) & !0xfff;
    (page + u64::from(register)) as *mut u32
}
