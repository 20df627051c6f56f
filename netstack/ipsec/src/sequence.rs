//! Outbound sequence numbers (RFC 4303 §2.2, §3.3.3), shared by all workers.
//!
//! To take numbers is an instruction with the processor's lock, which waits for all stores before it: with thousands of SAs
//! that is a good part of what a packet costs. So the first worker that claims an SA has some numbers more reserved for it,
//! which it gives with plain loads and stores, as nobody else writes what counts them. Each number is reserved once, by the
//! locked instruction, whoever gives it. As soon as the owner sees that others took numbers after its own, what it has left
//! would be old when it is sent: it wastes that, and is no owner any more.

use core::cell::Cell;
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Numbers that are reserved beyond those asked for.
const RESERVED: u64 = 32;

/// What one worker claims SAs by. No other has its number, and it is not `Sync`: what is an owner's alone is used by one thread
/// at a time.
#[derive(Debug)]
pub struct Claimant {
    number: u32,
    not_sync: PhantomData<Cell<u32>>,
}

/// Instead of a claimant's number: there was no owner yet, or there is none any more.
const UNCLAIMED: u32 = 0;
const SHARED: u32 = u32::MAX;

impl Claimant {
    /// Claims nothing.
    pub const NOBODY: Self = Self { number: UNCLAIMED, not_sync: PhantomData };

    /// Another one than all before. Should the numbers ever be used up, it claims nothing.
    pub fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(UNCLAIMED);
        let next = |last: u32| Some(last + 1).filter(|number| *number < SHARED);
        let number = LAST.fetch_update(Relaxed, Relaxed, next).map_or(UNCLAIMED, |last| last + 1);
        Self { number, not_sync: PhantomData }
    }
}

impl Default for Claimant {
    fn default() -> Self {
        Self::new()
    }
}

/// Gives out each number from 1 to a limit once, to whichever worker asks.
#[repr(C)]
#[derive(Debug)]
pub struct Sequence {
    /// The claimant that has numbers reserved. It alone writes this, once it is in, and the next two.
    owner: AtomicU32,
    /// How many numbers up to `end` it has not given.
    left: AtomicU32,
    end: AtomicU64,
    /// The last number given or reserved.
    last: AtomicU64,
    limit: u64,
}

impl Sequence {
    /// Continues after `last`, up to `limit` inclusive.
    pub const fn new(last: u64, limit: u64) -> Self {
        let (last, end) = (AtomicU64::new(last), AtomicU64::new(last));
        Self { owner: AtomicU32::new(UNCLAIMED), left: AtomicU32::new(0), end, last, limit }
    }

    /// Takes the next `count` numbers, or as many as are left.
    #[inline]
    pub fn take(&self, claimant: &Claimant, count: u32) -> Range<u64> {
        let (left, end) = (self.left.load(Relaxed), self.end.load(Relaxed));
        if self.is_owned_by(claimant) && left >= count && self.last.load(Relaxed) == end {
            self.left.store(left - count, Release);
            let first = end + 1 - u64::from(left);
            return first..first + u64::from(count);
        }
        self.take_more(claimant, count)
    }

    /// True if the claimant alone writes what is the owner's.
    #[inline]
    pub(crate) fn is_owned_by(&self, claimant: &Claimant) -> bool {
        claimant.number != UNCLAIMED && self.owner.load(Relaxed) == claimant.number
    }

    /// Takes numbers that are not reserved, and reserves some if the claimant is alone.
    #[inline(never)]
    fn take_more(&self, claimant: &Claimant, count: u32) -> Range<u64> {
        if self.owner.load(Relaxed) == UNCLAIMED {
            let _ = self.owner.compare_exchange(UNCLAIMED, claimant.number, Relaxed, Relaxed);
        }
        let is_owner = self.is_owned_by(claimant);
        let mut last = self.last.load(Relaxed);
        loop {
            let is_alone = is_owner && last == self.end.load(Relaxed);
            let (kept, more) = if is_alone { (self.left.load(Relaxed), RESERVED) } else { (0, 0) };
            let (kept, count) = (u64::from(kept), u64::from(count));
            // Not an addition that is checked afterwards: after many refusals it would wrap.
            let new = (count + more).saturating_sub(kept).min(self.limit.saturating_sub(last));
            match self.last.compare_exchange_weak(last, last + new, Relaxed, Relaxed) {
                Ok(_) => {
                    let given = (kept + new).min(count);
                    if is_alone {
                        self.keep(last + new, (kept + new - given) as u32);
                    } else if is_owner {
                        self.owner.store(SHARED, Relaxed);
                    }
                    // The range excludes its end; the limit itself is never given where adding 1 would wrap.
                    let first = (last - kept).wrapping_add(1);
                    return first..first.saturating_add(given);
                }
                Err(seen) => last = seen,
            }
        }
    }

    /// Notes what is reserved, in an order in which [`Sequence::last`] never tells less than was given.
    fn keep(&self, end: u64, left: u32) {
        self.left.store(0, Release);
        self.end.store(end, Release);
        self.left.store(left, Release);
    }

    /// The last number given; 0 if none was.
    pub fn last(&self) -> u64 {
        let (end, left) = (self.end.load(Acquire), self.left.load(Acquire));
        let last = self.last.load(Relaxed);
        if last == end { last - u64::from(left) } else { last }
    }

    /// How many numbers up to the last one were given.
    #[inline]
    pub(crate) fn given(&self) -> u64 {
        // What is reserved was taken before.
        let left = self.left.load(Acquire);
        self.last.load(Relaxed) - u64::from(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_at_its_limit() {
        for (limit, claimant) in [u64::from(u32::MAX), u64::MAX - 1]
            .into_iter()
            .flat_map(|limit| [(limit, Claimant::new()), (limit, Claimant::NOBODY)])
        {
            let sequence = Sequence::new(limit - 5, limit);
            assert_eq!(sequence.take(&claimant, 3), limit - 4..limit - 1);
            assert_eq!(sequence.take(&claimant, 3), limit - 1..limit + 1);
            for _ in 0..3 {
                assert!(sequence.take(&claimant, 3).is_empty());
                assert_eq!(sequence.last(), limit);
            }
        }
        assert!(Sequence::new(9, 8).take(&Claimant::new(), 1).is_empty(), "a limit that was passed already");
    }

    #[test]
    fn workers_never_get_the_same_number() {
        const EACH: usize = 100_000;
        let sequence = Sequence::new(0, 3 * EACH as u64);
        let take_all = |count| {
            let sequence = &sequence;
            move || {
                let (mut taken, claimant) = (Vec::with_capacity(EACH), Claimant::new());
                loop {
                    let range = sequence.take(&claimant, count);
                    if range.is_empty() {
                        return taken;
                    }
                    taken.extend(range);
                }
            }
        };
        let mut all = std::thread::scope(|scope| {
            let threads = [1, 7, 64, 3].map(|count| scope.spawn(take_all(count)));
            threads.map(|thread| thread.join().expect("no panic")).concat()
        });
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "a number was given twice");
        // What the one owner had reserved when the first of the others came.
        let wasted = 3 * EACH - all.len();
        assert!(wasted <= RESERVED as usize, "{wasted} numbers were not given");
        assert_eq!((sequence.last(), sequence.given()), (3 * EACH as u64, all.len() as u64));
    }

    /// Whoever takes them, in whatever portions: the numbers of an owner are in a row, and no number is lower than one that
    /// was taken before.
    #[test]
    fn numbers_rise() {
        let (owner, other) = (Claimant::new(), Claimant::new());
        let sequence = Sequence::new(5, 1 << 20);
        let mut next = 6;
        for count in (0..100).map(|step| step % 41) {
            assert_eq!(sequence.take(&owner, count), next..next + u64::from(count));
            next += u64::from(count);
            assert_eq!((sequence.last(), sequence.given()), (next - 1, next - 1));
        }
        let foreign = sequence.take(&other, 3);
        assert!(foreign.start >= next && foreign.start <= next + RESERVED + 41);
        let wasted = foreign.start - next;
        next = foreign.end;
        for claimant in [&owner, &owner, &other, &Claimant::NOBODY, &owner] {
            assert_eq!(sequence.take(claimant, 2), next..next + 2, "nothing is reserved any more");
            next += 2;
            assert_eq!((sequence.last(), sequence.given()), (next - 1, next - 1 - wasted));
        }
    }
}
