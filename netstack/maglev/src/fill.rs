//! Fills the slots: whose turn it is takes the first free slot in its own order.

use alloc::vec;
use alloc::vec::Vec;

use crate::size::TableSize;
use crate::turns::Turns;

/// Free slots below which computing the next one beats probing for it. (Between 64 and 512 it matters little.)
const FEW: u32 = 192;

/// A backend's own order of all slots: `(offset + j * skip) mod slots` for j = 0, 1, 2, ...
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// The next slot; all before it are taken.
    next: u32,
    /// From 1 to slots - 1.
    skip: u32,
}

const _: () = assert!(size_of::<Order>() == 8);

impl Order {
    /// The order that a backend's two hashes give (paper, §3.4).
    pub(crate) fn new(offset_hash: u64, skip_hash: u64, size: TableSize) -> Self {
        let slots = u64::from(size.slots());
        Order { next: (offset_hash % slots) as u32, skip: (skip_hash % (slots - 1) + 1) as u32 }
    }

    /// The slot after `at`.
    #[inline(always)]
    fn after(&self, at: u32, slots: u32) -> u32 {
        let sum = at + self.skip;
        if sum >= slots { sum - slots } else { sum }
    }
}

/// Slots on their way to their backends.
pub(crate) struct Filling {
    slots: u32,
    orders: Vec<Order>,
    turns: Turns,
    taken: Taken,
    /// Slots that are still free.
    free: u32,
}

impl Filling {
    pub(crate) fn new(size: TableSize, orders: Vec<Order>, turns: Turns) -> Self {
        let slots = size.slots();
        Self { slots, orders, turns, taken: Taken::none(slots), free: slots }
    }

    /// Gives slots to backends, as many as need about `probes` looks for a free one: `take(slot, backend)` is called once for
    /// each slot. True when all are given.
    pub(crate) fn advance(&mut self, probes: u32, mut take: impl FnMut(u32, u32)) -> bool {
        let Self { slots, orders, turns, taken, .. } = self;
        let (slots, orders) = (*slots, &mut orders[..]);
        // The fewer are free, the longer one is looked for.
        let count = u64::from(probes) * u64::from(self.free) / u64::from(slots);
        let few = FEW.min(slots);
        let until = self.free.saturating_sub(count.max(1) as u32).max(few);
        for _ in until..self.free {
            let backend = turns.next();
            let order = &mut orders[backend as usize];
            let mut at = order.next;
            while taken.contains(at) {
                at = order.after(at, slots);
            }
            order.next = order.after(at, slots);
            taken.insert(at);
            take(at, backend);
        }
        self.free = until;
        if until > few {
            return false;
        }
        let mut free: Vec<u32> = (0..slots).filter(|slot| !taken.contains(*slot)).collect();
        while !free.is_empty() {
            let backend = turns.next();
            let index = first_in_order(&orders[backend as usize], &free, slots);
            let slot = free.swap_remove(index);
            taken.insert(slot);
            take(slot, backend);
        }
        true
    }
}

/// Index of the slot in `free` that comes first in the order from its next place on.
///
/// Slot s comes `(s - next) / skip` places later, a division modulo the prime number of slots: one inversion for
/// all, then a multiplication each. Its reduction needs no division with the inverse scaled beforehand (Shoup).
fn first_in_order(order: &Order, free: &[u32], slots: u32) -> usize {
    let inverse = invert(order.skip, slots);
    let scaled = (u64::from(inverse) << 32) / u64::from(slots);
    let places_later = |slot: &u32| {
        let distance = if *slot >= order.next { slot - order.next } else { slot + slots - order.next };
        let quotient = ((u64::from(distance) * scaled) >> 32) as u32;
        // Below 2 * slots, so that the low 32 bits are enough.
        let rest = distance.wrapping_mul(inverse).wrapping_sub(quotient.wrapping_mul(slots));
        if rest >= slots { rest - slots } else { rest }
    };
    let first = free.iter().map(places_later).zip(0..).min();
    first.map_or(0, |(_, index)| index)
}

/// The inverse of `number` modulo a prime, by Euclid's algorithm.
fn invert(number: u32, prime: u32) -> u32 {
    let (mut old, mut rest) = (i64::from(prime), i64::from(number));
    let (mut old_factor, mut factor) = (0, 1);
    while rest != 0 {
        let quotient = old / rest;
        (old, rest) = (rest, old - quotient * rest);
        (old_factor, factor) = (factor, old_factor - quotient * factor);
    }
    old_factor.rem_euclid(i64::from(prime)) as u32
}

/// A set of slots, a bit each.
struct Taken(Vec<u64>);

impl Taken {
    fn none(slots: u32) -> Self {
        Taken(vec![0; slots.div_ceil(64) as usize])
    }

    #[inline(always)]
    fn contains(&self, slot: u32) -> bool {
        self.0[slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    #[inline(always)]
    fn insert(&mut self, slot: u32) {
        self.0[slot as usize / 64] |= 1 << (slot % 64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The paper's pseudocode (listing 1), with stored permutations.
    fn naive(slots: u32, hashes: &[(u64, u64)]) -> Vec<u32> {
        let m = u64::from(slots);
        let permutations: Vec<Vec<u64>> = hashes
            .iter()
            .map(|(h1, h2)| (0..m).map(|j| (h1 % m + j * (h2 % (m - 1) + 1)) % m).collect())
            .collect();
        let mut next = vec![0; hashes.len()];
        let mut entry = vec![u32::MAX; slots as usize];
        let mut filled = 0;
        loop {
            for i in 0..hashes.len() {
                let mut c = permutations[i][next[i]] as usize;
                while entry[c] != u32::MAX {
                    next[i] += 1;
                    c = permutations[i][next[i]] as usize;
                }
                entry[c] = i as u32;
                next[i] += 1;
                filled += 1;
                if filled == slots {
                    return entry;
                }
            }
        }
    }

    fn filled(slots: u32, hashes: &[(u64, u64)]) -> Vec<u32> {
        let size = TableSize::new(slots).unwrap();
        let orders: Vec<Order> = hashes.iter().map(|(a, b)| Order::new(*a, *b, size)).collect();
        let mut entry = vec![u32::MAX; slots as usize];
        let mut filling = Filling::new(size, orders, Turns::new(hashes.iter().map(|_| 1)));
        // In pieces: of no matter to what comes of it.
        while !filling.advance(300, |slot, backend| {
            assert_eq!(entry[slot as usize], u32::MAX, "slot {slot} is taken twice");
            entry[slot as usize] = backend;
        }) {}
        entry
    }

    proptest! {
        #[test]
        fn it_is_the_papers_table(
            size in prop::sample::select(vec![3u32, 5, 7, 191, 193, 197, 251, 1009, 4099]),
            hashes in prop::collection::vec(any::<(u64, u64)>(), 1..60),
        ) {
            let hashes = &hashes[..hashes.len().min(size as usize)];
            prop_assert_eq!(filled(size, hashes), naive(size, hashes));
        }

        #[test]
        fn inverses_are_inverses(number in 1u32..655_373) {
            prop_assert_eq!(u64::from(invert(number, 655_373)) * u64::from(number) % 655_373, 1);
        }
    }

    #[test]
    fn it_is_the_papers_table_at_the_largest_size() {
        let hashes: Vec<(u64, u64)> = (1..20u64)
            .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i.wrapping_mul(0xd1b5_4a32_d192_ed03)))
            .collect();
        let slots = TableSize::MAX.slots();
        assert_eq!(filled(slots, &hashes), naive(slots, &hashes));
    }
}
