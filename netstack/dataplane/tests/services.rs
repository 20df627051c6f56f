//! Packets to services, and their answers, through a whole worker.

mod common;

use balancer::{Builder, Settings};
use buffer::{BufferPool, MemoryPort, MemoryWire, PortQueue};
use common::*;
use dataplane::{DropReason, Flows, InterfaceId, Shared, Wake, Worker};
use etherparse::{Icmpv4Type, PacketBuilder, icmpv4};
use fib::{Fib4Writer, Fib6Writer};
use flow::{Config, Timeouts};
use maglev::TableSize;
use rewrite::{Tuple, View};
use services::object::IpFamily;
use services::{Backend, Compiled, Exposure, Forwarding, Frontend, Pool, PoolKey, Protocol, Scope, State};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const VIP: [u8; 4] = [10, 96, 0, 10];
const VIP6: &str = "2001:db8:96::10";
const CLIENT: [u8; 4] = [10, 0, 0, 5];

/// A service on the VIP over these backends, and the settings of a node that has it.
fn compiled(forwarding: Forwarding, vip: &str, backends: &[&str]) -> Compiled {
    let vip: IpAddr = vip.parse().expect("a literal address");
    let key = PoolKey {
        namespace: "default".into(),
        service: "web".into(),
        port: 80,
        protocol: Protocol::Tcp,
        family: if vip.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 },
        scope: Scope::Cluster,
    };
    let backend = |address: &&str| Backend {
        address: address.parse().expect("a literal address and port"),
        weight: 1,
        state: State::Active,
        node: None,
    };
    let pool = Pool {
        key,
        port_name: String::new(),
        backends: backends.iter().map(backend).collect(),
        table_size: TableSize::default(),
        affinity: None,
        server_id_bytes: None,
        health_check: Default::default(),
        forwarding,
    };
    let exposure = Exposure::LoadBalancer;
    let frontend = Frontend { exposure, address: Some(vip), port: 80, pool: 0, source_ranges: Vec::new() };
    Compiled { pools: vec![pool], frontends: vec![frontend] }
}

fn settings() -> Settings {
    let address = |text: &str| text.parse().expect("a literal address");
    Settings {
        node_addresses: vec![address("10.0.0.1"), address("10.0.1.1")],
        source_addresses: vec![address("10.0.1.1"), address("2001:db8:1::1")],
        tunnel4: Some([10, 0, 1, 1].into()),
        tunnel6: None,
        gue_port: 6080,
        ..Settings::default()
    }
}

fn publish(shared: &Shared, compiled: &Compiled) {
    for worker in 0..shared.workers() {
        let config = Config { capacity: 1000, secret: [3, 4], timeouts: Timeouts::default() };
        let flows = Flows::new(&config, &config, worker, shared.workers()).expect("memory for a small table");
        let _ = shared.give_flows(worker, flows);
    }
    let _ = shared.publish_services(Some(Builder::new(settings()).build(compiled)));
}

fn with_service(forwarding: Forwarding, backends: &[&str]) -> Testbed {
    let bed = Testbed::new();
    publish(&bed.shared, &compiled(forwarding, "10.96.0.10", backends));
    bed
}

fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let tuple: Tuple = View::parse(&frame[14..]).expect("a packet").tuple;
    (tuple.source(), tuple.destination())
}

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

fn assert_checksums(frame: &[u8]) {
    let packet = etherparse::PacketHeaders::from_ethernet_slice(frame).expect("a packet");
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = packet.net else { panic!("no IPv4") };
    assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
    if let Some(etherparse::TransportHeader::Tcp(tcp)) = packet.transport {
        let sum = tcp.calc_checksum_ipv4(&ip, packet.payload.slice()).expect("it is short");
        assert_eq!(sum, tcp.checksum);
    }
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

struct NoWake;

impl Wake for NoWake {
    fn wake_worker(&self, _: usize) {}
    fn wake_control(&self) {}
}

/// Two workers, each with the only queue pair of one port.
struct Two {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    wires: [MemoryWire; 2],
}

impl Two {
    fn new(compiled: &Compiled) -> Self {
        let mut fib4 = Fib4Writer::new().expect("an empty table is small");
        let mut fib6 = Fib6Writer::new().expect("an empty table is small");
        add_routes(&mut fib4, &mut fib6);
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 2, [1, 2], Box::new(NoWake));
        let _ = shared.publish(tables(1500));
        publish(&shared, compiled);
        let pool = BufferPool::from_heap(BUFFERS);
        let ((port0, wire0), (port1, wire1)) = (MemoryPort::new(), MemoryPort::new());
        let ports: [Box<dyn PortQueue>; 2] = [Box::new(port0), Box::new(port1)];
        let worker =
            |(id, port)| Worker::new(shared.clone(), id, vec![(InterfaceId(id as u16), port)], pool.cache());
        let workers = ports.into_iter().enumerate().map(worker).collect();
        Self { shared, workers, wires: [wire0, wire1] }
    }

    fn send(&mut self, port: usize, frame: &[u8]) -> Vec<u8> {
        assert!(self.wires[port].send(frame));
        while self.workers.iter_mut().map(|worker| worker.poll(1)).sum::<usize>() > 0 {}
        let mut sent: Vec<_> = (0..2).filter_map(|port| self.wires[port].receive()).collect();
        assert_eq!(
            sent.len(),
            1,
            "{:?}",
            self.shared.drop_counters().filter(|drop| drop.1 > 0).collect::<Vec<_>>()
        );
        sent.remove(0)
    }

    fn live(&self, worker: usize) -> usize {
        self.shared.flow_counters(worker).ipv4.live
    }
}

#[test]
fn both_directions_of_a_flow_meet_the_same_worker() {
    for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
        let mut two = Two::new(&compiled(forwarding, "10.96.0.10", &["10.1.0.7:8080", "10.1.0.8:8080"]));
        for client in 0..100 {
            let client = ([10, 0, 0, 5], 4000 + client);
            let (source, backend) = ends(&two.send(0, &tcp(0, client, (VIP, 80), 2, &[])));
            let (IpAddr::V4(from), IpAddr::V4(to)) = (backend.ip(), source.ip()) else { panic!("{backend}") };
            let answer = tcp(1, (from.octets(), 8080), (to.octets(), source.port()), 18, &[]);
            assert_eq!(ends(&two.send(1, &answer)), (at(VIP, 80), at(client.0, client.1)));
        }
        // A pair of entries for each flow, and none twice.
        assert_eq!(two.live(0) + two.live(1), 200);
        assert!(two.live(0) > 40 && two.live(1) > 40, "{} and {}", two.live(0), two.live(1));
        let handed = two.shared.flow_counters(0).handed_over + two.shared.flow_counters(1).handed_over;
        assert!((60..140).contains(&handed), "{handed} of 200");
    }
}
