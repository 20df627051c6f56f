//! The tables against a naive one, alone and with readers at work.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use fib::{Fib, Fib4Writer, Fib6Writer, Key, NO_ROUTE, Prefix, Writer};
use proptest::prelude::*;

/// The table anybody would write first.
struct Naive<K>(BTreeMap<Prefix<K>, u32>);

impl<K: Key> Naive<K> {
    fn lookup(&self, destination: K) -> u32 {
        let mut lens = (0..=K::BITS).rev().filter_map(|len| Prefix::new(destination, len));
        lens.find_map(|prefix| self.0.get(&prefix).copied()).unwrap_or(NO_ROUTE)
    }
}

#[derive(Clone, Debug)]
enum Operation<K> {
    Insert(Prefix<K>, u32),
    Remove(Prefix<K>),
    /// Remove the nth of the routes there are.
    RemoveNth(usize),
    Lookup(Vec<K>),
    Reclaim,
}

/// Addresses that often share leading bits, so that routes nest and paths part everywhere.
fn address4() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..2, 0u32..3, 0u32..4, 0u32..8).prop_map(|(a, b, c, d)| a << 31 | b << 16 | c << 8 | d),
        (0u32..4, any::<u8>()).prop_map(|(a, b)| 0x0a00_0000 | a << 6 | u32::from(b) << 8),
    ]
}

fn address6() -> impl Strategy<Value = u128> {
    let flips = prop::collection::vec(0u32..128, 0..3);
    prop_oneof![
        any::<u128>(),
        flips.prop_map(|bits| bits.iter().fold(0x2001_0db8 << 96, |address: u128, bit| address ^ 1 << bit)),
        (0u128..4, 0u128..3, 0u128..3, 0u128..9).prop_map(|(a, b, c, d)| a << 126
            | b << 90
            | c << 66
            | c << 60
            | d << 2
            | b),
    ]
}

fn operations<K: Key>(address: impl Strategy<Value = K> + Clone) -> impl Strategy<Value = Vec<Operation<K>>> {
    let len =
        prop_oneof![0..=K::BITS, Just(K::BITS), Just(24), (0..=K::BITS / 8).prop_map(|bytes| bytes * 8)];
    let prefix = (address.clone(), len).prop_map(|(address, len)| Prefix::new(address, len).unwrap());
    let operation = prop_oneof![
        6 => (prefix.clone(), 1u32..6).prop_map(|(prefix, value)| Operation::Insert(prefix, value)),
        1 => prefix.prop_map(Operation::Remove),
        3 => any::<usize>().prop_map(Operation::RemoveNth),
        2 => prop::collection::vec(address, 0..70).prop_map(Operation::Lookup),
        1 => Just(Operation::Reclaim),
    ];
    prop::collection::vec(operation, 1..200)
}

/// Looks at both ends of every route and just outside.
fn edges<K: Key + From4>(naive: &Naive<K>) -> Vec<K> {
    naive.0.keys().flat_map(|prefix| K::edges(*prefix)).collect()
}

trait From4: Sized {
    fn edges(prefix: Prefix<Self>) -> [Self; 4];
}

macro_rules! edges {
    ($key:ty) => {
        impl From4 for $key {
            fn edges(prefix: Prefix<Self>) -> [Self; 4] {
                let host = <$key>::MAX.checked_shr(u32::from(prefix.len())).unwrap_or(0);
                let (first, last) = (prefix.address(), prefix.address() | host);
                [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
            }
        }
    };
}
edges!(u32);
edges!(u128);

fn agree<K: Key>(writer: &Writer<K>, naive: &Naive<K>, keys: &[K]) {
    let mut values = vec![u32::MAX; keys.len()];
    writer.fib().lookup_batch(keys, &mut values);
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value, naive.lookup(*key), "{key:x?} in a batch");
        assert_eq!(writer.fib().lookup(*key), value, "{key:x?} alone");
    }
}

fn run<K: Key + From4>(operations: Vec<Operation<K>>) {
    let mut writer = Writer::new().unwrap();
    let mut naive = Naive(BTreeMap::new());
    let mut generation = 0;
    for operation in operations {
        let operation = match operation {
            Operation::RemoveNth(n) if !naive.0.is_empty() => {
                Operation::Remove(*naive.0.keys().nth(n % naive.0.len()).unwrap())
            }
            other => other,
        };
        match operation {
            Operation::Insert(prefix, value) => {
                assert_eq!(writer.insert(prefix, value), Ok(naive.0.insert(prefix, value)));
            }
            Operation::Remove(prefix) => assert_eq!(writer.remove(prefix), Ok(naive.0.remove(&prefix))),
            Operation::Lookup(keys) => agree(&writer, &naive, &keys),
            Operation::Reclaim => {
                generation += 1;
                writer.retire(generation);
                writer.reclaim(generation);
            }
            Operation::RemoveNth(_) => {}
        }
    }
    agree(&writer, &naive, &edges(&naive));
    assert_eq!(writer.len(), naive.0.len());
    assert_eq!(writer.iter().collect::<BTreeMap<_, _>>(), naive.0);
    for prefix in naive.0.keys() {
        assert_eq!(writer.get(*prefix), Some(naive.0[prefix]));
        let _ = writer.remove(*prefix).unwrap();
    }
    writer.retire(u64::MAX);
    writer.reclaim(u64::MAX);
    assert_eq!((writer.memory().used_bytes, writer.memory().unlinked_bytes), (0, 0), "all nodes are gone");
    agree(&writer, &Naive(BTreeMap::new()), &edges(&naive));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn ipv4_agrees_with_the_naive_table(operations in operations(address4().boxed())) {
        run(operations);
    }

    #[test]
    fn ipv6_agrees_with_the_naive_table(operations in operations(address6().boxed())) {
        run(operations);
    }
}

/// A repeatable source of numbers (xorshift64).
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn sample<K: Key + From4>(writer: &Writer<K>, naive: &Naive<K>, every: usize) {
    let keys: Vec<K> = naive.0.keys().step_by(every).flat_map(|prefix| K::edges(*prefix)).collect();
    agree(writer, naive, &keys);
}

#[test]
fn a_million_ipv4_routes() {
    let (mut writer, mut naive, mut state) = (Fib4Writer::new().unwrap(), Naive(BTreeMap::new()), 7);
    for n in 0..1_000_000u32 {
        let len = match n % 16 {
            0 => random(&mut state) % 9 + 8,
            1 => random(&mut state) % 8 + 25,
            2..6 => random(&mut state) % 7 + 17,
            _ => 24,
        };
        let prefix = Prefix::new(random(&mut state) as u32, len as u8).unwrap();
        let value = (random(&mut state) % 1000 + 1) as u32;
        assert_eq!(writer.insert(prefix, value).unwrap(), naive.0.insert(prefix, value));
        if n % 4096 == 0 {
            writer.retire(u64::from(n));
            writer.reclaim(u64::from(n));
        }
    }
    sample(&writer, &naive, 101);
    assert!(writer.memory().table_bytes < 192 << 20, "{:?}", writer.memory());
    for prefix in naive.0.keys() {
        let _ = writer.remove(*prefix).unwrap();
    }
    writer.retire(u64::MAX);
    writer.reclaim(u64::MAX);
    assert_eq!((writer.memory().used_bytes, writer.memory().unlinked_bytes, writer.len()), (0, 0, 0));
}

#[test]
fn two_hundred_thousand_ipv6_routes() {
    let (mut writer, mut naive, mut state) = (Fib6Writer::new().unwrap(), Naive(BTreeMap::new()), 9);
    for n in 0..200_000u64 {
        let len = [29, 32, 36, 40, 44, 48, 48, 48, 48, 48, 56, 64, 64, 122, 128, 128][n as usize % 16];
        let high = random(&mut state) >> 3 | 1 << 61;
        let address = u128::from(high) << 64 | u128::from(random(&mut state));
        let prefix = Prefix::new(address, len).unwrap();
        let value = (random(&mut state) % 1000 + 1) as u32;
        assert_eq!(writer.insert(prefix, value).unwrap(), naive.0.insert(prefix, value));
        writer.retire(n);
        writer.reclaim(n);
    }
    sample(&writer, &naive, 41);
    assert!(writer.memory().table_bytes < 64 << 20, "{:?}", writer.memory());
}

#[test]
fn host_routes_of_a_whole_sixteen() {
    let mut writer = Fib4Writer::new().unwrap();
    for host in 0..65_536u32 {
        let prefix = Prefix::new(0x0a40_0000 | host.reverse_bits() >> 16, 32).unwrap();
        assert_eq!(writer.insert(prefix, host + 1), Ok(None));
        writer.retire(1);
        writer.reclaim(1);
    }
    for host in 0..65_536u32 {
        assert_eq!(writer.fib().lookup(0x0a40_0000 | host.reverse_bits() >> 16), host + 1);
    }
    assert!(writer.memory().table_bytes < 1 << 20, "{:?}", writer.memory());
}

#[test]
fn a_wide_ipv6_node_is_found_however_many_bits_its_way_skips() {
    let (mut writer, mut naive) = (Fib6Writer::new().unwrap(), Naive(BTreeMap::new()));
    let site: u128 = 0x2001_0db8 << 96;
    for n in 0..200u128 {
        let (prefix, value) = (Prefix::new(site | n << 80, 48).unwrap(), n as u32 % 7 + 1);
        assert_eq!(writer.insert(prefix, value), Ok(naive.0.insert(prefix, value)));
    }
    // What parts from the way to the node at bit 40 puts others above it, and takes them away again.
    let bits = [16, 27, 32, 35, 39];
    let parting = bits.map(|bit| Prefix::new(site ^ 1 << (127 - bit), 48).unwrap());
    let strangers: Vec<u128> = bits.iter().map(|bit| (site ^ 1 << (127 - bit)) | 5 << 80).collect();
    for step in 0..64u32 {
        let prefix = parting[step.trailing_ones() as usize % parting.len()];
        if writer.get(prefix).is_some() {
            assert_eq!(writer.remove(prefix), Ok(naive.0.remove(&prefix)));
        } else {
            assert_eq!(writer.insert(prefix, 9), Ok(naive.0.insert(prefix, 9)));
        }
        writer.retire(u64::from(step));
        writer.reclaim(u64::from(step));
        agree(&writer, &naive, &edges(&naive));
        agree(&writer, &naive, &strangers);
    }
}

/// Readers look up while one writer replaces, splits and removes routes over and over. What a key may give is known at all
/// times: the value of one of the two routes that cover it.
fn readers_and_writer<K: Key + From4>(covers: &[Prefix<K>], details: &[Prefix<K>]) {
    let mut writer = Writer::<K>::new().unwrap();
    for (n, cover) in covers.iter().enumerate() {
        let _ = writer.insert(*cover, n as u32 + 1).unwrap();
    }
    // A key inside each detail, and the values it may have: its own or that of the longest cover.
    let keys: Vec<K> = details.iter().flat_map(|prefix| K::edges(*prefix)).collect();
    let mut base = vec![0; keys.len()];
    writer.fib().lookup_batch(&keys, &mut base);
    let allowed = |key: K, base: u32, value: u32| {
        value == base
            || value
                .checked_sub(1000)
                .and_then(|n| details.get(n as usize))
                .is_some_and(|detail| detail.contains(key))
    };
    let (stop, generation) = (AtomicBool::new(false), AtomicU64::new(1));
    let seen: [AtomicU64; 2] = Default::default();
    let lookups = AtomicU32::new(0);
    let fib: Arc<Fib<K>> = writer.fib().clone();
    std::thread::scope(|scope| {
        for seen in &seen {
            let (fib, keys, base, stop, generation, lookups) =
                (&fib, &keys, &base, &stop, &generation, &lookups);
            let _ = scope.spawn(move || {
                let mut values = vec![0; keys.len()];
                while !stop.load(Ordering::Relaxed) {
                    seen.store(generation.load(Ordering::Acquire), Ordering::Release);
                    fib.lookup_batch(keys, &mut values);
                    for ((key, value), base) in keys.iter().zip(&values).zip(base) {
                        assert!(allowed(*key, *base, *value), "{key:x?} gave {value}, not {base}");
                    }
                    let _ = lookups.fetch_add(1, Ordering::Relaxed);
                }
                seen.store(u64::MAX, Ordering::Release);
            });
        }
        let mut state = 3;
        for round in 0..20_000u64 {
            let n = (random(&mut state) % details.len() as u64) as usize;
            if writer.get(details[n]).is_some() {
                let _ = writer.remove(details[n]).unwrap();
            } else {
                let _ = writer.insert(details[n], n as u32 + 1000).unwrap();
            }
            writer.retire(generation.fetch_add(1, Ordering::AcqRel) + 1);
            writer.reclaim(seen.iter().map(|seen| seen.load(Ordering::Acquire)).min().unwrap_or(0));
            if round % 1000 == 0 {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(lookups.into_inner() > 0);
}

#[test]
fn ipv4_readers_see_before_or_after() {
    let prefix = |address: u32, len| Prefix::new(address, len).unwrap();
    let covers = [prefix(0, 0), prefix(0x0a00_0000, 8), prefix(0x0a01_0000, 18), prefix(0x0a01_0100, 25)];
    let mut details = Vec::new();
    for n in 0..8 {
        details.extend([prefix(0x0a01_0000 + (n << 5), 27), prefix(0x0a01_0100 + n, 32)]);
        details.extend([prefix(0x0a01_0000 + (n << 13), 19), prefix(0x0a00_0000 + (n << 14), 24)]);
    }
    readers_and_writer(&covers, &details);
}

#[test]
fn ipv6_readers_see_before_or_after() {
    let site: u128 = 0x2001_0db8 << 96;
    let prefix = |address: u128, len| Prefix::new(address, len).unwrap();
    let covers = [prefix(0, 0), prefix(site, 24), prefix(site | 7 << 64, 62)];
    let mut details = Vec::new();
    for n in 0..8u128 {
        details.extend([prefix(site | n << 80, 48), prefix(site | n << 66, 64), prefix(site | n << 40, 128)]);
        details.extend([prefix(site | 7 << 64 | n << 9, 120), prefix(site ^ n << 90, 43)]);
    }
    // Enough side by side for a wide node while most are there.
    details.extend((0..120u128).map(|n| prefix(site | 9 << 88 | n << 81, 48)));
    readers_and_writer(&covers, &details);
}

/// A wide and a narrow route take turns, the next being there before the last goes: some route always covers the key.
fn turns_leave_no_gap<K: Key>(wide: Prefix<K>, narrow: Prefix<K>, others: &[Prefix<K>]) {
    let mut writer = Writer::<K>::new().unwrap();
    for other in others {
        let _ = writer.insert(*other, 9).unwrap();
    }
    let _ = writer.insert(wide, 1).unwrap();
    let fib: Arc<Fib<K>> = writer.fib().clone();
    let (stop, reached, generation) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(1));
    std::thread::scope(|scope| {
        let _ = scope.spawn(|| {
            let keys = [narrow.address(); 31];
            let mut values = [0; 31];
            let mut distinct: Vec<K> = keys.to_vec();
            distinct.extend(others.first().map(|other| other.address()));
            while !stop.load(Ordering::Relaxed) {
                reached.store(generation.load(Ordering::Acquire), Ordering::Release);
                fib.lookup_batch(&distinct, &mut values);
                assert!(values.iter().all(|value| matches!(value, 1 | 2)), "{values:?}");
                assert!(matches!(fib.lookup(narrow.address()), 1 | 2));
            }
            reached.store(u64::MAX, Ordering::Release);
        });
        for _ in 0..30_000 {
            let _ = writer.insert(narrow, 2).unwrap();
            let _ = writer.remove(wide).unwrap();
            let _ = writer.insert(wide, 1).unwrap();
            let _ = writer.remove(narrow).unwrap();
            writer.retire(generation.fetch_add(1, Ordering::AcqRel) + 1);
            writer.reclaim(reached.load(Ordering::Acquire));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn ipv4_turns_leave_no_gap() {
    let prefix = |address: u32, len| Prefix::new(address, len).unwrap();
    let others = [prefix(0x0a01_0180, 28), prefix(0x0a01_0240, 32)];
    turns_leave_no_gap(prefix(0, 0), prefix(0x0a00_0000, 12), &[]);
    turns_leave_no_gap(prefix(0, 0), prefix(0x0a01_0100, 27), &others);
    turns_leave_no_gap(prefix(0x0a01_0000, 20), prefix(0x0a01_0100, 27), &others);
}

#[test]
fn ipv6_turns_leave_no_gap() {
    let site: u128 = 0x2001_0db8 << 96;
    let prefix = |address: u128, len| Prefix::new(address, len).unwrap();
    let others = [prefix(site | 1 << 72, 64), prefix(site | 9 << 40, 128)];
    turns_leave_no_gap(prefix(0, 0), prefix(site, 48), &others);
    turns_leave_no_gap(prefix(site, 32), prefix(site, 64), &others);
    turns_leave_no_gap(prefix(site, 44), prefix(site | 1, 126), &others);
}
