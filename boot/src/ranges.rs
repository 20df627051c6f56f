//! A set of addresses kept as sorted, disjoint ranges: which memory is free.

use core::ops::Range;
use heapless::Vec;

/// The set would need more than its `N` ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangesFull;

impl core::fmt::Display for RangesFull {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("memory is in more pieces than the range table holds")
    }
}

/// Up to `N` ranges of `u64`, in ascending order, neither overlapping nor touching.
#[derive(Debug, Clone, Default)]
pub struct RangeSet<const N: usize> {
    ranges: Vec<Range<u64>, N>,
}

impl<const N: usize> RangeSet<N> {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().cloned()
    }

    /// How many ranges the set has.
    pub fn pieces(&self) -> usize {
        self.ranges.len()
    }

    /// The number of addresses in the set.
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|r| r.end - r.start).sum()
    }

    /// Whether every address of `range` is in the set.
    pub fn contains(&self, range: &Range<u64>) -> bool {
        self.ranges.iter().any(|r| r.start <= range.start && range.end <= r.end)
    }

    /// Adds `range`, joining it with what it overlaps or touches. An empty range changes nothing.
    ///
    /// # Errors
    /// There are `N` ranges already, and this one touches none of them. Nothing has changed then.
    pub fn insert(&mut self, range: Range<u64>) -> Result<(), RangesFull> {
        if range.is_empty() {
            return Ok(());
        }
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let after = self.ranges.partition_point(|r| r.start <= range.end);
        if first == after {
            return self.ranges.insert(first, range).map_err(|_| RangesFull);
        }
        let joined = range.start.min(self.ranges[first].start)..range.end.max(self.ranges[after - 1].end);
        self.ranges[first] = joined;
        self.cut(first + 1, after);
        Ok(())
    }

    /// Takes every address of `range` out.
    ///
    /// # Errors
    /// More than `N` ranges would be left. Nothing has changed then.
    pub fn remove(&mut self, range: Range<u64>) -> Result<(), RangesFull> {
        if range.is_empty() {
            return Ok(());
        }
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        let after = self.ranges.partition_point(|r| r.start < range.end);
        if first == after {
            return Ok(());
        }
        let left = self.ranges[first].start..range.start;
        let right = range.end..self.ranges[after - 1].end;
        let kept = usize::from(left.start < left.end) + usize::from(right.start < right.end);
        if self.ranges.len() - (after - first) + kept > N {
            return Err(RangesFull);
        }
        self.cut(first, after);
        for piece in [right, left] {
            if piece.start < piece.end {
                self.ranges.insert(first, piece).map_err(|_| RangesFull)?;
            }
        }
        Ok(())
    }

    /// Adds `range`; when the set is full, what is smallest is left out of it. Returns how many addresses that were.
    pub fn insert_largest(&mut self, range: Range<u64>) -> u64 {
        if self.insert(range.clone()).is_ok() {
            return 0;
        }
        let bytes = |range: &Range<u64>| range.end - range.start;
        let smallest = self.ranges.iter().enumerate().min_by_key(|(_, range)| bytes(range));
        match smallest.map(|(index, smallest)| (index, bytes(smallest))) {
            Some((index, lost)) if lost < bytes(&range) => {
                self.cut(index, index + 1);
                let fits = self.insert(range);
                debug_assert!(fits.is_ok(), "there is room for one");
                lost
            }
            _ => bytes(&range),
        }
    }

    /// Takes every address of `range` out, and when the set is full also what follows it without a gap. Returns how
    /// many addresses were lost that way.
    pub fn remove_at_least(&mut self, range: Range<u64>) -> u64 {
        if self.remove(range.clone()).is_ok() {
            return 0;
        }
        // Only a range in the middle of a piece needs room for another one.
        let end = self.ranges.iter().find(|r| r.contains(&range.start)).map_or(range.end, |r| r.end);
        let fits = self.remove(range.start..end);
        debug_assert!(fits.is_ok(), "the piece gets shorter");
        end - range.end
    }

    /// Takes `size` addresses whose start is a multiple of `align` (a power of two) and which end at
    /// or below `limit` out of the set: the lowest that fit. `None` when nothing fits.
    pub fn take(&mut self, size: u64, align: u64, limit: u64) -> Option<u64> {
        let start = self.ranges.iter().find_map(|r| {
            let start = r.start.checked_next_multiple_of(align)?;
            let end = start.checked_add(size)?;
            (end <= r.end && end <= limit).then_some(start)
        })?;
        self.remove(start..start + size).ok()?;
        Some(start)
    }

    /// Drops the ranges with an index in `from..to`.
    fn cut(&mut self, from: usize, to: usize) {
        for _ in from..to {
            let _ = self.ranges.remove(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Debug, Clone)]
    enum Operation {
        Insert(Range<u64>),
        Remove(Range<u64>),
        Take { size: u64, align: u64, limit: u64 },
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0u64..64, 0u64..16).prop_map(|(start, len)| start..start + len)
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            range().prop_map(Operation::Insert),
            range().prop_map(Operation::Remove),
            (1u64..8, 0u32..4, 0u64..96).prop_map(|(size, shift, limit)| Operation::Take {
                size,
                align: 1 << shift,
                limit
            }),
        ]
    }

    /// The lowest fit by trying every start.
    fn naive_take(set: &mut BTreeSet<u64>, size: u64, align: u64, limit: u64) -> Option<u64> {
        let start = (0..96)
            .step_by(usize::try_from(align).unwrap())
            .find(|&s| s + size <= limit && (s..s + size).all(|a| set.contains(&a)))?;
        set.retain(|a| !(start..start + size).contains(a));
        Some(start)
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_addresses(operations in prop::collection::vec(operation(), 1..80)) {
            let mut ranges = RangeSet::<64>::new();
            let mut oracle = BTreeSet::new();
            for operation in operations {
                match operation {
                    Operation::Insert(r) => {
                        ranges.insert(r.clone()).unwrap();
                        oracle.extend(r);
                    }
                    Operation::Remove(r) => {
                        ranges.remove(r.clone()).unwrap();
                        oracle.retain(|a| !r.contains(a));
                    }
                    Operation::Take { size, align, limit } => prop_assert_eq!(
                        ranges.take(size, align, limit),
                        naive_take(&mut oracle, size, align, limit)
                    ),
                }
                prop_assert_eq!(ranges.iter().flatten().collect::<std::vec::Vec<_>>(), oracle.iter().copied().collect::<std::vec::Vec<_>>());
                prop_assert!(ranges.ranges.windows(2).all(|w| w[0].end < w[1].start));
                prop_assert_eq!(ranges.total(), oracle.len() as u64);
            }
        }
    }

    #[test]
    fn full_table_refuses_and_keeps_what_it_has() {
        let mut ranges = RangeSet::<2>::new();
        ranges.insert(0..10).unwrap();
        ranges.insert(20..30).unwrap();
        assert_eq!(ranges.insert(40..50), Err(RangesFull));
        assert_eq!(ranges.remove(4..6), Err(RangesFull));
        assert_eq!(ranges.total(), 20);
        ranges.insert(10..20).unwrap();
        assert!(ranges.iter().eq(core::iter::once(0..30)));
    }

    proptest! {
        #[test]
        fn a_full_table_never_holds_what_it_should_not(
            operations in prop::collection::vec((any::<bool>(), range()), 1..60),
        ) {
            let mut ranges = RangeSet::<4>::new();
            let mut oracle = BTreeSet::new();
            for (insert, range) in operations {
                if insert {
                    let lost = ranges.insert_largest(range.clone());
                    oracle.extend(range);
                    prop_assert!(ranges.pieces() == 4 || lost == 0);
                } else {
                    let lost = ranges.remove_at_least(range.clone());
                    oracle.retain(|a| !range.contains(a));
                    prop_assert!(ranges.pieces() == 4 || lost == 0);
                }
                prop_assert!(ranges.iter().flatten().all(|a| oracle.contains(&a)));
            }
        }
    }

    #[test]
    fn a_full_table_keeps_the_largest_pieces() {
        let mut ranges = RangeSet::<2>::new();
        assert_eq!([0..10, 20..24, 30..60].map(|range| ranges.insert_largest(range)), [0, 0, 4]);
        assert_eq!(ranges.insert_largest(70..73), 3);
        assert!(ranges.iter().eq([0..10, 30..60]));
        assert_eq!(ranges.remove_at_least(40..45), 15);
        assert!(ranges.iter().eq([0..10, 30..40]));
    }

    #[test]
    fn take_near_the_top_does_not_overflow() {
        let mut ranges = RangeSet::<2>::new();
        ranges.insert(u64::MAX - 10..u64::MAX).unwrap();
        assert_eq!(ranges.take(1, 4096, u64::MAX), None);
        assert_eq!(ranges.take(20, 1, u64::MAX), None);
        assert_eq!(ranges.take(10, 1, u64::MAX), Some(u64::MAX - 10));
    }
}
