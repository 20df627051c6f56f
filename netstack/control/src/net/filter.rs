//! Which packets for the node reach its TCP: whole TCP segments between hosts, to an address that may be asked.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;
use dataplane::Refusal;
use packet::ipv4::Ipv4;
use packet::ipv6::{Extension, Ipv6};
use packet::protocol;
use packet::udp::Udp;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};
use zerocopy::FromBytes;

/// A filter of IP packets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Addresses that answer; None: all.
    pub addresses: Option<Vec<IpAddr>>,
}

impl Filter {
    /// Whether TCP looks at `packet`. Fragments and extension headers are not what a management client sends, and an answer
    /// to a link-local address could not be routed.
    pub fn accepts(&self, packet: &[u8]) -> bool {
        let Some((source, destination)) = tcp_endpoints(packet) else { return false };
        let is_host = |address: IpAddr| {
            let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
            !(address.is_multicast()
                || address.is_unspecified()
                || address.is_loopback()
                || link_local
                || broadcast)
        };
        is_host(source)
            && is_host(destination)
            && self.addresses.as_ref().is_none_or(|addresses| addresses.contains(&destination))
    }
}

/// Why nobody takes a whole packet for the node that is not TCP, whose sender is to be told; None: there is nothing to tell.
pub(crate) fn refusal(packet: &[u8]) -> Option<Refusal> {
    match upper_layer(packet)? {
        protocol::TCP | protocol::ICMP | protocol::ICMPV6 | protocol::IGMP | protocol::NO_NEXT_HEADER => None,
        protocol::UDP => Some(Refusal::Port),
        _ => Some(Refusal::Protocol),
    }
}

/// Whether the dataplane itself takes a packet that was put together here: ESP, plain or in UDP to a port that is for it
/// (RFC 3948).
pub(crate) fn is_for_dataplane(packet: &[u8], is_nat_t_port: impl Fn(u16) -> bool) -> bool {
    match upper(packet) {
        Some((protocol::ESP, _)) => true,
        Some((protocol::UDP, at)) => packet.get(at..).map(Udp::ref_from_prefix).is_some_and(|udp| {
            let is_ike = |payload: &[u8]| payload.first_chunk::<4>().is_some_and(|marker| *marker == [0; 4]);
            udp.is_ok_and(|(udp, payload)| is_nat_t_port(udp.destination_port.get()) && !is_ike(payload))
        }),
        _ => false,
    }
}

/// The protocol above IP; None if the headers cannot be read, or the destination is no host.
fn upper_layer(packet: &[u8]) -> Option<u8> {
    upper(packet).map(|(protocol, _)| protocol)
}

/// The protocol above IP, and where it starts.
fn upper(packet: &[u8]) -> Option<(u8, usize)> {
    const MAX_EXTENSIONS: usize = 8;
    if let Ok((header, _)) = Ipv4::ref_from_prefix(packet)
        && header.version() == 4
    {
        return (header.destination[0] < 224).then_some((header.protocol, header.header_len()));
    }
    let (header, mut rest) = Ipv6::ref_from_prefix(packet).ok()?;
    let mut next = header.next_header;
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING) {
            return (header.destination[0] != 0xff).then_some((next, packet.len() - rest.len()));
        }
        let (extension, _) = Extension::ref_from_prefix(rest).ok()?;
        next = extension.next_header;
        rest = rest.get(extension.header_len()..)?;
    }
    None
}

/// Both ends of a packet that is one whole TCP segment to a port of `ports`.
pub(crate) fn tcp_ends(packet: &[u8], ports: &RangeInclusive<u16>) -> Option<(SocketAddr, SocketAddr)> {
    let (protocol, at) = upper(packet)?;
    let &[a, b, c, d] = packet.get(at..)?.first_chunk()?;
    let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if protocol != protocol::TCP || !ports.contains(&to) {
        return None;
    }
    let (source, destination) = tcp_endpoints(packet)?;
    Some((SocketAddr::new(source, from), SocketAddr::new(destination, to)))
}

/// Source and destination of a packet that is one whole TCP segment.
fn tcp_endpoints(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let packet = Ipv4Packet::new_checked(packet).ok()?;
            let whole = !packet.more_frags() && packet.frag_offset() == 0;
            (whole && packet.next_header() == IpProtocol::Tcp)
                .then(|| (packet.src_addr().into(), packet.dst_addr().into()))
        }
        6 => {
            let packet = Ipv6Packet::new_checked(packet).ok()?;
            (packet.next_header() == IpProtocol::Tcp)
                .then(|| (packet.src_addr().into(), packet.dst_addr().into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(source: [u8; 4], destination: [u8; 4], protocol: u8, fragment: u16) -> Vec<u8> {
        let mut packet =
            vec![0x45, 0, 0, 20, 0, 0, (fragment >> 8) as u8, fragment as u8, 64, protocol, 0, 0];
        packet.extend(source);
        packet.extend(destination);
        packet
    }

    fn v6(source: Ipv6Addr, next_header: u8) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next_header, 64];
        packet.extend(source.octets());
        packet.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        packet
    }

    #[test]
    fn takes_tcp_between_hosts() {
        let filter = Filter::default();
        let (a, b) = ([10, 0, 0, 2], [10, 0, 0, 1]);
        assert!(filter.accepts(&v4(a, b, 6, 0)));
        assert!(filter.accepts(&v4(a, b, 6, 0x4000)));
        assert!(!filter.accepts(&v4(a, b, 17, 0)));
        assert!(!filter.accepts(&v4(a, b, 6, 0x2000)));
        assert!(!filter.accepts(&v4(a, b, 6, 1)));
        assert!(!filter.accepts(&v4([0; 4], b, 6, 0)));
        assert!(!filter.accepts(&v4([224, 0, 0, 1], b, 6, 0)));
        assert!(!filter.accepts(&v4(a, [255; 4], 6, 0)));
        assert!(filter.accepts(&v6("2001:db8::2".parse().unwrap(), 6)));
        assert!(!filter.accepts(&v6("2001:db8::2".parse().unwrap(), 44)));
        assert!(!filter.accepts(&v6("fe80::2".parse().unwrap(), 6)));
        let only = Filter { addresses: Some(vec![Ipv4Addr::new(10, 0, 0, 9).into()]) };
        assert!(!only.accepts(&v4(a, b, 6, 0)));
        assert!(only.accepts(&v4(a, [10, 0, 0, 9], 6, 0)));
    }

    #[test]
    fn who_sends_what_nobody_takes_is_told() {
        let (a, b) = ([10, 0, 0, 2], [10, 0, 0, 1]);
        assert_eq!(refusal(&v4(a, b, 17, 0)), Some(Refusal::Port));
        assert_eq!(refusal(&v4(a, b, 89, 0)), Some(Refusal::Protocol));
        assert_eq!(refusal(&v4(a, [224, 0, 0, 5], 89, 0)), None);
        assert_eq!([1, 2, 6].map(|protocol| refusal(&v4(a, b, protocol, 0))), [None; 3]);
        let host = "2001:db8::2".parse().unwrap();
        assert_eq!(refusal(&v6(host, 17)), Some(Refusal::Port));
        assert_eq!(refusal(&v6(host, 132)), Some(Refusal::Protocol));
        assert_eq!([58, 59, 6].map(|protocol| refusal(&v6(host, protocol))), [None; 3]);
        let behind_options = [v6(host, 60), vec![17, 0, 1, 4, 0, 0, 0, 0]].concat();
        assert_eq!(refusal(&behind_options), Some(Refusal::Port));
        assert_eq!(refusal(&behind_options[..41]), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), version in prop_oneof![Just(0x45u8), Just(0x60)]) {
            let filter = Filter::default();
            let _ = filter.accepts(&bytes);
            let packet = [vec![version], bytes].concat();
            let _ = (filter.accepts(&packet), refusal(&packet));
        }
    }
}
