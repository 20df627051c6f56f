//! When an interface advertises itself as a router (RFC 4861 §6.2).

use config::RouterAdvertisements;

const SECOND_NS: u64 = 1_000_000_000;
/// `MAX_INITIAL_RTR_ADVERTISEMENTS` (§10).
const INITIAL_COUNT: u8 = 3;
/// `MAX_INITIAL_RTR_ADVERT_INTERVAL`.
const INITIAL_INTERVAL_NS: u64 = 16 * SECOND_NS;
/// `MIN_DELAY_BETWEEN_RAS`.
const MIN_DELAY_NS: u64 = 3 * SECOND_NS;
/// `MAX_RA_DELAY_TIME`.
const MAX_ANSWER_DELAY_NS: u64 = SECOND_NS / 2;

/// The timer of one interface's advertisements.
pub(crate) struct Advertiser {
    settings: RouterAdvertisements,
    sent: u8,
    sent_ns: Option<u64>,
    /// When the next is due.
    pub(crate) deadline_ns: u64,
}

impl Advertiser {
    /// The first is due now.
    pub(crate) fn new(settings: RouterAdvertisements, now_ns: u64) -> Self {
        Self { settings, sent: 0, sent_ns: None, deadline_ns: now_ns }
    }

    pub(crate) fn settings(&self) -> &RouterAdvertisements {
        &self.settings
    }

    /// One is sent now. The next follows after a random time between `MinRtrAdvInterval` and `MaxRtrAdvInterval`, the
    /// first few sooner (§6.2.4).
    pub(crate) fn sent(&mut self, random: u32, now_ns: u64) {
        self.sent = self.sent.saturating_add(1);
        self.sent_ns = Some(now_ns);
        let max_ns = u64::from(self.settings.max_interval_seconds.max(4)) * SECOND_NS;
        let min_ns = (max_ns * 33 / 100).max(MIN_DELAY_NS);
        let interval_ns = min_ns + spread(random, max_ns - min_ns);
        let initial = self.sent < INITIAL_COUNT;
        self.deadline_ns = now_ns + if initial { interval_ns.min(INITIAL_INTERVAL_NS) } else { interval_ns };
    }

    /// A host asks. It is answered, with all others that ask, by one advertisement to all nodes after a short random
    /// delay, and at least `MIN_DELAY_BETWEEN_RAS` after the last one (§6.2.6).
    pub(crate) fn solicited(&mut self, random: u32, now_ns: u64) {
        let earliest = self.sent_ns.map_or(0, |sent| sent + MIN_DELAY_NS);
        let answer = now_ns.max(earliest) + spread(random, MAX_ANSWER_DELAY_NS);
        self.deadline_ns = self.deadline_ns.min(answer);
    }
}

/// A time from 0 up to `range_ns`, in proportion to `random`.
pub(crate) fn spread(random: u32, range_ns: u64) -> u64 {
    ((u128::from(random) * u128::from(range_ns)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advertiser(max_interval_seconds: u16) -> Advertiser {
        Advertiser::new(RouterAdvertisements { max_interval_seconds, ..Default::default() }, 0)
    }

    #[test]
    fn the_first_come_quickly_the_others_at_random_intervals() {
        let mut advertiser = advertiser(600);
        let mut intervals = alloc::vec::Vec::new();
        for random in [0, u32::MAX, 0, u32::MAX, 1 << 31] {
            let now_ns = advertiser.deadline_ns;
            advertiser.sent(random, now_ns);
            intervals.push((advertiser.deadline_ns - now_ns) / SECOND_NS);
        }
        assert_eq!(intervals, [16, 16, 198, 599, 399]);
    }

    #[test]
    fn questions_are_answered_soon_but_not_too_often() {
        let mut advertiser = advertiser(600);
        advertiser.sent(0, 0);
        advertiser.solicited(u32::MAX, SECOND_NS);
        assert!((3 * SECOND_NS..4 * SECOND_NS).contains(&advertiser.deadline_ns));
        let deadline_ns = advertiser.deadline_ns;
        for n in 0..100 {
            advertiser.solicited(u32::MAX, SECOND_NS + n);
        }
        assert_eq!(advertiser.deadline_ns, deadline_ns, "a flood of questions gets one answer");
        advertiser.sent(0, deadline_ns);
        advertiser.solicited(0, 10 * SECOND_NS);
        assert_eq!(advertiser.deadline_ns, 10 * SECOND_NS);
    }
}
