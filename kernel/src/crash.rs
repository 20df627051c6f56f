//! The record of a crash: text in memory that a restart does not clear.
//!
//! The crash writes it a line at a time into memory at a fixed place that no loader touches; the next
//! runs find it there, until another crash or the loss of power. It counts when magic number and checksum are right:
//! after power was off there is nothing or garbage.

use core::fmt;

/// Bytes before the text: magic, checksum, length, how many crashes in a row, how many runs found it before.
const HEADER_BYTES: usize = 24;

const MAGIC: u64 = u64::from_le_bytes(*b"FLCRASH1");

/// Runs shorter than this, ended by a crash, count as crashes in a row.
const SETTLED_NS: u64 = 60_000_000_000;

/// Longest pause before a restart.
const MAX_PAUSE_S: u64 = 60;

/// A record found at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the crash reported.
    pub text: &'a str,
    /// How many crashes there were in a row, this one included.
    pub in_a_row: u32,
    /// How many runs there were since that have ended without a crash.
    pub runs_since: u32,
}

/// The record in `memory`, if there is a valid one.
pub fn find(memory: &[u8]) -> Option<Record<'_>> {
    let (header, rest) = memory.split_first_chunk::<HEADER_BYTES>()?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let text = rest.get(..usize::try_from(word(12)).ok()?)?;
    if !header.starts_with(&MAGIC.to_le_bytes()) || word(8) != checksum(&header[12..], text) {
        return None;
    }
    let text = core::str::from_utf8(text).ok()?;
    Some(Record { text, in_a_row: word(16), runs_since: word(20) })
}

/// Notes in `memory` that this run has found the record there.
pub fn keep(memory: &mut [u8]) {
    let Some(Record { text, runs_since, .. }) = find(memory) else { return };
    let len = text.len();
    let Some((header, text)) = memory.split_first_chunk_mut::<HEADER_BYTES>() else { return };
    header[20..24].copy_from_slice(&runs_since.saturating_add(1).to_le_bytes());
    let sum = checksum(&header[12..], &text[..len]);
    header[8..12].copy_from_slice(&sum.to_le_bytes());
}

/// How long to wait before the restart after that many crashes in a row: not at all at first, then longer
/// and longer, so that a node that cannot run does not flood its console.
pub fn pause_ns(in_a_row: u32) -> u64 {
    let seconds = match in_a_row {
        0 | 1 => 0,
        n => 1u64.checked_shl(n - 2).unwrap_or(MAX_PAUSE_S).min(MAX_PAUSE_S),
    };
    seconds * 1_000_000_000
}

/// A record being written.
#[derive(Debug)]
pub struct Recorder<'a> {
    memory: &'a mut [u8],
    len: usize,
}

impl<'a> Recorder<'a> {
    /// Begins a record in `memory`; what was there is lost.
    pub fn new(memory: &'a mut [u8]) -> Self {
        let header = HEADER_BYTES.min(memory.len());
        memory[..header].fill(0);
        Self { memory, len: 0 }
    }

    /// Makes the record valid. `previous` is the count of the record that this run found at boot, `uptime_ns` how
    /// long the run lasted. Returns the number of crashes in a row. Lines may be added, and this called, again.
    pub fn seal(&mut self, previous: u32, uptime_ns: u64) -> u32 {
        let in_a_row = if uptime_ns < SETTLED_NS { previous.saturating_add(1) } else { 1 };
        let Some((header, text)) = self.memory.split_first_chunk_mut::<HEADER_BYTES>() else {
            return in_a_row;
        };
        // The text fits into memory, which is far smaller than 4 GiB.
        header[12..16].copy_from_slice(&(self.len as u32).to_le_bytes());
        header[16..20].copy_from_slice(&in_a_row.to_le_bytes());
        let sum = checksum(&header[12..], &text[..self.len]);
        header[8..12].copy_from_slice(&sum.to_le_bytes());
        header[..8].copy_from_slice(&MAGIC.to_le_bytes());
        in_a_row
    }
}

impl fmt::Write for Recorder<'_> {
    /// Appends text as far as there is room for whole characters.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let at = HEADER_BYTES + self.len;
        let room = self.memory.len().saturating_sub(at);
        let text = &text[..text.floor_char_boundary(room)];
        if let Some(to) = self.memory.get_mut(at..at + text.len()) {
            to.copy_from_slice(text.as_bytes());
            self.len += text.len();
        }
        Ok(())
    }
}

/// CRC-32 (IEEE 802.3) over both parts.
fn checksum(first: &[u8], second: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    !first.iter().chain(second).fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (POLYNOMIAL & (sum & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write;

    #[test]
    fn checksum_is_the_ieee_one() {
        assert_eq!(checksum(b"12345", b"6789"), 0xcbf4_3926);
    }

    #[test]
    fn what_is_sealed_is_found_until_a_bit_flips() {
        let mut memory = [0xff; 100];
        assert_eq!(find(&memory), None);
        let mut recorder = Recorder::new(&mut memory);
        write!(recorder, "panic: {}", 5).unwrap();
        assert_eq!(recorder.seal(2, 1000), 3);
        assert_eq!(find(&memory), Some(Record { text: "panic: 5", in_a_row: 3, runs_since: 0 }));
        for bit in 0..(HEADER_BYTES + 8) * 8 {
            let mut damaged = memory;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(find(&damaged), None, "bit {bit}");
        }
        for runs_since in 1..4 {
            keep(&mut memory);
            assert_eq!(find(&memory), Some(Record { text: "panic: 5", in_a_row: 3, runs_since }));
        }
        let mut recorder = Recorder::new(&mut memory);
        assert_eq!(recorder.seal(2, SETTLED_NS), 1);
        keep(&mut [0; 5]);
    }

    #[test]
    fn an_unsealed_record_does_not_count_and_a_long_one_is_cut() {
        let mut memory = [0; HEADER_BYTES + 10];
        let mut recorder = Recorder::new(&mut memory);
        write!(recorder, "12345678äö").unwrap();
        write!(recorder, "more").unwrap();
        let _ = recorder.seal(0, 0);
        assert_eq!(find(&memory).unwrap().text, "12345678ä");
        let _ = Recorder::new(&mut memory);
        assert_eq!(find(&memory), None);
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn the_pause_grows_and_ends() {
        let pauses: Vec<u64> = [0, 1, 2, 3, 4, 8, 9, 100].map(|n| pause_ns(n) / 1_000_000_000).to_vec();
        assert_eq!(pauses, [0, 0, 1, 2, 4, 60, 60, 60]);
    }
}
