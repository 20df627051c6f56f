//! Policy as it is in force: endpoints with what selects them, and what happens to a packet and why, by the code that decides
//! for packets.

use super::{Reply, dispatch::Request, json, list::list, problem::problem};
use crate::http::Pull;
use crate::node::Node;
use alloc::{format, string::String, string::ToString, sync::Arc, vec::Vec};
use core::net::IpAddr;
use policy::classifier::{self, Part, Written};
use policy::flow;
use policy::model::{Action, Direction, Endpoint, EndpointKind, Model, Packet, protocol};
use resources::Compiled;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The source port of packets that are asked about: the first of the dynamic ones (RFC 6335 §6).
const SOURCE_PORT: u16 = 49_152;
/// Endpoints of a matrix at most.
pub(super) const MAX_MATRIX: usize = 256;

#[derive(Serialize)]
struct EndpointView<'a> {
    name: &'a str,
    kind: &'static str,
    addresses: &'a [IpAddr],
    labels: &'a policy::Labels,
    profiles: &'a [String],
    policies: Vec<PolicyView<'a>>,
}

#[derive(Serialize)]
struct PolicyView<'a> {
    tier: &'a str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    name: &'a str,
    ingress: bool,
    egress: bool,
    staged: bool,
}

/// `GET /v1/policy/endpoints`, one endpoint a piece: every policy's selector is asked about it.
pub(super) fn endpoints(node: &mut Node, request: &Request) -> Reply {
    let name = request.query.text("name").map(String::from);
    let model = node.objects.compiled().model().clone();
    let head = format!("\"generation\":{},\"endpoints\":", node.objects.generation());
    let mut next = 0;
    list(head, move |_, members| {
        let Some(endpoint) = model.endpoints.get(next) else { return Pull::End };
        next += 1;
        if name.as_ref().is_none_or(|name| *name == endpoint.name) {
            members.push(&endpoint_view(&model, endpoint));
        }
        Pull::More
    })
}

fn endpoint_view<'a>(model: &'a Model, endpoint: &'a Endpoint) -> EndpointView<'a> {
    let all = model.tiers.iter().flat_map(|tier| tier.policies.iter().map(move |policy| (tier, policy)));
    let selecting = all.filter(|(_, policy)| policy.subject.matches(&endpoint.labels));
    EndpointView {
        name: &endpoint.name,
        kind: match endpoint.kind {
            EndpointKind::Workload => "workload",
            EndpointKind::Host => "host",
        },
        addresses: &endpoint.addresses,
        labels: &endpoint.labels,
        profiles: &endpoint.profiles,
        policies: selecting
            .map(|(tier, policy)| PolicyView {
                tier: &tier.name,
                kind: policy.id.kind,
                namespace: policy.id.namespace.as_deref(),
                name: &policy.id.name,
                ingress: policy.ingress.is_some(),
                egress: policy.egress.is_some(),
                staged: !policy.standing.is_enforced(),
            })
            .collect(),
    }
}

/// `GET /v1/policy/rules`, one policy or profile a piece.
pub(super) fn rules(node: &mut Node, request: &Request) -> Reply {
    let name = request.query.text("name").map(String::from);
    let mut sources = node.policy_sources().into_iter();
    let head = format!("\"generation\":{},\"policies\":", node.objects.published_generation());
    list(head, move |node, members| {
        let Some(source) = sources.next() else { return Pull::End };
        if name.as_ref().is_none_or(|name| is_called(&source, name)) {
            members.push(&rules_view(node, &source));
        }
        Pull::More
    })
}

fn is_called(source: &classifier::Source, wanted: &str) -> bool {
    match &source.what {
        Written::Profile { name, .. } => name == wanted,
        Written::Policy { policy, .. } => match (wanted.split_once('/'), &policy.id.namespace) {
            (Some((namespace, name)), Some(of)) => namespace == of && name == policy.id.name,
            _ => policy.id.name == wanted,
        },
    }
}

#[derive(Serialize)]
struct RulesView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<&'a str>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    name: &'a str,
    staged: bool,
    rules: Vec<RuleView<'a>>,
}

#[derive(Serialize)]
struct RuleView<'a> {
    direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_name: Option<&'a str>,
    action: &'static str,
    hits: u64,
    staged_hits: u64,
    logs: u64,
}

fn rules_view<'a>(node: &Node, source: &'a classifier::Source) -> RulesView<'a> {
    let written = |direction| match &source.what {
        Written::Policy { policy, .. } => policy.rules(direction).unwrap_or_default(),
        Written::Profile { profile, .. } => profile.rules(direction),
    };
    let mut rules: Vec<RuleView<'a>> = Vec::new();
    for (part, counter) in source.counters() {
        let (direction, rule) = match (part, &source.what) {
            (Part::Rule(direction, rule), _) => (direction, written(direction).get(rule as usize)),
            (Part::End(direction), Written::Policy { policy, .. }) if policy.rules(direction).is_some() => {
                (direction, None)
            }
            (Part::End(_), _) => continue,
        };
        let view = RuleView {
            direction: if direction == Direction::Ingress { "ingress" } else { "egress" },
            rule: rule.map(|rule| rule.index + 1),
            rule_name: rule.and_then(|rule| rule.name.as_deref()),
            action: rule.map_or("EndOfTier", |rule| action(rule.action)),
            hits: 0,
            staged_hits: 0,
            logs: 0,
        };
        let same = |last: &&mut RuleView<'_>| (last.direction, last.rule) == (view.direction, view.rule);
        // One written rule may be several here, behind each other.
        if rules.last_mut().filter(same).is_none() {
            rules.push(view);
        }
        if let Some(view) = rules.last_mut() {
            let counted = node.shared.rule_counters(counter);
            view.hits += counted.hits;
            view.staged_hits += counted.staged;
            view.logs += counted.logs;
        }
    }
    let (tier, kind, namespace, name, staged) = match &source.what {
        Written::Profile { name, .. } => (None, "Profile", None, name, false),
        Written::Policy { tier, policy } => {
            let id = &policy.id;
            (Some(tier.as_str()), id.kind, id.namespace.as_deref(), &id.name, !policy.standing.is_enforced())
        }
    };
    RulesView { tier, kind, namespace, name, staged, rules }
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "Allow",
        Action::Deny => "Deny",
        Action::Log => "Log",
        Action::Pass => "Pass",
    }
}

/// `GET /v1/policy/explain`.
pub(super) fn explain(node: &mut Node, request: &Request) -> Reply {
    let compiled = node.objects.compiled();
    let text = |name: &str| request.query.text(name).unwrap_or_default();
    let ends =
        addresses(compiled, text("from")).and_then(|from| Ok((from, addresses(compiled, text("to"))?)));
    let (from, to) = match ends {
        Ok(ends) => ends,
        Err(why) => return problem(404, &why),
    };
    let packet = match packet(request, &from, &to) {
        Ok(packet) => packet,
        Err(why) => return problem(400, why),
    };
    let policy = node.shared.policy();
    let Some(classifier) = policy.as_ref().as_ref().map(dataplane::Policy::classifier) else {
        return json(200, &json!({"verdict": "allow", "rule": "there is no policy"}));
    };
    let judgement = flow::classify(classifier, &packet);
    let (direction, deciding) = judgement.deciding();
    json(
        200,
        &json!({
            "verdict": word(judgement.allow()),
            "direction": direction.to_string(),
            "rule": deciding.reason.to_string(),
            "egress": word(judgement.egress.allow),
            "egress_rule": judgement.egress.reason.to_string(),
            "ingress": word(judgement.ingress.allow),
            "ingress_rule": judgement.ingress.reason.to_string(),
            "source": packet.source,
            "destination": packet.destination,
        }),
    )
}

/// `GET /v1/policy/matrix`.
pub(super) fn matrix(node: &mut Node, request: &Request) -> Reply {
    let policy = node.shared.policy();
    let compiled = node.objects.compiled();
    let prefix = request.query.text("namespace").map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let has_address =
        |endpoint: &&Arc<Endpoint>| !endpoint.addresses.is_empty() && endpoint.name.starts_with(&prefix);
    let endpoints: Vec<&Arc<Endpoint>> = compiled.model().endpoints.iter().filter(has_address).collect();
    if endpoints.len() > MAX_MATRIX {
        let count = endpoints.len();
        return problem(
            400,
            &format!("there are {count} endpoints; name a namespace of at most {MAX_MATRIX}"),
        );
    }
    let mut rows = Map::new();
    for from in &endpoints {
        let mut row = Map::new();
        for to in &endpoints {
            let Ok(packet) = packet(request, &from.addresses, &to.addresses) else { continue };
            let allow =
                policy.as_ref().as_ref().is_none_or(|p| flow::classify(p.classifier(), &packet).allow());
            let _ = row.insert(to.name.clone(), word(allow).into());
        }
        let _ = rows.insert(from.name.clone(), Value::Object(row));
    }
    json(200, &json!({"generation": node.objects.published_generation(), "matrix": rows}))
}

fn word(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

/// The addresses of an end: one, or those of an endpoint.
fn addresses(compiled: &Compiled, end: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = end.parse() {
        return Ok(Vec::from([address]));
    }
    let endpoint = compiled.model().endpoints.iter().find(|endpoint| endpoint.name == end);
    let known = endpoint.map(|endpoint| &endpoint.addresses).or(compiled.host_network_pods().get(end));
    match known {
        Some(addresses) if addresses.is_empty() => Err(format!("{end} has no address")),
        Some(addresses) => Ok(addresses.clone()),
        None => Err(format!("{end} is neither an address nor a pod, as namespace/name, nor a host endpoint")),
    }
}

/// The first packet of the flow that is asked about, between the first addresses of the same family.
fn packet(request: &Request, from: &[IpAddr], to: &[IpAddr]) -> Result<Packet, &'static str> {
    let mut pairs = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
    let (source, destination) = pairs
        .find(|(from, to)| from.is_ipv4() == to.is_ipv4())
        .ok_or("they have no addresses of one family")?;
    let number = |name: &str| request.query.integer(name).and_then(|number| u16::try_from(number).ok());
    let (protocol, icmp_type) = match (request.query.text("protocol").unwrap_or("tcp"), source.is_ipv4()) {
        ("udp", _) => (protocol::UDP, None),
        ("sctp", _) => (protocol::SCTP, None),
        ("icmp", true) => (protocol::ICMP, Some(8)),
        ("icmp", false) => (protocol::ICMPV6, Some(128)),
        _ => (protocol::TCP, None),
    };
    if icmp_type.is_none() && number("port").is_none() {
        return Err("query parameter port is missing");
    }
    let ports = if icmp_type.is_none() { (SOURCE_PORT, number("port").unwrap_or_default()) } else { (0, 0) };
    Ok(Packet {
        source,
        destination,
        protocol,
        source_port: number("source_port").unwrap_or(ports.0),
        destination_port: ports.1,
        icmp: (icmp_type.unwrap_or_default(), 0),
    })
}
