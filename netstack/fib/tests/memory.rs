//! A table at the end of its memory: what is in it can still be replaced and removed.

use std::collections::BTreeMap;

use fib::{Error, Key, NO_ROUTE, Prefix, Writer};

/// A repeatable source of numbers (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

struct Table<K: Key> {
    writer: Writer<K>,
    naive: BTreeMap<Prefix<K>, u32>,
    generation: u64,
}

impl<K: Key> Table<K> {
    fn new(limit_bytes: usize) -> Self {
        Self { writer: Writer::with_limit(limit_bytes).unwrap(), naive: BTreeMap::new(), generation: 0 }
    }

    fn reclaim(&mut self) {
        self.generation += 1;
        self.writer.retire(self.generation);
        self.writer.reclaim(self.generation);
    }

    /// Adds a route if it fits. A refusal changes nothing.
    fn add(&mut self, prefix: Prefix<K>, value: u32) -> bool {
        match self.writer.insert(prefix, value) {
            Ok(before) => {
                assert_eq!(before, self.naive.insert(prefix, value));
                true
            }
            Err(error) => {
                assert_eq!(error, Error::Memory);
                assert!(!self.naive.contains_key(&prefix) || self.writer.memory().unlinked_bytes > 0);
                assert_eq!(self.writer.get(prefix), self.naive.get(&prefix).copied());
                false
            }
        }
    }

    /// Replaces or removes a route that is there, after memory came back if need be.
    fn change(&mut self, prefix: Prefix<K>, value: u32) {
        let change = |table: &mut Self| match value {
            NO_ROUTE => table.writer.remove(prefix),
            value => table.writer.insert(prefix, value),
        };
        let before = change(self).or_else(|error| {
            assert!(error == Error::Memory && self.writer.memory().unlinked_bytes > 0, "nothing to wait for");
            self.reclaim();
            change(self)
        });
        let expected = match value {
            NO_ROUTE => self.naive.remove(&prefix),
            value => self.naive.insert(prefix, value),
        };
        assert_eq!(before, Ok(expected));
    }

    fn nth(&self, random: &mut Random) -> Prefix<K> {
        let n = random.below(self.naive.len() as u64) as usize;
        *self.naive.keys().nth(n).unwrap()
    }

    fn check(&self) {
        for prefix in self.naive.keys() {
            for key in [prefix.address(), prefix.last_address()] {
                let mut lens = (0..=K::BITS).rev().filter_map(|len| Prefix::new(key, len));
                let expected = lens.find_map(|prefix| self.naive.get(&prefix).copied());
                assert_eq!(self.writer.fib().lookup(key), expected.unwrap_or(NO_ROUTE), "{key:x?}");
            }
        }
    }
}

/// Fills a table, has routes come and go at the brink, and empties it. Reclaims after every `every` changes.
fn at_the_brink<K: Key>(
    seed: u64,
    every: u64,
    values: u64,
    mut prefix: impl FnMut(&mut Random) -> Prefix<K>,
) {
    let (mut table, mut random) = (Table::new(256 << 10), Random(seed));
    let value = |random: &mut Random| random.below(values) as u32 + 1;
    let mut refused = 0;
    while refused < 200 {
        let (prefix, value) = (prefix(&mut random), value(&mut random));
        refused += usize::from(!table.add(prefix, value));
        table.reclaim();
    }
    table.check();
    for n in 0..4000 {
        let old = table.nth(&mut random);
        match random.below(4) {
            0 => table.change(old, NO_ROUTE),
            1 | 2 => table.change(old, value(&mut random)),
            _ => drop(table.add(prefix(&mut random), value(&mut random))),
        }
        if n % every == 0 {
            table.reclaim();
        }
    }
    table.check();
    while !table.naive.is_empty() {
        let old = table.nth(&mut random);
        table.change(old, NO_ROUTE);
        if table.naive.len().is_multiple_of(512) {
            table.check();
        }
    }
    table.reclaim();
    assert_eq!((table.writer.memory().used_bytes, table.writer.memory().table_bytes), (0, 256 << 10));
    assert!(table.add(prefix(&mut random), 1), "an empty table takes routes");
}

fn prefix4(random: &mut Random) -> Prefix<u32> {
    let len = [17, 22, 24, 25, 26, 28, 30, 31, 32, 32, 32, 32][random.below(12) as usize];
    Prefix::new(0x0a00_0000 | (random.below(1 << 13) as u32 * 0x85) & 0xf_ffff, len).unwrap()
}

fn prefix6(random: &mut Random) -> Prefix<u128> {
    let len = [20, 29, 32, 40, 44, 47, 48, 48, 48, 56, 60, 64, 64, 127, 128, 128][random.below(16) as usize];
    let site =
        0x2a00_0000u128 << 96 | u128::from(random.below(16)) << 98 | u128::from(random.below(512)) << 79;
    Prefix::new(site | u128::from(random.below(4)) << 62 | u128::from(random.below(16)), len).unwrap()
}

#[test]
fn a_full_ipv4_table_can_be_changed_and_emptied() {
    for seed in 1..4 {
        at_the_brink(seed, 1, 1000, prefix4);
        at_the_brink(seed, 64, 1000, prefix4);
    }
}

#[test]
fn a_full_ipv6_table_can_be_changed_and_emptied() {
    for seed in 1..4 {
        at_the_brink(seed, 1, 1000, prefix6);
        at_the_brink(seed, 64, 1000, prefix6);
    }
}

/// Routes with the same value hide one another's ends, until one of them goes.
#[test]
fn routes_that_look_alike_can_be_told_apart_at_the_brink() {
    for seed in 1..4 {
        at_the_brink(seed, 1, 1, prefix4);
        at_the_brink(seed, 16, 2, prefix6);
    }
}
