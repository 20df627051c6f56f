//! A flow's entry and the cache line it lives in.

use crate::key::{Key, V4, V6};
use crate::state::{Observed, State, TimeoutTicks};
use crate::table::Slot;

/// What the table keeps of a flow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry<K> {
    /// Which flow.
    pub(crate) key: K,
    pub(crate) state: State,
    /// Of a line's first entry: flows that live in a later line than their home and passed this one.
    pub(crate) passed: u8,
    /// When the flow ends if nothing comes, in ticks.
    pub(crate) expires: u32,
    /// What the load balancer bound the flow to, such as a backend's number. The owner's own.
    pub binding: u32,
    /// What policy found, 0 before it has looked. The owner's own.
    pub verdict: u32,
    /// One more than the slot of the opposite direction, 0 if there is none; besides, [`ANSWERS`] and [`OTHER_SOURCE`].
    pub(crate) peer: u32,
}

/// The bit of [`Entry::peer`] that the answering direction has.
pub(crate) const ANSWERS: u32 = 1 << 31;
/// The bit of [`Entry::peer`] of flows whose answers go to another address or port than the flow's source.
pub(crate) const OTHER_SOURCE: u32 = 1 << 30;

const _: () = assert!(size_of::<Entry<V4>>() == 32 && size_of::<Entry<V6>>() == 56);
const _: () = assert!(size_of::<Line<V4>>() == 64 && size_of::<Line<V6>>() == 64);

impl<K: Key> Entry<K> {
    /// Which flow.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// How far the flow has come.
    pub fn state(&self) -> State {
        self.state
    }

    /// The slot of the opposite direction, if there is one.
    pub fn peer(&self) -> Option<Slot> {
        (self.peer & !(ANSWERS | OTHER_SOURCE)).checked_sub(1).map(Slot)
    }

    /// True if answers go to the flow's own source, or nothing is known of answers.
    #[inline(always)]
    pub fn keeps_source(&self) -> bool {
        self.peer & OTHER_SOURCE == 0
    }

    /// True if the flow answers another one, its peer.
    #[inline(always)]
    pub fn is_answer(&self) -> bool {
        self.peer & ANSWERS != 0
    }

    pub(crate) fn is_free(&self) -> bool {
        self.state == State::Free
    }

    /// True if it is this flow's. Free entries have the default key.
    #[inline(always)]
    pub(crate) fn is_of(&self, key: &K) -> bool {
        self.key.is(key) & !self.is_free()
    }

    /// Follows the flow by nearly every packet: one of an established flow, or of the asking direction of one that is still
    /// to be answered, which proves nothing. False if there is more to do: then it is as it was.
    #[inline(always)]
    pub(crate) fn follow_usual(&mut self, observed: Observed, now: u32, timeouts: &TimeoutTicks) -> bool {
        let is_established = matches!(self.state, State::TcpEstablished | State::Established);
        let waits = self.state.is_unproven() && !self.is_answer() && self.peer().is_some();
        if !(is_established || waits) || self.has_expired(now) {
            return false;
        }
        let state = self.state.after(observed, is_established);
        if state == State::TcpClosed {
            return false;
        }
        self.state = state;
        self.expires = now.wrapping_add(timeouts.of(state));
        true
    }

    /// True if nothing has come for too long. Ticks wrap around.
    #[inline(always)]
    pub(crate) fn has_expired(&self, now: u32) -> bool {
        now.wrapping_sub(self.expires) as i32 >= 0
    }
}

impl<K: Key> Default for Entry<K> {
    fn default() -> Self {
        Entry {
            key: K::default(),
            state: State::Free,
            passed: 0,
            expires: 0,
            binding: 0,
            verdict: 0,
            peer: 0,
        }
    }
}

/// A cache line of entries.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Line<K: Key>(pub(crate) K::Ways);

impl<K: Key> Default for Line<K> {
    fn default() -> Self {
        Line(K::Ways::default())
    }
}

impl<K: Key> Line<K> {
    #[inline(always)]
    pub(crate) fn ways(&self) -> &[Entry<K>] {
        self.0.as_ref()
    }

    #[inline(always)]
    pub(crate) fn ways_mut(&mut self) -> &mut [Entry<K>] {
        self.0.as_mut()
    }

    /// Which way is a flow's, found without a branch for each: they would be guessed wrong.
    #[inline(always)]
    pub(crate) fn way_of(&self, key: &K) -> Option<usize> {
        let ways = self.ways().iter().zip(0..);
        let way = ways.fold(K::WAYS, |found, (entry, way)| if entry.is_of(key) { way } else { found });
        (way < K::WAYS).then_some(way)
    }

    /// Flows that passed this line.
    #[inline(always)]
    pub(crate) fn passed(&self) -> u8 {
        self.ways().first().map_or(0, |entry| entry.passed)
    }

    pub(crate) fn count_passed(&mut self, change: i8) {
        if let Some(entry) = self.ways_mut().first_mut() {
            entry.passed = entry.passed.saturating_add_signed(change);
        }
    }
}
