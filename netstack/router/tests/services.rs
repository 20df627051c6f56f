//! What services need of the router, by frames in and frames out.

mod common;

use common::*;
use router::NeighbourState::*;
use std::collections::BTreeSet;
use std::net::IpAddr;

const BROADCAST: [u8; 6] = [0xff; 6];
const NETWORKS: &str = r#"{"interfaces": [
    {"name": "eth0", "addresses": ["10.0.0.1/24", "2001:db8:0:1::1/64"]},
    {"name": "eth1", "addresses": ["10.0.1.1/24", "2001:db8:0:2::1/64"]}]}"#;

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn set(node: &mut Node, services: &[&str], backends: &[&str]) {
    node.router.set_services(addresses(services), addresses(backends), node.now_ns);
    node.run();
}

#[test]
fn addresses_in_a_network_are_announced_and_answered_for_in_it() {
    let mut node = Node::configured(2, NETWORKS);
    set(&mut node, &["10.0.0.77", "192.0.2.1"], &[]);
    let announced = node.sent(0);
    assert_eq!(announced.len(), 1);
    assert_eq!(read_arp(&announced[0]), Some((1, [10, 0, 0, 77].into(), [10, 0, 0, 77].into())));
    assert_eq!(node.sent(1).len(), 0);
    let ask = |target| arp(1, host_mac(1), [10, 0, 0, 2], target, BROADCAST);
    node.send(0, &ask([10, 0, 0, 77]));
    let answers = node.sent(0);
    assert_eq!(read_arp(&answers[0]), Some((2, [10, 0, 0, 77].into(), [10, 0, 0, 2].into())));
    assert_eq!(answers[0][6..12], port_mac(0));
    node.send(0, &ask([192, 0, 2, 1]));
    node.send(1, &arp(1, host_mac(1), [10, 0, 1, 2], [10, 0, 0, 77], BROADCAST));
    set(&mut node, &[], &[]);
    node.send(0, &ask([10, 0, 0, 77]));
    let answered = |port: usize| node.sent(port).iter().filter_map(|f| read_arp(f)).any(|arp| arp.0 == 2);
    assert!(!answered(0) && !answered(1), "not in the network, or not any more");
}

#[test]
fn another_node_with_the_same_address_is_no_neighbour() {
    let mut node = Node::configured(2, NETWORKS);
    set(&mut node, &["10.0.0.77"], &[]);
    node.send(0, &arp(1, host_mac(5), [10, 0, 0, 77], [10, 0, 0, 77], BROADCAST));
    assert_eq!(node.neighbour("10.0.0.77"), None);
}

#[test]
fn ipv6_addresses_likewise() {
    let mut node = Node::configured(2, NETWORKS);
    set(&mut node, &["2001:db8:0:1::77"], &[]);
    let announced = node.sent(0);
    // A report that its group is listened to, behind a hop-by-hop header, goes first.
    assert_eq!((announced[0][20], announced[0][62]), (0, 143));
    assert_eq!(announced[1..].iter().map(|frame| icmp6_type(frame)).collect::<Vec<_>>(), [Some(136)]);
    let question = nd_message(135, 0, "2001:db8:0:1::77", Some((1, host_mac(1))));
    let group = [0x33, 0x33, 0xff, 0, 0, 0x77];
    node.send(0, &nd(host_mac(1), group, "2001:db8:0:1::2", "ff02::1:ff00:77", &question));
    let answers = node.sent(0);
    assert_eq!((answers.len(), icmp6_type(&answers[0])), (1, Some(136)));
    assert_eq!(answers[0][62..78], "2001:db8:0:1::77".parse::<std::net::Ipv6Addr>().unwrap().octets());
}

#[test]
fn backends_that_are_neighbours_are_kept_resolved() {
    let mut node = Node::configured(2, NETWORKS);
    set(&mut node, &[], &["10.0.1.9", "192.0.2.9"]);
    let asked = node.sent(1);
    assert_eq!(read_arp(&asked[0]), Some((1, [10, 0, 1, 1].into(), [10, 0, 1, 9].into())));
    node.send(1, &arp(2, host_mac(9), [10, 0, 1, 9], [10, 0, 1, 1], port_mac(1)));
    assert_eq!(node.neighbour("10.0.1.9"), Some(Reachable));
    for _ in 0..20 {
        node.after(60 * SECOND_NS);
        if node.sent(1).iter().any(|frame| read_arp(frame).is_some()) {
            node.send(1, &arp(2, host_mac(9), [10, 0, 1, 9], [10, 0, 1, 1], port_mac(1)));
        }
    }
    assert!(node.neighbour("10.0.1.9").is_some(), "nobody has sent to it");
    set(&mut node, &[], &[]);
    node.after(2000 * SECOND_NS);
    assert_eq!(node.neighbour("10.0.1.9"), None);
}
