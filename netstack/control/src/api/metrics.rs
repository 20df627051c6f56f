//! `GET /metrics`: the Prometheus text exposition format, version 0.0.4.

mod cluster;
mod ipsec;

use super::{Reply, dispatch::Request};
use crate::node::Node;
use alloc::{string::String, vec::Vec};
use buffer::PortStats;
use core::fmt::Write;
use dataplane::{InterfaceCounters, NodeCounters};

/// The format's media type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric with all its samples: labels and values.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

/// `GET /metrics`.
pub(super) fn get(node: &mut Node, _: &Request) -> Reply {
    let mut text = String::new();
    for family in families(node) {
        family.write(&mut text);
    }
    Reply::new(200, CONTENT_TYPE, text)
}

fn families(node: &Node) -> Vec<Family> {
    let mut families = node_families(node);
    families.extend(interface_families(node));
    families.extend(port_families(node));
    families.extend(graph_families(node));
    families.extend(ipsec::families(node));
    families.extend(cluster::families(node));
    families
}

fn node_families(node: &Node) -> Vec<Family> {
    let gauge =
        |name, help, value: f64| Family { name, kind: "gauge", help, samples: [(Vec::new(), value)].into() };
    let memory = node.platform.memory();
    let routes = router::Source::ALL.map(|source| {
        ([("source", String::from(source.name()))].into(), node.router.route_count(source) as f64)
    });
    [
        Family {
            name: "fairlead_info",
            kind: "gauge",
            help: "Always 1; what this node is, in labels.",
            samples: [(
                [
                    ("version", node.platform.version().into()),
                    ("hostname", node.running.config().hostname.clone()),
                ]
                .into(),
                1.0,
            )]
            .into(),
        },
        gauge(
            "fairlead_uptime_seconds",
            "Time since the node started.",
            node.now_ns.saturating_sub(node.started_ns) as f64 / 1e9,
        ),
        gauge(
            "fairlead_config_generation",
            "Generation of the running configuration.",
            node.running.generation() as f64,
        ),
        gauge("fairlead_memory_total_bytes", "Memory of the node.", memory.total_bytes as f64),
        gauge("fairlead_memory_free_bytes", "Memory that nothing has taken.", memory.free_bytes as f64),
        gauge(
            "fairlead_heap_used_bytes",
            "Memory that the heap has handed out.",
            memory.heap_used_bytes as f64,
        ),
        Family {
            name: "fairlead_routes",
            kind: "gauge",
            help: "Routes by where they come from.",
            samples: routes.into(),
        },
    ]
    .into()
}

type InterfaceMetric = (&'static str, &'static str, fn(&InterfaceCounters) -> u64);

const INTERFACE_METRICS: [InterfaceMetric; 7] = [
    ("fairlead_interface_receive_packets_total", "Packets that came in.", |c| c.rx.packets),
    ("fairlead_interface_receive_bytes_total", "Bytes of packets that came in.", |c| c.rx.bytes),
    ("fairlead_interface_transmit_packets_total", "Packets that left.", |c| c.tx.packets),
    ("fairlead_interface_transmit_bytes_total", "Bytes of packets that left.", |c| c.tx.bytes),
    ("fairlead_interface_receive_drops_total", "Packets that came in here and were dropped.", |c| c.rx_drops),
    ("fairlead_interface_transmit_drops_total", "Packets that were to leave here and could not.", |c| {
        c.tx_drops
    }),
    ("fairlead_interface_punts_total", "Packets that came in here for the node itself.", |c| c.punts),
];

fn interface_families(node: &Node) -> Vec<Family> {
    let interfaces = node.router.interfaces();
    let label = |name: &String| [("interface", name.clone())].into();
    let up = interfaces
        .iter()
        .map(|status| (label(&status.name), f64::from(status.enabled && status.link_up)))
        .collect();
    let mut families: Vec<Family> = INTERFACE_METRICS
        .iter()
        .map(|(name, help, value)| {
            let sample = |status: &router::InterfaceStatus| {
                (label(&status.name), value(&node.shared.interface_counters(status.id)) as f64)
            };
            Family { name, kind: "counter", help, samples: interfaces.iter().map(sample).collect() }
        })
        .collect();
    families.push(Family {
        name: "fairlead_interface_up",
        kind: "gauge",
        help: "Enabled and with a link: 1.",
        samples: up,
    });
    families
}

type PortMetric = (&'static str, &'static str, fn(&PortStats) -> u64);

const PORT_METRICS: [PortMetric; 5] = [
    ("fairlead_port_receive_no_buffer_total", "Frames lost because no buffer was there for them.", |s| {
        s.rx_no_buffer
    }),
    (
        "fairlead_port_receive_errors_total",
        "Frames refused because the device said something impossible.",
        |s| s.rx_errors,
    ),
    ("fairlead_port_transmit_errors_total", "Frames the device could not send.", |s| s.tx_errors),
    ("fairlead_port_interrupts_total", "Interrupts taken.", |s| s.interrupts),
    ("fairlead_port_resets_total", "Resets of the device after a fault.", |s| s.resets),
];

fn port_families(node: &Node) -> impl Iterator<Item = Family> {
    PORT_METRICS.iter().map(|(name, help, value)| {
        let samples = node
            .ports
            .iter()
            .map(|port| ([("port", port.info().name.clone())].into(), value(&port.stats()) as f64));
        Family { name, kind: "counter", help, samples: samples.collect() }
    })
}

type NodeMetric = (&'static str, &'static str, fn(&NodeCounters) -> u64);

const NODE_METRICS: [NodeMetric; 3] = [
    ("fairlead_node_packets_total", "Packets that a node of the graph handled.", |c| c.packets),
    ("fairlead_node_vectors_total", "Vectors that a node of the graph handled.", |c| c.vectors),
    (
        "fairlead_node_clocks_total",
        "TSC clocks that a node of the graph spent; estimated from samples for small vectors.",
        |c| c.clocks,
    ),
];

fn graph_families(node: &Node) -> Vec<Family> {
    let workers: Vec<_> = (0..node.shared.workers())
        .map(|worker| (worker, node.shared.node_counters(worker).collect::<Vec<_>>()))
        .collect();
    let metric = |(name, help, value): &NodeMetric| {
        let samples = workers.iter().flat_map(|(worker, rows)| {
            rows.iter().map(move |(node, counters)| {
                let labels = [("worker", alloc::format!("{worker}")), ("node", String::from(node.name()))];
                (labels.into(), value(counters) as f64)
            })
        });
        Family { name, kind: "counter", help, samples: samples.collect() }
    };
    let mut families: Vec<Family> = NODE_METRICS.iter().map(metric).collect();
    let dataplane = node.shared.drop_counters().map(|(reason, packets)| (reason.name(), packets));
    let drops = dataplane.chain(node.drops.iter().map(|(reason, packets)| (reason.name(), packets)));
    families.push(Family {
        name: "fairlead_drops_total",
        kind: "counter",
        help: "Dropped packets by reason.",
        samples: drops
            .map(|(reason, packets)| ([("reason", String::from(reason))].into(), packets as f64))
            .collect(),
    });
    families
}

impl Family {
    fn write(&self, out: &mut String) {
        // Writing into a string cannot fail.
        let _ =
            writeln!(out, "# HELP {} {}", self.name, self.help.replace('\\', "\\\\").replace('\n', "\\n"));
        let _ = writeln!(out, "# TYPE {} {}", self.name, self.kind);
        for (labels, value) in &self.samples {
            out.push_str(self.name);
            for (index, (name, value)) in labels.iter().enumerate() {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(out, "{}{name}=\"{value}\"", if index == 0 { '{' } else { ',' });
            }
            let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_as_the_format_wants() {
        let family = Family {
            name: "a_total",
            kind: "counter",
            help: "b\\c\nd",
            samples: vec![(vec![("x", "1".into()), ("y", "\"\\\n".into())], 3.0), (vec![], 1e15 + 1.0)],
        };
        let mut text = String::new();
        family.write(&mut text);
        assert_eq!(
            text,
            "# HELP a_total b\\\\c\\nd\n# TYPE a_total counter\na_total{x=\"1\",y=\"\\\"\\\\\\n\"} 3\na_total 1000000000000001\n"
        );
    }
}
