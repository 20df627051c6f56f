//! Which next hop gets which bucket of a group's flows.
//!
//! Two steps, neither of which remembers anything. First all next hops of a route share the buckets as if each were well,
//! by a method like Maglev's (Eisenbud et al., NSDI 2016, §3.4): each has its own order of preference, made from its
//! address, and they take turns. So routes whose next hops are mostly the same spread flows mostly alike. Then those that
//! are out of order hand their buckets to the others; no other bucket moves, and all is as before when they are back.

use alloc::vec::Vec;

use dataplane::{AdjacencyId, MAX_NEXT_HOPS};

/// Shares [`MAX_NEXT_HOPS`] buckets among next hops, given by a number that stands for each and its weight. Gives the
/// place of each bucket's next hop.
pub(crate) fn share(next_hops: &[(u64, u16)]) -> Vec<usize> {
    let weights: Vec<u16> = next_hops.iter().map(|(_, weight)| *weight).collect();
    let shares = shares(&weights);
    let mut preferences: Vec<Vec<usize>> =
        next_hops.iter().map(|(identity, _)| preference(*identity)).collect();
    let mut taken = alloc::vec![0; shares.len()];
    let mut owners = alloc::vec![None; MAX_NEXT_HOPS];
    for _ in 0..MAX_NEXT_HOPS {
        // The turn is that of the one with the least of its share.
        let waiting = (0..shares.len()).filter(|hop| taken[*hop] < shares[*hop]);
        let Some(hop) = waiting.min_by_key(|hop| (taken[*hop] * MAX_NEXT_HOPS) / shares[*hop]) else { break };
        while let Some(bucket) = preferences[hop].pop() {
            if owners[bucket].is_none() {
                owners[bucket] = Some(hop);
                taken[hop] += 1;
                break;
            }
        }
    }
    owners.into_iter().map(Option::unwrap_or_default).collect()
}

/// All buckets, in the order that a next hop likes them least to best.
fn preference(identity: u64) -> Vec<usize> {
    let mut buckets: Vec<usize> = (0..MAX_NEXT_HOPS).collect();
    buckets.sort_by_key(|bucket| mix(identity ^ mix(*bucket as u64)));
    buckets
}

/// Spreads the bits of a number over all of it (the finaliser of `SplitMix64`).
pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Gives the buckets that nobody has to the next hops, in proportion to their weights. `alive` are those that there are.
pub(crate) fn fill(owners: &[Option<AdjacencyId>], alive: &[(AdjacencyId, u16)]) -> Vec<AdjacencyId> {
    let free = owners.iter().filter(|owner| owner.is_none()).count();
    let total: usize = alive.iter().map(|(_, weight)| usize::from(*weight)).sum::<usize>().max(1);
    let mut given = 0;
    let mut filled = Vec::with_capacity(owners.len());
    for owner in owners {
        let next = owner.or_else(|| {
            // The middle of the nth free bucket, as a place among the weights.
            let mut place = (2 * given + 1) * total / (2 * free);
            given += 1;
            let found = alive.iter().find(|(_, weight)| {
                let here = place < usize::from(*weight);
                place = place.saturating_sub(usize::from(*weight));
                here
            });
            found.or(alive.last()).map(|(adjacency, _)| *adjacency)
        });
        filled.extend(next);
    }
    filled
}

/// How many buckets each next hop is due: the weights' proportions, what rounding leaves going to the largest remainders.
fn shares(weights: &[u16]) -> Vec<usize> {
    let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum::<usize>().max(1);
    let exact = |weight: u16| usize::from(weight) * MAX_NEXT_HOPS;
    let mut shares: Vec<usize> = weights.iter().map(|weight| exact(*weight) / total).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|index| core::cmp::Reverse(exact(weights[*index]) % total));
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

    fn count(buckets: &[usize], hop: usize) -> usize {
        buckets.iter().filter(|owner| **owner == hop).count()
    }

    #[test]
    fn few_flows_move_when_a_next_hop_is_added() {
        let hops: Vec<_> = (1..=5).map(|n| (n, 1)).collect();
        let (before, after) = (share(&hops[..4]), share(&hops));
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert_eq!(count(&after, 4), 12);
        assert!(moved <= 12 + 10, "{moved} of 64 moved, 12 of them to the new one");
    }

    #[test]
    fn what_a_lost_next_hop_had_is_spread_by_weight() {
        let owners: Vec<_> =
            (0..64).map(|bucket| (bucket % 4 != 0).then_some(AdjacencyId(bucket % 4))).collect();
        let filled = fill(&owners, &[(AdjacencyId(1), 1), (AdjacencyId(2), 1), (AdjacencyId(3), 2)]);
        assert!(owners.iter().zip(&filled).all(|(owner, filled)| owner.is_none_or(|owner| owner == *filled)));
        let new = |hop| filled.iter().step_by(4).filter(|owner| owner.0 == hop).count();
        assert_eq!([new(1), new(2), new(3)], [4, 4, 8]);
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(1u16..=16, 1..=16), seed in any::<u64>()) {
            let hops: Vec<_> = weights.iter().enumerate().map(|(n, weight)| (seed ^ n as u64, *weight)).collect();
            let buckets = share(&hops);
            prop_assert_eq!(buckets.len(), MAX_NEXT_HOPS);
            let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            for (n, weight) in weights.iter().enumerate() {
                let exact = 64 * usize::from(*weight) / total;
                prop_assert!((exact..=exact + 1).contains(&count(&buckets, n)));
            }
        }

        #[test]
        fn every_bucket_is_filled(weights in prop::collection::vec(1u16..=16, 1..=16), lost in any::<u64>()) {
            let alive: Vec<_> = weights.iter().enumerate().map(|(n, weight)| (AdjacencyId(n as u32), *weight)).collect();
            let owners: Vec<_> = (0..64).map(|n| (lost >> n & 1 == 0).then_some(alive[n % alive.len()].0)).collect();
            let filled = fill(&owners, &alive);
            prop_assert_eq!(filled.len(), 64);
            prop_assert!(filled.iter().all(|owner| (owner.0 as usize) < alive.len()));
        }
    }
}
