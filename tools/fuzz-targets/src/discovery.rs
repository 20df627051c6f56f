//! A frame to a whole node with its router: as it is, addressed to the node, and as a punted packet past the checks of the
//! dataplane. Whatever is told, the neighbour table keeps its bounds and the configured neighbour its MAC address.

use std::cell::RefCell;

use router::{Limits, NeighbourState};

use crate::memory_node::{Node, SECOND_NS, port_mac};

const CONFIG: &str = r#"{"interfaces": [
    {"name": "eth0", "addresses": ["10.1.0.1/24", "2001:db8:1::1/64"], "router_advertisements": {}},
    {"name": "eth1", "addresses": ["10.2.0.1/24", "2001:db8:2::1/64"]}],
    "routes": [{"prefix": "0.0.0.0/0", "via": [{"address": "10.2.0.9"}, {"address": "10.1.0.9"}]}],
    "neighbours": [{"interface": "eth1", "address": "10.2.0.8", "mac": "02:00:00:00:00:08"}]}"#;
const NEIGHBOURS: usize = 64;
const INCOMPLETE: usize = 16;
const MAC_BYTES: usize = 6;

thread_local! {
    static NODE: RefCell<Node> = RefCell::new(node());
}

fn node() -> Node {
    let limits = Limits { neighbours: NEIGHBOURS, incomplete: INCOMPLETE, ..Limits::default() };
    let mut node = Node::new(2, limits);
    node.configure(CONFIG);
    node
}

/// Feeds `data` to the node.
pub fn run(data: &[u8]) {
    NODE.with_borrow_mut(|node| {
        if !data.is_empty() {
            node.punt(data);
        }
        for (wire, mac) in [(0, port_mac(0)), (1, port_mac(1))] {
            assert!(node.wires[wire].send(data), "the wire is full");
            let mut frame = data.to_vec();
            if let Some(destination) = frame.get_mut(..MAC_BYTES) {
                destination.copy_from_slice(&mac);
                assert!(node.wires[wire].send(&frame), "the wire is full");
            }
        }
        node.after(SECOND_NS / 10);
        drop((node.sent(0), node.sent(1)));
        check(node);
    });
}

fn check(node: &Node) {
    // Two of routes and one of the configuration come on top.
    let neighbours = node.router.neighbours(node.now_ns);
    assert!(neighbours.len() <= NEIGHBOURS + 3, "{} neighbours", neighbours.len());
    let incomplete =
        neighbours.iter().filter(|neighbour| neighbour.state == NeighbourState::Incomplete).count();
    assert!(incomplete <= INCOMPLETE + 2, "{incomplete} neighbours are being resolved");
    let fixed = neighbours.iter().find(|neighbour| neighbour.state == NeighbourState::Permanent);
    assert_eq!(fixed.and_then(|neighbour| neighbour.mac).map(|mac| mac.0), Some([2, 0, 0, 0, 0, 8]));
}
