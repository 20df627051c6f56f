//! Families of objects, and of the backends of services.

use super::Family;
use crate::node::Node;
use alloc::{string::String, string::ToString, vec::Vec};
use balancer::Snapshot;
use dataplane::BackendCounters;

/// Memory that the text of one backend takes at most.
const BYTES_PER_BACKEND: u64 = 2048;

/// Names and values.
type Labels = Vec<(&'static str, String)>;
/// What a family has of one thing.
type Sample = (Labels, f64);

/// All of them; those of backends only if there is the memory to tell.
pub(super) fn families(node: &Node) -> Vec<Family> {
    let mut families = Vec::from(object_families(node));
    let services = node.shared.services();
    let Some(snapshot) = services.as_ref() else { return families };
    let count = snapshot.backend_indexes() as u64;
    if node.can_spare(count.saturating_mul(BYTES_PER_BACKEND)) {
        families.extend(backend_families(node, snapshot));
    } else {
        log::warn!(target: "api", "too little memory for the metrics of {count} backends");
    }
    families
}

fn object_families(node: &Node) -> [Family; 3] {
    let objects = &node.objects;
    let gauge = |name, help, value: u64| Family {
        name,
        kind: "gauge",
        help,
        samples: [(Vec::new(), value as f64)].into(),
    };
    let counts = objects.set().count_by_kind().into_iter().map(|(kind, count)| {
        let labels = [("api_version", kind.api_version().into()), ("kind", kind.name().into())];
        (labels.into(), count as f64)
    });
    [
        Family {
            name: "fairlead_resources",
            kind: "gauge",
            help: "Kubernetes and Calico objects by kind.",
            samples: counts.collect(),
        },
        gauge("fairlead_resources_generation", "Generation of the objects.", objects.generation()),
        gauge(
            "fairlead_resources_in_force",
            "Generation of the objects that workers have been given.",
            objects.published_generation(),
        ),
    ]
}

fn backend_families(node: &Node, snapshot: &Snapshot) -> [Family; 5] {
    let mut samples: [Vec<Sample>; 5] = Default::default();
    for (place, pool) in node.objects.compiled().services.pools.iter().enumerate() {
        for (index, backend) in pool.backends.iter().enumerate() {
            let Some(number) = snapshot.number(place, index) else { continue };
            let counters = node.shared.backend_counters(Snapshot::index_of(number));
            let labels: Labels = [
                ("namespace", pool.key.namespace.clone()),
                ("service", pool.key.service.clone()),
                ("port", pool.key.port.to_string()),
                ("protocol", pool.key.protocol.to_string()),
                ("scope", pool.key.scope.name().into()),
                ("backend", backend.address.to_string()),
            ]
            .into();
            for (samples, value) in samples.iter_mut().zip(values(&counters)) {
                samples.push((labels.clone(), value as f64));
            }
        }
    }
    let [packets, bytes, answers, flows, resets] = samples;
    let family = |name, help, samples| Family { name, kind: "counter", help, samples };
    [
        family("fairlead_backend_packets_total", "Packets to a backend of a service.", packets),
        family("fairlead_backend_bytes_total", "Their bytes from the IP header on.", bytes),
        family("fairlead_backend_answer_packets_total", "Packets from it that passed here.", answers),
        family("fairlead_backend_flows_total", "Flows that began, or that a worker had lost.", flows),
        family("fairlead_backend_resets_total", "TCP resets from it.", resets),
    ]
}

fn values(counters: &BackendCounters) -> [u64; 5] {
    [counters.to.packets, counters.to.bytes, counters.from.packets, counters.flows, counters.resets]
}
