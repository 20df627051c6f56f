//! The anti-replay window against a naive one, against many workers, and in front of packets.

use crate::common::{Pair, inner, parameters, seal_all};
use buffer::BufferCache;
use ipsec::{Algorithm, EspError, SaParameters, Window};
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};

/// RFC 4303 §3.4.3 by the letter.
struct Naive {
    size: u64,
    top: u64,
    seen: BTreeSet<u64>,
}

impl Naive {
    fn new(size: u32, last: u64) -> Self {
        let size = u64::from(size);
        Self { size, top: last, seen: (last.saturating_sub(size)..=last).collect() }
    }

    fn accept(&mut self, number: u64) -> bool {
        let fresh = number + self.size > self.top && self.seen.insert(number);
        self.top = self.top.max(number);
        fresh
    }
}

/// RFC 4303 appendix A2.2, as a search: the number with this low half that is next to the window.
fn nearest(top: u64, size: u64, low: u32) -> u64 {
    let bottom = (top + 1).saturating_sub(size);
    let candidate = bottom & !0xffff_ffff | u64::from(low);
    if candidate < bottom { candidate + (1 << 32) } else { candidate }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_is_the_naive_one(
        size in 64u32..=8192,
        last in prop::sample::select(vec![0, 1, 31, 32, 1000, (1u64 << 32) - 3, 1 << 32, (1 << 37) + 7, 1 << 60]),
        steps in prop::collection::vec((any::<bool>(), 0u64..20_000, 0u64..70), 1..400),
    ) {
        let (window, mut naive) = (Window::new(size, last), Naive::new(size, last));
        for (back, far, near) in steps {
            let top = naive.top;
            let number = if back { top.saturating_sub(far % (u64::from(size) + 40)) } else { top + near + far % 3 * near };
            prop_assert_eq!(window.infer(number as u32), nearest(top, u64::from(size), number as u32));
            let checked = window.check(number);
            let accepted = window.accept(number);
            prop_assert_eq!(accepted.is_ok(), naive.accept(number), "{} below {}", number, top);
            prop_assert_eq!(checked, accepted);
            prop_assert_eq!(window.top(), naive.top);
        }
    }

    #[test]
    fn great_leaps_forget_everything_behind(size in 64u32..=8192, leap in 8192u64..(1 << 35)) {
        let window = Window::new(size, 0);
        for number in 1..=40 {
            prop_assert_eq!(window.accept(number), Ok(()));
        }
        prop_assert_eq!(window.accept(40 + leap), Ok(()));
        for number in (1..=40).chain([40 + leap]) {
            prop_assert_eq!(window.accept(number), Err(EspError::Replayed));
        }
        prop_assert_eq!(window.accept(41 + leap), Ok(()));
        prop_assert_eq!(window.accept(39 + leap), Ok(()));
    }
}

/// Sebastiano Vigna's `SplitMix64`.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Packets that go on for long: those that may still be offered.
struct Stream {
    pair: Pair,
    cache: BufferCache,
    first: usize,
    sealed: VecDeque<Vec<u8>>,
}

impl Stream {
    fn new(pair: Pair) -> Self {
        Self { cache: pair.pool.cache(), pair, first: 0, sealed: VecDeque::new() }
    }

    /// The packet with this number, before it is sealed.
    fn given(number: usize) -> Vec<u8> {
        let mut packet = inner(false, 8);
        packet[28..36].copy_from_slice(&number.to_be_bytes());
        packet
    }

    /// Seals packets up to `last`, and forgets those before `first`.
    fn move_to(&mut self, first: usize, last: usize) {
        while self.first + self.sealed.len() <= last {
            let given = Self::given(self.first + self.sealed.len());
            let mut packets = [self.cache.copy(&given).expect("the pool is large enough")];
            let results = seal_all(&self.pair.snapshot, &mut packets, &[Some(self.pair.outbound())]);
            assert_eq!(results, [Ok(())], "numbers are left");
            let [packet] = packets;
            self.sealed.push_back(packet.data().to_vec());
            self.cache.free_one(packet);
        }
        let gone = first.saturating_sub(self.first);
        drop(self.sealed.drain(..gone));
        self.first += gone;
    }

    /// Offers these in one vector, and counts which are accepted.
    fn offer(&mut self, numbers: &[usize], times: &mut [u8]) {
        let (cache, sealed, first) = (&mut self.cache, &self.sealed, self.first);
        let packet = |n: &usize| cache.copy(&sealed[n - first]).expect("the pool is large enough");
        let mut packets: Vec<_> = numbers.iter().map(packet).collect();
        let mut results = vec![Err(EspError::Malformed); numbers.len()];
        ipsec::decapsulate(&self.pair.snapshot, &mut packets, 0, &mut results);
        for ((n, packet), result) in numbers.iter().zip(packets).zip(results) {
            match result {
                Ok(_) => {
                    assert_eq!(packet.data(), Self::given(*n));
                    times[*n] += 1;
                }
                // What is far behind is taken for a number of the next subspace, and then is not authentic.
                Err(EspError::Replayed | EspError::AuthenticationFailed) => {}
                Err(error) => panic!("{error:?}"),
            }
            self.cache.free_one(packet);
        }
    }
}

/// Ten million packets, shuffled and repeated, in vectors of many sizes, across the edge of the low half: none is accepted twice,
/// and each is what was sealed.
#[test]
fn no_packet_is_accepted_twice() {
    const UNIQUE: usize = 2_500_000;
    const OFFERS_OF_EACH: usize = 4;
    /// Out of order by up to a window and a half.
    const SPREAD: usize = 1536;
    let last_sequence = (1 << 32) - UNIQUE as u64 / 2;
    let pair = Pair::new(SaParameters { last_sequence, ..parameters(Algorithm::Aes128Gcm, false) });
    let mut stream = Stream::new(pair);
    let (mut state, mut times, mut at) = (7, vec![0u8; UNIQUE], 0);
    while at < UNIQUE * OFFERS_OF_EACH {
        let count = [1, 2, 67, 256][random(&mut state) as usize % 4];
        let mut offer = |at: usize| {
            (at / OFFERS_OF_EACH + random(&mut state) as usize % SPREAD)
                .saturating_sub(SPREAD / 2)
                .min(UNIQUE - 1)
        };
        let offered: Vec<usize> = (at..at + count).map(&mut offer).collect();
        let earliest = (at / OFFERS_OF_EACH).saturating_sub(SPREAD / 2).min(UNIQUE - 1);
        stream.move_to(earliest, offered.iter().copied().max().unwrap_or_default());
        at += count;
        stream.offer(&offered, &mut times);
    }
    assert!(times.iter().all(|times| *times <= 1), "a packet was accepted twice");
    let accepted = times.iter().filter(|times| **times == 1).count();
    assert_eq!(accepted as u64, stream.pair.inbound().counters().packets);
    assert!(accepted > UNIQUE / 2, "{accepted} of {UNIQUE}");
}

/// Ten million numbers, shuffled and doubled, offered by four workers at once, across the edge of the low half.
#[test]
fn nothing_is_accepted_twice_by_any_workers() {
    const NUMBERS: usize = 2_500_000;
    const WORKERS: u64 = 4;
    let first = (1u64 << 32) - NUMBERS as u64 / 2;
    let window = Window::new(1024, first - 1);
    let times: Vec<AtomicU8> = (0..NUMBERS).map(|_| AtomicU8::new(0)).collect();
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (window, times) = (&window, &times);
            let _ = scope.spawn(move || {
                let mut state = worker;
                for index in 0..NUMBERS as u64 {
                    // Each worker offers about every number, out of order by some hundreds, many of them twice.
                    let index = (index + random(&mut state) % 600).min(NUMBERS as u64 - 1);
                    let number = first + index;
                    // What is far behind is taken for a number of the next subspace, and then is not authentic.
                    let is_authentic = window.infer(number as u32) == number;
                    if is_authentic && window.check(number).is_ok() && window.accept(number).is_ok() {
                        let _ = times[index as usize].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let accepted = times.iter().filter(|count| count.load(Ordering::Relaxed) == 1).count();
    assert!(times.iter().all(|count| count.load(Ordering::Relaxed) <= 1), "a number was accepted twice");
    assert!(accepted > NUMBERS / 2, "{accepted} of {NUMBERS}");
}
