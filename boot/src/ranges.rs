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

    /// Takes every address of `range` out. On [`RangesFull`] nothing has changed.
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

    #[test]
    fn take_near_the_top_does_not_overflow() {
        let mut ranges = RangeSet::<2>::new();
        ranges.insert(u64::MAX - 10..u64::MAX).unwrap();
        assert_eq!(ranges.take(1, 4096, u64::MAX), None);
        assert_eq!(ranges.take(20, 1, u64::MAX), None);
        assert_eq!(ranges.take(10, 1, u64::MAX), Some(u64::MAX - 10));
    }
}
