//! Ordered selectors, of which the first that matches is found without going through all.
//!
//! Selectors whose prefixes have the same two lengths are of one *shape*, and of a shape at most one pair of prefixes covers a
//! packet: a hash table finds it. So a lookup costs a probe for each shape, however many selectors there are, and shapes whose
//! first selector comes behind a match are not looked at. Selectors of one pair of prefixes, which differ in protocol and
//! ports, are gone through in order.

use crate::{PacketFacts, Selector};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use hashbrown::HashTable;
use ipnet::IpNet;

/// Selectors in order, and what each is for.
pub(crate) struct Rules<T> {
    /// By the first of their rules.
    shapes: Box<[Shape]>,
    /// Those of one pair of prefixes together, in order.
    rules: Box<[Rule<T>]>,
}

struct Rule<T> {
    /// Its place in the order.
    place: usize,
    selector: Selector,
    value: T,
}

/// Selectors with prefixes of the same lengths.
struct Shape {
    is_ipv6: bool,
    /// The bits of the addresses that count.
    masks: [u128; 2],
    /// The lowest place of its rules.
    first: usize,
    pairs: HashTable<Pair>,
}

/// Two prefixes and their rules.
struct Pair {
    prefixes: [u128; 2],
    first: usize,
    end: usize,
}

/// Lengths of source and destination after the family, then the prefixes themselves.
type Key = (bool, [u8; 2], [u128; 2]);

impl<T: Copy> Rules<T> {
    pub(crate) fn new(selectors: impl Iterator<Item = (Selector, T)>) -> Self {
        let mut sorted: BTreeMap<Key, Vec<Rule<T>>> = BTreeMap::new();
        for (place, (selector, value)) in selectors.enumerate() {
            // One of two families matches nothing.
            if let Some(key) = key(&selector) {
                sorted.entry(key).or_default().push(Rule { place, selector, value });
            }
        }
        let mut shapes: Vec<Shape> = Vec::new();
        let mut rules = Vec::new();
        for ((is_ipv6, lengths, prefixes), of_pair) in sorted {
            let (masks, place) = (lengths.map(mask), of_pair[0].place);
            if !shapes.last().is_some_and(|last| last.is_ipv6 == is_ipv6 && last.masks == masks) {
                shapes.push(Shape { is_ipv6, masks, first: place, pairs: HashTable::new() });
            }
            let Some(shape) = shapes.last_mut() else { continue };
            shape.first = shape.first.min(place);
            let pair = Pair { prefixes, first: rules.len(), end: rules.len() + of_pair.len() };
            let _ = shape.pairs.insert_unique(hash(prefixes), pair, |pair| hash(pair.prefixes));
            rules.extend(of_pair);
        }
        shapes.sort_by_key(|shape| shape.first);
        Self { shapes: shapes.into(), rules: rules.into() }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the first selector that matches is for.
    #[inline]
    pub(crate) fn find(&self, packet: &PacketFacts) -> Option<T> {
        let [(is_ipv6, source), (_, destination)] = [packet.source, packet.destination].map(bits);
        let mut found: Option<&Rule<T>> = None;
        for shape in &self.shapes {
            if found.is_some_and(|found| found.place < shape.first) {
                break;
            }
            if shape.is_ipv6 != is_ipv6 {
                continue;
            }
            let wanted = [source & shape.masks[0], destination & shape.masks[1]];
            let Some(pair) = shape.pairs.find(hash(wanted), |pair| pair.prefixes == wanted) else { continue };
            let rules = self.rules.get(pair.first..pair.end).unwrap_or_default();
            let first = rules.iter().find(|rule| rule.selector.matches(packet));
            if let Some(first) = first
                && found.is_none_or(|found| first.place < found.place)
            {
                found = Some(first);
            }
        }
        found.map(|rule| rule.value)
    }
}

impl<T> Default for Rules<T> {
    fn default() -> Self {
        Self { shapes: Box::default(), rules: Box::default() }
    }
}

impl<T> fmt::Debug for Rules<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("shapes", &self.shapes.len())
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}

fn key(selector: &Selector) -> Option<Key> {
    let [(is_ipv6, source), (also, destination)] =
        [selector.source, selector.destination].map(|prefix| bits(prefix.network()));
    let lengths = [selector.source, selector.destination].map(|prefix: IpNet| prefix.prefix_len());
    (is_ipv6 == also).then_some((is_ipv6, lengths, [source, destination]))
}

/// The family, and an address in the upper bits.
#[inline]
fn bits(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(address) => (false, u128::from(address.to_bits()) << 96),
        IpAddr::V6(address) => (true, address.to_bits()),
    }
}

/// So many upper bits.
fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// Of two prefixes. What is in a table comes from the configuration, so that strangers cannot choose what collides.
#[inline]
fn hash(prefixes: [u128; 2]) -> u64 {
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * 0x9e37_79b9_7f4a_7c15;
        product as u64 ^ (product >> 64) as u64
    };
    let [source, destination] = prefixes;
    let words = [(source >> 64) as u64, source as u64, (destination >> 64) as u64, destination as u64];
    words.into_iter().fold(0x2545_f491_4f6c_dd1d, fold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    /// Addresses that share prefixes of all lengths with others.
    fn address(ipv6: bool) -> impl Strategy<Value = IpAddr> {
        (0..129u32, 0..3u8).prop_map(move |(bit, kind)| {
            let bits = match kind {
                0 => 0,
                1 => 1u128.checked_shl(bit).unwrap_or(0),
                _ => u128::MAX.checked_shl(bit).unwrap_or(0),
            };
            if ipv6 { Ipv6Addr::from(bits).into() } else { Ipv4Addr::from((bits >> 96) as u32).into() }
        })
    }

    fn prefix(ipv6: bool) -> impl Strategy<Value = IpNet> {
        (address(ipv6), 0..129u8).prop_map(move |(address, length)| {
            IpNet::new(address, length % if ipv6 { 129 } else { 33 }).unwrap()
        })
    }

    fn ports() -> impl Strategy<Value = (u16, u16)> {
        prop_oneof![3 => Just((0, u16::MAX)), 1 => (0..6u16, 0..6u16)]
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let families =
            prop_oneof![8 => Just((false, false)), 8 => Just((true, true)), 1 => Just((false, true))];
        families.prop_flat_map(|(source, destination)| {
            let protocol = prop_oneof![Just(None), Just(Some(6)), Just(Some(17))];
            (prefix(source), prefix(destination), protocol, ports(), ports()).prop_map(
                |(source, destination, protocol, source_ports, destination_ports)| Selector {
                    source,
                    destination,
                    protocol,
                    source_ports,
                    destination_ports,
                },
            )
        })
    }

    fn facts() -> impl Strategy<Value = PacketFacts> {
        any::<bool>().prop_flat_map(|ipv6| {
            let ports = prop_oneof![1 => Just(None), 3 => (0..8u16, 0..8u16).prop_map(Some)];
            let protocol = prop_oneof![Just(None), Just(Some(6)), Just(Some(17)), Just(Some(1))];
            (address(ipv6), address(ipv6), protocol, ports).prop_map(
                |(source, destination, protocol, ports)| PacketFacts { source, destination, protocol, ports },
            )
        })
    }

    proptest! {
        #[test]
        fn the_first_match_is_found(
            selectors in prop::collection::vec(selector(), 0..80),
            packets in prop::collection::vec(facts(), 1..80),
        ) {
            let rules = Rules::new(selectors.iter().copied().zip(0..));
            for packet in &packets {
                let expected = selectors.iter().position(|selector| selector.matches(packet));
                prop_assert_eq!(rules.find(packet), expected);
            }
        }
    }

    /// A thousand pairs of hosts between two nets take one probe each, not a thousand comparisons.
    #[test]
    fn selectors_of_one_shape_share_a_table() {
        let net = |n: u32| IpNet::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)));
        let rules = Rules::new((0..1000).map(|n| (Selector::between(net(n), net(n + 1)), n)));
        assert_eq!((rules.shapes.len(), rules.rules.len()), (1, 1000));
        assert!(rules.rules.iter().enumerate().all(|(at, rule)| rule.place == at));
    }
}
