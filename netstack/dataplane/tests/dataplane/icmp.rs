//! What the router answers itself: echo, errors, and when it keeps silent.

use crate::common::*;
use dataplane::DropReason;
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv4, icmpv6};

/// The ICMP message of a frame; its and its IPv4 header's checksums must be right.
fn icmp4(frame: &[u8]) -> (Icmpv4Type, Vec<u8>, [u8; 4], [u8; 4]) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4: {sliced:?}") };
    let header = ip.header();
    assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
    assert_eq!(packet::checksum::of(ip.payload().payload).get(), 0, "ICMP checksum");
    let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else { panic!("not ICMP: {sliced:?}") };
    (icmp.icmp_type(), icmp.payload().to_vec(), header.source(), header.destination())
}

/// The same of ICMPv6.
fn icmp6(frame: &[u8]) -> (Icmpv6Type, Vec<u8>, [u8; 16], [u8; 16]) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("not IPv6: {sliced:?}") };
    let (source, destination) = (ip.header().source(), ip.header().destination());
    let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("not ICMPv6: {sliced:?}") };
    assert!(icmp.is_checksum_valid(source, destination), "ICMPv6 checksum");
    (icmp.icmp_type(), icmp.payload().to_vec(), source, destination)
}

fn address6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().expect("a literal address").octets()
}

#[test]
fn echo_is_answered() {
    for payload in [0, 1, 56, 1400] {
        let mut bed = Testbed::new();
        let mut frame = Vec::new();
        let builder = to_router().ipv4([10, 0, 0, 5], [10, 0, 0, 1], 64).icmpv4_echo_request(7, 9);
        builder.write(&mut frame, &pattern(payload)).expect("a vector takes all");
        bed.send(0, &frame);
        let (kind, data, source, destination) = icmp4(&bed.only_sent(0));
        assert!(matches!(kind, Icmpv4Type::EchoReply(echo) if echo.id == 7 && echo.seq == 9));
        assert_eq!((data, source, destination), (pattern(payload), [10, 0, 0, 1], [10, 0, 0, 5]));

        let mut frame = Vec::new();
        let (host, router) = (address6("2001:db8:0::5"), address6("2001:db8:1::1"));
        let builder = to_router().ipv6(host, router, 64).icmpv6_echo_request(7, 9);
        builder.write(&mut frame, &pattern(payload)).expect("a vector takes all");
        bed.send(0, &frame);
        let (kind, data, source, destination) = icmp6(&bed.only_sent(0));
        assert!(matches!(kind, Icmpv6Type::EchoReply(echo) if echo.id == 7 && echo.seq == 9));
        assert_eq!((data, source, destination), (pattern(payload), router, host));
        bed.assert_balanced();
    }
}

#[test]
fn a_reply_of_zeros_alone_has_a_checksum() {
    let mut bed = Testbed::new();
    let mut frame = Vec::new();
    let builder = to_router().ipv4([10, 0, 0, 5], [10, 0, 0, 1], 64).icmpv4_echo_request(0, 0);
    builder.write(&mut frame, &[0; 56]).expect("a vector takes all");
    bed.send(0, &frame);
    let (kind, data, ..) = icmp4(&bed.only_sent(0));
    assert!(matches!(kind, Icmpv4Type::EchoReply(echo) if echo.id == 0 && echo.seq == 0));
    assert_eq!(data, [0; 56]);
    bed.assert_balanced();
}

#[test]
fn link_local_echo_goes_back_where_it_came_from() {
    let mut bed = Testbed::new();
    let (host, router) = (address6("fe80::5"), address6("fe80::1"));
    let mut frame = Vec::new();
    let builder = tagged_to_router(VLAN_ID).ipv6(host, router, 64).icmpv6_echo_request(1, 2);
    builder.write(&mut frame, b"hello").expect("a vector takes all");
    bed.send(1, &frame);
    let sent = bed.only_sent(1);
    assert_eq!((&sent[..6], &sent[6..12], &sent[12..16]), (&HOST1_VLAN[..], &MAC1[..], &frame[12..16]));
    let (_, _, source, destination) = icmp6(&sent);
    assert_eq!((source, destination), (router, host));
    bed.assert_balanced();
}

#[test]
fn an_expired_ttl_is_told() {
    let mut bed = Testbed::new();
    let frame = udp4([10, 1, 2, 3], 1, 10);
    bed.send(0, &frame);
    let (kind, quoted, source, destination) = icmp4(&bed.only_sent(0));
    assert!(matches!(kind, Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)));
    assert_eq!((quoted, source, destination), (frame[14..].to_vec(), [10, 0, 0, 1], [10, 0, 0, 5]));

    let frame = udp6("2001:db8:1001::9", 1, 10);
    bed.send(0, &frame);
    let (kind, quoted, source, _) = icmp6(&bed.only_sent(0));
    assert!(matches!(kind, Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded)));
    assert_eq!((quoted, source), (frame[14..].to_vec(), address6("2001:db8:0::1")));
    assert_eq!(bed.drops(), [(DropReason::Ip4TtlExpired, 1), (DropReason::Ip6HopLimitExpired, 1)]);
    bed.assert_balanced();
}

#[test]
fn unreachable_destinations_are_told() {
    use icmpv4::DestUnreachableHeader as Unreachable4;
    use icmpv6::DestUnreachableCode as Unreachable6;
    let mut bed = Testbed::new();
    let mut kind4 = |destination| {
        bed.send(0, &udp4(destination, 64, 10));
        icmp4(&bed.only_sent(0)).0
    };
    let no_route = Icmpv4Type::DestinationUnreachable(Unreachable4::Network);
    assert_eq!(kind4([99, 0, 0, 1]), no_route);
    let prohibited = Icmpv4Type::DestinationUnreachable(Unreachable4::FilterProhibited);
    assert_eq!(kind4([10, 5, 0, 1]), prohibited);
    let mut kind6 = |destination| {
        bed.send(0, &udp6(destination, 64, 10));
        icmp6(&bed.only_sent(0)).0
    };
    assert_eq!(kind6("2001:db8:9999::1"), Icmpv6Type::DestinationUnreachable(Unreachable6::NoRoute));
    assert_eq!(kind6("2001:db8:1005::1"), Icmpv6Type::DestinationUnreachable(Unreachable6::Prohibited));
    bed.send(0, &udp4([10, 4, 0, 1], 64, 10));
    bed.assert_nothing_sent();
    let drops = bed.drops();
    assert!(
        drops.contains(&(DropReason::Blackhole, 1)) && drops.contains(&(DropReason::Ip4NoRoute, 1)),
        "{drops:?}"
    );
    bed.assert_balanced();
}

#[test]
fn too_long_packets_are_told_the_mtu() {
    let mut bed = Testbed::with_mtu(1300);
    let mut frame = udp4([10, 1, 2, 3], 64, 1400);
    frame[20] |= 0x40;
    fix_ipv4_checksum(&mut frame);
    bed.send(0, &frame);
    let sent = bed.only_sent(0);
    assert_eq!(sent.len(), 14 + 576);
    let (kind, quoted, ..) = icmp4(&sent);
    let expected = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 };
    assert_eq!(kind, Icmpv4Type::DestinationUnreachable(expected));
    assert_eq!(quoted, frame[14..14 + 548]);

    let frame = udp6("2001:db8:1001::9", 64, 1400);
    bed.send(0, &frame);
    let sent = bed.only_sent(0);
    assert_eq!(sent.len(), 14 + 1280);
    let (kind, quoted, ..) = icmp6(&sent);
    assert_eq!(kind, Icmpv6Type::PacketTooBig { mtu: 1300 });
    assert_eq!(quoted, frame[14..14 + 1232]);
    bed.assert_balanced();
}

#[test]
fn no_errors_about_errors_groups_later_fragments_and_strangers() {
    let mut bed = Testbed::new();
    let mut error = Vec::new();
    let time_exceeded = Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit);
    let builder = to_router().ipv4([10, 0, 0, 5], [99, 0, 0, 1], 64).icmpv4(time_exceeded);
    builder.write(&mut error, &pattern(28)).expect("a vector takes all");
    let mut error6 = Vec::new();
    let builder = to_router()
        .ipv6(address6("2001:db8:0::5"), address6("2001:db8:9999::1"), 64)
        .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 });
    builder.write(&mut error6, &pattern(48)).expect("a vector takes all");
    let mut fragment = udp4([99, 0, 0, 1], 64, 10);
    fragment[21] = 5;
    fix_ipv4_checksum(&mut fragment);
    let mut broadcast = udp4([99, 0, 0, 1], 64, 10);
    broadcast[..6].fill(0xff);
    for frame in [error, error6, fragment, broadcast] {
        bed.send(0, &frame);
        bed.assert_nothing_sent();
    }
    assert_eq!(bed.shared.packet_totals().made, 0);
    assert_eq!(
        bed.drops(),
        [(DropReason::UnicastInLinkGroup, 1), (DropReason::Ip4NoRoute, 2), (DropReason::Ip6NoRoute, 1)]
    );
    bed.assert_balanced();
}

#[test]
fn errors_are_rate_limited() {
    let mut bed = Testbed::new();
    for _ in 0..300 {
        bed.send(0, &udp4([99, 0, 0, 1], 64, 10));
    }
    assert_eq!(bed.sent(0).len(), 100);
    bed.now_ns += 10_000_000;
    for _ in 0..300 {
        bed.send(0, &udp4([99, 0, 0, 1], 64, 10));
    }
    assert_eq!(bed.sent(0).len(), 10);
    assert_eq!(bed.drops(), [(DropReason::Ip4NoRoute, 600)]);
    bed.assert_balanced();
}
