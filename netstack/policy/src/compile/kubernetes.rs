//! `networking.k8s.io/v1` `NetworkPolicy`, and Calico's staged form of it.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::calico::{StagedAction, staged_action};
use super::{Known, NAMESPACE, OF_NAMESPACE, ORCHESTRATOR, place, values};
use crate::api::calico::StagedKubernetesNetworkPolicy;
use crate::api::kubernetes::{EgressRule, IngressRule, NetworkPolicy, Peer, Port};
use crate::api::meta::{LabelSelector, Metadata, NumberOrText};
use crate::model::{Action, Hook, Match, Model, Order, Policy, PolicyId, Ports, Rule, Set, Side, Standing};
use crate::problem::Problems;
use crate::selector::Selector;

/// The place that Calico gives to Kubernetes' policies in the default tier.
const ORDER: f64 = 1000.0;

struct Spec<'a> {
    pod_selector: Option<&'a LabelSelector>,
    ingress: Option<&'a [IngressRule]>,
    egress: Option<&'a [EgressRule]>,
    policy_types: Option<&'a [String]>,
}

/// A `NetworkPolicy`.
pub fn policy(policy: &NetworkPolicy, known: &Known, model: &mut Model, problems: &mut Problems) {
    let spec = Spec {
        pod_selector: policy.spec.pod_selector.as_ref(),
        ingress: policy.spec.ingress.as_deref(),
        egress: policy.spec.egress.as_deref(),
        policy_types: policy.spec.policy_types.as_deref(),
    };
    let mut compiled = compile(&policy.metadata, &spec, "KubernetesNetworkPolicy", problems);
    let metadata = &policy.metadata;
    compiled.standing = known.standing("KubernetesNetworkPolicy", Some(metadata.namespace()), &metadata.name);
    place(model, "default", compiled, problems);
}

/// A `StagedKubernetesNetworkPolicy`.
pub fn staged(policy: &StagedKubernetesNetworkPolicy, model: &mut Model, problems: &mut Problems) {
    let spec = Spec {
        pod_selector: policy.spec.pod_selector.as_ref(),
        ingress: policy.spec.ingress.as_deref(),
        egress: policy.spec.egress.as_deref(),
        policy_types: policy.spec.policy_types.as_deref(),
    };
    let action = problems.within("spec", |p| staged_action(policy.spec.staged_action.as_deref(), p));
    let mut compiled = compile(&policy.metadata, &spec, "StagedKubernetesNetworkPolicy", problems);
    compiled.standing = Standing::Staged;
    if action == StagedAction::Set {
        place(model, "default", compiled, problems);
    }
}

fn compile(metadata: &Metadata, spec: &Spec<'_>, kind: &'static str, problems: &mut Problems) -> Policy {
    let namespace = metadata.namespace();
    problems.within("spec", |problems| {
        let types = spec.policy_types.unwrap_or_default();
        let _ = problems.each("policyTypes", types, |problems, _, name| {
            if !matches!(name.as_str(), "Ingress" | "Egress") {
                problems.add("", format!("{name:?} is neither Ingress nor Egress"));
            }
        });
        let says = |name: &str| types.iter().any(|candidate| candidate == name);
        let has_ingress = types.is_empty() || says("Ingress");
        let has_egress = if types.is_empty() {
            spec.egress.is_some_and(|rules| !rules.is_empty())
        } else {
            says("Egress")
        };
        let subject = match spec.pod_selector {
            Some(selector) => values::label_selector(selector, "podSelector", problems),
            None => Selector::All,
        };
        let ingress = problems.each("ingress", spec.ingress.unwrap_or_default(), |problems, index, rule| {
            let peers = peers(rule.from.as_deref(), "from", namespace, problems);
            rules(index, peers, rule.ports.as_deref(), true, problems)
        });
        let egress = problems.each("egress", spec.egress.unwrap_or_default(), |problems, index, rule| {
            let peers = peers(rule.to.as_deref(), "to", namespace, problems);
            rules(index, peers, rule.ports.as_deref(), false, problems)
        });
        Policy {
            id: PolicyId { name: metadata.name.clone(), namespace: Some(namespace.to_string()), kind },
            order: Order(Some(ORDER)),
            standing: Standing::Enforced,
            subject: pods_of(namespace).and(subject),
            hook: Hook::Normal,
            ingress: has_ingress.then(|| ingress.into_iter().flatten().collect()),
            egress: has_egress.then(|| egress.into_iter().flatten().collect()),
        }
    })
}

/// Pods, which other endpoints and network sets are not.
pub fn pods() -> Selector {
    Selector::Equals(ORCHESTRATOR.to_string(), "k8s".to_string())
}

fn pods_of(namespace: &str) -> Selector {
    pods().and(Selector::Equals(NAMESPACE.to_string(), namespace.to_string()))
}

/// The peers of a rule; none if it is about all.
fn peers(list: Option<&[Peer]>, member: &str, namespace: &str, problems: &mut Problems) -> Option<Vec<Side>> {
    let list = list.filter(|list| !list.is_empty())?;
    Some(problems.each(member, list, |problems, _, peer| {
        let mut side = Side::default();
        match &peer.ip_block {
            Some(_) if peer.pod_selector.is_some() || peer.namespace_selector.is_some() => {
                problems.add("ipBlock", "a peer is either an ipBlock or selectors, not both");
            }
            Some(block) => problems.within("ipBlock", |problems| {
                side.nets.extend(values::net(&block.cidr, "cidr", problems));
                side.not_nets = values::nets(block.except.as_deref(), "except", problems);
                let outside =
                    side.not_nets.iter().position(|except| !side.nets.iter().any(|net| net.contains(except)));
                if let (Some(index), false) = (outside, side.nets.is_empty()) {
                    problems.within("except", |p| p.add(&format!("{index}"), "not within cidr"));
                }
            }),
            None if peer.pod_selector.is_none() && peer.namespace_selector.is_none() => {
                problems.add("", "a peer needs podSelector, namespaceSelector or ipBlock");
            }
            None => {
                let pods = match &peer.namespace_selector {
                    Some(selector) => {
                        let namespaces = values::label_selector(selector, "namespaceSelector", problems);
                        pods().and(namespaces.with_prefix(OF_NAMESPACE))
                    }
                    None => pods_of(namespace),
                };
                let selector = peer.pod_selector.as_ref();
                let selected = selector.map(|s| values::label_selector(s, "podSelector", problems));
                side.sets.push(Set::Selected(pods.and(selected.unwrap_or(Selector::All))));
            }
        }
        side
    }))
}

/// One rule for each peer and each protocol.
fn rules(
    index: usize,
    peers: Option<Vec<Side>>,
    ports: Option<&[Port]>,
    ingress: bool,
    problems: &mut Problems,
) -> Vec<Rule> {
    let peers = peers.unwrap_or_else(|| Vec::from([Side::default()]));
    let rule = Rule { action: Action::Allow, matches: Match::default(), index, name: None };
    each(&rule, &peers, &protocols(ports, problems), ingress)
}

/// Protocols, and the ports of each.
pub type Protocols = Vec<(Option<u8>, Vec<Ports>)>;

/// `rule`, which matches all, for each peer and each protocol.
pub fn each(rule: &Rule, peers: &[Side], protocols: &Protocols, ingress: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for peer in peers {
        for (protocol, ports) in protocols {
            let mut rule = rule.clone();
            let matches = &mut rule.matches;
            matches.protocol = *protocol;
            if ingress {
                matches.source = peer.clone();
            } else {
                matches.destination = peer.clone();
            }
            matches.destination.ports.clone_from(ports);
            rules.push(rule);
        }
    }
    rules
}

/// The protocols of a rule with the ports of each; no ports are all ports.
fn protocols(ports: Option<&[Port]>, problems: &mut Problems) -> Protocols {
    let Some(list) = ports.filter(|list| !list.is_empty()) else { return Vec::from([(None, Vec::new())]) };
    let ports = problems.each("ports", list, |problems, _, port| {
        let protocol = values::port_protocol(port.protocol.as_deref(), "protocol", problems);
        (protocol, one_port(port, protocol, problems))
    });
    let mut by_protocol = Protocols::new();
    for (protocol, port) in ports {
        match by_protocol.iter_mut().find(|(candidate, _)| *candidate == Some(protocol)) {
            Some((_, ports)) => ports.push(port),
            None => by_protocol.push((Some(protocol), Vec::from([port]))),
        }
    }
    by_protocol
}

fn one_port(port: &Port, protocol: u8, problems: &mut Problems) -> Ports {
    let number = |number: i64, problems: &mut Problems| {
        u16::try_from(number).ok().filter(|number| *number > 0).unwrap_or_else(|| {
            problems.add("port", "a port is a number from 1 to 65535 or a name");
            1
        })
    };
    match (&port.port, port.end_port) {
        (None, None) => Ports::Range(0, u16::MAX),
        (None, Some(_)) => {
            problems.add("endPort", "endPort needs a port");
            Ports::Range(0, u16::MAX)
        }
        (Some(NumberOrText::Text(name)), None) => Ports::Named(name.clone(), Some(protocol)),
        (Some(NumberOrText::Text(_)), Some(_)) => {
            problems.add("endPort", "endPort needs a port that is a number");
            Ports::Range(0, u16::MAX)
        }
        (Some(NumberOrText::Number(first)), end) => {
            let first = number(*first, problems);
            let last = end.unwrap_or(first);
            if last < first {
                problems.add("endPort", format!("endPort is less than port {first}"));
            }
            Ports::Range(first, last)
        }
    }
}
