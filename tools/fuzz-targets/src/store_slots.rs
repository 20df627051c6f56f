//! The configuration store on a medium that holds anything, and power that fails at any moment.
//!
//! Byte 0 says which checksums of the two slots are made right, byte 1 after how many sectors power fails; the rest is
//! the beginnings of both slots.

use control::store::{Saved, Store};
use control::{BlockDevice, BlockError, SECTOR_BYTES, Sector};
use sha2::{Digest, Sha256};

use crate::input::Input;

/// The smallest store: two slots of 32 sectors.
const SLOT_BYTES: usize = 32 * SECTOR_BYTES;

struct Medium {
    bytes: Vec<u8>,
    /// Sectors that can be written before power fails; the one that is written then is torn.
    power: usize,
}

impl BlockDevice for Medium {
    fn sectors(&self) -> u64 {
        (self.bytes.len() / SECTOR_BYTES) as u64
    }

    fn read(&mut self, sector: u64, out: &mut Sector) -> Result<(), BlockError> {
        let bytes = self.bytes.chunks_exact(SECTOR_BYTES).nth(sector as usize);
        out.copy_from_slice(bytes.ok_or_else(|| BlockError("no such sector".into()))?);
        Ok(())
    }

    fn write(&mut self, sector: u64, data: &Sector) -> Result<(), BlockError> {
        let bytes = self.bytes.chunks_exact_mut(SECTOR_BYTES).nth(sector as usize);
        let bytes = bytes.ok_or_else(|| BlockError("no such sector".into()))?;
        if self.power == 0 {
            bytes[..SECTOR_BYTES / 2].copy_from_slice(&data[..SECTOR_BYTES / 2]);
            return Err(BlockError("power failed".into()));
        }
        self.power -= 1;
        bytes.copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}

/// Loads from what `data` says, and saves over it.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (correct, power) = (input.byte(), usize::from(input.byte()));
    let mut medium = Medium { bytes: vec![0; 2 * SLOT_BYTES], power };
    let (first, second) = data[2.min(data.len())..].split_at(data.len().saturating_sub(2) / 2);
    for (index, (slot, part)) in medium.bytes.chunks_exact_mut(SLOT_BYTES).zip([first, second]).enumerate() {
        let length = part.len().min(SLOT_BYTES);
        slot[..length].copy_from_slice(&part[..length]);
        if correct >> index & 1 != 0 {
            correct_checksums(slot);
        }
    }
    let before = load(&mut medium);
    let new = Saved { generation: 7, module: [9; 32], document: data.to_vec().into() };
    let saved = Store::open(&mut medium).is_ok_and(|mut store| store.save(&new).is_ok());
    let after = load(&mut medium);
    assert!(
        after == before || after.as_ref() == Some(&new),
        "neither the old document nor the new one is there"
    );
    assert!(!saved || after.as_ref() == Some(&new), "what was saved is not what is loaded");
}

fn load(medium: &mut Medium) -> Option<Saved> {
    let Ok(mut store) = Store::open(medium) else { panic!("the medium is large enough") };
    store.load().unwrap_or_else(|error| panic!("the medium did not fail: {error}"))
}

/// Makes a slot's header one that is believed, as far as its length allows.
fn correct_checksums(slot: &mut [u8]) {
    slot[..8].copy_from_slice(b"FAIRLEAD");
    let length = u32::from_le_bytes([slot[24], slot[25], slot[26], slot[27]]) as usize;
    if let Some(document) = slot.get(SECTOR_BYTES..SECTOR_BYTES.saturating_add(length)) {
        let checksum = Sha256::digest(document);
        slot[32..64].copy_from_slice(&checksum);
    }
    let checksum = Sha256::digest(&slot[..480]);
    slot[480..512].copy_from_slice(&checksum);
}
