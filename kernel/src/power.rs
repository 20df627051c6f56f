//! Restarting the machine.

use crate::{cpu, memory, time};
use boot::RangeSet;
use core::sync::atomic::{AtomicUsize, Ordering};
use kernel::acpi::{Reset, ResetAddress};
use kernel::page_table::Access;
use log::warn;
use x86_64::VirtAddr;
use x86_64::instructions::port::Port;
use x86_64::structures::DescriptorTablePointer;

static RESET: spin::Once<Reset> = spin::Once::new();

/// Which way to restart was taken last; a way that itself crashes is not taken again.
static WAY: AtomicUsize = AtomicUsize::new(0);

/// Remembers what firmware says about resetting, if that can do no harm.
pub fn init<const N: usize>(reset: Option<Reset>, ram: &RangeSet<N>) {
    let Some(reset) = reset else { return };
    if !reset.is_plausible(ram, memory::address_limit()) {
        warn!(target: "power", "the reset register of ACPI is not used: {:x?}", reset.address);
        return;
    }
    if let ResetAddress::Memory(address) = reset.address {
        memory::set_access(address..address + 1, Access::Device);
    }
    let _ = RESET.call_once(|| reset);
}

/// Restarts the machine, memory kept: by ACPI's reset register, the chipset's, the keyboard controller's,
/// and at last by a fault that no handler can take. A crash on the way goes on with the next one.
pub fn restart() -> ! {
    const TIME_TO_RESET_NS: u64 = 10_000_000;
    const WAYS: [fn(); 4] = [reset_by_firmware, reset_by_chipset, reset_by_keyboard_controller, triple_fault];
    x86_64::instructions::interrupts::disable();
    // The record of a crash may be in this core's caches, which a reset drops.
    // SAFETY: the instruction only writes back what memory should hold already.
    unsafe { core::arch::asm!("wbinvd", options(nostack)) };
    while let Some(way) = WAYS.get(WAY.fetch_add(1, Ordering::Relaxed)) {
        way();
        time::spin_ns(TIME_TO_RESET_NS);
    }
    cpu::halt()
}

/// ACPI's reset register.
fn reset_by_firmware() {
    match RESET.get() {
        // SAFETY: firmware says that this resets the machine.
        Some(Reset { address: ResetAddress::Port(port), value }) => unsafe { Port::new(*port).write(*value) },
        // SAFETY: the same; `init` mapped the register.
        Some(Reset { address: ResetAddress::Memory(address), value }) => unsafe {
            (*address as *mut u8).write_volatile(*value);
        },
        None => {}
    }
}

/// The reset control register of Intel's chipsets, which others have too: system reset, then go.
fn reset_by_chipset() {
    const CHIPSET_RESET: u16 = 0xcf9;
    // SAFETY: the port only resets the machine where it exists, and does nothing elsewhere.
    unsafe {
        Port::<u8>::new(CHIPSET_RESET).write(0x02);
        Port::<u8>::new(CHIPSET_RESET).write(0x06);
    }
}

/// The keyboard controller's reset line.
fn reset_by_keyboard_controller() {
    const KEYBOARD_COMMAND: u16 = 0x64;
    const PULSE_RESET: u8 = 0xfe;
    // SAFETY: as for the chipset.
    unsafe { Port::<u8>::new(KEYBOARD_COMMAND).write(PULSE_RESET) };
}

fn triple_fault() {
    let nothing = DescriptorTablePointer { limit: 0, base: VirtAddr::zero() };
    // SAFETY: without handlers the exception becomes a triple fault, which resets the machine.
    unsafe {
        x86_64::instructions::tables::lidt(&nothing);
        core::arch::asm!("ud2");
    }
}
