//! A token bucket: so many a second, so many at once.

/// A token bucket.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    /// Nanoseconds that one token takes to appear.
    token_ns: u64,
    /// Nanoseconds' worth of tokens it holds at most.
    depth_ns: u64,
    /// The bucket is full at this time and later.
    full_at_ns: u64,
}

impl TokenBucket {
    /// `rate` tokens a second, at most `burst` at once.
    pub const fn new(rate: u64, burst: u64) -> Self {
        let token_ns = 1_000_000_000 / rate;
        Self { token_ns, depth_ns: token_ns * burst, full_at_ns: 0 }
    }

    /// Takes a token if there is one. `now_ns` is monotonic.
    pub fn take(&mut self, now_ns: u64) -> bool {
        let full_at_ns = self.full_at_ns.max(now_ns).saturating_add(self.token_ns);
        let taken = full_at_ns <= now_ns.saturating_add(self.depth_ns);
        if taken {
            self.full_at_ns = full_at_ns;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = TokenBucket::new(1000, 10);
        let now_ns = 5_000_000_000;
        assert_eq!((0..100).filter(|_| bucket.take(now_ns)).count(), 10);
        assert!(!bucket.take(now_ns + 999_999));
        assert!(bucket.take(now_ns + 1_000_000));
        assert!(!bucket.take(now_ns + 1_000_000));
        assert_eq!((0..100).filter(|_| bucket.take(u64::MAX / 2)).count(), 10);
    }
}
