//! Packets for the node out of their fragments (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! [`Reassembler::receive`] takes a fragment and gives the whole packet with the last of them. Fragments that overlap
//! condemn their packet and whatever else comes of it (RFC 5722), of IPv4 too; exact duplicates are ignored. What does not
//! complete in [`TIMEOUT_NS`] is given up, and [`Reassembler::expire`] gives its first fragment, for the error about it.
//!
//! Memory is bounded: by the bytes and packets held, and by the packets of one sender. Who goes over that loses his
//! oldest.

use alloc::{collections::BTreeMap, vec::Vec};
use core::net::IpAddr;
use packet::checksum;
use packet::ipv4::{Ipv4, MORE_FRAGMENTS};
use packet::ipv6::{Extension, Fragment, Ipv6};
use packet::protocol;
use zerocopy::FromBytes;

/// How long a packet's fragments are waited for (RFC 1122 §3.3.2, RFC 8200 §4.5).
const TIMEOUT_NS: u64 = 60_000_000_000;
/// Packets under way at most, of all senders and of one.
const MAX_PACKETS: usize = 64;
const MAX_PACKETS_OF_SENDER: usize = 16;
/// Fragments of a packet at most: the longest one in pieces of the smallest MTU of IPv4, twice over.
const MAX_PIECES: usize = 256;
/// Bytes held at most, with what a fragment costs besides its own.
const MAX_BYTES: usize = 512 << 10;
const PIECE_BYTES: usize = 64;
/// Bytes of a first fragment that are kept for the error about it: as many as an error quotes at most.
const QUOTED_BYTES: usize = 1232;
const MAX_PACKET_BYTES: usize = 65_535;

/// What the fragments of a packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// Of IPv4 only.
    protocol: u8,
}

/// A fragment taken apart.
struct Piece<'a> {
    key: Key,
    /// What comes before the payload in the whole packet.
    header: Vec<u8>,
    offset: usize,
    payload: &'a [u8],
    is_last: bool,
}

/// A packet of which fragments are missing.
#[derive(Debug)]
struct Partial {
    due_ns: u64,
    /// Payload by offset.
    pieces: BTreeMap<usize, Vec<u8>>,
    /// Length of the whole payload, once the last fragment is there.
    length: Option<usize>,
    /// Header of the first fragment.
    header: Option<Vec<u8>>,
    /// Start of the first fragment as it came.
    first: Vec<u8>,
    /// How many came, duplicates too.
    fragments: u64,
    /// Fragments overlapped: none of it is taken.
    condemned: bool,
}

/// Packets under way.
#[derive(Debug, Default)]
pub(crate) struct Reassembler {
    partial: BTreeMap<Key, Partial>,
    held_bytes: usize,
    lost_fragments: u64,
}

/// True if an IP packet is a fragment, whose headers can be read.
pub(crate) fn is_fragment(packet: &[u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => Ipv4::ref_from_prefix(packet).is_ok_and(|(header, _)| header.is_fragment()),
        Some(6) => fragment_header(packet).is_some(),
        _ => false,
    }
}

impl Reassembler {
    /// Takes a fragment. Returns the packet that it completes.
    pub fn receive(&mut self, fragment: &[u8], now_ns: u64) -> Option<Vec<u8>> {
        let Some(piece) = take_apart(fragment) else {
            self.lost_fragments += 1;
            return None;
        };
        self.take(fragment, piece, now_ns)
    }

    /// How many fragments were lost since this was last asked: malformed ones, and those of packets that were given up.
    pub fn take_lost(&mut self) -> u64 {
        core::mem::take(&mut self.lost_fragments)
    }

    fn take(&mut self, fragment: &[u8], piece: Piece<'_>, now_ns: u64) -> Option<Vec<u8>> {
        let end = piece.offset + piece.payload.len();
        let is_cut_wrong = !piece.is_last && !piece.payload.len().is_multiple_of(8);
        if piece.payload.is_empty() || is_cut_wrong || piece.header.len() + end > MAX_PACKET_BYTES {
            self.lost_fragments += 1;
            return None;
        }
        if piece.offset == 0 && piece.is_last {
            // Whole as it is, whatever else has its identification (RFC 6946).
            return finish(piece.header, &[piece.payload]);
        }
        let key = piece.key;
        let before = self.partial.get(&key).map(Partial::bytes);
        if before.is_none() {
            self.make_room(key.source);
        }
        let partial = self.partial.entry(key).or_insert_with(|| Partial::new(now_ns));
        partial.add(fragment, &piece);
        self.held_bytes = self.held_bytes - before.unwrap_or(0) + partial.bytes();
        if partial.is_complete() {
            let partial = self.remove(&key)?;
            let payload: Vec<&[u8]> = partial.pieces.values().map(Vec::as_slice).collect();
            return finish(partial.header?, &payload);
        }
        while self.held_bytes > MAX_BYTES {
            self.remove_oldest(|_| true)?;
        }
        None
    }

    /// Gives up a packet whose time is over. Returns its first fragment, empty if that is missing; None: none is due.
    pub fn expire(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        let (key, _) = self.partial.iter().find(|(_, partial)| partial.due_ns <= now_ns)?;
        let key = *key;
        self.give_up(&key).map(|partial| partial.first)
    }

    /// When the next packet is given up.
    pub fn next_deadline_ns(&self) -> u64 {
        self.partial.values().map(|partial| partial.due_ns).min().unwrap_or(u64::MAX)
    }

    fn make_room(&mut self, source: IpAddr) {
        if self.partial.keys().filter(|key| key.source == source).count() >= MAX_PACKETS_OF_SENDER {
            let _ = self.remove_oldest(|key| key.source == source);
        }
        if self.partial.len() >= MAX_PACKETS {
            let _ = self.remove_oldest(|_| true);
        }
    }

    fn remove_oldest(&mut self, of: impl Fn(&Key) -> bool) -> Option<()> {
        let candidates = self.partial.iter().filter(|(key, _)| of(key));
        let key = *candidates.min_by_key(|(_, partial)| partial.due_ns)?.0;
        self.give_up(&key).map(drop)
    }

    fn give_up(&mut self, key: &Key) -> Option<Partial> {
        let partial = self.remove(key)?;
        self.lost_fragments += partial.fragments;
        Some(partial)
    }

    fn remove(&mut self, key: &Key) -> Option<Partial> {
        let partial = self.partial.remove(key)?;
        self.held_bytes -= partial.bytes();
        Some(partial)
    }
}

impl Partial {
    fn new(now_ns: u64) -> Self {
        Self {
            due_ns: now_ns + TIMEOUT_NS,
            pieces: BTreeMap::new(),
            length: None,
            header: None,
            first: Vec::new(),
            fragments: 0,
            condemned: false,
        }
    }

    fn bytes(&self) -> usize {
        let pieces: usize = self.pieces.values().map(|piece| piece.len() + PIECE_BYTES).sum();
        let header = self.header.as_ref().map_or(0, Vec::len);
        pieces + header + self.first.len() + PIECE_BYTES
    }

    fn add(&mut self, fragment: &[u8], piece: &Piece<'_>) {
        self.fragments += 1;
        if self.condemned || self.pieces.get(&piece.offset).is_some_and(|known| known == piece.payload) {
            return;
        }
        let end = piece.offset + piece.payload.len();
        let before = self.pieces.range(..=piece.offset).next_back();
        let after = self.pieces.range(piece.offset..).next();
        let overlaps = before.is_some_and(|(offset, bytes)| offset + bytes.len() > piece.offset)
            || after.is_some_and(|(offset, _)| *offset < end);
        let beyond = self.length.is_some_and(|length| end > length || piece.is_last)
            || piece.is_last && self.end() > end;
        if overlaps || beyond || self.pieces.len() >= MAX_PIECES {
            self.condemned = true;
            self.pieces.clear();
            (self.header, self.first) = (None, Vec::new());
            return;
        }
        if piece.is_last {
            self.length = Some(end);
        }
        if piece.offset == 0 {
            self.header = Some(piece.header.clone());
            self.first = fragment.iter().take(QUOTED_BYTES).copied().collect();
        }
        let _ = self.pieces.insert(piece.offset, piece.payload.to_vec());
    }

    /// Where the last piece that is there ends.
    fn end(&self) -> usize {
        self.pieces.last_key_value().map_or(0, |(offset, bytes)| offset + bytes.len())
    }

    /// Pieces do not overlap: all are there if they are as long as the whole.
    fn is_complete(&self) -> bool {
        let length: usize = self.pieces.values().map(Vec::len).sum();
        self.length == Some(length)
    }
}

fn take_apart(fragment: &[u8]) -> Option<Piece<'_>> {
    match fragment.first()? >> 4 {
        4 => piece4(fragment),
        _ => piece6(fragment),
    }
}

fn piece4(packet: &[u8]) -> Option<Piece<'_>> {
    let (header, _) = Ipv4::ref_from_prefix(packet).ok()?;
    let packet = packet.get(..usize::from(header.total_length.get()))?;
    let (start, payload) = packet.split_at_checked(header.header_len())?;
    let key = Key {
        source: header.source.into(),
        destination: header.destination.into(),
        identification: header.identification.get().into(),
        protocol: header.protocol,
    };
    let is_last = header.flags_fragment.get() & MORE_FRAGMENTS == 0;
    Some(Piece { key, header: start.to_vec(), offset: header.fragment_offset_bytes(), payload, is_last })
}

fn piece6(packet: &[u8]) -> Option<Piece<'_>> {
    let (header, _) = Ipv6::ref_from_prefix(packet).ok()?;
    let (field, at) = fragment_header(packet)?;
    let (fragment, payload) = Fragment::ref_from_prefix(packet.get(at..)?).ok()?;
    let mut start = packet.get(..at)?.to_vec();
    *start.get_mut(field)? = fragment.next_header;
    let key = Key {
        source: header.source.into(),
        destination: header.destination.into(),
        identification: fragment.identification.get(),
        protocol: 0,
    };
    let is_last = !fragment.more_fragments();
    Some(Piece { key, header: start, offset: fragment.offset_bytes(), payload, is_last })
}

/// Where the fragment header of an IPv6 packet is announced, and where it is.
fn fragment_header(packet: &[u8]) -> Option<(usize, usize)> {
    const MAX_EXTENSIONS: usize = 8;
    let (header, _) = Ipv6::ref_from_prefix(packet).ok()?;
    let mut next = header.next_header;
    let (mut field, mut at) = (core::mem::offset_of!(Ipv6, next_header), size_of::<Ipv6>());
    for _ in 0..MAX_EXTENSIONS {
        match next {
            protocol::FRAGMENT => return Some((field, at)),
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => {}
            _ => return None,
        }
        let (extension, _) = Extension::ref_from_prefix(packet.get(at..)?).ok()?;
        (next, field) = (extension.next_header, at);
        at += extension.header_len();
    }
    None
}

/// The packet of a header and its payload, its lengths and IPv4 checksum right.
fn finish(header: Vec<u8>, payload: &[&[u8]]) -> Option<Vec<u8>> {
    let mut packet = header;
    let header_len = packet.len();
    payload.iter().for_each(|piece| packet.extend_from_slice(piece));
    let total = packet.len();
    if packet.first()? >> 4 == 4 {
        let (header, _) = Ipv4::mut_from_prefix(&mut packet).ok()?;
        header.total_length.set(u16::try_from(total).ok()?);
        header.flags_fragment.set(0);
        header.checksum.set(0);
        let checksum = checksum::of(packet.get(..header_len)?);
        let (header, _) = Ipv4::mut_from_prefix(&mut packet).ok()?;
        header.checksum = checksum;
    } else {
        let (header, _) = Ipv6::mut_from_prefix(&mut packet).ok()?;
        header.payload_length.set(u16::try_from(total - size_of::<Ipv6>()).ok()?);
    }
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index * 7 + index / 256) as u8).collect()
    }

    /// A fragment of the packet 10.0.0.`source` sent with this identification.
    fn v4(source: u8, id: u16, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend((20 + payload.len() as u16).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(((offset / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 }).to_be_bytes());
        packet.extend([64, 17, 0, 0, 10, 0, 0, source, 10, 0, 0, 1]);
        packet.extend(payload);
        packet
    }

    fn v6(id: u32, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((16 + payload.len() as u16).to_be_bytes());
        // Destination options with a PadN before the fragment header.
        packet.extend([60, 64]);
        packet.extend([0x20; 16]);
        packet.extend([0x30; 16]);
        packet.extend([44, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend([17, 0]);
        packet.extend((offset as u16 | u16::from(more)).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(payload);
        packet
    }

    fn cut(data: &[u8], size: usize, fragment: impl Fn(usize, bool, &[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
        let pieces = data.chunks(size).enumerate();
        pieces.map(|(n, piece)| fragment(n * size, (n + 1) * size < data.len(), piece)).collect()
    }

    proptest! {
        #[test]
        fn any_order_gives_the_packet(
            len in 1usize..9000, size in 5usize..200, order in any::<prop::sample::Index>(), again in any::<bool>(),
        ) {
            let (data, size) = (pattern(len), size * 8);
            for ipv6 in [false, true] {
                let mut fragments = if ipv6 {
                    cut(&data, size, |offset, more, piece| v6(7, offset, more, piece))
                } else {
                    cut(&data, size, |offset, more, piece| v4(2, 7, offset, more, piece))
                };
                let count = fragments.len();
                fragments.rotate_left(order.index(count));
                if count > 2 { fragments.swap(0, count / 2); }
                let mut reassembler = Reassembler::default();
                for (n, fragment) in fragments.iter().enumerate() {
                    let whole = reassembler.receive(fragment, 0);
                    prop_assert_eq!(whole.is_some(), n + 1 == count);
                    if again && n + 1 < count {
                        prop_assert!(reassembler.receive(fragment, 0).is_none(), "a duplicate");
                    }
                    let Some(whole) = whole else { continue };
                    prop_assert!(!is_fragment(&whole));
                    let header = if ipv6 { 48 } else { 20 };
                    prop_assert_eq!(&whole[header..], &data[..]);
                    if ipv6 {
                        prop_assert_eq!((whole[6], whole[40]), (60, 17));
                        prop_assert_eq!(whole[4..6].to_vec(), ((8 + len) as u16).to_be_bytes().to_vec());
                    } else {
                        prop_assert_eq!(checksum::of(&whole[..20]).get(), 0);
                        prop_assert_eq!(whole[2..4].to_vec(), ((20 + len) as u16).to_be_bytes().to_vec());
                    }
                }
                prop_assert_eq!((reassembler.partial.len(), reassembler.held_bytes), (0, 0));
            }
        }

        #[test]
        fn whatever_comes_is_bounded(
            fragments in prop::collection::vec(
                (0u8..40, 0u16..4, 0usize..1024, any::<bool>(), 0usize..3000, any::<bool>()), 1..400),
        ) {
            let mut reassembler = Reassembler::default();
            for (n, (source, id, offset, more, len, ipv6)) in fragments.into_iter().enumerate() {
                let fragment = if ipv6 {
                    v6(id.into(), offset * 8, more, &pattern(len))
                } else {
                    v4(source, id, offset * 8, more, &pattern(len))
                };
                let _ = reassembler.receive(&fragment, n as u64);
                prop_assert!(reassembler.held_bytes <= MAX_BYTES && reassembler.partial.len() <= MAX_PACKETS);
                let held: usize = reassembler.partial.values().map(Partial::bytes).sum();
                prop_assert_eq!(held, reassembler.held_bytes);
            }
            while reassembler.expire(u64::MAX).is_some() {}
            prop_assert_eq!(reassembler.held_bytes, 0);
        }

        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..120), start in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x60)]) {
            let mut reassembler = Reassembler::default();
            let _ = (is_fragment(&bytes), reassembler.receive(&bytes, 0));
            if let Some(first) = bytes.first_mut() { *first = start; }
            let _ = (is_fragment(&bytes), reassembler.receive(&bytes, 0));
        }
    }

    #[test]
    fn an_overlap_condemns_the_packet() {
        let data = pattern(32);
        for overlap in
            [v4(2, 7, 8, true, &pattern(16)), v4(2, 7, 0, true, &pattern(8)), v4(2, 7, 24, false, &[1; 8])]
        {
            let mut reassembler = Reassembler::default();
            assert!(reassembler.receive(&v4(2, 7, 0, true, &data[..16]), 0).is_none());
            assert!(reassembler.receive(&v4(2, 7, 24, false, &data[24..]), 0).is_none());
            assert!(reassembler.receive(&overlap, 0).is_none());
            assert!(reassembler.receive(&v4(2, 7, 16, true, &data[16..24]), 0).is_none(), "{overlap:?}");
            assert_eq!(reassembler.expire(u64::MAX).as_deref(), Some(&[][..]), "nothing is told");
        }
    }

    #[test]
    fn what_does_not_complete_is_given_up() {
        let mut reassembler = Reassembler::default();
        let first = v4(2, 7, 0, true, &pattern(800));
        assert!(reassembler.receive(&first, 5).is_none());
        assert!(reassembler.receive(&v4(2, 8, 800, true, &pattern(8)), 6).is_none());
        assert_eq!((reassembler.next_deadline_ns(), reassembler.expire(TIMEOUT_NS)), (TIMEOUT_NS + 5, None));
        assert_eq!(reassembler.expire(TIMEOUT_NS + 5), Some(first));
        assert_eq!(reassembler.expire(TIMEOUT_NS + 6), Some(Vec::new()));
        assert_eq!((reassembler.expire(u64::MAX), reassembler.next_deadline_ns()), (None, u64::MAX));
    }

    #[test]
    fn one_sender_cannot_keep_others_out() {
        let mut reassembler = Reassembler::default();
        assert!(reassembler.receive(&v4(9, 1, 0, true, &pattern(8)), 0).is_none());
        for id in 0..1000 {
            assert!(reassembler.receive(&v4(2, id, 0, true, &pattern(1400)), 1).is_none());
        }
        assert!(reassembler.receive(&v4(9, 1, 8, false, &pattern(8)), 2).is_some());
    }

    #[test]
    fn a_packet_of_one_fragment_is_whole() {
        let mut reassembler = Reassembler::default();
        assert!(reassembler.receive(&v6(7, 0, true, &pattern(8)), 0).is_none());
        assert!(reassembler.receive(&v6(7, 0, false, &pattern(9)), 0).is_some());
        assert!(reassembler.receive(&v6(7, 8, false, &pattern(9)), 0).is_some());
        assert!(reassembler.receive(&v4(2, 7, 65_528, false, &pattern(9)), 0).is_none(), "beyond the end");
    }
}
