//! Sources for full NAT: addresses and ports of our own, so that answers come back to us.

use core::ops::RangeInclusive;

/// A worker's part of a pool of source addresses and ports. Parts of different workers share no port: the
/// destination port of an answer tells whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePool<'a, A> {
    addresses: &'a [A],
    first: u16,
    ports: u32,
}

/// Sources tried for a flow at most.
const MAX_TRIES: usize = 16;

impl<'a, A: Copy> SourcePool<'a, A> {
    /// The part of worker `worker` of `workers`. `None` if that is empty: no address, or too few ports.
    pub fn new(addresses: &'a [A], ports: RangeInclusive<u16>, worker: u16, workers: u16) -> Option<Self> {
        let count = u32::from(*ports.end()).checked_sub(u32::from(*ports.start()))? + 1;
        let each = count.checked_div(u32::from(workers))?;
        let first = u32::from(*ports.start()) + each * u32::from(worker);
        let is_some = !addresses.is_empty() && each > 0 && worker < workers;
        is_some.then_some(Self { addresses, first: u16::try_from(first).ok()?, ports: each })
    }

    /// Sources to try for a flow with this hash, one after the other, until one is free with its destination: the same
    /// flow tries the same ones, and flows of one client spread over all.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = (A, u16)> + '_ {
        let all = self.addresses.len() as u64 * u64::from(self.ports);
        let start = ((u128::from(hash) * u128::from(all)) >> 64) as u64;
        // Steps of an odd number that is not small pass over a run of ports that are taken.
        let step = ((all / 3) | 1).min(all);
        (0..MAX_TRIES as u64).take_while(move |i| *i < all).filter_map(move |i| {
            let at = (start + i * step) % all;
            let address = *self.addresses.get((at / u64::from(self.ports)) as usize)?;
            Some((address, self.first + (at % u64::from(self.ports)) as u16))
        })
    }

    /// The worker, of so many, whose part of the ports this one is in.
    pub fn owner(ports: RangeInclusive<u16>, port: u16, workers: u16) -> Option<u16> {
        let count = u32::from(*ports.end()).checked_sub(u32::from(*ports.start()))? + 1;
        let each = count.checked_div(u32::from(workers)).filter(|each| *each > 0)?;
        let worker = u32::from(port).checked_sub(u32::from(*ports.start()))? / each;
        u16::try_from(worker).ok().filter(|worker| *worker < workers)
    }

    /// True if an answer to this port belongs to this worker.
    pub fn contains(&self, port: u16) -> bool {
        u32::from(port).checked_sub(u32::from(self.first)).is_some_and(|offset| offset < self.ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn parts_share_no_port_and_leave_none_of_theirs_unused() {
        let addresses = [1, 2, 3];
        let mut used = HashSet::new();
        for worker in 0..4 {
            let pool = SourcePool::new(&addresses, 60_000..=60_039, worker, 4).unwrap();
            let mut own = HashSet::new();
            for hash in 0..10_000u64 {
                own.extend(pool.candidates(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            }
            assert_eq!(own.len(), 30);
            assert!(own.iter().all(|(_, port)| pool.contains(*port)));
            let owner = |port| SourcePool::<u8>::owner(60_000..=60_039, port, 4);
            assert!(own.iter().all(|(_, port)| owner(*port) == Some(worker)));
            used.extend(own);
        }
        assert_eq!(used.len(), 120);
    }

    #[test]
    fn candidates_are_few_and_the_first_ones_differ() {
        let pool = SourcePool::new(&[7], 1024..=65_535, 0, 1).unwrap();
        let tried: Vec<_> = pool.candidates(u64::MAX).collect();
        assert_eq!(tried.len(), MAX_TRIES);
        assert_eq!(tried.iter().collect::<HashSet<_>>().len(), MAX_TRIES);
        assert_eq!(tried[0], (7, 65_535));
        assert_eq!(SourcePool::new(&[7], 5..=5, 0, 1).unwrap().candidates(3).collect::<Vec<_>>(), [(7, 5)]);
    }

    #[test]
    fn an_empty_part_is_none() {
        assert_eq!(SourcePool::<u8>::new(&[], 1..=9, 0, 1), None);
        assert_eq!(SourcePool::new(&[1], 1..=3, 0, 4), None);
        assert_eq!(SourcePool::new(&[1], 1..=3, 0, 0), None);
        assert_eq!(SourcePool::new(&[1], 1..=3, 1, 1), None);
        #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
        let backwards = 3..=1;
        assert_eq!(SourcePool::new(&[1], backwards, 0, 1), None);
    }
}
