//! Services as they are balanced: frontends, backends, shares of tables, counters; and where a flow would go.

use super::{Reply, dispatch::Request, json, list, problem::problem};
use crate::health::InForce;
use crate::http::Pull;
use crate::node::Node;
use alloc::{format, string::String, string::ToString, vec, vec::Vec};
use balancer::Snapshot;
use core::net::{IpAddr, SocketAddr};
use dataplane::BackendCounters;
use maglev::Shares;
use serde::Serialize;
use serde_json::json;
use services::{Pool, State};

#[derive(Serialize)]
struct PoolView {
    namespace: String,
    service: String,
    port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    port_name: String,
    protocol: String,
    family: &'static str,
    scope: &'static str,
    frontends: Vec<FrontendView>,
    /// Slots of the table; 0 without one, when nobody serves.
    table_slots: u32,
    /// How backends are checked: none, tcp, http, icmp.
    health_check: &'static str,
    /// So few backends are up that all are used.
    panic: bool,
    total: Traffic,
    backends: Vec<BackendView>,
}

/// What a backend has had, or all backends of now together.
#[derive(Serialize)]
struct Traffic {
    packets: u64,
    bytes: u64,
    answer_packets: u64,
    answer_bytes: u64,
    flows: u64,
    resets: u64,
}

impl From<BackendCounters> for Traffic {
    fn from(counters: BackendCounters) -> Self {
        Self {
            packets: counters.to.packets,
            bytes: counters.to.bytes,
            answer_packets: counters.from.packets,
            answer_bytes: counters.from.bytes,
            flows: counters.flows,
            resets: counters.resets,
        }
    }
}

#[derive(Serialize)]
struct FrontendView {
    exposure: &'static str,
    /// None for node ports: every address of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    port: u16,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source_ranges: Vec<String>,
}

#[derive(Serialize)]
struct BackendView {
    address: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    state: &'static str,
    weight: u32,
    slots: u32,
    share: f64,
    #[serde(flatten)]
    traffic: Traffic,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<HealthView>,
}

/// What probes have found out about a backend.
#[derive(Serialize)]
struct HealthView {
    status: &'static str,
    probes: u64,
    failures: u64,
    changes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<EventView>,
    /// Changes of the status, the latest last.
    history: Vec<EventView>,
}

#[derive(Serialize)]
struct EventView {
    seconds_ago: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// `GET /v1/services`, one pool a piece: to count a table's slots takes some time.
pub(super) fn list(node: &mut Node, request: &Request) -> Reply {
    let text = |name: &str| request.query.text(name).map(String::from);
    let (namespace, name) = (text("namespace"), text("name"));
    let (in_force, snapshot) = (node.health.in_force().clone(), node.shared.services());
    let (generation, published) = (node.objects.generation(), node.objects.published_generation());
    let head = format!("\"generation\":{generation},\"in_force\":{published},\"services\":");
    let mut next = 0;
    list::list(head, move |node, members| {
        let Some(pool) = in_force.compiled.services.pools.get(next) else { return Pull::End };
        let is_wanted =
            |wanted: &Option<String>, given: &str| wanted.as_deref().is_none_or(|wanted| wanted == given);
        if is_wanted(&namespace, &pool.key.namespace) && is_wanted(&name, &pool.key.service) {
            members.push(&pool_view(node, &in_force, snapshot.as_ref().as_ref(), next, pool));
        }
        next += 1;
        Pull::More
    })
}

fn pool_view(
    node: &Node,
    in_force: &InForce,
    snapshot: Option<&Snapshot>,
    number: usize,
    pool: &Pool,
) -> PoolView {
    let table = snapshot.and_then(|snapshot| snapshot.table(number));
    let used = in_force.pool(number).map_or(&[][..], |pool| &pool.backends);
    let none = || vec![0; used.len()];
    let slots = table.map_or_else(none, |table| Shares::of(table, used.len()).slots().to_vec());
    let all = table.map_or(0, |table| table.slots());
    let monitor = node.health.monitor.borrow();
    let mut total = BackendCounters::default();
    let backends = pool.backends.iter().map(|backend| {
        let place = used.binary_search_by_key(&backend.address, |used| used.address).ok();
        let counters =
            place.and_then(|place| Some(node.shared.backend_counters(snapshot?.number(number, place)?)));
        let counters = counters.unwrap_or_default();
        total = total + counters;
        let slots = place.and_then(|place| slots.get(place)).copied().unwrap_or_default();
        let state = place.and_then(|place| used.get(place)).map(|used| used.state);
        BackendView {
            address: backend.address,
            node: backend.node.clone(),
            state: state.map_or("drained", State::name),
            weight: backend.weight,
            slots,
            share: if all == 0 { 0.0 } else { f64::from(slots) / f64::from(all) },
            traffic: counters.into(),
            health: monitor
                .backend(&pool.key, backend.address)
                .filter(|known| known.check().kind.is_some())
                .map(|known| health_view(known, node.now_ns)),
        }
    });
    let backends: Vec<BackendView> = backends.collect();
    let compiled = &in_force.compiled;
    let frontends = compiled.services.frontends.iter().filter(|frontend| frontend.pool == number);
    PoolView {
        namespace: pool.key.namespace.clone(),
        service: pool.key.service.clone(),
        port: pool.key.port,
        port_name: pool.port_name.clone(),
        protocol: pool.key.protocol.to_string(),
        family: pool.key.family.name(),
        scope: pool.key.scope.name(),
        frontends: frontends.map(frontend_view).collect(),
        table_slots: all,
        health_check: pool.health_check.kind.name(),
        panic: in_force.panics(number),
        total: total.into(),
        backends,
    }
}

fn health_view(known: &health::Backend, now_ns: u64) -> HealthView {
    let seconds_ago = |at_ns: u64| (now_ns.saturating_sub(at_ns) / 1_000_000) as f64 / 1000.0;
    let (probes, failures) = known.probes();
    let change = |change: &health::Change| EventView {
        seconds_ago: seconds_ago(change.at_ns),
        to: Some(change.to.name()),
        why: change.why.map(|why| why.to_string()),
    };
    HealthView {
        status: known.status().name(),
        probes,
        failures,
        changes: known.changes(),
        last_failure: known.last_failure().map(|(at_ns, why)| EventView {
            seconds_ago: seconds_ago(at_ns),
            to: None,
            why: Some(why.to_string()),
        }),
        history: known.history().map(change).collect(),
    }
}

fn frontend_view(frontend: &services::Frontend) -> FrontendView {
    FrontendView {
        exposure: frontend.exposure.name(),
        address: frontend.address,
        port: frontend.port,
        source_ranges: frontend.source_ranges.iter().map(ToString::to_string).collect(),
    }
}

/// `GET /v1/services/explain`.
pub(super) fn explain(node: &mut Node, request: &Request) -> Reply {
    let end = |name: &str, port: &str| {
        let port = request.query.integer(port).and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
        request.query.address(name).map(|address| SocketAddr::new(address, port))
    };
    let (Some(source), Some(destination)) = (end("source", "source_port"), end("destination", "port")) else {
        return problem(400, "query parameters source and destination are missing");
    };
    if source.is_ipv4() != destination.is_ipv4() {
        return problem(400, "source and destination must be of the same family");
    }
    let protocol = match request.query.text("protocol") {
        Some("udp") => 17,
        Some("sctp") => 132,
        _ => 6,
    };
    let snapshot = node.shared.services();
    let choice =
        snapshot.as_ref().as_ref().and_then(|snapshot| snapshot.choice(protocol, source, destination));
    let compiled = &node.health.in_force().compiled;
    let pool = choice.as_ref().and_then(|choice| compiled.services.pools.get(choice.pool));
    let (Some(choice), Some(pool)) = (choice, pool) else {
        return json(
            200,
            &json!({"balanced": false, "why": "no service has this address, port and protocol"}),
        );
    };
    let why = match (choice.is_admitted, choice.backend, choice.by_client) {
        (false, ..) => "the client is not in the service's loadBalancerSourceRanges: dropped",
        (true, None, _) => "nobody serves: dropped",
        (true, Some(_), true) => "the slot of the client's address in the table, because of sessionAffinity",
        (true, Some(_), false) => "the slot of the flow's hash in the table",
    };
    json(
        200,
        &json!({
            "balanced": choice.is_admitted && choice.backend.is_some(),
            "why": why,
            "note": "a flow that a worker knows already stays with its backend as long as that is there",
            "namespace": pool.key.namespace,
            "service": pool.key.service,
            "port": pool.key.port,
            "slot": choice.slot,
            "backend": choice.backend,
        }),
    )
}
