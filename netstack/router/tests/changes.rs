//! What must not outlive a change: host routes of neighbours under more specific routes, interface numbers, announcements
//! of what is no longer so.

mod common;

use common::*;
use router::{RouteStatus, Source};

const BROADCAST: [u8; 6] = [0xff; 6];

const NETWORKS: &str = r#"{"interfaces": [
    {"name": "eth0", "addresses": ["10.0.0.1/24", "2001:db8:0:1::1/64"]},
    {"name": "eth1", "addresses": ["10.0.1.1/24"]}]"#;

fn with(more: &str) -> String {
    format!("{NETWORKS}{more}}}")
}

/// A neighbour on eth0 makes itself known.
fn hear(node: &mut Node, last: u8) {
    node.send(0, &arp(1, host_mac(last), [10, 0, 0, last], [10, 0, 0, 1], BROADCAST));
    let _ = node.sent(0);
    assert!(node.neighbour(&format!("10.0.0.{last}")).is_some());
}

fn followed(node: &Node, address: &str) -> RouteStatus {
    node.router.lookup(address.parse().unwrap()).expect("there is a route")
}

/// What the workers find, which must be what control says.
fn found(node: &Node, last: u8) -> u32 {
    node.shared.fib4().lookup(0x0a00_0000 + u32::from(last))
}

#[test]
fn a_neighbour_does_not_override_a_more_specific_route() {
    let mut node = Node::configured(
        2,
        &with(
            r#", "routes": [{"prefix": "10.0.0.66/32", "blackhole": true},
            {"prefix": "10.0.0.128/25", "via": [{"address": "10.0.1.9"}]}]"#,
        ),
    );
    let (blackhole, other) = (found(&node, 66), found(&node, 200));
    for last in [66, 200, 5] {
        hear(&mut node, last);
    }
    assert_eq!((found(&node, 66), followed(&node, "10.0.0.66").source), (blackhole, Source::Static));
    assert_eq!((found(&node, 200), followed(&node, "10.0.0.200").source), (other, Source::Static));
    assert_eq!(followed(&node, "10.0.0.5").source, Source::Neighbour);
}

#[test]
fn neighbours_follow_when_routes_change() {
    let mut node = Node::configured(2, &with(""));
    hear(&mut node, 200);
    hear(&mut node, 5);
    assert_eq!(followed(&node, "10.0.0.200").source, Source::Neighbour);
    let resolved = found(&node, 200);
    let route = config::parse_route(br#"{"prefix": "10.0.0.128/25", "blackhole": true}"#).unwrap();
    node.router.set_route(&route).unwrap();
    node.run();
    assert_eq!(followed(&node, "10.0.0.200").source, Source::Dynamic);
    assert_ne!(found(&node, 200), resolved);
    assert_eq!(followed(&node, "10.0.0.5").source, Source::Neighbour, "another half of the network");
    assert_eq!(node.router.remove_route("10.0.0.128/25".parse().unwrap()), Ok(true));
    node.run();
    assert_eq!(followed(&node, "10.0.0.200").source, Source::Neighbour);
    // A route that covers the whole network changes nothing.
    let route = config::parse_route(br#"{"prefix": "10.0.0.0/8", "blackhole": true}"#).unwrap();
    node.router.set_route(&route).unwrap();
    node.run();
    assert_eq!(followed(&node, "10.0.0.200").source, Source::Neighbour);
    // The same from the configuration, IPv6 too.
    let from = "2001:db8:0:1::9";
    let solicit = nd_message(135, 0, "2001:db8:0:1::1", Some((1, host_mac(9))));
    node.send(0, &nd(host_mac(9), port_mac(0), from, "2001:db8:0:1::1", &solicit));
    assert_eq!(followed(&node, from).source, Source::Neighbour);
    node.configure(&with(r#", "routes": [{"prefix": "2001:db8:0:1::/65", "blackhole": true}]"#));
    assert_eq!(followed(&node, from).source, Source::Static);
    node.configure(&with(""));
    assert_eq!(followed(&node, from).source, Source::Neighbour);
}

const VLANS: [&str; 2] = [
    r#"{"interfaces": [{"name": "eth0", "addresses": ["10.0.0.1/24"]},
        {"name": "a", "parent": "eth0", "vlan": 10, "addresses": ["10.0.10.1/24"]}]}"#,
    r#"{"interfaces": [{"name": "eth0", "addresses": ["10.0.0.1/24"]},
        {"name": "b", "parent": "eth0", "vlan": 20, "addresses": ["10.0.20.1/24"]}]}"#,
];

#[test]
fn a_new_interface_inherits_nothing_of_another() {
    let mut node = Node::configured(1, VLANS[0]);
    let id = |node: &Node, name: &str| {
        node.router.interfaces().into_iter().find(|interface| interface.name == name).map(|i| i.id)
    };
    let first = id(&node, "a").unwrap();
    let route = br#"{"prefix": "10.9.0.0/16", "via": [{"address": "10.0.10.9", "interface": "a"}]}"#;
    node.router.set_route(&config::parse_route(route).unwrap()).unwrap();
    node.run();
    node.configure(VLANS[1]);
    assert_ne!(id(&node, "b"), Some(first));
    assert!(!followed(&node, "10.9.0.1").active, "the route is not that of the new interface");
    node.configure(VLANS[0]);
    assert_eq!(id(&node, "a"), Some(first), "the same name is the same interface");
    assert!(followed(&node, "10.9.0.1").active);
}

#[test]
fn another_vlan_under_the_same_name_knows_no_neighbour() {
    let mut node = Node::configured(1, VLANS[0]);
    let id = node.router.interfaces().into_iter().find(|interface| interface.name == "a").unwrap().id;
    let lease = router::DhcpLease { address: "10.0.11.5/24".parse().unwrap(), routes: vec![], mtu: None };
    node.router.set_lease(id, Some(lease), node.now_ns);
    let mut request = arp(1, host_mac(7), [10, 0, 10, 7], [10, 0, 10, 1], BROADCAST);
    let _ = request.splice(12..12, [0x81, 0, 0, 10]);
    node.send(0, &request);
    assert!(node.neighbour("10.0.10.7").is_some());
    node.configure(&VLANS[0].replace("\"vlan\": 10", "\"vlan\": 11"));
    assert_eq!(node.neighbour("10.0.10.7"), None);
    let addresses = node.router.interfaces().into_iter().find(|i| i.name == "a").unwrap().addresses;
    assert!(!addresses.iter().any(|network| network.to_string().starts_with("10.0.11.")), "{addresses:?}");
}

#[test]
fn a_changed_mac_address_is_announced() {
    let mut node = Node::configured(2, &with(""));
    let _ = node.sent(0);
    let mac = [2, 0, 0, 0, 0, 0x77];
    let changed = with("").replace(r#""name": "eth0","#, r#""name": "eth0", "mac": "02:00:00:00:00:77","#);
    node.configure(&changed);
    node.after(3 * SECOND_NS);
    let frames = node.sent(0);
    let announced = frames.iter().filter(|frame| {
        frame[6..12] == mac && read_arp(frame).is_some_and(|(_, sender, target)| sender == target)
    });
    assert_eq!(announced.count(), 2, "gratuitous ARP, twice");
    let advertised = frames
        .iter()
        .filter(|frame| icmp6_type(frame) == Some(136) && frame[..6] == [0x33, 0x33, 0, 0, 0, 1]);
    assert!(advertised.count() >= 1, "an unsolicited neighbour advertisement to all nodes");
}

const ADVERTISING: &str = r#"{"interfaces": [{"name": "eth0",
    "addresses": ["2001:db8:0:1::1/64", "2001:db8:0:2::1/64"], "router_advertisements": {}},
    {"name": "a", "parent": "eth0", "vlan": 10, "addresses": ["2001:db8:0:3::1/64"], "router_advertisements": {}}]}"#;

/// Router lifetime and prefixes with their preferred lifetimes.
fn read_advertisement(frame: &[u8]) -> Option<(u16, Vec<(String, u32)>)> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [0x81, 0] {
        drop(frame.drain(12..16));
    }
    (icmp6_type(&frame)? == 134).then_some(())?;
    let mut prefixes = Vec::new();
    let mut options = &frame[70..];
    while options.len() >= 8 {
        let (option, rest) = options.split_at(usize::from(options[1]) * 8);
        if option[0] == 3 {
            let network: [u8; 16] = option[16..32].try_into().unwrap();
            let preferred = u32::from_be_bytes(option[8..12].try_into().unwrap());
            prefixes.push((std::net::Ipv6Addr::from(network).to_string(), preferred));
        }
        options = rest;
    }
    Some((u16::from_be_bytes([frame[60], frame[61]]), prefixes))
}

#[test]
fn hosts_are_told_what_is_no_longer_so() {
    let mut node = Node::configured(1, ADVERTISING);
    let _ = node.sent(0);
    let said = |node: &mut Node| {
        node.after(SECOND_NS / 10);
        node.sent(0).iter().filter_map(|frame| read_advertisement(frame)).collect::<Vec<_>>()
    };
    // A network less.
    let fewer = ADVERTISING.replace(r#", "2001:db8:0:2::1/64""#, "");
    node.configure(&fewer);
    let first = said(&mut node);
    let deprecated = first.iter().find(|(lifetime, prefixes)| {
        *lifetime > 0
            && prefixes.iter().any(|(network, preferred)| network == "2001:db8:0:2::" && *preferred == 0)
    });
    let (_, prefixes) = deprecated.unwrap_or_else(|| panic!("{first:?}"));
    assert!(prefixes.iter().any(|(network, preferred)| network == "2001:db8:0:1::" && *preferred > 0));
    // An interface less: its last word leaves before it does.
    let without = r#"{"interfaces": [{"name": "eth0", "addresses": ["2001:db8:0:1::1/64"], "router_advertisements": {}}]}"#;
    node.configure(without);
    let gone = (0, vec![("2001:db8:0:3::".to_owned(), 0)]);
    let heard = said(&mut node);
    assert!(heard.contains(&gone), "{heard:?}");
    // Disabled.
    node.configure(&without.replace(r#""name": "eth0","#, r#""name": "eth0", "enabled": false,"#));
    let heard = said(&mut node);
    assert!(heard.contains(&(0, vec![("2001:db8:0:1::".to_owned(), 0)])), "{heard:?}");
}
