//! Which endpoints serve a port: by family, policy, condition and hint.
//!
//! The rules are Kubernetes' own (KEP-1669 terminating endpoints, KEP-2433 topology hints, KEP-3015 same node): ready
//! ones serve; if there are none, those that still serve while they terminate; an endpoint that is
//! going away otherwise keeps its flows and gets no new ones.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::annotation;
use crate::object::{AddressType, Endpoint, EndpointSlice, IpFamily, TrafficDistribution};
use crate::virtual_service::{Backend, PoolKey, Scope, Site, State};

/// An endpoint that may serve, and what decides whether it does.
struct Candidate<'a> {
    endpoint: &'a Endpoint,
    weight: u32,
    is_ready: bool,
}

/// The backends of a pool out of the slices of its service, in the order of their addresses.
pub(crate) fn choose(
    key: &PoolKey,
    port_name: &str,
    slices: &[&EndpointSlice],
    site: &Site,
    distribution: Option<TrafficDistribution>,
) -> Vec<Backend> {
    let mut candidates = candidates(key, port_name, slices);
    if key.scope == Scope::Local {
        candidates.retain(|_, candidate| is_here(candidate.endpoint, site));
    }
    if !candidates.values().any(|candidate| candidate.is_ready) {
        candidates.values_mut().for_each(|candidate| candidate.is_ready = true);
    }
    let near = match key.scope {
        Scope::Cluster => near(&candidates, site, distribution),
        Scope::Local => None,
    };
    let backend = |(address, candidate): (SocketAddr, Candidate<'_>)| {
        let is_near = near.as_ref().is_none_or(|near| near.contains(&address));
        let gets_flows = candidate.is_ready && is_near;
        Backend {
            address,
            weight: candidate.weight,
            state: if gets_flows { State::Active } else { State::Draining },
            node: candidate.endpoint.node_name.clone(),
        }
    };
    candidates.into_iter().map(backend).collect()
}

/// All endpoints of the pool's port that are ready or still serve. Of several for one address, a ready one.
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
            if !(is_ready || is_serving && is_terminating) {
                continue;
            }
            // The addresses of one endpoint are interchangeable; everybody takes the first.
            let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
            let Some(address) = address else { continue };
            let candidate = Candidate { endpoint, weight, is_ready };
            let known = candidates.entry(SocketAddr::new(address, port));
            let _ = known
                .and_modify(|known: &mut Candidate<'_>| {
                    if is_ready && !known.is_ready {
                        *known = Candidate { endpoint, weight, is_ready };
                    }
                })
                .or_insert(candidate);
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
    let ready = || candidates.iter().filter(|(_, candidate)| candidate.is_ready);
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
