//! Services as they are balanced: frontends, backends, shares of tables, counters; and where a flow would go.

use super::{JSON, Reply, dispatch::Request, json, problem::problem};
use crate::http::{Pull, Source};
use crate::node::Node;
use alloc::{format, string::String, string::ToString, sync::Arc, vec, vec::Vec};
use balancer::Snapshot;
use core::net::{IpAddr, SocketAddr};
use resources::Compiled;
use serde::Serialize;
use serde_json::json;
use services::{Exposure, Pool, Scope, State};

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
    backends: Vec<BackendView>,
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
    packets: u64,
    bytes: u64,
    answer_packets: u64,
    answer_bytes: u64,
    flows: u64,
    resets: u64,
}

/// `GET /v1/services`.
pub(super) fn list(node: &mut Node, request: &Request) -> Reply {
    let text = |name: &str| request.query.text(name).map(String::from);
    Reply::stream(
        JSON,
        All {
            compiled: node.objects.compiled().clone(),
            snapshot: node.shared.services(),
            namespace: text("namespace"),
            name: text("name"),
            next: None,
            is_first: true,
        },
    )
}

/// All pools, one a piece: to count a table's slots takes some time.
struct All {
    compiled: Arc<Compiled>,
    snapshot: Arc<Option<Snapshot>>,
    namespace: Option<String>,
    name: Option<String>,
    /// The next pool; None before the first piece.
    next: Option<usize>,
    is_first: bool,
}

impl Source<Node> for All {
    fn pull(&mut self, node: &mut Node, out: &mut Vec<u8>) -> Pull {
        let Some(number) = self.next else {
            let generation = node.objects.generation();
            out.extend_from_slice(format!("{{\"generation\":{generation},\"services\":[").as_bytes());
            self.next = Some(0);
            return Pull::More;
        };
        let Some(pool) = self.compiled.services.pools.get(number) else {
            out.extend_from_slice(b"]}");
            return Pull::End;
        };
        self.next = Some(number + 1);
        let same =
            |wanted: &Option<String>, given: &str| wanted.as_deref().is_none_or(|wanted| wanted == given);
        if same(&self.namespace, &pool.key.namespace) && same(&self.name, &pool.key.service) {
            if !core::mem::take(&mut self.is_first) {
                out.push(b',');
            }
            let view = pool_view(node, &self.compiled, self.snapshot.as_ref().as_ref(), number, pool);
            out.extend(serde_json::to_vec(&view).unwrap_or_default());
        }
        Pull::More
    }
}

fn pool_view(
    node: &Node,
    compiled: &Compiled,
    snapshot: Option<&Snapshot>,
    number: usize,
    pool: &Pool,
) -> PoolView {
    let table = snapshot.and_then(|snapshot| snapshot.table(number));
    let mut slots = vec![0_u32; pool.backends.len()];
    for backend in table.iter().flat_map(|table| table.iter()) {
        if let Some(count) = slots.get_mut(backend as usize) {
            *count += 1;
        }
    }
    let all = table.map_or(0, |table| table.slots());
    let backends = pool.backends.iter().zip(slots).enumerate().map(|(place, (backend, slots))| {
        let number = snapshot.and_then(|snapshot| snapshot.number(number, place));
        let counters = number.map(|number| node.shared.backend_counters(Snapshot::index_of(number)));
        let counters = counters.unwrap_or_default();
        BackendView {
            address: backend.address,
            node: backend.node.clone(),
            state: if backend.state == State::Active { "active" } else { "draining" },
            weight: backend.weight,
            slots,
            share: if all == 0 { 0.0 } else { f64::from(slots) / f64::from(all) },
            packets: counters.to.packets,
            bytes: counters.to.bytes,
            answer_packets: counters.from.packets,
            answer_bytes: counters.from.bytes,
            flows: counters.flows,
            resets: counters.resets,
        }
    });
    let frontends = compiled.services.frontends.iter().filter(|frontend| frontend.pool == number);
    PoolView {
        namespace: pool.key.namespace.clone(),
        service: pool.key.service.clone(),
        port: pool.key.port,
        port_name: pool.port_name.clone(),
        protocol: pool.key.protocol.to_string(),
        family: match pool.key.family {
            services::object::IpFamily::V4 => "IPv4",
            services::object::IpFamily::V6 => "IPv6",
        },
        scope: match pool.key.scope {
            Scope::Cluster => "Cluster",
            Scope::Local => "Local",
        },
        frontends: frontends.map(frontend_view).collect(),
        table_slots: all,
        backends: backends.collect(),
    }
}

fn frontend_view(frontend: &services::Frontend) -> FrontendView {
    FrontendView {
        exposure: match frontend.exposure {
            Exposure::ClusterIp => "ClusterIP",
            Exposure::ExternalIp => "ExternalIP",
            Exposure::LoadBalancer => "LoadBalancer",
            Exposure::NodePort => "NodePort",
        },
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
    let compiled = node.objects.compiled();
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
