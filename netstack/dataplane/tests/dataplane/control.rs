//! What passes between workers and control: punted and injected packets, new tables, sleep, the trace.

use crate::common::*;
use dataplane::{
    AdjacencyId, DropReason, Inject, InjectTo, InterfaceId, Node, PuntReason, Refusal, TraceRecord,
    TraceRequest, TracedDrops,
};
use etherparse::{PacketBuilder, TcpHeader};

fn arp_request() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(HOST0);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(HOST0);
    frame.extend([10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    frame
}

#[test]
fn packets_for_the_node_reach_control() {
    let mut bed = Testbed::new();
    bed.send(0, &arp_request());
    bed.send(0, &udp4([10, 0, 1, 1], 64, 10));
    bed.send(0, &udp4([255, 255, 255, 255], 64, 10));
    bed.send(0, &udp6("2001:db8:1::1", 64, 10));
    bed.send(0, &udp4([10, 0, 1, 77], 64, 10));
    let punts = bed.punts();
    let reasons: Vec<_> = punts.iter().map(|punt| punt.reason).collect();
    let unresolved = PuntReason::Unresolved(AdjacencyId(4));
    // Kinds take turns.
    let expected = [PuntReason::Arp, PuntReason::Local4, unresolved, PuntReason::Local4, PuntReason::Local6];
    assert_eq!(reasons, expected);
    assert!(punts.iter().all(|punt| punt.interface == ETH0));
    assert_eq!(punts[0].packet.data()[..2], [0, 1]);
    assert_eq!(punts[1].packet.data(), &udp4([10, 0, 1, 1], 64, 10)[14..]);
    assert_eq!(punts[2].packet.data()[8], 64, "the TTL of what waits for a neighbour is as it came");
    assert_eq!(bed.shared.interface_counters(ETH0).punts, 5);
    drop(punts);
    bed.assert_balanced();
}

#[test]
fn neighbour_discovery_reaches_control_if_it_is_valid() {
    let target = "2001:db8:0::1".parse::<std::net::Ipv6Addr>().expect("a literal address").octets();
    let solicitation = |hop_limit, break_checksum: bool| {
        let source = "fe80::5".parse::<std::net::Ipv6Addr>().expect("a literal address").octets();
        let group = packet::nd::solicited_node(target);
        let builder = PacketBuilder::ethernet2(HOST0, packet::ethernet::multicast_mac_ipv6(group))
            .ipv6(source, group, hop_limit);
        let mut frame = Vec::new();
        let builder = builder.icmpv6_raw(packet::nd::NEIGHBOR_SOLICITATION, 0, [0; 4]);
        builder.write(&mut frame, &target).expect("a vector takes all");
        frame[60] ^= u8::from(break_checksum);
        frame
    };
    let mut bed = Testbed::new();
    bed.send(0, &solicitation(255, false));
    bed.send(0, &solicitation(254, false));
    bed.send(0, &solicitation(255, true));
    assert_eq!(bed.punts().iter().map(|punt| punt.reason).collect::<Vec<_>>(), [PuntReason::Nd]);
    assert_eq!(bed.drops(), [(DropReason::IcmpMalformed, 1), (DropReason::NdMalformed, 1)]);
    bed.assert_balanced();
}

#[test]
fn who_asks_for_listeners_on_the_link_is_heard() {
    let query = |source: &str, hop_limit, code| {
        let source = source.parse::<std::net::Ipv6Addr>().expect("a literal address").octets();
        let all = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
        let builder = PacketBuilder::ethernet2(HOST0, packet::ethernet::multicast_mac_ipv6(all));
        let mut frame = Vec::new();
        let builder = builder.ipv6(source, all, hop_limit).icmpv6_raw(130, code, [0; 4]);
        builder.write(&mut frame, &[0; 16]).expect("a vector takes all");
        frame[20] = 0;
        frame[19] += 8;
        drop(frame.splice(54..54, [58, 0, 5, 2, 0, 0, 1, 0]));
        frame
    };
    let mut bed = Testbed::new();
    for (frame, reason) in [
        (query("fe80::9", 1, 0), PuntReason::Nd),
        (query("fe80::9", 2, 0), PuntReason::Local6),
        (query("fe80::9", 1, 1), PuntReason::Local6),
        (query("2001:db8::9", 1, 0), PuntReason::Local6),
    ] {
        bed.send(0, &frame);
        assert_eq!(bed.punts().iter().map(|punt| punt.reason).collect::<Vec<_>>(), [reason]);
    }
    bed.assert_balanced();
}

#[test]
fn injected_packets_leave() {
    let mut bed = Testbed::new();
    let mut cache = bed.pool.cache();
    let frame = udp4([10, 1, 2, 3], 9, 10);
    let mut inject = |bed: &mut Testbed, bytes: &[u8], to| {
        let inject = Inject::copy(&mut cache, bytes, to).expect("buffers are left");
        assert!(bed.shared.inject(inject));
        bed.run();
    };
    inject(&mut bed, &frame[14..], InjectTo::Forward4);
    let sent = bed.only_sent(1);
    assert_eq!((sent[22], sent[14..].len()), (9, frame[14..].len()), "the TTL of our own packets stays");
    inject(&mut bed, &udp6("2001:db8:1002::1", 9, 3000)[14..], InjectTo::Forward6);
    let pieces = bed.sent(1);
    assert!(
        pieces.len() == 3 && pieces.iter().all(|piece| piece.len() <= 18 + 1500),
        "the node is their source"
    );
    inject(&mut bed, &frame, InjectTo::Transmit(ETH1));
    assert_eq!(bed.only_sent(1), frame);
    inject(&mut bed, &frame, InjectTo::Transmit(ETH1_VLAN));
    let sent = bed.only_sent(1);
    assert_eq!(
        (&sent[..12], &sent[12..16], &sent[16..]),
        (&frame[..12], &[0x81, 0, 0, 100][..], &frame[12..])
    );
    inject(&mut bed, &frame[..13], InjectTo::Transmit(ETH1));
    inject(&mut bed, &frame, InjectTo::Transmit(InterfaceId(9)));
    inject(&mut bed, &[], InjectTo::Forward4);
    bed.assert_nothing_sent();
    assert_eq!(bed.drops(), [(DropReason::InterfaceDown, 1), (DropReason::InjectMalformed, 2)]);
    drop(cache);
    bed.assert_balanced();
}

#[test]
fn strangers_cannot_flood_control() {
    let mut bed = Testbed::new();
    bed.send(0, &udp4([10, 0, 1, 255], 64, 10));
    for _ in 0..300 {
        bed.send(0, &udp4([10, 0, 1, 77], 64, 10));
    }
    assert_eq!(bed.punts().len(), 128);
    assert_eq!(bed.drops(), [(DropReason::Ip4DirectedBroadcast, 1), (DropReason::PuntRateLimited, 172)]);
    // Who comes in elsewhere has a budget of his own.
    let mut elsewhere = udp4([10, 0, 1, 77], 64, 10);
    elsewhere[..6].copy_from_slice(&MAC1);
    bed.send(1, &elsewhere);
    assert_eq!(bed.punts().len(), 1);
    bed.assert_balanced();
}

#[test]
fn a_flood_of_one_kind_keeps_no_other_from_control() {
    let tcp = |destination_port| {
        let mut frame = Vec::new();
        let builder = to_router().ipv4([10, 0, 0, 5], [10, 0, 0, 1], 64).tcp(1, destination_port, 3, 4);
        builder.write(&mut frame, &[]).expect("a vector takes all");
        frame
    };
    let mut fragment = udp4([10, 0, 1, 1], 64, 10);
    fragment[20] = 0x20;
    fix_ipv4_checksum(&mut fragment);
    let floods = [udp4([10, 0, 1, 1], 64, 10), fragment, tcp(80), arp_request()];
    for (flooded, flood) in floods.iter().enumerate() {
        let mut bed = Testbed::new();
        for _ in 0..300 {
            bed.send(0, flood);
        }
        assert_eq!(bed.drops(), [(DropReason::PuntQueueFull, 44)]);
        for other in floods.iter().enumerate().filter(|(other, _)| *other != flooded) {
            bed.send(0, other.1);
        }
        // All others are among the first.
        let first: Vec<_> = bed.punts().into_iter().take(7).map(|punt| punt.packet.data().to_vec()).collect();
        for frame in &floods {
            assert!(first.contains(&frame[14..].to_vec()), "{frame:?}");
        }
        bed.assert_balanced();
    }
}

#[test]
fn senders_of_what_nobody_takes_are_told() {
    let mut bed = Testbed::new();
    let refused = |bed: &mut Testbed, frame: &[u8], refusal| {
        bed.send(0, frame);
        for punt in bed.punts() {
            assert!(bed.shared.inject(Inject { packet: punt.packet, to: InjectTo::Refuse(refusal) }));
        }
        bed.run();
        bed.sent(0)
    };
    let v4 = udp4([10, 0, 1, 1], 64, 10);
    let v6 = udp6("2001:db8:1::1", 64, 10);
    let mut behind = udp6("2001:db8:1::1", 64, 16);
    behind[20] = 60;
    behind[54..62].copy_from_slice(&[132, 0, 1, 4, 0, 0, 0, 0]);
    // Type and code, and the pointer of a parameter problem.
    let expected4 =
        [(Refusal::Port, [3, 3]), (Refusal::Protocol, [3, 2]), (Refusal::ReassemblyTime, [11, 1])];
    for (refusal, kind) in expected4 {
        let sent = refused(&mut bed, &v4, refusal);
        assert_eq!((sent.len(), &sent[0][34..36]), (1, &kind[..]));
        assert_eq!(sent[0][26..30], [10, 0, 1, 1], "the address that was asked answers");
        assert_eq!(sent[0][42..], v4[14..]);
    }
    let expected6 = [
        (&v6, Refusal::Port, [1, 4], 0),
        (&v6, Refusal::Protocol, [4, 1], 6),
        (&behind, Refusal::Protocol, [4, 1], 40),
        (&v6, Refusal::ReassemblyTime, [3, 1], 0),
    ];
    for (frame, refusal, kind, pointer) in expected6 {
        let sent = refused(&mut bed, frame, refusal);
        assert_eq!((sent.len(), &sent[0][54..56], sent[0][61]), (1, &kind[..], pointer));
        assert_eq!((&sent[0][22..38], &sent[0][62..]), (&frame[38..54], &frame[14..]));
    }
    // Not about what was for everybody.
    assert_eq!(refused(&mut bed, &udp4([255; 4], 64, 10), Refusal::Port).len(), 0);
    let mut broadcast = udp4([255; 4], 64, 10);
    broadcast[..6].fill(0xff);
    assert_eq!(refused(&mut bed, &broadcast, Refusal::Port).len(), 0);
    let drops = bed.drops();
    assert!(drops.contains(&(DropReason::LocalPortUnreachable, 4)), "{drops:?}");
    bed.assert_balanced();
}

#[test]
fn new_tables_are_taken_and_waited_for() {
    let mut bed = Testbed::new();
    bed.run();
    let reached = bed.shared.quiescent_generation();
    let mut interfaces = interfaces(1500);
    if let Some(eth1) = &mut interfaces[1] {
        eth1.up = false;
    }
    let generation =
        bed.shared.publish(dataplane::Tables::new(interfaces, &[], &[]).expect("the tables are valid"));
    assert_eq!((generation, bed.shared.quiescent_generation()), (reached + 1, reached));
    bed.send(1, &udp4([10, 0, 0, 9], 64, 10));
    assert_eq!(bed.shared.quiescent_generation(), generation);
    assert_eq!(bed.drops(), [(DropReason::InterfaceDown, 1)]);

    assert!(!bed.worker.arm());
    let next = bed.shared.advance();
    assert_eq!(bed.shared.quiescent_generation(), next, "who sleeps reads nothing");
    assert!(bed.wires[0].send(&arp_request()));
    assert!(bed.worker.arm());
    bed.run();
    assert_eq!(bed.punts().len(), 1);
    bed.assert_balanced();
}

#[test]
fn the_trace_follows_a_packet() {
    let mut bed = Testbed::new();
    let request = TraceRequest {
        packets: 1,
        interface: Some(ETH0),
        address: Some(("10.1.0.0".parse().expect("a literal address"), 16)),
        protocol: Some(packet::protocol::UDP),
        port: Some(2000),
        drops: None,
    };
    bed.shared.arm_trace(request);
    bed.send(0, &udp4([10, 2, 2, 3], 64, 10));
    bed.send(1, &udp4([10, 1, 2, 3], 64, 10));
    bed.send(0, &udp4([10, 1, 2, 3], 64, 10));
    bed.send(0, &udp4([10, 1, 2, 3], 64, 10));
    let records: Vec<TraceRecord> = std::iter::from_fn(|| bed.shared.next_trace_record()).collect();
    let path: Vec<_> = records.iter().map(|record| record.node).collect();
    let expected = [Node::PortInput, Node::EthernetInput, Node::Ip4Input, Node::Ip4Lookup, Node::Ip4Rewrite];
    assert_eq!(path, expected);
    let lines: Vec<_> = records.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines[3],
        "w0 #0 ip4-lookup -> ip4-rewrite, 38 bytes, in 0, 10.0.0.5 -> 10.1.2.3 protocol 17 ttl 64 ports 1000 -> 2000"
    );
    assert!(
        lines[4].contains("out 1, 02:00:00:00:00:11 -> 02:00:00:00:01:01 type 0x0800, 10.0.0.5"),
        "{}",
        lines[4]
    );
    let named = records[4].named(&|id| (id == InterfaceId(1)).then_some("eth1.100")).to_string();
    assert!(named.contains("bytes, in 0, out eth1.100, 02:00"), "{named}");

    bed.shared.arm_trace(TraceRequest { packets: 9, ..TraceRequest::default() });
    bed.send(0, &udp4([10, 1, 2, 3], 1, 10));
    let reasons: Vec<_> = std::iter::from_fn(|| bed.shared.next_trace_record())
        .filter_map(|record| record.drop_reason)
        .collect();
    assert_eq!(reasons, [DropReason::Ip4TtlExpired]);
    bed.assert_balanced();
}

#[test]
fn the_trace_looks_for_what_it_is_asked_for() {
    let mut bed = Testbed::new();
    let mut tagged = Vec::new();
    let builder = tagged_to_router(VLAN_ID).ipv4([10, 0, 100, 5], [10, 0, 0, 9], 9).udp(1, 2);
    builder.write(&mut tagged, &[]).expect("a vector takes all");
    let mut untagged = udp4([10, 0, 0, 9], 64, 10);
    untagged[..6].copy_from_slice(&MAC1);
    let everything = TraceRequest { packets: 9, ..TraceRequest::default() };
    let requests = [
        (TraceRequest { interface: Some(ETH1_VLAN), ..everything }, 1),
        (TraceRequest { interface: Some(ETH1), ..everything }, 1),
        (TraceRequest { interface: Some(ETH0), ..everything }, 5),
        (TraceRequest { port: Some(2), ..everything }, 1),
        (TraceRequest { port: Some(1000), ..everything }, 6),
        (TraceRequest { drops: Some(TracedDrops::Any), ..everything }, 3),
        (TraceRequest { drops: Some(TracedDrops::For(DropReason::Ip4NoRoute)), ..everything }, 1),
        (TraceRequest { drops: Some(TracedDrops::Any), interface: Some(ETH1), ..everything }, 0),
        (TraceRequest { drops: Some(TracedDrops::Any), port: Some(2000), ..everything }, 3),
        (TraceRequest { drops: Some(TracedDrops::Any), packets: 2, ..everything }, 2),
    ];
    for (request, expected) in requests {
        bed.shared.arm_trace(request);
        bed.send(1, &tagged);
        bed.send(1, &untagged);
        bed.send(0, &udp4([10, 1, 2, 3], 64, 10));
        bed.send(0, &udp4([99, 0, 0, 1], 64, 10));
        bed.send(0, &udp4([10, 4, 0, 1], 64, 10));
        bed.send(0, &udp6("2001:db8:1004::1", 64, 10));
        bed.send(0, &udp6("2001:db8:1001::1", 64, 10));
        let records: Vec<_> = std::iter::from_fn(|| bed.shared.next_trace_record()).collect();
        let packets: std::collections::BTreeSet<_> = records.iter().map(|record| record.packet).collect();
        assert_eq!(packets.len(), expected, "{request:?}");
        if request.drops.is_some() {
            assert!(records.len() == expected && records.iter().all(|record| record.drop_reason.is_some()));
        }
        drop((bed.sent(0), bed.sent(1)));
    }
    bed.assert_balanced();
}

#[test]
fn partial_checksums_are_completed_for_control() {
    // As a virtual machine's neighbour sends it: the field holds the pseudo-header's sum.
    let mut bed = Testbed::new();
    let mut cache = bed.pool.cache();
    let mut frame = Vec::new();
    let builder = to_router().ipv4([10, 0, 0, 5], [10, 0, 0, 1], 64).tcp(1, 2, 3, 4);
    builder.write(&mut frame, &pattern(33)).expect("a vector takes all");
    let whole = frame[14..].to_vec();
    let (ip, _) = etherparse::Ipv4Header::from_slice(&whole).expect("a header");
    let (tcp, payload) = TcpHeader::from_slice(&whole[20..]).expect("a header");
    assert_eq!(tcp.calc_checksum_ipv4(&ip, payload), Ok(tcp.checksum));
    let pseudo = packet::checksum::Sum::new().pseudo_header(&ip.source, &ip.destination, 6, 53).partial();
    let mut inject = Inject::copy(&mut cache, &whole, InjectTo::Forward4).expect("buffers are left");
    inject.packet.data_mut()[36..38].copy_from_slice(&pseudo.get().to_be_bytes());
    let start = inject.packet.start() as u16 + 20;
    let meta = inject.packet.meta_mut();
    meta.flags.insert(buffer::Flags::TX_CSUM);
    (meta.csum_start, meta.csum_offset) = (start, 16);
    assert!(bed.shared.inject(inject));
    bed.run();
    let punts = bed.punts();
    assert_eq!(punts[0].packet.data(), whole);
    drop((punts, cache));
    bed.assert_balanced();
}
