//! Starts the other cores: INIT, start-up IPI, from real mode to long mode, into Rust.
//!
//! Source: Intel SDM volume 3A, section 9.4 (multiple-processor initialization).

use super::{CORES, Core, STACK_BYTES};
use crate::{apic, cpu, memory, time};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use kernel::page_table::Access;
use log::warn;

/// Where the real-mode code is copied to: a page below 1 MiB that nothing else uses.
const TRAMPOLINE: u64 = 0x8000;

/// How long a core may take from start-up IPI to Rust.
const PATIENCE_NS: u64 = 100_000_000;

/// What the core that is being started finds, one core at a time.
#[unsafe(no_mangle)]
static AP_PAGE_TABLES: AtomicU32 = AtomicU32::new(0);
#[unsafe(no_mangle)]
static AP_STACK: AtomicU64 = AtomicU64::new(0);
static STARTING: spin::Mutex<Option<&'static Core>> = spin::Mutex::new(None);
static STARTED: AtomicBool = AtomicBool::new(false);

core::arch::global_asm!(
    ".pushsection .rodata.ap_trampoline, \"a\"",
    ".code16",
    "ap_trampoline:",
    "cli",
    "cld",
    "xor ax, ax",
    "mov ds, ax",
    // lgdt with a 32-bit base: 66 0f 01 /2, absolute 16-bit address.
    ".byte 0x66, 0x0f, 0x01, 0x16",
    ".word {base} + ap_gdt_pointer - ap_trampoline",
    "mov eax, cr0",
    "or eax, 1",
    "mov cr0, eax",
    // Far jump to 32-bit code.
    ".byte 0x66, 0xea",
    ".long {base} + ap_protected_mode - ap_trampoline",
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
    ".long {base} + ap_gdt - ap_trampoline",
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
    base = const TRAMPOLINE,
    main = sym started,
);

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
}

/// Starts the cores with these identifiers, but the one that runs, and waits until each does or has
/// taken too long. At most `limit` cores run in the end.
pub fn start_others(apic_ids: &[u32], limit: usize) {
    let Some(first) = super::current() else { return };
    let mut cores = Vec::from([first]);
    install_trampoline();
    for &apic_id in apic_ids.iter().filter(|&&id| id != first.apic_id && apic::reaches(id)) {
        if cores.len() >= limit {
            break;
        }
        let core = Core::new(cores.len(), apic_id);
        if start(core) {
            cores.push(core);
        } else {
            warn!(target: "cores", "core with APIC id {apic_id} does not start");
            // It might still come up, and then on a stack and with an index that are another's by then.
            apic::reset(apic_id);
        }
    }
    memory::set_access(TRAMPOLINE..TRAMPOLINE + 4096, Access::ReadWrite);
    let _ = CORES.call_once(|| cores);
}

fn install_trampoline() {
    let code = &raw const ap_trampoline;
    let len = &raw const ap_trampoline_end as usize - code as usize;
    // SAFETY: the page is RAM below 1 MiB, which is left to this use, mapped writable until the next line.
    unsafe { (TRAMPOLINE as *mut u8).copy_from_nonoverlapping(code, len) };
    memory::set_access(TRAMPOLINE..TRAMPOLINE + 4096, Access::Execute);
    AP_PAGE_TABLES.store(memory::page_tables(), Ordering::Relaxed);
}

/// Starts one core; whether it came up.
fn start(core: &'static Core) -> bool {
    const AFTER_INIT_NS: u64 = 200_000;
    const BEFORE_RETRY_NS: u64 = 1_000_000;
    *STARTING.lock() = Some(core);
    STARTED.store(false, Ordering::Relaxed);
    AP_STACK.store(memory::stack(STACK_BYTES), Ordering::Release);
    apic::reset(core.apic_id);
    time::spin_ns(AFTER_INIT_NS);
    apic::start(core.apic_id, TRAMPOLINE as u32);
    // Old CPUs may miss the first one.
    if wait_until_started(BEFORE_RETRY_NS) {
        return true;
    }
    apic::start(core.apic_id, TRAMPOLINE as u32);
    wait_until_started(PATIENCE_NS)
}

fn wait_until_started(patience_ns: u64) -> bool {
    let deadline = time::now_ns() + patience_ns;
    while !STARTED.load(Ordering::Acquire) {
        if time::now_ns() > deadline {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// First Rust code of another core: waits for its job and does it.
extern "C" fn started() -> ! {
    let core = *STARTING.lock();
    let Some(core) = core else { cpu::halt() };
    core.enter();
    STARTED.store(true, Ordering::Release);
    loop {
        let job = core.job.lock().take();
        match job {
            Some(job) => {
                // The page tables have changed since this core was started: the trampoline is no longer code, and
                // the stacks of later cores have their guard pages.
                x86_64::instructions::tlb::flush_all();
                job();
            }
            None => super::sleep(None, || core.job.lock().is_some()),
        }
    }
}
