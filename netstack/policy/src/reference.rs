//! The reference evaluator: what the documents say, in their order, slow and obvious. The classifier is held to it.
//!
//! Sources: Calico's *Network policy*, *Tier* and *Host endpoints* reference pages, Kubernetes' `NetworkPolicy` and the
//! network-policy-api's `ClusterNetworkPolicy`.

use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use crate::failsafe::Failsafe;
use crate::model::{
    Action, DefaultAction, Direction, Endpoint, EndpointKind, Hook, IpVersion, Match, Model, Packet, Policy,
    Ports, Rule, Set, Side, protocol,
};
use crate::verdict::{Reason, Verdict};

/// At which point of an endpoint's packets a judgement is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// A workload's packet; a host's own.
    Normal,
    /// A packet that a host forwards.
    Forward,
    /// A packet that reaches a host, before its destination is translated. No verdict: the packet goes on.
    PreDnat,
    /// A packet of a host, before connection tracking. No verdict: the packet goes on.
    Untracked,
}

/// True if policies of `hook` are asked at `stage` of endpoints of `kind`.
pub fn is_asked(hook: Hook, stage: Stage, kind: EndpointKind) -> bool {
    match (kind, stage) {
        (EndpointKind::Workload, Stage::Normal) => matches!(hook, Hook::Normal | Hook::Forward),
        (EndpointKind::Workload, _) => false,
        (EndpointKind::Host, Stage::Normal) => matches!(hook, Hook::Normal | Hook::Forward),
        (EndpointKind::Host, Stage::Forward) => hook == Hook::Forward,
        (EndpointKind::Host, Stage::PreDnat) => hook == Hook::PreDnat,
        (EndpointKind::Host, Stage::Untracked) => hook == Hook::Untracked,
    }
}

/// The failsafe ports of an endpoint that are open at a stage: a host's own, not those of what it forwards.
#[inline]
pub fn failsafe_at(endpoint: &Endpoint, stage: Stage) -> Option<&Failsafe> {
    endpoint.failsafe.as_deref().filter(|_| stage != Stage::Forward)
}

/// Judges a packet of an endpoint. None if nothing at this stage decides, which only [`Stage::PreDnat`] and
/// [`Stage::Untracked`] may say.
pub fn judge(
    model: &Model,
    endpoint: &Endpoint,
    direction: Direction,
    stage: Stage,
    packet: &Packet,
) -> Option<Verdict> {
    if failsafe_at(endpoint, stage).is_some_and(|failsafe| failsafe.has(direction, packet)) {
        return Some(Verdict { allow: true, reason: Reason::Failsafe });
    }
    let mut asked_any = false;
    for tier in &model.tiers {
        let policies = tier.policies.iter().filter(|policy| {
            policy.subject.matches(&endpoint.labels)
                && is_asked(policy.hook, stage, endpoint.kind)
                && policy.standing.is_enforced()
        });
        let asked: Vec<(&Policy, &[Rule])> =
            policies.filter_map(|policy| Some((policy.as_ref(), policy.rules(direction)?))).collect();
        if asked.is_empty() {
            continue;
        }
        asked_any = true;
        let rules = asked.iter().flat_map(|(policy, rules)| rules.iter().map(move |rule| (policy, rule)));
        let decided = rules
            .into_iter()
            .find(|(_, rule)| rule.action != Action::Log && matches(model, &rule.matches, packet));
        match decided {
            Some((_, Rule { action: Action::Pass, .. })) => {}
            Some((policy, rule)) => {
                let reason = Reason::Rule {
                    tier: tier.name.clone(),
                    policy: policy.id.clone(),
                    direction,
                    rule: rule.index,
                    rule_name: rule.name.clone(),
                };
                return Some(Verdict { allow: rule.action == Action::Allow, reason });
            }
            None => {
                let implicit_pass = matches!(stage, Stage::PreDnat | Stage::Untracked);
                if tier.default_action == DefaultAction::Deny && !implicit_pass {
                    let policy = asked.last().map(|(policy, _)| policy.id.clone());
                    return Some(Verdict {
                        allow: false,
                        reason: Reason::EndOfTier { tier: tier.name.clone(), policy },
                    });
                }
            }
        }
    }
    match stage {
        Stage::PreDnat | Stage::Untracked => None,
        Stage::Forward => {
            Some(Verdict { allow: true, reason: Reason::NothingForbids { policies: asked_any } })
        }
        Stage::Normal => Some(by_profiles(model, endpoint, direction, packet)),
    }
}

fn by_profiles(model: &Model, endpoint: &Endpoint, direction: Direction, packet: &Packet) -> Verdict {
    for name in &endpoint.profiles {
        let Some(profile) = model.profiles.get(name) else { continue };
        for rule in profile.rules(direction) {
            if matches!(rule.action, Action::Allow | Action::Deny) && matches(model, &rule.matches, packet) {
                let reason = Reason::Profile { profile: name.clone(), direction, rule: rule.index };
                return Verdict { allow: rule.action == Action::Allow, reason };
            }
        }
    }
    Verdict { allow: false, reason: Reason::EndOfProfiles }
}

/// True if a packet is one the rule is about.
pub fn matches(model: &Model, rule: &Match, packet: &Packet) -> bool {
    let is_icmp = matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6);
    let of_type = |icmp: crate::model::Icmp| {
        is_icmp && icmp.kind == packet.icmp.0 && icmp.code.is_none_or(|code| code == packet.icmp.1)
    };
    rule.ip_version.is_none_or(|version| version == IpVersion::of(packet.source))
        && rule.protocol.is_none_or(|number| number == packet.protocol)
        && rule.not_protocol.is_none_or(|number| number != packet.protocol)
        && rule.icmp.is_none_or(of_type)
        && !rule.not_icmp.is_some_and(of_type)
        && side_matches(model, &rule.source, packet.source, packet.protocol, packet.source_port)
        && side_matches(
            model,
            &rule.destination,
            packet.destination,
            packet.protocol,
            packet.destination_port,
        )
}

fn side_matches(model: &Model, side: &Side, address: IpAddr, protocol: u8, port: u16) -> bool {
    // Networks of the other version alone say that the rule is not about packets of this one, negated ones too.
    let about =
        |nets: &[IpNet]| nets.is_empty() || nets.iter().any(|net| net.addr().is_ipv4() == address.is_ipv4());
    let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
    let one_of =
        |ports: &[Ports]| ports.iter().any(|ports| port_matches(model, ports, address, protocol, port));
    about(&side.nets)
        && about(&side.not_nets)
        && (side.nets.is_empty() || within(&side.nets))
        && !within(&side.not_nets)
        && side.sets.iter().all(|set| is_member(model, set, address))
        && !side.not_sets.iter().any(|set| is_member(model, set, address))
        && (side.ports.is_empty() || one_of(&side.ports))
        && !one_of(&side.not_ports)
}

/// True if an address is in a set.
pub fn is_member(model: &Model, set: &Set, address: IpAddr) -> bool {
    let in_networks = |selector: &crate::Selector, node: bool| {
        model.networks.iter().any(|networks| {
            networks.node == node
                && networks.nets.iter().any(|net| net.contains(&address))
                && selector.matches(&networks.labels)
        })
    };
    match set {
        Set::Members(nets) => nets.iter().any(|net| net.contains(&address)),
        Set::Nodes(selector) => in_networks(selector, true),
        Set::Selected(selector) => {
            in_networks(selector, false)
                || model.endpoints.iter().any(|endpoint| {
                    endpoint.addresses.contains(&address) && selector.matches(&endpoint.labels)
                })
        }
    }
}

fn port_matches(model: &Model, ports: &Ports, address: IpAddr, protocol: u8, port: u16) -> bool {
    match ports {
        Ports::Range(first, last) => (*first..=*last).contains(&port),
        Ports::Members(members) => members
            .iter()
            .any(|(net, number, wanted)| net.contains(&address) && *number == protocol && *wanted == port),
        Ports::Named(name, wanted) => {
            wanted.is_none_or(|wanted| wanted == protocol)
                && model.endpoints.iter().filter(|endpoint| endpoint.addresses.contains(&address)).any(
                    |endpoint| {
                        endpoint.ports.iter().any(|named| {
                            named.name == *name && named.protocol == protocol && named.port == port
                        })
                    },
                )
        }
    }
}
