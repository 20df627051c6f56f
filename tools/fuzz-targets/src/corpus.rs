//! Kept inputs: `fuzz/corpus/TARGET/*`, one file each; a `.pcap` file holds one input for each of its packets.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One input and where it comes from.
pub struct Input {
    /// File, and number of the packet where the file is a capture.
    pub name: String,
    /// The bytes.
    pub data: Vec<u8>,
}

/// Where the corpora are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

/// Reads the corpus of a target, in the order of names.
///
/// # Errors
/// There is no corpus or nothing in it, a file cannot be read, or a capture is damaged.
pub fn load(target: &str) -> Result<Vec<Input>> {
    let directory = directory().join(target);
    let entries =
        std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    let mut inputs = Vec::new();
    for path in paths {
        let data = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = format!("{target}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.extension().is_some_and(|extension| extension == "pcap") {
            inputs.extend(packets(&name, &data)?);
        } else {
            inputs.push(Input { name, data });
        }
    }
    if inputs.is_empty() {
        bail!("{} has no inputs", directory.display());
    }
    Ok(inputs)
}

/// The packets of a capture in the classic pcap format, of either byte order.
fn packets(name: &str, file: &[u8]) -> Result<Vec<Input>> {
    const HEADER_BYTES: usize = 24;
    const RECORD_BYTES: usize = 16;
    let little = match file.get(..4) {
        Some([0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1]) => true,
        Some([0xa1, 0xb2, 0xc3 | 0x3c, 0xd4 | 0x4d]) => false,
        _ => bail!("{name} is not a pcap file"),
    };
    let mut inputs = Vec::new();
    let mut rest = file.get(HEADER_BYTES..).with_context(|| format!("{name} ends in its header"))?;
    while let Some((record, after)) = rest.split_first_chunk::<RECORD_BYTES>() {
        let length = [record[8], record[9], record[10], record[11]];
        let length = if little { u32::from_le_bytes(length) } else { u32::from_be_bytes(length) } as usize;
        let Some((data, after)) = after.split_at_checked(length) else {
            bail!("{name} ends in packet {}", inputs.len());
        };
        inputs.push(Input { name: format!("{name}#{}", inputs.len()), data: data.to_vec() });
        rest = after;
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus() {
        for target in crate::TARGETS {
            assert!(load(target.name).is_ok(), "{} has no corpus", target.name);
        }
    }

    #[test]
    fn captures_are_cut_into_packets() {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1];
        file.resize(24, 0);
        for packet in [&[1u8, 2, 3][..], &[4]] {
            file.extend([0; 8]);
            file.extend((packet.len() as u32).to_le_bytes());
            file.extend((packet.len() as u32).to_le_bytes());
            file.extend(packet);
        }
        let found = packets("x", &file).unwrap();
        assert_eq!(
            found.iter().map(|input| input.data.clone()).collect::<Vec<_>>(),
            [vec![1, 2, 3], vec![4]]
        );
        assert!(packets("x", &file[..file.len() - 1]).is_err());
        assert!(packets("x", b"no capture at all, but long enough").is_err());
    }
}
