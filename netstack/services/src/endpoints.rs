//! Which endpoints serve a port: by family, policy, condition and hint.
//!
//! The rules are Kubernetes' own (KEP-1669 terminating endpoints, KEP-2433 topology hints, KEP-3015 same node): ready
//! ones serve; if there are none, those that still serve while they terminate. Any other endpoint that is there keeps its flows and
//! gets no new ones, but that flows without connections, of UDP, leave who does not serve.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::annotation;
use crate::object::{AddressType, Endpoint, EndpointSlice, IpFamily, TrafficDistribution};
use crate::virtual_service::{Backend, PoolKey, Scope, Site, State};

/// An endpoint, and what decides whether it gets flows.
struct Candidate<'a> {
    endpoint: &'a Endpoint,
    weight: u32,
    standing: Standing,
    is_terminating: bool,
}

/// How good an endpoint is by its conditions, the best last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Unready,
    /// It serves while it terminates: better than nobody.
    Leaving,
    Ready,
}

/// The backends of a pool out of the slices of its service, in the order of their addresses.
pub(crate) fn choose(
    key: &PoolKey,
    port_name: &str,
    slices: &[&EndpointSlice],
    site: &Site,
    (distribution, has_connections): (Option<TrafficDistribution>, bool),
) -> Vec<Backend> {
    let mut candidates = candidates(key, port_name, slices);
    if !has_connections {
        candidates.retain(|_, candidate| candidate.standing != Standing::Unready);
    }
    if key.scope == Scope::Local {
        candidates.retain(|_, candidate| is_here(candidate.endpoint, site));
    }
    let best = candidates.values().map(|candidate| candidate.standing).max();
    let serves = |standing: Standing| Some(standing) == best && standing != Standing::Unready;
    let near = match (key.scope, best) {
        (Scope::Cluster, Some(Standing::Ready)) => near(&candidates, site, distribution),
        _ => None,
    };
    let backend = |(address, candidate): (SocketAddr, Candidate<'_>)| Backend {
        address,
        weight: candidate.weight,
        state: match near.as_ref().is_none_or(|near| near.contains(&address)) {
            true if serves(candidate.standing) => State::Active,
            _ if candidate.is_terminating => State::Draining,
            _ => State::Standby,
        },
        node: candidate.endpoint.node_name.clone(),
    };
    candidates.into_iter().map(backend).collect()
}

/// All endpoints of the pool's port. Of several for one address, the best.
fn candidates<'a>(
    key: &PoolKey,
    port_name: &str,
    slices: &[&'a EndpointSlice],
) -> BTreeMap<SocketAddr, Candidate<'a>> {
    let mut candidates = BTreeMap::new();
    let wanted = match key.family {
        IpFamily::V4 => AddressType::V4,
        IpFamily::V6 => AddressType::V6,
    };
    for slice in slices.iter().filter(|slice| slice.address_type == wanted) {
        let weight = annotation::weight(&slice.metadata);
        let ports = slice.ports.as_deref().unwrap_or_default();
        let port = ports.iter().find(|port| {
            port.name.as_deref().unwrap_or_default() == port_name
                && port.protocol.unwrap_or_default() == key.protocol
        });
        let Some(port) = port.and_then(|port| port.port) else { continue };
        for endpoint in slice.endpoints.as_deref().unwrap_or_default() {
            let conditions = endpoint.conditions.unwrap_or_default();
            // "nil should be interpreted as true", of ready, and of serving as what ready says.
            let is_ready = conditions.ready.unwrap_or(true);
            let is_serving = conditions.serving.unwrap_or(is_ready);
            let is_terminating = conditions.terminating.unwrap_or(false);
            let standing = match (is_ready, is_serving && is_terminating) {
                (true, _) => Standing::Ready,
                (false, true) => Standing::Leaving,
                (false, false) => Standing::Unready,
            };
            // The addresses of one endpoint are interchangeable; everybody takes the first.
            let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
            let Some(address) = address else { continue };
            let candidate = || Candidate { endpoint, weight, standing, is_terminating };
            let known = candidates.entry(SocketAddr::new(address, port));
            let _ = known
                .and_modify(|known: &mut Candidate<'_>| {
                    if standing > known.standing {
                        *known = candidate();
                    }
                })
                .or_insert_with(candidate);
        }
    }
    candidates
}

fn is_here(endpoint: &Endpoint, site: &Site) -> bool {
    site.node.is_some() && endpoint.node_name == site.node
}

/// The candidates that hints want for us, if hints are to be followed: all that could serve must have them, and some
/// must want us (or traffic would stop, or concentrate, while hints are incomplete).
fn near(
    candidates: &BTreeMap<SocketAddr, Candidate<'_>>,
    site: &Site,
    distribution: Option<TrafficDistribution>,
) -> Option<Vec<SocketAddr>> {
    let ready = || candidates.iter().filter(|(_, candidate)| candidate.standing == Standing::Ready);
    let hinted = |for_nodes: bool, us: &Option<alloc::string::String>| {
        let us = us.as_ref()?;
        let mut near = Vec::new();
        for (address, candidate) in ready() {
            let hints = candidate.endpoint.hints.as_ref()?;
            let names = if for_nodes { hints.for_nodes.as_ref()? } else { hints.for_zones.as_ref()? };
            if names.iter().any(|named| named.name == *us) {
                near.push(*address);
            }
        }
        (!near.is_empty()).then_some(near)
    };
    let same_node = distribution == Some(TrafficDistribution::PreferSameNode);
    let by_node = if same_node { hinted(true, &site.node) } else { None };
    by_node.or_else(|| hinted(false, &site.zone))
}
