//! Balance, disruption and build time: `cargo run --release -p maglev --example figures`.
//!
//! Beside ours stand the paper's figures (NSDI 2016, §5.3: balance, build time) and those of a plain implementation
//! in C with stored permutations, mean of 10 seeds on a machine like the one the project is measured on.

use std::collections::HashMap;
use std::time::Instant;

use maglev::{Backend, Change, FlowHasher, Seed, Shares, Table, TableSize};

const SEEDS: u64 = 10;

/// Of the plain implementation: slots, backends, build in ms, imbalance, slots moved among survivors (% of all) when one
/// backend goes and when 1 % of them go, when one comes.
const PLAIN: [(u32, usize, [f64; 5]); 6] = [
    (65_537, 10, [4.447, 1.0000, 0.231, 0.000, 0.221]),
    (65_537, 100, [5.552, 1.0010, 0.578, 0.578, 0.564]),
    (65_537, 1000, [5.390, 1.0071, 0.583, 2.333, 0.563]),
    (655_373, 10, [63.091, 1.0000, 0.073, 0.000, 0.062]),
    (655_373, 100, [78.337, 1.0000, 0.136, 0.136, 0.138]),
    (655_373, 1000, [104.335, 1.0010, 0.324, 0.574, 0.326]),
];

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("10.1.{}.{}:8080", i / 250, i % 250)).collect()
}

fn build(size: TableSize, seed: u64, names: &[String]) -> Table {
    let backends: Vec<Backend<'_>> =
        names.iter().map(|name| Backend { name: name.as_bytes(), weight: 1 }).collect();
    Table::build(size, &Seed::new(u128::from(seed).to_le_bytes()), &backends).expect("names differ")
}

/// Slots moved among those that stay, in per cent of all slots, from one set of names to another.
fn extra(size: TableSize, seed: u64, before: &[String], after: &[String]) -> f64 {
    let places: HashMap<&String, u32> = after.iter().zip(0..).collect();
    let [old, new] = [before, after].map(|names| build(size, seed, names));
    let change = Change::between(&old, &new, |i| places.get(&before[i as usize]).copied());
    100.0 * f64::from(change.needless) / f64::from(change.slots)
}

fn mean(of: impl Fn(u64) -> f64) -> f64 {
    (0..SEEDS).map(of).sum::<f64>() / SEEDS as f64
}

/// Build time in the best of several runs, in ms.
fn build_ms(size: TableSize, names: &[String]) -> f64 {
    let best = (0..20).map(|seed| {
        let start = Instant::now();
        let table = build(size, seed, names);
        let elapsed = start.elapsed();
        assert_eq!(table.slots(), size.slots());
        elapsed
    });
    best.min().map_or(0.0, |best| best.as_secs_f64() * 1e3)
}

fn row(slots: u32, count: usize, plain: &[f64; 5]) {
    let size = TableSize::new(slots).expect("a prime");
    let all = names(count);
    let several = (count / 100).max(1);
    let gone = |seed: u64, several: usize| -> Vec<String> {
        let first = seed as usize * 7 % count;
        all.iter()
            .enumerate()
            .filter(|(i, _)| (i + count - first) % count >= several)
            .map(|(_, n)| n.clone())
            .collect()
    };
    let ours = [
        build_ms(size, &all),
        mean(|seed| Shares::of(&build(size, seed, &all), count).imbalance()),
        mean(|seed| extra(size, seed, &all, &gone(seed, 1))),
        mean(|seed| extra(size, seed, &all, &gone(seed, several))),
        mean(|seed| extra(size, seed, &gone(seed, 1), &all)),
    ];
    println!(
        "{slots:7} {count:5} | {:7.3} {:7.3} | {:.4} {:.4} | {:5.3} {:5.3} | {:5.3} {:5.3} | {:5.3} {:5.3}",
        ours[0], plain[0], ours[1], plain[1], ours[2], plain[2], ours[3], plain[3], ours[4], plain[4]
    );
}

/// Nanoseconds per hash and table lookup, best of several runs over a vector of flows.
fn lookup_ns() -> (f64, f64) {
    let hasher = FlowHasher::new(&Seed::default());
    let table = build(TableSize::DEFAULT, 0, &names(1000));
    let best = |work: &dyn Fn(u32) -> u64| {
        let runs = (0..200).map(|run: u32| {
            let start = Instant::now();
            let sum = (run * 256..run * 256 + 256).fold(0, |sum: u64, i| sum.wrapping_add(work(i)));
            let elapsed = start.elapsed().as_secs_f64() * 1e9 / 256.0;
            assert_ne!(sum, 1);
            elapsed
        });
        runs.fold(f64::MAX, f64::min)
    };
    let hash = |i: u32| hasher.ipv4(i.to_be_bytes(), [10, 0, 0, 1], 6, (i as u16, 80));
    (best(&|i| hash(i)), best(&|i| u64::from(table.backend(hash(i)))))
}

fn main() {
    println!(
        "ours, then the plain implementation; moved: slots of survivors in % of all slots; mean of {SEEDS} seeds"
    );
    println!("  slots     N |  build, ms (best) |  max/mean     | one goes    | 1 % go      | one comes");
    for (slots, count, plain) in &PLAIN {
        row(*slots, *count, plain);
    }
    println!(
        "paper: 1.8 ms for 1,000 backends in 65,537 slots, 22.9 ms in 655,373; at most 1 % of imbalance if M > 100 N"
    );
    let (hash, both) = lookup_ns();
    println!("hash of an IPv4 flow {hash:.1} ns; hash and lookup among 1,000 backends {both:.1} ns");
}
