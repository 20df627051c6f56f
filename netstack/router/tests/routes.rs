//! Routes, by what the tables and the wires show.

mod common;

use std::{collections::BTreeMap, net::IpAddr};

use common::*;
use config::IpNet;
use dataplane::InterfaceId;
use router::{DhcpLease, Limits, RouteError, RouteStatus, Source, TargetStatus};

const BROADCAST: [u8; 6] = [0xff; 6];
/// Hosts on eth0, four routers on eth1.
const GATEWAYS: &str = r#"{"interfaces": [
    {"name": "eth0", "addresses": ["10.0.0.1/24"]},
    {"name": "eth1", "addresses": ["10.0.1.1/24", "2001:db8:0:2::1/64"]}]}"#;

fn route(json: &str) -> config::Route {
    config::parse_route(json.as_bytes()).unwrap()
}

fn lookup(node: &Node, address: &str) -> Option<RouteStatus> {
    node.router.lookup(address.parse::<IpAddr>().unwrap())
}

fn source(node: &Node, address: &str) -> Option<Source> {
    lookup(node, address).map(|route| route.source)
}

/// Answers every question that is on a wire, as a host whose number is the last octet asked for.
fn answer_all(node: &mut Node, port: usize, silent: &[u8]) {
    for frame in node.sent(port) {
        let Some((1, asker, target)) = read_arp(&frame) else { continue };
        let host = target.octets()[3];
        if !silent.contains(&host) && asker != target {
            let reply = arp(2, host_mac(host), target.octets(), asker.octets(), port_mac(port as u8));
            node.send(port, &reply);
        }
    }
}

/// MAC addresses to which each of many flows goes.
fn spread(node: &mut Node) -> Vec<[u8; 6]> {
    let _ = node.sent(1);
    let mut macs = Vec::new();
    for flow in 0..=255u8 {
        node.send(0, &udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [192, 0, 2, flow]));
        let frames: Vec<_> = node.sent(1).into_iter().filter(|frame| frame[12..14] == [8, 0]).collect();
        assert_eq!(frames.len(), 1);
        macs.push(frames[0][..6].try_into().unwrap());
    }
    macs
}

fn count(macs: &[[u8; 6]], host: u8) -> usize {
    macs.iter().filter(|mac| **mac == host_mac(host)).count()
}

#[test]
fn a_static_route_resolves_its_next_hop_ahead_of_traffic() {
    let config = GATEWAYS
        .replace("]}]}", r#"]}], "routes": [{"prefix": "192.0.2.0/24", "via": [{"address": "10.0.1.2"}]}]}"#);
    let mut node = Node::configured(2, &config);
    let status = lookup(&node, "192.0.2.9").unwrap();
    let TargetStatus::Via(hops) = &status.target else { panic!("{status:?}") };
    assert_eq!((status.source, status.active, hops[0].resolved), (Source::Static, true, false));
    assert_eq!(hops[0].interface.as_deref(), Some("eth1"));
    node.after(5 * SECOND_NS);
    answer_all(&mut node, 1, &[]);
    let _ = node.sent(1);
    node.send(0, &udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [192, 0, 2, 1]));
    let sent = node.sent(1);
    assert_eq!((sent.len(), &sent[0][..6]), (1, &host_mac(2)[..]), "no packet waits");
    assert!(node.router.neighbours(node.now_ns).iter().any(|neighbour| neighbour.is_next_hop));
}

#[test]
fn the_preferred_source_wins_and_the_next_takes_over() {
    let mut node = Node::configured(2, GATEWAYS);
    node.router.set_route(&route(r#"{"prefix": "192.0.2.0/24", "via": [{"address": "10.0.0.7"}]}"#)).unwrap();
    node.router.set_route(&route(r#"{"prefix": "192.0.0.0/16", "blackhole": true}"#)).unwrap();
    node.run();
    assert_eq!(source(&node, "192.0.2.1"), Some(Source::Dynamic));
    let dynamic = node.shared.fib4().lookup(0xc000_0201);
    let config = GATEWAYS
        .replace("]}]}", r#"]}], "routes": [{"prefix": "192.0.2.0/24", "via": [{"address": "10.0.1.2"}]}]}"#);
    node.configure(&config);
    assert_eq!(source(&node, "192.0.2.1"), Some(Source::Static));
    assert_ne!(node.shared.fib4().lookup(0xc000_0201), dynamic);
    node.router.set_link(InterfaceId(1), false, node.now_ns);
    node.run();
    assert_eq!(source(&node, "192.0.2.1"), Some(Source::Dynamic), "the static route's link is down");
    assert_eq!(node.shared.fib4().lookup(0xc000_0201), dynamic);
    node.router.set_link(InterfaceId(1), true, node.now_ns);
    node.run();
    assert_eq!(source(&node, "192.0.2.1"), Some(Source::Static));
    node.configure(GATEWAYS);
    assert_eq!(node.shared.fib4().lookup(0xc000_0201), dynamic);
    assert_eq!(node.router.remove_route("192.0.2.0/24".parse().unwrap()), Ok(true));
    assert_eq!(node.router.remove_route("192.0.2.0/24".parse().unwrap()), Ok(false));
    node.run();
    assert_eq!(lookup(&node, "192.0.2.1").unwrap().target, TargetStatus::Blackhole);
}

#[test]
fn only_the_flows_of_a_next_hop_that_fails_move() {
    let mut node = Node::configured(2, GATEWAYS);
    let via = r#"{"address": "10.0.1.2"}, {"address": "10.0.1.3"}, {"address": "10.0.1.4", "weight": 2}"#;
    node.router.set_route(&route(&format!(r#"{{"prefix": "192.0.2.0/24", "via": [{via}]}}"#))).unwrap();
    node.run();
    answer_all(&mut node, 1, &[]);
    let before = spread(&mut node);
    assert_eq!([2, 3, 4].map(|host| count(&before, host)).iter().sum::<usize>(), 256);
    assert!((96..160).contains(&count(&before, 4)), "twice the weight: {}", count(&before, 4));
    for _ in 0..60 {
        node.after(SECOND_NS);
        answer_all(&mut node, 1, &[3]);
    }
    let after = spread(&mut node);
    assert_eq!(count(&after, 3), 0, "it no longer answers");
    for (before, after) in before.iter().zip(&after).filter(|(before, _)| **before != host_mac(3)) {
        assert_eq!(before, after, "a flow moved without need");
    }
    for _ in 0..20 {
        node.after(SECOND_NS);
        answer_all(&mut node, 1, &[]);
    }
    assert_eq!(spread(&mut node), before, "it is back");
}

#[test]
fn a_lease_gives_an_address_and_routes() {
    let mut node = Node::new(2, Limits::default());
    node.configure(r#"{"interfaces": [{"name": "eth0", "dhcp4": true}, {"name": "eth1", "addresses": ["10.0.1.1/24"]}]}"#);
    assert_eq!(source(&node, "192.0.2.1"), None);
    let lease = DhcpLease {
        address: "10.0.0.50/24".parse().unwrap(),
        routes: vec![
            ("0.0.0.0/0".parse().unwrap(), [10, 0, 0, 254].into()),
            ("198.51.100.0/24".parse().unwrap(), [10, 0, 0, 253].into()),
        ],
        mtu: Some(1400),
    };
    node.router.set_lease(InterfaceId(0), Some(lease), node.now_ns);
    node.run();
    assert_eq!(source(&node, "192.0.2.1"), Some(Source::Dhcp));
    let classless = node.router.lookup([198, 51, 100, 1].into()).expect("a route");
    assert_eq!(classless.prefix, "198.51.100.0/24".parse().unwrap());
    let status = &node.router.interfaces()[0];
    assert_eq!((status.mtu, status.addresses.len()), (1400, 1));
    let _ = node.sent(0);
    node.send(0, &arp(1, host_mac(1), [10, 0, 0, 2], [10, 0, 0, 50], BROADCAST));
    assert_eq!(
        node.sent(0).iter().filter(|frame| read_arp(frame).is_some_and(|said| said.0 == 2)).count(),
        1
    );
    node.router.set_lease(InterfaceId(0), None, node.now_ns);
    node.run();
    assert_eq!((source(&node, "192.0.2.1"), source(&node, "10.0.0.50")), (None, None));
}

#[test]
fn a_sub_interface_comes_and_goes() {
    let with = r#"{"interfaces": [{"name": "eth0"}, {"name": "eth0.7", "parent": "eth0", "vlan": 7, "addresses": ["10.7.0.1/24"]}],
        "routes": [{"prefix": "192.0.2.0/24", "via": [{"address": "10.7.0.9"}]}]}"#;
    let mut node = Node::configured(1, with);
    let ask = arp(1, host_mac(1), [10, 7, 0, 2], [10, 7, 0, 1], BROADCAST);
    let tagged = [&ask[..12], &[0x81, 0, 0, 7], &ask[12..]].concat();
    node.send(0, &tagged);
    let answer = node.sent(0).into_iter().find(|frame| frame[16..18] == [8, 6] && frame[..6] == host_mac(1));
    assert_eq!(answer.expect("an answer")[12..16], [0x81, 0, 0, 7]);
    for _ in 0..3 {
        node.configure(r#"{"interfaces": [{"name": "eth0"}]}"#);
        assert_eq!((source(&node, "10.7.0.1"), source(&node, "192.0.2.1")), (None, None));
        assert!(node.router.neighbours(node.now_ns).is_empty());
        node.configure(with);
        assert_eq!(source(&node, "192.0.2.1"), Some(Source::Static));
    }
    assert_eq!(node.router.interface_id("eth0.7"), Some(InterfaceId(1)));
}

#[test]
fn impossible_routes_are_refused() {
    let mut node = Node::configured(2, GATEWAYS);
    let mut bad =
        route(r#"{"prefix": "192.0.2.0/24", "via": [{"address": "10.0.1.2", "interface": "eth9"}]}"#);
    assert_eq!(node.router.set_route(&bad), Err(RouteError::NoInterface("eth9".into())));
    bad.via[0].interface = None;
    bad.via[0].address = Some("2001:db8::1".parse().unwrap());
    assert!(matches!(node.router.set_route(&bad), Err(RouteError::Invalid(_))));
    bad.via.clear();
    assert!(matches!(node.router.set_route(&bad), Err(RouteError::Invalid(_))));
    assert_eq!(node.router.route_count(Source::Dynamic), 0);
}

#[test]
fn groups_are_bounded_and_come_back() {
    let mut node = Node::new(2, Limits { groups: 40, ..Limits::default() });
    node.configure(GATEWAYS);
    for round in 0..5 {
        let mut added = 0;
        for host in 10..250 {
            let one = route(&format!(
                r#"{{"prefix": "192.0.{host}.0/24", "via": [{{"address": "10.0.1.{host}"}}]}}"#
            ));
            match node.router.set_route(&one) {
                Ok(()) => added += 1,
                Err(error) => assert_eq!(error, RouteError::TooManyGroups),
            }
        }
        assert!((30..40).contains(&added), "round {round}: {added}");
        node.run();
        for host in 10..250 {
            let _ = node.router.remove_route(format!("192.0.{host}.0/24").parse().unwrap()).unwrap();
        }
        node.after(10 * SECOND_NS);
        let _ = (node.sent(0), node.sent(1));
    }
    assert!(node.router.neighbours(node.now_ns).is_empty(), "{:?}", node.router.neighbours(node.now_ns));
}

#[test]
fn a_new_group_reaches_no_worker_before_its_tables() {
    let mut node = Node::configured(2, GATEWAYS);
    let before = node.shared.fib4().lookup(0xc000_0201);
    node.router.set_route(&route(r#"{"prefix": "192.0.2.0/24", "via": [{"address": "10.0.1.2"}]}"#)).unwrap();
    for _ in 0..5 {
        // The worker has no turn.
        node.router.poll(node.now_ns);
        node.now_ns += SECOND_NS / 100;
        assert_eq!(node.shared.fib4().lookup(0xc000_0201), before);
        assert!(node.router.pending_changes() > 0 && node.router.next_deadline_ns(node.now_ns).is_some());
    }
    node.run();
    assert_ne!(node.shared.fib4().lookup(0xc000_0201), before);
    assert_eq!(node.router.pending_changes(), 0);
}

#[test]
fn a_listing_has_every_route_once() {
    let mut node = Node::configured(2, GATEWAYS);
    for n in 0..100u8 {
        node.router
            .set_route(&route(&format!(r#"{{"prefix": "192.0.{n}.0/24", "blackhole": true}}"#)))
            .unwrap();
    }
    node.run();
    let within: IpNet = "192.0.0.0/17".parse().unwrap();
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = node.router.routes(within, after, 7);
        let Some(last) = page.last() else { break };
        after = Some((last.prefix, last.source));
        all.extend(page);
    }
    let wanted: Vec<IpNet> = (0..100).map(|n| format!("192.0.{n}.0/24").parse().unwrap()).collect();
    assert_eq!(all.iter().map(|route| route.prefix).collect::<Vec<_>>(), wanted);
    assert!(all.iter().all(|route| route.active));
    let every: Vec<_> = node.router.routes("::/0".parse().unwrap(), None, 1000);
    assert_eq!(every.iter().map(|route| route.source).collect::<Vec<_>>(), [Source::Connected; 2]);
}

#[test]
fn a_million_routes_are_loaded_in_slices() {
    let mut node = Node::configured(2, GATEWAYS);
    let mut state = 1u64;
    let mut oracle = BTreeMap::new();
    let mut next = route(r#"{"prefix": "0.0.0.0/0", "via": [{"address": "10.0.1.2"}]}"#);
    let start = std::time::Instant::now();
    let mut busy = 0;
    for _ in 0..1_000_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let network = ((state >> 32) as u32 | 0x4000_0000) & 0xffff_ff00;
        let hop = 2 + (state & 63) as u8;
        next.prefix = IpNet::V4(config::Ipv4Net::new(network.into(), 24).unwrap());
        next.via[0].address = Some(IpAddr::V4([10, 0, 1, hop].into()));
        while node.router.set_route(&next) == Err(RouteError::Busy) {
            busy += 1;
            node.run();
        }
        let _ = oracle.insert(network, hop);
    }
    node.run();
    while node.router.pending_changes() > 0 {
        node.run();
    }
    println!("{} routes in {:?}, {busy} pauses", oracle.len(), start.elapsed());
    assert_eq!(node.router.route_count(Source::Dynamic), oracle.len());
    for (network, hop) in oracle.iter().step_by(997) {
        let status = node.router.lookup(IpAddr::V4((network | 1).into())).unwrap();
        let TargetStatus::Via(hops) = &status.target else { panic!("{status:?}") };
        assert_eq!(hops[0].address, Some(IpAddr::V4([10, 0, 1, *hop].into())));
        assert_ne!(node.shared.fib4().lookup(network | 1), 0);
    }
    for network in oracle.keys() {
        let prefix = IpNet::V4(config::Ipv4Net::new((*network).into(), 24).unwrap());
        while node.router.remove_route(prefix) == Err(RouteError::Busy) {
            node.run();
        }
    }
    node.run();
    assert!(oracle.keys().step_by(997).all(|network| node.shared.fib4().lookup(*network) == 0));
}
