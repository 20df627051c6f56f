//! In which order backends take their turns.
//!
//! Equal weights: round after round, in the order of names, so that the numbers of slots differ by one at most. Otherwise
//! a backend of weight `w` takes turn `k` (from 0) at the time `(2k + 1) / 2w`. Counting the turns up to a time is then
//! Webster's way of apportioning seats: shares are proportional to weights with the least bias, and the turns of a heavy
//! backend spread evenly between those of light ones, so that a change of one weight disturbs the others little.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// Endless turns, each the index of a weight. Weights of zero get none; at least one must not be zero.
pub(crate) enum Turns {
    /// Next in the round, and who takes part.
    Equal {
        next: usize,
        backends: Vec<u32>,
    },
    Weighted {
        weights: Vec<u32>,
        due: BinaryHeap<Reverse<Turn>>,
    },
}

/// A turn to come. Of turns at the same time the lower index goes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    time: u64,
    backend: u32,
    number: u64,
}

impl Turn {
    /// In units of 2^-31: numbers stay below 2^20 (slots of a table), hence times below 2^53.
    fn new(backend: u32, number: u64, weight: u32) -> Self {
        Turn { time: ((2 * number + 1) << 32) / u64::from(weight), backend, number }
    }
}

impl Turns {
    pub(crate) fn new(weights: impl Iterator<Item = u32>) -> Self {
        let mut weights: Vec<u32> = weights.collect();
        // Only proportions count, to the last slot: (1, 2) and (10, 20) make the same table.
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        weights.iter_mut().for_each(|weight| *weight /= divisor);
        let taking_part = || weights.iter().zip(0..).filter(|(weight, _)| **weight > 0);
        if taking_part().all(|(weight, _)| *weight == 1) {
            return Turns::Equal { next: 0, backends: taking_part().map(|(_, index)| index).collect() };
        }
        let due = taking_part().map(|(weight, index)| Reverse(Turn::new(index, 0, *weight))).collect();
        Turns::Weighted { weights, due }
    }

    /// Whose turn is next.
    #[inline]
    pub(crate) fn next(&mut self) -> u32 {
        match self {
            Turns::Equal { next, backends } => {
                let backend = backends[*next];
                *next += 1;
                if *next == backends.len() {
                    *next = 0;
                }
                backend
            }
            Turns::Weighted { weights, due } => {
                let Some(mut first) = due.peek_mut() else { return 0 };
                let Turn { backend, number, .. } = first.0;
                first.0 = Turn::new(backend, number + 1, weights[backend as usize]);
                backend
            }
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u32], count: usize) -> Vec<u32> {
        let mut turns = Turns::new(weights.iter().copied());
        (0..count).map(|_| turns.next()).collect()
    }

    #[test]
    fn equal_weights_go_round() {
        assert_eq!(turns(&[7, 7, 0, 7], 7), [0, 1, 3, 0, 1, 3, 0]);
    }

    #[test]
    fn heavy_backends_take_turns_between_light_ones() {
        assert_eq!(turns(&[1, 3], 8), [1, 0, 1, 1, 1, 0, 1, 1]);
        assert_eq!(turns(&[10, 30], 8), turns(&[1, 3], 8));
    }

    #[test]
    fn turns_follow_weights() {
        let weights = [1, 2, 3, 50, 1000, 7, 0, 65_535, 13];
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let all = turns(&weights, 100_000);
        for (weight, index) in weights.iter().zip(0..) {
            let got = all.iter().filter(|turn| **turn == index).count() as f64;
            let fair = 100_000.0 * f64::from(*weight) / total as f64;
            // Half a turn for its own rounding, and its part of half a turn for each backend's.
            let slack = 0.5 + weights.len() as f64 / 2.0 * fair / 100_000.0;
            assert!((got - fair).abs() <= slack, "weight {weight}: {got} turns, {fair} are fair");
        }
    }
}
