//! Starts the other cores: INIT, start-up IPI, from real mode to long mode, into Rust.
//!
//! Source: Intel SDM volume 3A, section 9.4 (multiple-processor initialization).

use super::{CORES, Core, STACK_BYTES};
use crate::{apic, cpu, memory, time};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use kernel::page_table::Access;
use log::warn;

const PAGE_BYTES: u64 = 4096;

/// How long a core may take from start-up IPI to Rust.
const PATIENCE_NS: u64 = 100_000_000;

/// What the core that is being started finds, one core at a time.
#[unsafe(no_mangle)]
static AP_PAGE_TABLES: AtomicU32 = AtomicU32::new(0);
#[unsafe(no_mangle)]
static AP_STACK: AtomicU64 = AtomicU64::new(0);
/// No lock: a core that is given up may have been stopped while it held it.
static STARTING: AtomicPtr<Core> = AtomicPtr::new(core::ptr::null_mut());

/// Who decides whether the core that is being started runs: the first to change this from [`state::WAITING`].
static STATE: AtomicU8 = AtomicU8::new(state::WAITING);

mod state {
    pub const WAITING: u8 = 0;
    /// The core came up.
    pub const STARTED: u8 = 1;
    /// It took too long, and must not run any more.
    pub const GIVEN_UP: u8 = 2;
}

core::arch::global_asm!(
    ".pushsection .rodata.ap_trampoline, \"a\"",
    ".code16",
    "ap_trampoline:",
    "cli",
    "cld",
    // The code lies at the beginning of its segment.
    "mov ax, cs",
    "mov ds, ax",
    // lgdt with a 32-bit base: 66 0f 01 /2, 16-bit address.
    ".byte 0x66, 0x0f, 0x01, 0x16",
    ".word ap_gdt_pointer - ap_trampoline",
    "mov eax, cr0",
    "or eax, 1",
    "mov cr0, eax",
    // Far jump to 32-bit code; where the code is, is added when it is put there.
    ".byte 0x66, 0xea",
    "ap_jump_target:",
    ".long ap_protected_mode - ap_trampoline",
    ".word 8",
    ".code32",
    "ap_protected_mode:",
    "mov ax, 16",
    "mov ds, ax",
    // CR4: PAE, OSFXSR, OSXMMEXCPT.
    "mov eax, cr4",
    "or eax, 0x620",
    "mov cr4, eax",
    "mov eax, [AP_PAGE_TABLES]",
    "mov cr3, eax",
    // EFER: LME, NXE.
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x900",
    "wrmsr",
    // CR0: PG, WP, NE, MP, PE on; EM, TS, CD, NW off.
    "mov eax, cr0",
    "and eax, 0x9ffffff3",
    "or eax, 0x80010023",
    "mov cr0, eax",
    // Far jump to 64-bit code, in the image.
    ".byte 0xea",
    ".long ap_long_mode",
    ".word 24",
    ".balign 8",
    "ap_gdt:",
    // Null, 32-bit code, data, 64-bit code.
    ".quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff",
    "ap_gdt_pointer:",
    ".word 31",
    "ap_gdt_base:",
    ".long ap_gdt - ap_trampoline",
    "ap_trampoline_end:",
    ".popsection",
    ".pushsection .text.ap_long_mode, \"ax\"",
    ".code64",
    ".type ap_long_mode, @function",
    "ap_long_mode:",
    "xor eax, eax",
    "mov ss, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov rsp, [AP_STACK]",
    "xor ebp, ebp",
    "call {main}",
    "ud2",
    ".popsection",
    main = sym started,
);

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    static ap_jump_target: u8;
    static ap_gdt_base: u8;
}

/// Starts the cores with these identifiers, but the one that runs, and waits until each does or has
/// taken too long. At most `limit` cores run in the end. `page` is free, below 1 MiB: real mode begins there.
pub fn start_others(apic_ids: &[u32], limit: usize, page: Option<u64>) {
    let Some(first) = super::current() else { return };
    let mut cores = Vec::from([first]);
    let others = apic_ids.iter().copied().filter(|&id| id != first.apic_id);
    match page {
        Some(page) => {
            install_trampoline(page);
            start_all(&mut cores, others, limit, page);
            memory::set_access(page..page + PAGE_BYTES, Access::ReadWrite);
        }
        None if others.count() > 0 => {
            warn!(target: "cores", "no page below 1 MiB is free: the other cores are not started");
        }
        None => {}
    }
    let _ = CORES.call_once(|| cores);
}

fn start_all(cores: &mut Vec<&'static Core>, apic_ids: impl Iterator<Item = u32>, limit: usize, page: u64) {
    let mut unreachable = 0;
    for apic_id in apic_ids {
        if cores.len() >= limit {
            break;
        }
        // A worker that no device can wake would have to poll for ever.
        if !apic::reaches(apic_id) || apic::message_address(apic_id).is_none() {
            unreachable += 1;
            continue;
        }
        let core = Core::new(cores.len(), apic_id);
        if start(core, page) {
            cores.push(core);
        } else {
            warn!(target: "cores", "core with APIC id {apic_id} does not start");
            // It might still come up, and then on a stack and with an index that are another's by then.
            apic::reset(apic_id);
        }
    }
    if unreachable > 0 {
        warn!(target: "cores", "{unreachable} cores stay unused: devices cannot interrupt APIC identifiers above 254");
    }
}

fn install_trampoline(page: u64) {
    let code = &raw const ap_trampoline;
    let len = &raw const ap_trampoline_end as usize - code as usize;
    // SAFETY: the page is RAM below 1 MiB that nothing else uses, mapped writable until it becomes code; both words
    // lie within the copy.
    unsafe {
        let copy = page as *mut u8;
        copy.copy_from_nonoverlapping(code, len);
        for word in [&raw const ap_jump_target, &raw const ap_gdt_base] {
            let word = copy.add(word as usize - code as usize).cast::<u32>();
            word.write_unaligned(word.read_unaligned() + page as u32);
        }
    }
    memory::set_access(page..page + PAGE_BYTES, Access::Execute);
    AP_PAGE_TABLES.store(memory::page_tables(), Ordering::Relaxed);
}

/// Starts one core; whether it came up.
fn start(core: &'static Core, page: u64) -> bool {
    const AFTER_INIT_NS: u64 = 200_000;
    const BEFORE_RETRY_NS: u64 = 1_000_000;
    STARTING.store(core::ptr::from_ref(core).cast_mut(), Ordering::Relaxed);
    STATE.store(state::WAITING, Ordering::Relaxed);
    AP_STACK.store(memory::stack(STACK_BYTES), Ordering::Release);
    apic::reset(core.apic_id);
    time::spin_ns(AFTER_INIT_NS);
    apic::start(core.apic_id, page as u32);
    // Old CPUs may miss the first one.
    if wait_until_started(BEFORE_RETRY_NS) {
        return true;
    }
    apic::start(core.apic_id, page as u32);
    wait_until_started(PATIENCE_NS) || !decide(state::GIVEN_UP)
}

/// Whether `state` is what is decided about the core that is being started.
fn decide(state: u8) -> bool {
    STATE.compare_exchange(state::WAITING, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

fn wait_until_started(patience_ns: u64) -> bool {
    let deadline = time::now_ns() + patience_ns;
    while STATE.load(Ordering::Acquire) != state::STARTED {
        if time::now_ns() > deadline {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// First Rust code of another core: waits for jobs and does them. It takes no lock before it is sure to run.
extern "C" fn started() -> ! {
    cpu::enable_features();
    // SAFETY: `start` put a core there, which stays, before it started this one.
    let core = unsafe { STARTING.load(Ordering::Acquire).as_ref() };
    let Some(core) = core else { cpu::halt() };
    core.enter();
    if !decide(state::STARTED) {
        cpu::halt();
    }
    loop {
        let job = core.jobs.lock().pop_front();
        match job {
            Some(job) => {
                // The page tables have changed since this core was started: the trampoline is no longer code, and
                // the stacks of later cores have their guard pages.
                x86_64::instructions::tlb::flush_all();
                job();
            }
            None => super::sleep(None, || !core.jobs.lock().is_empty()),
        }
    }
}
