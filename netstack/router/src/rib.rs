//! The routes of one family: by source, from the preferred to the least.
//!
//! A route is a prefix and the group of next hops it leads to: 12 bytes for IPv4 before the map's own overhead.

use alloc::{collections::BTreeMap, vec::Vec};
use core::ops::Bound;

use dataplane::GroupId;
use fib::{Key, Prefix};

use crate::Source;

type Routes<K> = BTreeMap<Prefix<K>, GroupId>;

/// All routes of one family.
pub(crate) struct Rib<K> {
    by_source: [Routes<K>; Source::ALL.len()],
}

impl<K: Key> Rib<K> {
    pub(crate) fn new() -> Self {
        Self { by_source: Default::default() }
    }

    /// Adds or replaces; gives what it replaced.
    pub(crate) fn insert(&mut self, source: Source, prefix: Prefix<K>, group: GroupId) -> Option<GroupId> {
        self.by_source[source as usize].insert(prefix, group)
    }

    pub(crate) fn remove(&mut self, source: Source, prefix: Prefix<K>) -> Option<GroupId> {
        self.by_source[source as usize].remove(&prefix)
    }

    pub(crate) fn routes(&self, source: Source) -> &Routes<K> {
        &self.by_source[source as usize]
    }

    /// The routes for exactly this prefix, the preferred one first.
    pub(crate) fn candidates(&self, prefix: Prefix<K>) -> impl Iterator<Item = (Source, GroupId)> {
        Source::ALL
            .into_iter()
            .filter_map(move |source| Some((source, *self.by_source[source as usize].get(&prefix)?)))
    }

    /// The routes of a source for this prefix and for all that it lies in.
    pub(crate) fn covering(&self, source: Source, prefix: Prefix<K>) -> impl Iterator<Item = GroupId> {
        let routes = &self.by_source[source as usize];
        let lens = if routes.is_empty() { 0..0 } else { 0..prefix.len() + 1 };
        lens.filter_map(move |len| routes.get(&Prefix::new(prefix.address(), len)?).copied())
    }

    /// The longest prefix for `address` that has a route which `accept`s.
    pub(crate) fn longest(&self, address: K, accept: impl Fn(Prefix<K>) -> bool) -> Option<Prefix<K>> {
        let prefixes = (0..=K::BITS).rev().filter_map(|len| Prefix::new(address, len));
        prefixes.into_iter().find(|prefix| self.candidates(*prefix).next().is_some() && accept(*prefix))
    }

    /// At most `limit` routes that lie `within` a prefix and come after `after`, by prefix, then source.
    pub(crate) fn page(
        &self,
        within: Prefix<K>,
        after: Option<(Prefix<K>, Source)>,
        limit: usize,
    ) -> Vec<(Prefix<K>, Source, GroupId)> {
        let mut page = Vec::new();
        let Some(end) = Prefix::new(within.last_address(), K::BITS) else { return page };
        for source in Source::ALL {
            let start = match after {
                Some((prefix, last)) if prefix >= within && source <= last => Bound::Excluded(prefix),
                Some((prefix, _)) if prefix >= within => Bound::Included(prefix),
                _ => Bound::Included(within),
            };
            if matches!(start, Bound::Included(start) | Bound::Excluded(start) if start > end)
                || start == Bound::Excluded(end)
            {
                continue;
            }
            let range = self.by_source[source as usize].range((start, Bound::Included(end)));
            page.extend(range.take(limit).map(|(prefix, group)| (*prefix, source, *group)));
        }
        page.sort_unstable_by_key(|(prefix, source, _)| (*prefix, *source));
        page.truncate(limit);
        page
    }

    /// Number of routes of a source.
    pub(crate) fn count(&self, source: Source) -> usize {
        self.by_source[source as usize].len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Operation {
        Insert(Source, Prefix<u32>, u32),
        Remove(Source, Prefix<u32>),
        Page(Prefix<u32>, usize),
        Longest(u32),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let source = (0..Source::ALL.len()).prop_map(|n| Source::ALL[n]);
        let address = (0u32..4, 0u32..4, 0u32..3).prop_map(|(a, b, c)| a << 30 | b << 16 | c);
        let prefix = (address.clone(), prop_oneof![Just(0u8), Just(2), Just(16), Just(31), Just(32)])
            .prop_map(|(address, len)| Prefix::new(address, len).unwrap());
        prop_oneof![
            5 => (source.clone(), prefix.clone(), 1u32..9).prop_map(|(s, p, g)| Operation::Insert(s, p, g)),
            3 => (source, prefix.clone()).prop_map(|(s, p)| Operation::Remove(s, p)),
            1 => (prefix, 1usize..5).prop_map(|(p, n)| Operation::Page(p, n)),
            1 => address.prop_map(Operation::Longest),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(operations in prop::collection::vec(operation(), 1..150)) {
            let mut rib = Rib::new();
            let mut list: Vec<(Prefix<u32>, Source, GroupId)> = Vec::new();
            for operation in operations {
                match operation {
                    Operation::Insert(source, prefix, group) => {
                        let _ = rib.insert(source, prefix, GroupId(group));
                        list.retain(|route| (route.0, route.1) != (prefix, source));
                        list.push((prefix, source, GroupId(group)));
                    }
                    Operation::Remove(source, prefix) => {
                        let before = list.len();
                        list.retain(|route| (route.0, route.1) != (prefix, source));
                        prop_assert_eq!(rib.remove(source, prefix).is_some(), list.len() < before);
                    }
                    Operation::Page(within, limit) => {
                        let inside = |p: Prefix<u32>| within.contains(p.address()) && p.len() >= within.len();
                        let mut wanted: Vec<_> = list.iter().copied().filter(|route| inside(route.0)).collect();
                        wanted.sort_by_key(|route| (route.0, route.1));
                        let (mut got, mut after) = (Vec::new(), None);
                        loop {
                            let page = rib.page(within, after, limit);
                            prop_assert!(page.len() <= limit);
                            let Some(last) = page.last() else { break };
                            after = Some((last.0, last.1));
                            got.extend(page);
                        }
                        prop_assert_eq!(got, wanted);
                    }
                    Operation::Longest(address) => {
                        let covering = list.iter().map(|route| route.0).filter(|prefix| prefix.contains(address));
                        let wanted = covering.max_by_key(|prefix| prefix.len());
                        prop_assert_eq!(rib.longest(address, |_| true), wanted);
                        let best = wanted.and_then(|prefix| rib.candidates(prefix).next());
                        let first = list.iter().filter(|route| Some(route.0) == wanted).min_by_key(|route| route.1);
                        prop_assert_eq!(best, first.map(|route| (route.1, route.2)));
                    }
                }
            }
        }
    }
}
