//! A direction of a flow in the table.

use crate::entry::Entry;
use crate::key::Key;
use crate::link::Seen;
use crate::probe::Place;
use crate::state::{Observed, State, TimeoutTicks, ticks};

/// Where a direction of a flow is in the table: the number of its entry, and which direction of that. Good for as long as the
/// flow lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub(crate) u32);

/// The bit of the answering direction of an entry that is of both.
const TURNED: u32 = 1 << 31;

impl Slot {
    #[inline(always)]
    pub(crate) fn at<K: Key>(place: Place) -> Slot {
        Slot((place.line * K::WAYS + place.way) as u32)
    }

    /// The slot of the packets that are looked for, whose entry is at `place`.
    #[inline(always)]
    pub(crate) fn of<K: Key>(place: Place, seen: Seen) -> Slot {
        Slot(Self::at::<K>(place).0 | if seen.is_turned() { TURNED } else { 0 })
    }

    /// The other direction of the same entry.
    fn turned(self) -> Slot {
        Slot(self.0 ^ TURNED)
    }

    #[inline(always)]
    pub(crate) fn is_turned(self) -> bool {
        self.0 & TURNED != 0
    }

    /// The number of its entry.
    #[inline(always)]
    pub(crate) fn number(self) -> usize {
        (self.0 & !TURNED) as usize
    }

    #[inline(always)]
    pub(crate) fn place<K: Key>(self) -> Place {
        Place { line: self.number() / K::WAYS, way: self.number() % K::WAYS }
    }
}

/// A direction of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a, K> {
    pub(crate) entry: &'a Entry<K>,
    pub(crate) slot: Slot,
}

impl<K: Key> Side<'_, K> {
    /// The key of its packets.
    #[inline(always)]
    pub fn key(&self) -> K {
        let is_down = self.entry.link.is_down() != self.slot.is_turned();
        if is_down { self.entry.key.reversed() } else { self.entry.key }
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        self.entry.states()[usize::from(self.slot.is_turned())]
    }

    /// What the flow is bound to.
    #[inline(always)]
    pub fn binding(&self) -> u32 {
        self.entry.binding
    }

    /// The opposite direction, if it passes here.
    #[inline(always)]
    pub fn peer(&self) -> Option<Slot> {
        if self.entry.link.is_both() { Some(self.slot.turned()) } else { self.entry.link.peer() }
    }

    /// The direction of who began the flow.
    #[inline(always)]
    pub fn asks(&self) -> Option<Slot> {
        if self.is_answer() { self.peer() } else { Some(self.slot) }
    }

    /// True if it answers another direction, its peer.
    #[inline(always)]
    pub fn is_answer(&self) -> bool {
        self.slot.is_turned() | self.entry.link.is_answer()
    }

    /// True if answers go to its own source, or nothing is known of answers.
    #[inline(always)]
    pub fn keeps_source(&self) -> bool {
        self.entry.link.keeps_source()
    }
}

/// A direction of a flow that has been found, to work with.
pub struct Found<'a, K> {
    pub(crate) place: Place,
    pub(crate) seen: Seen,
    pub(crate) entry: &'a mut Entry<K>,
    pub(crate) timeouts: &'a TimeoutTicks,
}

impl<K: Key> Found<'_, K> {
    /// Where it is.
    #[inline(always)]
    pub fn slot(&self) -> Slot {
        Slot::of::<K>(self.place, self.seen)
    }

    /// The direction that it is.
    #[inline(always)]
    pub fn side(&self) -> Side<'_, K> {
        Side { entry: self.entry, slot: self.slot() }
    }

    /// True if it goes to whoever began the flow.
    #[inline(always)]
    pub fn is_answer(&self) -> bool {
        self.seen.is_answer()
    }

    /// What the flow is bound to, and what policy found.
    #[inline(always)]
    pub fn kept(&self) -> (u32, u32) {
        (self.entry.binding, self.entry.verdict)
    }

    /// Follows the flow as a lookup would if it is established and goes on, or if that leaves it as unproven as it was. False
    /// if not, or if it has been quiet for too long: then it is as it was.
    #[inline(always)]
    pub fn follow_usual(&mut self, observed: Observed, now_ns: u64) -> bool {
        self.entry.follow_usual(self.is_answer(), observed, ticks(now_ns), self.timeouts)
    }
}
