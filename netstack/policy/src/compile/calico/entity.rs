//! One end of a Calico rule.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use ipnet::IpNet;

use super::super::{Known, NAMESPACE, SERVICE_ACCOUNT, values};
use super::{endpoints, of_account, of_namespace};
use crate::api::calico::{Entity, Service, ServiceAccounts};
use crate::api::meta::NumberOrText;
use crate::model::{Ports, Set, Side, protocol};
use crate::problem::Problems;
use crate::selector::Selector;

/// Which end it is: the source, the peer of the policy's endpoint; and the namespace of the policy.
type Place<'a> = (bool, bool, Option<&'a str>);

/// Compiles one end of a rule about `of`, the protocol.
pub fn side(
    entity: &Entity,
    place: Place<'_>,
    of: Option<u8>,
    known: &Known,
    problems: &mut Problems,
) -> Side {
    let (_, _, namespace) = place;
    let mut side = Side {
        nets: values::nets(entity.nets.as_deref(), "nets", problems),
        not_nets: values::nets(entity.not_nets.as_deref(), "notNets", problems),
        sets: Vec::new(),
        not_sets: Vec::new(),
        ports: ports(entity.ports.as_deref(), "ports", of, problems),
        not_ports: ports(entity.not_ports.as_deref(), "notPorts", of, problems),
    };
    side.sets.extend(selected(entity, namespace, problems).map(Set::Selected));
    if let Some(text) = text(&entity.not_selector) {
        side.not_sets.push(Set::Selected(endpoints(text, "notSelector", problems)));
    }
    if let Some(wanted) = &entity.services {
        service(wanted, entity, place, known, &mut side, problems);
    }
    side
}

fn text(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

/// The endpoints that selectors and service accounts choose; none if the rule does not choose. In a policy of a
/// namespace they are those of that namespace unless namespaces are chosen.
fn selected(entity: &Entity, namespace: Option<&str>, problems: &mut Problems) -> Option<Selector> {
    let namespaces = text(&entity.namespace_selector);
    let selector = text(&entity.selector);
    let accounts = entity.service_accounts.as_ref();
    let chosen = [namespaces, selector, text(&entity.not_selector)].iter().any(Option::is_some);
    if !chosen && accounts.is_none() {
        return None;
    }
    let mut all = match (namespaces, namespace) {
        (Some(text), _) => of_namespace(values::selector(text, "namespaceSelector", problems)),
        (None, Some(namespace)) => Selector::Equals(NAMESPACE.to_string(), namespace.to_string()),
        (None, None) => Selector::All,
    };
    if let Some(accounts) = accounts {
        all = all.and(problems.within("serviceAccounts", |problems| service_accounts(accounts, problems)));
    }
    if let Some(text) = selector {
        all = all.and(endpoints(text, "selector", problems));
    }
    // A global policy's notSelector alone chooses nothing.
    let chooses = namespaces.is_some() || selector.is_some() || accounts.is_some() || namespace.is_some();
    chooses.then_some(all)
}

fn service_accounts(accounts: &ServiceAccounts, problems: &mut Problems) -> Selector {
    let mut names = accounts.names.clone().unwrap_or_default();
    names.sort();
    names.dedup();
    let selector = match text(&accounts.selector) {
        Some(text) => of_account(values::selector(text, "selector", problems)),
        None if names.is_empty() => Selector::Has(SERVICE_ACCOUNT.to_string()),
        None => Selector::All,
    };
    let named = (!names.is_empty()).then(|| Selector::In(SERVICE_ACCOUNT.to_string(), names));
    selector.and(named.unwrap_or(Selector::All))
}

fn service(
    service: &Service,
    entity: &Entity,
    (is_source, is_peer, namespace): Place<'_>,
    known: &Known,
    side: &mut Side,
    problems: &mut Problems,
) {
    if !is_peer {
        problems
            .add("services", "possible in the source of ingress rules and the destination of egress rules");
    }
    let others = [
        ("nets", entity.nets.is_some()),
        ("notNets", entity.not_nets.is_some()),
        ("selector", text(&entity.selector).is_some()),
        ("notSelector", text(&entity.not_selector).is_some()),
        ("namespaceSelector", text(&entity.namespace_selector).is_some()),
        ("serviceAccounts", entity.service_accounts.is_some()),
        ("ports", entity.ports.is_some()),
        ("notPorts", entity.not_ports.is_some()),
    ];
    for (name, _) in others.iter().filter(|(_, said)| *said) {
        problems.add(name, "not possible together with services");
    }
    let Some(namespace) = text(&service.namespace).or(namespace) else {
        return problems.within("services", |p| p.add("namespace", "needed in a global policy"));
    };
    let members = known.service(namespace, &service.name);
    if is_source {
        side.sets.push(Set::Members(members.iter().map(|(address, ..)| IpNet::from(*address)).collect()));
    } else {
        let members =
            members.iter().map(|(address, protocol, port)| (IpNet::from(*address), *protocol, *port));
        side.ports.push(Ports::Members(members.collect()));
    }
}

/// Ports: numbers, ranges such as `80:90`, names.
fn ports(list: Option<&[NumberOrText]>, member: &str, of: Option<u8>, problems: &mut Problems) -> Vec<Ports> {
    let list = list.unwrap_or_default();
    if !list.is_empty() && !matches!(of, Some(protocol::TCP | protocol::UDP | protocol::SCTP)) {
        problems.add(member, "ports need protocol: TCP, UDP or SCTP");
    }
    problems.each(member, list, |problems, _, port| one(port, of, problems))
}

fn one(port: &NumberOrText, of: Option<u8>, problems: &mut Problems) -> Ports {
    let text = match port {
        NumberOrText::Number(number) => number.to_string(),
        NumberOrText::Text(text) => text.clone(),
    };
    let (first, last) = text.split_once(':').unwrap_or((&text, &text));
    if !first.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !text.contains(':') {
        return Ports::Named(text, of);
    }
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => Ports::Range(first, last),
        (Ok(_), Ok(_)) => {
            problems.add("", format!("the range {text} ends before it starts"));
            Ports::Range(0, 0)
        }
        _ => {
            problems.add("", format!("{text:?} is not a port, a range such as 80:90 or a name"));
            Ports::Range(0, 0)
        }
    }
}
