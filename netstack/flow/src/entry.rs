//! A flow's entry and the cache line it lives in.

use crate::key::{Home, Key, V4, V6};
use crate::link::{Link, Seen};
use crate::state::{Observed, State, TimeoutTicks};

/// What the table keeps of a flow, or of one direction of it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry<K> {
    /// As packets from the lower end say. Which these are, the link tells.
    pub(crate) key: K,
    /// Of both directions as [`Link::states`] tells.
    pub(crate) state: State,
    /// Of a line's first entry: flows that live in a later line than their home and passed this one.
    pub(crate) passed: u8,
    /// When the flow ends if nothing comes, in ticks.
    pub(crate) expires: u32,
    /// What the load balancer bound the flow to, such as a backend's number. The owner's own.
    pub(crate) binding: u32,
    /// What policy found, 0 before it has looked. The owner's own.
    pub(crate) verdict: u32,
    pub(crate) link: Link,
}

const _: () = assert!(size_of::<Entry<V4>>() == 32 && size_of::<Entry<V6>>() == 56);
const _: () = assert!(size_of::<Line<V4>>() == 64 && size_of::<Line<V6>>() == 64);

impl<K: Key> Entry<K> {
    pub(crate) fn is_free(&self) -> bool {
        self.link.is_free()
    }

    /// What it is to the packets that are looked for, if the key is theirs.
    #[inline(always)]
    pub(crate) fn seen_by(&self, sought: &Home<K>) -> Seen {
        self.link.seen_from(sought.is_down)
    }

    /// The states of both directions if it is of both, or else its own.
    pub(crate) fn states(&self) -> [State; 2] {
        if self.link.is_both() { self.link.states(self.state) } else { [self.state; 2] }
    }

    /// Follows the flow by nearly every packet: one of an established flow that nobody ends, or of the asking direction of one
    /// that is still to be answered, which proves nothing. False if there is more to do: then it is as it was.
    #[inline(always)]
    pub(crate) fn follow_usual(
        &mut self,
        is_answer: bool,
        observed: Observed,
        now: u32,
        timeouts: &TimeoutTicks,
    ) -> bool {
        if !self.state.goes_on(observed) && (is_answer || !self.waits()) || self.has_expired(now) {
            return false;
        }
        self.expires = now.wrapping_add(timeouts.of(self.state));
        true
    }

    /// True if answers are to come, and none has proved anything yet.
    #[inline(never)]
    fn waits(&self) -> bool {
        self.state.is_unproven() && self.link.has_answers()
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
            link: Link::default(),
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
    pub(crate) fn way_of(&self, sought: &Home<K>) -> Option<usize> {
        let ways = self.ways().iter().zip(0..);
        let (way, has_key) = ways.fold((0, false), |(found, has_key), (entry, way)| {
            let is = entry.key.has_ends_of(&sought.key);
            (if is { way } else { found }, has_key | is)
        });
        if !has_key {
            return None;
        }
        let entry = self.ways().get(way)?;
        match entry.seen_by(sought).is_theirs() && entry.key.has_protocol_of(&sought.key) {
            true => Some(way),
            false => self.way_beside(sought),
        }
    }

    /// The same where there is an entry of the opposite direction alone, a free one that has the key, or one of another protocol.
    #[cold]
    fn way_beside(&self, sought: &Home<K>) -> Option<usize> {
        let is_theirs = |entry: &Entry<K>| entry.key.is(&sought.key) && entry.seen_by(sought).is_theirs();
        self.ways().iter().position(is_theirs)
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
