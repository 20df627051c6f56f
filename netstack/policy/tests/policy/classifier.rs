//! The classifier against the reference evaluator: random policies, random packets, the same verdict by the same rule.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::classifier::{Classifier, Compiler, Ends, Record, Source, Way, Written};
use policy::model::{
    Action, DefaultAction, Direction, Endpoint, EndpointKind, Hook, Icmp, IpVersion, Match, Model, NamedPort,
    Networks, Order, Packet, Policy, PolicyId, Ports, Profile, Rule, Set, Side, Standing, Tier,
};
use policy::reference::{self, Stage};
use policy::{Failsafe, Labels, OpenPort, Selector};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const PORTS: [u16; 7] = [0, 22, 53, 80, 81, 8080, 65535];
const NAMES: [&str; 2] = ["web", "dns"];
const PROTOCOLS: [u8; 7] = [1, 6, 17, 58, 132, 136, 253];

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        3 => (0..3u8, 0..6u8).prop_map(|(c, d)| IpAddr::from([10, 0, c, d])),
        1 => (0..6u16).prop_map(|d| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, d])),
        1 => select(vec![IpAddr::from([0, 0, 0, 0]), IpAddr::from([255; 4]), IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1])]),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    (address(), 0..=6usize).prop_map(|(address, len)| {
        let lens =
            if address.is_ipv4() { [0, 8, 22, 24, 30, 31, 32] } else { [0, 8, 64, 120, 126, 127, 128] };
        IpNet::new(address, lens[len]).unwrap().trunc()
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    let key = || select(vec!["a", "b", "c"]).prop_map(String::from);
    let value = || select(vec!["x", "y", "xy"]).prop_map(String::from);
    let leaf = prop_oneof![
        Just(Selector::All),
        key().prop_map(Selector::Has),
        (key(), value()).prop_map(|(k, v)| Selector::Equals(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::Differs(k, v)),
        key().prop_map(|k| Selector::In(k, vec!["x".into(), "y".into()])),
        key().prop_map(|k| Selector::NotIn(k, vec!["x".into(), "y".into()])),
        (key(), value()).prop_map(|(k, v)| Selector::Contains(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::StartsWith(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::EndsWith(k, v)),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|operand| Selector::Not(operand.into())),
            vec(inner.clone(), 1..3).prop_map(Selector::And),
            vec(inner, 1..3).prop_map(Selector::Or),
        ]
    })
}

fn labels() -> impl Strategy<Value = Labels> {
    let value = || option::of(select(vec!["x", "y", "xy"]));
    (value(), value()).prop_map(|(a, b)| {
        let both = [("a", a), ("b", b)].into_iter();
        both.filter_map(|(key, value)| Some((key.to_string(), value?.to_string()))).collect()
    })
}

fn set() -> impl Strategy<Value = Set> {
    prop_oneof![
        4 => selector().prop_map(Set::Selected),
        1 => selector().prop_map(Set::Nodes),
        1 => vec(net(), 0..3).prop_map(Set::Members),
    ]
}

fn ports() -> impl Strategy<Value = Ports> {
    prop_oneof![
        3 => (select(PORTS.to_vec()), select(PORTS.to_vec())).prop_map(|(a, b)| Ports::Range(a.min(b), a.max(b))),
        2 => (select(NAMES.to_vec()), option::of(select(vec![6u8, 17]))).prop_map(|(n, p)| Ports::Named(n.into(), p)),
        1 => vec((net(), select(vec![6u8, 17]), select(PORTS.to_vec())), 0..3).prop_map(Ports::Members),
    ]
}

/// Mostly nothing, so that rules overlap.
fn few<T: std::fmt::Debug + Clone>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![4 => Just(()).prop_map(|()| Vec::new()), 2 => vec(one, 1..3)]
}

fn side() -> impl Strategy<Value = Side> {
    let rare = |nets| prop_oneof![6 => Just(Vec::new()), 1 => nets];
    (few(net()), rare(vec(net(), 1..3)), few(set()), few(set()), few(ports()), few(ports())).prop_map(
        |(nets, not_nets, sets, not_sets, ports, not_ports)| Side {
            nets,
            not_nets,
            sets,
            not_sets,
            ports,
            not_ports,
        },
    )
}

fn icmp() -> impl Strategy<Value = Option<Icmp>> {
    let icmp = (select(vec![0u8, 8, 255]), option::of(select(vec![0u8, 3])))
        .prop_map(|(kind, code)| Icmp { kind, code });
    option::weighted(0.15, icmp)
}

fn rule() -> impl Strategy<Value = Rule> {
    let version = option::weighted(0.15, select(vec![IpVersion::V4, IpVersion::V6]));
    let protocol = option::weighted(0.5, select(PROTOCOLS.to_vec()));
    let not_protocol = option::weighted(0.1, select(PROTOCOLS.to_vec()));
    let action =
        select(vec![Action::Allow, Action::Allow, Action::Deny, Action::Deny, Action::Pass, Action::Log]);
    let quiet = || prop_oneof![2 => Just(Side::default()), 3 => side()];
    (action, version, protocol, not_protocol, icmp(), icmp(), quiet(), quiet()).prop_map(
        |(action, ip_version, protocol, not_protocol, icmp, not_icmp, source, destination)| Rule {
            action,
            matches: Match { ip_version, protocol, not_protocol, icmp, not_icmp, source, destination },
            index: 0,
            name: None,
        },
    )
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    vec(rule(), 0..6).prop_map(|mut rules| {
        rules.iter_mut().enumerate().for_each(|(index, rule)| rule.index = index);
        rules
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let hook =
        select(vec![Hook::Normal, Hook::Normal, Hook::Normal, Hook::Forward, Hook::PreDnat, Hook::Untracked]);
    (
        selector(),
        hook,
        select(vec![
            Standing::Enforced,
            Standing::Enforced,
            Standing::Enforced,
            Standing::Leaving,
            Standing::Staged,
        ]),
        option::weighted(0.8, rules()),
        option::weighted(0.6, rules()),
    )
        .prop_map(|(subject, hook, standing, ingress, egress)| Policy {
            id: PolicyId { name: String::new(), namespace: None, kind: "GlobalNetworkPolicy" },
            order: Order(None),
            standing,
            subject,
            hook,
            ingress,
            egress,
        })
}

fn tier() -> impl Strategy<Value = Tier> {
    (select(vec![DefaultAction::Deny, DefaultAction::Pass]), vec(policy().prop_map(Arc::new), 0..4)).prop_map(
        |(default_action, policies)| Tier {
            name: String::new(),
            order: Order(None),
            default_action,
            policies,
        },
    )
}

/// Of a host endpoint.
fn failsafe() -> impl Strategy<Value = Failsafe> {
    let open = || {
        (select(vec![6u8, 17]), select(PORTS.to_vec()), option::of(net()))
            .prop_map(|(protocol, port, net)| OpenPort { protocol, port, net })
    };
    let other =
        (vec(open(), 0..3), vec(open(), 0..3)).prop_map(|(inbound, outbound)| Failsafe { inbound, outbound });
    prop_oneof![Just(Failsafe::default()), other]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let failsafe =
        prop_oneof![2 => Just(None), 1 => failsafe().prop_map(|failsafe| Some(Arc::new(failsafe)))];
    let port = (select(NAMES.to_vec()), select(vec![6u8, 17]), select(PORTS.to_vec()))
        .prop_map(|(name, protocol, port)| NamedPort { name: name.into(), protocol, port });
    let profiles = vec(select(vec!["p", "q", "missing"]).prop_map(String::from), 0..3);
    (failsafe, labels(), vec(address(), 0..3), vec(port, 0..3), profiles).prop_map(
        |(failsafe, labels, addresses, ports, profiles)| {
            let kind = if failsafe.is_some() { EndpointKind::Host } else { EndpointKind::Workload };
            let empty = Endpoint::new(kind, String::new());
            Endpoint { labels, addresses, ports, profiles, failsafe, ..empty }
        },
    )
}

fn model() -> impl Strategy<Value = Model> {
    let networks = (any::<bool>(), labels(), vec(net(), 0..4)).prop_map(|(node, labels, nets)| Networks {
        name: String::new(),
        node,
        labels,
        nets,
    });
    let profile = || {
        let without_pass = |mut rules: Vec<Rule>| {
            rules.retain(|rule| rule.action != Action::Pass);
            rules
        };
        (rules(), rules()).prop_map(move |(ingress, egress)| Profile {
            ingress: without_pass(ingress),
            egress: without_pass(egress),
        })
    };
    (
        vec(tier(), 0..4),
        profile(),
        profile(),
        vec(endpoint().prop_map(Arc::new), 1..6),
        vec(networks.prop_map(Arc::new), 0..4),
    )
        .prop_map(|(mut tiers, p, q, endpoints, networks)| {
            for (number, tier) in tiers.iter_mut().enumerate() {
                tier.name = format!("tier{number}");
                for (number, policy) in tier.policies.iter_mut().enumerate() {
                    Arc::make_mut(policy).id.name = format!("policy{number}");
                }
            }
            let profiles = BTreeMap::from([("p".to_string(), Arc::new(p)), ("q".to_string(), Arc::new(q))]);
            Model { tiers, profiles, endpoints, networks }
        })
}

fn packet() -> impl Strategy<Value = Packet> {
    let pair = (address(), address()).prop_map(|(source, destination)| {
        if source.is_ipv4() == destination.is_ipv4() { (source, destination) } else { (source, source) }
    });
    let icmp = (select(vec![0u8, 8, 255]), select(vec![0u8, 3]));
    (pair, select(PROTOCOLS.to_vec()), select(PORTS.to_vec()), select(PORTS.to_vec()), icmp).prop_map(
        |((source, destination), protocol, source_port, destination_port, icmp)| {
            let has_ports = matches!(protocol, 6 | 17 | 132 | 136);
            let is_icmp = matches!(protocol, 1 | 58);
            Packet {
                source,
                destination,
                protocol,
                source_port: if has_ports { source_port } else { 0 },
                destination_port: if has_ports { destination_port } else { 0 },
                icmp: if is_icmp { icmp } else { (0, 0) },
            }
        },
    )
}

/// The first packet that classifier and reference do not judge alike, and what each says.
fn disagreement(classifier: &Classifier, model: &Model, packets: &[Packet]) -> Option<String> {
    for (number, endpoint) in model.endpoints.iter().enumerate() {
        for direction in [Direction::Ingress, Direction::Egress] {
            for &stage in stages(endpoint.kind) {
                for packet in packets {
                    let wanted = reference::judge(model, endpoint, direction, stage, packet);
                    let found = classifier.judge(number, direction, stage, packet);
                    if found != wanted {
                        return Some(format!(
                            "{found:?}, not {wanted:?}: {endpoint:?} {direction:?} {stage:?} {packet:?}"
                        ));
                    }
                }
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn the_classifier_says_what_the_reference_says(model in model(), packets in vec(packet(), 1..64)) {
        let classifier = Classifier::new(Arc::new(model.clone())).unwrap();
        prop_assert_eq!(disagreement(&classifier, &model, &packets), None);
        for packet in &packets {
            if let Some(wanted) = staged_denies(&model, packet) {
                let (ends, mut record) = (Ends { from: None, to: None, way: Way::Forwarded }, Record::default());
                let _ = classifier.judge_flow(packet, classes(&classifier, packet), &ends, &mut record);
                prop_assert_eq!(record.staged_denies, wanted, "{:?}", packet);
            }
        }
    }
}

/// Whether policies would drop a packet between workloads if staged ones were enforced, as far as these are asked about it. None
/// if it is not clear whose it is.
fn staged_denies(model: &Model, packet: &Packet) -> Option<bool> {
    let mut enforced = model.clone();
    for policy in enforced.tiers.iter_mut().flat_map(|tier| &mut tier.policies) {
        let standing = &mut Arc::make_mut(policy).standing;
        *standing = match *standing {
            Standing::Leaving => Standing::Staged,
            Standing::Enforced | Standing::Staged => Standing::Enforced,
        };
    }
    let mut denies = false;
    for (address, direction) in [(packet.source, Direction::Egress), (packet.destination, Direction::Ingress)]
    {
        let mut owners = model.endpoints.iter().filter(|e| e.addresses.contains(&address));
        let Some(endpoint) = owners.next() else { continue };
        if owners.next().is_some()
            || endpoint.kind == EndpointKind::Host
            || packet.source == packet.destination
        {
            return None;
        }
        let judge = |model| reference::judge(model, endpoint, direction, Stage::Normal, packet);
        let mut policies = model.tiers.iter().flat_map(|tier| &tier.policies);
        let is_staged = policies.any(|policy| {
            policy.standing != Standing::Enforced
                && matches!(policy.hook, Hook::Normal | Hook::Forward)
                && policy.rules(direction).is_some()
                && policy.subject.matches(&endpoint.labels)
        });
        denies |= is_staged && judge(&enforced).is_some_and(|verdict| !verdict.allow);
        if judge(model).is_some_and(|verdict| !verdict.allow) {
            break;
        }
    }
    Some(denies)
}

/// What changes from one model to the next; numbers say where, modulo how many there are.
#[derive(Clone, Debug)]
enum Change {
    AddPolicy(usize, usize, Policy),
    ReplacePolicy(usize, usize, Policy),
    RemovePolicy(usize, usize),
    AddEndpoint(usize, Endpoint),
    RemoveEndpoint(usize),
    AddNetworks(Networks),
    ReplaceNets(usize, Vec<IpNet>),
    RemoveNetworks(usize),
    Profile(&'static str, Option<Profile>),
    Tiers(DefaultAction),
}

fn change() -> impl Strategy<Value = Change> {
    let at = || 0..8_usize;
    let networks = (any::<bool>(), labels(), vec(net(), 0..4)).prop_map(|(node, labels, nets)| Networks {
        name: String::new(),
        node,
        labels,
        nets,
    });
    let profile = (rules(), rules()).prop_map(|(ingress, egress)| Profile { ingress, egress });
    prop_oneof![
        3 => (at(), at(), policy()).prop_map(|(tier, at, policy)| Change::AddPolicy(tier, at, policy)),
        3 => (at(), at(), policy()).prop_map(|(tier, at, policy)| Change::ReplacePolicy(tier, at, policy)),
        2 => (at(), at()).prop_map(|(tier, at)| Change::RemovePolicy(tier, at)),
        3 => (at(), endpoint()).prop_map(|(at, endpoint)| Change::AddEndpoint(at, endpoint)),
        2 => at().prop_map(Change::RemoveEndpoint),
        1 => networks.prop_map(Change::AddNetworks),
        2 => (at(), vec(net(), 0..5)).prop_map(|(at, nets)| Change::ReplaceNets(at, nets)),
        1 => at().prop_map(Change::RemoveNetworks),
        1 => (select(vec!["p", "q"]), option::of(profile)).prop_map(|(name, profile)| Change::Profile(name, profile)),
        1 => select(vec![DefaultAction::Deny, DefaultAction::Pass]).prop_map(Change::Tiers),
    ]
}

fn apply(model: &mut Model, change: Change) {
    let place = |at: usize, len: usize| (len > 0).then(|| at % len);
    match change {
        Change::AddPolicy(in_tier, at, policy) => {
            if let Some(tier) = place(in_tier, model.tiers.len()).and_then(|at| model.tiers.get_mut(at)) {
                tier.policies.insert(at.min(tier.policies.len()), Arc::new(policy));
            }
        }
        Change::ReplacePolicy(in_tier, at, policy) => {
            if let Some(tier) = place(in_tier, model.tiers.len()).and_then(|at| model.tiers.get_mut(at))
                && let Some(at) = place(at, tier.policies.len())
            {
                tier.policies[at] = Arc::new(policy);
            }
        }
        Change::RemovePolicy(in_tier, at) => {
            if let Some(tier) = place(in_tier, model.tiers.len()).and_then(|at| model.tiers.get_mut(at))
                && let Some(at) = place(at, tier.policies.len())
            {
                drop(tier.policies.remove(at));
            }
        }
        Change::AddEndpoint(at, endpoint) => {
            model.endpoints.insert(at.min(model.endpoints.len()), Arc::new(endpoint));
        }
        Change::RemoveEndpoint(at) => {
            if let Some(at) = place(at, model.endpoints.len()) {
                drop(model.endpoints.remove(at));
            }
        }
        Change::AddNetworks(networks) => model.networks.push(Arc::new(networks)),
        Change::ReplaceNets(at, nets) => {
            if let Some(at) = place(at, model.networks.len()) {
                let networks = Networks { nets, ..model.networks[at].as_ref().clone() };
                model.networks[at] = Arc::new(networks);
            }
        }
        Change::RemoveNetworks(at) => {
            if let Some(at) = place(at, model.networks.len()) {
                drop(model.networks.remove(at));
            }
        }
        Change::Profile(name, profile) => {
            drop(model.profiles.remove(name));
            model.profiles.extend(profile.map(|mut profile| {
                profile.ingress.retain(|rule| rule.action != Action::Pass);
                profile.egress.retain(|rule| rule.action != Action::Pass);
                (name.to_string(), Arc::new(profile))
            }));
        }
        Change::Tiers(default_action) => {
            if let Some(tier) = model.tiers.first_mut() {
                tier.default_action = default_action;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn an_update_says_what_compiling_from_nothing_says(
        model in model(),
        changes in vec(vec(change(), 1..4), 1..8),
        packets in vec(packet(), 1..24),
    ) {
        let mut model = model;
        let mut compiler = Compiler::new().unwrap();
        let _ = compiler.update(Arc::new(model.clone())).unwrap();
        for (step, changes) in changes.into_iter().enumerate() {
            changes.into_iter().for_each(|change| apply(&mut model, change));
            let classifier = compiler.update(Arc::new(model.clone())).unwrap();
            compiler.apply().unwrap();
            prop_assert_eq!(disagreement(&classifier, &model, &packets), None, "step {}", step);
            let anew = Classifier::new(Arc::new(model.clone())).unwrap();
            prop_assert_eq!(classifier.programs(), anew.programs());
            prop_assert!(compiler.sources().all(|source| is_written(&model, source)), "of policy that is gone");
        }
    }
}

/// What is wrong with what a classifier says of packets, if it should say what one does that was compiled from nothing, and the
/// reference of its model.
fn difference(classifier: &Classifier, anew: &Classifier, packets: &[Packet]) -> Option<String> {
    let (ends, model) = (Ends { from: None, to: None, way: Way::Forwarded }, anew.model());
    let at_endpoints = disagreement(classifier, model, packets);
    at_endpoints.or_else(|| {
        packets.iter().find_map(|packet| {
            // Of several endpoints with one address, either may be asked.
            let has = |address| model.endpoints.iter().filter(|e| e.addresses.contains(&address)).count();
            if has(packet.source) > 1 || has(packet.destination) > 1 {
                return None;
            }
            let [found, wanted] = [classifier, anew].map(|classifier| {
                let classes = classes(classifier, packet);
                classifier.judge_flow(packet, classes, &ends, &mut Record::default()).allow
            });
            (found != wanted).then(|| format!("passes: {found}: {packet:?}"))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases() / 10, ..ProptestConfig::default() })]

    #[test]
    fn at_every_step_of_an_update_packets_are_judged_by_the_model_before_or_the_one_after(
        model in model(),
        updates in vec(vec(change(), 1..4), 1..3),
        packets in vec(packet(), 1..12),
        at_once in 1..3_usize,
    ) {
        let mut model = model;
        let mut compiler = Compiler::new().unwrap();
        let mut in_force = compiler.update(Arc::new(model.clone())).unwrap();
        compiler.apply().unwrap();
        let mut before = Classifier::new(Arc::new(model.clone())).unwrap();
        for (number, changes) in updates.into_iter().enumerate() {
            changes.into_iter().for_each(|change| apply(&mut model, change));
            let next = compiler.update(Arc::new(model.clone())).unwrap();
            let after = Classifier::new(Arc::new(model.clone())).unwrap();
            prop_assert_eq!(difference(&in_force, &before, &packets), None, "update {}", number);
            if compiler.has_to_enter() {
                in_force = in_force.awaiting(&compiler);
            }
            while compiler.has_to_enter() {
                prop_assert_eq!(difference(&in_force, &before, &packets), None, "update {}", number);
                compiler.enter_part(at_once).unwrap();
            }
            prop_assert_eq!(difference(&in_force, &before, &packets), None, "update {}", number);
            while compiler.has_pending() {
                prop_assert_eq!(difference(&next, &after, &packets), None, "update {}", number);
                compiler.apply_part(at_once).unwrap();
            }
            prop_assert_eq!(difference(&next, &after, &packets), None, "update {}", number);
            (in_force, before) = (next, after);
        }
    }
}

fn is_written(model: &Model, source: &Source) -> bool {
    match &source.what {
        Written::Policy { policy, .. } => {
            model.tiers.iter().flat_map(|tier| &tier.policies).any(|known| Arc::ptr_eq(known, policy))
        }
        Written::Profile { name, profile } => model.profiles.get(name) == Some(profile),
    }
}

/// A change of tiers makes all tables anew, but starts no count again.
#[test]
fn counters_stay_when_tiers_change() {
    let named = |name: &str| Policy {
        id: PolicyId { name: name.into(), namespace: None, kind: "GlobalNetworkPolicy" },
        order: Order(None),
        standing: Standing::Enforced,
        subject: Selector::All,
        hook: Hook::Normal,
        ingress: Some(Vec::new()),
        egress: None,
    };
    let policies = vec![Arc::new(named("a")), Arc::new(named("b"))];
    let tier = Tier { name: "t".into(), order: Order(None), default_action: DefaultAction::Deny, policies };
    let profiles = BTreeMap::from([("p".to_string(), Arc::new(Profile::default()))]);
    let mut model = Model { tiers: vec![tier], profiles, ..Model::default() };
    let mut compiler = Compiler::new().unwrap();
    let mut all = Vec::new();
    for action in [DefaultAction::Deny, DefaultAction::Pass, DefaultAction::Deny] {
        model.tiers[0].default_action = action;
        let _ = compiler.update(Arc::new(model.clone())).unwrap();
        all.push(compiler.sources().flat_map(|source| source.counters()).collect::<Vec<_>>());
    }
    assert_eq!(all[0].len(), 6);
    assert!(all.iter().all(|counters| *counters == all[0]), "{all:?}");
}

fn stages(kind: EndpointKind) -> &'static [Stage] {
    match kind {
        EndpointKind::Workload => &[Stage::Normal],
        EndpointKind::Host => &[Stage::Normal, Stage::Forward, Stage::PreDnat, Stage::Untracked],
    }
}

/// Each case asks some hundred questions. `POLICY_CASES=100000` is for an afternoon.
fn cases() -> u32 {
    std::env::var("POLICY_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

/// The classes of a packet's ends, of IPv4 as many packets have them looked up at once.
fn classes(classifier: &Classifier, packet: &Packet) -> (u32, u32) {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (packet.source, packet.destination) else {
        return classifier.classes(packet);
    };
    let mut classes = [0; 2];
    classifier.classes_of_ipv4(&[source.to_bits(), destination.to_bits()], &mut classes);
    (classes[0], classes[1])
}
