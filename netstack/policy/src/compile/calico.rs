//! `projectcalico.org/v3`: policies, tiers, profiles. Rules of entities are in [`entity`].

mod entity;

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
};

use super::{
    BUILTIN_TIERS, Known, NAMESPACE, OF_NAMESPACE, OF_SERVICE_ACCOUNT, SERVICE_ACCOUNT, place, values,
};
use crate::api::calico::{
    GlobalNetworkPolicy, Icmp as WrittenIcmp, NetworkPolicy, Profile as WrittenProfile, Rule as Written,
    StagedGlobalNetworkPolicy, StagedNetworkPolicy, Tier as WrittenTier,
};
use crate::api::meta::{Metadata, NumberOrText};
use crate::model::{
    Action, DefaultAction, Direction, Hook, Icmp, IpVersion, Match, Model, Order, Policy, PolicyId, Profile,
    Rule, Standing, protocol,
};
use crate::problem::Problems;
use crate::selector::Selector;

const ACTIONS: &[(&str, Action)] =
    &[("Allow", Action::Allow), ("Deny", Action::Deny), ("Log", Action::Log), ("Pass", Action::Pass)];
const PROFILE_ACTIONS: &[(&str, Action)] =
    &[("Allow", Action::Allow), ("Deny", Action::Deny), ("Log", Action::Log)];

/// What the four kinds of policy have in common.
struct Spec<'a> {
    kind: &'static str,
    /// None for a global policy.
    namespace: Option<&'a str>,
    standing: Standing,
    tier: Option<&'a str>,
    order: Option<f64>,
    selector: Option<&'a str>,
    service_account_selector: Option<&'a str>,
    namespace_selector: Option<&'a str>,
    types: Option<&'a [String]>,
    ingress: &'a [Written],
    egress: &'a [Written],
    do_not_track: bool,
    pre_dnat: bool,
    apply_on_forward: bool,
}

impl Spec<'_> {
    fn tier(&self) -> &str {
        self.tier.filter(|tier| !tier.is_empty()).unwrap_or("default")
    }
}

/// The fields that have the same names in each kind.
macro_rules! common {
    ($policy:ident, $kind:literal, $namespace:expr, $standing:expr, $($more:tt)*) => {
        Spec {
            kind: $kind,
            namespace: $namespace,
            standing: $standing,
            tier: $policy.spec.tier.as_deref(),
            order: $policy.spec.order,
            selector: $policy.spec.selector.as_deref(),
            service_account_selector: $policy.spec.service_account_selector.as_deref(),
            types: $policy.spec.types.as_deref(),
            ingress: $policy.spec.ingress.as_deref().unwrap_or_default(),
            egress: $policy.spec.egress.as_deref().unwrap_or_default(),
            $($more)*
        }
    };
}

/// The fields of global policies.
macro_rules! global {
    ($policy:ident, $kind:literal, $standing:expr) => {
        common!($policy, $kind, None, $standing,
            namespace_selector: $policy.spec.namespace_selector.as_deref(),
            do_not_track: $policy.spec.do_not_track.unwrap_or(false),
            pre_dnat: $policy.spec.pre_dnat.unwrap_or(false),
            apply_on_forward: $policy.spec.apply_on_forward.unwrap_or(false),
        )
    };
}

/// The fields of policies of a namespace.
macro_rules! namespaced {
    ($policy:ident, $kind:literal, $standing:expr) => {
        common!($policy, $kind, Some($policy.metadata.namespace()), $standing,
            namespace_selector: None,
            do_not_track: false,
            pre_dnat: false,
            apply_on_forward: false,
        )
    };
}

/// A `NetworkPolicy`.
pub fn policy(policy: &NetworkPolicy, known: &Known, model: &mut Model, problems: &mut Problems) {
    let standing = known.standing("NetworkPolicy", Some(policy.metadata.namespace()), &policy.metadata.name);
    let spec = namespaced!(policy, "NetworkPolicy", standing);
    let compiled = compile(&policy.metadata, &spec, known, problems);
    place(model, spec.tier(), compiled, problems);
}

/// A `GlobalNetworkPolicy`.
pub fn global_policy(
    policy: &GlobalNetworkPolicy,
    known: &Known,
    model: &mut Model,
    problems: &mut Problems,
) {
    let standing = known.standing("GlobalNetworkPolicy", None, &policy.metadata.name);
    let spec = global!(policy, "GlobalNetworkPolicy", standing);
    let compiled = compile(&policy.metadata, &spec, known, problems);
    place(model, spec.tier(), compiled, problems);
}

/// A `StagedNetworkPolicy`.
pub fn staged_policy(
    policy: &StagedNetworkPolicy,
    known: &Known,
    model: &mut Model,
    problems: &mut Problems,
) {
    let action = problems.within("spec", |p| staged_action(policy.spec.staged_action.as_deref(), p));
    let spec = namespaced!(policy, "StagedNetworkPolicy", Standing::Staged);
    let compiled = compile(&policy.metadata, &spec, known, problems);
    if action == StagedAction::Set {
        place(model, spec.tier(), compiled, problems);
    }
}

/// A `StagedGlobalNetworkPolicy`.
pub fn staged_global_policy(
    policy: &StagedGlobalNetworkPolicy,
    known: &Known,
    model: &mut Model,
    problems: &mut Problems,
) {
    let action = problems.within("spec", |p| staged_action(policy.spec.staged_action.as_deref(), p));
    let spec = global!(policy, "StagedGlobalNetworkPolicy", Standing::Staged);
    let compiled = compile(&policy.metadata, &spec, known, problems);
    if action == StagedAction::Set {
        place(model, spec.tier(), compiled, problems);
    }
}

/// What a staged policy is staged for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StagedAction {
    /// To be there, in the place of the policy of its name if there is one.
    Set,
    /// That the policy of its name be deleted.
    Delete,
    /// Nothing: a recommendation that was turned down.
    Ignore,
}

/// Reads it. One that is being learnt is there like others.
pub fn staged_action(action: Option<&str>, problems: &mut Problems) -> StagedAction {
    match action.unwrap_or("Set") {
        "Set" | "Learn" => StagedAction::Set,
        "Delete" => StagedAction::Delete,
        "Ignore" => StagedAction::Ignore,
        _ => {
            problems.add("stagedAction", "one of Set, Delete, Learn, Ignore is expected");
            StagedAction::Set
        }
    }
}

fn compile(metadata: &Metadata, spec: &Spec<'_>, known: &Known, problems: &mut Problems) -> Policy {
    problems.within("spec", |problems| {
        let hook = hook(spec, problems);
        let (ingress, egress) = types(spec, hook, problems);
        let rules = |member: &str, list: &[Written], direction, problems: &mut Problems| {
            problems.each(member, list, |problems, index, written| {
                rule(index, written, (direction, spec.namespace, ACTIONS), known, problems)
            })
        };
        let ingress_rules = rules("ingress", spec.ingress, Direction::Ingress, problems);
        let egress_rules = rules("egress", spec.egress, Direction::Egress, problems);
        Policy {
            id: PolicyId {
                name: metadata.name.clone(),
                namespace: spec.namespace.map(ToString::to_string),
                kind: spec.kind,
            },
            order: Order(spec.order),
            standing: spec.standing,
            subject: subject(spec, problems),
            hook,
            ingress: ingress.then_some(ingress_rules),
            egress: egress.then_some(egress_rules),
        }
    })
}

fn hook(spec: &Spec<'_>, problems: &mut Problems) -> Hook {
    if spec.do_not_track && spec.pre_dnat {
        problems.add("preDNAT", "a policy is either preDNAT or doNotTrack, not both");
    }
    for (said, name) in [(spec.pre_dnat, "preDNAT"), (spec.do_not_track, "doNotTrack")] {
        if said && !spec.apply_on_forward {
            problems.add("applyOnForward", format!("{name} needs applyOnForward: true"));
        }
    }
    match (spec.do_not_track, spec.pre_dnat, spec.apply_on_forward) {
        (true, _, _) => Hook::Untracked,
        (_, true, _) => Hook::PreDnat,
        (_, _, true) => Hook::Forward,
        _ => Hook::Normal,
    }
}

/// Whether the policy is about ingress and about egress.
fn types(spec: &Spec<'_>, hook: Hook, problems: &mut Problems) -> (bool, bool) {
    let said = spec.types.unwrap_or_default();
    let _ = problems.each("types", said, |problems, _, name| {
        if !matches!(name.as_str(), "Ingress" | "Egress") {
            problems.add("", format!("{name:?} is neither Ingress nor Egress"));
        }
    });
    let says = |name: &str| said.iter().any(|candidate| candidate == name);
    let (ingress, egress) = if said.is_empty() {
        (!spec.ingress.is_empty() || spec.egress.is_empty(), !spec.egress.is_empty())
    } else {
        (says("Ingress"), says("Egress"))
    };
    if hook == Hook::PreDnat && egress {
        let member = if spec.egress.is_empty() { "types" } else { "egress" };
        problems.add(member, "a preDNAT policy is about ingress only");
    }
    (ingress, egress)
}

fn subject(spec: &Spec<'_>, problems: &mut Problems) -> Selector {
    let mut subject = match spec.namespace {
        Some(namespace) => Selector::Equals(NAMESPACE.to_string(), namespace.to_string()),
        None => Selector::All,
    };
    if let Some(text) = spec.namespace_selector.filter(|text| !text.is_empty()) {
        subject = subject.and(of_namespace(values::selector(text, "namespaceSelector", problems)));
    }
    if let Some(text) = spec.service_account_selector.filter(|text| !text.is_empty()) {
        subject = subject.and(of_account(values::selector(text, "serviceAccountSelector", problems)));
    }
    subject.and(endpoints(spec.selector.unwrap_or_default(), "selector", problems))
}

/// A selector of endpoints, in which `global()` has no meaning.
fn endpoints(text: &str, member: &str, problems: &mut Problems) -> Selector {
    let selector = values::selector(text, member, problems);
    if selector.says_global() {
        problems.add(member, "global() is possible in a namespaceSelector only");
    }
    selector
}

/// A selector of namespaces as one of endpoints: `all()` are those in any, `global()` those in none.
fn of_namespace(selector: Selector) -> Selector {
    inherited(selector, OF_NAMESPACE, NAMESPACE)
}

/// A selector of service accounts as one of endpoints.
fn of_account(selector: Selector) -> Selector {
    inherited(selector, OF_SERVICE_ACCOUNT, SERVICE_ACCOUNT)
}

fn inherited(selector: Selector, prefix: &str, label: &str) -> Selector {
    match selector {
        Selector::All => Selector::Has(label.to_string()),
        Selector::Global => Selector::Not(Selector::Has(label.to_string()).into()),
        Selector::Not(operand) => Selector::Not(inherited(*operand, prefix, label).into()),
        Selector::And(operands) => {
            Selector::And(operands.into_iter().map(|operand| inherited(operand, prefix, label)).collect())
        }
        Selector::Or(operands) => {
            Selector::Or(operands.into_iter().map(|operand| inherited(operand, prefix, label)).collect())
        }
        simple => simple.with_prefix(prefix),
    }
}

/// Where a rule stands: direction, namespace of its policy, and what it may do.
type Place<'a> = (Direction, Option<&'a str>, &'static [(&'static str, Action)]);

fn rule(
    index: usize,
    rule: &Written,
    (direction, namespace, actions): Place<'_>,
    known: &Known,
    problems: &mut Problems,
) -> Rule {
    let action = values::action(&rule.action, actions, problems);
    if rule.http.is_some() {
        problems.add("http", "rules about HTTP cannot be enforced here");
    }
    let mut matches = Match {
        protocol: rule.protocol.as_ref().map(|p| values::protocol_number(p, "protocol", problems)),
        not_protocol: rule.not_protocol.as_ref().map(|p| values::protocol_number(p, "notProtocol", problems)),
        ..Match::default()
    };
    matches.ip_version = ip_version(rule, problems);
    matches.icmp = icmp(rule.icmp, "icmp", matches.protocol, problems);
    matches.not_icmp = icmp(rule.not_icmp, "notICMP", matches.protocol, problems);
    for (member, entity, is_peer) in [
        ("source", &rule.source, direction == Direction::Ingress),
        ("destination", &rule.destination, direction == Direction::Egress),
    ] {
        let Some(entity) = entity else { continue };
        let side = problems.within(member, |problems| {
            entity::side(entity, (member == "source", is_peer, namespace), matches.protocol, known, problems)
        });
        *(if member == "source" { &mut matches.source } else { &mut matches.destination }) = side;
    }
    Rule { action, matches, index, name: None }
}

/// The version that a rule says, or that its protocol's name implies.
fn ip_version(rule: &Written, problems: &mut Problems) -> Option<IpVersion> {
    let said = rule.ip_version.and_then(|version| match version {
        4 => Some(IpVersion::V4),
        6 => Some(IpVersion::V6),
        _ => {
            problems.add("ipVersion", "4 or 6 is expected");
            None
        }
    });
    let implied = match &rule.protocol {
        Some(NumberOrText::Text(name)) if name.eq_ignore_ascii_case("icmp") => Some(IpVersion::V4),
        Some(NumberOrText::Text(name)) if name.eq_ignore_ascii_case("icmpv6") => Some(IpVersion::V6),
        _ => None,
    };
    if let (Some(said), Some(implied)) = (said, implied)
        && said != implied
    {
        problems.add("ipVersion", "the protocol belongs to the other version");
    }
    said.or(implied)
}

fn icmp(icmp: Option<WrittenIcmp>, member: &str, of: Option<u8>, problems: &mut Problems) -> Option<Icmp> {
    let icmp = icmp?;
    if !matches!(of, Some(protocol::ICMP | protocol::ICMPV6)) {
        problems.add(member, "needs protocol: ICMP or ICMPv6");
    }
    problems.within(member, |problems| {
        let code = icmp.code.map(|code| values::byte(code, "code", problems));
        if icmp.kind.is_none() && code.is_some() {
            problems.add("code", "a code needs a type");
        }
        icmp.kind.map(|kind| Icmp { kind: values::byte(kind, "type", problems), code })
    })
}

/// A `Tier`.
pub fn tier(
    tier: &WrittenTier,
    tiers: &mut BTreeMap<String, (Order, DefaultAction)>,
    problems: &mut Problems,
) {
    let name = &tier.metadata.name;
    problems.within("spec", |problems| {
        let default_action = match tier.spec.default_action.as_deref() {
            None | Some("Deny") => DefaultAction::Deny,
            Some("Pass") => DefaultAction::Pass,
            Some(_) => {
                problems.add("defaultAction", "Deny or Pass is expected");
                DefaultAction::Deny
            }
        };
        let order = Order(tier.spec.order);
        if let Some((_, fixed, action)) = BUILTIN_TIERS.iter().find(|(builtin, ..)| builtin == name) {
            if tier.spec.order.is_some() && order != Order(Some(*fixed)) {
                problems.add("order", format!("the order of tier {name} is always {fixed}"));
            }
            if tier.spec.default_action.is_some() && default_action != *action {
                problems.add("defaultAction", format!("the default action of tier {name} cannot be changed"));
            }
            return;
        }
        let _ = tiers.insert(name.clone(), (order, default_action));
    });
}

/// A `Profile`.
pub fn profile(profile: &WrittenProfile, known: &Known, model: &mut Model, problems: &mut Problems) {
    let rules = |member: &str, list: Option<&[Written]>, direction, problems: &mut Problems| {
        problems.each(member, list.unwrap_or_default(), |problems, index, written| {
            rule(index, written, (direction, None, PROFILE_ACTIONS), known, problems)
        })
    };
    let compiled = problems.within("spec", |problems| Profile {
        ingress: rules("ingress", profile.spec.ingress.as_deref(), Direction::Ingress, problems),
        egress: rules("egress", profile.spec.egress.as_deref(), Direction::Egress, problems),
    });
    let _ = model.profiles.insert(profile.metadata.name.clone(), compiled.into());
}
