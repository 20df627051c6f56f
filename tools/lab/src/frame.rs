//! Frames made and taken apart by etherparse, which shares nothing with the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv4Slice, Icmpv6Slice, IpNumber,
    Ipv4Header, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice, UdpSlice,
};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Length of an Ethernet header without tags.
const ETHERNET_BYTES: usize = 14;

/// To everybody on the wire.
pub const BROADCAST: Mac = [0xff; 6];

/// ICMP: echo reply (RFC 792).
pub const ICMP4_ECHO_REPLY: u8 = 0;
/// ICMP: destination unreachable (RFC 792); code 4 is "fragmentation needed".
pub const ICMP4_UNREACHABLE: u8 = 3;
/// ICMP: time exceeded (RFC 792).
pub const ICMP4_TIME_EXCEEDED: u8 = 11;
/// `ICMPv6`: packet too big (RFC 4443 section 3.2).
pub const ICMP6_PACKET_TOO_BIG: u8 = 2;
/// `ICMPv6`: time exceeded (RFC 4443 section 3.3).
pub const ICMP6_TIME_EXCEEDED: u8 = 3;
/// `ICMPv6`: echo reply (RFC 4443 section 4.2).
pub const ICMP6_ECHO_REPLY: u8 = 129;
/// `ICMPv6`: neighbour solicitation (RFC 4861 section 4.3).
pub const ICMP6_NEIGHBOUR_SOLICITATION: u8 = 135;
/// `ICMPv6`: neighbour advertisement (RFC 4861 section 4.4).
pub const ICMP6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// From whom to whom, on the wire and in the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Source on this wire.
    pub source_mac: Mac,
    /// Destination on this wire.
    pub destination_mac: Mac,
    /// IP source; of the same family as `destination`.
    pub source: IpAddr,
    /// IP destination.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An ARP packet (RFC 826).
    Arp {
        /// A request, else a reply.
        request: bool,
        /// Who speaks.
        sender: (Mac, Ipv4Addr),
        /// Whom it is about (request) or for (reply).
        target: Ipv4Addr,
    },
    /// An IP packet whose checksums are right.
    Ip(Ends, Payload),
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A whole UDP datagram.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// The datagram's data.
        data: Vec<u8>,
    },
    /// An ICMP or `ICMPv6` message.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum.
        rest: [u8; 4],
        /// What follows them.
        data: Vec<u8>,
    },
    /// ESP (RFC 4303 section 2), whole.
    Esp {
        /// Of which security association.
        spi: u32,
        /// Low half of its sequence number.
        sequence: u32,
    },
    /// Something else, or a fragment.
    Other,
}

/// A UDP datagram in one frame.
pub fn udp(ends: &Ends, source_port: u16, destination_port: u16, data: &[u8]) -> Vec<u8> {
    let builder = over_ip(ends).udp(source_port, destination_port);
    written(|frame| builder.write(frame, data))
}

/// An echo request in one frame.
pub fn echo_request(ends: &Ends, identifier: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
    let builder = match ends.source {
        IpAddr::V4(_) => {
            let builder = over_ip(ends).icmpv4_echo_request(identifier, sequence);
            return written(|frame| builder.write(frame, data));
        }
        IpAddr::V6(_) => over_ip(ends).icmpv6_echo_request(identifier, sequence),
    };
    written(|frame| builder.write(frame, data))
}

/// Who has `target`? Tell `sender`.
pub fn arp_request(sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    arp(ArpOperation::REQUEST, sender, ([0; 6], target), BROADCAST)
}

/// `sender` answers `target`.
pub fn arp_reply(sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    arp(ArpOperation::REPLY, sender, target, target.0)
}

fn arp(
    operation: ArpOperation,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
    destination: Mac,
) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    );
    let builder = PacketBuilder::ethernet2(sender.0, destination)
        .arp(packet.expect("address lengths are those of Ethernet"));
    written(|frame| builder.write(frame))
}

/// Who has `target`? Asked of its solicited-node group (RFC 4861 section 4.3).
pub fn neighbour_solicitation(sender: (Mac, Ipv6Addr), target: Ipv6Addr) -> Vec<u8> {
    let low = &target.octets()[13..];
    let mut group = [0; 16];
    group[..2].copy_from_slice(&[0xff, 0x02]);
    group[11..].copy_from_slice(&[0x01, 0xff, low[0], low[1], low[2]]);
    let ends = Ends {
        source_mac: sender.0,
        destination_mac: [0x33, 0x33, 0xff, low[0], low[1], low[2]],
        source: sender.1.into(),
        destination: IpAddr::from(group),
        hop_limit: 255,
    };
    neighbour_message(&ends, ICMP6_NEIGHBOUR_SOLICITATION, 0, target, 1)
}

/// `sender` tells `to` its own address, solicited and overriding (RFC 4861 section 4.4).
pub fn neighbour_advertisement(sender: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr)) -> Vec<u8> {
    let ends = Ends {
        source_mac: sender.0,
        destination_mac: to.0,
        source: sender.1.into(),
        destination: to.1.into(),
        hop_limit: 255,
    };
    const SOLICITED_OVERRIDE: u8 = 0x60;
    neighbour_message(&ends, ICMP6_NEIGHBOUR_ADVERTISEMENT, SOLICITED_OVERRIDE, sender.1, 2)
}

fn neighbour_message(ends: &Ends, kind: u8, flags: u8, target: Ipv6Addr, option: u8) -> Vec<u8> {
    let link_layer_address = [&[option, 1], ends.source_mac.as_slice()].concat();
    let data = [target.octets().as_slice(), &link_layer_address].concat();
    let builder = over_ip(ends).icmpv6_raw(kind, 0, [flags, 0, 0, 0]);
    written(|frame| builder.write(frame, &data))
}

fn over_ip(ends: &Ends) -> PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet: PacketBuilderStep<Ethernet2Header> =
        PacketBuilder::ethernet2(ends.source_mac, ends.destination_mac);
    match (ends.source, ends.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), ends.hop_limit)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), ends.hop_limit)
        }
        mixed => panic!("a packet has one family: {mixed:?}"),
    }
}

fn written<E: std::fmt::Debug>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame).expect("a test frame fits its length fields");
    frame
}

/// Sets or clears "don't fragment" in a frame whose IPv4 header follows the Ethernet header.
pub fn set_dont_fragment(frame: &mut [u8], on: bool) {
    let (header, _) = Ipv4Header::from_slice(&frame[ETHERNET_BYTES..]).expect("an IPv4 header");
    let mut header = Ipv4Header { dont_fragment: on, ..header };
    header.header_checksum = header.calc_header_checksum();
    let bytes = header.to_bytes();
    frame[ETHERNET_BYTES..ETHERNET_BYTES + bytes.len()].copy_from_slice(&bytes);
}

/// Puts the fragments of one IPv4 packet together (RFC 791 section 3.2).
#[derive(Debug, Default)]
pub struct Reassembly {
    /// Offset and data of each fragment.
    parts: Vec<(usize, Vec<u8>)>,
    /// Known when the last fragment has been seen.
    total_bytes: Option<usize>,
}

impl Reassembly {
    /// Takes a fragment; other frames are passed over. The payload of the IP packet once it is whole. Fragments that
    /// are larger than `mtu` or overlap are an error.
    pub fn add(&mut self, frame: &[u8], mtu: usize) -> Option<anyhow::Result<Vec<u8>>> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(NetSlice::Ipv4(slice)) = packet.net else { return None };
        let header = slice.header();
        if !header.is_fragmenting_payload() {
            return None;
        }
        if usize::from(header.total_len()) > mtu {
            return Some(Err(anyhow::anyhow!("a fragment of {} bytes", header.total_len())));
        }
        let offset = usize::from(header.fragments_offset().byte_offset());
        let data = slice.payload().payload.to_vec();
        if !header.more_fragments() {
            self.total_bytes = Some(offset + data.len());
        }
        self.parts.push((offset, data));
        self.parts.sort();
        self.whole()
    }

    fn whole(&self) -> Option<anyhow::Result<Vec<u8>>> {
        let mut payload = Vec::new();
        for (offset, data) in &self.parts {
            match payload.len().cmp(offset) {
                std::cmp::Ordering::Less => return None,
                std::cmp::Ordering::Equal => payload.extend_from_slice(data),
                std::cmp::Ordering::Greater => {
                    return Some(Err(anyhow::anyhow!("fragments overlap at {offset}")));
                }
            }
        }
        (self.total_bytes == Some(payload.len())).then_some(Ok(payload))
    }
}

/// What the frame says, or `None` if it is not ARP or IP over Ethernet, is cut short, or has a wrong checksum.
pub fn parse(frame: &[u8]) -> Option<Seen> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let ethernet = Ethernet2Header::from_slice(frame).ok()?.0;
    let (source, destination, hop_limit) = match packet.net.as_ref()? {
        NetSlice::Arp(slice) => {
            let arp = slice.to_packet().try_eth_ipv4().ok()?;
            return Some(Seen::Arp {
                request: arp.operation == ArpOperation::REQUEST,
                sender: (arp.sender_mac, arp.sender_ipv4.into()),
                target: arp.target_ipv4.into(),
            });
        }
        NetSlice::Ipv4(slice) => {
            let header = slice.header().to_header();
            if header.header_checksum != header.calc_header_checksum() {
                return None;
            }
            (IpAddr::from(header.source), IpAddr::from(header.destination), header.time_to_live)
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header().to_header();
            (IpAddr::from(header.source), IpAddr::from(header.destination), header.hop_limit)
        }
    };
    let ends = Ends {
        source_mac: ethernet.source,
        destination_mac: ethernet.destination,
        source,
        destination,
        hop_limit,
    };
    let payload = match packet.transport {
        Some(TransportSlice::Udp(udp)) => udp_payload(&ends, &udp)?,
        Some(TransportSlice::Icmpv4(icmp)) => icmp4_payload(&icmp)?,
        Some(TransportSlice::Icmpv6(icmp)) => icmp6_payload(&ends, &icmp)?,
        _ => esp_payload(packet.net.as_ref()?).unwrap_or(Payload::Other),
    };
    Some(Seen::Ip(ends, payload))
}

fn esp_payload(net: &NetSlice) -> Option<Payload> {
    let ip = net.ip_payload_ref()?;
    let is_whole = ip.ip_number == IpNumber::ENCAPSULATING_SECURITY_PAYLOAD && !ip.fragmented;
    let (spi, rest) = ip.payload.split_first_chunk().filter(|_| is_whole)?;
    let sequence = rest.first_chunk()?;
    Some(Payload::Esp { spi: u32::from_be_bytes(*spi), sequence: u32::from_be_bytes(*sequence) })
}

fn udp_payload(ends: &Ends, udp: &UdpSlice) -> Option<Payload> {
    let header = udp.to_header();
    let expected = match (ends.source, ends.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), udp.payload())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), udp.payload())
        }
        _ => return None,
    };
    (header.checksum == expected.ok()?).then(|| Payload::Udp {
        source_port: header.source_port,
        destination_port: header.destination_port,
        data: udp.payload().to_vec(),
    })
}

fn icmp4_payload(icmp: &Icmpv4Slice) -> Option<Payload> {
    let right = icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum();
    right.then(|| Payload::Icmp {
        kind: icmp.type_u8(),
        code: icmp.code_u8(),
        rest: icmp.bytes5to8(),
        data: icmp.payload().to_vec(),
    })
}

fn icmp6_payload(ends: &Ends, icmp: &Icmpv6Slice) -> Option<Payload> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (ends.source, ends.destination) else { return None };
    icmp.is_checksum_valid(source.octets(), destination.octets()).then(|| Payload::Icmp {
        kind: icmp.type_u8(),
        code: icmp.code_u8(),
        rest: icmp.bytes5to8(),
        data: icmp.payload().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    fn ends(source: &str, destination: &str) -> Ends {
        Ends {
            source_mac: A,
            destination_mac: B,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            hop_limit: 9,
        }
    }

    #[test]
    fn udp_of_both_families_is_read_back_and_damage_noticed() {
        for ends in [ends("10.0.0.1", "10.0.1.2"), ends("2001:db8::1", "2001:db8:1::2")] {
            let mut frame = udp(&ends, 1000, 2000, b"payload");
            let data = b"payload".to_vec();
            let expected = Payload::Udp { source_port: 1000, destination_port: 2000, data };
            assert_eq!(parse(&frame), Some(Seen::Ip(ends, expected)));
            *frame.last_mut().unwrap() ^= 1;
            assert_eq!(parse(&frame), None);
        }
        let mut bad_ip_checksum = udp(&ends("10.0.0.1", "10.0.1.2"), 1, 2, b"");
        bad_ip_checksum[24] ^= 1;
        assert_eq!(parse(&bad_ip_checksum), None);
    }

    #[test]
    fn echo_requests_carry_their_numbers() {
        for (ends, kind) in [(ends("10.0.0.1", "10.0.1.2"), 8), (ends("fe80::1", "fe80::2"), 128)] {
            let frame = echo_request(&ends, 0x1234, 5, b"abc");
            let expected = Payload::Icmp { kind, code: 0, rest: [0x12, 0x34, 0, 5], data: b"abc".to_vec() };
            assert_eq!(parse(&frame), Some(Seen::Ip(ends, expected)));
        }
    }

    #[test]
    fn esp_is_told_from_other_protocols_and_from_fragments() {
        let ends = ends("192.0.2.1", "192.0.2.2");
        let esp = |protocol, data: &[u8], more_fragments| {
            let mut header =
                Ipv4Header::new(data.len() as u16, 9, IpNumber(protocol), [192, 0, 2, 1], [192, 0, 2, 2])
                    .unwrap();
            header.more_fragments = more_fragments;
            header.header_checksum = header.calc_header_checksum();
            let ethernet = &udp(&ends, 1, 2, b"")[..ETHERNET_BYTES];
            parse(&[ethernet, &header.to_bytes(), data].concat())
        };
        let data = [0, 0, 0x10, 1, 0, 0, 0, 7, 0xff];
        assert_eq!(esp(50, &data, false), Some(Seen::Ip(ends, Payload::Esp { spi: 0x1001, sequence: 7 })));
        for (protocol, bytes, more) in [(50, 7, false), (50, 8, true), (51, 9, false), (254, 9, false)] {
            let seen = esp(protocol, &data[..bytes], more);
            assert!(!matches!(seen, Some(Seen::Ip(_, Payload::Esp { .. }))), "{protocol} {bytes} {seen:?}");
        }
    }

    #[test]
    fn fragments_are_put_together_in_any_order() {
        let whole = udp(&ends("10.0.0.1", "10.0.1.2"), 1, 2, &[7; 36]);
        let fragment = |offset: usize, length: usize, more: bool| {
            let (mut header, payload) = Ipv4Header::from_slice(&whole[ETHERNET_BYTES..]).unwrap();
            header.dont_fragment = false;
            header.more_fragments = more;
            header.fragment_offset = etherparse::IpFragOffset::try_new(offset as u16 / 8).unwrap();
            header.set_payload_len(length).unwrap();
            header.header_checksum = header.calc_header_checksum();
            [&whole[..ETHERNET_BYTES], &header.to_bytes(), &payload[offset..offset + length]].concat()
        };
        let (first, last) = (fragment(0, 24, true), fragment(24, 20, false));
        let mut reassembly = Reassembly::default();
        assert!(reassembly.add(&whole, 100).is_none() && reassembly.add(&last, 100).is_none());
        assert_eq!(reassembly.add(&first, 100).unwrap().unwrap(), whole[ETHERNET_BYTES + 20..]);
        assert!(reassembly.add(&first, 100).unwrap().is_err(), "an overlap");
        assert!(Reassembly::default().add(&first, 43).unwrap().is_err(), "larger than the MTU");
    }

    #[test]
    fn the_flag_is_changed_and_the_checksum_right() {
        let mut frame = udp(&ends("10.0.0.1", "10.0.1.2"), 1, 2, b"x");
        for (on, bits) in [(false, 0), (true, 0x40)] {
            set_dont_fragment(&mut frame, on);
            assert_eq!(frame[ETHERNET_BYTES + 6], bits);
            assert!(parse(&frame).is_some());
        }
    }

    #[test]
    fn address_resolution_frames_follow_their_rfcs() {
        let (one, two) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let request = arp_request((A, one), two);
        assert_eq!(request[..6], BROADCAST);
        assert_eq!(parse(&request), Some(Seen::Arp { request: true, sender: (A, one), target: two }));
        let reply = arp_reply((B, two), (A, one));
        assert_eq!(parse(&reply), Some(Seen::Arp { request: false, sender: (B, two), target: one }));

        let target: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
        let solicitation = neighbour_solicitation((A, "fe80::1".parse().unwrap()), target);
        assert_eq!(solicitation[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let Some(Seen::Ip(ends, Payload::Icmp { kind, data, .. })) = parse(&solicitation) else { panic!() };
        assert_eq!((kind, ends.hop_limit), (ICMP6_NEIGHBOUR_SOLICITATION, 255));
        assert_eq!(ends.destination, "ff02::1:ff12:3456".parse::<IpAddr>().unwrap());
        assert_eq!(data, [target.octets().as_slice(), &[1, 1], &A].concat());
    }
}
