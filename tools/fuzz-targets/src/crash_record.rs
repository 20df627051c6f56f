//! The record of a crash, in memory that anything may have been in: the input is that memory, its checksum made right.
//! What is found is in it, and is still found when it was noted; a record written over it is found as it was written.

use std::fmt::Write;

use kernel::crash::{self, Recorder};

const MAGIC: &[u8] = b"FLCRASH1";
/// Where the checksum is, and what comes after it: length, crashes in a row, runs since, text.
const CHECKSUM_AT: usize = 8;
const LENGTH_AT: usize = 12;
const TEXT_AT: usize = 24;

/// Looks for a record in `data`, and writes one there.
pub fn run(data: &[u8]) {
    let mut memory = data.to_vec();
    let _ = crash::find(&memory);
    correct(&mut memory);
    let found =
        crash::find(&memory).map(|record| (record.text.to_owned(), record.in_a_row, record.runs_since));
    crash::keep(&mut memory);
    let kept =
        crash::find(&memory).map(|record| (record.text.to_owned(), record.in_a_row, record.runs_since));
    let noted = found.map(|(text, in_a_row, runs)| (text, in_a_row, runs.saturating_add(1)));
    assert_eq!(kept, noted);
    let text = String::from_utf8_lossy(data).into_owned();
    let previous = noted.map_or(0, |(_, in_a_row, _)| in_a_row);
    let mut recorder = Recorder::new(&mut memory);
    let _ = recorder.write_str(&text);
    let in_a_row = recorder.seal(previous, 0);
    let _ = crash::pause_ns(in_a_row);
    match crash::find(&memory) {
        Some(record) => {
            assert!(text.starts_with(record.text) && record.in_a_row == in_a_row && record.runs_since == 0);
        }
        None => assert!(data.len() < TEXT_AT, "what was written is not found"),
    }
}

/// Makes magic number and checksum right, if the length allows.
fn correct(memory: &mut [u8]) {
    let Some(length) = memory.get(LENGTH_AT..LENGTH_AT + 4).and_then(|bytes| bytes.try_into().ok()) else {
        return;
    };
    let end = TEXT_AT.saturating_add(u32::from_le_bytes(length) as usize);
    let Some(sum) = memory.get(LENGTH_AT..end).map(crc32) else { return };
    memory[..MAGIC.len()].copy_from_slice(MAGIC);
    memory[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
}

/// IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_records_are_found() {
        for input in crate::corpus::load("crash_record").unwrap() {
            let mut memory = input.data;
            correct(&mut memory);
            assert_eq!(crash::find(&memory).is_some(), !input.name.contains("wrong"), "{}", input.name);
        }
    }
}
