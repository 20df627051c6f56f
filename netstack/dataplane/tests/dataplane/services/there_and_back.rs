//! Packets to services, and their answers, through a whole worker.

use super::support::*;
use crate::common::*;
use crate::pair::Pair;
use balancer::{Builder, Settings};
use dataplane::DropReason;
use etherparse::{Icmpv4Type, PacketBuilder, icmpv4};
use services::Forwarding;
use std::net::{IpAddr, SocketAddr};

const VIP: [u8; 4] = [10, 96, 0, 10];
const VIP6: &str = "2001:db8:96::10";
const CLIENT: [u8; 4] = [10, 0, 0, 5];

fn with_service(forwarding: Forwarding, backends: &[&str]) -> Testbed {
    let bed = Testbed::new();
    publish(&bed.shared, &compiled(forwarding, "10.96.0.10", backends));
    bed
}

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

#[test]
fn nat_goes_there_and_back_and_the_hops_are_counted() {
    let mut bed = with_service(Forwarding::Nat, &["10.1.0.7:8080"]);
    bed.send(0, &tcp(0, (CLIENT, 4000), (VIP, 80), 2, &[]));
    let there = bed.only_sent(1);
    assert_eq!(ends(&there), (at(CLIENT, 4000), at([10, 1, 0, 7], 8080)));
    assert_eq!((&there[..6], there[22]), (&HOST1[..], 59));
    assert_checksums(&there);
    bed.send(1, &tcp(1, ([10, 1, 0, 7], 8080), (CLIENT, 4000), 18, &pattern(9)));
    let back = bed.only_sent(0);
    assert_eq!(ends(&back), (at(VIP, 80), at(CLIENT, 4000)));
    assert_checksums(&back);
    let counters = bed.shared.backend_counters(0);
    assert_eq!((counters.to.packets, counters.from.packets, counters.flows), (1, 1, 1));
    assert_eq!(bed.shared.flow_counters(0).ipv4.live, 2);
    bed.assert_balanced();
}

#[test]
fn who_gets_the_number_of_a_backend_that_is_gone_counts_from_zero() {
    let mut bed = Testbed::new();
    let mut builder = Builder::new(settings());
    let mut first = None;
    for (backend, generation) in [([10, 1, 0, 7], 0), ([10, 1, 0, 8], 1 << 20), ([10, 1, 0, 9], 2 << 20)] {
        let text = format!("{}:8080", std::net::Ipv4Addr::from(backend));
        let compiled = compiled(Forwarding::Nat, "10.96.0.10", &[&text]);
        if first.is_none() {
            publish(&bed.shared, &compiled);
        }
        let _ = bed.shared.publish_services(Some(builder.build(&compiled)));
        let port = 4000 + u16::from(backend[3]);
        for _ in 0..3 {
            bed.send(0, &tcp(0, (CLIENT, port), (VIP, 80), 2, &[]));
            assert_eq!(ends(&bed.only_sent(1)).1, at(backend, 8080));
        }
        bed.send(1, &tcp(1, (backend, 8080), (CLIENT, port), 18, b"answer"));
        let _ = bed.only_sent(0);
        // An answer of one that is gone reaches its client, and counts for nobody.
        if let Some((backend, port)) = first {
            bed.send(1, &tcp(1, (backend, 8080), (CLIENT, port), 16, b"answer"));
            assert_eq!(ends(&bed.only_sent(0)).0, at(VIP, 80));
        }
        first = first.or(Some((backend, port)));
        let counters = bed.shared.backend_counters(generation);
        assert_eq!((counters.to.packets, counters.from.packets, counters.flows), (3, 1, 1));
        if generation > 0 {
            assert_eq!(bed.shared.backend_counters(0).to.packets, 0);
        }
    }
    bed.assert_balanced();
}

#[test]
fn what_is_not_for_services_passes_as_it_is_and_plain_routing_never_comes_here() {
    let mut bed = Testbed::new();
    let plain = tcp(0, (CLIENT, 1), ([10, 1, 0, 1], 5), 2, &[]);
    bed.send(0, &plain);
    let before = bed.only_sent(1);
    let of_flow = |bed: &Testbed| {
        let mut nodes = bed.shared.node_counters(0);
        nodes.find(|(node, _)| *node == dataplane::Node::Flow).map(|(_, counters)| counters.packets)
    };
    assert_eq!(of_flow(&bed), Some(0));
    publish(&bed.shared, &compiled(Forwarding::Nat, "10.96.0.10", &["10.1.0.7:8080"]));
    bed.send(0, &plain);
    assert_eq!(bed.only_sent(1), before);
    assert_eq!(of_flow(&bed), Some(1));
    let _ = bed.shared.publish_services(None);
    bed.send(0, &plain);
    assert_eq!((bed.only_sent(1), of_flow(&bed)), (before, Some(1)));
    bed.assert_balanced();
}

#[test]
fn a_virtual_address_answers_echo_and_refuses_other_ports() {
    let mut bed = with_service(Forwarding::Nat, &["10.1.0.7:8080"]);
    let mut echo = Vec::new();
    let builder = to_router().ipv4(CLIENT, VIP, 60).icmpv4_echo_request(7, 1);
    builder.write(&mut echo, b"are you there").expect("a vector takes all");
    bed.send(0, &echo);
    let reply = bed.only_sent(0);
    assert_eq!((&reply[26..30], reply[34]), (&VIP[..], 0));
    bed.send(0, &tcp(0, (CLIENT, 4000), (VIP, 81), 2, &[]));
    let refused = bed.only_sent(0);
    assert_eq!((&refused[26..30], refused[34], refused[35]), (&VIP[..], 3, 3));
    assert_eq!(bed.drops(), [(DropReason::ServiceNoPort, 1)]);
    bed.assert_balanced();
}

#[test]
fn a_service_that_nobody_serves_says_so() {
    let mut bed = with_service(Forwarding::Nat, &[]);
    bed.send(0, &tcp(0, (CLIENT, 4000), (VIP, 80), 2, &[]));
    let refused = bed.only_sent(0);
    assert_eq!((refused[34], refused[35]), (3, 3));
    assert_eq!(bed.drops(), [(DropReason::ServiceNoBackend, 1)]);
    bed.assert_balanced();
}

#[test]
fn direct_return_changes_the_link_layer_alone() {
    let mut bed = with_service(Forwarding::Direct, &["10.0.1.9:80"]);
    let frame = tcp(0, (CLIENT, 4000), (VIP, 80), 2, &pattern(20));
    bed.send(0, &frame);
    let sent = bed.only_sent(1);
    assert_eq!((&sent[..6], &sent[6..12]), (&HOST1[..], &MAC1[..]));
    assert_eq!((&sent[26..], sent[22]), (&frame[26..], 59));
    // A neighbour that is not known is none.
    publish(&bed.shared, &compiled(Forwarding::Direct, "10.96.0.10", &["10.0.1.77:80"]));
    bed.send(0, &frame);
    bed.assert_nothing_sent();
    assert_eq!(bed.drops(), [(DropReason::ServiceNotNeighbour, 1)]);
    bed.assert_balanced();
}

#[test]
fn tunnels_carry_packets_and_tell_senders_what_fits() {
    for (forwarding, overhead) in [(Forwarding::Ipip, 20), (Forwarding::Gue, 28)] {
        let mut bed = with_service(forwarding, &["10.1.0.7:80"]);
        let frame = tcp(0, (CLIENT, 4000), (VIP, 80), 16, &pattern(100));
        bed.send(0, &frame);
        let sent = bed.only_sent(1);
        assert_eq!(sent.len(), frame.len() + overhead);
        let inner = &sent[14 + overhead..];
        assert_eq!((&inner[12..], inner[8]), (&frame[26..], 59));
        assert_eq!((&sent[26..34], sent[22]), (&[10, 0, 1, 1, 10, 1, 0, 7][..], 64));
        // Without fragmentation, 1,500 bytes do not fit any more: the client is told what does.
        bed.send(0, &tcp(0, (CLIENT, 4000), (VIP, 80), 16, &pattern(1460)));
        let error = bed.only_sent(0);
        assert_eq!((error[34], error[35], &error[30..34]), (3, 4, &CLIENT[..]));
        assert_eq!(u16::from_be_bytes([error[40], error[41]]), 1500 - overhead as u16);
        assert_eq!(&error[42 + 12..42 + 20], [&CLIENT[..], &VIP[..]].concat());
        assert_eq!(bed.drops(), [(DropReason::Ip4FragmentationNeeded, 1)]);
        bed.assert_balanced();
    }
}

#[test]
fn what_has_no_hop_left_enters_no_tunnel_nor_does_anything_from_a_node_without_an_address_for_one() {
    let mut bed = with_service(Forwarding::Ipip, &["10.1.0.7:80"]);
    let mut last_hop = tcp(0, (CLIENT, 4000), (VIP, 80), 16, &[]);
    last_hop[22] = 1;
    fix_ipv4_checksum(&mut last_hop);
    bed.send(0, &last_hop);
    let error = bed.only_sent(0);
    assert_eq!((error[34], &error[30..34]), (11, &CLIENT[..]));
    assert_eq!(error[42..62], last_hop[14..34]);
    let nameless = Settings { tunnel4: None, ..settings() };
    let services = compiled(Forwarding::Ipip, V4.vip, &["10.1.0.7:80"]);
    let _ = bed.shared.publish_services(Some(Builder::new(nameless).build(&services)));
    bed.send(0, &tcp(0, (CLIENT, 4000), (VIP, 80), 16, &[]));
    bed.assert_nothing_sent();
    assert_eq!(bed.drops(), [(DropReason::Ip4TtlExpired, 1), (DropReason::ServiceNoTunnelAddress, 1)]);
    bed.assert_balanced();
}

#[test]
fn errors_made_here_about_translated_packets_show_what_the_client_sent() {
    let mut bed = with_service(Forwarding::Nat, &["10.1.0.7:8080"]);
    let mut last_hop = tcp(0, (CLIENT, 4000), (VIP, 80), 2, &[]);
    last_hop[22] = 1;
    fix_ipv4_checksum(&mut last_hop);
    bed.send(0, &last_hop);
    let error = bed.only_sent(0);
    assert_eq!((error[34], &error[30..34]), (11, &CLIENT[..]));
    assert_eq!(&error[42 + 12..42 + 20], [&CLIENT[..], &VIP[..]].concat());
    assert_eq!(u16::from_be_bytes([error[42 + 22], error[42 + 23]]), 80);
    bed.assert_balanced();
}

#[test]
fn errors_of_others_reach_the_backend() {
    let mut bed = with_service(Forwarding::Nat, &["10.1.0.7:8080"]);
    bed.send(0, &tcp(0, (CLIENT, 4000), (VIP, 80), 2, &[]));
    let _ = bed.only_sent(1);
    // A router beyond the client's side says that the service's answers are too big.
    let about = tcp(0, (VIP, 80), (CLIENT, 4000), 16, &[]);
    let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let mut error = Vec::new();
    let builder = to_router().ipv4([10, 0, 0, 77], VIP, 60);
    let builder = builder.icmpv4(Icmpv4Type::DestinationUnreachable(kind));
    builder.write(&mut error, &about[14..42]).expect("a vector takes all");
    bed.send(0, &error);
    let sent = bed.only_sent(1);
    assert_eq!((&sent[30..34], sent[34], sent[35]), (&[10, 1, 0, 7][..], 3, 4));
    assert_eq!(&sent[42 + 12..42 + 20], [[10, 1, 0, 7], CLIENT].concat());
    bed.assert_balanced();
}

#[test]
fn answers_that_another_node_asked_for_are_translated_by_the_tables() {
    // The client's packets went by another appliance; the answer comes here.
    let mut bed = with_service(Forwarding::Nat, &["10.1.0.7:8080"]);
    bed.send(1, &tcp(1, ([10, 1, 0, 7], 8080), (CLIENT, 4000), 18, &pattern(9)));
    let back = bed.only_sent(0);
    assert_eq!(ends(&back), (at(VIP, 80), at(CLIENT, 4000)));
    assert_checksums(&back);
    // Who asked the backend itself here is answered by the backend itself.
    bed.send(0, &tcp(0, (CLIENT, 4001), ([10, 1, 0, 7], 8080), 2, &[]));
    let _ = bed.only_sent(1);
    bed.send(1, &tcp(1, ([10, 1, 0, 7], 8080), (CLIENT, 4001), 18, &pattern(9)));
    assert_eq!(ends(&bed.only_sent(0)), (at([10, 1, 0, 7], 8080), at(CLIENT, 4001)));
    // What the backend begins is its own.
    bed.send(1, &tcp(1, ([10, 1, 0, 7], 8080), (CLIENT, 4002), 2, &[]));
    assert_eq!(ends(&bed.only_sent(0)), (at([10, 1, 0, 7], 8080), at(CLIENT, 4002)));
    bed.assert_balanced();
}

#[test]
fn full_nat_comes_from_the_node_and_returns_to_it() {
    let mut bed = with_service(Forwarding::FullNat, &["10.1.0.7:8080"]);
    bed.send(0, &tcp(0, (CLIENT, 4000), (VIP, 80), 2, &[]));
    let (source, destination) = ends(&bed.only_sent(1));
    assert_eq!((source.ip(), destination), ([10, 0, 1, 1].into(), at([10, 1, 0, 7], 8080)));
    bed.send(1, &tcp(1, ([10, 1, 0, 7], 8080), ([10, 0, 1, 1], source.port()), 18, &pattern(9)));
    let back = bed.only_sent(0);
    assert_eq!(ends(&back), (at(VIP, 80), at(CLIENT, 4000)));
    assert_checksums(&back);
    bed.assert_balanced();
}

#[test]
fn ipv6_likewise() {
    let mut bed = Testbed::new();
    publish(&bed.shared, &compiled(Forwarding::Nat, VIP6, &["[2001:db8:1001::7]:8080"]));
    let segment = |port: usize, from: (&str, u16), to: (&str, u16)| {
        let address = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("a literal address").octets();
        let (host, mac) = [(HOST0, MAC0), (HOST1, MAC1)][port];
        let builder = PacketBuilder::ethernet2(host, mac).ipv6(address(from.0), address(to.0), 60);
        let mut frame = Vec::new();
        builder.tcp(from.1, to.1, 1, 100).ack(3).write(&mut frame, b"hello").expect("a vector takes all");
        frame
    };
    let client = "2001:db8:0::5";
    bed.send(0, &segment(0, (client, 4000), (VIP6, 80)));
    assert_eq!(bed.only_sent(1)[14 + 8..], {
        let mut expected = segment(0, (client, 4000), ("2001:db8:1001::7", 8080));
        expected[21] -= 1;
        expected[14 + 8..].to_vec()
    });
    bed.send(1, &segment(1, ("2001:db8:1001::7", 8080), (client, 4000)));
    let back = bed.only_sent(0);
    assert_eq!(back[22..], segment(0, (VIP6, 80), (client, 4000))[22..]);
    bed.assert_balanced();
}

#[test]
fn both_directions_of_a_flow_meet_the_same_worker() {
    for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
        let mut two = Pair::new(1500);
        publish(&two.shared, &compiled(forwarding, "10.96.0.10", &["10.1.0.7:8080", "10.1.0.8:8080"]));
        let mut through = |port: usize, frame: &[u8]| {
            two.send(port, frame);
            let mut sent = [two.sent(0), two.sent(1)].concat();
            assert_eq!(sent.len(), 1, "drops: {:?}", two.drops());
            ends(&sent.remove(0))
        };
        for port in 4000..4100 {
            let client = ([10, 0, 0, 5], port);
            let (source, backend) = through(0, &tcp(0, client, (VIP, 80), 2, &[]));
            let (IpAddr::V4(from), IpAddr::V4(to)) = (backend.ip(), source.ip()) else { panic!("{backend}") };
            let answer = tcp(1, (from.octets(), 8080), (to.octets(), source.port()), 18, &[]);
            assert_eq!(through(1, &answer), (at(VIP, 80), at(client.0, client.1)));
        }
        // A pair of entries for each flow, and none twice.
        let counters = [0, 1].map(|worker| two.shared.flow_counters(worker));
        let live = counters.map(|counters| counters.ipv4.live);
        assert_eq!(live[0] + live[1], 200);
        assert!(live[0] > 40 && live[1] > 40, "{live:?}");
        let handed = counters[0].handed_over + counters[1].handed_over;
        assert!((60..140).contains(&handed), "{handed} of 200");
    }
}
