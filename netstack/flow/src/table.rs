//! The table.

use alloc::vec::Vec;
use core::fmt;

use crate::entry::{Entry, Line, OTHER_SOURCE};
use crate::key::Key;
use crate::probe::{self, Place};
use crate::state::{MAX_TIMEOUT_MS, Observed, State, TimeoutTicks, Timeouts, ticks};
use crate::tally::{End, Tallies, Tally};
use crate::unproven::Unproven;
use crate::window::Windows;

mod insert;

pub use insert::{Newcomer, Room};

/// Part of the table that unproven flows may have: one in this many.
const UNPROVEN_PART: usize = 4;
/// Turns of unproven flows that one flow's room may take, where established ones have nearly all of the table.
const MAX_TURNS: usize = 8;
/// How many turns before it is an unproven flow's, its line is asked for; and, that having come, its peer's.
const TURNS_AHEAD: (usize, usize) = (24, 12);
/// Slots at most: their numbers leave a bit of an entry's peer free.
const MAX_SLOTS: usize = 1 << 30;

const _: () = assert!(MAX_SLOTS <= OTHER_SOURCE as usize);

/// Keys whose lines are asked for before the first is looked at.
const BATCH: usize = buffer::VECTOR_SIZE;

/// How a table is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Flows it takes at most; a pair counts twice.
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
            Error::Capacity { flows } => write!(f, "a table of {flows} flows: give 1 to some 500 million"),
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

/// The number of an entry, good for as long as its flow lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub(crate) u32);

impl Slot {
    /// The number, to be kept where there is room for no more.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The slot of a number that was kept. Whose it is now, the key of its entry tells.
    pub fn from_number(number: u32) -> Slot {
        Slot(number)
    }
}

/// A flow that has been found, to work with.
pub struct Found<'a, K> {
    /// Where it is.
    pub slot: Slot,
    /// What is kept of it.
    pub entry: &'a mut Entry<K>,
    /// What it has carried, while somebody wants to know.
    pub tally: Option<&'a mut Tally>,
    timeouts: &'a TimeoutTicks,
}

impl<K: Key> Found<'_, K> {
    /// Follows the flow as a lookup would if it is established, or if that leaves it as unproven as it was. False if not, or
    /// if it has been quiet for too long: then it is as it was.
    #[inline(always)]
    pub fn follow_usual(&mut self, observed: Observed, now_ns: u64) -> bool {
        self.entry.follow_usual(observed, ticks(now_ns), self.timeouts)
    }
}

/// Where a key's search begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Home(u64);

impl Home {
    /// The hash of the key, which is this table's own.
    #[inline]
    pub fn hash(self) -> u64 {
        self.0
    }
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
    /// Allocates a table: 59 bytes a flow for IPv4, 92 for IPv6.
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
        self.lookup_from(self.line(self.home(key)), key, observed, ticks(now_ns))
    }

    /// Where the search of a key begins.
    #[inline(always)]
    pub fn home(&self, key: &K) -> Home {
        Home(key.hash(self.secret))
    }

    /// Finds the slot of a key, whether its flow is alive or not, and leaves it as it is.
    #[inline(always)]
    pub fn find_at(&self, home: Home, key: &K) -> Option<Slot> {
        probe::find(&self.lines, self.line(home), key).map(slot::<K>)
    }

    /// Finds the flow of a key, whether it is alive or not, with all that there is of it.
    #[inline(always)]
    pub fn find_mut(&mut self, home: Home, key: &K) -> Option<Found<'_, K>> {
        let place = probe::find(&self.lines, self.line(home), key)?;
        let slot = slot::<K>(place);
        let entry = probe::at_mut(&mut self.lines, place)?;
        let tally = self.tallies.as_mut().and_then(|tallies| tallies.of(slot));
        Some(Found { slot, entry, tally, timeouts: &self.timeouts })
    }

    /// [`Found::follow_usual`] of the flow in a slot.
    #[inline(always)]
    pub fn follow_usual(&mut self, slot: Slot, observed: Observed, now_ns: u64) -> bool {
        let Self { lines, timeouts, .. } = self;
        let entry = probe::at_mut(lines, place::<K>(slot));
        entry.is_some_and(|entry| entry.follow_usual(observed, ticks(now_ns), timeouts))
    }

    /// Asks for the line of a slot.
    #[inline(always)]
    pub fn prefetch_slot(&self, slot: Slot) {
        if let Some(line) = self.lines.get(place::<K>(slot).line) {
            buffer::prefetch_write(line);
        }
    }

    /// Finds the flow of a key without a packet of it: its state and time stay.
    pub fn peek(&self, key: &K, now_ns: u64) -> Option<Slot> {
        let place = probe::find(&self.lines, self.line(self.home(key)), key)?;
        let entry = probe::at(&self.lines, place)?;
        self.is_alive(entry, ticks(now_ns)).then(|| slot::<K>(place))
    }

    /// Asks for the line that a search of `key` will look at first.
    #[inline]
    pub fn prefetch(&self, key: &K) -> Home {
        let home = self.home(key);
        if let Some(line) = self.lines.get(self.line(home)) {
            buffer::prefetch_write(line);
        }
        home
    }

    /// [`FlowTable::lookup`] of a key that was prefetched.
    #[inline]
    pub fn lookup_at(&mut self, home: Home, key: &K, observed: Observed, now_ns: u64) -> Option<Slot> {
        self.lookup_from(self.line(home), key, observed, ticks(now_ns))
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
            let mut homes = [Home::default(); BATCH];
            for (key, home) in keys.iter().zip(&mut homes) {
                *home = self.prefetch(key);
            }
            for (((key, observed), home), found) in keys.iter().zip(observed).zip(&homes).zip(found) {
                *found = self.lookup_from(self.line(*home), key, *observed, now);
            }
        }
    }

    /// The flow in a slot.
    #[inline]
    pub fn entry(&self, slot: Slot) -> Option<&Entry<K>> {
        probe::at(&self.lines, place::<K>(slot)).filter(|entry| !entry.is_free())
    }

    /// The same, to change its binding or verdict.
    #[inline]
    pub fn entry_mut(&mut self, slot: Slot) -> Option<&mut Entry<K>> {
        probe::at_mut(&mut self.lines, place::<K>(slot)).filter(|entry| !entry.is_free())
    }

    /// Has a flow live for so long from now on, up to a day, whatever its state, unless packets of it come.
    pub fn keep(&mut self, slot: Slot, milliseconds: u32, now_ns: u64) {
        let ticks_kept = ticks(u64::from(milliseconds.min(MAX_TIMEOUT_MS)) * 1_000_000);
        if let Some(entry) = self.entry_mut(slot) {
            entry.expires = ticks(now_ns).wrapping_add(ticks_kept);
        }
    }

    /// Ends a flow, and its peer.
    pub fn remove(&mut self, slot: Slot) {
        self.remove_at(place::<K>(slot), End::Forced);
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

    /// All flows, the expired ones that nobody has come across yet among them.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Entry<K>)> + '_ {
        self.lines.iter().zip(0..).flat_map(|(line, index)| {
            let entries = line.ways().iter().zip(0..).filter(|(entry, _)| !entry.is_free());
            entries.map(move |(entry, way)| (slot::<K>(Place { line: index, way }), entry))
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
    pub(crate) fn line(&self, home: Home) -> usize {
        probe::home(home.0, self.homes)
    }

    #[inline(always)]
    fn lookup_from(&mut self, home: usize, key: &K, observed: Observed, now: u32) -> Option<Slot> {
        let place = probe::find(&self.lines, home, key)?;
        let entry = probe::at_mut(&mut self.lines, place)?;
        match entry.follow_usual(observed, now, &self.timeouts) {
            true => Some(slot::<K>(place)),
            false => self.follow(place, observed, now),
        }
    }

    /// The rest of a lookup: flows that packets prove or end, or that have expired.
    fn follow(&mut self, at: Place, observed: Observed, now: u32) -> Option<Slot> {
        let entry = probe::at(&self.lines, at)?;
        if entry.state.is_over(observed) || !self.is_alive(entry, now) {
            return None;
        }
        let proves = match entry.peer() {
            None => true,
            Some(_) => entry.is_answer() && State::is_proof(observed),
        };
        // What an answer proves of its own direction it proves of the other one too.
        let peer = entry.peer().filter(|_| proves && entry.state.is_unproven());
        let entry = probe::at_mut(&mut self.lines, at)?;
        let before = entry.state;
        entry.state = before.after(observed, proves);
        entry.expires = now.wrapping_add(self.timeouts.of(entry.state));
        let after = entry.state;
        self.count_change(before, after);
        if let Some(peer) = peer.and_then(|slot| probe::at_mut(&mut self.lines, place::<K>(slot))) {
            let before = peer.state;
            peer.state = before.after_answer();
            peer.expires = now.wrapping_add(self.timeouts.of(peer.state));
            let after = peer.state;
            self.count_change(before, after);
        } else if after == State::TcpClosed {
            self.follow_reset(at, now);
        }
        Some(slot::<K>(at))
    }

    /// The other direction of a flow that was reset is not waited for as if it were established.
    #[cold]
    fn follow_reset(&mut self, at: Place, now: u32) {
        let closing = self.timeouts.of(State::TcpClosing);
        let peer = probe::at(&self.lines, at).and_then(Entry::peer);
        if let Some(peer) = peer.and_then(|slot| probe::at_mut(&mut self.lines, place::<K>(slot)))
            && peer.expires.wrapping_sub(now) as i32 > closing as i32
        {
            peer.expires = now.wrapping_add(closing);
        }
    }

    /// True if a packet that would begin a flow may have the place of this one, which is over in both directions.
    fn gives_way(&self, entry: &Entry<K>, observed: Observed) -> bool {
        let peer = entry.peer().and_then(|slot| probe::at(&self.lines, place::<K>(slot)));
        entry.state.is_over(observed) && peer.is_none_or(|peer| peer.state.is_over(observed))
    }

    fn count_change(&mut self, before: State, after: State) {
        self.counts.unproven += usize::from(after.is_unproven());
        self.counts.unproven -= usize::from(before.is_unproven());
    }

    /// True if the flow, or its peer, has not been quiet for too long.
    fn is_alive(&self, entry: &Entry<K>, now: u32) -> bool {
        let peer = entry.peer().and_then(|slot| probe::at(&self.lines, place::<K>(slot)));
        !entry.has_expired(now) || peer.is_some_and(|peer| !peer.has_expired(now))
    }

    fn remove_key(&mut self, (home, key): (Home, &K)) {
        if let Some(place) = probe::find(&self.lines, self.line(home), key) {
            self.remove_at(place, End::Idle);
        }
    }

    fn remove_at(&mut self, at: Place, end: End) {
        let peer = probe::at(&self.lines, at).and_then(Entry::peer);
        if self.tallies.is_some() {
            self.note_end(at, peer, end);
        }
        self.free(at);
        if let Some(peer) = peer {
            self.free(place::<K>(peer));
        }
    }

    /// Frees one slot and forgets that its flow passed other lines.
    fn free(&mut self, at: Place) {
        let Some(entry) = probe::at_mut(&mut self.lines, at).filter(|entry| !entry.is_free()) else { return };
        let (key, state) = (entry.key, entry.state);
        *entry = Entry { passed: entry.passed, ..Entry::default() };
        self.count_change(state, State::Free);
        self.counts.live -= 1;
        let home = self.line(self.home(&key));
        probe::count_passed(&mut self.lines, home, at.line, -1);
    }
}

#[inline(always)]
pub(crate) fn slot<K: Key>(place: Place) -> Slot {
    Slot((place.line * K::WAYS + place.way) as u32)
}

#[inline(always)]
pub(crate) fn place<K: Key>(slot: Slot) -> Place {
    let number = slot.0 as usize;
    Place { line: number / K::WAYS, way: number % K::WAYS }
}
