//! Packets that break lesser balancers: errors, fragments, SCTP, vectors of all lengths, anything at all.

use std::net::IpAddr;

use balancer::Verdict;
use etherparse::{Icmpv4Type, PacketBuilder, icmpv4};
use serde_json::json;
use services::{Objects, Site, compile};

use crate::common::*;

/// "Fragmentation needed" from a router to the sender of a packet.
fn too_big(about: &[u8]) -> Vec<u8> {
    let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let to: [u8; 4] = about[12..16].try_into().unwrap();
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4([203, 0, 113, 99], to, 60);
    builder.icmpv4(Icmpv4Type::DestinationUnreachable(kind)).write(&mut bytes, &about[..28]).unwrap();
    bytes
}

#[test]
fn errors_reach_who_sent_the_packet() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3]);
    let backend = backend_of(&mut balancer, &snapshot, client(1), 2);
    let IpAddr::V4(address) = backend.ip() else { panic!("{backend}") };
    let answer = || (tcp((VIP, 80), client(1), 16), tcp((address.octets(), 8080), client(1), 16));
    // About the service's answer, from the client's side; about the client's packet, from the backend's.
    let (seen, sent) = answer();
    let mut error = too_big(&seen);
    assert_eq!(one(&mut balancer, &snapshot, &mut error, 0), Verdict::Route);
    assert_eq!(error, too_big(&sent));
    let mut error = too_big(&tcp(client(1), (address.octets(), 8080), 16));
    assert_eq!(one(&mut balancer, &snapshot, &mut error, 0), Verdict::Route);
    assert_eq!(error, too_big(&tcp(client(1), (VIP, 80), 16)));
    // A node that does not know the flow finds the same backend.
    let mut error = too_big(&seen);
    assert_eq!(one(&mut self::balancer(), &snapshot, &mut error, 0), Verdict::Route);
    assert_eq!(error, too_big(&sent));
    // Nothing to do with a service.
    let mut error = too_big(&tcp(([9; 4], 1), ([8; 4], 2), 16));
    assert_eq!(one(&mut balancer, &snapshot, &mut error, 0), Verdict::NotOurs);
}

/// A packet cut into two fragments.
fn fragments(packet: &[u8]) -> [Vec<u8>; 2] {
    let data = &packet[20..];
    let make = |offset: usize, data: &[u8], more: u16| {
        let mut header: [u8; 20] = packet[..20].try_into().unwrap();
        header[2..4].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
        header[4..6].copy_from_slice(&[0xab, 0xcd]);
        header[6..8].copy_from_slice(&(more | (offset / 8) as u16).to_be_bytes());
        header[10..12].fill(0);
        let mut header = etherparse::Ipv4Header::from_slice(&header).unwrap().0;
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], data].concat()
    };
    [make(0, &data[..24], 0x2000), make(24, &data[24..], 0)]
}

#[test]
fn fragments_follow_the_first() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3]);
    let [mut first, mut later] = fragments(&tcp(client(1), (VIP, 80), 16));
    let mut early = later.clone();
    assert_eq!(one(&mut balancer, &snapshot, &mut early, 0), Verdict::Hold);
    assert!(!balancer.take_awaited() && !balancer.knows_awaited(&early, 0));
    assert_eq!(one(&mut balancer, &snapshot, &mut first, 0), Verdict::Route);
    assert!(balancer.take_awaited() && !balancer.take_awaited() && balancer.knows_awaited(&early, 0));
    assert_eq!(one(&mut balancer, &snapshot, &mut later, 0), Verdict::Route);
    let (_, backend) = ends(&first);
    let IpAddr::V4(address) = backend.ip() else { panic!("{backend}") };
    let expected = fragments(&tcp(client(1), (address.octets(), 8080), 16));
    assert_eq!([first, later], expected);
    // Of the answers too.
    let [mut first, mut later] = fragments(&tcp((address.octets(), 8080), client(1), 16));
    assert_eq!(one(&mut balancer, &snapshot, &mut first, 0), Verdict::Route);
    assert_eq!(one(&mut balancer, &snapshot, &mut later, 0), Verdict::Route);
    assert_eq!([first, later], fragments(&tcp((VIP, 80), client(1), 16)));
    let [_, mut unrelated] = fragments(&tcp(([9; 4], 1), ([8; 4], 2), 16));
    assert_eq!(one(&mut balancer, &snapshot, &mut unrelated, 0), Verdict::NotOurs);
}

#[test]
fn sctp_goes_to_another_port_with_its_checksum() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let ports = json!([{"port": 80, "protocol": "SCTP", "name": "s"}]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.0.10", "ports": ports},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": 8080, "protocol": "SCTP", "name": "s"}], "endpoints": [{"addresses": ["10.1.0.1"]}],
    });
    let mut objects = Objects::default();
    objects.add(0, &service).unwrap();
    objects.add(1, &slice).unwrap();
    let service = builder.build(&compile(&objects, &Site::default()).unwrap());
    let mut packet = vec![0x45, 0, 0, 36, 0, 0, 0, 0, 60, 132, 0, 0, 198, 51, 100, 1];
    packet.extend(VIP);
    packet.extend([0x10, 0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 1, 0, 0, 4]);
    let sum = crc32c(&packet[20..]);
    packet[28..32].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(one(&mut balancer, &service, &mut packet, 0), Verdict::Route);
    assert_eq!(ends(&packet).1, "10.1.0.1:8080".parse().unwrap());
    let after: [u8; 4] = packet[28..32].try_into().unwrap();
    packet[28..32].fill(0);
    assert_eq!(u32::from_le_bytes(after), crc32c(&packet[20..]));
}

/// `CRC32c`, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[test]
fn vectors_of_any_length_are_balanced_as_single_packets_are() {
    let mut builder = builder();
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3]);
    for length in [1, 2, 67, 256, 300] {
        let mut packets: Vec<_> = (0..length).map(|n| tcp(client(n % 40), (VIP, 80), 2)).collect();
        let mut singles = packets.clone();
        let mut verdicts = vec![Verdict::NotOurs; usize::from(length)];
        let mut slices: Vec<&mut [u8]> = packets.iter_mut().map(Vec::as_mut_slice).collect();
        balancer().process(&snapshot, &mut slices, 0, &mut verdicts);
        let mut alone = balancer();
        for packet in &mut singles {
            assert_eq!(one(&mut alone, &snapshot, packet, 0), Verdict::Route);
        }
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Route));
        assert_eq!(packets, singles);
    }
}

#[test]
fn no_bytes_do_harm() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1]);
    let whole = too_big(&tcp((VIP, 80), client(1), 16));
    for length in 0..whole.len() {
        for bit in 0..8 {
            let mut packet = whole[..length].to_vec();
            if let Some(last) = packet.last_mut() {
                *last ^= 1 << bit;
            }
            let _ = one(&mut balancer, &snapshot, &mut packet, 0);
        }
    }
}
