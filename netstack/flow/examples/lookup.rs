//! Times lookups, insertions and a SYN flood: `cargo run --release -p flow --example lookup`. The best of several runs, in
//! nanoseconds, vectors of 256 packets of random flows.

use std::time::Instant;

use flow::{Config, FlowTable, Key, Observed, Slot, Timeouts, V4, V6};

const ACK: Observed = Observed::Tcp(16);
const SYN: Observed = Observed::Tcp(2);
const VECTOR: usize = 256;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn v4(number: u32) -> V4 {
    let [a, b, ..] = number.to_le_bytes();
    V4 {
        source: number.to_be_bytes(),
        destination: [192, 0, 2, a],
        source_port: u16::from(b),
        destination_port: 80,
        protocol: 6,
    }
}

fn v6(number: u32) -> V6 {
    let mut source = [0x20; 16];
    source[12..].copy_from_slice(&number.to_be_bytes());
    V6 { source, destination: [0x30; 16], source_port: 1, destination_port: 80, protocol: 6 }
}

fn table<K: Key>(flows: u32, capacity: usize, key: impl Fn(u32) -> K) -> FlowTable<K> {
    let config = Config {
        capacity,
        secret: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3211],
        timeouts: Timeouts::default(),
    };
    let mut table = FlowTable::new(&config).expect("memory");
    for number in 0..flows {
        let _ = table.insert(&key(number), SYN, number, 0);
        let _ = table.lookup(&key(number), ACK, 0);
    }
    table
}

fn established<K: Key>(name: &str, flows: u32, capacity: usize, key: fn(u32) -> K) {
    let mut table = table(flows, capacity, key);
    let mut state = 88;
    let keys: Vec<K> = (0..1 << 20).map(|_| key((random(&mut state) % u64::from(flows)) as u32)).collect();
    let mut found: [Option<Slot>; VECTOR] = [None; VECTOR];
    let mut best = f64::MAX;
    let mut missed = 0;
    for keys in keys.chunks_exact(1 << 14) {
        let start = Instant::now();
        for keys in keys.chunks_exact(VECTOR) {
            table.lookup_batch(keys, &[ACK; VECTOR], 0, &mut found);
            missed += found.iter().filter(|slot| slot.is_none()).count();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / keys.len() as f64);
    }
    println!(
        "{name} {flows:8} flows of {capacity:8}: {best:6.1} ns a lookup, {missed} missed, {} MiB",
        table.bytes() >> 20
    );
}

fn flood(capacity: usize) {
    let mut table = table(capacity as u32 / 2, capacity, v4);
    let before = table.bytes();
    let mut best = f64::MAX;
    let mut found: [Option<Slot>; VECTOR] = [None; VECTOR];
    for round in 0..64u32 {
        let start = Instant::now();
        for vector in 0..1 << 6 {
            let first = 0x8000_0000 + (round << 14) + (vector << 8);
            let keys: [V4; VECTOR] = std::array::from_fn(|i| v4(first + i as u32));
            table.lookup_batch(&keys, &[SYN; VECTOR], 0, &mut found);
            for (key, _) in keys.iter().zip(&found).filter(|(_, slot)| slot.is_none()) {
                let _ = table.insert(key, SYN, 0, 0);
            }
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(1 << 14));
    }
    let kept = (0..capacity as u32 / 2).filter(|number| table.lookup(&v4(*number), ACK, 0).is_some()).count();
    println!(
        "SYN flood of 1 M sources, {} established of {capacity}: {best:.1} ns a SYN, {kept} kept, memory {} MiB before, {} MiB after",
        capacity / 2,
        before >> 20,
        table.bytes() >> 20
    );
}

fn main() {
    for flows in [1000, 100_000, 1_000_000] {
        established("IPv4", flows, 1_000_000, v4);
        established("IPv6", flows, 1_000_000, v6);
    }
    established("IPv4", 1000, 1000, v4);
    established("IPv4", 100_000, 100_000, v4);
    flood(1_000_000);
}
