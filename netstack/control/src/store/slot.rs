//! The header sector of a slot. Integers are little-endian.
//!
//! | bytes | |
//! |---|---|
//! | 0..8 | magic |
//! | 8..16 | sequence |
//! | 16..24 | generation |
//! | 24..28 | length of the document |
//! | 32..64 | SHA-256 of the document |
//! | 64..96 | SHA-256 of the boot module when it was saved |
//! | 480..512 | SHA-256 of bytes 0..480 |

use super::Checksum;
use crate::platform::{SECTOR_BYTES, Sector};
use sha2::{Digest, Sha256};

const MAGIC: [u8; 8] = *b"FAIRLEAD";
const CHECKSUM_AT: usize = SECTOR_BYTES - size_of::<Checksum>();

/// What a header sector says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub sequence: u64,
    pub generation: u64,
    pub module: Checksum,
    pub length: u32,
    pub checksum: Checksum,
}

impl Header {
    /// The header in `sector`; None if it is not whole.
    pub fn parse(sector: &Sector) -> Option<Self> {
        let (body, checksum) = sector.split_at(CHECKSUM_AT);
        if body.get(..8)? != MAGIC || Sha256::digest(body).as_slice() != checksum {
            return None;
        }
        let u64_at = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            sequence: u64_at(8)?,
            generation: u64_at(16)?,
            length: u32::from_le_bytes(body.get(24..28)?.try_into().ok()?),
            checksum: body.get(32..64)?.try_into().ok()?,
            module: body.get(64..96)?.try_into().ok()?,
        })
    }

    pub fn emit(&self) -> Sector {
        let mut sector = [0; SECTOR_BYTES];
        sector[..8].copy_from_slice(&MAGIC);
        sector[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        sector[16..24].copy_from_slice(&self.generation.to_le_bytes());
        sector[24..28].copy_from_slice(&self.length.to_le_bytes());
        sector[32..64].copy_from_slice(&self.checksum);
        sector[64..96].copy_from_slice(&self.module);
        let checksum = Sha256::digest(&sector[..CHECKSUM_AT]);
        sector[CHECKSUM_AT..].copy_from_slice(&checksum);
        sector
    }
}

/// The first sector of a store that holds no document yet: the magic number alone.
pub(super) fn claim() -> Sector {
    let mut sector = [0; SECTOR_BYTES];
    sector[..8].copy_from_slice(&MAGIC);
    sector
}

/// True if a store wrote this sector, even if the header in it is not whole.
pub(super) fn is_ours(sector: &Sector) -> bool {
    sector.starts_with(&MAGIC)
}

/// True if a claim was being written here when power failed: its beginning, then what was there before.
pub(super) fn is_torn_claim(sector: &Sector) -> bool {
    let written = sector.iter().zip(&MAGIC).take_while(|(byte, magic)| byte == magic).count();
    sector.iter().skip(written).all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_flipped_bit_is_noticed() {
        let header = Header { sequence: 7, generation: 9, module: [3; 32], length: 1000, checksum: [5; 32] };
        let sector = header.emit();
        assert_eq!(Header::parse(&sector), Some(header));
        for bit in 0..SECTOR_BYTES * 8 {
            let mut damaged = sector;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&damaged), None, "bit {bit}");
        }
    }
}
