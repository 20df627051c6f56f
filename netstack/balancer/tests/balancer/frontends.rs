//! What addresses and ports of services and of the node are for.

use balancer::{Balancer, Builder, Reason, Settings, Snapshot, Verdict};
use flow::{Config, Timeouts};
use serde_json::json;

use crate::common::*;

#[test]
fn node_ports_source_ranges_and_empty_services() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerSourceRanges": ["198.51.0.0/16"],
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    let open = snapshot(&mut builder, &spec, "nat", &[1]);
    assert_eq!(open.frontends(), 3);
    let mut verdict = |snapshot: &Snapshot, from: [u8; 4], to: ([u8; 4], u16)| {
        one(&mut balancer, snapshot, &mut tcp((from, 9), to, 2), 0)
    };
    let balanced = ([203, 0, 113, 5], 80);
    assert_eq!(verdict(&open, [198, 51, 1, 1], balanced), Verdict::Route);
    assert_eq!(verdict(&open, [198, 52, 1, 1], balanced), Verdict::Drop(Reason::SourceRange));
    assert_eq!(verdict(&open, [198, 52, 1, 1], ([192, 0, 2, 1], 30080)), Verdict::Route);
    let empty = snapshot(&mut builder, &spec, "nat", &[]);
    assert_eq!(verdict(&empty, [198, 51, 1, 1], balanced), Verdict::Drop(Reason::NoBackend));
}

#[test]
fn an_address_of_the_node_stays_the_nodes_but_for_what_services_have_of_it() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let spec = json!({
        "externalIPs": ["192.0.2.1", "192.0.2.2"],
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}],
    });
    let snapshot = snapshot(&mut builder, &spec, "nat", &[]);
    let mut verdict =
        |to: ([u8; 4], u16)| one(&mut balancer, &snapshot, &mut tcp(([198, 51, 1, 1], 9), to, 2), 0);
    for own in [[192, 0, 2, 1], [192, 0, 2, 2]] {
        // The API, what else listens there, and what the service does have.
        assert_eq!([80, 22].map(|port| verdict((own, port))), [Verdict::NotOurs; 2]);
        assert_eq!(verdict((own, 81)), Verdict::Drop(Reason::NoBackend));
    }
    assert_eq!(verdict((VIP, 80)), Verdict::Drop(Reason::NoBackend));
}

#[test]
fn a_node_port_among_the_ports_of_full_nat_stays_a_node_port() {
    const NODE_PORT: u16 = 40_000;
    let address = "192.0.2.1".parse().unwrap();
    let settings =
        Settings { node_addresses: vec![address], source_addresses: vec![address], ..Settings::default() };
    let mut builder = Builder::new(settings);
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": NODE_PORT}]});
    let by_node_port = snapshot(&mut builder, &spec, "nat", &[1]);
    for number in 0..50 {
        let (from, all) = (client(number), (20_000, 60_000));
        let owner = |packet: Vec<u8>| by_node_port.owner(&packet, 4, all);
        let (asks, answers) =
            (owner(tcp(from, ([192, 0, 2, 1], NODE_PORT), 2)), owner(tcp(([10, 1, 0, 1], 8080), from, 18)));
        assert_eq!(asks, answers);
    }
    // Nobody's flow gets it for a source.
    let by_full_nat = snapshot(&mut builder, &spec, "full-nat", &[1]);
    let config = Config { capacity: 1000, secret: [1, 2], timeouts: Timeouts::default() };
    let mut balancer = Balancer::new((&config, &config), (0, 1), (NODE_PORT, NODE_PORT + 1)).unwrap();
    let mut packet = tcp(client(1), (VIP, 80), 2);
    assert_eq!(one(&mut balancer, &by_full_nat, &mut packet, 0), Verdict::Route);
    assert_eq!(ends(&packet).0.port(), NODE_PORT + 1);
    let mut packet = tcp(client(2), (VIP, 80), 2);
    assert_eq!(one(&mut balancer, &by_full_nat, &mut packet, 0), Verdict::Drop(Reason::NoSource));
}
