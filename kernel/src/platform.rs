//! The machine as control sees it.

use crate::{boot_stages, console, cores, memory, panic, power, random, time, workers};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use config::LogLevel;
use control::{BlockDevice, BlockError, BootStage, Core, CoreRole, Memory, Platform, SECTOR_BYTES, Sector};
use drivers::virtio::{self, blk};
use log::{LevelFilter, info};

/// The appliance itself.
pub struct Machine {
    disk: Option<Disk>,
    /// The command line's level of the log, which goes before every other until the next start.
    log: Option<LevelFilter>,
    workers: usize,
}

impl Machine {
    /// The machine with this number of workers, with the disk that keeps the configuration, and the level of the log
    /// that the command line wants.
    pub fn new(disk: Option<blk::BlockDevice>, log: Option<LevelFilter>, workers: usize) -> Self {
        Self { disk: disk.map(Disk), log, workers }
    }
}

impl Platform for Machine {
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn random(&mut self, out: &mut [u8]) {
        random::fill(out);
    }

    fn reboot(&mut self) {
        info!(target: "power", "restart");
        power::restart()
    }

    fn unix_ns(&mut self) -> Option<u64> {
        time::calendar::unix_ns()
    }

    fn last_crash(&self) -> Option<String> {
        panic::previous().map(ToString::to_string)
    }

    fn log_since(&self, from: u64, each: &mut dyn FnMut(u64, &str) -> bool) {
        console::lines_since(from, each);
    }

    fn log_next(&self) -> u64 {
        console::next_line()
    }

    fn set_log_level(&mut self, level: LogLevel) {
        let configured = match level {
            LogLevel::Error => LevelFilter::Error,
            LogLevel::Warn => LevelFilter::Warn,
            LogLevel::Info => LevelFilter::Info,
            LogLevel::Debug => LevelFilter::Debug,
            LogLevel::Trace => LevelFilter::Trace,
        };
        console::set_level(self.log.unwrap_or(configured));
    }

    fn boot_stages(&self) -> Vec<BootStage> {
        boot_stages::all()
            .into_iter()
            .map(|(stage, at_ns)| BootStage { stage: stage.to_string(), at_microseconds: at_ns / 1000 })
            .collect()
    }

    fn memory(&self) -> Memory {
        let (free_bytes, total_bytes) = memory::usage();
        Memory { total_bytes, free_bytes, heap_used_bytes: memory::heap_used() }
    }

    fn cores(&self) -> Vec<Core> {
        let role = |index| match index {
            0 if cores::all().len() == 1 => CoreRole::Both,
            0 => CoreRole::Control,
            _ => CoreRole::Worker,
        };
        // The first core is control's; what comes after the workers has nothing to do.
        (0..)
            .zip(cores::all())
            .take(1 + self.workers)
            .map(|(id, core)| Core { id, role: role(core.index) })
            .collect()
    }

    fn store(&mut self) -> Option<&mut dyn BlockDevice> {
        self.disk.as_mut().map(|disk| disk as &mut dyn BlockDevice)
    }
}

/// The disk that keeps the configuration.
struct Disk(blk::BlockDevice);

const _: () = assert!(SECTOR_BYTES == 512);

impl BlockDevice for Disk {
    fn sectors(&self) -> u64 {
        self.0.sectors()
    }

    fn read(&mut self, sector: u64, out: &mut Sector) -> Result<(), BlockError> {
        self.0.read(sector, out, &workers::waiting).map_err(failed)
    }

    fn read_run(&mut self, first: u64, out: &mut [Sector]) -> Result<(), BlockError> {
        self.0.read(first, out.as_flattened_mut(), &workers::waiting).map_err(failed)
    }

    fn write(&mut self, sector: u64, data: &Sector) -> Result<(), BlockError> {
        self.0.write(sector, data, &workers::waiting).map_err(failed)
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        self.0.flush(&workers::waiting).map_err(failed)
    }
}

fn failed(error: virtio::Error) -> BlockError {
    BlockError(format!("{error}"))
}
