//! Restarting the machine.

use crate::{cpu, memory, time};
use kernel::acpi::{Reset, ResetAddress};
use kernel::page_table::Access;
use x86_64::VirtAddr;
use x86_64::instructions::port::Port;
use x86_64::structures::DescriptorTablePointer;

static RESET: spin::Once<Reset> = spin::Once::new();

/// Remembers what firmware says about resetting.
pub fn init(reset: Option<Reset>) {
    let Some(reset) = reset else { return };
    if let ResetAddress::Memory(address) = reset.address {
        memory::set_access(address..address + 1, Access::Device);
    }
    let _ = RESET.call_once(|| reset);
}

/// Restarts the machine, memory kept: by ACPI's reset register, the chipset's, the keyboard controller's,
/// and at last by a fault that no handler can take.
pub fn restart() -> ! {
    const CHIPSET_RESET: u16 = 0xcf9;
    const KEYBOARD_COMMAND: u16 = 0x64;
    const PULSE_RESET: u8 = 0xfe;
    const TIME_TO_RESET_NS: u64 = 10_000_000;
    x86_64::instructions::interrupts::disable();
    match RESET.get() {
        // SAFETY: firmware says that this resets the machine.
        Some(Reset { address: ResetAddress::Port(port), value }) => unsafe { Port::new(*port).write(*value) },
        // SAFETY: the same; `init` mapped the register.
        Some(Reset { address: ResetAddress::Memory(address), value }) => unsafe {
            (*address as *mut u8).write_volatile(*value);
        },
        None => {}
    }
    time::spin_ns(TIME_TO_RESET_NS);
    // SAFETY: both ports only reset the machine on those that have them, and do nothing on others.
    unsafe {
        Port::<u8>::new(CHIPSET_RESET).write(0x02);
        Port::<u8>::new(CHIPSET_RESET).write(0x06);
        time::spin_ns(TIME_TO_RESET_NS);
        Port::<u8>::new(KEYBOARD_COMMAND).write(PULSE_RESET);
    }
    time::spin_ns(TIME_TO_RESET_NS);
    let nothing = DescriptorTablePointer { limit: 0, base: VirtAddr::zero() };
    // SAFETY: without handlers the exception becomes a triple fault, which resets the machine.
    unsafe {
        x86_64::instructions::tables::lidt(&nothing);
        core::arch::asm!("ud2");
    }
    cpu::halt()
}
