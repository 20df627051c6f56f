//! Route tables and the destinations behind them, the same in every run.
//!
//! Lengths are spread about as in the Internet's tables of these years: of IPv4's routes six in ten are /24, a tenth each /23 and
//! /22, the rest /21 to /16 and a few shorter; of IPv6's nearly half are /48, others /44, /40, /36, /32, /29 and between.
//! IPv4 routes lie anywhere in unicast space. IPv6 routes lie, as the registries give them out, in a few tens of /16: an
//! eighth are allocations themselves, the others parts of a random one of them.

use crate::workload::{Routes, Workload};
use fib::{Key, Prefix};
use std::collections::HashSet;

/// Destinations that are gone through again and again, where the table covers so many.
const DESTINATIONS: usize = 1 << 22;
/// The same for 1,000 routes of 256 addresses.
const FEW_DESTINATIONS: usize = 1 << 17;
/// Where consecutive IPv4 routes begin (16.0.0.0) and IPv6 routes (`2400::`).
const FIRST_IPV4: u32 = 16 << 24;
const FIRST_IPV6: u128 = 0x2400 << 112;
/// The first 16 bits of what the registries give out.
const REGISTRIES: [u16; 38] = [
    0x2001, 0x2400, 0x2401, 0x2402, 0x2403, 0x2404, 0x2405, 0x2406, 0x2407, 0x2408, 0x2409, 0x240a, 0x240d,
    0x240e, 0x2600, 0x2601, 0x2602, 0x2603, 0x2604, 0x2605, 0x2606, 0x2607, 0x2620, 0x2800, 0x2801, 0x2803,
    0x2804, 0x2806, 0x2a00, 0x2a01, 0x2a02, 0x2a03, 0x2a04, 0x2a05, 0x2a06, 0x2a09, 0x2a0e, 0x2c0f,
];
/// Lengths of IPv4 routes with their shares of a thousand.
const LENGTHS4: [(u8, u64); 13] = [
    (24, 605),
    (23, 102),
    (22, 115),
    (21, 52),
    (20, 47),
    (19, 27),
    (18, 15),
    (17, 9),
    (16, 14),
    (15, 5),
    (14, 4),
    (13, 3),
    (12, 2),
];
/// Lengths of IPv6 routes that are parts of allocations, with their shares of a thousand.
const LENGTHS6: [(u8, u64); 14] = [
    (48, 520),
    (47, 25),
    (46, 35),
    (45, 20),
    (44, 120),
    (42, 30),
    (40, 105),
    (38, 20),
    (36, 55),
    (34, 20),
    (33, 20),
    (56, 10),
    (64, 15),
    (52, 5),
];

/// Routes and destinations of one family.
pub struct Plan<K> {
    /// Distinct prefixes.
    pub prefixes: Vec<Prefix<K>>,
    /// Distinct addresses that each lie in one of them, in random order.
    pub destinations: Vec<K>,
}

/// A family's part of making a plan.
pub trait Family: Key + std::hash::Hash {
    /// The first of consecutive routes.
    const FIRST: Self;
    /// Moves an address by `index` prefixes of `len` bits.
    fn step(self, index: usize, len: u8) -> Self;
    /// Random bits.
    fn random(random: &mut Random) -> Self;
    /// This address with the bits after the first `len` from `bits`.
    fn filled(self, len: u8, bits: Self) -> Self;
    /// Whether packets to this address may leave their link.
    fn is_forwarded(self) -> bool;
    /// A random route as the Internet has them.
    fn internet(random: &mut Random, allocations: &[Self]) -> (Self, u8);
    /// A random route of such a length anywhere.
    fn scattered(random: &mut Random) -> (Self, u8);
    /// What routes are parts of, if anything.
    fn allocations(count: usize, random: &mut Random) -> Vec<Self>;
}

impl<K: Family> Plan<K> {
    /// The table and the destinations of a workload.
    pub fn new(workload: &Workload, random: &mut Random) -> Self {
        let prefixes: Vec<Prefix<K>> = match workload.routes {
            Routes::One => Prefix::new(K::FIRST, K::BITS).into_iter().collect(),
            Routes::Wide => Prefix::new(K::FIRST, 8).into_iter().collect(),
            Routes::Uniform { count, len } => {
                (0..count).filter_map(|index| Prefix::new(K::FIRST.step(index, len), len)).collect()
            }
            Routes::Internet { count } => {
                let allocations = K::allocations(count, random);
                distinct(count, || {
                    let (address, len) = K::internet(random, &allocations);
                    Prefix::new(address, len)
                })
            }
            Routes::Scattered { count } => distinct(count, || {
                let (address, len) = K::scattered(random);
                Prefix::new(address, len)
            }),
        };
        let count = match workload.routes {
            Routes::One => 1,
            Routes::Uniform { count: 1000, .. } if K::BITS == 32 => FEW_DESTINATIONS,
            _ => DESTINATIONS,
        };
        let destinations = distinct(count, || {
            let prefix = prefixes[random.below(prefixes.len() as u64) as usize];
            Some(prefix.address().filled(prefix.len(), K::random(random)))
                .filter(|address| address.is_forwarded())
        });
        Self { prefixes, destinations }
    }
}

/// Draws until there are `count` different ones.
fn distinct<T: Copy + Eq + std::hash::Hash>(count: usize, mut draw: impl FnMut() -> Option<T>) -> Vec<T> {
    let mut seen = HashSet::with_capacity(count);
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let Some(one) = draw() else { continue };
        if seen.insert(one) {
            all.push(one);
        }
    }
    all
}

impl Family for u32 {
    const FIRST: Self = FIRST_IPV4;

    fn step(self, index: usize, len: u8) -> Self {
        self + ((index as u32) << (32 - len))
    }

    fn random(random: &mut Random) -> Self {
        random.bits() as u32
    }

    fn filled(self, len: u8, bits: Self) -> Self {
        self | bits & u32::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn is_forwarded(self) -> bool {
        self >> 16 != 0xa9fe
    }

    fn internet(random: &mut Random, _: &[Self]) -> (Self, u8) {
        Self::scattered(random)
    }

    fn scattered(random: &mut Random) -> (Self, u8) {
        // Unicast (1 to 223), but not loopback.
        let octet = match 1 + random.below(222) as u32 {
            octet @ ..127 => octet,
            octet => octet + 1,
        };
        (octet << 24 | random.bits() as u32 >> 8, random.length(&LENGTHS4))
    }

    fn allocations(_: usize, _: &mut Random) -> Vec<Self> {
        Vec::new()
    }
}

impl Family for u128 {
    const FIRST: Self = FIRST_IPV6;

    fn step(self, index: usize, len: u8) -> Self {
        self + ((index as u128) << (128 - len))
    }

    fn random(random: &mut Random) -> Self {
        u128::from(random.bits()) << 64 | u128::from(random.bits())
    }

    fn filled(self, len: u8, bits: Self) -> Self {
        self | bits & u128::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn is_forwarded(self) -> bool {
        true
    }

    fn internet(random: &mut Random, allocations: &[Self]) -> (Self, u8) {
        let allocation = allocations[random.below(allocations.len() as u64) as usize];
        if random.below(8) == 0 {
            return (allocation, if random.below(4) == 0 { 29 } else { 32 });
        }
        let len = random.length(&LENGTHS6);
        // Who has an allocation numbers its parts from the first on.
        let part = random.below(1 << (len - 32).min(8)) << 32 >> (len - 32);
        (allocation | u128::from(part) << 64, len)
    }

    fn scattered(random: &mut Random) -> (Self, u8) {
        let address = 0x2000 << 112 | Self::random(random) >> 3;
        (address, if random.below(8) == 0 { 32 } else { random.length(&LENGTHS6) })
    }

    fn allocations(count: usize, random: &mut Random) -> Vec<Self> {
        let allocation = |_| {
            let registry = REGISTRIES[random.below(REGISTRIES.len() as u64) as usize];
            u128::from(registry) << 112 | u128::from(random.below(1 << 13)) << 99
        };
        (0..count / 6).map(allocation).collect()
    }
}

/// Sebastiano Vigna's `SplitMix64`: the same numbers in every run.
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }

    fn length(&mut self, shares: &[(u8, u64)]) -> u8 {
        let mut rest = self.below(shares.iter().map(|(_, share)| share).sum());
        for (len, share) in shares {
            match rest.checked_sub(*share) {
                Some(more) => rest = more,
                None => return *len,
            }
        }
        shares[0].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    fn check<K: Family>(workload: &Workload) {
        let plan = Plan::<K>::new(workload, &mut Random(1));
        let routes: HashSet<_> = plan.prefixes.iter().collect();
        let destinations: HashSet<_> = plan.destinations.iter().collect();
        let (Routes::Internet { count } | Routes::Scattered { count }) = workload.routes else { return };
        assert_eq!((routes.len(), destinations.len()), (count, DESTINATIONS), "{}", workload.name());
        let covered = |address: K| {
            (0..=K::BITS).any(|len| Prefix::new(address, len).is_some_and(|p| routes.contains(&p)))
        };
        assert!(plan.destinations.iter().step_by(977).all(|address| covered(*address)));
    }

    #[test]
    fn large_tables_are_as_large_as_they_say() {
        for workload in workload::all() {
            match workload.routes {
                Routes::Internet { .. } | Routes::Scattered { .. } if workload.ipv6 => {
                    check::<u128>(&workload);
                }
                Routes::Internet { .. } | Routes::Scattered { .. } => check::<u32>(&workload),
                _ => {}
            }
        }
    }
}
