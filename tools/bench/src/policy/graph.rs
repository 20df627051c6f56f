//! Workloads `policy-established`, `policy-new/*-in-graph`, `policy-syn-flood` and `policy-denied`: policy as packets meet it, in a router of two ports.
//!
//! Every packet is to one endpoint, whose rules each allow a source or a port. Of established flows each packet belongs to another
//! one, in turn; both directions have been seen before the first round. Of new flows each packet is the first of one, and
//! nobody ever answers: in a flood the table is full of unproven flows, of which the oldest gives way each time; else there is
//! room. What is denied goes to a port that no rule allows. Where flows are watched, what they carry is counted, and each event
//! of theirs is taken in time.

use super::{Row, compile, one_endpoint, place};
use crate::measure::{Clock, drops};
use crate::port::{Feed, Source};
use crate::rig::{IN, OPENING_NS, OUT, POLL_NS, outlive_unproven, tables};
use anyhow::{Context, Result, bail, ensure};
use balancer::FlowTallies;
use buffer::{BufferCache, BufferPool, PortQueue, VECTOR_SIZE, Vector, clocks};
use dataplane::{DropReason, Flows, Policy, Shared, Sleepless, Worker};
use fib::{Fib4Writer, Fib6Writer, Prefix};
use flow::{Config, Timeouts};
use packet::ethernet::{ETHERTYPE_IPV4, Ethernet};
use packet::ipv4::Ipv4;
use packet::protocol;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use zerocopy::IntoBytes;
use zerocopy::network_endian::U16;

/// The endpoint that all rules are about.
const ENDPOINT: Ipv4Addr = Ipv4Addr::new(64, 0, 0, 1);
const ROUTER: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x10], [2, 0, 0, 0, 0, 0x11]];
const HOST: [u8; 6] = [2, 0, 0, 0, 1, 0];
const ROUND_PACKETS: usize = 1 << 14;
const WARM_UP_ROUNDS: usize = 4;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// What is measured.
#[derive(Clone, Copy)]
pub(super) struct Workload {
    /// Established flows; none if each packet begins one.
    flows: Option<usize>,
    rules: usize,
    /// TCP's windows are checked.
    is_strict: bool,
    /// Somebody watches flows.
    watched: bool,
    /// No rule allows the packets.
    denied: bool,
    /// The table is as full of unproven flows as it gets.
    flood: bool,
}

/// Entries of a table where flows begin.
const CAPACITY: usize = 1 << 20;

pub(super) fn all() -> Vec<(String, Workload)> {
    let of = |flows, rules| Workload {
        flows,
        rules,
        is_strict: false,
        watched: false,
        denied: false,
        flood: false,
    };
    let counts = [(1_000, [10, 10_000]), (100_000, [10, 10_000]), (1_000_000, [10, 10_000])];
    let established = counts.into_iter().flat_map(|(flows, rules)| {
        let name = move |rules| format!("policy-established/{flows}-flows-{rules}-rules");
        rules.map(|rules| (name(rules), of(Some(flows), rules)))
    });
    let new =
        [10, 1_000, 10_000].map(|rules| (format!("policy-new/{rules}-rules-in-graph"), of(None, rules)));
    let strict = counts.map(|(flows, _)| {
        let name = format!("policy-established/{flows}-flows-strict-windows");
        (name, Workload { is_strict: true, ..of(Some(flows), 10) })
    });
    let watched = [1_000, 100_000].map(|flows| {
        let name = format!("policy-established/{flows}-flows-10-rules-watched");
        (name, Workload { watched: true, ..of(Some(flows), 10) })
    });
    let others = [
        ("policy-syn-flood/10-rules", Workload { flood: true, ..of(None, 10) }),
        ("policy-syn-flood/10-rules-watched", Workload { flood: true, watched: true, ..of(None, 10) }),
        ("policy-denied/10-rules", Workload { denied: true, ..of(None, 10) }),
    ];
    let others = others.map(|(name, workload)| (name.to_string(), workload));
    established.chain(strict).chain(new).chain(watched).chain(others).collect()
}

/// No port.
const NOWHERE: usize = 2;

/// What both ports do at present.
#[derive(Default)]
struct Stage {
    /// The port that packets come in by, or [`NOWHERE`].
    port: AtomicUsize,
    /// TCP flags.
    flags: AtomicUsize,
    next: AtomicUsize,
}

/// One port, on which packets of all flows come in, or answers of all flows.
struct Traffic {
    port: usize,
    /// After which the first flow comes again.
    flows: usize,
    workload: Workload,
    stage: Arc<Stage>,
    shared: Arc<Shared>,
}

/// The port that no rule allows.
const NO_SERVICE: u16 = 7;

impl Traffic {
    fn frame(&self, number: usize) -> [u8; 60] {
        let index = number % self.flows;
        let Workload { rules, denied, .. } = self.workload;
        let (net, service) = place(index % rules);
        let service = if denied { NO_SERVICE } else { service };
        let host = (index / rules) as u32;
        // Of each rule 2^8 hosts and 2^16 ports.
        let client = net.map_or(u32::from_be_bytes([100, 64, 0, 0]), Ipv4Addr::to_bits) | (host & 0xff);
        let client = (client, (host >> 8) as u16);
        let server = (ENDPOINT.to_bits(), service);
        let (from, to) = if self.port == 0 { (client, server) } else { (server, client) };
        let mut frame = [0; 60];
        let ethernet =
            Ethernet { destination: ROUTER[self.port], source: HOST, ethertype: U16::new(ETHERTYPE_IPV4) };
        frame[..14].copy_from_slice(ethernet.as_bytes());
        let mut header = Ipv4::new(protocol::TCP, from.0.to_be_bytes(), to.0.to_be_bytes(), 26);
        header.fill_checksum();
        frame[14..34].copy_from_slice(header.as_bytes());
        frame[34..36].copy_from_slice(&from.1.to_be_bytes());
        frame[36..38].copy_from_slice(&to.1.to_be_bytes());
        frame[46] = 5 << 4;
        frame[47] = self.stage.flags.load(Relaxed) as u8;
        frame
    }
}

impl Source for Traffic {
    fn fill(&mut self, cache: &mut BufferCache, out: &mut Vector) {
        while self.workload.watched && self.shared.next_flow_event().is_some() {}
        if self.stage.port.load(Relaxed) != self.port {
            return;
        }
        let next = self.stage.next.load(Relaxed);
        for number in next..next + VECTOR_SIZE {
            let Some(mut packet) = cache.allocate() else { break };
            // A buffer holds a small frame.
            let _ = packet.append(&self.frame(number));
            let _ = out.push(packet);
        }
        self.stage.next.store(next + VECTOR_SIZE, Relaxed);
    }
}

struct Rig {
    shared: Arc<Shared>,
    worker: Worker,
    stage: Arc<Stage>,
    generator_clocks: Arc<AtomicU64>,
    workload: Workload,
    now_ns: u64,
}

impl Rig {
    fn new(workload: Workload) -> Result<Self> {
        let Workload { flows, rules, is_strict, watched, .. } = workload;
        let mut fib4 = Fib4Writer::new().context("IPv4 route table")?;
        let fib6 = Fib6Writer::new().context("IPv6 route table")?;
        let everything = Prefix::new(0, 0).context("a prefix")?;
        let _ = fib4.insert(everything, 1).context("a route does not fit")?;
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, [1, 2], Box::new(Sleepless));
        let _ = shared.publish(tables(1)?);
        // Until they are answered flows may have an eighth of the table.
        let capacity = flows.map_or(CAPACITY, |flows| flows * 8);
        let tcp_opening_ms = (OPENING_NS / 1_000_000) as u32;
        let timeouts = Timeouts { tcp_opening_ms, ..Timeouts::default() };
        let of = |capacity| Config { capacity, secret: [3, 4], timeouts };
        let mut memory = Flows::new(&of(capacity), &of(16), 0, 1)?;
        if is_strict {
            memory.follow_windows()?;
        }
        let _ = shared.give_flows(0, memory);
        if watched {
            let _ = shared.give_tallies(0, FlowTallies::new((&of(capacity), &of(16)))?);
            shared.follow_flows(true);
        }
        let mut model = one_endpoint(rules);
        for endpoint in &mut model.endpoints {
            Arc::make_mut(endpoint).addresses = vec![ENDPOINT.into()];
        }
        let _ = shared.publish_policy(Some(Policy::from(compile(model)?)));
        let stage = Arc::new(Stage::default());
        let generator_clocks = Arc::default();
        let port = |port| -> Box<dyn PortQueue> {
            let (flows, shared, stage) = (flows.unwrap_or(1 << 24), shared.clone(), stage.clone());
            Feed::new(Traffic { port, flows, workload, stage, shared }, &generator_clocks)
        };
        let pool = BufferPool::from_heap(8 * VECTOR_SIZE);
        let worker = Worker::new(shared.clone(), 0, vec![(IN, port(0)), (OUT, port(1))], pool.cache());
        Ok(Self { shared, worker, stage, generator_clocks, workload, now_ns: 0 })
    }

    /// Lets packets come in by a port; clocks per packet without the generator's.
    fn run(&mut self, (port, flags): (usize, u8), packets: usize, clock: &Clock) -> f64 {
        let is_new = self.workload.flows.is_none() && !self.workload.flood;
        if is_new && self.shared.flow_counters(0).ipv4.unproven >= CAPACITY / 16 {
            self.stage.port.store(NOWHERE, Relaxed);
            outlive_unproven(&mut self.worker, &mut self.now_ns);
        }
        self.stage.port.store(port, Relaxed);
        self.stage.flags.store(usize::from(flags), Relaxed);
        let polls = packets.div_ceil(VECTOR_SIZE);
        let generators = self.generator_clocks.load(Relaxed);
        let start = clocks();
        for _ in 0..polls {
            self.now_ns += POLL_NS;
            let _ = self.worker.poll(self.now_ns);
        }
        let own = self.generator_clocks.load(Relaxed) - generators;
        // Both ports' sources read the clock.
        ((clocks() - start - own) as f64 - 2.0 * polls as f64 * clock.read) / (polls * VECTOR_SIZE) as f64
    }

    fn begin(&mut self) {
        self.stage.next.store(0, Relaxed);
    }
}

pub(super) fn measure(name: String, workload: Workload, rounds: usize) -> Result<Row> {
    let clock = Clock::new();
    let mut rig = Rig::new(workload)?;
    let mut measured = (0, SYN);
    if let Some(flows) = workload.flows {
        // The answering end's ACK without SYN is what proves that the other one is there.
        for (port, flags) in [(0, SYN), (1, SYN | ACK), (0, ACK), (1, ACK)] {
            rig.begin();
            let _ = rig.run((port, flags), flows, &clock);
        }
        measured = (0, ACK);
        let counts = rig.shared.flow_counters(0).ipv4;
        ensure!(counts.live >= flows && counts.unproven == 0, "{counts:?} of {flows} flows");
    }
    for _ in 0..WARM_UP_ROUNDS {
        let _ = rig.run(measured, ROUND_PACKETS, &clock);
    }
    let results = (0..rounds).map(|_| rig.run(measured, ROUND_PACKETS, &clock)).collect();
    let drops = drops(&rig.shared);
    match drops[..] {
        [] if !workload.denied => {}
        [(DropReason::PolicyDenied, _)] if workload.denied => {}
        _ => bail!("packets were dropped: {drops:?}"),
    }
    ensure!(rig.shared.lost_flow_events() == 0, "events were not taken in time");
    Ok(Row::of_clocks(name, results))
}
