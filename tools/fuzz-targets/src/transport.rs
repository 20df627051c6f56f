//! Checksums of whole packets, computed and held against all their bytes.

use packet::checksum::{self, Sum};
use packet::protocol;
use rewrite::{Fragment, Tuple, View};

/// Where a checksum is in a transport header, and what covers it.
struct Place {
    offset: usize,
    bytes: usize,
    covers_addresses: bool,
}

/// A packet all of which is there, of a protocol with a checksum.
fn place(packet: &[u8]) -> Option<(View, Place)> {
    let view = View::parse(packet).ok().filter(|view| view.fragment == Fragment::Whole)?;
    let is_v4 = matches!(view.tuple, Tuple::V4(_));
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let says = if is_v4 { word(2) } else { word(4) + 40 };
    let length = packet.len().checked_sub(view.transport_offset)?;
    let (offset, bytes, covers_addresses) = match (view.tuple.protocol(), is_v4) {
        (protocol::TCP, _) => (16, 2, true),
        (protocol::UDP, _) => (6, 2, true),
        (protocol::SCTP, _) => (8, 4, false),
        (protocol::ICMP, true) => (2, 2, false),
        (protocol::ICMPV6, false) => (2, 2, true),
        _ => return None,
    };
    let is_udp = view.tuple.protocol() == protocol::UDP;
    let is_whole = says == packet.len()
        && length >= offset + bytes
        && (!is_udp || word(view.transport_offset + 4) == length);
    is_whole.then_some((view, Place { offset: view.transport_offset + offset, bytes, covers_addresses }))
}

/// Makes the checksums of a whole packet right; false if it is none.
pub fn correct(packet: &mut [u8]) -> bool {
    let Some((view, place)) = place(packet) else { return false };
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let sum = checksum::of(&packet[..usize::from(packet[0] & 15) * 4]).get();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet[place.offset..place.offset + place.bytes].fill(0);
    if place.bytes == 4 {
        let sum = crc32c(&packet[view.transport_offset..]);
        packet[place.offset..place.offset + 4].copy_from_slice(&sum.to_le_bytes());
    } else {
        let sum = match sum(packet, &view, &place).finish().get() {
            0 => u16::MAX,
            sum => sum,
        };
        packet[place.offset..place.offset + 2].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// True unless a checksum of a whole packet is wrong.
pub fn is_right(packet: &[u8]) -> bool {
    let Some((view, place)) = place(packet) else { return true };
    if packet[0] >> 4 == 4 && !Sum::new().bytes(&packet[..usize::from(packet[0] & 15) * 4]).is_valid() {
        return false;
    }
    let found = &packet[place.offset..place.offset + place.bytes];
    if place.bytes == 4 {
        let mut copy = packet[view.transport_offset..].to_vec();
        copy[8..12].fill(0);
        return *found == [0; 4] || *found == crc32c(&copy).to_le_bytes();
    }
    let is_none = view.tuple.protocol() == protocol::UDP && *found == [0; 2];
    is_none || sum(packet, &view, &place).is_valid()
}

fn sum(packet: &[u8], view: &View, place: &Place) -> Sum {
    let segment = &packet[view.transport_offset..];
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let start = Sum::new();
    let start = if place.covers_addresses {
        start.pseudo_header(source, destination, view.tuple.protocol(), segment.len() as u32)
    } else {
        start
    };
    start.bytes(segment)
}

/// RFC 9260, appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    #[test]
    fn etherparse_agrees() {
        let mut packet = Vec::new();
        let v6 = PacketBuilder::ipv6([1; 16], [2; 16], 9).tcp(1, 2, 3, 4);
        v6.write(&mut packet, b"abc").unwrap();
        let right = packet.clone();
        assert!(is_right(&packet));
        packet[56..58].fill(7);
        assert!(!is_right(&packet) && correct(&mut packet));
        assert_eq!(packet, right);
        let mut udp = Vec::new();
        PacketBuilder::ipv4([1; 4], [2; 4], 9).udp(1, 2).write(&mut udp, b"abc").unwrap();
        let right = udp.clone();
        udp[10] ^= 1;
        udp[27] ^= 1;
        assert!(!is_right(&udp) && correct(&mut udp));
        assert_eq!(udp, right);
    }
}
