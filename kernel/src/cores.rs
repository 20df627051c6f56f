//! The machine's cores: starting them, what each has of its own, sleeping and waking.

mod segments;
mod startup;

use crate::{apic, cpu, memory, time, traps};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::page_table::Access;
use segments::Segments;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

pub use startup::start_others;

/// Stack of a core but the first, in bytes.
const STACK_BYTES: u64 = 128 * 1024;

/// Stack of the interrupt stub.
const INTERRUPT_STACK_BYTES: u64 = 4096;

/// Stack of exceptions, on which a crash is reported.
const EXCEPTION_STACK_BYTES: u64 = 32 * 1024;

/// What a core has of its own.
pub struct Core {
    /// Number of the core; 0 is the one that booted.
    pub index: usize,
    apic_id: u32,
    segments: Segments,
    /// Set while the core sleeps or is about to.
    asleep: AtomicBool,
    /// Where the core was when a crash elsewhere stopped it; 0 while it runs.
    pub stopped_at: AtomicU64,
    /// What the core is to do, in this order.
    jobs: spin::Mutex<VecDeque<Job>>,
}

/// What a core is given to do.
pub type Job = Box<dyn FnOnce() + Send>;

static CORES: spin::Once<Vec<&'static Core>> = spin::Once::new();

impl Core {
    /// A core with its stacks. It stays for ever.
    fn new(index: usize, apic_id: u32) -> &'static Self {
        let stacks = core::array::from_fn(|index| {
            let interrupt = index + 1 == usize::from(traps::stack::INTERRUPT);
            memory::stack(if interrupt { INTERRUPT_STACK_BYTES } else { EXCEPTION_STACK_BYTES })
        });
        Box::leak(Box::new(Self {
            index,
            apic_id,
            segments: Segments::new(stacks),
            asleep: AtomicBool::new(false),
            stopped_at: AtomicU64::new(0),
            jobs: spin::Mutex::default(),
        }))
    }

    /// Makes the running core this one.
    fn enter(&'static self) {
        self.segments.load();
        GsBase::write(VirtAddr::from_ptr(self));
        apic::enable();
    }

    /// Ends the core's sleep, if it sleeps. What the core is to find was published before.
    pub fn wake(&self) {
        // Pairs with the fence in `sleep`: either the core sees what was published, or we see it asleep.
        core::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            apic::wake(self.apic_id);
        }
    }

    /// The identifier by which interrupts reach the core.
    pub fn apic_id(&self) -> u32 {
        self.apic_id
    }

    /// Has the core run `job`, once it is through with what it was given before.
    pub fn run(&self, job: Job) {
        self.jobs.lock().push_back(job);
        self.wake();
    }
}

/// Sets the first core up: descriptor tables, stacks for exceptions, APIC.
pub fn init_first() {
    traps::mask_legacy_interrupts();
    apic::detect();
    Core::new(0, cpu::apic_id()).enter();
    apic::init_first();
}

/// All cores that run, in order; empty before [`start_others`].
pub fn all() -> &'static [&'static Core] {
    CORES.get().map_or(&[], Vec::as_slice)
}

/// The core that runs control; `None` before [`start_others`].
pub fn control() -> Option<&'static Core> {
    all().first().copied()
}

/// The core that runs worker `index`: the others, or the only one.
pub fn worker(index: usize) -> Option<&'static Core> {
    match all() {
        [only] => Some(*only).filter(|_| index == 0),
        cores => cores.get(index.checked_add(1)?).copied(),
    }
}

/// How many workers there can be.
pub fn workers() -> usize {
    all().len().saturating_sub(1).max(1)
}

/// The running core; `None` before [`init_first`].
pub fn current() -> Option<&'static Core> {
    let core: *const Core = GsBase::read().as_ptr();
    // SAFETY: GS base is zero, which the boot code leaves, or what `enter` made it: a core that stays.
    unsafe { core.as_ref() }
}

/// Leaves the running core no stack for exceptions but double faults. Only a crash on purpose wants that.
pub fn take_exception_stack() {
    if let Some(core) = current() {
        let top = core.segments.stack(traps::stack::EXCEPTION);
        memory::set_access(top - EXCEPTION_STACK_BYTES..top, Access::Absent);
    }
}

/// Takes the interrupts that came while this core was busy. One that never sleeps has to ask for them.
pub fn take_interrupts() {
    // Interrupts are let in after the instruction that follows `sti`. No `nostack`, as in `sleep`.
    // SAFETY: every vector has a handler that preserves all registers.
    unsafe { core::arch::asm!("sti", "nop", "nop", "cli") };
}

/// Sleeps until an interrupt comes or `deadline_ns` is reached. `ready` is asked last, when whatever
/// makes it true from here on also wakes the core; if it says true, the core does not sleep.
pub fn sleep(deadline_ns: Option<u64>, ready: impl FnOnce() -> bool) {
    let Some(core) = current() else { return };
    core.asleep.store(true, Ordering::Relaxed);
    // Pairs with the fence in `wake`.
    core::sync::atomic::fence(Ordering::SeqCst);
    let due = deadline_ns.is_some_and(|deadline| deadline <= time::now_ns());
    if !due && !ready() {
        match deadline_ns {
            Some(deadline) => apic::set_timer(deadline),
            None => apic::stop_timer(),
        }
        // Interrupts are off until the instruction after `sti` has begun: one that came since `ready`
        // was asked ends the `hlt` at once. No `nostack`: the compiler keeps no red zone across this.
        // SAFETY: every vector has a handler that preserves all registers.
        unsafe { core::arch::asm!("sti", "hlt", "cli") };
    }
    core.asleep.store(false, Ordering::Relaxed);
}
