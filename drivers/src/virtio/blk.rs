//! The virtio disk (VIRTIO 1.3 §5.2), for a store of configuration: one request at a time, copied through a
//! bounce buffer, waited for with a deadline.

use alloc::sync::Arc;

use super::memory::RequestMemory;
use super::pci::{NO_VECTOR, PATIENT, Transport};
use super::queue::Queue;
use super::split::Split;
use super::{Error, feature};
use crate::bus::Device;

/// The unit of addresses (§5.2.4), whatever the disk's own block size. A disk of larger blocks takes whole ones only:
/// what is around the sectors that are written is read before.
pub const SECTOR_BYTES: usize = 512;

/// When a request that is not answered makes the device count as broken.
const TIMEOUT_NS: u64 = 10_000_000_000;

/// Feature bits (§5.2.3).
mod blk_feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
}

/// Device configuration (§5.2.4).
mod config {
    pub const CAPACITY: usize = 0;
    pub const SIZE_MAX: usize = 8;
    pub const BLK_SIZE: usize = 20;
}

/// A request (§5.2.6) in its memory: header, answer, data.
const STATUS: usize = HEADER_BYTES;
const HEADER_BYTES: usize = 16;
const DATA: usize = SECTOR_BYTES;
const MAX_DATA_BYTES: usize = 64 * 1024;

const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;
/// What no device answers.
const STATUS_NONE: u8 = 0xff;

/// The type of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Read = 0,
    Write = 1,
    Flush = 4,
}

/// A disk.
pub struct BlockDevice {
    queue: Queue<(), Split<()>>,
    memory: RequestMemory,
    sectors: u64,
    /// What the disk reads and writes at least, in sectors: a power of two.
    block_sectors: u64,
    /// Data of one request at most, whole blocks.
    max_data_bytes: usize,
    read_only: bool,
    /// Writes are safe only after a flush.
    has_cache: bool,
}

impl BlockDevice {
    /// Opens a disk. It does not interrupt.
    ///
    /// # Errors
    /// The device is not a disk that follows the specification; it is left reset.
    pub fn open(device: Arc<dyn Device>) -> Result<Self, Error> {
        const QUEUE_SIZE: u16 = 4;
        let own = blk_feature::SIZE_MAX | blk_feature::RO | blk_feature::BLK_SIZE | blk_feature::FLUSH;
        let transport = Arc::new(Transport::start(device, PATIENT, |_| own | feature::COMMON)?);
        let queue = transport.queue::<(), Split<()>>(0, QUEUE_SIZE, NO_VECTOR)?;
        let memory = RequestMemory::new(transport.clone(), DATA + MAX_DATA_BYTES)?;
        let sectors = transport.config(|config| {
            let [low, high] = [config.read32(config::CAPACITY), config.read32(config::CAPACITY + 4)];
            u64::from(low) | u64::from(high) << 32
        });
        if sectors > u64::MAX / SECTOR_BYTES as u64 {
            return Err(Error::Config("impossible capacity"));
        }
        let block_bytes = block_bytes(&transport)?;
        let block_sectors = (block_bytes / SECTOR_BYTES) as u64;
        let device = Self {
            queue,
            memory,
            sectors: sectors / block_sectors * block_sectors,
            block_sectors,
            max_data_bytes: max_data_bytes(&transport, block_bytes)?,
            read_only: transport.has(blk_feature::RO),
            has_cache: transport.has(blk_feature::FLUSH),
        };
        transport.driver_ok();
        Ok(device)
    }

    /// Size of the disk.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether every write fails.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Reads whole sectors from `sector` on. `clock` tells monotonic nanoseconds.
    ///
    /// # Errors
    /// Out of range, failed by the device, or not answered in time: then the device is out of use.
    pub fn read(&mut self, sector: u64, out: &mut [u8], clock: &dyn Fn() -> u64) -> Result<(), Error> {
        self.check_range(sector, out.len())?;
        let (mut at, mut rest) = (sector, out);
        while !rest.is_empty() {
            let Blocks { first, skip, len } = self.blocks(at, rest.len());
            self.request(Kind::Read, first, len, clock)?;
            let (part, after) = rest.split_at_mut((len - skip).min(rest.len()));
            self.memory.read(DATA + skip, part);
            at += (part.len() / SECTOR_BYTES) as u64;
            rest = after;
        }
        Ok(())
    }

    /// Writes whole sectors from `sector` on. They are safe after [`BlockDevice::flush`].
    ///
    /// # Errors
    /// As [`BlockDevice::read`], or the disk is read-only.
    pub fn write(&mut self, sector: u64, data: &[u8], clock: &dyn Fn() -> u64) -> Result<(), Error> {
        self.check_range(sector, data.len())?;
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let (mut at, mut rest) = (sector, data);
        while !rest.is_empty() {
            let Blocks { first, skip, len } = self.blocks(at, rest.len());
            let (part, after) = rest.split_at((len - skip).min(rest.len()));
            if part.len() < len {
                self.request(Kind::Read, first, len, clock)?;
            }
            self.memory.write(DATA + skip, part);
            self.request(Kind::Write, first, len, clock)?;
            at += (part.len() / SECTOR_BYTES) as u64;
            rest = after;
        }
        Ok(())
    }

    /// The blocks of the first request of a transfer of `len_bytes` from `sector` on.
    fn blocks(&self, sector: u64, len_bytes: usize) -> Blocks {
        let first = sector / self.block_sectors * self.block_sectors;
        let skip = (sector - first) as usize * SECTOR_BYTES;
        let whole = (skip + len_bytes).next_multiple_of(self.block_sectors as usize * SECTOR_BYTES);
        Blocks { first, skip, len: whole.min(self.max_data_bytes) }
    }

    /// Makes what was written survive a loss of power. A device without `VIRTIO_BLK_F_FLUSH` has no cache that
    /// could lose it (§5.2.5.1).
    ///
    /// # Errors
    /// As [`BlockDevice::read`].
    pub fn flush(&mut self, clock: &dyn Fn() -> u64) -> Result<(), Error> {
        if self.has_cache { self.request(Kind::Flush, 0, 0, clock) } else { Ok(()) }
    }

    fn check_range(&self, sector: u64, len_bytes: usize) -> Result<(), Error> {
        let end = sector.checked_add((len_bytes / SECTOR_BYTES) as u64);
        let inside = end.is_some_and(|end| end <= self.sectors);
        if inside && len_bytes.is_multiple_of(SECTOR_BYTES) { Ok(()) } else { Err(Error::OutOfRange) }
    }

    /// One request, from header to answer.
    fn request(&mut self, kind: Kind, sector: u64, len: usize, clock: &dyn Fn() -> u64) -> Result<(), Error> {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&(kind as u32).to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory.write(0, &header);
        self.memory.write(STATUS, &[STATUS_NONE]);

        let header = self.memory.segment(0, HEADER_BYTES, false);
        let status = self.memory.segment(STATUS, 1, true);
        let data = self.memory.segment(DATA, len, kind == Kind::Read);
        let written = match kind {
            Kind::Flush => self.queue.execute(&[header, status], clock, TIMEOUT_NS)?,
            _ => self.queue.execute(&[header, data, status], clock, TIMEOUT_NS)?,
        };

        let mut status = [STATUS_NONE];
        self.memory.read(STATUS, &mut status);
        match status {
            // A device that wrote less than was asked for has not read it.
            [STATUS_OK] if kind != Kind::Read || written as usize > len => Ok(()),
            [STATUS_UNSUPPORTED] => Err(Error::Unsupported),
            _ => Err(Error::Io),
        }
    }
}

/// Whole blocks on the disk.
struct Blocks {
    /// Their first sector.
    first: u64,
    /// Bytes in them before what is wanted.
    skip: usize,
    /// Their bytes.
    len: usize,
}

/// The unit of requests.
fn block_bytes(transport: &Transport) -> Result<usize, Error> {
    if !transport.has(blk_feature::BLK_SIZE) {
        return Ok(SECTOR_BYTES);
    }
    let bytes = transport.config(|config| config.read32(config::BLK_SIZE)) as usize;
    let possible = bytes.is_power_of_two() && (SECTOR_BYTES..=MAX_DATA_BYTES).contains(&bytes);
    if possible { Ok(bytes) } else { Err(Error::Config("impossible block size")) }
}

/// Data that fits into one segment, whole blocks.
fn max_data_bytes(transport: &Transport, block_bytes: usize) -> Result<usize, Error> {
    if !transport.has(blk_feature::SIZE_MAX) {
        return Ok(MAX_DATA_BYTES);
    }
    let size_max = transport.config(|config| config.read32(config::SIZE_MAX)) as usize;
    match size_max.min(MAX_DATA_BYTES) / block_bytes {
        0 => Err(Error::Config("segments smaller than a block")),
        blocks => Ok(blocks * block_bytes),
    }
}
