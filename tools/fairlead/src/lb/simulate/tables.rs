//! Properties of tables over seeds.

use maglev::{Change, Seed, Shares, Table, TableSize};
use serde::Serialize;

use super::choice::{self, mix};

/// A size, a number of backends, and what is so of tables with them.
#[derive(Debug, Serialize)]
pub struct TableRow {
    slots: u32,
    backends: u16,
    /// The largest share over the mean one, in the worst seed.
    imbalance: f64,
    /// The same of a table filled from a ring of consistent hashing with as many points as slots.
    ring_imbalance: f64,
    /// And by the highest random weight; `None` where that takes too long.
    rendezvous_imbalance: Option<f64>,
    /// What the paper says of a thousand backends: Maglev, ring, rendezvous.
    #[serde(skip_serializing_if = "Option::is_none")]
    paper: Option<[f64; 3]>,
    /// Share of the slots of backends that stay which one of these changes moves to another one, the mean over seeds.
    one_goes: f64,
    hundredth_goes: f64,
    one_comes: f64,
}

/// Steps of filling a table by rendezvous that are worth waiting for.
const PATIENCE: u64 = 100_000_000;

/// The rows of the paper's sizes.
pub fn measure(seeds: u64) -> Vec<TableRow> {
    // Eisenbud et al., section 5.3 and figure 11: what backends are overprovisioned by, 29.7 % and 49.5 %, 10.3 % and
    // 12.3 %; Maglev's balance is almost perfect.
    let small = (TableSize::default(), [1.0, 1.297, 1.495]);
    let large = (TableSize::MAX, [1.0, 1.103, 1.123]);
    let mut rows = Vec::new();
    for (size, paper) in [small, large] {
        for backends in [10, 100, 1000] {
            rows.push(row(size, backends, seeds, (backends == 1000).then_some(paper)));
        }
    }
    rows
}

fn row(size: TableSize, backends: u16, seeds: u64, paper: Option<[f64; 3]>) -> TableRow {
    let mut row = TableRow {
        slots: size.slots(),
        backends,
        imbalance: 0.0,
        ring_imbalance: 0.0,
        rendezvous_imbalance: None,
        paper,
        one_goes: 0.0,
        hundredth_goes: 0.0,
        one_comes: 0.0,
    };
    let all: Vec<u16> = (0..backends).collect();
    let more: Vec<u16> = (0..=backends).collect();
    for number in 0..seeds {
        let seed = Seed::new(u128::from(mix(number, 2)).to_be_bytes());
        let gone = (mix(number, 3) % u64::from(backends)) as u16;
        let less: Vec<u16> = all.iter().copied().filter(|backend| *backend != gone).collect();
        let few: Vec<u16> = all.iter().copied().filter(|backend| backend % 100 != gone % 100).collect();
        let table = choice::table(size, &seed, &all);
        let shares = Shares::of(&table, all.len());
        row.imbalance = row.imbalance.max(imbalance(shares.slots()));
        row.ring_imbalance = row.ring_imbalance.max(imbalance(&ring(size, &all, number)));
        let moved = |to: &[u16]| moved(&table, size, (&seed, to)) / seeds as f64;
        row.one_goes += moved(&less);
        row.hundredth_goes += if backends >= 100 { moved(&few) } else { 0.0 };
        row.one_comes += moved(&more);
    }
    let steps = u64::from(size.slots()) * u64::from(backends);
    row.rendezvous_imbalance = (steps <= PATIENCE).then(|| imbalance(&rendezvous(size, &all)));
    row
}

fn imbalance(shares: &[u32]) -> f64 {
    let sum: f64 = shares.iter().map(|share| f64::from(*share)).sum();
    f64::from(shares.iter().max().copied().unwrap_or(0)) * shares.len() as f64 / sum
}

/// The share of the slots of those that stay which move to another one.
fn moved(table: &Table, size: TableSize, (seed, to): (&Seed, &[u16])) -> f64 {
    let after = choice::table(size, seed, to);
    let change =
        Change::between(table, &after, |old| to.binary_search(&(old as u16)).ok().map(|index| index as u32));
    f64::from(change.survivors_moved) / f64::from(change.survivors)
}

/// Shares of a table each of whose slots has the backend of the next point on a ring.
fn ring(size: TableSize, backends: &[u16], seed: u64) -> Vec<u32> {
    let ring = choice::ring(backends, size.slots() / backends.len() as u32, seed);
    let mut shares = vec![0; backends.len()];
    let mut at = 0;
    for slot in 0..size.slots() {
        let place = ((u128::from(slot) << 64) / u128::from(size.slots())) as u64;
        while ring.get(at).is_some_and(|(point, _)| *point < place) {
            at += 1;
        }
        let (_, backend) = ring.get(at).unwrap_or(&ring[0]);
        shares[usize::from(*backend)] += 1;
    }
    shares
}

/// Shares of a table each of whose slots has the backend with the highest hash for it (Thaler and Ravishankar, 1998).
fn rendezvous(size: TableSize, backends: &[u16]) -> Vec<u32> {
    let mut shares = vec![0; backends.len()];
    for slot in 0..size.slots() {
        let best = backends.iter().max_by_key(|backend| mix(u64::from(slot) << 16 | u64::from(**backend), 4));
        if let Some(backend) = best {
            shares[usize::from(*backend)] += 1;
        }
    }
    shares
}

impl TableRow {
    /// The cells of the row.
    pub fn cells(&self) -> Vec<String> {
        let percent = |share: f64| format!("{:.3} %", share * 100.0);
        let paper = |paper: [f64; 3]| format!("{:.2} / {:.2} / {:.2}", paper[0], paper[1], paper[2]);
        vec![
            self.slots.to_string(),
            self.backends.to_string(),
            format!("{:.4}", self.imbalance),
            format!("{:.3}", self.ring_imbalance),
            self.rendezvous_imbalance.map_or("-".to_owned(), |imbalance| format!("{imbalance:.3}")),
            self.paper.map_or("-".to_owned(), paper),
            percent(self.one_goes),
            if self.backends >= 100 { percent(self.hundredth_goes) } else { "-".to_owned() },
            percent(self.one_comes),
        ]
    }
}
