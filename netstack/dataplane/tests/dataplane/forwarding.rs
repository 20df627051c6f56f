//! Packets that are forwarded: both families, VLANs, equal paths, vectors of several sizes.

use crate::common::*;
use dataplane::{AdjacencyId, DropReason};
use etherparse::{NetSlice, SlicedPacket, VlanSlice};

#[test]
fn ipv4_gets_a_new_ethernet_header_and_ttl() {
    let mut bed = Testbed::new();
    let frame = udp4([10, 1, 2, 3], 64, 18);
    bed.send(0, &frame);
    let sent = bed.only_sent(1);
    let mut expected = frame.clone();
    expected[..6].copy_from_slice(&HOST1);
    expected[6..12].copy_from_slice(&MAC1);
    expected[22] = 63;
    fix_ipv4_checksum(&mut expected);
    assert_eq!(sent, expected);
    let eth1 = bed.shared.interface_counters(ETH1);
    assert_eq!((eth1.tx.packets, eth1.tx.bytes), (1, frame.len() as u64));
    let neighbour = bed.shared.adjacency_counters(AdjacencyId(2));
    assert_eq!((neighbour.packets, neighbour.bytes), (1, frame.len() as u64));
    bed.assert_balanced();
}

#[test]
fn ipv6_gets_a_new_ethernet_header_and_hop_limit() {
    let mut bed = Testbed::new();
    let frame = udp6("2001:db8:1001::9", 64, 18);
    bed.send(0, &frame);
    let sent = bed.only_sent(1);
    let mut expected = frame.clone();
    expected[..6].copy_from_slice(&HOST1);
    expected[6..12].copy_from_slice(&MAC1);
    expected[21] = 63;
    assert_eq!(sent, expected);
    bed.assert_balanced();
}

#[test]
fn padding_is_cut_off() {
    let mut bed = Testbed::new();
    let mut frame = udp4([10, 1, 2, 3], 64, 2);
    let len = frame.len();
    frame.resize(60, 0xee);
    bed.send(0, &frame);
    assert_eq!(bed.only_sent(1).len(), len);
    bed.assert_balanced();
}

#[test]
fn a_vlan_tag_is_pushed_and_taken() {
    let mut bed = Testbed::new();
    bed.send(0, &udp4([10, 2, 0, 1], 64, 10));
    bed.send(0, &udp6("2001:db8:1002::1", 64, 10));
    for frame in bed.sent(1) {
        let sliced = SlicedPacket::from_ethernet(&frame).expect("a well-formed frame");
        let Some(VlanSlice::SingleVlan(tag)) = sliced.vlan() else { panic!("no tag in {sliced:?}") };
        assert_eq!(tag.vlan_identifier().value(), VLAN_ID);
        assert_eq!(frame[..6], HOST1_VLAN);
    }
    let mut frame = Vec::new();
    let builder = tagged_to_router(VLAN_ID).ipv4([10, 0, 100, 5], [10, 0, 0, 9], 9).udp(1, 2);
    builder.write(&mut frame, &[]).expect("a vector takes all");
    bed.send(1, &frame);
    let sent = bed.only_sent(0);
    assert_eq!((sent.len(), &sent[..6]), (frame.len() - 4, &HOST0[..]));
    assert_eq!(bed.shared.interface_counters(ETH1_VLAN).tx.packets, 2);

    let mut priority_tagged = Vec::new();
    let builder = tagged_to_router(0).ipv4([10, 0, 1, 5], [10, 0, 0, 9], 9).udp(1, 2);
    builder.write(&mut priority_tagged, &[]).expect("a vector takes all");
    bed.send(1, &priority_tagged);
    assert_eq!(bed.only_sent(0).len(), priority_tagged.len() - 4);

    let mut unknown = Vec::new();
    let builder = tagged_to_router(7).ipv4([10, 0, 100, 5], [10, 0, 0, 9], 9).udp(1, 2);
    builder.write(&mut unknown, &[]).expect("a vector takes all");
    bed.send(1, &unknown);
    assert_eq!(bed.drops(), [(DropReason::VlanUnknown, 1)]);
    bed.assert_balanced();
}

#[test]
fn equal_paths_share_flows_and_keep_each_together() {
    for (flows, ipv6) in [(200u16, false), (200, true)] {
        let mut bed = Testbed::new();
        let mut tagged = [0; 2];
        for flow in 0..flows {
            let mut path = None;
            for payload in [10, 20] {
                let mut frame = if ipv6 {
                    udp6("2001:db8:1003::1", 64, payload)
                } else {
                    udp4([10, 3, 0, 1], 64, payload)
                };
                let port_at = if ipv6 { 54 } else { 34 };
                frame[port_at..port_at + 2].copy_from_slice(&flow.to_be_bytes());
                bed.send(0, &frame);
                let sent = bed.only_sent(1);
                let sliced = SlicedPacket::from_ethernet(&sent).expect("a well-formed frame");
                let is_tagged = sliced.vlan().is_some();
                assert_eq!(*path.get_or_insert(is_tagged), is_tagged);
            }
            tagged[usize::from(path == Some(true))] += 1;
        }
        assert!(tagged.iter().all(|share| *share > flows / 4), "{tagged:?}");
        bed.assert_balanced();
    }
}

#[test]
fn vectors_of_every_size_keep_their_order() {
    for count in [1usize, 2, 67, 256] {
        let mut bed = Testbed::new();
        for index in 0..count {
            // Four ways, so that vectors are scattered and gathered.
            let frame = match index % 4 {
                0 => udp4([10, 1, 0, index as u8], 64, index),
                1 => udp6("2001:db8:1001::1", 64, index),
                2 => udp4([10, 2, 0, index as u8], 64, index),
                _ => udp4([10, 0, 0, index as u8], 64, index),
            };
            assert!(bed.wires[0].send(&frame));
        }
        assert_eq!(bed.worker.poll(bed.now_ns), count);
        let lengths = |frames: Vec<Vec<u8>>, ipv6: bool| {
            let of_family = frames.into_iter().filter(move |frame| {
                let sliced = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
                matches!(sliced.net, Some(NetSlice::Ipv6(_))) == ipv6
            });
            of_family.map(|frame| frame.len()).collect::<Vec<_>>()
        };
        let to_host0 = bed.sent(0);
        let to_hosts1 = bed.sent(1);
        assert_eq!(to_host0.len() + to_hosts1.len(), count);
        assert!(lengths(to_host0, false).is_sorted());
        assert!(lengths(to_hosts1.clone(), true).is_sorted());
        let untagged = to_hosts1.iter().filter(|frame| frame[12] != 0x81).cloned().collect();
        assert!(lengths(untagged, false).is_sorted());
        bed.assert_balanced();
    }
}
