//! The store of the configuration, and behind it that of objects: each two slots on a block device, of which one is always whole.
//!
//! The device is halved; each half is a slot: one header sector (`slot`), then the document. To save:
//!
//! 1. take the slot that does not hold the newest whole document;
//! 2. write the document after its header sector; flush;
//! 3. write the header, with a sequence number one higher; flush.
//!
//! A device that was never a store is claimed first, by the magic number in its first sector, and only if it is blank:
//! a disk that holds something else is refused. Power may fail between any two sectors or tear one. Before step 3 the slot's header does not fit its document, and
//! the other slot holds the newest; a torn header fails its own checksum. Loading takes the whole slot with the newest
//! sequence number: they are compared as serial numbers (RFC 1982), so that any number can be followed. Nothing here knows what the document says.

mod slot;
#[cfg(test)]
mod tests;

use crate::platform::{BlockDevice, BlockError, SECTOR_BYTES, Sector};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use serde::Serialize;
use sha2::{Digest, Sha256};
use slot::Header;
use zeroize::Zeroizing;

/// SHA-256.
pub type Checksum = [u8; 32];

/// Sectors of a slot at most: 2 MiB. A device larger than two of them keeps its layout when it grows.
const MAX_SLOT_SECTORS: u64 = 4096;

/// Sectors of a slot of objects at most: 16 MiB.
const MAX_OBJECT_SECTORS: u64 = 32_768;

/// Sectors of a slot at least: anything smaller is no store.
const MIN_SLOT_SECTORS: u64 = 32;

/// A document as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Saved {
    /// Configuration generation it was saved at.
    pub generation: u64,
    /// Checksum of the boot module the node had then; zero if none.
    pub module: Checksum,
    /// The document, cleared when it goes.
    pub document: Zeroizing<Vec<u8>>,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum SlotState {
    /// Never written.
    Empty,
    /// A whole document.
    Valid {
        /// The later one, as serial numbers go (RFC 1982), is the newest.
        sequence: u64,
        /// Configuration generation of the document.
        generation: u64,
        /// Length of the document.
        length_bytes: u32,
    },
    /// Something else: a write was cut short, or the medium is damaged.
    Damaged,
    /// The device does not give it.
    Unreadable,
}

impl SlotState {
    fn sequence(&self) -> Option<u64> {
        match self {
            SlotState::Valid { sequence, .. } => Some(*sequence),
            SlotState::Empty | SlotState::Damaged | SlotState::Unreadable => None,
        }
    }
}

/// Why a document was not saved or loaded.
#[derive(Debug)]
pub enum StoreError {
    /// The device is smaller than a store.
    TooSmall {
        /// Bytes the device has.
        device_bytes: u64,
    },
    /// The part of the device for a store holds something else.
    Foreign {
        /// Where the part begins, in KiB.
        start_kib: u64,
        /// Its length.
        length_kib: u64,
    },
    /// The document does not fit a slot.
    TooLong {
        /// Bytes of the document.
        document_bytes: usize,
        /// Bytes a slot takes.
        capacity_bytes: usize,
    },
    /// The device failed.
    Device(BlockError),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::TooSmall { device_bytes } => write!(
                f,
                "the disk has {device_bytes} bytes for it, and {} are needed",
                2 * MIN_SLOT_SECTORS * SECTOR_BYTES as u64
            ),
            StoreError::Foreign { start_kib: 0, length_kib } => {
                write!(
                    f,
                    "the disk holds something else: clear its first {length_kib} KiB to give them to the node"
                )
            }
            StoreError::Foreign { start_kib, length_kib } => write!(
                f,
                "the disk holds something else behind its first {start_kib} KiB: clear the {length_kib} KiB after them, and nothing before"
            ),
            StoreError::TooLong { document_bytes, capacity_bytes } => {
                write!(f, "it has {document_bytes} bytes, and the disk has room for {capacity_bytes}")
            }
            StoreError::Device(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StoreError {}

impl From<BlockError> for StoreError {
    fn from(error: BlockError) -> Self {
        StoreError::Device(error)
    }
}

/// Sectors that are looked at together, 64 KiB.
const RUN_SECTORS: usize = 128;

/// Sectors of the largest blocks that disks have, 4 KiB.
const BLOCK_SECTORS: u64 = 8;

/// The store on a device, for one operation.
pub struct Store<'a> {
    device: &'a mut dyn BlockDevice,
    slot_sectors: u64,
    /// Where on the whole device this part begins: for people.
    start_kib: u64,
}

/// What of a device is behind the store of the configuration: the store of objects is there, of the same make.
pub struct Behind<'a>(&'a mut dyn BlockDevice);

impl<'a> Behind<'a> {
    /// The rest of `device`.
    pub fn new(device: &'a mut dyn BlockDevice) -> Self {
        Self(device)
    }

    const FIRST: u64 = 2 * MAX_SLOT_SECTORS;
}

impl BlockDevice for Behind<'_> {
    fn sectors(&self) -> u64 {
        self.0.sectors().saturating_sub(Self::FIRST)
    }

    fn read(&mut self, sector: u64, out: &mut Sector) -> Result<(), BlockError> {
        self.0.read(Self::FIRST.saturating_add(sector), out)
    }

    fn read_run(&mut self, first: u64, out: &mut [Sector]) -> Result<(), BlockError> {
        self.0.read_run(Self::FIRST.saturating_add(first), out)
    }

    fn write(&mut self, sector: u64, data: &Sector) -> Result<(), BlockError> {
        self.0.write(Self::FIRST.saturating_add(sector), data)
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        self.0.flush()
    }
}

impl<'a> Store<'a> {
    /// The store on `device`.
    ///
    /// # Errors
    /// [`StoreError::TooSmall`].
    pub fn open(device: &'a mut dyn BlockDevice) -> Result<Self, StoreError> {
        Self::open_slots(device, MAX_SLOT_SECTORS, 0)
    }

    /// The store of objects on the part of a device for it.
    ///
    /// # Errors
    /// [`StoreError::TooSmall`].
    pub fn open_objects(part: &'a mut Behind<'_>) -> Result<Self, StoreError> {
        Self::open_slots(part, MAX_OBJECT_SECTORS, Behind::FIRST * SECTOR_BYTES as u64 / 1024)
    }

    fn open_slots(
        device: &'a mut dyn BlockDevice,
        max_sectors: u64,
        start_kib: u64,
    ) -> Result<Self, StoreError> {
        // No block of a disk may belong to both slots.
        let slot_sectors = (device.sectors() / 2).min(max_sectors) / BLOCK_SECTORS * BLOCK_SECTORS;
        if slot_sectors < MIN_SLOT_SECTORS {
            let device_bytes = device.sectors().saturating_mul(SECTOR_BYTES as u64);
            return Err(StoreError::TooSmall { device_bytes });
        }
        Ok(Self { device, slot_sectors, start_kib })
    }

    /// What both slots hold.
    ///
    /// # Errors
    /// The device gives neither.
    pub fn slots(&mut self) -> Result<[SlotState; 2], StoreError> {
        Ok(self.read_slots()?.map(|slot| slot.0))
    }

    /// The newest whole document, of those that can be read.
    ///
    /// # Errors
    /// The device gives neither slot, or only one, and that has no document: there may be one in the other.
    pub fn load(&mut self) -> Result<Option<Saved>, StoreError> {
        let slots = self.read_slots()?;
        let states = [&slots[0].0, &slots[1].0];
        let newest = newest(states.map(SlotState::sequence));
        let is_unreadable = states.contains(&&SlotState::Unreadable);
        let [first, second] = slots.map(|slot| slot.1);
        let document = if newest == 1 { second } else { first };
        if document.is_none() && is_unreadable {
            return Err(BlockError("a slot cannot be read, and the other has no document".into()).into());
        }
        Ok(document)
    }

    /// Both slots; one that cannot be read must not hide the other.
    fn read_slots(&mut self) -> Result<[(SlotState, Option<Saved>); 2], StoreError> {
        match [self.read_slot(0), self.read_slot(1)] {
            [Err(error), Err(_)] => Err(error),
            slots => Ok(slots.map(|slot| slot.unwrap_or((SlotState::Unreadable, None)))),
        }
    }

    /// Makes `saved` the newest document. When this fails, what was the newest before still is.
    ///
    /// # Errors
    /// The document is too long, the device holds something else or failed.
    pub fn save(&mut self, saved: &Saved) -> Result<(), StoreError> {
        self.check_length(saved.document.len())?;
        self.claim()?;
        let sequences = self.slots()?.map(|slot| slot.sequence());
        let newest = newest(sequences);
        let sequence = sequences.get(newest).copied().flatten();
        let index = if sequence.is_some() { 1 - newest as u64 } else { 0 };
        let header = Header {
            sequence: sequence.unwrap_or(0).wrapping_add(1),
            generation: saved.generation,
            module: saved.module,
            length: saved.document.len() as u32,
            checksum: Sha256::digest(&saved.document).into(),
        };
        let start = index * self.slot_sectors;
        for (sector, chunk) in (start + 1..).zip(saved.document.chunks(SECTOR_BYTES)) {
            let mut data: Sector = [0; SECTOR_BYTES];
            if let Some(part) = data.get_mut(..chunk.len()) {
                part.copy_from_slice(chunk);
            }
            self.device.write(sector, &data)?;
        }
        self.device.flush()?;
        self.device.write(start, &header.emit())?;
        self.device.flush()?;
        Ok(())
    }

    /// Whether a document of so many bytes fits a slot.
    ///
    /// # Errors
    /// [`StoreError::TooLong`].
    pub fn check_length(&self, document_bytes: usize) -> Result<(), StoreError> {
        let capacity_bytes = self.capacity_bytes();
        let fits = document_bytes <= capacity_bytes;
        if fits { Ok(()) } else { Err(StoreError::TooLong { document_bytes, capacity_bytes }) }
    }

    /// Makes sure that the device is a store: one already, or blank and now claimed.
    fn claim(&mut self) -> Result<(), StoreError> {
        let mut sector: Sector = [0; SECTOR_BYTES];
        let mut failed = None;
        for slot in 0..2 {
            match self.device.read(slot * self.slot_sectors, &mut sector) {
                Ok(()) if slot::is_ours(&sector) => return Ok(()),
                Ok(()) => {}
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        // Everything that documents may be written over: some file systems begin far behind the start of their disk.
        let mut run = vec![sector; RUN_SECTORS];
        let end = 2 * self.slot_sectors;
        for first in (0..end).step_by(RUN_SECTORS) {
            run.truncate((end - first) as usize);
            self.device.read_run(first, &mut run)?;
            let blank = |(number, sector): (u64, &Sector)| {
                sector.iter().all(|&byte| byte == 0) || number == 0 && slot::is_torn_claim(sector)
            };
            if !(first..).zip(&run).all(blank) {
                let length_kib = end * SECTOR_BYTES as u64 / 1024;
                return Err(StoreError::Foreign { start_kib: self.start_kib, length_kib });
            }
        }
        self.device.write(0, &slot::claim())?;
        self.device.flush()?;
        Ok(())
    }

    fn capacity_bytes(&self) -> usize {
        (self.slot_sectors - 1) as usize * SECTOR_BYTES
    }

    fn read_slot(&mut self, index: u64) -> Result<(SlotState, Option<Saved>), StoreError> {
        let start = index * self.slot_sectors;
        let mut sector: Sector = [0; SECTOR_BYTES];
        self.device.read(start, &mut sector)?;
        if sector == [0; SECTOR_BYTES] || sector == slot::claim() {
            return Ok((SlotState::Empty, None));
        }
        let header = Header::parse(&sector).filter(|header| header.length as usize <= self.capacity_bytes());
        let Some(header) = header else { return Ok((SlotState::Damaged, None)) };
        let length = header.length as usize;
        let mut sectors = vec![sector; length.div_ceil(SECTOR_BYTES)];
        self.device.read_run(start + 1, &mut sectors)?;
        let mut document = sectors.into_flattened();
        document.truncate(length);
        if Checksum::from(Sha256::digest(&document)) != header.checksum {
            return Ok((SlotState::Damaged, None));
        }
        let state = SlotState::Valid {
            sequence: header.sequence,
            generation: header.generation,
            length_bytes: header.length,
        };
        Ok((
            state,
            Some(Saved { generation: header.generation, module: header.module, document: document.into() }),
        ))
    }
}

/// Which of two slots has the newest document; the first one if neither has any.
fn newest(sequences: [Option<u64>; 2]) -> usize {
    match sequences {
        [Some(first), Some(second)] => usize::from((second.wrapping_sub(first) as i64) > 0),
        [first, second] => usize::from(first.is_none() && second.is_some()),
    }
}
