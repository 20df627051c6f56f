//! Nanoseconds from a counter of constant rate.

const NS_PER_S: u128 = 1_000_000_000;

/// A counter's rate and its value at time zero.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    zero: u64,
    hz: u64,
    /// Nanoseconds per tick, times 2^32.
    ns_per_tick: u64,
}

impl Clock {
    /// A counter of `hz` (at least 1) whose value `zero` is time zero.
    pub fn new(zero: u64, hz: u64) -> Self {
        let hz = hz.max(1);
        let ns_per_tick = (NS_PER_S << 32) / u128::from(hz);
        Self { zero, hz, ns_per_tick: u64::try_from(ns_per_tick).unwrap_or(u64::MAX) }
    }

    /// This clock with another rate from the moment on at which the counter shows `ticks`. It goes on a microsecond ahead,
    /// so that no core that reads the clock as it was sees time go back.
    pub fn corrected(&self, hz: u64, ticks: u64) -> Self {
        const AHEAD_NS: u64 = 1000;
        let elapsed = Self::new(0, hz).ticks(self.ns(ticks) + AHEAD_NS);
        Self::new(ticks.saturating_sub(elapsed), hz)
    }

    /// The counter's value at time zero.
    pub fn zero(&self) -> u64 {
        self.zero
    }

    /// The counter's rate.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// The time at which the counter showed `ticks`; 0 for what lies before time zero.
    pub fn ns(&self, ticks: u64) -> u64 {
        let elapsed = ticks.saturating_sub(self.zero);
        u64::try_from((u128::from(elapsed) * u128::from(self.ns_per_tick)) >> 32).unwrap_or(u64::MAX)
    }

    /// How many ticks `ns` take, saturating.
    pub fn ticks(&self, ns: u64) -> u64 {
        u64::try_from(u128::from(ns) * u128::from(self.hz) / NS_PER_S).unwrap_or(u64::MAX)
    }

    /// The counter's value at time `ns`, saturating.
    pub fn at(&self, ns: u64) -> u64 {
        self.zero.saturating_add(self.ticks(ns))
    }
}

/// Rate of the legacy interval timer (Intel 8254).
pub const INTERVAL_TIMER_HZ: u64 = 1_193_182;

/// How far a counter of 16 bits went that counts down and round, if about `expected` ticks passed: within half a round.
pub fn count_passed(before: u16, after: u16, expected: u64) -> u64 {
    const ROUND: u64 = 1 << 16;
    let part = u64::from(before.wrapping_sub(after));
    let rounds = (expected + ROUND / 2).saturating_sub(part) / ROUND;
    rounds * ROUND + part
}

/// A counter's rate from KVM's paravirtual clock: `ns = ((ticks << shift) * multiplier) >> 32`
/// (Linux, `Documentation/virt/kvm/x86/msr.rst`, `MSR_KVM_SYSTEM_TIME_NEW`). `None` when that is no rate.
pub fn hz_of_kvm_clock(multiplier: u32, shift: i8) -> Option<u64> {
    let unshifted = (NS_PER_S << 32).checked_div(u128::from(multiplier))?;
    let hz = match shift {
        0..32 => unshifted >> shift,
        -31..0 => unshifted << -shift,
        _ => return None,
    };
    u64::try_from(hz).ok().filter(|&hz| hz != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_from_zero() {
        let clock = Clock::new(1000, 2_000_000_000);
        assert_eq!(clock.ns(1000), 0);
        assert_eq!(clock.ns(999), 0);
        assert_eq!(clock.ns(1000 + 2_000_000_000), 1_000_000_000);
        assert_eq!(clock.at(500), 2000);
        assert_eq!(clock.at(u64::MAX), u64::MAX);
        assert_eq!(Clock::new(0, 0).hz(), 1);
    }

    #[test]
    fn a_corrected_rate_does_not_change_the_time() {
        let rough = Clock::new(5_000_000, 2_000_000_000);
        for hz in [1_950_000_000, 2_000_000_000, 2_050_000_000] {
            let switch = 5_000_000 + 40_000_000;
            let clock = rough.corrected(hz, switch);
            let ahead = clock.ns(switch) - rough.ns(switch);
            assert!((900..1100).contains(&ahead), "{ahead}");
            assert!(clock.ns(switch + hz).abs_diff(rough.ns(switch) + 1_000_000_000) < 1100);
        }
    }

    #[test]
    fn kvm_clock_rates() {
        // 2.7 GHz, as KVM reports it: 1 / 2.7 = (x / 2^32) with no shift.
        let hz = hz_of_kvm_clock(1_590_728_628, 0).unwrap();
        assert!(hz.abs_diff(2_700_000_000) < 10, "{hz}");
        // 500 MHz: 2 ns a tick is 1 after a shift by one.
        assert_eq!(hz_of_kvm_clock(1 << 31, 2), Some(500_000_000));
        assert_eq!(hz_of_kvm_clock(1 << 31, -1), Some(4_000_000_000));
        assert_eq!(hz_of_kvm_clock(0, 0), None);
        assert_eq!(hz_of_kvm_clock(1, 100), None);
    }

    proptest! {
        #[test]
        fn rounds_are_counted(before: u16, passed in 0u64..1 << 24, error in -32_767i64..32_768) {
            let after = before.wrapping_sub(passed as u16);
            let expected = passed.saturating_add_signed(error);
            prop_assert_eq!(count_passed(before, after, expected), passed);
        }

        #[test]
        fn a_year_stays_within_a_millionth(hz in 1_000_000u64..8_000_000_000, seconds in 1u64..31_536_000) {
            let clock = Clock::new(0, hz);
            let ns = clock.ns(hz * seconds);
            prop_assert!(ns.abs_diff(seconds * 1_000_000_000) <= seconds * 1000);
        }
    }
}
