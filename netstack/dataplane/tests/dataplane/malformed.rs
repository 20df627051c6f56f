//! Frames that nobody should send: each is dropped for its reason, and none is lost, doubled or leaked.

use crate::common::*;
use dataplane::DropReason;
use proptest::prelude::*;

/// tcpdump's regression captures; see tests/data/README.md.
const CAPTURE: &[u8] = include_bytes!("../data/malformed-frames.pcap");

/// The frames of a little-endian pcap file.
fn frames() -> Vec<&'static [u8]> {
    let word = |at: usize| {
        let bytes = CAPTURE[at..].first_chunk().expect("the file is whole");
        u32::from_le_bytes(*bytes) as usize
    };
    assert_eq!((word(0), word(20)), (0xa1b2_c3d4, 1), "a pcap file of Ethernet frames");
    let mut frames = Vec::new();
    let mut at = 24;
    while at < CAPTURE.len() {
        let len = word(at + 8);
        frames.push(&CAPTURE[at + 16..at + 16 + len]);
        at += 16 + len;
    }
    frames
}

/// The reason for which a frame into port 0 is dropped.
fn reason(frame: &[u8]) -> DropReason {
    let mut bed = Testbed::new();
    bed.send(0, frame);
    let drops = bed.drops();
    assert_eq!((drops.len(), drops[0].1), (1, 1), "{drops:?}");
    bed.assert_balanced();
    drops[0].0
}

#[test]
fn captured_frames_are_all_accounted_for() {
    let frames = frames();
    assert_eq!(frames.len(), 3632);
    // As they are, and as if they were for us, at every interface.
    for (readdress, port) in [(false, 0), (true, 0), (true, 1)] {
        for size in [1, 2, 67, 256] {
            let mut bed = Testbed::new();
            for vector in frames.chunks(size) {
                for frame in vector {
                    let mut frame = frame.to_vec();
                    if let (true, Some(mac)) = (readdress, frame.first_chunk_mut()) {
                        *mac = [MAC0, MAC1][port];
                    }
                    assert!(bed.wires[port].send(&frame));
                }
                bed.run();
                drop((bed.punts(), bed.sent(0), bed.sent(1)));
            }
            bed.assert_balanced();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn mutated_frames_are_all_accounted_for(
        choices in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..80),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..200),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let captured = frames();
        let good = [
            udp4([10, 1, 2, 3], 64, 30), udp4([10, 0, 0, 1], 64, 30), udp4([10, 3, 2, 3], 2, 2000),
            udp6("2001:db8:1001::9", 64, 30), udp6("2001:db8:1::1", 64, 30), udp6("2001:db8:1003::9", 2, 1300),
        ];
        let mut picked: Vec<Vec<u8>> = choices.iter().map(|(index, from_capture)| {
            let mut frame = if *from_capture { index.get(&captured).to_vec() } else { index.get(&good).clone() };
            if let Some(mac) = frame.first_chunk_mut() {
                *mac = MAC0;
            }
            frame
        }).collect();
        for (number, (place, value)) in flips.iter().enumerate() {
            let count = picked.len();
            let frame = &mut picked[number % count];
            if frame.len() > 14 {
                // Headers are where it hurts.
                let at = place.index(frame.len().min(80));
                frame[at] = *value;
                if number % 3 == 0 && frame.len() >= 74 && frame[12..14] == [8, 0] {
                    fix_ipv4_checksum(frame);
                }
            }
        }
        for (number, cut) in cuts.iter().enumerate() {
            let count = picked.len();
            let len = picked[number % count].len();
            picked[number % count].truncate(cut.index(len + 1));
        }
        let mut bed = Testbed::with_mtu(1280);
        for frame in &picked {
            prop_assert!(bed.wires[0].send(frame));
        }
        bed.run();
        bed.assert_balanced();
    }
}

/// A frame to the router, changed, with its IPv4 header's checksum right again.
fn changed4(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut frame = udp4([10, 1, 2, 3], 64, 30);
    change(&mut frame);
    fix_ipv4_checksum(&mut frame);
    frame
}

fn changed6(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut frame = udp6("2001:db8:1001::9", 64, 30);
    change(&mut frame);
    frame
}

#[test]
fn ethernet_reasons() {
    assert_eq!(reason(&[]), DropReason::EthernetTooShort);
    assert_eq!(reason(&[0; 13]), DropReason::EthernetTooShort);
    assert_eq!(reason(&changed4(|frame| frame[5] ^= 1)), DropReason::EthernetNotOurs);
    assert_eq!(
        reason(&changed4(|frame| frame[..6].copy_from_slice(&[1, 0, 0x5e, 1, 2, 3]))),
        DropReason::EthernetNotOurs
    );
    assert_eq!(reason(&changed4(|frame| frame[6] |= 1)), DropReason::EthernetSourceGroup);
    let typed = |ethertype: u16| {
        let mut frame = udp4([10, 1, 2, 3], 64, 30);
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame
    };
    assert_eq!(reason(&typed(0x88b5)), DropReason::EthernetUnknownType);
    assert_eq!(reason(&typed(60)), DropReason::EthernetLlc);
    assert_eq!(reason(&typed(0x88cc)), DropReason::EthernetLinkControl);
    assert_eq!(reason(&typed(0x88a8)), DropReason::VlanNested);
    assert_eq!(reason(&typed(0x8100)[..16]), DropReason::EthernetTooShort);
    assert_eq!(reason(&typed(0x0806)), DropReason::ArpMalformed);
}

#[test]
fn ipv4_reasons() {
    let mut bad_checksum = udp4([10, 1, 2, 3], 64, 30);
    bad_checksum[24] ^= 1;
    assert_eq!(reason(&bad_checksum), DropReason::Ip4BadChecksum);
    assert_eq!(reason(&udp4([10, 1, 2, 3], 64, 30)[..33]), DropReason::Ip4BadLength);
    assert_eq!(reason(&udp4([10, 1, 2, 3], 64, 30)[..71]), DropReason::Ip4BadLength);
    assert_eq!(reason(&changed4(|frame| frame[14] = 0x55)), DropReason::Ip4BadHeader);
    assert_eq!(reason(&changed4(|frame| frame[14] = 0x44)), DropReason::Ip4BadHeader);
    assert_eq!(reason(&changed4(|frame| frame[17] = 19)), DropReason::Ip4BadLength);
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255], [240, 0, 0, 1]] {
        let frame = changed4(|frame| frame[26..30].copy_from_slice(&source));
        assert_eq!(reason(&frame), DropReason::Ip4MartianSource);
    }
    for destination in [[0, 0, 0, 0], [127, 0, 0, 1], [240, 0, 0, 1]] {
        assert_eq!(reason(&udp4(destination, 64, 3)), DropReason::Ip4MartianDestination);
    }
    assert_eq!(reason(&udp4([239, 1, 1, 1], 64, 3)), DropReason::Ip4MulticastNotJoined);
    // Bytes of the UDP header and payload become options.
    let with_option = |option: [u8; 4]| {
        changed4(|frame| {
            frame[14] = 0x46;
            frame[34..38].copy_from_slice(&option);
        })
    };
    assert_eq!(reason(&with_option([0x83, 4, 4, 0])), DropReason::Ip4BadOption);
    assert_eq!(reason(&with_option([0x94, 5, 0, 0])), DropReason::Ip4BadOption);
    let mut bed = Testbed::new();
    bed.send(0, &with_option([0x94, 4, 0, 0]));
    assert_eq!(bed.sent(1).len(), 1);
    bed.assert_balanced();
}

#[test]
fn ipv6_reasons() {
    assert_eq!(reason(&changed6(|frame| frame[14] = 0x50)), DropReason::Ip6BadHeader);
    assert_eq!(reason(&changed6(|frame| frame[18] = 1)), DropReason::Ip6BadLength);
    assert_eq!(reason(&changed6(|frame| frame[22..38].fill(0xff))), DropReason::Ip6MartianSource);
    assert_eq!(reason(&changed6(|frame| frame[22..38].fill(0))), DropReason::Ip6MartianSource);
    assert_eq!(reason(&udp6("::1", 64, 3)), DropReason::Ip6MartianDestination);
    assert_eq!(reason(&udp6("::", 64, 3)), DropReason::Ip6MartianDestination);
    assert_eq!(reason(&udp6("ff01::1", 64, 3)), DropReason::Ip6MartianDestination);
    assert_eq!(reason(&udp6("ff05::2", 64, 3)), DropReason::Ip6MulticastNotJoined);
    assert_eq!(reason(&udp6("fe80::77", 64, 3)), DropReason::Ip6LinkLocalNotOurs);
    let from_link_local = changed6(|frame| {
        frame[22..38].fill(0);
        frame[22..24].copy_from_slice(&[0xfe, 0x80]);
    });
    assert_eq!(reason(&from_link_local), DropReason::Ip6LinkLocalNotOurs);
    let hop_by_hop = |option: [u8; 6]| {
        changed6(|frame| {
            frame[20] = 0;
            frame[54..56].copy_from_slice(&[17, 0]);
            frame[56..62].copy_from_slice(&option);
        })
    };
    assert_eq!(reason(&hop_by_hop([1, 9, 0, 0, 0, 0])), DropReason::Ip6BadHopByHop);
    assert_eq!(reason(&hop_by_hop([0x7e, 4, 0, 0, 0, 0])), DropReason::Ip6BadHopByHop);
    assert_eq!(reason(&hop_by_hop([0xbe, 4, 0, 0, 0, 0])), DropReason::Ip6BadHopByHop);
    let mut bed = Testbed::new();
    bed.send(0, &hop_by_hop([0x1e, 4, 0, 0, 0, 0]));
    assert_eq!(bed.sent(1).len(), 1);
    bed.assert_balanced();
}

#[test]
fn what_is_for_us_and_cannot_be_taken() {
    let mut fragment = udp4([255; 4], 64, 30);
    fragment[..6].fill(0xff);
    fragment[20] = 0x20;
    fix_ipv4_checksum(&mut fragment);
    assert_eq!(reason(&fragment), DropReason::Ip4FragmentForUs);
    let to_us = |next_header, first: [u8; 4]| {
        let mut frame = udp6("2001:db8:1::1", 64, 30);
        frame[20] = next_header;
        frame[54..58].copy_from_slice(&first);
        frame
    };
    let mut fragment = to_us(44, [17, 0, 0, 1]);
    fragment[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    fragment[38..54].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(reason(&fragment), DropReason::Ip6FragmentForUs);
    assert_eq!(reason(&to_us(43, [17, 0, 0, 1])), DropReason::Ip6RoutingHeader);
    assert_eq!(reason(&to_us(60, [17, 200, 0, 0])), DropReason::Ip6BadLength);
    assert_eq!(reason(&to_us(58, [128, 0, 1, 2])), DropReason::IcmpMalformed);
}
