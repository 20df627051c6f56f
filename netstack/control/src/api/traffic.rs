//! What the dataplane counted and recorded.

use super::{Reply, dispatch::Request, interfaces, json, problem::problem};
use crate::drops::ControlDrop;
use crate::node::Node;
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use dataplane::{DropReason, PacketTotals, Shared, TraceRecord, TraceRequest, TracedDrops};
use router::InterfaceStatus;
use serde::Serialize;

#[derive(Serialize)]
struct Counters {
    totals: Totals,
    interfaces: Vec<InterfaceRow>,
    ports: Vec<PortRow>,
    workers: Vec<WorkerRow>,
}

/// The books of the dataplane: received + injected + made = sent + dropped + punted + held, but for what is under way.
#[derive(Serialize)]
struct Totals {
    received: u64,
    /// Sent by the node itself.
    injected: u64,
    /// ICMP errors, and fragments beyond the first of a packet.
    made: u64,
    sent: u64,
    dropped: u64,
    /// Handed to the node itself.
    punted: u64,
    /// Fragments that wait for the first one of their packet.
    held: u64,
}

#[derive(Serialize)]
struct InterfaceRow {
    name: String,
    #[serde(flatten)]
    counters: interfaces::Counters,
}

/// What a device and its driver counted.
#[derive(Serialize)]
struct PortRow {
    name: String,
    rx_packets: u64,
    rx_bytes: u64,
    rx_no_buffer: u64,
    rx_errors: u64,
    tx_packets: u64,
    tx_bytes: u64,
    tx_errors: u64,
    interrupts: u64,
    resets: u64,
}

#[derive(Serialize)]
struct WorkerRow {
    worker: usize,
    nodes: Vec<NodeRow>,
}

#[derive(Serialize)]
struct NodeRow {
    node: &'static str,
    packets: u64,
    vectors: u64,
    clocks: u64,
}

#[derive(Serialize)]
struct Drops {
    drops: Vec<DropRow>,
}

#[derive(Serialize)]
struct DropRow {
    reason: &'static str,
    description: &'static str,
    packets: u64,
}

/// `GET /v1/counters`.
pub(super) fn counters(node: &mut Node, _: &Request) -> Reply {
    // From one reading: with traffic under way a second one would say more than the first.
    let (totals, counted) = node.shared.packet_and_interface_counters();
    let interface = |status: InterfaceStatus| InterfaceRow {
        counters: counted.get(usize::from(status.id.0)).copied().unwrap_or_default().into(),
        name: status.name,
    };
    let interfaces: Vec<_> = node.router.interfaces().into_iter().map(interface).collect();
    let workers = (0..node.shared.workers())
        .map(|worker| WorkerRow { worker, nodes: node.shared.node_counters(worker).map(node_row).collect() });
    let ports = node.ports.iter().map(|port| {
        let stats = port.stats();
        PortRow {
            name: port.info().name.clone(),
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            rx_no_buffer: stats.rx_no_buffer,
            rx_errors: stats.rx_errors,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            tx_errors: stats.tx_errors,
            interrupts: stats.interrupts,
            resets: stats.resets,
        }
    });
    json(
        200,
        &Counters {
            totals: books(&node.shared, totals),
            interfaces,
            ports: ports.collect(),
            workers: workers.collect(),
        },
    )
}

fn books(shared: &Shared, totals: PacketTotals) -> Totals {
    Totals {
        received: totals.received,
        injected: totals.injected,
        made: totals.made,
        sent: totals.sent,
        dropped: shared.drop_counters().map(|(_, packets)| packets).sum(),
        punted: totals.punted,
        held: totals.held,
    }
}

fn node_row((node, counters): (dataplane::Node, dataplane::NodeCounters)) -> NodeRow {
    NodeRow {
        node: node.name(),
        packets: counters.packets,
        vectors: counters.vectors,
        clocks: counters.clocks,
    }
}

/// `GET /v1/drops`.
pub(super) fn drops(node: &mut Node, _: &Request) -> Reply {
    let dataplane = node.shared.drop_counters().map(|(reason, packets)| DropRow {
        reason: reason.name(),
        description: reason.description().trim(),
        packets,
    });
    let control = node.drops.iter().map(|(reason, packets)| DropRow {
        reason: reason.name(),
        description: reason.description(),
        packets,
    });
    json(200, &Drops { drops: dataplane.chain(control).filter(|row| row.packets > 0).collect() })
}

#[derive(Serialize)]
struct Trace {
    packets: Vec<TracedPacket>,
}

/// The way of one packet.
#[derive(Serialize)]
struct TracedPacket {
    /// The worker that received it.
    worker: u16,
    packet: u16,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    node: &'static str,
    next: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    drop_reason: Option<&'static str>,
    text: String,
}

#[derive(Serialize)]
struct TraceStarted {
    packets: u64,
}

/// `POST /v1/trace`.
pub(super) fn start_trace(node: &mut Node, request: &Request) -> Reply {
    match trace_request(node, request) {
        Ok(wanted) => {
            node.trace.clear();
            node.shared.arm_trace(wanted);
            json(202, &TraceStarted { packets: wanted.packets.into() })
        }
        Err(what) => problem(400, what),
    }
}

/// Err: what the query names and the node does not have.
fn trace_request(node: &Node, request: &Request) -> Result<TraceRequest, &'static str> {
    let query = &request.query;
    let interface_named = |name: &str| {
        let known = node.router.interfaces().into_iter().find(|status| status.name == name);
        known.map(|status| status.id).ok_or("query parameter interface names no interface")
    };
    let reason_named = |name: &str| DropReason::from_name(name).map(TracedDrops::For);
    let drops = match query.text("reason") {
        Some(name) if ControlDrop::from_name(name).is_some() => {
            return Err(
                "query parameter reason names a reason of control's: a trace follows packets through the dataplane only",
            );
        }
        Some(name) => Some(reason_named(name).ok_or("query parameter reason names no reason for drops")?),
        None => query.flag("dropped").then_some(TracedDrops::Any),
    };
    if query.text("prefix_len").is_some() && query.text("address").is_none() {
        return Err("query parameter prefix_len is given without address");
    }
    let small = |name| query.integer(name).and_then(|number| u8::try_from(number).ok());
    Ok(TraceRequest {
        packets: query.integer("packets").unwrap_or(50) as u32,
        interface: query.text("interface").map(interface_named).transpose()?,
        address: query.address("address").map(|address| (address, small("prefix_len").unwrap_or(128))),
        protocol: small("protocol"),
        port: query.integer("port").and_then(|number| u16::try_from(number).ok()),
        drops,
    })
}

/// `GET /v1/trace`.
pub(super) fn trace(node: &mut Node, _: &Request) -> Reply {
    let mut packets: Vec<TracedPacket> = Vec::new();
    let interfaces = node.router.interfaces();
    // A packet's records follow each other closely, but those of several workers mix.
    for record in &node.trace {
        match packets.iter_mut().rev().find(|packet| packet.packet == record.packet) {
            Some(packet) => packet.steps.push(step(node, &interfaces, record)),
            None => packets.push(TracedPacket {
                worker: record.worker,
                packet: record.packet,
                steps: [step(node, &interfaces, record)].into(),
            }),
        }
    }
    json(200, &Trace { packets })
}

fn step(node: &Node, interfaces: &[InterfaceStatus], record: &TraceRecord) -> Step {
    let name = |id| interfaces.iter().find(|status| status.id == id).map(|status| status.name.as_str());
    let line = record.named(&name);
    let why = record.denied_by.map(|counter| node.policy_reason(counter));
    Step {
        node: record.node.name(),
        next: record.next.name(),
        drop_reason: record.drop_reason.map(dataplane::DropReason::name),
        text: why.map_or_else(|| line.to_string(), |why| format!("{line}: {why}")),
    }
}
