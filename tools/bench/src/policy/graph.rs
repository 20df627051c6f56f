//! Workloads `policy-established` and `policy-new/*-in-graph`: policy as packets meet it, in a router of two ports.
//!
//! Every packet is to one endpoint, whose rules each allow a source or a port. Of established flows each packet belongs to another
//! one, in turn; both directions have been seen before the first round. Of new flows each packet is the first of one, and
//! nobody ever answers: the table is full of unproven flows, of which the oldest gives way each time.

use super::{Row, compile, one_endpoint, place};
use crate::measure::Clock;
use crate::port::{Feed, Source};
use crate::rig::{IN, NoWake, OUT, tables};
use anyhow::{Context, Result, ensure};
use buffer::{BufferCache, BufferPool, PortQueue, VECTOR_SIZE, Vector, clocks};
use dataplane::{Flows, Policy, Shared, Worker};
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
    /// None if each packet begins one.
    flows: Option<usize>,
    rules: usize,
    /// TCP's windows are checked.
    is_strict: bool,
}

pub(super) fn all() -> Vec<(String, Workload)> {
    let counts = [(1_000, [10, 10_000]), (100_000, [10, 10_000]), (1_000_000, [10, 10_000])];
    let established = counts.into_iter().flat_map(|(flows, rules)| {
        let of = move |rules| Workload { flows: Some(flows), rules, is_strict: false };
        rules.map(|rules| (format!("policy-established/{flows}-flows-{rules}-rules"), of(rules)))
    });
    let strict = counts.map(|(flows, _)| {
        let workload = Workload { flows: Some(flows), rules: 10, is_strict: true };
        (format!("policy-established/{flows}-flows-strict-windows"), workload)
    });
    let new = [10, 1_000, 10_000].map(|rules| {
        let workload = Workload { flows: None, rules, is_strict: false };
        (format!("policy-new/{rules}-rules-in-graph"), workload)
    });
    established.chain(strict).chain(new).collect()
}

/// What both ports do at present.
#[derive(Default)]
struct Stage {
    /// The port that packets come in by; 2 for none.
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
    rules: usize,
    stage: Arc<Stage>,
}

impl Traffic {
    fn frame(&self, number: usize) -> [u8; 60] {
        let index = number % self.flows;
        let (net, service) = place(index % self.rules);
        let host = (index / self.rules) as u32;
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
}

impl Rig {
    fn new(Workload { flows, rules, is_strict }: Workload) -> Result<Self> {
        let mut fib4 = Fib4Writer::new().context("IPv4 route table")?;
        let fib6 = Fib6Writer::new().context("IPv6 route table")?;
        let everything = Prefix::new(0, 0).context("a prefix")?;
        let _ = fib4.insert(everything, 1).context("a route does not fit")?;
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, [1, 2], Box::new(NoWake));
        let _ = shared.publish(tables(1)?);
        // A flow has two entries, and until they are answered flows may have an eighth of the table.
        let capacity = flows.map_or(1 << 20, |flows| flows * 16);
        let of = |capacity| Config { capacity, secret: [3, 4], timeouts: Timeouts::default() };
        let mut memory = Flows::new(&of(capacity), &of(16), 0, 1)?;
        if is_strict {
            memory.follow_windows()?;
        }
        let _ = shared.give_flows(0, memory);
        let mut model = one_endpoint(rules);
        for endpoint in &mut model.endpoints {
            Arc::make_mut(endpoint).addresses = vec![ENDPOINT.into()];
        }
        let _ = shared.publish_policy(Some(Policy::from(compile(model)?)));
        let stage = Arc::new(Stage::default());
        let generator_clocks = Arc::default();
        let port = |port| -> Box<dyn PortQueue> {
            let traffic = Traffic { port, flows: flows.unwrap_or(1 << 24), rules, stage: stage.clone() };
            Feed::new(traffic, &generator_clocks)
        };
        let pool = BufferPool::from_heap(8 * VECTOR_SIZE);
        let worker = Worker::new(shared.clone(), 0, vec![(IN, port(0)), (OUT, port(1))], pool.cache());
        Ok(Self { shared, worker, stage, generator_clocks })
    }

    /// Lets packets come in by a port; clocks per packet without the generator's.
    fn run(&mut self, (port, flags): (usize, u8), packets: usize, clock: &Clock) -> f64 {
        self.stage.port.store(port, Relaxed);
        self.stage.flags.store(usize::from(flags), Relaxed);
        let polls = packets.div_ceil(VECTOR_SIZE);
        let generators = self.generator_clocks.load(Relaxed);
        let start = clocks();
        for poll in 0..polls {
            let _ = self.worker.poll(poll as u64);
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
        ensure!(counts.live >= 2 * flows && counts.unproven == 0, "{counts:?} of {flows} flows");
    }
    for _ in 0..WARM_UP_ROUNDS {
        let _ = rig.run(measured, ROUND_PACKETS, &clock);
    }
    let mut results: Vec<f64> = (0..rounds).map(|_| rig.run(measured, ROUND_PACKETS, &clock)).collect();
    let drops: Vec<_> = rig.shared.drop_counters().filter(|(_, count)| *count > 0).collect();
    ensure!(drops.is_empty(), "packets were dropped: {drops:?}");
    results.sort_by(f64::total_cmp);
    let (best, median) = (results.first().copied(), results.get(results.len() / 2).copied());
    Ok(Row { name, clocks: best, clocks_median: median, milliseconds: None })
}
