//! The image: what runs when the appliance boots.
//!
//! In order: [`start`] takes over from the boot code, sets up what everything else rests on
//! ([`console`], [`time`], [`memory`]) and hands the machine to its owners.

#![no_std]
#![no_main]
#![allow(dead_code)]

extern crate alloc;
#[cfg(clippy)]
extern crate std;

mod apic;
mod console;
mod cores;
mod cpu;
mod image;
mod memory;
mod panic;
mod power;
mod runtime;
mod time;
mod traps;

use alloc::boxed::Box;
use boot::BootInfo;
use kernel::acpi::Acpi;
use kernel::command_line::CommandLine;
use log::{LevelFilter, info, warn};

/// Most cores that are used.
const MAX_CORES: usize = 64;

boot::entry!(start);

/// The first Rust code: one core, interrupts off, the boot stack, everything below 4 GiB mapped.
extern "C" fn start(magic: u32, address: u32, entry_tsc: u64) -> ! {
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
    info!(target: "boot", "Fairlead {} by {}", env!("CARGO_PKG_VERSION"), boot_info.protocol);
    info!(target: "boot", "time: {} MHz by {clock_source}", time::clock().hz() / 1_000_000);
    memory::init(&boot_info);
    let acpi = Acpi::read(&early, boot_info.rsdp).unwrap_or_else(|error| {
        warn!(target: "boot", "{error}: one core, no memory-mapped PCI configuration");
        Acpi::default()
    });
    memory::protect(early, &boot_info);
    cores::init_first();
    power::init(acpi.reset);
    panic::init();
    if let Some(word) = command_line.unknown {
        warn!(target: "boot", "command line: {word:?} means nothing");
    }
    cores::start_others(
        &acpi.cores,
        command_line.cores.map_or(MAX_CORES, |cores| cores.get().min(MAX_CORES)),
    );
    info!(target: "boot", "cores: {}", cores::all().len());
    let (free, total) = memory::usage();
    info!(target: "boot", "memory: {} KiB free of {} KiB", free / 1024, total / 1024);
    for core in cores::all() {
        if let Some(crash) = command_line.crash.filter(|crash| crash.core == core.index) {
            if core.index == 0 {
                panic::crash_on_purpose(crash.kind);
            } else {
                core.run(Box::new(move || panic::crash_on_purpose(crash.kind)));
            }
        }
    }
    loop {
        cores::sleep(None, || false);
    }
}
