//! A translated packet is the packet that another implementation builds for the new addresses and ports.

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4};
use flow::{V4, V6};
use proptest::prelude::*;
use rewrite::{Fragment, Malformed, Refused, Transport, Tuple, View, translate, translate_error};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn v4(protocol: u8) -> impl Strategy<Value = V4> {
    (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u16>(), any::<u16>()).prop_map(
        move |(source, destination, source_port, destination_port)| V4 {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
        },
    )
}

fn v6(protocol: u8) -> impl Strategy<Value = V6> {
    (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u16>(), any::<u16>()).prop_map(
        move |(source, destination, source_port, destination_port)| V6 {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
        },
    )
}

/// Two tuples of one family and protocol.
fn tuples() -> impl Strategy<Value = (Tuple, Tuple)> {
    prop_oneof![
        (v4(TCP), v4(TCP)).prop_map(|(a, b)| (Tuple::V4(a), Tuple::V4(b))),
        (v4(UDP), v4(UDP)).prop_map(|(a, b)| (Tuple::V4(a), Tuple::V4(b))),
        (v6(TCP), v6(TCP)).prop_map(|(a, b)| (Tuple::V6(a), Tuple::V6(b))),
        (v6(UDP), v6(UDP)).prop_map(|(a, b)| (Tuple::V6(a), Tuple::V6(b))),
    ]
}

/// A packet of a flow, built by somebody else's code.
fn build(tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    let ip = match tuple {
        Tuple::V4(key) => PacketBuilder::ipv4(key.source, key.destination, 61),
        Tuple::V6(key) => PacketBuilder::ipv6(key.source, key.destination, 61),
    };
    let (source, destination) = tuple.ports();
    let mut bytes = Vec::new();
    match tuple.protocol() {
        TCP => ip.tcp(source, destination, 0x0102_0304, 500).ack(7).write(&mut bytes, payload).unwrap(),
        _ => ip.udp(source, destination).write(&mut bytes, payload).unwrap(),
    }
    bytes
}

/// An error to `to` about a packet.
fn error(to: &Tuple, about: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match to {
        Tuple::V4(key) => {
            let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
            let ip = PacketBuilder::ipv4([198, 51, 100, 9], key.source, 250);
            ip.icmpv4(Icmpv4Type::DestinationUnreachable(kind)).write(&mut bytes, about).unwrap();
        }
        Tuple::V6(key) => {
            let ip = PacketBuilder::ipv6([0xfd; 16], key.source, 250);
            ip.icmpv6(Icmpv6Type::PacketTooBig { mtu: 1400 }).write(&mut bytes, about).unwrap();
        }
    }
    bytes
}

fn header_len(tuple: &Tuple) -> usize {
    if matches!(tuple, Tuple::V4(_)) { 20 } else { 40 }
}

proptest! {
    #[test]
    fn a_translated_packet_is_the_other_flows(
        (from, to) in tuples(),
        payload in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut packet = build(&from, &payload);
        let view = View::parse(&packet).unwrap();
        prop_assert_eq!(view.tuple, from);
        translate(&mut packet, &view, &to).unwrap();
        prop_assert_eq!(&packet, &build(&to, &payload));
        // And back.
        let view = View::parse(&packet).unwrap();
        translate(&mut packet, &view, &from).unwrap();
        prop_assert_eq!(packet, build(&from, &payload));
    }

    #[test]
    fn an_error_is_about_the_packet_as_its_sender_knows_it(
        (original, translated) in tuples(),
        payload in prop::collection::vec(any::<u8>(), 0..80),
        length in 8usize..200,
    ) {
        // Half a TCP checksum stays as it is: nobody can check it, and routers cut at multiples of four bytes (RFC 1812).
        prop_assume!(length != 17);
        let cut = |tuple: &Tuple| {
            let mut packet = build(tuple, &payload);
            packet.truncate(header_len(tuple) + length);
            packet
        };
        let mut packet = error(&translated, &cut(&translated));
        let view = View::parse(&packet).unwrap();
        let Transport::Error(offset) = view.transport else { panic!("{view:?}") };
        prop_assert_eq!(View::parse_embedded(&packet[offset..]).unwrap().tuple, translated);
        translate_error(&mut packet, &view, &original).unwrap();
        prop_assert_eq!(packet, error(&original, &cut(&original)));
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..120), version in 0u8..3, (_, to) in tuples()) {
        let mut packet = bytes;
        if let Some(first) = packet.first_mut() {
            *first = [0x45, 0x60, *first][version as usize];
        }
        let before = packet.clone();
        let Ok(view) = View::parse(&packet) else { return Ok(()) };
        let _ = View::parse_embedded(&packet);
        if translate_error(&mut packet, &view, &to).is_err() {
            prop_assert_eq!(&packet, &before);
        }
        packet.clone_from(&before);
        if translate(&mut packet, &view, &to).is_err() {
            prop_assert_eq!(&packet, &before);
        }
        prop_assert_eq!(packet.len(), before.len());
    }
}

fn udp(source_port: u16) -> Tuple {
    let (source, destination) = ([10, 0, 0, 1], [192, 0, 2, 1]);
    Tuple::V4(V4 { source, destination, source_port, destination_port: 53, protocol: UDP })
}

#[test]
fn a_udp_checksum_of_zero_means_none_and_stays() {
    let mut packet = build(&udp(1), b"abc");
    packet[26..28].fill(0);
    let view = View::parse(&packet).unwrap();
    translate(&mut packet, &view, &udp(2)).unwrap();
    assert_eq!(packet[26..28], [0, 0]);
    let mut expected = build(&udp(2), b"abc");
    expected[26..28].fill(0);
    assert_eq!(packet, expected);
}

#[test]
fn a_udp_checksum_never_becomes_zero() {
    let mut all_ones = 0;
    let packet = build(&udp(0), b"abc");
    let view = View::parse(&packet).unwrap();
    for port in 0..=u16::MAX {
        let mut packet = packet.clone();
        translate(&mut packet, &view, &udp(port)).unwrap();
        assert_ne!(packet[26..28], [0, 0]);
        all_ones += usize::from(packet[26..28] == [0xff, 0xff]);
        if packet[26..28] == [0xff, 0xff] {
            assert_eq!(packet, build(&udp(port), b"abc"));
        }
    }
    assert_eq!(all_ones, 1);
}

#[test]
fn an_echos_identifier_is_its_port() {
    let echo = |id: u16, to: [u8; 4]| {
        let mut bytes = Vec::new();
        let ip = PacketBuilder::ipv4([10, 0, 0, 1], to, 61);
        ip.icmpv4_echo_request(id, 5).write(&mut bytes, b"ping").unwrap();
        bytes
    };
    let mut packet = echo(77, [192, 0, 2, 1]);
    let view = View::parse(&packet).unwrap();
    assert_eq!((view.transport, view.tuple.ports()), (Transport::Echo, (77, 0)));
    let Tuple::V4(key) = view.tuple else { panic!("{view:?}") };
    let to = V4 { destination: [10, 9, 9, 9], source_port: 78, ..key };
    translate(&mut packet, &view, &Tuple::V4(to)).unwrap();
    assert_eq!(packet, echo(78, [10, 9, 9, 9]));

    let echo6 = |id: u16, to: [u8; 16]| {
        let mut bytes = Vec::new();
        let ip = PacketBuilder::ipv6([1; 16], to, 61);
        let header = etherparse::IcmpEchoHeader { id, seq: 5 };
        ip.icmpv6(Icmpv6Type::EchoReply(header)).write(&mut bytes, b"ping").unwrap();
        bytes
    };
    let mut packet = echo6(77, [2; 16]);
    let view = View::parse(&packet).unwrap();
    let Tuple::V6(key) = view.tuple else { panic!("{view:?}") };
    assert_eq!((key.source_port, key.destination_port), (0, 77));
    let to = V6 { destination: [3; 16], destination_port: 78, ..key };
    translate(&mut packet, &view, &Tuple::V6(to)).unwrap();
    assert_eq!(packet, echo6(78, [3; 16]));
}

/// An IPv4 fragment of a UDP packet: offset in 8 bytes, and whether more follow.
fn fragment(tuple: &Tuple, payload: &[u8], offset: u16, more: bool) -> Vec<u8> {
    let whole = build(tuple, payload);
    let mut header: [u8; 20] = whole[..20].try_into().unwrap();
    let data = &whole[20..];
    let start = usize::from(offset) * 8;
    let data = if more { &data[start..start + 16] } else { &data[start..] };
    header[2..4].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
    header[4..6].copy_from_slice(&0xabcd_u16.to_be_bytes());
    header[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
    header[10..12].fill(0);
    let checksum = packet::checksum::of(&header);
    header[10..12].copy_from_slice(&checksum.to_bytes());
    [&header[..], data].concat()
}

#[test]
fn fragments_together_are_the_translated_packet() {
    let payload: Vec<u8> = (0..50).collect();
    let (from, to) = (udp(1), udp(2));
    for (offset, more, expected) in
        [(0, true, Fragment::First), (2, true, Fragment::Later), (4, false, Fragment::Later)]
    {
        let mut packet = fragment(&from, &payload, offset, more);
        let view = View::parse(&packet).unwrap();
        assert_eq!(view.fragment, expected);
        assert_eq!(view.tuple.ports(), if expected == Fragment::First { (1, 53) } else { (0, 0) });
        let key = view.fragments_key();
        assert_eq!((key.ports(), key.protocol()), ((0x100 | u16::from(UDP), 0xabcd), 44));
        translate(&mut packet, &view, &to).unwrap();
        assert_eq!(packet, fragment(&to, &payload, offset, more));
    }
}

#[test]
fn ipv6_extensions_are_passed() {
    let tuple = Tuple::V6(V6 {
        source: [1; 16],
        destination: [2; 16],
        source_port: 9,
        destination_port: 53,
        protocol: UDP,
    });
    let plain = build(&tuple, b"x");
    let with = |extensions: &[u8], first: u8| {
        let mut packet = plain[..40].to_vec();
        packet[6] = first;
        packet.extend_from_slice(extensions);
        packet.extend_from_slice(&plain[40..]);
        packet
    };
    let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 1, 4, 0, 0, 0, 0];
    let view = View::parse(&with(&hop_by_hop, 0)).unwrap();
    assert_eq!((view.tuple, view.transport_offset, view.fragment), (tuple, 56, Fragment::Whole));
    let first = View::parse(&with(&[UDP, 0, 0, 1, 1, 2, 3, 4], 44)).unwrap();
    assert_eq!((first.tuple, first.fragment, first.identification), (tuple, Fragment::First, 0x0102_0304));
    let later = View::parse(&with(&[UDP, 0, 0, 9, 1, 2, 3, 4], 44)).unwrap();
    assert_eq!((later.tuple.ports(), later.fragment), ((0, 0), Fragment::Later));
    assert_eq!(later.fragments_key(), first.fragments_key());
    assert_eq!(later.fragments_key().ports(), (0x0102, 0x0304));
    let atomic = View::parse(&with(&[UDP, 0, 0, 0, 1, 2, 3, 4], 44)).unwrap();
    assert_eq!((atomic.tuple, atomic.fragment), (tuple, Fragment::Whole));
    assert_eq!(View::parse(&with(&[0; 72], 0)), Err(Malformed::Extensions));
}

#[test]
fn what_cannot_be_translated_is_refused_and_stays() {
    let packet = build(&udp(1), b"abcdefgh");
    let view = View::parse(&packet).unwrap();
    let mut changed = packet.clone();
    let Tuple::V4(key) = udp(2) else { unreachable!() };
    let tcp = Tuple::V4(V4 { protocol: TCP, ..key });
    assert_eq!(translate(&mut changed, &view, &tcp), Err(Refused::Protocol));
    let other = Tuple::V6(V6 { protocol: UDP, ..V6::default() });
    assert_eq!(translate(&mut changed, &view, &other), Err(Refused::Family));
    assert_eq!(translate_error(&mut changed, &view, &udp(2)), Err(Refused::NotAnError));
    let mut sctp = packet.clone();
    sctp[9] = 132;
    // The first of several fragments: how long the whole is nobody knows.
    sctp[6] = 0x20;
    let view = View::parse(&sctp).unwrap();
    let to = |port| Tuple::V4(V4 { protocol: 132, source_port: port, destination: [9; 4], ..key });
    assert_eq!(translate(&mut sctp, &view, &to(2)), Err(Refused::SctpPorts));
    assert_eq!(translate(&mut sctp, &view, &to(1)), Ok(()));
    assert_eq!(sctp[16..20], [9; 4]);
    assert_eq!(changed, packet);
}
