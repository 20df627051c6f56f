//! Neighbours, as they are.

use super::{Reply, dispatch::Request, list};
use crate::http::Pull;
use crate::node::Node;
use alloc::string::String;
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
    let mut neighbours = node.router.neighbours(node.now_ns).into_iter();
    list::list("\"neighbours\":".into(), move |_, members| {
        for neighbour in neighbours.by_ref().take(NEIGHBOURS_PER_PIECE) {
            members.push(&Neighbour::from(neighbour));
        }
        if neighbours.len() > 0 { Pull::More } else { Pull::End }
    })
}
