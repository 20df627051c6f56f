//! `policy.networking.k8s.io`: policies of the cluster's administrator, before and after those of namespaces.

use alloc::{format, string::String, vec::Vec};

use super::kubernetes::{Protocols, each, pods};
use super::{OF_NAMESPACE, place, values};
use crate::api::cluster::{
    AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy, DestinationPort, Peer, Pods, Port,
    Protocol, Rule as Written, Subject,
};
use crate::api::meta::LabelSelector;
use crate::model::{
    Action, Hook, Match, Model, Order, Policy, PolicyId, Ports, Rule, Set, Side, Standing, protocol,
};
use crate::problem::Problems;
use crate::selector::Selector;

const ALPHA1: &[(&str, Action)] = &[("Allow", Action::Allow), ("Deny", Action::Deny), ("Pass", Action::Pass)];
const ALPHA1_BASELINE: &[(&str, Action)] = &[("Allow", Action::Allow), ("Deny", Action::Deny)];
const ALPHA2: &[(&str, Action)] =
    &[("Accept", Action::Allow), ("Deny", Action::Deny), ("Pass", Action::Pass)];

/// What the versions and kinds differ in.
struct Dialect {
    kind: &'static str,
    tier: &'static str,
    actions: &'static [(&'static str, Action)],
    /// v1alpha2: `protocols` in place of `ports`.
    protocols: bool,
}

/// An `AdminNetworkPolicy`.
pub fn admin(policy: &AdminNetworkPolicy, model: &mut Model, problems: &mut Problems) {
    let dialect =
        Dialect { kind: "AdminNetworkPolicy", tier: "adminnetworkpolicy", actions: ALPHA1, protocols: false };
    let spec = &policy.spec;
    let rules = (spec.ingress.as_deref(), spec.egress.as_deref());
    compile(&policy.metadata.name, spec.priority, &spec.subject, rules, &dialect, model, problems);
}

/// A `BaselineAdminNetworkPolicy`, of which there is one, called `default`.
pub fn baseline(policy: &BaselineAdminNetworkPolicy, model: &mut Model, problems: &mut Problems) {
    if policy.metadata.name != "default" {
        problems
            .within("metadata", |p| p.add("name", "the only BaselineAdminNetworkPolicy is called default"));
    }
    let dialect = Dialect {
        kind: "BaselineAdminNetworkPolicy",
        tier: "baselineadminnetworkpolicy",
        actions: ALPHA1_BASELINE,
        protocols: false,
    };
    let rules = (policy.spec.ingress.as_deref(), policy.spec.egress.as_deref());
    compile(&policy.metadata.name, 0, &policy.spec.subject, rules, &dialect, model, problems);
}

/// A `ClusterNetworkPolicy` of either tier.
pub fn cluster(policy: &ClusterNetworkPolicy, model: &mut Model, problems: &mut Problems) {
    let tier = match policy.spec.tier.as_str() {
        "Baseline" => "kube-baseline",
        "Admin" => "kube-admin",
        _ => {
            problems.within("spec", |p| p.add("tier", "a tier is Admin or Baseline"));
            "kube-admin"
        }
    };
    let dialect = Dialect { kind: "ClusterNetworkPolicy", tier, actions: ALPHA2, protocols: true };
    let spec = &policy.spec;
    let rules = (spec.ingress.as_deref(), spec.egress.as_deref());
    compile(&policy.metadata.name, spec.priority, &spec.subject, rules, &dialect, model, problems);
}

fn compile(
    name: &str,
    priority: i32,
    subject: &Subject,
    (ingress, egress): (Option<&[Written]>, Option<&[Written]>),
    dialect: &Dialect,
    model: &mut Model,
    problems: &mut Problems,
) {
    let policy = problems.within("spec", |problems| {
        if !(0..=1000).contains(&priority) {
            problems.add("priority", "a priority is a number from 0 to 1000");
        }
        let mut list = |member: &str, list: Option<&[Written]>, is_ingress: bool| {
            let list = list.filter(|list| !list.is_empty())?;
            let rules =
                problems.each(member, list, |p, index, rule| rules(index, rule, is_ingress, dialect, p));
            Some(rules.into_iter().flatten().collect())
        };
        let (ingress, egress) = (list("ingress", ingress, true), list("egress", egress, false));
        Policy {
            id: PolicyId { name: name.into(), namespace: None, kind: dialect.kind },
            order: Order(Some(f64::from(priority))),
            standing: Standing::Enforced,
            subject: self::subject(subject, problems),
            hook: Hook::Normal,
            ingress,
            egress,
        }
    });
    place(model, dialect.tier, policy, problems);
}

fn subject(subject: &Subject, problems: &mut Problems) -> Selector {
    problems.within("subject", |problems| match (&subject.namespaces, &subject.pods) {
        (Some(selector), None) => namespaces(selector, problems),
        (None, Some(selector)) => selected_pods(selector, problems),
        _ => {
            problems.add("", "a subject is either namespaces or pods");
            Selector::All
        }
    })
}

fn namespaces(selector: &LabelSelector, problems: &mut Problems) -> Selector {
    pods().and(values::label_selector(selector, "namespaces", problems).with_prefix(OF_NAMESPACE))
}

fn selected_pods(selector: &Pods, problems: &mut Problems) -> Selector {
    problems.within("pods", |problems| {
        let namespaces = values::label_selector(&selector.namespace_selector, "namespaceSelector", problems);
        let labels = values::label_selector(&selector.pod_selector, "podSelector", problems);
        pods().and(namespaces.with_prefix(OF_NAMESPACE)).and(labels)
    })
}

/// One rule for each peer and each protocol.
fn rules(
    index: usize,
    rule: &Written,
    ingress: bool,
    dialect: &Dialect,
    problems: &mut Problems,
) -> Vec<Rule> {
    let action = values::action(&rule.action, dialect.actions, problems);
    let ((member, list), (foreign, unwanted)) = if ingress {
        (("from", &rule.from), ("to", &rule.to))
    } else {
        (("to", &rule.to), ("from", &rule.from))
    };
    if unwanted.is_some() {
        problems.add(foreign, "not possible in this direction");
    }
    let list = list.as_deref().unwrap_or_default();
    if list.is_empty() {
        problems.add(member, "at least one peer is needed");
    }
    let peers = problems.each(member, list, |problems, _, peer| self::peer(peer, ingress, problems));
    let protocols = protocols(rule, dialect, problems);
    let rule = Rule { action, matches: Match::default(), index, name: rule.name.clone() };
    each(&rule, &peers, &protocols, ingress)
}

fn peer(peer: &Peer, ingress: bool, problems: &mut Problems) -> Side {
    let mut side = Side::default();
    let said = [
        peer.namespaces.is_some(),
        peer.pods.is_some(),
        peer.nodes.is_some(),
        peer.networks.is_some(),
        peer.domain_names.is_some(),
    ];
    if said.into_iter().filter(|said| *said).count() != 1 {
        problems.add("", "a peer is one of namespaces, pods, nodes, networks");
    }
    if peer.domain_names.is_some() {
        problems.add("domainNames", "rules about domain names cannot be enforced here");
    }
    if ingress && (peer.nodes.is_some() || peer.networks.is_some()) {
        problems.add("", "nodes and networks are possible in egress rules only");
    }
    if let Some(selector) = &peer.namespaces {
        side.sets.push(Set::Selected(namespaces(selector, problems)));
    }
    if let Some(selector) = &peer.pods {
        side.sets.push(Set::Selected(selected_pods(selector, problems)));
    }
    if let Some(selector) = &peer.nodes {
        side.sets.push(Set::Nodes(values::label_selector(selector, "nodes", problems)));
    }
    if let Some(networks) = &peer.networks {
        side.nets = values::nets(Some(networks), "networks", problems);
        if networks.is_empty() {
            problems.add("networks", "at least one network is needed");
        }
    }
    side
}

fn protocols(rule: &Written, dialect: &Dialect, problems: &mut Problems) -> Protocols {
    if rule.ports.is_some() && dialect.protocols {
        problems.add("ports", "v1alpha2 has protocols in place of ports");
    }
    if rule.protocols.is_some() && !dialect.protocols {
        problems.add("protocols", "v1alpha1 has ports in place of protocols");
    }
    let ports = rule.ports.as_deref().unwrap_or_default();
    let mut all = problems.each("ports", ports, |problems, _, port| alpha1(port, problems));
    let protocols = rule.protocols.as_deref().unwrap_or_default();
    all.extend(problems.each("protocols", protocols, |problems, _, protocol| alpha2(protocol, problems)));
    if all.is_empty() { Vec::from([(None, Vec::new())]) } else { all }
}

fn alpha1(port: &Port, problems: &mut Problems) -> (Option<u8>, Vec<Ports>) {
    match (&port.port_number, &port.port_range, &port.named_port) {
        (Some(number), None, None) => problems.within("portNumber", |problems| {
            let protocol = values::port_protocol(number.protocol.as_deref(), "protocol", problems);
            (Some(protocol), Vec::from([Ports::Range(number.port, number.port)]))
        }),
        (None, Some(range), None) => problems.within("portRange", |problems| {
            let protocol = values::port_protocol(range.protocol.as_deref(), "protocol", problems);
            (Some(protocol), Vec::from([self::range(range.start, range.end, problems)]))
        }),
        (None, None, Some(name)) => (None, Vec::from([Ports::Named(name.clone(), None)])),
        _ => {
            problems.add("", "a port is one of portNumber, portRange, namedPort");
            (None, Vec::new())
        }
    }
}

fn alpha2(written: &Protocol, problems: &mut Problems) -> (Option<u8>, Vec<Ports>) {
    let of = [
        ("tcp", protocol::TCP, &written.tcp),
        ("udp", protocol::UDP, &written.udp),
        ("sctp", protocol::SCTP, &written.sctp),
    ];
    let said: Vec<_> =
        of.into_iter().filter_map(|(name, number, ports)| Some((name, number, ports.as_ref()?))).collect();
    match (said.as_slice(), &written.destination_named_port) {
        ([(name, number, ports)], None) => {
            let ports = problems.within(name, |problems| match &ports.destination_port {
                Some(port) => problems.within("destinationPort", |p| destination_port(port, p)),
                None => Vec::new(),
            });
            (Some(*number), ports)
        }
        ([], Some(name)) => (None, Vec::from([Ports::Named(String::clone(name), None)])),
        _ => {
            problems.add("", "a protocol is one of tcp, udp, sctp, destinationNamedPort");
            (None, Vec::new())
        }
    }
}

fn destination_port(port: &DestinationPort, problems: &mut Problems) -> Vec<Ports> {
    match (&port.number, &port.range) {
        (Some(number), None) => Vec::from([Ports::Range(*number, *number)]),
        (None, Some(range)) => {
            Vec::from([problems.within("range", |problems| self::range(range.start, range.end, problems))])
        }
        _ => {
            problems.add("", "a port is either a number or a range");
            Vec::new()
        }
    }
}

fn range(start: u16, end: u16, problems: &mut Problems) -> Ports {
    if end < start {
        problems.add("end", format!("the end is less than the start {start}"));
    }
    Ports::Range(start, end)
}
