//! Families of objects, and of the backends of services.

use super::Family;
use crate::node::Node;
use alloc::{string::String, string::ToString, vec::Vec};
use balancer::Snapshot;
use dataplane::{BackendCounters, RuleCounters};
use health::Status;
use policy::classifier::Written;

/// Memory that the text of one backend takes at most.
const BYTES_PER_BACKEND: u64 = 2048;

/// Policies that have counters of their own.
const MAX_POLICIES: usize = 1000;

/// Names and values.
type Labels = Vec<(&'static str, String)>;
/// What a family has of one thing.
type Sample = (Labels, f64);

/// All of them; those of backends only if there is the memory to tell.
pub(super) fn families(node: &Node) -> Vec<Family> {
    let mut families = Vec::from(object_families(node));
    families.extend(policy_families(node));
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

/// Of each policy what it has decided, up to [`MAX_POLICIES`] of them; the others together as one without a name.
fn policy_families(node: &Node) -> [Family; 4] {
    let (mut hits, mut staged): (Vec<Sample>, Vec<Sample>) = Default::default();
    let mut others = RuleCounters::default();
    for (place, source) in node.policy_sources().into_iter().enumerate() {
        let counters = || source.counters().map(|(_, counter)| node.shared.rule_counters(counter));
        let sum = counters().fold(RuleCounters::default(), |sum, one| sum + one);
        if place >= MAX_POLICIES {
            others = others + sum;
            continue;
        }
        let (tier, kind, namespace, name) = match &source.what {
            Written::Policy { tier, policy } => {
                let id = &policy.id;
                (tier.as_str(), id.kind, id.namespace.as_deref().unwrap_or_default(), &id.name)
            }
            Written::Profile { name, .. } => ("", "Profile", "", name),
        };
        let labels = || -> Labels {
            [
                ("tier", tier.into()),
                ("kind", kind.into()),
                ("namespace", namespace.into()),
                ("policy", name.clone()),
            ]
            .into()
        };
        hits.push((labels(), sum.hits as f64));
        if sum.staged > 0 {
            staged.push((labels(), sum.staged as f64));
        }
    }
    if others.hits + others.staged > 0 {
        hits.push((Labels::from([("policy", String::new())]), others.hits as f64));
        staged.push((Labels::from([("policy", String::new())]), others.staged as f64));
    }
    let family = |name, help, samples| Family { name, kind: "counter", help, samples };
    let one = |value: u64| Vec::from([(Labels::new(), value as f64)]);
    let lost = node.shared.lost_flow_events() + node.flow_log.not_summed();
    [
        family("fairlead_policy_hits_total", "Flows that a policy has decided about.", hits),
        family(
            "fairlead_policy_staged_hits_total",
            "Flows that it would decide about if staged policies were enforced.",
            staged,
        ),
        family("fairlead_flow_records_total", "Records of the flow log.", one(node.flow_log.next())),
        family(
            "fairlead_flow_events_lost_total",
            "Events of flows that the flow log had no room for.",
            one(lost),
        ),
    ]
}

fn backend_families(node: &Node, snapshot: &Snapshot) -> [Family; 8] {
    let mut samples: [Vec<Sample>; 8] = Default::default();
    let (in_force, monitor) = (node.health.in_force(), node.health.monitor.borrow());
    for place in 0..in_force.compiled.services.pools.len() {
        let Some(pool) = in_force.pool(place) else { break };
        for (index, backend) in pool.backends.iter().enumerate() {
            let Some(number) = snapshot.number(place, index) else { continue };
            let counters = node.shared.backend_counters(number);
            let labels: Labels = [
                ("namespace", pool.key.namespace.clone()),
                ("service", pool.key.service.clone()),
                ("port", pool.key.port.to_string()),
                ("protocol", pool.key.protocol.to_string()),
                ("scope", pool.key.scope.name().into()),
                ("backend", backend.address.to_string()),
            ]
            .into();
            let known =
                monitor.backend(&pool.key, backend.address).filter(|known| known.check().kind.is_some());
            let health = known
                .map(|known| [u64::from(known.status() == Status::Up), known.changes(), known.probes().1]);
            let values = values(&counters).into_iter().chain(health.into_iter().flatten());
            for (samples, value) in samples.iter_mut().zip(values) {
                samples.push((labels.clone(), value as f64));
            }
        }
    }
    let mut samples = samples.into_iter();
    FAMILIES.map(|(name, kind, help)| Family {
        name,
        kind,
        help,
        samples: samples.next().unwrap_or_default(),
    })
}

/// Of backends, in the order of their values.
const FAMILIES: [(&str, &str, &str); 8] = [
    ("fairlead_backend_packets_total", "counter", "Packets to a backend of a service."),
    ("fairlead_backend_bytes_total", "counter", "Their bytes from the IP header on."),
    ("fairlead_backend_answer_packets_total", "counter", "Packets from it that passed here."),
    ("fairlead_backend_flows_total", "counter", "Flows that began, or that a worker had lost."),
    ("fairlead_backend_resets_total", "counter", "TCP resets from it."),
    ("fairlead_backend_up", "gauge", "1 if its probes say that it serves, 0 if not."),
    ("fairlead_backend_health_changes_total", "counter", "How often that changed."),
    ("fairlead_backend_probe_failures_total", "counter", "Probes of it that failed."),
];

fn values(counters: &BackendCounters) -> [u64; 5] {
    [counters.to.packets, counters.to.bytes, counters.from.packets, counters.flows, counters.resets]
}
