//! The counter's rate by the legacy interval timer (Intel 8254), without waiting for it: a short look at once, and a second
//! one over all the time since, when that is long enough.

use super::{plausible, tsc};
use kernel::clock::{INTERVAL_TIMER_HZ, count_passed};
use x86_64::instructions::port::Port;

/// Ticks of the timer after which the rate is known well enough to boot by: half a millisecond.
const ROUGH_TICKS: u16 = 597;
/// And to run by: 3 ms.
const SETTLED_TICKS: u64 = 3580;
/// Doubt as a part of the measured time, for the one and the other.
const ROUGH: u64 = 50;
const SETTLED: u64 = 2000;

/// After so many ticks the rough rate could not tell any more how often the timer went round.
const LONGEST_TICKS: u64 = 16 << 16;

/// What channel 2 of the timer, which counts down and goes round, and the counter showed at the same time.
#[derive(Clone, Copy)]
pub struct Reading {
    count: u16,
    tsc: u64,
    /// By how much that may be wrong, in the counter's ticks.
    doubt: u64,
}

/// Starts the timer. The rate, roughly, and what to give to [`settle`]; `None` when the timer does not run.
pub fn begin() -> Option<(u64, Reading)> {
    /// Counter ticks and readings in which a timer that runs must have moved.
    const STILL: (u64, usize) = (10_000_000, 16);
    /// Enough for half a round, which takes 27 ms, however quick a reading is.
    const ATTEMPTS: usize = 200_000;
    start();
    let _ = read();
    let first = read();
    for attempt in 0..ATTEMPTS {
        let now = read();
        let passed = first.count.wrapping_sub(now.count);
        let ticks = now.tsc - first.tsc;
        if passed == 0 && attempt > STILL.1 && ticks > STILL.0 {
            break;
        }
        let sure = (first.doubt + now.doubt) * ROUGH < ticks;
        if passed >= ROUGH_TICKS && sure || passed > u16::MAX / 2 {
            let hz = plausible(ticks.saturating_mul(INTERVAL_TIMER_HZ) / u64::from(passed))?;
            return Some((hz, first));
        }
    }
    None
}

/// The rate over the time since `first`, of which `rough_hz` is known to be about right; `None` as long as that time is too
/// short to be sure. Nothing is waited for.
pub fn settle(rough_hz: u64, first: &mut Reading) -> Option<u64> {
    /// On a host with more to do than it has cores, most readings are spoilt.
    const ATTEMPTS: usize = 4;
    for _ in 0..ATTEMPTS {
        let now = read();
        let ticks = now.tsc - first.tsc;
        let expected = (u128::from(ticks) * u128::from(INTERVAL_TIMER_HZ) / u128::from(rough_hz)) as u64;
        if expected > LONGEST_TICKS {
            *first = now;
            return None;
        }
        let passed = count_passed(first.count, now.count, expected);
        let sureness = ticks / (first.doubt + now.doubt).max(1);
        if passed >= SETTLED_TICKS && sureness > SETTLED {
            return Some((u128::from(ticks) * u128::from(INTERVAL_TIMER_HZ) / u128::from(passed)) as u64);
        }
    }
    None
}

const CONTROL: u16 = 0x61;
const MODE: u16 = 0x43;
const CHANNEL_2: u16 = 0x42;

/// Has channel 2 count down from 65536, again and again, and the speaker silent.
fn start() {
    const GATE: u8 = 1;
    const SPEAKER: u8 = 2;
    /// Channel 2, low byte then high byte, mode 0, binary.
    const COUNT_DOWN: u8 = 0xb0;
    let mut control = Port::<u8>::new(CONTROL);
    let mut channel_2 = Port::<u8>::new(CHANNEL_2);
    // SAFETY: the ports are the timer's and the speaker gate's on every PC; nothing else uses them.
    unsafe {
        let quiet = control.read() & !SPEAKER;
        control.write(quiet & !GATE);
        Port::<u8>::new(MODE).write(COUNT_DOWN);
        channel_2.write(0);
        channel_2.write(0);
        control.write(quiet | GATE);
    }
}

/// Reads both, some times if something came between.
fn read() -> Reading {
    const ATTEMPTS: usize = 8;
    /// Some microseconds: one access to a port, by way of a hypervisor.
    const GOOD: u64 = 10_000;
    let mut best = latch();
    for _ in 1..ATTEMPTS {
        if best.doubt <= GOOD {
            break;
        }
        let reading = latch();
        if reading.doubt < best.doubt {
            best = reading;
        }
    }
    best
}

/// Has the timer keep its count for reading, which is when it is taken.
fn latch() -> Reading {
    const LATCH_CHANNEL_2: u8 = 0x80;
    let mut channel_2 = Port::<u8>::new(CHANNEL_2);
    // SAFETY: as in `start`.
    unsafe {
        let before = tsc();
        Port::<u8>::new(MODE).write(LATCH_CHANNEL_2);
        let after = tsc();
        let count = u16::from_le_bytes([channel_2.read(), channel_2.read()]);
        let doubt = after.saturating_sub(before);
        Reading { count, tsc: before + doubt / 2, doubt }
    }
}
