//! Answers echo requests that came in fragments; those that came whole, the dataplane answers. And asks, for `prober`.

use alloc::{vec, vec::Vec};
use core::net::IpAddr;
use packet::checksum::Sum;
use packet::icmpv4::{self, Icmpv4};
use packet::icmpv6::{self, Icmpv6};
use packet::ipv4::Ipv4;
use packet::ipv6::{Fragment, Ipv6, MIN_MTU};
use packet::{DEFAULT_TTL, protocol};
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Payload of the fragments of a reply over IPv6: any link carries them (RFC 8200 §5).
const FRAGMENT_BYTES: usize = MIN_MTU as usize - size_of::<Ipv6>() - size_of::<Fragment>();

const _: () = assert!(FRAGMENT_BYTES.is_multiple_of(8));

/// The packet that answers a whole IP packet, if it is a valid echo request. It is of any length: the dataplane cuts it, behind ESP if
/// that encrypts whole packets (RFC 4303 §3.3.4).
pub(crate) fn reply(request: &[u8]) -> Option<Vec<u8>> {
    match request.first()? >> 4 {
        4 => reply4(request),
        6 => reply6(request),
        _ => None,
    }
}

/// Whether a packet's sender is known on its own link only, where no route leads.
pub(crate) fn is_link_local(packet: &[u8]) -> bool {
    Ipv6::read_from_prefix(packet).is_ok_and(|(header, _)| {
        header.version_class_flow.get() >> 28 == 6
            && core::net::Ipv6Addr::from(header.source).is_unicast_link_local()
    })
}

/// A request to be answered with `rest`, its identifier and sequence number.
pub(crate) fn request(from: IpAddr, to: IpAddr, rest: u32) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut icmp =
                Icmpv4 { kind: icmpv4::ECHO_REQUEST, rest: rest.to_be_bytes(), ..Icmpv4::new_zeroed() };
            icmp.checksum = Sum::new().bytes(icmp.as_bytes()).finish();
            let mut header = Ipv4::new(protocol::ICMP, from.octets(), to.octets(), size_of::<Icmpv4>());
            header.fill_checksum();
            [header.as_bytes(), icmp.as_bytes()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = size_of::<Icmpv6>();
            let header = Ipv6::new(protocol::ICMPV6, from.octets(), to.octets(), length);
            let mut icmp =
                Icmpv6 { kind: icmpv6::ECHO_REQUEST, rest: U32::new(rest), ..Icmpv6::new_zeroed() };
            let sum = header.pseudo_header(protocol::ICMPV6, length as u32).bytes(icmp.as_bytes());
            icmp.checksum = sum.finish();
            [header.as_bytes(), icmp.as_bytes()].concat()
        }
        _ => Vec::new(),
    }
}

/// Who answers a request, and its identifier and sequence number.
pub(crate) fn answer(packet: &[u8]) -> Option<(IpAddr, u32)> {
    if packet.first()? >> 4 == 4 {
        let (header, _) = Ipv4::read_from_prefix(packet).ok()?;
        let (icmp, _) = Icmpv4::read_from_prefix(packet.get(header.header_len()..)?).ok()?;
        let is_answer = header.protocol == protocol::ICMP && icmp.kind == icmpv4::ECHO_REPLY;
        return is_answer.then(|| (header.source.into(), u32::from_be_bytes(icmp.rest)));
    }
    let (header, message) = Ipv6::read_from_prefix(packet).ok()?;
    let (icmp, _) = Icmpv6::read_from_prefix(message).ok()?;
    let is_answer = header.next_header == protocol::ICMPV6 && icmp.kind == icmpv6::ECHO_REPLY;
    is_answer.then(|| (header.source.into(), icmp.rest.get()))
}

fn reply4(request: &[u8]) -> Option<Vec<u8>> {
    let (header, _) = Ipv4::read_from_prefix(request).ok()?;
    let message = request.get(header.header_len()..)?;
    let (mut icmp, data) = Icmpv4::read_from_prefix(message).ok()?;
    let is_valid = header.protocol == protocol::ICMP && Sum::new().bytes(message).is_valid();
    if !is_valid || icmp.kind != icmpv4::ECHO_REQUEST {
        return None;
    }
    icmp.kind = icmpv4::ECHO_REPLY;
    icmp.checksum = U16::ZERO;
    icmp.checksum = Sum::new().bytes(icmp.as_bytes()).bytes(data).finish();
    // Without the request's options.
    let mut answer = Ipv4 {
        version_ihl: packet::ipv4::VERSION_IHL,
        total_length: U16::new(u16::try_from(size_of::<Ipv4>() + message.len()).ok()?),
        flags_fragment: U16::ZERO,
        ttl: DEFAULT_TTL,
        source: header.destination,
        destination: header.source,
        ..header
    };
    answer.fill_checksum();
    Some([answer.as_bytes(), icmp.as_bytes(), data].concat())
}

fn reply6(request: &[u8]) -> Option<Vec<u8>> {
    let (header, message) = Ipv6::read_from_prefix(request).ok()?;
    let (mut icmp, data) = Icmpv6::read_from_prefix(message).ok()?;
    let length = u32::try_from(message.len()).ok()?;
    let is_valid = header.next_header == protocol::ICMPV6
        && header.pseudo_header(protocol::ICMPV6, length).bytes(message).is_valid();
    if !is_valid || icmp.kind != icmpv6::ECHO_REQUEST {
        return None;
    }
    let answer = Ipv6::new(protocol::ICMPV6, header.destination, header.source, message.len());
    icmp.kind = icmpv6::ECHO_REPLY;
    icmp.checksum = U16::ZERO;
    let sum = answer.pseudo_header(protocol::ICMPV6, length).bytes(icmp.as_bytes()).bytes(data);
    icmp.checksum = sum.finish();
    Some([answer.as_bytes(), icmp.as_bytes(), data].concat())
}

/// What a reply over IPv6 is sent in where no route leads and so nothing cuts it.
pub(crate) fn pieces6(reply: &[u8]) -> Vec<Vec<u8>> {
    let Ok((header, message)) = Ipv6::read_from_prefix(reply) else { return Vec::new() };
    if reply.len() <= usize::from(MIN_MTU) {
        return vec![reply.to_vec()];
    }
    // What tells the requests of a sender apart tells their replies apart.
    let icmp = Icmpv6::read_from_prefix(message).map_or_else(|_| Icmpv6::new_zeroed(), |(icmp, _)| icmp);
    let identification = u32::from(icmp.checksum.get()) << 16 | icmp.rest.get() & 0xffff;
    let pieces = message.chunks(FRAGMENT_BYTES).enumerate();
    pieces
        .map(|(n, piece)| fragment6(header, identification, n * FRAGMENT_BYTES, piece, message.len()))
        .collect()
}

fn fragment6(mut header: Ipv6, identification: u32, offset: usize, piece: &[u8], total: usize) -> Vec<u8> {
    let more = offset + piece.len() < total;
    let fragment = Fragment {
        next_header: header.next_header,
        reserved: 0,
        offset_more: U16::new(offset as u16 | u16::from(more)),
        identification: U32::new(identification),
    };
    header.next_header = protocol::FRAGMENT;
    header.payload_length = U16::new((size_of::<Fragment>() + piece.len()) as u16);
    [header.as_bytes(), fragment.as_bytes(), piece].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::reassembly::Reassembler;

    fn request4(len: usize) -> Vec<u8> {
        let mut icmp = vec![8, 0, 0, 0, 1, 2, 3, 4];
        icmp.extend((0..len).map(|n| n as u8));
        let checksum = packet::checksum::of(&icmp);
        icmp[2..4].copy_from_slice(checksum.as_bytes());
        let mut packet = vec![0x45, 0];
        packet.extend((20 + icmp.len() as u16).to_be_bytes());
        packet.extend([0, 1, 0, 0, 9, 1, 0, 0, 10, 0, 0, 5, 10, 0, 0, 1]);
        packet.extend(icmp);
        packet
    }

    fn request6(len: usize) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((8 + len as u16).to_be_bytes());
        packet.extend([58, 9]);
        packet.extend([[5; 16], [1; 16]].concat());
        packet.extend([128, 0, 0, 0, 1, 2, 3, 4]);
        packet.extend((0..len).map(|n| n as u8));
        let sum = Sum::new().pseudo_header(&packet[8..24], &packet[24..40], 58, 8 + len as u32);
        let checksum = sum.bytes(&packet[40..]).finish();
        packet[42..44].copy_from_slice(checksum.as_bytes());
        packet
    }

    #[test]
    fn requests_of_any_length_are_answered() {
        for len in [0, 1, 1232, 1233, 4000, 65_000] {
            let request = request4(len);
            let answer = reply(&request).expect("a valid request");
            assert_eq!((answer[8], answer[20], &answer[12..20]), (64, 0, &[10, 0, 0, 1, 10, 0, 0, 5][..]));
            assert!(Sum::new().bytes(&answer[..20]).is_valid() && Sum::new().bytes(&answer[20..]).is_valid());
            assert_eq!(answer[24..], request[24..]);

            let request = request6(len);
            let answer = reply(&request).expect("a valid request");
            let pieces = pieces6(&answer);
            assert_eq!(pieces.len(), if len <= 1232 { 1 } else { (8 + len).div_ceil(1232) });
            let mut reassembler = Reassembler::default();
            let whole = match &pieces[..] {
                [whole] => whole.clone(),
                pieces => {
                    assert!(pieces.iter().all(|piece| piece.len() <= 1280));
                    pieces.iter().find_map(|piece| reassembler.receive(piece, 0)).expect("all pieces")
                }
            };
            assert_eq!(whole, answer);
            assert_eq!((whole[6], whole[40], &whole[8..40]), (58, 129, &[[1; 16], [5; 16]].concat()[..]));
            let sum = Sum::new().pseudo_header(&whole[8..24], &whole[24..40], 58, 8 + len as u32);
            assert!(sum.bytes(&whole[40..]).is_valid());
            assert_eq!(whole[44..], request[44..]);
        }
    }

    #[test]
    fn what_is_asked_here_is_a_request_whose_answer_is_known() {
        for (from, to) in [("10.0.0.5", "10.0.0.1"), ("2001:db8::5", "2001:db8::1")] {
            let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let asked = request(from, to, 0xfeed_0007);
            assert_eq!(answer(&asked), None);
            let reply = reply(&asked).expect("a valid request");
            assert_eq!(answer(&reply), Some((to, 0xfeed_0007)));
        }
    }

    #[test]
    fn nothing_else_is_answered() {
        for mut request in [request4(100), request6(100)] {
            assert!(reply(&request[..30]).is_none());
            let last = request.len() - 1;
            request[last] ^= 1;
            assert!(reply(&request).is_none(), "the checksum is wrong");
            assert!(reply(&[]).is_none());
        }
        assert!(reply(&reply(&request4(9)).expect("a valid request")).is_none());
    }
}
