//! Lowers the maximum segment size that the two sides of a TCP connection tell each other (RFC 4459 §3.2).

use packet::ipv4::Ipv4;
use packet::ipv6::Ipv6;
use packet::{checksum, protocol};
use zerocopy::FromBytes;
use zerocopy::network_endian::U16;

const TCP_BYTES: usize = 20;
const SYN: u8 = 0x02;

/// Has a TCP SYN in a packet that starts at its IP header ask for segments that make packets of at most `mtu` bytes.
/// Any other packet stays as it is.
pub fn clamp_mss(packet: &mut [u8], mtu: usize) {
    let Some((at, headers)) = tcp(packet) else { return };
    let Some(tcp) = packet.get_mut(at..) else { return };
    let (Some(&offset), Some(&flags)) = (tcp.get(12), tcp.get(13)) else { return };
    let options = TCP_BYTES..usize::from(offset >> 4) * 4;
    if flags & SYN == 0 || tcp.len() < options.end {
        return;
    }
    let most = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
    if let Some(place) = mss_place(tcp, options) {
        lower(tcp, place, most);
    }
}

/// Where TCP starts, and the bytes of IP and TCP headers of a segment.
fn tcp(packet: &[u8]) -> Option<(usize, usize)> {
    if packet.first()? >> 4 == 4 {
        let (header, _) = Ipv4::ref_from_prefix(packet).ok()?;
        let is_tcp = header.protocol == protocol::TCP && header.fragment_offset_bytes() == 0;
        return is_tcp.then(|| (header.header_len(), size_of::<Ipv4>() + TCP_BYTES));
    }
    let (header, _) = Ipv6::ref_from_prefix(packet).ok()?;
    (header.next_header == protocol::TCP).then_some((size_of::<Ipv6>(), size_of::<Ipv6>() + TCP_BYTES))
}

/// Offset of the value of the MSS option (RFC 9293 §3.2).
fn mss_place(tcp: &[u8], options: core::ops::Range<usize>) -> Option<usize> {
    let mut at = options.start;
    while at < options.end {
        at += match (*tcp.get(at)?, *tcp.get(at + 1)?) {
            (0, _) => return None,
            (1, _) => 1,
            (2, 4) => return (at + 4 <= options.end).then_some(at + 2),
            (_, length) => usize::from(length).max(2),
        };
    }
    None
}

/// Lowers the number at `place`, and corrects the checksum.
fn lower(tcp: &mut [u8], place: usize, most: u16) {
    let read = |tcp: &[u8], at: usize| tcp.get(at..).and_then(|bytes| bytes.first_chunk::<2>()).copied();
    let (Some(old), Some(sum)) = (read(tcp, place), read(tcp, 16)) else { return };
    if u16::from_be_bytes(old) <= most {
        return;
    }
    let new = most.to_be_bytes();
    // At an odd place the number's bytes belong to two words, of which each has it at the other end.
    let swap = |bytes: [u8; 2]| {
        u16::from_be_bytes(if place.is_multiple_of(2) { bytes } else { [bytes[1], bytes[0]] })
    };
    let sum = checksum::update(U16::from_bytes(sum), swap(old), swap(new));
    tcp[place..place + 2].copy_from_slice(&new);
    tcp[16..18].copy_from_slice(&sum.to_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::checksum::Sum;

    fn syn(ipv6: bool, options: &[u8], flags: u8) -> Vec<u8> {
        let tcp_len = TCP_BYTES + options.len();
        let mut packet = if ipv6 { vec![0x60, 0, 0, 0, 0, tcp_len as u8, 6, 64] } else { vec![0x45; 20] };
        if ipv6 {
            packet.extend([9; 32]);
        } else {
            packet[6..10].copy_from_slice(&[0, 0, 64, 6]);
        }
        let at = packet.len();
        packet.resize(at + TCP_BYTES, 7);
        (packet[at + 12], packet[at + 13]) = ((tcp_len as u8 / 4) << 4, flags);
        packet[at + 16..at + 18].fill(0);
        packet.extend(options);
        let checksum = checksum::of(&packet[at..]).to_bytes();
        packet[at + 16..at + 18].copy_from_slice(&checksum);
        packet
    }

    #[test]
    fn syns_are_lowered_and_stay_valid() {
        for (ipv6, at, expected) in [(false, 20, 1360u16), (true, 40, 1340)] {
            for (options, place) in
                [(&[2, 4, 5, 180][..], 2), (&[1, 2, 4, 5, 180, 0, 0, 0], 3), (&[4, 2, 2, 4, 5, 180, 1, 1], 4)]
            {
                for flags in [SYN, SYN | 0x10] {
                    let mut packet = syn(ipv6, options, flags);
                    clamp_mss(&mut packet, 1400);
                    let mss = at + TCP_BYTES + place;
                    assert_eq!(packet[mss..mss + 2], expected.to_be_bytes());
                    assert!(Sum::new().bytes(&packet[at..]).is_valid());
                }
            }
        }
    }

    #[test]
    fn everything_else_stays() {
        let small = syn(false, &[2, 4, 2, 0], SYN);
        let data = syn(false, &[2, 4, 5, 180], 0x10);
        let without = syn(true, &[1, 1, 1, 0], SYN);
        let cut = syn(true, &[8, 0, 2, 4], SYN);
        for packet in [small, data, without, cut] {
            for len in 0..=packet.len() {
                let mut changed = packet[..len].to_vec();
                clamp_mss(&mut changed, 1400);
                assert_eq!(changed, packet[..len]);
            }
        }
    }
}
