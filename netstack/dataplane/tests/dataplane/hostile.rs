//! What neighbours, virtual machines and strangers may try: places of checksums, frames to everybody, fragments beyond
//! the end of a packet, link-local addresses, offers of addresses, errors about what no error may be about.

use crate::common::*;
use dataplane::{DropReason, PuntReason, Tables};
use packet::checksum::Sum;

/// Replaces the checksum of a transport header by the sum of its pseudo-header, as a virtual machine's driver does.
fn leave_partial(
    frame: &mut [u8],
    addresses: std::ops::Range<usize>,
    protocol: u8,
    start: usize,
    field: usize,
) {
    let length = (frame.len() - start) as u32;
    let (source, destination) = frame[addresses.clone()].split_at(addresses.len() / 2);
    let sum = Sum::new().pseudo_header(source, destination, protocol, length).partial();
    frame[start + field..start + field + 2].copy_from_slice(&sum.get().to_be_bytes());
}

#[test]
fn partial_checksums_in_transport_headers_are_completed() {
    let tcp4 = || {
        let mut frame = Vec::new();
        let builder = to_router().ipv4([10, 0, 0, 5], [10, 1, 2, 3], 64).tcp(1, 2, 3, 4);
        builder.write(&mut frame, &pattern(33)).expect("a vector takes all");
        frame
    };
    let cases = [
        (tcp4(), 26..34, 6, 34, 16),
        (udp4([10, 1, 2, 3], 64, 31), 26..34, 17, 34, 6),
        (udp6("2001:db8:1001::9", 64, 31), 22..54, 17, 54, 6),
    ];
    for (whole, addresses, protocol, start, field) in cases {
        let mut bed = Testbed::new();
        let mut frame = whole.clone();
        leave_partial(&mut frame, addresses, protocol, start, field);
        *bed.checksum_place.lock().expect("nobody panicked") = Some((start as u16, field as u16));
        bed.send(0, &frame);
        assert_eq!(bed.only_sent(1)[start..], whole[start..]);
        // The same as one of several segments of memory, which leaves the plain path.
        frame.resize(2100, 0xee);
        bed.send(0, &frame);
        assert_eq!(bed.only_sent(1)[start..], whole[start..]);
        bed.assert_balanced();
    }
}

#[test]
fn checksums_at_other_places_are_not_completed() {
    let mut fragment = udp4([10, 1, 2, 3], 64, 64);
    fragment[20] = 0x20;
    fix_ipv4_checksum(&mut fragment);
    let mut other_protocol = udp4([10, 1, 2, 3], 64, 64);
    other_protocol[23] = 58;
    fix_ipv4_checksum(&mut other_protocol);
    // The UDP header is in the frame but not in the packet.
    let mut beyond = udp4([10, 1, 2, 3], 64, 64);
    beyond[16..18].copy_from_slice(&24u16.to_be_bytes());
    fix_ipv4_checksum(&mut beyond);
    let v4 = udp4([10, 1, 2, 3], 64, 64);
    let v6 = udp6("2001:db8:1001::9", 64, 64);
    let to_us = udp4([10, 0, 0, 1], 64, 64);
    let mut cases = vec![(&fragment, 34, 6), (&other_protocol, 34, 2), (&beyond, 34, 6)];
    for frame in [&v4, &v6, &to_us] {
        // Ethernet header, IP header, TTL, options that are none, other fields, payload.
        for place in [
            (0, 0),
            (0, 12),
            (14, 0),
            (14, 8),
            (14, 10),
            (14, 16),
            (33, 6),
            (34, 0),
            (34, 4),
            (35, 6),
            (42, 6),
        ] {
            cases.push((frame, place.0, place.1));
        }
    }
    cases.extend([(&v6, 54, 16), (&v6, 54, 4), (&v6, 40, 6), (&v6, 62, 6)]);
    for (frame, start, field) in cases {
        let mut bed = Testbed::new();
        *bed.checksum_place.lock().expect("nobody panicked") = Some((start, field));
        bed.send(0, frame);
        bed.assert_nothing_sent();
        assert_eq!(bed.drops(), [(DropReason::ChecksumPlace, 1)], "{start} + {field}");
        bed.assert_balanced();
    }
}

#[test]
fn unicast_in_frames_to_groups_goes_nowhere() {
    let all_nodes = [0x33, 0x33, 0, 0, 0, 1];
    let frames = [
        (udp4([10, 1, 2, 3], 64, 10), [0xff; 6]),
        (udp4([10, 0, 0, 1], 64, 10), [0xff; 6]),
        (udp4([10, 0, 0, 255], 64, 10), [0xff; 6]),
        (udp4([10, 1, 2, 3], 64, 10), [1, 0, 0x5e, 0, 0, 1]),
        (udp6("2001:db8:1001::9", 64, 10), all_nodes),
        (udp6("2001:db8:1::1", 64, 10), all_nodes),
        (udp6("fe80::1", 64, 10), all_nodes),
    ];
    let mut bed = Testbed::new();
    for (mut frame, mac) in frames {
        frame[..6].copy_from_slice(&mac);
        bed.send(0, &frame);
    }
    bed.assert_nothing_sent();
    assert_eq!((bed.drops(), bed.punts().len()), (vec![(DropReason::UnicastInLinkGroup, 7)], 0));
    bed.assert_balanced();
}

#[test]
fn fragments_do_not_reach_beyond_the_end_of_a_packet() {
    let fragment4 = |offset: u16, payload| {
        let mut frame = udp4([10, 1, 2, 3], 64, payload);
        frame[20..22].copy_from_slice(&(offset / 8).to_be_bytes());
        fix_ipv4_checksum(&mut frame);
        frame
    };
    let fragment6 = |offset: u16, payload| {
        let mut frame = udp6("2001:db8:1001::9", 64, payload);
        frame[20] = 44;
        frame[54..62].copy_from_slice(&[17, 0, (offset >> 8) as u8, offset as u8, 0, 0, 0, 1]);
        frame
    };
    let mut bed = Testbed::new();
    // 65528 + 20 + 8 + payload, and what just fits.
    bed.send(0, &fragment4(65_528, 0));
    bed.send(0, &fragment4(64_520, 1000));
    bed.send(0, &fragment6(65_528, 8));
    assert_eq!(bed.drops(), [(DropReason::Ip4BadFragment, 2), (DropReason::Ip6BadFragment, 1)]);
    bed.assert_nothing_sent();
    bed.send(0, &fragment4(64_504, 1000));
    bed.send(0, &fragment6(65_528, 7));
    assert_eq!(bed.sent(1).len(), 2);
    bed.assert_balanced();
}

#[test]
fn link_local_ipv4_stays_on_its_link() {
    let from = |source: [u8; 4], destination| {
        let mut frame = udp4(destination, 64, 10);
        frame[26..30].copy_from_slice(&source);
        fix_ipv4_checksum(&mut frame);
        frame
    };
    let mut bed = Testbed::new();
    bed.send(0, &from([169, 254, 1, 1], [10, 1, 2, 3]));
    bed.send(0, &from([10, 0, 0, 5], [169, 254, 169, 254]));
    bed.assert_nothing_sent();
    assert_eq!(bed.drops(), [(DropReason::Ip4LinkLocalNotOurs, 2)]);
    bed.send(0, &from([169, 254, 1, 1], [10, 0, 0, 1]));
    assert_eq!(bed.punts().len(), 1, "this node is on the link");
    bed.send(0, &from([169, 253, 1, 1], [10, 1, 2, 3]));
    assert_eq!(bed.sent(1).len(), 1);
    bed.assert_balanced();
}

#[test]
fn offers_of_addresses_reach_the_dhcp_client_only() {
    let mut interfaces = interfaces(1500);
    if let Some(eth0) = &mut interfaces[0] {
        eth0.dhcp_client = true;
    }
    let mut bed = Testbed::new();
    let _ = bed.shared.publish(Tables::new(interfaces, &[], &[]).expect("the tables are valid"));
    let to_client = |source: [u8; 4], destination| {
        let mut frame = udp4(destination, 64, 300);
        frame[26..30].copy_from_slice(&source);
        frame[34..38].copy_from_slice(&[0, 67, 0, 68]);
        fix_ipv4_checksum(&mut frame);
        frame
    };
    bed.send(0, &to_client([10, 0, 0, 2], [10, 0, 0, 99]));
    let mut to_everybody = to_client([10, 0, 0, 2], [10, 0, 0, 99]);
    to_everybody[..6].fill(0xff);
    bed.send(0, &to_everybody);
    bed.send(0, &to_client([10, 0, 0, 2], [255; 4]));
    let reasons: Vec<_> = bed.punts().iter().map(|punt| punt.reason).collect();
    assert_eq!(reasons, [PuntReason::Local4; 3]);
    bed.send(0, &to_client([127, 0, 0, 1], [10, 0, 0, 99]));
    bed.send(0, &to_client([255; 4], [10, 0, 0, 99]));
    assert_eq!(bed.drops(), [(DropReason::Ip4MartianSource, 2)]);
    bed.assert_balanced();
}

#[test]
fn no_errors_about_broadcasts_redirects_and_hidden_errors() {
    let mut bed = Testbed::new();
    // All hosts of eth1's network, out of hops; and of eth0's, with a malformed option.
    bed.send(0, &udp4([10, 0, 1, 255], 1, 10));
    let mut bad_option = udp4([10, 0, 0, 255], 64, 10);
    bad_option[14] = 0x46;
    bad_option[34..38].copy_from_slice(&[0x94, 5, 0, 0]);
    fix_ipv4_checksum(&mut bad_option);
    bed.send(0, &bad_option);
    assert_eq!(bed.drops(), [(DropReason::Ip4BadOption, 1), (DropReason::Ip4DirectedBroadcast, 1)]);
    // To where no route leads: a redirect, and errors behind other headers.
    let behind = |next: u8, bytes: &[u8]| {
        let mut frame = udp6("2001:db8:9999::1", 64, 40);
        frame[20] = next;
        frame[54..54 + bytes.len()].copy_from_slice(bytes);
        frame
    };
    bed.send(0, &behind(58, &[137, 0, 0, 0]));
    bed.send(0, &behind(44, &[58, 0, 0, 1, 0, 0, 0, 1, 3, 0]));
    bed.send(0, &behind(44, &[58, 0, 0, 9, 0, 0, 0, 1, 128, 0]));
    bed.send(0, &behind(43, &[58, 0, 0, 1, 0, 0, 0, 0, 1, 0]));
    bed.send(0, &behind(60, &[44, 0, 1, 4, 0, 0, 0, 0, 58, 0, 0, 1, 0, 0, 0, 1, 2, 0]));
    bed.assert_nothing_sent();
    for answered in [behind(44, &[58, 0, 0, 1, 0, 0, 0, 1, 128, 0]), behind(44, &[17, 0, 0, 9, 0, 0, 0, 1])] {
        bed.send(0, &answered);
        assert_eq!(bed.sent(0).len(), 1);
    }
    bed.assert_balanced();
}

#[test]
fn mtus_are_told_however_many_other_errors_there_are() {
    let mut bed = Testbed::with_mtu(1300);
    for _ in 0..300 {
        bed.send(0, &udp6("2001:db8:9999::1", 64, 10));
    }
    assert_eq!(bed.sent(0).len(), 100);
    bed.send(0, &udp6("2001:db8:1001::9", 64, 1400));
    let sent = bed.sent(0);
    assert_eq!((sent.len(), sent[0][54]), (1, 2), "packet too big");
    bed.assert_balanced();
}

#[test]
fn a_parameter_problem_points_at_the_routing_type() {
    let mut bed = Testbed::new();
    let mut frame = udp6("2001:db8:1::1", 64, 30);
    frame[20] = 43;
    frame[54..58].copy_from_slice(&[17, 0, 99, 1]);
    bed.send(0, &frame);
    let sent = bed.only_sent(0);
    assert_eq!((&sent[54..56], &sent[58..62]), (&[4, 0][..], &[0, 0, 0, 42][..]));
    bed.assert_balanced();
}

#[test]
fn a_port_that_is_down_takes_its_vlans_with_it() {
    let mut bed = Testbed::new();
    let mut interfaces = interfaces(1500);
    if let Some(eth1) = &mut interfaces[1] {
        eth1.up = false;
    }
    let adjacency = dataplane::Adjacency::Neighbour { interface: ETH1_VLAN, mac: HOST1_VLAN };
    let groups: Vec<_> = std::iter::once(dataplane::NextHopGroup::default())
        .chain((0..8).map(|_| dataplane::NextHopGroup::single(dataplane::AdjacencyId(0))))
        .collect();
    let _ = bed.shared.publish(Tables::new(interfaces, &[adjacency], &groups).expect("the tables are valid"));
    bed.send(0, &udp4([10, 2, 0, 1], 64, 10));
    bed.assert_nothing_sent();
    assert_eq!(bed.drops(), [(DropReason::InterfaceDown, 1)]);
    bed.assert_balanced();
}

#[test]
fn the_books_balance_over_the_removal_of_an_interface() {
    let mut bed = Testbed::new();
    let mut frame = Vec::new();
    let builder = tagged_to_router(VLAN_ID).ipv4([10, 0, 100, 5], [10, 0, 0, 9], 9).udp(1, 2);
    builder.write(&mut frame, &[]).expect("a vector takes all");
    for count in [1, 2, 67, 256] {
        for index in 0..count {
            assert!(bed.wires[1].send(if index % 3 == 0 { &frame } else { b"too short" }));
        }
        bed.run();
    }
    assert_eq!(bed.sent(0).len(), 1 + 1 + 23 + 86);
    let vlan = bed.shared.interface_counters(ETH1_VLAN).rx;
    assert_eq!((vlan.packets, vlan.bytes), (111, 111 * frame.len() as u64));
    assert_eq!(bed.shared.interface_counters(ETH1).rx.packets, 326 - 111);

    let mut interfaces = interfaces(1500);
    interfaces[2] = None;
    let _ = bed.shared.publish(Tables::new(interfaces, &[], &[]).expect("the tables are valid"));
    bed.send(1, &frame);
    let totals = bed.shared.packet_totals();
    let drops: u64 = bed.drops().iter().map(|(_, count)| count).sum();
    assert_eq!((totals.received, totals.sent), (327, 111));
    assert_eq!(totals.received, totals.sent + drops);
    bed.assert_balanced();
}

#[test]
fn ordinary_and_unusual_packets_are_forwarded_alike() {
    let mut bed = Testbed::new();
    // A jumbo packet in several buffers, with and without padding after it; translated IPv6 addresses (RFC 6052).
    let long = udp4([10, 1, 2, 3], 64, 3000);
    let mut padded = long.clone();
    padded.resize(5000, 0xee);
    for frame in [long, padded] {
        bed.send(0, &frame);
        assert_eq!(bed.sent(1).iter().map(|frame| frame.len() - 34).sum::<usize>(), 3008);
    }
    let mut translated = udp6("2001:db8:1001::9", 64, 30);
    translated[22..38].copy_from_slice(&[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    bed.send(0, &translated);
    assert_eq!(bed.sent(1).len(), 1);
    let mut compatible = translated.clone();
    compatible[22..38].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
    bed.send(0, &compatible);
    assert_eq!(bed.drops(), [(DropReason::Ip6MartianSource, 1)]);
    bed.assert_balanced();
}
