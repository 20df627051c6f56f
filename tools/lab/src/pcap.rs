//! Classic capture files (draft-ietf-opsawg-pcap), Ethernet, microsecond or nanosecond stamps.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;

/// The frames of a capture file, as far as each was captured, in order.
///
/// # Errors
/// The file cannot be read, is no capture of Ethernet frames, or ends within a record.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("not a usable capture: {}", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (header, mut rest) =
        bytes.split_at_checked(FILE_HEADER_BYTES).context("too short for a file header")?;
    let word =
        |bytes: &[u8], at: usize| -> [u8; 4] { [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]] };
    let number: fn([u8; 4]) -> u32 = match u32::from_le_bytes(word(header, 0)) {
        MAGIC_MICROSECONDS | MAGIC_NANOSECONDS => u32::from_le_bytes,
        other if [MAGIC_MICROSECONDS, MAGIC_NANOSECONDS].contains(&other.swap_bytes()) => u32::from_be_bytes,
        other => bail!("magic number {other:#x}"),
    };
    let link_type = number(word(header, 20)) & 0x0fff_ffff;
    ensure!(link_type == LINKTYPE_ETHERNET, "link type {link_type} is not Ethernet");
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (record, after) =
            rest.split_at_checked(RECORD_HEADER_BYTES).context("record header cut short")?;
        let captured_bytes = number(word(record, 8)) as usize;
        let (frame, after) = after.split_at_checked(captured_bytes).context("record cut short")?;
        frames.push(frame.to_vec());
        rest = after;
    }
    Ok(frames)
}

/// Writes frames as a capture file, one microsecond apart.
///
/// # Errors
/// The file cannot be written, or a number does not fit its format.
pub fn write<'a>(path: &Path, frames: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    let mut bytes = Vec::new();
    for word in [MAGIC_MICROSECONDS, 0x0004_0002, 0, 0, 0x4_0000, LINKTYPE_ETHERNET] {
        bytes.extend(u32::to_le_bytes(word));
    }
    for (index, frame) in frames.into_iter().enumerate() {
        let (index, length) = (u32::try_from(index)?, u32::try_from(frame.len())?);
        for word in [index / 1_000_000, index % 1_000_000, length, length] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend_from_slice(frame);
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("some.pcap");
        let frames = [vec![1; 14], vec![2; 1514], vec![]];
        write(&path, frames.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(read(&path).unwrap(), frames);
    }

    #[test]
    fn both_byte_orders_are_read_and_cut_files_refused() {
        let big_endian: Vec<u8> = [MAGIC_NANOSECONDS, 0x0002_0004, 0, 0, 65535, 1, 7, 8, 3, 60]
            .into_iter()
            .flat_map(u32::to_be_bytes)
            .chain(*b"abc")
            .collect();
        assert_eq!(parse(&big_endian).unwrap(), [b"abc"]);
        assert!(parse(&big_endian[..big_endian.len() - 1]).is_err());
        assert!(parse(&big_endian[..30]).is_err());
        assert!(parse(b"not a capture at all, however long").is_err());
    }
}
