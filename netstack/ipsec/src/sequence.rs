//! Outbound sequence numbers (RFC 4303 §2.2, §3.3.3), shared by all workers.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Gives out each number from 1 to a limit once, to whichever worker asks.
#[derive(Debug)]
pub struct Sequence {
    /// The last number given.
    last: AtomicU64,
    limit: u64,
}

impl Sequence {
    /// Continues after `last`, up to `limit` inclusive.
    pub const fn new(last: u64, limit: u64) -> Self {
        Self { last: AtomicU64::new(last), limit }
    }

    /// Takes the next `count` numbers, or as many as are left.
    #[inline]
    pub fn take(&self, count: u32) -> Range<u64> {
        // Not an addition that is checked afterwards: after many refusals it would wrap.
        let mut last = self.last.load(Relaxed);
        loop {
            let granted = u64::from(count).min(self.limit.saturating_sub(last));
            match self.last.compare_exchange_weak(last, last + granted, Relaxed, Relaxed) {
                // The range excludes its end; the limit itself is never given where adding 1 would wrap.
                Ok(_) => return last.wrapping_add(1)..last.wrapping_add(1).saturating_add(granted),
                Err(seen) => last = seen,
            }
        }
    }

    /// The last number given; 0 if none was.
    pub fn last(&self) -> u64 {
        self.last.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_at_its_limit() {
        for limit in [u64::from(u32::MAX), u64::MAX - 1] {
            let sequence = Sequence::new(limit - 5, limit);
            assert_eq!(sequence.take(3), limit - 4..limit - 1);
            assert_eq!(sequence.take(3), limit - 1..limit + 1);
            for _ in 0..3 {
                assert!(sequence.take(3).is_empty());
                assert_eq!(sequence.last(), limit);
            }
        }
        assert!(Sequence::new(9, 8).take(1).is_empty(), "a limit that was passed already");
    }

    #[test]
    fn workers_never_get_the_same_number() {
        const EACH: usize = 100_000;
        let sequence = Sequence::new(0, 3 * EACH as u64);
        let take_all = |count| {
            let sequence = &sequence;
            move || {
                let mut taken = Vec::with_capacity(EACH);
                loop {
                    let range = sequence.take(count);
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
        assert!(all.into_iter().eq(1..=3 * EACH as u64));
    }
}
