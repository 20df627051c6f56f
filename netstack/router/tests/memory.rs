//! Route tables at the end of their memory.

mod common;

use common::*;
use fib::{Fib4Writer, Fib6Writer, NO_ROUTE};
use router::{Limits, RouteError};

const PORTS: &str = r#"{"interfaces": [
    {"name": "eth0", "addresses": ["10.0.0.1/24"]}, {"name": "eth1", "addresses": ["10.0.1.1/24"]}]"#;
/// More host routes, each in a node of its own, than 256 KiB have room for.
const MANY: u32 = 5000;

fn small_node() -> Node {
    let tables = (Fib4Writer::with_limit(256 << 10).unwrap(), Fib6Writer::new().unwrap());
    Node::with_tables(2, Limits::default(), tables.0, tables.1)
}

fn address(n: u32) -> String {
    std::net::Ipv4Addr::from_bits(0xc000_0000 + (n << 8)).to_string()
}

fn value(node: &Node, n: u32) -> u32 {
    node.shared.fib4().lookup(0xc000_0000 + (n << 8))
}

/// The configuration with host routes of these numbers through a gateway.
fn config(routes: impl Iterator<Item = u32>, gateway: u8) -> String {
    let route =
        |n| format!(r#"{{"prefix": "{}/32", "via": [{{"address": "10.0.1.{gateway}"}}]}}"#, address(n));
    format!(r#"{PORTS}, "routes": [{}]}}"#, routes.map(route).collect::<Vec<_>>().join(", "))
}

#[test]
fn routes_without_room_come_in_when_others_go() {
    let mut node = small_node();
    node.configure(&config(0..MANY, 2));
    node.run();
    let entered = |node: &Node| (0..MANY).filter(|n| value(node, *n) != NO_ROUTE).count() as u32;
    let room = entered(&node);
    assert!((1000..MANY - 1000).contains(&room), "{room}");
    // All that are entered lead elsewhere now. Nothing may be left with the old group's number.
    let old = value(&node, 0);
    node.configure(&config(0..MANY, 3));
    node.run();
    assert_eq!(entered(&node), room);
    assert!((0..MANY).all(|n| value(&node, n) != old), "an entry names a group that is gone");
    // The first go; those that found no room come.
    node.configure(&config(MANY - room / 2..MANY, 3));
    node.run();
    assert_eq!(entered(&node), room / 2);
    assert!((MANY - room / 2..MANY).all(|n| value(&node, n) != NO_ROUTE));
    node.configure(&format!("{PORTS}}}"));
    node.run();
    assert_eq!(entered(&node), 0);
}

#[test]
fn the_api_is_told_that_there_is_no_room() {
    let mut node = small_node();
    node.configure(&format!("{PORTS}}}"));
    let route = |n, gateway| {
        let json =
            format!(r#"{{"prefix": "{}/32", "via": [{{"address": "10.0.1.{gateway}"}}]}}"#, address(n));
        config::parse_route(json.as_bytes()).unwrap()
    };
    node.router.set_route(&route(0, 2)).unwrap();
    node.run();
    let full = (1..MANY).find(|n| {
        let result = node.router.set_route(&route(*n, 2));
        node.run();
        assert!(matches!(result, Ok(()) | Err(RouteError::Memory)), "{result:?}");
        result.is_err()
    });
    let full = full.unwrap();
    for n in 0..full {
        node.router.set_route(&route(n, 3)).unwrap();
        node.run();
    }
    for n in 0..full {
        assert!(node.router.remove_route(format!("{}/32", address(n)).parse().unwrap()).unwrap());
        node.run();
    }
    assert!((0..MANY).all(|n| value(&node, n) == NO_ROUTE));
}
