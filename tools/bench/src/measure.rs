//! Runs a workload in many short rounds and keeps the best.
//!
//! Rounds are short so that some escape the neighbours of a shared machine.

use crate::counters::{CoreCounters, CoreCounts};
use crate::rig::Rig;
use crate::workload::Workload;
use anyhow::{Result, ensure};
use dataplane::{DropReason, Node, NodeCounters};
use std::time::Instant;

/// Packets of a round.
const ROUND_PACKETS: usize = 1 << 14;
const WARM_UP_ROUNDS: usize = 8;

/// What a workload costs.
pub struct Measurement {
    /// What was measured.
    pub workload: Workload,
    /// Clocks per packet of each node that had any, in the best round. The generator comes first.
    pub nodes: Vec<(Node, f64)>,
    /// Clocks per packet from ethernet-input on: best, median and worst round.
    pub clocks: Spread,
    /// Packets in a vector, on average.
    pub packets_per_vector: f64,
    /// Million packets a second in the best round, without the generator's time.
    pub mpps: f64,
    /// Core cycles and instructions per packet, the generator included, where the system lets us count them.
    pub core: Option<(f64, f64)>,
}

/// Clocks per packet over the rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The best round.
    pub best: f64,
    /// The median round.
    pub median: f64,
    /// The worst round.
    pub worst: f64,
}

/// Measures a workload for `rounds` rounds. `clocks_per_second` is the rate of the time stamp counter.
pub fn measure(workload: &Workload, rounds: usize, clocks_per_second: f64) -> Result<Measurement> {
    let mut rig = Rig::new(workload)?;
    let polls = ROUND_PACKETS / workload.vector;
    for _ in 0..WARM_UP_ROUNDS {
        run(&mut rig, polls);
    }
    let mut results: Vec<Vec<(Node, NodeCounters)>> = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let before: Vec<_> = rig.shared.node_counters(0).collect();
        run(&mut rig, polls);
        let round = rig.shared.node_counters(0).zip(before).map(|((node, after), (_, before))| {
            let NodeCounters { packets, vectors, clocks } = after;
            let packets = packets - before.packets;
            (
                node,
                NodeCounters { packets, vectors: vectors - before.vectors, clocks: clocks - before.clocks },
            )
        });
        results.push(round.collect());
    }
    let core = CoreCounters::open().and_then(|mut counters| counters.count(|| run(&mut rig, polls)));
    check(&rig)?;
    results.sort_by(|a, b| clocks_per_packet(a).total_cmp(&clocks_per_packet(b)));
    Ok(summarise(workload, &results, core, clocks_per_second))
}

fn run(rig: &mut Rig, polls: usize) {
    for poll in 0..polls {
        let _ = rig.worker.poll(poll as u64);
    }
}

/// A packet that was dropped would have cost less than one that was forwarded.
fn check(rig: &Rig) -> Result<()> {
    let drops: Vec<(DropReason, u64)> = rig.shared.drop_counters().filter(|(_, count)| *count > 0).collect();
    ensure!(drops.is_empty(), "packets were dropped: {drops:?}");
    ensure!(rig.shared.interface_counters(rig.out).tx.packets > 0, "nothing was forwarded");
    Ok(())
}

/// The total from ethernet-input on.
fn clocks_per_packet(round: &[(Node, NodeCounters)]) -> f64 {
    let path = round.iter().filter(|(node, counters)| *node != Node::PortInput && counters.packets > 0);
    path.map(|(_, counters)| counters.clocks as f64).sum::<f64>() / packets(round)
}

fn packets(round: &[(Node, NodeCounters)]) -> f64 {
    let source = round.iter().find(|(node, _)| *node == Node::PortInput);
    source.map_or(1.0, |(_, counters)| counters.packets.max(1) as f64)
}

fn summarise(
    workload: &Workload,
    sorted: &[Vec<(Node, NodeCounters)>],
    core: Option<CoreCounts>,
    clocks_per_second: f64,
) -> Measurement {
    let clocks = |at: usize| sorted.get(at).map_or(0.0, |round| clocks_per_packet(round));
    let best = sorted.first().map(Vec::as_slice).unwrap_or_default();
    let packets = packets(best);
    let used = best.iter().filter(|(_, counters)| counters.packets > 0);
    let nodes: Vec<_> =
        used.clone().map(|(node, counters)| (*node, counters.clocks as f64 / packets)).collect();
    let vectors = used.map(|(_, counters)| counters.vectors).max().unwrap_or(1);
    Measurement {
        workload: *workload,
        nodes,
        clocks: Spread { best: clocks(0), median: clocks(sorted.len() / 2), worst: clocks(sorted.len() - 1) },
        packets_per_vector: packets / vectors as f64,
        mpps: clocks_per_second / clocks(0) / 1e6,
        core: core.map(|core| (core.cycles as f64 / packets, core.instructions as f64 / packets)),
    }
}

/// Clocks of the time stamp counter in a second, measured.
pub fn clocks_per_second() -> f64 {
    let (start, clocks) = (Instant::now(), buffer::clocks());
    std::thread::sleep(std::time::Duration::from_millis(50));
    (buffer::clocks() - clocks) as f64 / start.elapsed().as_secs_f64()
}
