//! IPsec: what there is, what a key daemon changes, and what packets to a network would meet.

use super::{
    Reply,
    dispatch::Request,
    json,
    problem::{invalid, problem},
};
use crate::node::Node;
use alloc::{collections::BTreeMap, string::String, string::ToString, vec::Vec};
use config::{Association, IpNet, Problem};
use core::net::IpAddr;
use ipsec::EspError;
use router::{AssociationStatus, Finding, IpsecError, IpsecEvent, IpsecEventKind, TunnelStatus, Verdict};
use serde::Serialize;
use serde_json::json;

const NS_PER_SECOND: u64 = 1_000_000_000;

#[derive(Serialize)]
struct AssociationView {
    /// As the configuration writes it, without the key.
    #[serde(flatten)]
    settings: Association,
    dynamic: bool,
    state: &'static str,
    age_seconds: u64,
    packets: u64,
    bytes: u64,
    last_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_seconds: Option<u64>,
    /// Refused packets by reason; those that never happened are left out.
    errors: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_mtu: Option<u16>,
}

impl AssociationView {
    fn new(status: AssociationStatus, now_ns: u64) -> Self {
        let counters = status.counters;
        let errors = EspError::ALL.iter().zip(counters.errors).filter(|(_, count)| *count > 0);
        let was_used = counters.last_used_ns > 0;
        Self {
            settings: status.settings,
            dynamic: status.is_dynamic,
            state: status.state.name(),
            age_seconds: status.age_ns / NS_PER_SECOND,
            packets: counters.packets,
            bytes: counters.bytes,
            last_sequence: counters.last_sequence,
            idle_seconds: was_used.then(|| now_ns.saturating_sub(counters.last_used_ns) / NS_PER_SECOND),
            errors: errors.map(|(error, count)| (error.name(), count)).collect(),
            last_error: counters.last_error.map(EspError::name),
            peer_address: status.peer.map(|peer| peer.ip()),
            peer_port: status.peer.map(|peer| peer.port()),
            path_mtu: status.path_mtu,
        }
    }
}

/// Memory that telling of one association or tunnel takes: what is known of it, twice, and its text.
const BYTES_TOLD: u64 = 3072;

/// The answer if there is not the memory to tell of so many.
fn refuse_list(node: &Node, count: usize) -> Option<Reply> {
    let needed = (count as u64).saturating_mul(BYTES_TOLD);
    (!node.can_spare(needed))
        .then(|| problem(507, "the node has not enough free memory to tell of all of them"))
}

#[derive(Serialize)]
struct AssociationList {
    associations: Vec<AssociationView>,
}

/// `GET /v1/ipsec/associations`.
pub(super) fn associations(node: &mut Node, _: &Request) -> Reply {
    if let Some(refusal) = refuse_list(node, node.router.association_count()) {
        return refusal;
    }
    let now_ns = node.now_ns;
    let all = node.router.associations(now_ns).into_iter();
    let associations = all.map(|status| AssociationView::new(status, now_ns)).collect();
    json(200, &AssociationList { associations })
}

#[derive(Serialize)]
struct TunnelList {
    tunnels: Vec<TunnelView>,
}

#[derive(Serialize)]
struct TunnelView {
    name: String,
    enabled: bool,
    mode: config::IpsecMode,
    local: IpAddr,
    remote: IpAddr,
    route_based: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    /// Name of the association that encrypts, which has not expired; without one, what is sent here is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    outbound: Option<String>,
    inbound: Vec<String>,
    tx_packets: u64,
    tx_bytes: u64,
    rx_packets: u64,
    rx_bytes: u64,
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'static str>,
}

impl TunnelView {
    /// Counters are those of the associations of the tunnel that there are now.
    fn new(status: TunnelStatus, associations: &[AssociationStatus]) -> Self {
        let sum = |direction: config::AssociationDirection, value: fn(&ipsec::SaCounters) -> u64| {
            let chosen = associations.iter().filter(|a| a.settings.direction == direction);
            chosen.map(|association| value(&association.counters)).sum()
        };
        let (out, inward) = (config::AssociationDirection::Out, config::AssociationDirection::In);
        let is_error = |error: &&EspError| **error != EspError::Dummy;
        let errors = |counters: &ipsec::SaCounters| {
            let all = EspError::ALL.iter().filter(is_error);
            all.filter_map(|error| counters.errors.get(*error as usize)).sum::<u64>()
        };
        Self {
            tx_packets: sum(out, |c| c.packets),
            tx_bytes: sum(out, |c| c.bytes),
            rx_packets: sum(inward, |c| c.packets),
            rx_bytes: sum(inward, |c| c.bytes),
            errors: associations.iter().map(|a| errors(&a.counters)).sum(),
            last_error: associations
                .iter()
                .filter_map(|a| Some((a.counters.last_used_ns, a.counters.last_error?)))
                .max_by_key(|(used_ns, _)| *used_ns)
                .map(|(_, error)| error.name()),
            name: status.settings.name.clone(),
            enabled: status.settings.enabled,
            mode: status.settings.mode,
            local: status.settings.local,
            remote: status.settings.remote,
            route_based: status.settings.route_based,
            mtu: status.mtu,
            outbound: status.outbound,
            inbound: status.inbound,
        }
    }
}

/// `GET /v1/ipsec/tunnels`.
pub(super) fn tunnels(node: &mut Node, _: &Request) -> Reply {
    let statuses = node.router.tunnels(node.now_ns);
    if let Some(refusal) = refuse_list(node, statuses.len() + node.router.association_count()) {
        return refusal;
    }
    let mut associations: BTreeMap<String, Vec<AssociationStatus>> = BTreeMap::new();
    for association in node.router.associations(node.now_ns) {
        associations.entry(association.settings.tunnel.clone()).or_default().push(association);
    }
    let view = |status: TunnelStatus| {
        let of_it = associations.get(&status.settings.name).map_or(&[][..], Vec::as_slice);
        TunnelView::new(status, of_it)
    };
    json(200, &TunnelList { tunnels: statuses.into_iter().map(view).collect() })
}

/// `POST /v1/ipsec/associations`.
pub(super) fn add(node: &mut Node, _: &Request, body: &[u8]) -> Reply {
    put_association(node, body, false)
}

/// `PUT /v1/ipsec/associations`.
pub(super) fn replace(node: &mut Node, _: &Request, body: &[u8]) -> Reply {
    put_association(node, body, true)
}

fn put_association(node: &mut Node, body: &[u8], replace: bool) -> Reply {
    let association = match config::parse_association(body) {
        Ok(association) => association,
        Err(faults) => return invalid("association is not valid", &faults),
    };
    let Node { router, platform, .. } = node;
    let mut random = |bytes: &mut [u8]| platform.random(bytes);
    match router.add_association(&association, replace, &mut random, node.now_ns) {
        Ok(()) => json(200, &json!({"name": association.name, "spi": association.spi})),
        Err(error) => refused(&error),
    }
}

/// `DELETE /v1/ipsec/associations`.
pub(super) fn remove(node: &mut Node, request: &Request) -> Reply {
    let name = request.query.text("name").unwrap_or_default().to_string();
    match node.router.remove_association(&name, node.now_ns) {
        Ok(()) => json(200, &json!({"removed": name})),
        Err(error) => refused(&error),
    }
}

fn refused(error: &IpsecError) -> Reply {
    let at = |pointer: &str| {
        let fault = Problem { pointer: pointer.into(), message: error.to_string() };
        invalid("association is not valid", &[fault])
    };
    match error {
        IpsecError::NoAssociation(_) => problem(404, &error.to_string()),
        IpsecError::Configured(_) | IpsecError::Exists(_) => problem(409, &error.to_string()),
        IpsecError::NoTunnel(_) => at("/tunnel"),
        IpsecError::NoKey => at("/key"),
        IpsecError::Refused(ipsec::DatabaseError::SpiTaken(_)) => at("/spi"),
        IpsecError::Refused(ipsec::DatabaseError::Sa(fault)) => at(&alloc::format!("/{}", fault.field)),
        IpsecError::Refused(_) => at(""),
    }
}

#[derive(Serialize)]
struct EventView<'a> {
    sequence: u64,
    age_seconds: u64,
    event: &'static str,
    association: &'a str,
    tunnel: &'a str,
    spi: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

impl<'a> EventView<'a> {
    fn new(event: &'a IpsecEvent, now_ns: u64) -> Self {
        let to = match event.kind {
            IpsecEventKind::PeerMoved { to } => Some(to),
            _ => None,
        };
        Self {
            sequence: event.sequence,
            age_seconds: now_ns.saturating_sub(event.at_ns) / NS_PER_SECOND,
            event: event.kind.name(),
            association: &event.association,
            tunnel: &event.tunnel,
            spi: event.spi,
            address: to.map(|to| to.ip()),
            port: to.map(|to| to.port()),
        }
    }
}

/// `GET /v1/ipsec/events`.
pub(super) fn events(node: &mut Node, request: &Request) -> Reply {
    let since = request.query.integer("since").unwrap_or(0);
    let events: Vec<_> =
        node.router.ipsec_events(since).map(|event| EventView::new(event, node.now_ns)).collect();
    let next = events.last().map_or(since, |event| event.sequence + 1);
    json(200, &json!({"events": events, "next": next}))
}

#[derive(Serialize)]
struct FindingView {
    prefix: IpNet,
    by: String,
    #[serde(flatten)]
    verdict: VerdictView,
}

#[derive(Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
enum VerdictView {
    Encrypted { tunnel: String, association: String, spi: u32 },
    Clear { interface: String },
    Dropped { reason: String },
}

impl From<Finding> for FindingView {
    fn from(finding: Finding) -> Self {
        let verdict = match finding.verdict {
            Verdict::Encrypted { tunnel, association, spi } => {
                VerdictView::Encrypted { tunnel, association, spi }
            }
            Verdict::Clear { interface } => VerdictView::Clear { interface },
            Verdict::Dropped { reason } => VerdictView::Dropped { reason },
        };
        Self { prefix: finding.prefix, by: finding.by, verdict }
    }
}

/// `GET /v1/ipsec/verify`.
pub(super) fn verify(node: &mut Node, request: &Request) -> Reply {
    let Some(network) = request.query.network("prefix") else {
        return problem(400, "query parameter prefix is missing");
    };
    let verification = node.router.verify(network, node.now_ns);
    let (encrypted, never_clear) = (verification.is_encrypted(), verification.never_clear());
    let incomplete = verification.is_incomplete;
    let findings: Vec<FindingView> = verification.findings.into_iter().map(FindingView::from).collect();
    json(
        200,
        &json!({
            "prefix": network,
            "encrypted": encrypted,
            "never_clear": never_clear,
            "incomplete": incomplete,
            "findings": findings,
        }),
    )
}
