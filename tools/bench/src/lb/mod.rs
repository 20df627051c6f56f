//! Workloads `maglev-*`: packets to services through the whole dataplane, from their frame's coming in to its leaving, and
//! `maglev-table`: how long it takes to build a table.
//!
//! Main path: `rig::Rig` is a router with a service and established flows, `traffic` makes clients' frames and backends'
//! answers. A row is printed only if every packet that came left towards a backend, and established flows are all there.

mod rig;
mod traffic;

use crate::measure::Clock;
use crate::report::line_of_nodes;
use anyhow::{Result, ensure};
use maglev::{Seed, Table, TableSize};
use rig::Rig;
use serde::Serialize;
use services::Forwarding;
use std::time::Instant;

/// One row of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Workload {
    group: &'static str,
    variant: &'static str,
    forwarding: Forwarding,
    /// Packets of IPv6 instead of IPv4, tunnels over IPv6.
    ipv6: bool,
    /// Established flows.
    flows: u32,
    /// Health changes all the time: every so many vectors a backend's state is another one.
    unsteady: bool,
    aim: u32,
}

/// What a workload costs.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// In the best round.
    pub clocks_per_packet: f64,
    /// In the median round.
    pub clocks_per_packet_median: f64,
    /// Clocks per packet of each node in the best round.
    pub nodes: Vec<(&'static str, f64)>,
    /// Bytes of the connection table.
    pub table_bytes: usize,
}

const ESTABLISHED: &str = "maglev-established";
const NEW: &str = "maglev-new";
const FLOOD: &str = "maglev-syn-flood";
const TABLE: &str = "maglev-table";
/// Slots and backends of the tables that are built.
const TABLES: [(u32, u16); 4] = [(65_537, 10), (65_537, 100), (65_537, 1000), (655_373, 1000)];
const TABLE_BUILDS: usize = 40;

const NAT: Workload = Workload {
    group: ESTABLISHED,
    variant: "nat-1000",
    forwarding: Forwarding::Nat,
    ipv6: false,
    flows: 1000,
    unsteady: false,
    aim: 65,
};
const NEW_FLOWS: Workload = Workload { group: NEW, variant: "nat", flows: 0, aim: 160, ..NAT };
const FLOODED: Workload = Workload { group: FLOOD, variant: "nat", flows: 500_000, aim: 0, ..NAT };

/// Everything that can be measured through a router.
fn all() -> [Workload; 22] {
    let nat = |variant, flows, aim| Workload { variant, flows, aim, ..NAT };
    let of = |forwarding, variant, flows, aim| Workload { forwarding, variant, flows, aim, ..NAT };
    let (direct, ipip, gue) = (Forwarding::Direct, Forwarding::Ipip, Forwarding::Gue);
    let v6 = |variant, workload| Workload { variant, ipv6: true, aim: 0, ..workload };
    [
        NAT,
        nat("nat-100000", 100_000, 120),
        // A pair has two entries.
        nat("nat-1000000", 1_000_000, 0),
        Workload { variant: "nat-1000-health-changes", unsteady: true, aim: 0, ..NAT },
        of(direct, "direct-1000", 1000, 60),
        of(direct, "direct-100000", 100_000, 110),
        of(direct, "direct-1000000", 1_000_000, 0),
        of(ipip, "ipip-1000", 1000, 60),
        of(ipip, "ipip-100000", 100_000, 110),
        of(ipip, "ipip-1000000", 1_000_000, 0),
        of(gue, "gue-1000", 1000, 0),
        of(Forwarding::FullNat, "full-nat-1000", 1000, 0),
        v6("nat6-1000", NAT),
        v6("nat6-100000", nat("", 100_000, 0)),
        v6("direct6-1000", of(direct, "", 1000, 0)),
        v6("ipip6-1000", of(ipip, "", 1000, 0)),
        NEW_FLOWS,
        Workload { variant: "direct", forwarding: direct, aim: 140, ..NEW_FLOWS },
        Workload { variant: "ipip", forwarding: ipip, aim: 140, ..NEW_FLOWS },
        v6("nat6", NEW_FLOWS),
        FLOODED,
        v6("nat6", FLOODED),
    ]
}

/// All names, those of tables among them.
pub fn names() -> Vec<String> {
    all().iter().map(Workload::name).chain(TABLES.map(table_name)).collect()
}

fn table_name((slots, backends): (u32, u16)) -> String {
    format!("{TABLE}/{backends}-in-{slots}")
}

impl Workload {
    /// Its name.
    fn name(&self) -> String {
        format!("{}/{}", self.group, self.variant)
    }

    /// True if each packet is of a flow that is there.
    fn is_established(&self) -> bool {
        self.group == ESTABLISHED
    }

    /// True if the table is to be as full of unproven flows as it gets.
    fn is_flood(&self) -> bool {
        self.group == FLOOD
    }

    /// Entries that a flow has in the table.
    fn entries(&self) -> usize {
        if matches!(self.forwarding, Forwarding::Nat | Forwarding::FullNat) { 2 } else { 1 }
    }
}

/// Measures the workloads that are meant, and prints what they cost.
///
/// # Errors
/// A table or a router cannot be built, or packets did not go as they should.
pub fn run(meant: impl Fn(&str) -> bool, rounds: usize, clock: &Clock) -> Result<Vec<Row>> {
    for table in TABLES.into_iter().filter(|table| meant(&table_name(*table))) {
        build(table)?;
    }
    let workloads = all().into_iter().filter(|workload| meant(&workload.name()));
    workloads.map(|workload| measure(&workload, rounds, clock)).collect()
}

fn measure(workload: &Workload, rounds: usize, clock: &Clock) -> Result<Row> {
    let mut rig = Rig::new(workload)?;
    let mut results = (0..rounds).map(|_| rig.round(clock)).collect::<Result<Vec<_>>>()?;
    rig.check()?;
    results.sort_by(|a, b| a.0.total_cmp(&b.0));
    let row = Row {
        name: workload.name(),
        clocks_per_packet: results[0].0,
        clocks_per_packet_median: results[rounds / 2].0,
        nodes: results.swap_remove(0).1,
        table_bytes: rig.table_bytes,
    };
    let aim = if workload.aim > 0 { format!(", aim {}", workload.aim) } else { String::new() };
    println!(
        "{:<34} {:6.1} clocks per packet (median {:.1}{aim}); {} established flows, table {} MiB{}",
        row.name,
        row.clocks_per_packet,
        row.clocks_per_packet_median,
        workload.flows,
        row.table_bytes >> 20,
        line_of_nodes(row.nodes.iter().copied()),
    );
    Ok(row)
}

/// Builds tables of one size, and prints how long it takes.
fn build((slots, backends): (u32, u16)) -> Result<()> {
    let size = TableSize::new(slots)?;
    let names: Vec<String> = (0..backends).map(|n| format!("10.1.{}.{}:8080", n >> 8, n & 255)).collect();
    let all: Vec<_> = names.iter().map(|name| maglev::Backend { name: name.as_bytes(), weight: 1 }).collect();
    let mut milliseconds = Vec::new();
    for seed in 0..TABLE_BUILDS as u128 {
        let start = Instant::now();
        let table = Table::build(size, &Seed::new(seed.to_le_bytes()), &all)?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(table.slots() == slots, "the table has {} slots", table.slots());
    }
    milliseconds.sort_by(f64::total_cmp);
    let name = table_name((slots, backends));
    println!("{name:<34} {:6.3} ms (median {:.3})", milliseconds[0], milliseconds[TABLE_BUILDS / 2]);
    Ok(())
}
