//! Neighbours, as they are.

use super::{JSON, Reply, dispatch::Request};
use crate::http::{Pull, Source};
use crate::node::Node;
use alloc::{string::String, vec::Vec};
use config::MacAddress;
use core::net::IpAddr;
use router::NeighbourStatus;
use serde::Serialize;

/// Neighbours of one piece of a stream.
const NEIGHBOURS_PER_PIECE: usize = 100;

#[derive(Serialize)]
struct Neighbour {
    interface: String,
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddress>,
    state: &'static str,
    is_router: bool,
    is_next_hop: bool,
    age_seconds: u64,
}

impl From<NeighbourStatus> for Neighbour {
    fn from(status: NeighbourStatus) -> Self {
        Self {
            interface: status.interface,
            address: status.address,
            mac: status.mac,
            state: status.state.name(),
            is_router: status.is_router,
            is_next_hop: status.is_next_hop,
            age_seconds: status.age_ns / 1_000_000_000,
        }
    }
}

/// `GET /v1/neighbours`.
pub(super) fn list(node: &mut Node, _: &Request) -> Reply {
    Reply::stream(JSON, List { neighbours: node.router.neighbours(node.now_ns).into_iter(), is_begun: false })
}

/// A snapshot of all neighbours, written piece by piece.
struct List {
    neighbours: alloc::vec::IntoIter<NeighbourStatus>,
    is_begun: bool,
}

impl Source<Node> for List {
    fn pull(&mut self, _: &mut Node, out: &mut Vec<u8>) -> Pull {
        if !self.is_begun {
            out.extend_from_slice(b"{\"neighbours\":[");
        }
        for neighbour in self.neighbours.by_ref().take(NEIGHBOURS_PER_PIECE) {
            if core::mem::replace(&mut self.is_begun, true) {
                out.push(b',');
            }
            out.extend(serde_json::to_vec(&Neighbour::from(neighbour)).unwrap_or_default());
        }
        if self.neighbours.len() > 0 {
            return Pull::More;
        }
        out.extend_from_slice(b"]}");
        Pull::End
    }
}
