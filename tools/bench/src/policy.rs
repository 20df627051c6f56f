//! Workloads `policy-new`, `policy-established`, `policy-denied`, `policy-compile` and `policy-change`: the first packet of a flow against 10 to
//! 10,000 rules, those after it, and how long it takes to make the tables.
//!
//! `policy-new` is the classifier alone, for packets that each hit another rule at random, a tenth of them none; the same in a
//! router, and packets of established flows, are in `graph`. `policy-change` is how long one change of the same cluster takes, of
//! the model alone, and from a request to the API on (`objects`).

mod graph;
mod objects;
mod site;

use crate::routes::Random;
use anyhow::{Result, ensure};
use policy::classifier::{Classifier, Compiler};
use policy::model::{
    Action, DefaultAction, Direction, Endpoint, EndpointKind, Hook, Match, Model, Networks, Order, Packet,
    Policy, PolicyId, Ports, Rule, Set, Side, Tier, protocol,
};
use policy::reference::Stage;
use policy::{Labels, Selector};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const RULES: [usize; 4] = [10, 100, 1_000, 10_000];
const POLICIES: usize = 10_000;
const ENDPOINTS: usize = 1_000;
/// Packets that are gone through in each round.
const PACKETS: usize = 4_096;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its full name.
    pub name: String,
    /// Clocks of one decision in the best round; none where a change or a compilation is timed.
    pub clocks: Option<f64>,
    /// The same in the median round.
    pub clocks_median: Option<f64>,
    /// Milliseconds of a change or a compilation, the best of a few.
    pub milliseconds: Option<f64>,
}

impl Row {
    /// Of the clocks of one decision in each round.
    fn of_clocks(name: String, mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let (best, median) = (rounds.first().copied(), rounds.get(rounds.len() / 2).copied());
        Self { name, clocks: best, clocks_median: median, milliseconds: None }
    }

    fn of_time(name: String, best: Duration) -> Self {
        Self { name, clocks: None, clocks_median: None, milliseconds: Some(ms(best)) }
    }
}

/// Measures what its name says, in so many rounds where clocks are counted.
type Measure = Box<dyn Fn(String, usize) -> Result<Row>>;

fn all() -> Vec<(String, Measure)> {
    let mut all: Vec<(String, Measure)> = Vec::new();
    for rules in RULES {
        let measure = Box::new(move |name, rounds| decisions(name, rules, rounds));
        all.push((format!("policy-new/{rules}-rules"), measure));
    }
    all.push((format!("policy-compile/{POLICIES}-policies"), Box::new(|name, _| compilation(name))));
    for (name, change) in CHANGES {
        all.push((format!("policy-change/{name}"), Box::new(move |name, _| changes(name, change))));
    }
    for (name, workload) in objects::all() {
        let measure = Box::new(move |name, _| objects::measure(name, workload));
        all.push((format!("policy-change/{name}"), measure));
    }
    for (name, workload) in graph::all() {
        all.push((name, Box::new(move |name, rounds| graph::measure(name, workload, rounds))));
    }
    all
}

/// All names.
pub fn names() -> Vec<String> {
    all().into_iter().map(|(name, _)| name).collect()
}

/// Measures what is meant, and prints it.
///
/// # Errors
/// What is to be measured cannot be built, or did not do its work: nothing was compiled, packets were dropped.
pub fn run(meant: impl Fn(&str) -> bool, rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, measure) in all().into_iter().filter(|(name, _)| meant(name)) {
        let row = measure(name, rounds)?;
        let figure = match (row.clocks, row.clocks_median, row.milliseconds) {
            (Some(clocks), Some(median), _) => {
                format!("{clocks:6.1} clocks per packet (median {median:.1})")
            }
            (_, _, milliseconds) => {
                format!("{:6.2} ms for {ENDPOINTS} endpoints", milliseconds.unwrap_or_default())
            }
        };
        println!("{:<45} {figure}", row.name);
        rows.push(row);
    }
    Ok(rows)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The best of some times, the median and the longest.
fn spread(times: impl Iterator<Item = Duration>) -> [Duration; 3] {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    [0, times.len() / 2, times.len() - 1].map(|at| times[at])
}

fn compile(model: Model) -> Result<Classifier> {
    Ok(Classifier::new(Arc::new(model))?)
}

fn decisions(name: String, rules: usize, rounds: usize) -> Result<Row> {
    let classifier = compile(one_endpoint(rules))?;
    let mut random = Random(7);
    let packets: Vec<Packet> =
        (0..PACKETS).map(|_| packet(random.bits() as usize % (rules + rules / 9))).collect();
    let mut clocks = Vec::with_capacity(rounds);
    let mut allowed = 0_usize;
    for _ in 0..rounds + 4 {
        let start = buffer::clocks();
        for packet in &packets {
            let decision = classifier.decide(0, Direction::Ingress, Stage::Normal, packet);
            allowed += usize::from(decision.is_some_and(|decision| decision.allow));
        }
        clocks.push((buffer::clocks() - start) as f64 / PACKETS as f64);
    }
    ensure!(allowed > 0 && allowed < PACKETS * (rounds + 4), "{allowed} packets were allowed");
    Ok(Row::of_clocks(name, clocks))
}

fn compilation(name: String) -> Result<Row> {
    let model = many_endpoints();
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let model = model.clone();
        let start = Instant::now();
        let classifier = compile(model)?;
        best = best.min(start.elapsed());
        ensure!(classifier.programs() > 0, "nothing was made");
    }
    Ok(Row::of_time(name, best))
}

type Change = fn(&mut Model, usize);

/// Changes of the model of [`compilation`]: the number of the change makes it another one each time.
const CHANGES: [(&str, Change); 3] = [
    ("one-policy", |model, number| {
        if let Some(policy) =
            model.tiers.first_mut().and_then(|tier| tier.policies.get_mut(number * 37 % POLICIES))
        {
            let mut changed = policy.as_ref().clone();
            let port = 50_000 + (number % 10_000) as u16;
            for rule in changed.ingress.iter_mut().flatten() {
                rule.matches.destination.ports = vec![Ports::Range(port, port)];
            }
            *policy = Arc::new(changed);
        }
    }),
    ("one-endpoint", |model, number| {
        let at = number * 37 % ENDPOINTS;
        if let Some(place) = model.endpoints.get_mut(at) {
            *place = Arc::new(endpoint(at + ENDPOINTS * (number + 1)));
        }
    }),
    ("100-of-50000-members", |model, number| {
        if model.networks.is_empty() {
            let nets = (0..50_000).map(|net| member(net, 0)).collect();
            model.networks.push(Arc::new(Networks {
                name: "set".into(),
                node: false,
                labels: Labels::new(),
                nets,
            }));
        }
        if let Some(networks) = model.networks.first_mut() {
            let mut changed = networks.as_ref().clone();
            for (index, net) in changed.nets.iter_mut().enumerate().skip(number * 100 % 50_000).take(100) {
                *net = member(index, number);
            }
            *networks = Arc::new(changed);
        }
    }),
];

fn member(index: usize, generation: usize) -> ipnet::IpNet {
    ipnet::IpNet::from(IpAddr::from(Ipv4Addr::from_bits(
        (40 << 24) + ((generation as u32 % 8) << 17) + index as u32,
    )))
}

/// From the changed model to tables in force, the best of many changes.
fn changes(name: String, change: Change) -> Result<Row> {
    let mut compiler = Compiler::new()?;
    let mut model = many_endpoints();
    change(&mut model, 0);
    let _ = compiler.update(Arc::new(model.clone()))?;
    compiler.apply()?;
    let mut times = Vec::new();
    for number in 1..40 {
        change(&mut model, number);
        let next = Arc::new(model.clone());
        let start = Instant::now();
        let classifier = compiler.update(next)?;
        compiler.apply()?;
        times.push(start.elapsed());
        drop(classifier);
        compiler.retire(number as u64);
        compiler.reclaim(number as u64);
    }
    let [best, median, longest] = spread(times.into_iter());
    println!("{name}: median {:.2} ms, longest {:.2} ms", ms(median), ms(longest));
    Ok(Row::of_time(name, best))
}

/// The network and the port that rule `index` is about: every other rule is about any source.
fn place(index: usize) -> (Option<Ipv4Addr>, u16) {
    let number = index as u32;
    let net = Ipv4Addr::from_bits(20 << 24 | number << 8);
    (index.is_multiple_of(2).then_some(net), 1024 + (index % 50_000) as u16)
}

fn packet(index: usize) -> Packet {
    let (net, port) = place(index);
    let source = net.unwrap_or(Ipv4Addr::new(198, 51, 100, 7));
    Packet {
        source: IpAddr::from(Ipv4Addr::from_bits(source.to_bits() | 9)),
        destination: IpAddr::from([10, 0, 0, 1]),
        protocol: protocol::TCP,
        source_port: 49_152,
        destination_port: port,
        icmp: (0, 0),
    }
}

fn one_endpoint(rules: usize) -> Model {
    let rule = |index: usize| {
        let (net, port) = place(index);
        let nets = net.map(|net| format!("{net}/24").parse()).and_then(Result::ok).into_iter().collect();
        allow(Side { nets, ..Side::default() }, port)
    };
    let policies = (0..rules).map(|index| policy(index, Selector::All, rule(index))).collect();
    model(policies, Vec::from([endpoint(0)]))
}

/// Endpoints of a hundred applications in ten zones, with a label of their own each. A policy is about an application,
/// every other one in a single zone, and lets in another application on a port: 55 policies for each endpoint.
fn many_endpoints() -> Model {
    let equals = |key: &str, number: usize| Selector::Equals(key.into(), number.to_string());
    let one = |index: usize| {
        let app = equals("app", index / 2 % 100);
        let subject = if index.is_multiple_of(2) { app } else { app.and(equals("zone", index / 200 % 10)) };
        let source = Side { sets: vec![Set::Selected(equals("app", index * 7 % 100))], ..Side::default() };
        policy(index, subject, allow(source, 1024 + (index % 50_000) as u16))
    };
    model((0..POLICIES).map(one).collect(), (0..ENDPOINTS).map(endpoint).collect())
}

fn endpoint(index: usize) -> Endpoint {
    let label = |key: &str, number: usize| (key.to_string(), number.to_string());
    let labels =
        Labels::from([label("app", index % 100), label("zone", index / 100 % 10), label("name", index)]);
    let addresses = vec![IpAddr::from(Ipv4Addr::from_bits((10 << 24) + 1 + index as u32))];
    Endpoint { labels, addresses, ..Endpoint::new(EndpointKind::Workload, format!("bench/{index}")) }
}

fn allow(source: Side, port: u16) -> Rule {
    let destination = Side { ports: vec![Ports::Range(port, port)], ..Side::default() };
    let matches = Match { protocol: Some(protocol::TCP), source, destination, ..Match::default() };
    Rule { action: Action::Allow, matches, index: 0, name: None }
}

fn policy(index: usize, subject: Selector, rule: Rule) -> Policy {
    Policy {
        id: PolicyId { name: format!("policy-{index}"), namespace: None, kind: "GlobalNetworkPolicy" },
        order: Order(None),
        standing: policy::model::Standing::Enforced,
        subject,
        hook: Hook::Normal,
        ingress: Some(vec![rule]),
        egress: None,
    }
}

fn model(policies: Vec<Policy>, endpoints: Vec<Endpoint>) -> Model {
    let policies = policies.into_iter().map(Arc::new).collect();
    let endpoints = endpoints.into_iter().map(Arc::new).collect();
    let tier =
        Tier { name: "default".into(), order: Order(None), default_action: DefaultAction::Deny, policies };
    Model { tiers: vec![tier], endpoints, ..Model::default() }
}
