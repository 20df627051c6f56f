//! Which next hop gets which bucket of a group's flows.

use alloc::vec::Vec;

use dataplane::{AdjacencyId, MAX_NEXT_HOPS};

/// Gives [`MAX_NEXT_HOPS`] buckets to next hops in proportion to their weights. A bucket stays with the next hop it had
/// in `previous` while that is not above its share, so that only those flows move that have to.
pub(crate) fn assign(next_hops: &[(AdjacencyId, u16)], previous: &[AdjacencyId]) -> Vec<AdjacencyId> {
    let mut spare = shares(next_hops);
    let mut buckets: Vec<Option<AdjacencyId>> = (0..MAX_NEXT_HOPS)
        .map(|bucket| {
            let owner = *previous.get(bucket)?;
            let index = next_hops.iter().position(|(hop, _)| *hop == owner)?;
            spare[index] = spare[index].checked_sub(1)?;
            Some(owner)
        })
        .collect();
    let mut left =
        next_hops.iter().zip(&spare).flat_map(|((hop, _), count)| core::iter::repeat_n(*hop, *count));
    for bucket in buckets.iter_mut().filter(|bucket| bucket.is_none()) {
        *bucket = left.next();
    }
    buckets.into_iter().flatten().collect()
}

/// How many buckets each next hop is due: the weights' proportions, what rounding leaves going to the largest remainders.
fn shares(next_hops: &[(AdjacencyId, u16)]) -> Vec<usize> {
    let total: usize = next_hops.iter().map(|(_, weight)| usize::from(*weight)).sum::<usize>().max(1);
    let exact = |weight: u16| usize::from(weight) * MAX_NEXT_HOPS;
    let mut shares: Vec<usize> = next_hops.iter().map(|(_, weight)| exact(*weight) / total).collect();
    let mut order: Vec<usize> = (0..next_hops.len()).collect();
    order.sort_by_key(|index| core::cmp::Reverse(exact(next_hops[*index].1) % total));
    let rest = MAX_NEXT_HOPS.saturating_sub(shares.iter().sum());
    for index in order.into_iter().take(rest) {
        shares[index] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hops(weights: &[u16]) -> Vec<(AdjacencyId, u16)> {
        weights.iter().enumerate().map(|(n, weight)| (AdjacencyId(n as u32), *weight)).collect()
    }

    fn count(buckets: &[AdjacencyId], n: u32) -> usize {
        buckets.iter().filter(|bucket| bucket.0 == n).count()
    }

    #[test]
    fn only_the_flows_of_a_lost_next_hop_move() {
        let all = hops(&[1, 1, 1, 1]);
        let before = assign(&all, &[]);
        let after = assign(&all[1..], &before);
        for (before, after) in before.iter().zip(&after).filter(|(before, _)| before.0 != 0) {
            assert_eq!(before, after);
        }
        assert_eq!(count(&after, 0), 0);
        assert_eq!(assign(&all, &before), before, "it comes back to what it was");
    }

    #[test]
    fn a_new_next_hop_takes_only_its_share() {
        let before = assign(&hops(&[1, 1]), &[]);
        let after = assign(&hops(&[1, 1, 2]), &before);
        assert_eq!(before.iter().zip(&after).filter(|(before, after)| before != after).count(), 32);
        assert_eq!([count(&after, 0), count(&after, 1), count(&after, 2)], [16, 16, 32]);
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(1u16..=16, 1..=16), seed in any::<u32>()) {
            let hops = hops(&weights);
            let previous: Vec<_> = (0..64).map(|n| AdjacencyId(seed.wrapping_mul(n) >> 13 & 31)).collect();
            let buckets = assign(&hops, &previous);
            prop_assert_eq!(buckets.len(), MAX_NEXT_HOPS);
            let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
            for (n, weight) in weights.iter().enumerate() {
                let exact = 64 * u32::from(*weight) / total;
                let got = count(&buckets, n as u32) as u32;
                prop_assert!(got == exact || got == exact + 1, "{} of {}", got, exact);
            }
        }
    }
}
