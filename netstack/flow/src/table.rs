//! The table.

use alloc::vec::Vec;
use core::fmt;

use crate::entry::{Entry, Line};
use crate::key::{Home, Key};
use crate::link::{Link, MAX_SLOTS};
use crate::probe::{self, Place};
use crate::side::{Found, Side, Slot};
use crate::state::{MAX_TIMEOUT_MS, Observed, State, TimeoutTicks, Timeouts, ticks};
use crate::tally::{End, Tallies};
use crate::unproven::Unproven;
use crate::window::Windows;

mod insert;

pub use insert::{Answers, Newcomer, Room};

/// Part of the table that unproven flows may have: one in this many.
const UNPROVEN_PART: usize = 4;
/// Turns of unproven flows that one flow's room may take, where established ones have nearly all of the table.
const MAX_TURNS: usize = 8;
/// How many turns before it is an unproven flow's, its line is asked for; and, that having come, its peer's.
const TURNS_AHEAD: (usize, usize) = (24, 12);

/// Keys whose lines are asked for before the first is looked at.
const BATCH: usize = buffer::VECTOR_SIZE;

/// How a table is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Flows it takes at most; one whose answers have another key counts twice.
    pub capacity: usize,
    /// Secret of its hash, random: who does not know it cannot choose flows that live in one place.
    pub secret: [u64; 2],
    /// How long flows may be silent.
    pub timeouts: Timeouts,
}

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The capacity is 0 or beyond what slots can be numbered for.
    Capacity {
        /// The capacity asked for.
        flows: usize,
    },
    /// There is not enough memory.
    Memory {
        /// What it would take.
        bytes: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Capacity { flows } => write!(f, "a table of {flows} flows: give 1 to some 130 million"),
            Error::Memory { bytes } => write!(f, "no {bytes} bytes of memory for the connection table"),
        }
    }
}

impl core::error::Error for Error {}

/// Why a flow was not taken. It is served all the same, by what the tables say now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Established flows have all the places where it could live, or all of the table.
    Full,
    /// Another flow has the key of the answering direction: another port must be chosen.
    AnswerTaken,
}

/// What happened, since the table was made; and how many flows there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Flows in the table, expired ones that nobody has come across yet among them.
    pub live: usize,
    /// Of those, the unproven.
    pub unproven: usize,
    /// Flows taken.
    pub inserted: u64,
    /// Flows freed, having been quiet for too long.
    pub expired: u64,
    /// Unproven flows that gave way to others.
    pub displaced: u64,
    /// Flows not taken.
    pub refused: u64,
}

/// The flows of one worker. See the crate's documentation.
pub struct FlowTable<K: Key> {
    pub(crate) lines: Vec<Line<K>>,
    /// Lines that can be homes; those after them take what the last of these cannot.
    homes: usize,
    capacity: usize,
    secret: [u64; 2],
    pub(crate) timeouts: TimeoutTicks,
    unproven: Unproven,
    /// Next line of [`FlowTable::expire`].
    cursor: usize,
    /// The same of [`FlowTable::revise`].
    revised: usize,
    counts: Counts,
    /// While somebody wants to know what flows carry.
    pub(crate) tallies: Option<Tallies<K>>,
    /// By the slot of the direction that asks, if they are followed.
    pub(crate) windows: Option<Vec<Windows>>,
}

/// Lines that are homes in a table of this capacity, and lines of it.
pub(crate) fn lines_of<K: Key>(capacity: usize) -> (usize, usize) {
    let homes = (capacity * 100 / K::FULL_PERCENT).div_ceil(K::WAYS);
    (homes, homes + probe::window_lines::<K>())
}

impl<K: Key> FlowTable<K> {
    /// Allocates a table: 53 bytes a flow for IPv4, 92 for IPv6.
    ///
    /// # Errors
    /// [`Error::Capacity`], [`Error::Memory`].
    pub fn new(config: &Config) -> Result<Self, Error> {
        let capacity = config.capacity;
        if capacity == 0 || capacity > MAX_SLOTS / 2 {
            return Err(Error::Capacity { flows: capacity });
        }
        let (homes, count) = lines_of::<K>(capacity);
        let mut lines = Vec::new();
        let enough = lines.try_reserve_exact(count);
        enough.map_err(|_| Error::Memory { bytes: count * size_of::<Line<K>>() })?;
        lines.resize(count, Line::default());
        let timeouts = TimeoutTicks::new(&config.timeouts);
        let places = (capacity / UNPROVEN_PART / 2).max(2);
        let unproven =
            Unproven::new(places).map_err(|_| Error::Memory { bytes: places * size_of::<u32>() })?;
        Ok(Self {
            lines,
            unproven,
            homes,
            capacity,
            secret: config.secret,
            timeouts,
            cursor: 0,
            revised: 0,
            counts: Counts::default(),
            tallies: None,
            windows: None,
        })
    }

    /// Finds the flow of a packet and follows its state. `None` is a miss: no such flow, or it is over and the packet begins another.
    #[inline]
    pub fn lookup(&mut self, key: &K, observed: Observed, now_ns: u64) -> Option<Slot> {
        self.lookup_from(&self.home(key), observed, ticks(now_ns))
    }

    /// What to look for where, to find a key.
    #[inline(always)]
    pub fn home(&self, key: &K) -> Home<K> {
        Home::new(key, self.secret)
    }

    /// Finds the slot of a key, whether its flow is alive or not, and leaves it as it is.
    #[inline(always)]
    pub fn find_at(&self, home: &Home<K>) -> Option<Slot> {
        let place = self.find(home)?;
        let seen = probe::at(&self.lines, place)?.seen_by(home);
        Some(Slot::of::<K>(place, seen))
    }

    #[inline(always)]
    fn find(&self, home: &Home<K>) -> Option<Place> {
        probe::find(&self.lines, self.line(home), home)
    }

    /// Finds the flow of a key, whether it is alive or not, with all that there is of it.
    #[inline(always)]
    pub fn find_mut(&mut self, home: &Home<K>) -> Option<Found<'_, K>> {
        let index = self.line(home);
        let line = self.lines.get(index)?;
        match line.way_of(home) {
            // What is known of a place here need not be looked at again.
            Some(way) => self.found(Place { line: index, way }, home),
            None if line.passed() == 0 => None,
            None => self.find_beyond(home),
        }
    }

    /// The same of a flow that does not live in its home line.
    #[inline(never)]
    fn find_beyond(&mut self, home: &Home<K>) -> Option<Found<'_, K>> {
        self.found(self.find(home)?, home)
    }

    #[inline(always)]
    fn found(&mut self, place: Place, home: &Home<K>) -> Option<Found<'_, K>> {
        let entry = probe::at_mut(&mut self.lines, place)?;
        let seen = entry.seen_by(home);
        Some(Found { place, seen, entry, timeouts: &self.timeouts })
    }

    /// [`Found::follow_usual`] of the flow in a slot.
    #[inline(always)]
    pub fn follow_usual(&mut self, slot: Slot, observed: Observed, now_ns: u64) -> bool {
        let Self { lines, timeouts, .. } = self;
        probe::at_mut(lines, slot.place::<K>()).is_some_and(|entry| {
            let is_answer = Side { entry, slot }.is_answer();
            entry.follow_usual(is_answer, observed, ticks(now_ns), timeouts)
        })
    }

    /// Asks for the line of a slot.
    #[inline(always)]
    pub fn prefetch_slot(&self, slot: Slot) {
        if let Some(line) = self.lines.get(slot.place::<K>().line) {
            buffer::prefetch_write(line);
        }
    }

    /// Finds the flow of a key without a packet of it: its state and time stay.
    pub fn peek(&self, key: &K, now_ns: u64) -> Option<Slot> {
        let home = self.home(key);
        let place = self.find(&home)?;
        let entry = probe::at(&self.lines, place)?;
        self.is_alive(entry, ticks(now_ns)).then(|| Slot::of::<K>(place, entry.seen_by(&home)))
    }

    /// Asks for the line that a search of `key` will look at first.
    #[inline(always)]
    pub fn prefetch(&self, key: &K) -> Home<K> {
        let home = self.home(key);
        if let Some(line) = self.lines.get(self.line(&home)) {
            buffer::prefetch_early(line);
        }
        home
    }

    /// [`FlowTable::lookup`] of a key that was prefetched.
    #[inline]
    pub fn lookup_at(&mut self, home: &Home<K>, observed: Observed, now_ns: u64) -> Option<Slot> {
        self.lookup_from(home, observed, ticks(now_ns))
    }

    /// Looks up a vector of packets, as [`FlowTable::lookup`] one after the other would, with the cache misses of 256 at
    /// a time overlapping. As many results are written as the shortest slice has room for.
    #[inline]
    pub fn lookup_batch(
        &mut self,
        keys: &[K],
        observed: &[Observed],
        now_ns: u64,
        found: &mut [Option<Slot>],
    ) {
        let now = ticks(now_ns);
        let chunks = keys.chunks(BATCH).zip(observed.chunks(BATCH)).zip(found.chunks_mut(BATCH));
        for ((keys, observed), found) in chunks {
            let mut homes = [Home::<K>::default(); BATCH];
            for (key, home) in keys.iter().zip(&mut homes) {
                *home = self.prefetch(key);
            }
            for ((observed, home), found) in observed.iter().zip(&homes).zip(found).take(keys.len()) {
                *found = self.lookup_from(home, *observed, now);
            }
        }
    }

    /// The direction of a flow in a slot.
    #[inline(always)]
    pub fn side(&self, slot: Slot) -> Option<Side<'_, K>> {
        let entry = probe::at(&self.lines, slot.place::<K>()).filter(|entry| !entry.is_free())?;
        Some(Side { entry, slot })
    }

    /// Has a flow live for so long from now on, up to a day, whatever its state, unless packets of it come.
    pub fn keep(&mut self, slot: Slot, milliseconds: u32, now_ns: u64) {
        let ticks_kept = ticks(u64::from(milliseconds.min(MAX_TIMEOUT_MS)) * 1_000_000);
        if let Some(entry) = probe::at_mut(&mut self.lines, slot.place::<K>()) {
            entry.expires = ticks(now_ns).wrapping_add(ticks_kept);
        }
    }

    /// Ends a flow, and its peer.
    pub fn remove(&mut self, slot: Slot) {
        self.remove_at(slot.place::<K>(), End::Forced);
    }

    /// Frees what has been quiet for too long in the next `lines` cache lines. Called often with a few, it
    /// walks round the table.
    pub fn expire(&mut self, now_ns: u64, lines: usize) {
        let now = ticks(now_ns);
        for _ in 0..lines.min(self.lines.len()) {
            let line = self.cursor;
            self.cursor = if line + 1 == self.lines.len() { 0 } else { line + 1 };
            for way in 0..K::WAYS {
                let place = Place { line, way };
                let entry = probe::at(&self.lines, place).filter(|entry| !entry.is_free());
                if entry.is_some_and(|entry| !self.is_alive(entry, now)) {
                    self.remove_at(place, End::Idle);
                    self.counts.expired += 1;
                }
            }
        }
    }

    /// Shows the verdict of each flow in the next `lines` cache lines, to be changed. Called often with a few, it walks round
    /// the table, apart from [`FlowTable::expire`].
    pub fn revise(&mut self, lines: usize, mut revise: impl FnMut(&mut u32)) {
        for _ in 0..lines.min(self.lines.len()) {
            let line = self.revised;
            self.revised = if line + 1 == self.lines.len() { 0 } else { line + 1 };
            let ways = self.lines.get_mut(line).into_iter().flat_map(Line::ways_mut);
            ways.filter(|entry| !entry.is_free()).for_each(|entry| revise(&mut entry.verdict));
        }
    }

    /// Other timeouts: a flow has them from its next packet on.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) {
        self.timeouts = TimeoutTicks::new(timeouts);
    }

    /// All entries, those of expired flows that nobody has come across yet among them; one that is of both directions as the
    /// asking one.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, Side<'_, K>)> + '_ {
        self.lines.iter().zip(0..).flat_map(|(line, index)| {
            let entries = line.ways().iter().zip(0..).filter(|(entry, _)| !entry.is_free());
            entries.map(move |(entry, way)| {
                let slot = Slot::at::<K>(Place { line: index, way });
                (slot, Side { entry, slot })
            })
        })
    }

    /// How many flows there are, and what happened.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Flows it takes at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Memory of the table.
    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line<K>>() + self.unproven.bytes()
    }

    /// Lines that can be homes.
    #[cfg(test)]
    pub(crate) fn homes(&self) -> usize {
        self.homes
    }

    /// Lines that some flow had to pass.
    #[cfg(test)]
    pub(crate) fn passed_anywhere(&self) -> impl Iterator<Item = usize> + '_ {
        self.lines.iter().zip(0..).filter(|(line, _)| line.passed() > 0).map(|(_, index)| index)
    }

    #[inline(always)]
    pub(crate) fn line(&self, home: &Home<K>) -> usize {
        probe::home(home.hash, self.homes)
    }

    #[inline(always)]
    fn lookup_from(&mut self, home: &Home<K>, observed: Observed, now: u32) -> Option<Slot> {
        let place = self.find(home)?;
        let entry = probe::at_mut(&mut self.lines, place)?;
        let seen = entry.seen_by(home);
        let slot = Slot::of::<K>(place, seen);
        match entry.follow_usual(seen.is_answer(), observed, now, &self.timeouts) {
            true => Some(slot),
            false => self.follow(slot, observed, now),
        }
    }

    /// The rest of a lookup: flows that packets prove or end, or that have expired.
    fn follow(&mut self, slot: Slot, observed: Observed, now: u32) -> Option<Slot> {
        let side = self.side(slot)?;
        let before = side.state();
        if before.is_over(observed) || !self.is_alive(side.entry, now) {
            return None;
        }
        let proves = match side.peer() {
            None => true,
            Some(_) => side.is_answer() && State::is_proof(observed),
        };
        let after = before.after(observed, proves);
        // What an answer proves of its own direction it proves of the other one too.
        let is_proven = before.is_unproven() && !after.is_unproven();
        match side.entry.link.is_both() {
            true => self.set_both(slot, after, is_proven, now),
            false => self.set_one(slot, after, is_proven, now),
        }
        Some(slot)
    }

    /// One direction of an entry of both has another state now.
    fn set_both(&mut self, slot: Slot, after: State, is_proven: bool, now: u32) {
        let Some(entry) = probe::at_mut(&mut self.lines, slot.place::<K>()) else { return };
        let (before, mut states) = (entry.state, entry.states());
        let this = usize::from(slot.is_turned());
        states[this] = after;
        if is_proven {
            states[1 - this] = states[1 - this].after_answer();
        }
        (entry.link, entry.state) = entry.link.with_states(states);
        entry.expires = now.wrapping_add(self.timeouts.of_both(states));
        let after = entry.state;
        self.count_change(before, after);
    }

    /// A direction that has an entry of its own has another state now.
    fn set_one(&mut self, slot: Slot, after: State, is_proven: bool, now: u32) {
        let peer = self.set_state(slot, after, now).and_then(Link::peer);
        let Some(peer) = peer.and_then(|peer| self.side(peer)) else { return };
        let (slot, before) = (peer.slot, peer.state());
        if is_proven {
            let _ = self.set_state(slot, before.after_answer(), now);
        } else if after == State::TcpClosed {
            self.follow_reset(slot, now);
        }
    }

    /// Returns what the entry has to do with the opposite direction.
    fn set_state(&mut self, slot: Slot, after: State, now: u32) -> Option<Link> {
        let entry = probe::at_mut(&mut self.lines, slot.place::<K>())?;
        let before = core::mem::replace(&mut entry.state, after);
        entry.expires = now.wrapping_add(self.timeouts.of(after));
        let link = entry.link;
        self.count_change(before, after);
        Some(link)
    }

    /// The other direction of a flow that was reset is not waited for as if it were established.
    #[cold]
    fn follow_reset(&mut self, peer: Slot, now: u32) {
        let closing = self.timeouts.of(State::TcpClosing);
        if let Some(peer) = probe::at_mut(&mut self.lines, peer.place::<K>())
            && peer.expires.wrapping_sub(now) as i32 > closing as i32
        {
            peer.expires = now.wrapping_add(closing);
        }
    }

    /// The entry of the opposite direction, if there is another one.
    fn peer_of(&self, entry: &Entry<K>) -> Option<&Entry<K>> {
        probe::at(&self.lines, entry.link.peer()?.place::<K>())
    }

    /// True if a packet that would begin a flow may have the place of this one, which is over in both directions.
    fn gives_way(&self, entry: &Entry<K>, observed: Observed) -> bool {
        let peer = self.peer_of(entry).map(|peer| peer.state);
        entry.states().into_iter().chain(peer).all(|state| state.is_over(observed))
    }

    fn count_change(&mut self, before: State, after: State) {
        self.counts.unproven += usize::from(after.is_unproven());
        self.counts.unproven -= usize::from(before.is_unproven());
    }

    /// True if the flow, or its peer, has not been quiet for too long.
    fn is_alive(&self, entry: &Entry<K>, now: u32) -> bool {
        !entry.has_expired(now) || self.peer_of(entry).is_some_and(|peer| !peer.has_expired(now))
    }

    fn remove_key(&mut self, home: &Home<K>) {
        if let Some(place) = self.find(home) {
            self.remove_at(place, End::Idle);
        }
    }

    fn remove_at(&mut self, at: Place, end: End) {
        let peer = probe::at(&self.lines, at).and_then(|entry| entry.link.peer());
        if self.tallies.is_some() {
            self.note_end(Slot::at::<K>(at), end);
        }
        self.free(at);
        if let Some(peer) = peer {
            self.free(peer.place::<K>());
        }
    }

    /// Frees one slot and forgets that its flow passed other lines.
    fn free(&mut self, at: Place) {
        let Some(entry) = probe::at_mut(&mut self.lines, at).filter(|entry| !entry.is_free()) else { return };
        let (key, state) = (entry.key, entry.state);
        *entry = Entry { passed: entry.passed, ..Entry::default() };
        self.count_change(state, State::Free);
        self.counts.live -= 1;
        let home = self.line(&self.home(&key));
        probe::count_passed(&mut self.lines, home, at.line, -1);
    }
}
