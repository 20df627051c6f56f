//! The image: what runs when the appliance boots.
//!
//! In order:
//!
//! 1. [`start`] takes over from the boot code: console, time, memory, cores.
//! 2. [`bus`] finds the devices, [`devices`] opens them.
//! 3. [`node`] puts buffers, workers and control together, on the cores by [`workers`].
//! 4. [`platform`] is what control asks of the machine; [`panic`] is how a run ends that should not.

#![no_std]
#![no_main]

extern crate alloc;
#[cfg(clippy)]
extern crate std;

mod apic;
mod boot_stages;
mod bus;
mod console;
mod cores;
mod cpu;
mod devices;
mod image;
mod memory;
mod node;
mod panic;
mod platform;
mod power;
mod random;
mod runtime;
mod time;
mod traps;
mod workers;

use alloc::boxed::Box;
use alloc::string::String;
use boot::BootInfo;
use control::Boot;
use kernel::acpi::{self, Acpi};
use kernel::command_line::{CommandLine, Crash};
use log::{LevelFilter, info, warn};

/// Most cores that are used.
const MAX_CORES: usize = 64;

boot::entry!(start);

/// The first Rust code: one core, interrupts off, the boot stack, everything below 4 GiB mapped.
extern "C" fn start(magic: u32, address: u32, entry_tsc: u64) -> ! {
    cpu::enable_features();
    console::init();
    let clock_source = time::init(entry_tsc);
    // SAFETY: the boot code has just switched its page tables on.
    let early = unsafe { memory::EarlyMemory::new() };
    let boot_info = match BootInfo::read(&early, magic, address) {
        Ok(boot_info) => boot_info,
        Err(error) => panic!("{error}"),
    };
    let command_line = CommandLine::parse(&boot_info.command_line);
    console::set_level(command_line.log.unwrap_or(LevelFilter::Info));
    if command_line.log.is_none_or(|level| level < LevelFilter::Debug) {
        console::hold();
    }
    info!(target: "boot", "Fairlead {} by {}", env!("CARGO_PKG_VERSION"), boot_info.protocol);
    memory::init(&boot_info);
    let acpi_pointer = acpi::root_pointer(&early, boot_info.rsdp);
    memory::protect(early, &boot_info);
    let acpi = Acpi::read(&memory::FirmwareMemory, acpi_pointer).unwrap_or_else(|error| {
        warn!(target: "boot", "{error}: one core, no memory-mapped PCI configuration");
        Acpi::default()
    });
    let clock_source = time::settle(clock_source, acpi.timer);
    cores::init_first();
    time::calendar::describe(acpi.real_time_clock);
    power::init(acpi.reset, &boot_info.ram);
    panic::init();
    if let Some(word) = command_line.unknown {
        warn!(target: "boot", "command line: {word:?} means nothing");
    }
    boot_stages::reached("memory");
    let limit = command_line.cores.map_or(MAX_CORES, |cores| cores.get().min(MAX_CORES));
    cores::start_others(&acpi.cores, limit, boot_info.low_page(&[]));
    boot_stages::reached("cores");
    // Once: the run after it shows that the node recovers.
    if let Some(crash) = command_line.crash.filter(|_| panic::previous().is_none()) {
        crash_on_purpose(crash);
    }
    let module = memory::module(&boot_info);
    let boot = Boot {
        module: command_line.config.map(str::as_bytes).or(module).map(Box::from),
        token: command_line.token.map(String::from),
        prefer_module: command_line.prefer_module,
        crypto: command_line.crypto,
        ..Boot::default()
    };
    let reading = node::read_ahead(boot);
    let devices = bus::init(&acpi, &boot_info);
    let _ = time::finish();
    apic::finish();
    info!(target: "boot", "time: {} MHz by {clock_source}", time::clock().hz() / 1_000_000);
    boot_stages::reached("bus");
    node::run(&devices, reading, command_line.log, command_line.packed_rings)
}

/// Has a core crash, as the command line wants it.
fn crash_on_purpose(crash: Crash) {
    match cores::all().get(crash.core) {
        Some(core) if core.index != 0 => core.run(Box::new(move || panic::crash_on_purpose(crash.kind))),
        _ => panic::crash_on_purpose(crash.kind),
    }
}
