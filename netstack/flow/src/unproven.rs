//! Unproven flows in the order in which they came.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use crate::side::Slot;

/// A ring of the slots of unproven flows. A flow that comes takes the place of the one that came a whole round before, which
/// ends if there are as many unproven flows as places. So making room for one costs the same whatever the table is like, and
/// unproven flows never have more than twice as many slots as there are places: those that lost theirs while there were
/// fewer, and those that have one. What a place says may be out of date: the flow may be proven or gone since.
pub(crate) struct Unproven {
    /// One more than a slot's number; 0 for none.
    places: Vec<u32>,
    next: usize,
}

/// A place of the ring.
#[derive(Clone, Copy)]
pub(crate) struct Turn(usize);

impl Unproven {
    pub(crate) fn new(places: usize) -> Result<Self, TryReserveError> {
        let mut all = Vec::new();
        all.try_reserve_exact(places)?;
        all.resize(places, 0);
        Ok(Self { places: all, next: 0 })
    }

    /// Empties the next place, whose flow must go if it is still there and unproven.
    #[inline(always)]
    pub(crate) fn turn(&mut self) -> (Turn, Option<Slot>) {
        let at = self.next;
        self.next = if at + 1 == self.places.len() { 0 } else { at + 1 };
        let slot = self.places.get_mut(at).and_then(|place| core::mem::take(place).checked_sub(1));
        (Turn(at), slot.map(Slot))
    }

    #[inline(always)]
    pub(crate) fn put(&mut self, turn: Turn, slot: Slot) {
        if let Some(place) = self.places.get_mut(turn.0) {
            *place = slot.0 + 1;
        }
    }

    /// Whose turn it is in so many turns, or in the one after it: a pair has two turns, and is in one of them.
    #[inline(always)]
    pub(crate) fn ahead(&self, turns: usize) -> Option<Slot> {
        let at = self.next + turns;
        let slots = self.places.get(at..at + 2)?.iter();
        slots.filter_map(|place| place.checked_sub(1)).map(Slot).next()
    }

    #[inline(always)]
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_seen_ahead_at_whichever_of_its_turns() {
        let mut ring = Unproven::new(8).expect("memory");
        for pair in 0..4 {
            let (turn, _) = (ring.turn().0, ring.turn());
            ring.put(turn, Slot(pair));
        }
        assert_eq!([ring.ahead(2), ring.ahead(3)], [Some(Slot(1)), Some(Slot(2))]);
        let _ = ring.turn();
        assert_eq!([ring.ahead(2), ring.ahead(3)], [Some(Slot(2)), Some(Slot(2))]);
        assert_eq!(ring.ahead(7), None, "beyond the end");
    }
}
