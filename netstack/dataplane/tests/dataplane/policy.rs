//! Policy on packets through a whole worker: new flows are judged, answers belong to them, and a change of policy stops what is
//! no longer allowed.

use crate::common::*;
use crate::pair::Pair;
use balancer::FlowTallies;
use dataplane::{DropReason, End, FlowEventKind, Flows, InterfaceId, Policy, Shared, Traffic};
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4};
use flow::{Config, Timeouts};
use policy::classifier::{Compiler, CounterId};
use policy::model::{
    Action, DefaultAction, Endpoint, EndpointKind, Hook, Match, Model, Order, PolicyId, Ports, Rule, Set,
    Side, Tier, protocol,
};
use policy::{Labels, Selector};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

const CLIENT: [u8; 4] = [10, 0, 0, 5];
const OTHER: [u8; 4] = [10, 0, 0, 6];
const SERVER: [u8; 4] = [10, 1, 0, 7];

/// Different numbers that verdicts are kept with.
const GENERATIONS: u32 = 4095;

/// The IPv6 address of who has this IPv4 address.
fn address6([_, network, _, host]: [u8; 4]) -> Ipv6Addr {
    let network = if network == 0 { 0 } else { 0x1001 };
    Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host.into())
}

fn endpoint(name: &str, address: [u8; 4]) -> Endpoint {
    Endpoint {
        labels: Labels::from([("name".to_string(), name.to_string())]),
        addresses: vec![address.into(), address6(address).into()],
        profiles: vec!["open".into()],
        ..Endpoint::new(EndpointKind::Workload, name.into())
    }
}

fn host(interface: &str) -> Endpoint {
    Endpoint {
        interface: Some(interface.into()),
        labels: Labels::from([("host".to_string(), "yes".to_string())]),
        profiles: vec!["open".into()],
        ..Endpoint::new(EndpointKind::Host, "host".into())
    }
}

fn named(name: &str) -> Selector {
    Selector::Equals("name".into(), name.into())
}

fn rule(action: Action, port: Option<u16>, source: Option<Selector>) -> Rule {
    let destination =
        Side { ports: port.map(|port| Ports::Range(port, port)).into_iter().collect(), ..Side::default() };
    let source = Side { sets: source.map(Set::Selected).into_iter().collect(), ..Side::default() };
    let protocol = port.map(|_| protocol::TCP);
    let matches = Match { protocol, source, destination, ..Match::default() };
    Rule { action, matches, index: 0, name: None }
}

fn policy(subject: Selector, hook: Hook, rules: Vec<Rule>) -> policy::model::Policy {
    policy::model::Policy {
        id: PolicyId { name: "shop".into(), namespace: None, kind: "GlobalNetworkPolicy" },
        order: Order(None),
        standing: policy::model::Standing::Enforced,
        subject,
        hook,
        ingress: Some(rules),
        egress: None,
    }
}

/// Policies over a client, another one and a server; profiles allow.
fn model(policies: Vec<policy::model::Policy>, hosts: Vec<Endpoint>) -> Arc<Model> {
    let allow = || vec![rule(Action::Allow, None, None)];
    let open = policy::model::Profile { ingress: allow(), egress: allow() };
    let endpoints = [endpoint("client", CLIENT), endpoint("other", OTHER), endpoint("server", SERVER)];
    Arc::new(Model {
        tiers: vec![Tier {
            name: "default".into(),
            order: Order(None),
            default_action: DefaultAction::Deny,
            policies: policies.into_iter().map(Arc::new).collect(),
        }],
        profiles: [("open".to_string(), Arc::new(open))].into(),
        endpoints: endpoints.into_iter().chain(hosts).map(Arc::new).collect(),
        networks: Vec::new(),
    })
}

fn publish(shared: &Shared, compiler: &mut Compiler, model: Arc<Model>) {
    let classifier = compiler.update(model).expect("a small model");
    compiler.apply().expect("a small model");
    let names = ["eth0", "eth1"].into_iter().zip(0..);
    let hosts: Vec<_> = names
        .filter_map(|(name, number)| Some((InterfaceId(number), classifier.host("node", name, &[])?)))
        .collect();
    let _ = shared.publish_policy(Some(Policy::new(classifier, hosts)));
}

fn testbed(model: Arc<Model>) -> (Testbed, Compiler) {
    let bed = Testbed::new();
    give_flows(&bed.shared, 1000);
    let mut compiler = Compiler::new().expect("nothing is small");
    publish(&bed.shared, &mut compiler, model);
    (bed, compiler)
}

/// A TCP segment that says something.
fn hello(port: usize, from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    tcp(port, from, to, flags, b"hello")
}

fn only_to_80(source: &str) -> Vec<policy::model::Policy> {
    vec![policy(named("server"), Hook::Normal, vec![rule(Action::Allow, Some(80), Some(named(source)))])]
}

#[test]
fn a_flow_that_a_rule_allows_goes_there_and_back_and_others_do_not() {
    let (mut bed, compiler) = testbed(model(only_to_80("client"), Vec::new()));
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 80), 2));
    let _ = bed.only_sent(1);
    bed.send(1, &hello(1, (SERVER, 80), (CLIENT, 4000), 18));
    let _ = bed.only_sent(0);
    for (from, port) in [(CLIENT, 81), (OTHER, 80)] {
        bed.send(0, &hello(0, (from, 4000), (SERVER, port), 2));
        bed.assert_nothing_sent();
    }
    assert_eq!(bed.drops(), [(DropReason::PolicyDenied, 2)]);
    // Nothing is kept of what is denied.
    assert_eq!(bed.shared.flow_counters(0).ipv4.live, 1);
    let source = compiler.sources().find(|source| source.what.policy().is_some()).expect("the policy");
    let hits: Vec<u64> = source.counters().map(|(_, id)| bed.shared.rule_counters(id).hits).collect();
    assert_eq!(hits, [1, 2, 0]);
    bed.assert_balanced();
}

#[test]
fn an_established_flow_stops_when_policy_forbids_it_and_another_goes_on() {
    let (mut bed, mut compiler) = testbed(model(Vec::new(), Vec::new()));
    for from in [CLIENT, OTHER] {
        bed.send(0, &hello(0, (from, 4000), (SERVER, 80), 2));
        let _ = bed.only_sent(1);
        bed.send(1, &hello(1, (SERVER, 80), (from, 4000), 18));
        let _ = bed.only_sent(0);
        bed.send(0, &hello(0, (from, 4000), (SERVER, 80), 16));
        let _ = bed.only_sent(1);
    }
    publish(&bed.shared, &mut compiler, model(only_to_80("other"), Vec::new()));
    // It may be the server whose packet comes first.
    bed.send(1, &hello(1, (SERVER, 80), (CLIENT, 4000), 16));
    bed.assert_nothing_sent();
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 80), 16));
    bed.assert_nothing_sent();
    bed.send(1, &hello(1, (SERVER, 80), (OTHER, 4000), 16));
    let _ = bed.only_sent(0);
    bed.send(0, &hello(0, (OTHER, 4000), (SERVER, 80), 16));
    let _ = bed.only_sent(1);
    assert_eq!(bed.drops(), [(DropReason::PolicyDenied, 2)]);
    bed.assert_balanced();
}

#[test]
fn while_addresses_move_packets_are_judged_by_the_policy_before_or_the_one_after() {
    let (mut bed, mut compiler) = testbed(model(Vec::new(), Vec::new()));
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 80), 2));
    let _ = bed.only_sent(1);
    // The address of the server comes into a set that it was not in, so that it moves.
    let mut after = Model::clone(&model(only_to_80("other"), Vec::new()));
    after.endpoints = [endpoint("client", CLIENT), endpoint("other", OTHER), endpoint("server", SERVER)]
        .map(|mut endpoint| {
            let _ = endpoint.labels.insert("moved".into(), "yes".into());
            Arc::new(endpoint)
        })
        .into();
    let classifier = compiler.update(Arc::new(after)).expect("a small model");
    assert!(compiler.has_to_enter());
    let waiting = bed.shared.policy().as_ref().as_ref().map(|policy| policy.awaiting(&compiler));
    let _ = bed.shared.publish_same_policy(waiting);
    let mut port = 4000;
    let mut flows = |bed: &mut Testbed, passes: bool| {
        // A known flow, and a new one.
        port += 1;
        bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 80), 16));
        bed.send(0, &hello(0, (CLIENT, port), (SERVER, 80), 2));
        assert_eq!(bed.sent(1).len(), if passes { 2 } else { 0 });
    };
    flows(&mut bed, true);
    while compiler.has_to_enter() {
        compiler.enter_part(1).expect("a small model");
        flows(&mut bed, true);
    }
    let _ = bed.shared.publish_policy(Some(Policy::new(classifier, [])));
    flows(&mut bed, false);
    while compiler.has_pending() {
        compiler.apply_part(1).expect("a small model");
        flows(&mut bed, false);
    }
    bed.assert_balanced();
}

#[test]
fn a_worker_that_slept_through_thousands_of_changes_believes_no_verdict_of_before() {
    let (mut bed, mut compiler) = testbed(model(Vec::new(), Vec::new()));
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 80), 2));
    let _ = bed.only_sent(1);
    publish(&bed.shared, &mut compiler, model(only_to_80("other"), Vec::new()));
    // Until the number that the flow's verdict is kept with is that of the newest policy again.
    for _ in 1..GENERATIONS {
        let _ = bed.shared.judge_again();
    }
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 80), 16));
    bed.assert_nothing_sent();
    assert_eq!(bed.drops(), [(DropReason::PolicyDenied, 1)]);
    bed.assert_balanced();
}

#[test]
fn errors_about_a_flow_pass_and_others_do_not() {
    let (mut bed, _compiler) = testbed(model(only_to_80("client"), Vec::new()));
    let there = hello(0, (CLIENT, 4000), (SERVER, 80), 2);
    bed.send(0, &there);
    let _ = bed.only_sent(1);
    let error_about = |frame: &[u8], to: [u8; 4], port: usize| {
        let (host, mac) = [(HOST0, MAC0), (HOST1, MAC1)][port];
        let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
        let builder = PacketBuilder::ethernet2(host, mac).ipv4([10, 0, 0, 77], to, 60);
        let mut error = Vec::new();
        let builder = builder.icmpv4(Icmpv4Type::DestinationUnreachable(kind));
        builder.write(&mut error, &frame[14..42]).expect("a vector takes all");
        error
    };
    // About the server's answers: it belongs to the flow.
    bed.send(0, &error_about(&hello(1, (SERVER, 80), (CLIENT, 4000), 16), SERVER, 0));
    let _ = bed.only_sent(1);
    // About what was never sent: to the server nothing but port 80 passes.
    bed.send(0, &error_about(&hello(1, (SERVER, 80), (CLIENT, 4999), 16), SERVER, 0));
    bed.assert_nothing_sent();
    assert_eq!(bed.drops(), [(DropReason::PolicyDenied, 1)]);
}

/// A fragment to a port of the server, which of all but the first one only the first one says.
fn fragment((from, port): ([u8; 4], u16), offset: u16, more: bool) -> Vec<u8> {
    let mut frame = hello(0, (from, 4000), (SERVER, port), 2);
    let field = offset | if more { 0x2000 } else { 0 };
    frame[18..20].copy_from_slice(&port.to_be_bytes());
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    if offset > 0 {
        frame[34..38].fill(0);
    }
    fix_ipv4_checksum(&mut frame);
    frame
}

#[test]
fn fragments_without_a_flow_are_judged_by_the_ports_of_the_first_one() {
    let rules = vec![rule(Action::Allow, Some(81), None), rule(Action::Deny, Some(82), None)];
    let untracked = policy(Selector::Has("host".into()), Hook::Untracked, rules);
    let (mut bed, _compiler) = testbed(model(vec![untracked], vec![host("eth0")]));
    let (first, later) = ((0, true), (3, false));
    for order in [[first, later], [later, first]] {
        for (port, passes) in [(81, 2), (82, 0)] {
            for (offset, more) in order {
                bed.send(0, &fragment((CLIENT, port), offset, more));
            }
            assert_eq!(bed.sent(1).len(), passes, "{order:?} to {port}");
            // The same identification is not meant to be known from the order before.
            bed.now_ns += 6_000_000_000;
        }
    }
    assert_eq!(bed.drops(), [(DropReason::PolicyDenied, 4)]);
    bed.assert_balanced();
}

#[test]
fn fragments_follow_the_first_one_and_unreadable_packets_do_not_pass() {
    let (mut bed, _compiler) = testbed(model(only_to_80("client"), Vec::new()));
    let fragment = |from, offset, more| fragment((from, 80), offset, more);
    let (first, later) = ((0, true), (3, false));
    for order in [[first, later], [later, first]] {
        for (from, passes) in [(CLIENT, 2), (OTHER, 0)] {
            for (offset, more) in order {
                bed.send(0, &fragment(from, offset, more));
            }
            assert_eq!(bed.sent(1).len(), passes, "{order:?}");
            // The same identification is not meant to be known from the order before.
            bed.now_ns += 6_000_000_000;
        }
    }
    // A TCP header of eight bytes: nobody could tell what it is.
    let mut tiny = fragment(CLIENT, 0, true);
    tiny.truncate(14 + 28);
    tiny[16..18].copy_from_slice(&28_u16.to_be_bytes());
    fix_ipv4_checksum(&mut tiny);
    bed.send(0, &tiny);
    bed.assert_nothing_sent();
    assert_eq!(bed.drops(), [(DropReason::PolicyDenied, 5)]);
}

#[test]
fn staged_policies_are_counted_and_log_rules_are_told() {
    let mut staged = only_to_80("other").remove(0);
    staged.standing = policy::model::Standing::Staged;
    let mut logging = policy(
        named("server"),
        Hook::Normal,
        vec![rule(Action::Log, None, None), rule(Action::Allow, None, None)],
    );
    logging.id.name = "talk".into();
    let (mut bed, compiler) = testbed(model(vec![staged, logging], Vec::new()));
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 81), 2));
    let _ = bed.only_sent(1);
    let event = bed.shared.next_flow_event().expect("the rule logs");
    assert_eq!((event.kind, event.staged_denies), (FlowEventKind::Logged, false));
    assert_eq!((event.asked.source().ip(), event.sent.ports().1), (IpAddr::from(CLIENT), 81));
    let (source, _) = compiler.source(event.by).expect("a rule in force");
    assert_eq!(source.what.policy().map(|(_, id)| id.name.as_str()), Some("talk"));
    assert_eq!(bed.shared.rule_counters(event.by).logs, 1);
    // Nobody follows flows, so that is all.
    assert!(bed.shared.next_flow_event().is_none());
    bed.shared.follow_flows(true);
    bed.send(0, &hello(0, (CLIENT, 4001), (SERVER, 81), 2));
    let _ = bed.only_sent(1);
    let kinds: Vec<_> = std::iter::from_fn(|| bed.shared.next_flow_event()).map(|event| event.kind).collect();
    assert_eq!(kinds, [FlowEventKind::Logged, FlowEventKind::Allowed]);
}

#[test]
fn host_endpoints_are_about_their_interface() {
    let is_host = || Selector::Has("host".into());
    let forward = |action| policy(is_host(), Hook::Forward, vec![rule(action, Some(80), None)]);
    let (mut bed, mut compiler) = testbed(model(vec![forward(Action::Allow)], vec![host("eth0")]));
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 80), 2));
    let _ = bed.only_sent(1);
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 81), 2));
    bed.assert_nothing_sent();
    // By the other interface nothing is asked.
    bed.send(1, &hello(1, (SERVER, 4000), (OTHER, 81), 2));
    let _ = bed.only_sent(0);
    // To the node itself SSH is a failsafe port, and goes to control.
    bed.send(0, &hello(0, (CLIENT, 4000), ([10, 0, 0, 1], 22), 2));
    bed.send(0, &hello(0, (CLIENT, 4000), ([10, 0, 0, 1], 23), 2));
    assert_eq!(bed.drops(), [(DropReason::PolicyDenied, 2)]);
    // Without a flow, if policy says so.
    let untracked = policy(
        is_host(),
        Hook::Untracked,
        vec![rule(Action::Allow, Some(81), None), rule(Action::Deny, Some(82), None)],
    );
    publish(&bed.shared, &mut compiler, model(vec![forward(Action::Allow), untracked], vec![host("*")]));
    let live = bed.shared.flow_counters(0).ipv4.live;
    bed.send(0, &hello(0, (CLIENT, 4009), (SERVER, 81), 2));
    let _ = bed.only_sent(1);
    bed.send(0, &hello(0, (CLIENT, 4009), (SERVER, 82), 2));
    bed.assert_nothing_sent();
    assert_eq!(bed.shared.flow_counters(0).ipv4.live, live);
    assert_eq!(bed.shared.rule_counters(CounterId::FAILSAFE).hits, 1);
}

#[test]
fn flows_are_told_when_they_begin_are_denied_and_end_with_what_they_carried() {
    let (mut bed, mut compiler) = testbed(model(only_to_80("client"), Vec::new()));
    bed.shared.follow_flows(true);
    let config = Config { capacity: 1000, secret: [3, 4], timeouts: Timeouts::default() };
    let tallies = FlowTallies::new((&config, &config)).expect("memory for a small table");
    let _ = bed.shared.give_tallies(0, tallies);
    let (there, back) =
        (hello(0, (CLIENT, 4000), (SERVER, 80), 16), hello(1, (SERVER, 80), (CLIENT, 4000), 16));
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 80), 2));
    for _ in 0..3 {
        bed.send(1, &back);
    }
    for _ in 0..66 {
        bed.send(0, &there);
    }
    bed.send(0, &hello(0, (OTHER, 4000), (SERVER, 80), 2));
    let events = |bed: &Testbed| std::iter::from_fn(|| bed.shared.next_flow_event()).collect::<Vec<_>>();
    let [begun, denied] = events(&bed)[..] else { panic!("two events") };
    let ip_bytes = there.len() as u64 - 14;
    assert_eq!((begun.kind, begun.asks), (FlowEventKind::Allowed, Traffic { packets: 1, bytes: ip_bytes }));
    assert_eq!((denied.kind, denied.asked.source().ip()), (FlowEventKind::Denied, IpAddr::from(OTHER)));
    let reason = |compiler: &Compiler, by| {
        let (source, part) = compiler.source(by).expect("a rule in force");
        source.reason(part).expect("in words").to_string()
    };
    assert_eq!(reason(&compiler, begun.by), "GlobalNetworkPolicy shop, ingress rule 1, tier default");
    assert!(reason(&compiler, denied.by).starts_with("no rule matches at the end of tier default"));
    // Policy changes and still allows it: that is nothing new.
    publish(&bed.shared, &mut compiler, model(only_to_80("client"), Vec::new()));
    bed.send(0, &there);
    assert!(events(&bed).is_empty());
    publish(&bed.shared, &mut compiler, model(only_to_80("other"), Vec::new()));
    bed.send(0, &there);
    let [denied, ended] = events(&bed)[..] else { panic!("two events") };
    assert_eq!((denied.kind, ended.kind), (FlowEventKind::Denied, FlowEventKind::Ended(End::Forced)));
    assert_eq!(ended.asks, Traffic { packets: 68, bytes: 68 * ip_bytes });
    assert_eq!(ended.answers, Traffic { packets: 3, bytes: 3 * ip_bytes });
    assert_eq!((ended.asked, ended.sent), (begun.asked, begun.asked));
    // Afterwards nobody wants to know.
    bed.shared.follow_flows(false);
    let _ = bed.shared.give_tallies(0, FlowTallies::default());
    bed.send(0, &there);
    assert!(events(&bed).is_empty());
    assert_eq!(bed.shared.lost_flow_events(), 0);
}

#[test]
fn a_flood_of_denied_packets_leaves_room_for_the_ends_of_flows_and_its_loss_is_counted() {
    let (mut bed, mut compiler) = testbed(model(only_to_80("client"), Vec::new()));
    bed.shared.follow_flows(true);
    let config = Config { capacity: 1000, secret: [3, 4], timeouts: Timeouts::default() };
    let tallies = FlowTallies::new((&config, &config)).expect("memory for a small table");
    let _ = bed.shared.give_tallies(0, tallies);
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 80), 2));
    bed.send(1, &hello(1, (SERVER, 80), (CLIENT, 4000), 18));
    for port in 0..3000 {
        bed.send(0, &hello(0, (OTHER, 4000), (SERVER, 1000 + port), 2));
    }
    let _ = bed.sent(0);
    let lost = bed.shared.lost_flow_events();
    publish(&bed.shared, &mut compiler, model(only_to_80("other"), Vec::new()));
    bed.send(0, &hello(0, (CLIENT, 4000), (SERVER, 80), 16));
    let events: Vec<_> = std::iter::from_fn(|| bed.shared.next_flow_event()).collect();
    assert_eq!(events.len() as u64 - 1 + lost, 3001);
    assert!(lost > 1000, "{lost} of 3001 lost");
    assert_eq!(events.last().map(|event| event.kind), Some(FlowEventKind::Ended(End::Forced)));
}

/// A segment of the flow from the client's port 4000 to the server's port 80, or (from port 1) back: sequence number,
/// acknowledgment and a window of 1,000, with five bytes of data if it has the flag PSH.
fn segment(port: usize, is_ipv6: bool, flags: u8, (sequence, acknowledgment): (u32, u32)) -> Vec<u8> {
    let (host, mac) = [(HOST0, MAC0), (HOST1, MAC1)][port];
    let (from, to) = if port == 0 { ((CLIENT, 4000), (SERVER, 80)) } else { ((SERVER, 80), (CLIENT, 4000)) };
    let builder = PacketBuilder::ethernet2(host, mac);
    let builder = match is_ipv6 {
        true => builder.ipv6(address6(from.0).octets(), address6(to.0).octets(), 60),
        false => builder.ipv4(from.0, to.0, 60),
    };
    let mut builder = builder.tcp(from.1, to.1, sequence, 1000);
    builder = if flags & 2 != 0 { builder.syn() } else { builder };
    builder = if flags & 4 != 0 { builder.rst() } else { builder };
    builder = if flags & 16 != 0 { builder.ack(acknowledgment) } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, if flags & 8 != 0 { b"hello" } else { b"" }).expect("a vector takes all");
    frame
}

#[test]
fn strict_windows_drop_what_they_have_no_place_for_and_liberal_ones_do_not() {
    for (is_ipv6, is_strict) in [(false, true), (true, true), (false, false)] {
        let (mut bed, _) = testbed(model(only_to_80("client"), Vec::new()));
        if is_strict {
            give_strict_flows(&mut bed);
        }
        let passes = |bed: &mut Testbed, port: usize, flags: u8, numbers: (u32, u32)| {
            bed.send(port, &segment(port, is_ipv6, flags, numbers));
            bed.sent(1 - port).len() == 1
        };
        for (port, flags, numbers) in [
            (0, 2, (99, 0)),
            (1, 18, (499, 100)),
            (0, 24, (100, 500)),
            (1, 24, (500, 105)),
            (0, 24, (105, 505)),
        ] {
            assert!(passes(&mut bed, port, flags, numbers), "{port} {flags}");
        }
        for (port, flags, numbers) in
            [(0, 24, (5000, 505)), (1, 24, (505, 5000)), (0, 4, (50_000, 0)), (1, 4, (1_000_000, 0))]
        {
            assert_eq!(passes(&mut bed, port, flags, numbers), !is_strict, "{port} {flags} {numbers:?}");
        }
        assert!(passes(&mut bed, 1, 24, (505, 110)) && passes(&mut bed, 0, 20, (110, 510)));
        let drops = bed.drops();
        assert_eq!(drops, if is_strict { vec![(DropReason::TcpOutOfWindow, 4)] } else { Vec::new() });
        bed.assert_balanced();
    }
}

#[test]
fn a_worker_that_takes_a_flow_up_in_the_middle_checks_it_as_soon_as_it_has_heard_both_ends() {
    let (mut bed, _) = testbed(model(only_to_80("client"), Vec::new()));
    give_strict_flows(&mut bed);
    let passes = |bed: &mut Testbed, port: usize, flags: u8, numbers: (u32, u32)| {
        bed.send(port, &segment(port, false, flags, numbers));
        bed.sent(1 - port).len() == 1
    };
    for (port, numbers) in [(0, (100, 500)), (1, (500, 105)), (0, (105, 505))] {
        assert!(passes(&mut bed, port, 24, numbers));
    }
    // A window of 1,000 may be one of 1,000 << 14.
    assert!(passes(&mut bed, 0, 24, (1_000_000, 505)));
    assert!(!passes(&mut bed, 0, 24, (100_000_000, 505)) && !passes(&mut bed, 1, 4, (100_000_000, 0)));
    assert!(passes(&mut bed, 1, 24, (505, 110)));
    assert_eq!(bed.drops(), [(DropReason::TcpOutOfWindow, 2)]);
}

/// Gives the worker tables with windows in place of those that it has.
fn give_strict_flows(bed: &mut Testbed) {
    let config = Config { capacity: 1000, secret: [3, 4], timeouts: Timeouts::default() };
    let mut flows = Flows::new(&config, &config, 0, 1).expect("memory for a table");
    flows.follow_windows().expect("memory for windows");
    let _ = bed.shared.give_flows(0, flows);
}

/// [`hello`] over IPv6.
fn hello6(port: usize, from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let (host, mac) = [(HOST0, MAC0), (HOST1, MAC1)][port];
    let (source, destination) = (address6(from.0).octets(), address6(to.0).octets());
    let mut builder =
        PacketBuilder::ethernet2(host, mac).ipv6(source, destination, 60).tcp(from.1, to.1, 1, 100);
    if flags & 2 != 0 {
        builder = builder.syn();
    }
    if flags & 16 != 0 {
        builder = builder.ack(9);
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, b"hello").expect("a vector takes all");
    frame
}

#[test]
fn ipv6_is_judged_as_ipv4_is() {
    let (mut bed, mut compiler) = testbed(model(only_to_80("client"), Vec::new()));
    bed.send(0, &hello6(0, (CLIENT, 4000), (SERVER, 80), 2));
    let _ = bed.only_sent(1);
    bed.send(1, &hello6(1, (SERVER, 80), (CLIENT, 4000), 18));
    let _ = bed.only_sent(0);
    for (from, port) in [(CLIENT, 81), (OTHER, 80)] {
        bed.send(0, &hello6(0, (from, 4000), (SERVER, port), 2));
        bed.assert_nothing_sent();
    }
    // An error about the flow belongs to it, and one about another does not.
    let error_about = |answer: &[u8]| {
        let source = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 77).octets();
        let builder = to_router().ipv6(source, address6(SERVER).octets(), 60);
        let builder = builder.icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 });
        let mut error = Vec::new();
        builder.write(&mut error, &answer[14..]).expect("a vector takes all");
        error
    };
    bed.send(0, &error_about(&hello6(1, (SERVER, 80), (CLIENT, 4000), 16)));
    let _ = bed.only_sent(1);
    bed.send(0, &error_about(&hello6(1, (SERVER, 80), (CLIENT, 4999), 16)));
    bed.assert_nothing_sent();
    publish(&bed.shared, &mut compiler, model(only_to_80("other"), Vec::new()));
    bed.send(1, &hello6(1, (SERVER, 80), (CLIENT, 4000), 16));
    bed.assert_nothing_sent();
    assert_eq!(bed.drops(), [(DropReason::PolicyDenied, 4)]);
    assert_eq!(bed.shared.flow_counters(0).ipv6.live, 0);
    bed.assert_balanced();
}

#[test]
fn both_directions_of_a_flow_get_one_verdict_whichever_of_two_workers_has_the_port() {
    let mut pair = Pair::new(1500);
    let shared = pair.shared.clone();
    give_flows(&shared, 1000);
    let mut compiler = Compiler::new().expect("nothing is small");
    publish(&shared, &mut compiler, model(only_to_80("client"), Vec::new()));
    let mut passes = |port: usize, frame: &[u8]| {
        pair.send(port, frame);
        assert!(pair.sent(port).is_empty());
        pair.sent(1 - port).len() == 1
    };
    for port in 4000..4067 {
        assert!(passes(0, &hello(0, (CLIENT, port), (SERVER, 80), 2)));
        assert!(passes(1, &hello(1, (SERVER, 80), (CLIENT, port), 18)));
        assert!(!passes(0, &hello(0, (OTHER, port), (SERVER, 80), 2)));
    }
    let live = [0, 1].map(|worker| shared.flow_counters(worker).ipv4.live);
    assert!(live.iter().sum::<usize>() == 67 && live.iter().all(|live| *live > 10), "{live:?}");
    let hits = |compiler: &Compiler| -> Vec<u64> {
        let source = compiler.sources().find(|source| source.what.policy().is_some()).expect("the policy");
        source.counters().map(|(_, id)| shared.rule_counters(id).hits).collect()
    };
    assert_eq!(hits(&compiler), [67, 67, 0]);
    publish(&shared, &mut compiler, model(only_to_80("other"), Vec::new()));
    for port in 4000..4067 {
        assert!(!passes(
            usize::from(port % 2),
            &match port % 2 {
                0 => hello(0, (CLIENT, port), (SERVER, 80), 16),
                _ => hello(1, (SERVER, 80), (CLIENT, port), 16),
            }
        ));
    }
    assert_eq!([0, 1].map(|worker| shared.flow_counters(worker).ipv4.live), [0, 0]);
}
