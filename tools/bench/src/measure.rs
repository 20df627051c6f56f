//! Runs a workload in many short rounds and keeps the best.
//!
//! Rounds are short so that some escape the neighbours of a shared machine.

use crate::counters::{CoreCounters, CoreCounts};
use crate::report;
use crate::rig::Rig;
use crate::workload::{self, Workload};
use anyhow::{Context, Result, ensure};
use dataplane::{DropReason, Node, NodeCounters, Shared};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Packets of a round.
const ROUND_PACKETS: usize = 1 << 14;
const WARM_UP_ROUNDS: usize = 8;

/// What a workload costs.
pub struct Measurement {
    /// What was measured.
    pub workload: Workload,
    /// Clocks per packet of each node that had any, by the worker's own counters, in the best round.
    pub nodes: Vec<(Node, f64)>,
    /// Clocks per packet, all that a poll takes but the generator: of the rounds.
    pub clocks: Spread,
    /// The same per poll in the best round.
    pub clocks_per_poll: f64,
    /// Packets in a vector, on average.
    pub packets_per_vector: f64,
    /// Million packets a second in the best round, without the generator's time.
    pub mpps: f64,
    /// Core cycles and instructions per packet, the generator included, where the system lets us count them.
    pub core: Option<(f64, f64)>,
    /// Bytes of the route table's nodes.
    pub table_bytes: usize,
}

/// Clocks per packet over the rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The best round.
    pub min: f64,
    /// The median round.
    pub median: f64,
    /// The worst round.
    pub max: f64,
}

/// How fast clocks go and what it costs to look at them.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Clocks of the time stamp counter in a second.
    pub per_second: f64,
    /// Clocks that reading the counter takes.
    pub read: f64,
}

/// One round.
struct Round {
    clocks_per_packet: f64,
    packets: f64,
    nodes: Vec<(Node, NodeCounters)>,
}

/// Measures the workloads that are meant, and prints what they cost.
///
/// # Errors
/// A router cannot be built, or it did not forward all packets.
pub fn run(meant: impl Fn(&str) -> bool, rounds: usize, clock: &Clock) -> Result<Vec<Measurement>> {
    let workloads = workload::all().into_iter().filter(|workload| meant(&workload.name()));
    workloads
        .map(|workload| {
            let measurement = measure(&workload, rounds, clock).with_context(|| workload.name())?;
            print!("{}", report::text(&measurement));
            Ok(measurement)
        })
        .collect()
}

fn measure(workload: &Workload, rounds: usize, clock: &Clock) -> Result<Measurement> {
    let mut rig = Rig::new(workload)?;
    let polls = ROUND_PACKETS / workload.vector;
    for _ in 0..WARM_UP_ROUNDS {
        let _ = poll(&mut rig, polls);
    }
    let mut results = (0..rounds).map(|_| round(&mut rig, polls, clock)).collect::<Result<Vec<_>>>()?;
    let core = CoreCounters::open().and_then(|mut counters| {
        counters.count(|| {
            let _ = poll(&mut rig, polls);
        })
    });
    check(&rig, (WARM_UP_ROUNDS + rounds) as u64 * (polls * workload.vector) as u64)?;
    results.sort_by(|a, b| a.clocks_per_packet.total_cmp(&b.clocks_per_packet));
    let mut measurement = summarise(workload, &results, core, clock);
    measurement.table_bytes = rig.table_bytes;
    Ok(measurement)
}

/// Clocks that some polls took, without the generator's.
fn poll(rig: &mut Rig, polls: usize) -> u64 {
    let generator = rig.generator_clocks.load(Relaxed);
    let start = buffer::clocks();
    for now_ns in 0..polls as u64 {
        let _ = rig.worker.poll(now_ns);
    }
    let all = buffer::clocks() - start;
    all.saturating_sub(rig.generator_clocks.load(Relaxed) - generator)
}

fn round(rig: &mut Rig, polls: usize, clock: &Clock) -> Result<Round> {
    let before: Vec<_> = rig.shared.node_counters(0).collect();
    let received = rig.shared.interface_counters(rig.r#in).rx.packets;
    // The generator reads the clock twice a poll; the time from the first reading to the second is its own, which leaves
    // one reading.
    let clocks = poll(rig, polls) as f64 - polls as f64 * clock.read;
    let packets = (rig.shared.interface_counters(rig.r#in).rx.packets - received) as f64;
    ensure!(packets > 0.0, "nothing was received");
    let nodes = rig.shared.node_counters(0).zip(before).map(|((node, after), (_, before))| {
        let counters = NodeCounters {
            packets: after.packets - before.packets,
            vectors: after.vectors - before.vectors,
            clocks: after.clocks - before.clocks,
        };
        (node, counters)
    });
    Ok(Round { clocks_per_packet: clocks / packets, packets, nodes: nodes.collect() })
}

/// Everything that came must have left.
fn check(rig: &Rig, expected: u64) -> Result<()> {
    nothing_dropped(&rig.shared)?;
    let totals = rig.shared.packet_totals();
    ensure!(totals.injected + totals.made + totals.punted == 0, "packets were punted or made: {totals:?}");
    let received = rig.shared.interface_counters(rig.r#in).rx.packets;
    let sent = rig.shared.interface_counters(rig.out).tx.packets;
    ensure!(received == sent, "{received} packets came, {sent} left");
    ensure!(received >= expected / 10 * 9, "{received} packets came, {expected} were asked for");
    Ok(())
}

/// What a router has dropped.
pub(crate) fn drops(shared: &Shared) -> Vec<(DropReason, u64)> {
    shared.drop_counters().filter(|(_, count)| *count > 0).collect()
}

/// A packet that was dropped costs less than one that was forwarded.
pub(crate) fn nothing_dropped(shared: &Shared) -> Result<()> {
    let drops = drops(shared);
    ensure!(drops.is_empty(), "packets were dropped: {drops:?}");
    Ok(())
}

/// Clocks per packet of each node that had any since `before`, without receiving.
pub(crate) fn clocks_of_nodes(
    before: Vec<(Node, NodeCounters)>,
    after: impl Iterator<Item = (Node, NodeCounters)>,
    packets: f64,
) -> Vec<(&'static str, f64)> {
    let pairs = after
        .zip(before)
        .filter(|((node, after), (_, before))| *node != Node::PortInput && after.packets > before.packets);
    pairs
        .map(|((node, after), (_, before))| (node.name(), (after.clocks - before.clocks) as f64 / packets))
        .collect()
}

fn summarise(workload: &Workload, sorted: &[Round], core: Option<CoreCounts>, clock: &Clock) -> Measurement {
    let clocks = |at: usize| sorted.get(at).map_or(0.0, |round| round.clocks_per_packet);
    let (packets, nodes) =
        sorted.first().map_or((1.0, Vec::new()), |best| (best.packets, best.nodes.clone()));
    let used = nodes.iter().filter(|(node, counters)| *node != Node::PortInput && counters.packets > 0);
    let vectors = used.clone().map(|(_, counters)| counters.vectors).max().unwrap_or(1);
    let polls = packets / workload.vector as f64;
    Measurement {
        workload: *workload,
        nodes: used.map(|(node, counters)| (*node, counters.clocks as f64 / packets)).collect(),
        clocks: Spread { min: clocks(0), median: clocks(sorted.len() / 2), max: clocks(sorted.len() - 1) },
        clocks_per_poll: clocks(0) * packets / polls,
        packets_per_vector: packets / vectors as f64,
        mpps: clock.per_second / clocks(0) / 1e6,
        core: core.map(|core| (core.cycles as f64 / packets, core.instructions as f64 / packets)),
        table_bytes: 0,
    }
}

impl Clock {
    /// Measures the clock.
    pub fn new() -> Self {
        let (start, clocks) = (Instant::now(), buffer::clocks());
        std::thread::sleep(std::time::Duration::from_millis(50));
        let per_second = (buffer::clocks() - clocks) as f64 / start.elapsed().as_secs_f64();
        const READINGS: u64 = 1000;
        let readings = || {
            let start = buffer::clocks();
            let last = (0..READINGS).fold(start, |_, _| std::hint::black_box(buffer::clocks()));
            last - start
        };
        let best = (0..200).map(|_| readings()).min().unwrap_or(0);
        Self { per_second, read: best as f64 / READINGS as f64 }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
