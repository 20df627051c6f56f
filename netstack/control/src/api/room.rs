//! How much memory it takes at most to answer: asked before an answer that grows with the node is made, as the heap cannot
//! refuse, and as many are held at a time as there are clients that do not read.
//!
//! A member counts what is known of it while it is told, and its text twice, as the text moves while it grows.

use super::{Reply, problem::problem};
use crate::node::Node;
use config::Config;

/// Answers up to here come out of what is kept free for the node itself: whoever looks for the cause must see something.
const LITTLE_BYTES: u64 = 64 << 10;
/// Of the description, the same for every node: its tree and its text.
const DESCRIPTION_BYTES: u64 = 2 << 20;
/// Of metrics that do not grow with the configuration: rows of the graph's nodes, for each worker.
const WORKER_METRICS_BYTES: u64 = 64 << 10;
const INTERFACE_BYTES: u64 = 2048;
/// Of an interface in metrics: a line, with its label, of each of eight families.
const INTERFACE_METRICS_BYTES: u64 = 4096;
const ADDRESS_BYTES: u64 = 256;
const NEIGHBOUR_BYTES: u64 = 192;
const STEP_BYTES: u64 = 1024;
/// Of a pair of endpoints in a matrix: names have up to 253 characters.
const PAIR_BYTES: u64 = 1024;

/// Refuses what there is not the memory for.
pub(super) fn check(node: &Node, bytes: u64) -> Result<(), Reply> {
    if bytes <= LITTLE_BYTES || node.can_spare(bytes) {
        return Ok(());
    }
    Err(problem(507, "the node has not enough free memory for this answer"))
}

fn times(count: usize, bytes: u64) -> u64 {
    (count as u64).saturating_mul(bytes)
}

/// Of what has a bound that is small anyway, or asks for itself.
pub(super) fn little(_: &Node) -> u64 {
    0
}

/// `GET /v1/config`: the configuration is copied to leave secrets out.
pub(super) fn config(node: &Node) -> u64 {
    let Config { interfaces, routes, neighbours, ipsec, .. } = node.running.config();
    let addresses: usize = interfaces.iter().map(|interface| interface.addresses.len()).sum();
    let next_hops: usize = routes.iter().map(|route| route.via.len()).sum();
    let ipsec =
        ipsec.tunnels.len() + ipsec.associations.len() + ipsec.policies.len() + ipsec.must_encrypt.len();
    times(interfaces.len() + ipsec, INTERFACE_BYTES)
        + times(addresses + next_hops + routes.len() + neighbours.len(), ADDRESS_BYTES)
}

/// `GET /v1/interfaces`, `GET /v1/counters`.
pub(super) fn interfaces(node: &Node) -> u64 {
    let config = node.running.config();
    let addresses: usize = config.interfaces.iter().map(|interface| interface.addresses.len()).sum();
    times(links(node), INTERFACE_BYTES) + times(addresses, ADDRESS_BYTES)
}

fn links(node: &Node) -> usize {
    let config = node.running.config();
    node.ports.len() + config.interfaces.len() + config.ipsec.tunnels.len()
}

/// `GET /v1/neighbours`: they are copied, and then told piece by piece.
pub(super) fn neighbours(node: &Node) -> u64 {
    times(node.router.neighbour_count(), NEIGHBOUR_BYTES)
}

/// `GET /v1/trace`.
pub(super) fn trace(node: &Node) -> u64 {
    times(node.trace.len(), STEP_BYTES)
}

/// `GET /metrics`: associations and backends ask for themselves.
pub(super) fn metrics(node: &Node) -> u64 {
    times(links(node), INTERFACE_METRICS_BYTES) + times(node.shared.workers(), WORKER_METRICS_BYTES)
}

/// `GET /v1/policy/matrix`: as large as it can be.
pub(super) fn matrix(node: &Node) -> u64 {
    let endpoints = node.objects.compiled().model().endpoints.len().min(super::policy::MAX_MATRIX);
    times(endpoints * endpoints, PAIR_BYTES)
}

/// `GET /openapi.json`.
pub(super) fn description(_: &Node) -> u64 {
    DESCRIPTION_BYTES
}
