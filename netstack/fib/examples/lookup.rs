//! Times lookups and updates: `cargo run --release -p fib --example lookup [PART OF A NAME]`. The best of several runs, in nanoseconds.
//!
//! Destinations are random within random routes, in vectors of 256.

use std::time::Instant;

use fib::{Key, Prefix, Writer};

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Nanoseconds per lookup in the best of many short runs, each over other destinations.
fn best_ns<K: Key>(writer: &Writer<K>, keys: &[K], vector: usize) -> f64 {
    let mut values = vec![0; vector];
    let mut best = f64::MAX;
    for keys in keys.chunks_exact(1 << 13) {
        let start = Instant::now();
        for keys in keys.chunks(vector) {
            writer.fib().lookup_batch(keys, &mut values);
        }
        best = best.min(start.elapsed().as_nanos() as f64 / keys.len() as f64);
    }
    best
}

fn measure<K: Key>(name: &str, routes: &[(Prefix<K>, u32)], within: impl Fn(Prefix<K>, u64) -> K) {
    if std::env::args().nth(1).is_some_and(|wanted| !name.contains(&wanted)) {
        return;
    }
    let mut writer = Writer::new().expect("memory");
    let start = Instant::now();
    for (generation, (prefix, value)) in routes.iter().enumerate() {
        let _ = writer.insert(*prefix, *value).expect("memory");
        writer.retire(generation as u64);
        writer.reclaim(generation as u64);
    }
    let insert_ns = start.elapsed().as_nanos() as f64 / routes.len() as f64;
    let mut state = 5;
    let keys: Vec<K> = (0..1 << 21)
        .map(|_| {
            let (prefix, _) = routes[(random(&mut state) % routes.len() as u64) as usize];
            within(prefix, random(&mut state))
        })
        .collect();
    let [whole, four, one] = [256, 4, 1].map(|vector| best_ns(&writer, &keys, vector));
    println!(
        "{name:34} lookup {whole:5.1} ns (vectors of 4: {four:5.1}, of 1: {one:5.1}), insert {insert_ns:6.0} ns, nodes {:6} KiB",
        writer.memory().used_bytes / 1024
    );
}

/// Nanoseconds of a thousand dependent additions: what to compare figures of different machines and moments by.
fn calibration_ns() -> f64 {
    (0..2000).fold(f64::MAX, |best, _| {
        let start = Instant::now();
        let mut sum = 1u64;
        for n in 0..1000u64 {
            sum = std::hint::black_box(sum + n);
        }
        best.min(start.elapsed().as_nanos() as f64)
    })
}

fn main() {
    println!("a thousand dependent additions: {:.0} ns", calibration_ns());
    let mut state = 1;
    for (name, count, len) in [
        ("IPv4, 1 default route", 1usize, 0u8),
        ("IPv4, 1 /24", 1, 24),
        ("IPv4, 1 /32", 1, 32),
        ("IPv4, 1,000 /24", 1_000, 24),
        ("IPv4, 1,000 /26", 1_000, 26),
        ("IPv4, 60,000 /24", 60_000, 24),
        ("IPv4, 1,000,000 /24", 1_000_000, 24),
        ("IPv4, 1,000,000 /32", 1_000_000, 32),
    ] {
        let routes: Vec<_> = (0..count)
            .map(|_| {
                (Prefix::new(random(&mut state) as u32, len).unwrap(), random(&mut state) as u32 % 64 + 1)
            })
            .collect();
        measure(name, &routes, |prefix, host| {
            prefix.address() | host as u32 & u32::MAX.checked_shr(u32::from(len)).unwrap_or(0)
        });
    }
    let pods: Vec<_> = (0..65_536).map(|n| (Prefix::new(0x0a40_0000 | n, 32).unwrap(), n + 1)).collect();
    measure("IPv4, 65,536 /32 in one /16", &pods, |prefix, _| prefix.address());
    let neighbours: Vec<_> =
        (0..1000).map(|n| (Prefix::new(0x2400 << 112 | n << 80, 48).unwrap(), n as u32 % 16 + 1)).collect();
    measure("IPv6, 1,000 /48 side by side", &neighbours, |prefix, host| prefix.address() | u128::from(host));
    for (name, count, len) in [
        ("IPv6, 1 /48", 1usize, 48u8),
        ("IPv6, 1 /128", 1, 128),
        ("IPv6, 1,000 /48", 1_000, 48),
        ("IPv6, 200,000 /48", 200_000, 48),
        ("IPv6, 200,000 /64", 200_000, 64),
        ("IPv6, 200,000 /128", 200_000, 128),
    ] {
        let routes: Vec<_> = (0..count)
            .map(|_| {
                let address =
                    u128::from(random(&mut state) >> 3 | 1 << 61) << 64 | u128::from(random(&mut state));
                (Prefix::new(address, len).unwrap(), random(&mut state) as u32 % 64 + 1)
            })
            .collect();
        measure(name, &routes, |prefix, host| {
            prefix.address() | u128::from(host) & u128::MAX.checked_shr(u32::from(len)).unwrap_or(0)
        });
    }
    // As the registries give them out: parts of allocations in a few /16.
    let allocations: Vec<u128> = (0..33_333)
        .map(|_| {
            (0x2400 + u128::from(random(&mut state) % 38)) << 112
                | u128::from(random(&mut state) % 8192) << 99
        })
        .collect();
    let internet: Vec<_> = (0..200_000)
        .map(|_| {
            let allocation = allocations[(random(&mut state) % 33_333) as usize];
            let len = [32, 48, 48, 48, 48, 48, 48, 48, 44, 44, 40, 40, 36, 46, 38, 64]
                [(random(&mut state) % 16) as usize];
            let part = u128::from(random(&mut state) % (1 << (len - 32).min(8))) << (128 - len);
            (Prefix::new(allocation | part, len as u8).unwrap(), random(&mut state) as u32 % 64 + 1)
        })
        .collect();
    measure("IPv6, 200,000 as in the Internet", &internet, |prefix, host| {
        prefix.address() | u128::from(host)
    });
}
