//! What control needs of the machine it runs on. The image and `fairlead run` each have one.

use crate::boot::ModuleRead;
use alloc::{boxed::Box, string::String, vec::Vec};
use core::fmt;
use serde::Serialize;

/// The machine, as control sees it. Every call returns soon: none waits for anything but a block device. What not every machine has is
/// absent unless it says otherwise.
pub trait Platform {
    /// Version of the software, such as `0.1.0`.
    fn version(&self) -> &str;

    /// Fills `out` with bytes fit for keys.
    fn random(&mut self, out: &mut [u8]);

    /// Restarts the node. May return: the restart then happens soon.
    fn reboot(&mut self);

    /// What was recorded of the last crash, as text for people; None if there is no record.
    fn last_crash(&self) -> Option<String> {
        None
    }

    /// Calls `each` with sequence number and text of the kept log lines from number `from` on, oldest first, until it
    /// returns false.
    fn log_since(&self, _from: u64, _each: &mut dyn FnMut(u64, &str) -> bool) {}

    /// The sequence number that the next log line will get.
    fn log_next(&self) -> u64 {
        0
    }

    /// Lines below `level` are not kept from now on.
    fn set_log_level(&mut self, level: config::LogLevel);

    /// The stages of boot, in order.
    fn boot_stages(&self) -> Vec<BootStage> {
        Vec::new()
    }

    /// Memory, now. Requests that want more than is free are refused.
    fn memory(&self) -> Memory;

    /// The cores and what each does.
    fn cores(&self) -> Vec<Core> {
        Vec::new()
    }

    /// Time of the calendar, in nanoseconds since 1970 (UTC), if the machine knows it.
    fn unix_ns(&mut self) -> Option<u64> {
        None
    }

    /// Where the configuration is kept over restarts; None if the machine has no such place.
    fn store(&mut self) -> Option<&mut dyn BlockDevice> {
        None
    }
}

/// A moment of boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BootStage {
    /// What was reached.
    pub stage: String,
    /// When, from the entry of the kernel or the start of the process.
    pub at_microseconds: u64,
}

/// Memory of the node, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All there is.
    pub total_bytes: u64,
    /// Not handed out to anything.
    pub free_bytes: u64,
    /// Of the heap, in use.
    pub heap_used_bytes: u64,
}

/// One core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Core {
    /// Its number, from 0.
    pub id: u32,
    /// What it does.
    pub role: CoreRole,
}

/// What a core does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CoreRole {
    /// It moves packets.
    Worker,
    /// It runs control.
    Control,
    /// It does both in turn.
    Both,
}

/// Bytes in a sector of a [`BlockDevice`].
pub const SECTOR_BYTES: usize = 512;

/// One sector.
pub type Sector = [u8; SECTOR_BYTES];

/// A device of 512-byte sectors. A sector that is being written when power fails may hold anything afterwards.
pub trait BlockDevice {
    /// How many sectors there are.
    fn sectors(&self) -> u64;

    /// Reads one sector.
    ///
    /// # Errors
    /// The device failed, or there is no such sector.
    fn read(&mut self, sector: u64, out: &mut Sector) -> Result<(), BlockError>;

    /// Reads sectors in a row, with fewer requests where the device can.
    ///
    /// # Errors
    /// As [`BlockDevice::read`].
    fn read_run(&mut self, first: u64, out: &mut [Sector]) -> Result<(), BlockError> {
        (first..).zip(out).try_for_each(|(sector, out)| self.read(sector, out))
    }

    /// Writes one sector. Before [`BlockDevice::flush`] returns, writes may reach the medium in any order or not at all.
    ///
    /// # Errors
    /// The device failed, or there is no such sector.
    fn write(&mut self, sector: u64, data: &Sector) -> Result<(), BlockError>;

    /// Returns when everything written so far survives a loss of power.
    ///
    /// # Errors
    /// The device failed.
    fn flush(&mut self) -> Result<(), BlockError>;
}

/// A block device did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockError(pub String);

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block device: {}", self.0)
    }
}

impl core::error::Error for BlockError {}

/// What the node was started with, besides its devices.
#[derive(Default)]
pub struct Boot {
    /// The configuration that came with the image: a boot module, or a file.
    pub module: Option<Box<[u8]>>,
    /// Token of the command line; goes before every configured one until the next start.
    pub token: Option<String>,
    /// The implementation of AES-GCM to use in place of the best one.
    pub crypto: Option<crypto::gcm::Kernel>,
    /// `config=module` on the command line: the module goes before whatever the store holds.
    pub prefer_module: bool,
    /// The module as it was read before the ports were known.
    pub module_read: Option<ModuleRead>,
}
