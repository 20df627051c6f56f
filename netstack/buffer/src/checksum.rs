//! The checksum that a sender left to be completed.

use crate::{Buf, Flags, NoRoom};

/// Adds bytes to an Internet checksum (RFC 1071 §4.1), `odd` if an odd number went before.
fn add(sum: u64, bytes: &[u8], odd: bool) -> u64 {
    let words = bytes.chunks_exact(2);
    let last = words.remainder().first().map_or(0, |&byte| u64::from(byte) << 8);
    let part = last + words.map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u64>();
    // A byte at an odd place is the low half of its word: the same sum with its halves exchanged.
    let part = fold(part);
    sum + u64::from(if odd { part.swap_bytes() } else { part })
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Buf {
    /// Completes the checksum of a packet with [`Flags::TX_CSUM`] over all its segments, and clears the flag. Without
    /// the flag there is nothing to do.
    ///
    /// The field holds the sum of the pseudo-header, so that summing from `csum_start` over the end counts that too.
    ///
    /// # Errors
    /// `csum_start` or the field lie outside the first segment.
    pub fn complete_checksum(&mut self) -> Result<(), NoRoom> {
        let meta = *self.meta();
        if !meta.flags.contains(Flags::TX_CSUM) {
            return Ok(());
        }
        let first = usize::from(meta.csum_start).checked_sub(self.start()).ok_or(NoRoom)?;
        let field = first + usize::from(meta.csum_offset);
        if field + 2 > self.len() {
            return Err(NoRoom);
        }
        let (mut sum, mut odd) = (0, false);
        for (index, segment) in self.segments().enumerate() {
            let bytes = if index == 0 { &segment[first..] } else { segment };
            sum = add(sum, bytes, odd);
            odd ^= bytes.len() % 2 == 1;
        }
        // To UDP zero means that there is none (RFC 768), to the others both zeros are one.
        let checksum = match !fold(sum) {
            0 => 0xffff,
            checksum => checksum,
        };
        self.data_mut()[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        self.meta_mut().flags.remove(Flags::TX_CSUM);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BufferPool;
    use proptest::prelude::*;

    fn packet(segments: &[&[u8]]) -> Buf {
        let mut cache = BufferPool::from_heap(segments.len()).cache();
        let mut bufs = segments.iter().map(|bytes| {
            let mut buf = cache.allocate().expect("the pool is large enough");
            buf.append(bytes).expect("it fits");
            buf
        });
        let mut packet = bufs.next().expect("there is a segment");
        bufs.for_each(|buf| packet.append_segment(buf));
        packet
    }

    fn ask(packet: &mut Buf, start: usize, offset: u16) {
        packet.meta_mut().flags.insert(Flags::TX_CSUM);
        packet.meta_mut().csum_start = (packet.start() + start) as u16;
        packet.meta_mut().csum_offset = offset;
    }

    /// RFC 1071 §1 as it is written, byte by byte.
    fn naive_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for (index, &byte) in bytes.iter().enumerate() {
            sum += u32::from(byte) << if index % 2 == 0 { 8 } else { 0 };
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn a_udp_datagram_as_linux_sends_it() {
        // 192.0.2.1:1000 to 192.0.2.2:2000, 5 bytes of data; the field holds the pseudo-header's sum 0x8422.
        let mut datagram = packet(&[
            &[0xee; 14],
            &[0x03, 0xe8, 0x07, 0xd0, 0, 13, 0x84, 0x22, b'h', b'e', b'l', b'l', b'o'],
        ]);
        ask(&mut datagram, 14, 6);
        assert_eq!(datagram.complete_checksum(), Err(NoRoom), "the field is not in the first segment");
        let mut whole = [0xee; 27];
        assert_eq!(datagram.copy_out(0, &mut whole), 27);
        let mut datagram = packet(&[&whole]);
        ask(&mut datagram, 14, 6);
        datagram.complete_checksum().expect("the field is there");
        assert!(datagram.meta().flags.is_empty());
        let pseudo = [192, 0, 2, 1, 192, 0, 2, 2, 0, 17, 0, 13];
        assert_eq!(naive_sum(&[&pseudo, &datagram.data()[14..]].concat()), 0xffff);
    }

    #[test]
    fn zero_is_sent_as_ones() {
        let mut datagram = packet(&[&[0xff, 0xff, 0, 0]]);
        ask(&mut datagram, 0, 2);
        datagram.complete_checksum().expect("the field is there");
        assert_eq!(datagram.data(), [0xff; 4]);
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let mut short = packet(&[&[0; 20]]);
        for (start, offset) in [(0, 19), (19, 0), (20, 0), (1000, 0), (0, u16::MAX)] {
            ask(&mut short, start, offset);
            assert_eq!(short.complete_checksum(), Err(NoRoom));
        }
        ask(&mut short, 0, 0);
        short.pull_front(1).expect("it is long enough");
        assert_eq!(short.complete_checksum(), Err(NoRoom), "the start was pulled off");
    }

    proptest! {
        #[test]
        fn the_sum_is_right_over_any_segments(
            first in prop::collection::vec(any::<u8>(), 40..80),
            rest in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..6),
            start in 0usize..20, offset in 0u16..9,
        ) {
            let segments: Vec<&[u8]> = core::iter::once(&first[..]).chain(rest.iter().map(Vec::as_slice)).collect();
            let before = segments.concat();
            let mut packet = packet(&segments);
            ask(&mut packet, start, offset * 2);
            prop_assert_eq!(packet.complete_checksum(), Ok(()));
            let after = packet.segments().collect::<Vec<_>>().concat();
            let field = start + usize::from(offset) * 2;
            // What was in the field stood for the pseudo-header: summed in its place, all is ones.
            let pseudo = &before[field..field + 2];
            prop_assert_eq!(naive_sum(&[pseudo, &after[start..]].concat()), 0xffff);
            let mut expected = before.clone();
            expected[field..field + 2].copy_from_slice(&after[field..field + 2]);
            prop_assert_eq!(after, expected);
        }
    }
}
