//! How many packet buffers there are, and how many of them the rings of the cards may hold.
//!
//! Every worker has a receive and a transmit ring on every card, and each can hold as many buffers as it has
//! descriptors. At most half of the pool may end there, however many cards and cores a machine has: the rest is for
//! what is under way between them, in the caches of workers and at control.

use buffer::BUFFER_BYTES;

/// Descriptors of each ring where memory suffices, and the fewest that workers are not given up for.
const LARGEST_RING: u16 = 512;
const SMALL_RING: u16 = 64;

/// The smallest ring there is.
const SMALLEST_RING: u16 = 16;

/// Buffers that a worker, or control, holds besides its rings: its cache, of two vectors, and one on its way.
const HELD: u64 = 3 * buffer::VECTOR_SIZE as u64;

/// Buffers of a pool where memory suffices and the rings do not need more.
const USUAL_BUFFERS: u64 = 32 * 1024;

/// The part of the free memory that buffers may take.
const MEMORY_PART: u64 = 4;

/// What there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Buffers of the pool.
    pub buffers: u64,
    /// Workers.
    pub workers: u16,
    /// Descriptors of each ring.
    pub ring: u16,
}

/// Plans for `cards` cards and up to `workers` workers (at least 1) in this much free memory.
///
/// Rings get shorter before workers are given up, and very short before the last one has none.
pub fn plan(free_bytes: u64, cards: u16, workers: u16) -> Plan {
    let most = free_bytes / MEMORY_PART / BUFFER_BYTES as u64;
    let rings = |from: u16, to: u16| {
        core::iter::successors(Some(from), |ring| Some(ring / 2)).take_while(move |&ring| ring >= to)
    };
    let all_cores = rings(LARGEST_RING, SMALL_RING).map(|ring| (workers, ring));
    let fewer_cores = (1..workers).rev().map(|workers| (workers, SMALL_RING));
    let one_core = rings(SMALL_RING, SMALLEST_RING).map(|ring| (1, ring));
    let (workers, ring) = all_cores
        .chain(fewer_cores)
        .chain(one_core)
        .find(|&(workers, ring)| needed(cards, workers, ring) <= most)
        .unwrap_or((1, SMALLEST_RING));
    Plan { buffers: USUAL_BUFFERS.max(needed(cards, workers, ring)).min(most), workers, ring }
}

/// Buffers with which nobody has to wait for another's.
fn needed(cards: u16, workers: u16, ring: u16) -> u64 {
    let in_rings = 2 * u64::from(cards) * u64::from(workers) * u64::from(ring);
    2 * in_rings + (u64::from(workers) + 1) * HELD
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn usual_machines_get_what_they_can_use() {
        assert_eq!(plan(200 * MIB, 3, 1), Plan { buffers: 22_140, workers: 1, ring: 512 });
        assert_eq!(plan(55 * MIB, 1, 1), Plan { buffers: 6088, workers: 1, ring: 512 });
        assert_eq!(plan(8192 * MIB, 2, 4).ring, 512);
        assert_eq!(plan(8192 * MIB, 2, 4).buffers, USUAL_BUFFERS);
    }

    #[test]
    fn many_cards_and_cores_get_a_larger_pool_or_shorter_rings_or_fewer_workers() {
        let large = plan(128 << 30, 64, 63);
        assert_eq!((large.workers, large.ring), (63, 512));
        assert!(large.buffers > 2 * 2 * 64 * 63 * 512);
        assert_eq!(plan(2 << 30, 8, 16).ring, 256);
        let small = plan(256 * MIB, 16, 32);
        assert!(small.workers < 32 && small.workers > 1 && small.ring == SMALL_RING, "{small:?}");
        assert_eq!((plan(48 * MIB, 64, 4).workers, plan(MIB, 64, 4).ring), (1, SMALLEST_RING));
    }

    proptest! {
        #[test]
        fn rings_never_take_more_than_half(mib in 40u64..100_000, cards in 0u16..40, workers in 1u16..64) {
            let plan = plan(mib * MIB, cards, workers);
            let in_rings = 2 * u64::from(cards) * u64::from(plan.workers) * u64::from(plan.ring);
            prop_assert!(2 * in_rings <= plan.buffers, "{:?}", plan);
            prop_assert!(plan.buffers * BUFFER_BYTES as u64 <= mib * MIB / 4);
            prop_assert!((1..=workers).contains(&plan.workers));
        }
    }
}
