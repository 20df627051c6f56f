//! Flows come into the table, and others make room for them.

use super::{FlowTable, Home, MAX_TURNS, Refused, Slot, TURNS_AHEAD, place, slot};
use crate::entry::{ANSWERS, Entry, OTHER_SOURCE};
use crate::key::Key;
use crate::probe::{self, Place, Room};
use crate::state::{Observed, State, ticks};
use crate::tally::End;
use crate::unproven::Turn;

/// What a flow begins with, of which its key is no part.
#[derive(Clone, Copy)]
struct First {
    observed: Observed,
    binding: u32,
    /// In ticks.
    now: u32,
}

impl<K: Key> FlowTable<K> {
    /// Keeps a flow whose first packet was `observed`. A flow with this key that is there already ends, with its peer.
    ///
    /// # Errors
    /// [`Refused::Full`].
    pub fn insert(
        &mut self,
        key: &K,
        observed: Observed,
        binding: u32,
        now_ns: u64,
    ) -> Result<Slot, Refused> {
        let home = self.home(key);
        self.remove_key((home, key));
        self.insert_absent(home, key, observed, binding, now_ns)
    }

    /// [`FlowTable::insert`] of a key that [`FlowTable::find_at`] has just not found.
    ///
    /// # Errors
    /// [`Refused::Full`].
    #[inline]
    pub fn insert_absent(
        &mut self,
        home: Home,
        key: &K,
        observed: Observed,
        binding: u32,
        now_ns: u64,
    ) -> Result<Slot, Refused> {
        let first = First { observed, binding, now: ticks(now_ns) };
        let turn = self.give_way();
        let place = self.place((home, key), first, None)?;
        self.unproven.put(turn, slot::<K>(place));
        Ok(slot::<K>(place))
    }

    /// Keeps both directions of a flow whose first packet was `observed`, as they pass here: each is the other's peer, lives
    /// as long as it does, and has the same binding. The slot is that of `key`.
    ///
    /// # Errors
    /// [`Refused::AnswerTaken`] if a flow with the key `answer` is alive, unless both its ends have closed it and `observed`
    /// begins another one; [`Refused::Full`]; then nothing is kept.
    pub fn insert_pair(
        &mut self,
        key: &K,
        answer: &K,
        observed: Observed,
        binding: u32,
        now_ns: u64,
    ) -> Result<Slot, Refused> {
        let (home, answer_home) = (self.home(key), self.home(answer));
        self.remove_key((home, key));
        self.insert_absent_pair((home, key), (answer_home, answer), observed, binding, now_ns)
    }

    /// [`FlowTable::insert_pair`] where [`FlowTable::find_at`] has just not found `key`.
    ///
    /// # Errors
    /// As [`FlowTable::insert_pair`].
    #[inline]
    pub fn insert_absent_pair(
        &mut self,
        (home, key): (Home, &K),
        (answer_home, answer): (Home, &K),
        observed: Observed,
        binding: u32,
        now_ns: u64,
    ) -> Result<Slot, Refused> {
        let first = First { observed, binding, now: ticks(now_ns) };
        if key == answer {
            return Err(Refused::AnswerTaken);
        }
        if let Some(at) = probe::find(&self.lines, self.line(answer_home), answer) {
            let holds =
                |entry: &Entry<K>| self.is_alive(entry, first.now) && !self.gives_way(entry, observed);
            if probe::at(&self.lines, at).is_some_and(holds) {
                return Err(Refused::AnswerTaken);
            }
            self.remove_at(at, End::Idle);
        }
        // Two slots, two turns; the pair goes as one.
        let (turn, _) = (self.give_way(), self.give_way());
        let asks = self.place((home, key), first, None)?;
        let answers = match self.place((answer_home, answer), first, Some(asks)) {
            Ok(place) => place,
            Err(refused) => {
                self.free(asks);
                return Err(refused);
            }
        };
        self.unproven.put(turn, slot::<K>(asks));
        let (ask_slot, answer_slot) = (slot::<K>(asks), slot::<K>(answers));
        if let Some(entry) = probe::at_mut(&mut self.lines, asks) {
            entry.peer = (answer_slot.0 + 1) | if answer.goes_to(key) { 0 } else { OTHER_SOURCE };
        }
        if let Some(entry) = probe::at_mut(&mut self.lines, answers) {
            entry.peer = (ask_slot.0 + 1) | ANSWERS;
        }
        Ok(ask_slot)
    }

    /// The flow whose turn it is ends if it is still unproven; as long as few are, it is not looked at, and may stay without
    /// a place.
    #[inline(always)]
    fn give_way(&mut self) -> Turn {
        let (turn, slot) = self.unproven.turn();
        if self.counts.unproven >= self.unproven.places() {
            self.end(slot);
        }
        turn
    }

    #[inline(never)]
    fn end(&mut self, slot: Option<Slot>) {
        if let Some(slot) = slot {
            let _ = self.displace(place::<K>(slot), None);
        }
        let (line, peer) = TURNS_AHEAD;
        if let Some(slot) = self.unproven.ahead(line) {
            self.prefetch_slot(slot);
        }
        if let Some(peer) = self.unproven.ahead(peer).and_then(|slot| self.entry(slot)?.peer()) {
            self.prefetch_slot(peer);
        }
    }

    /// Ends an unproven flow for another one. False if it is none, or to be spared.
    fn displace(&mut self, at: Place, spare: Option<Place>) -> bool {
        let is_unproven = probe::at(&self.lines, at).is_some_and(|entry| entry.state.is_unproven());
        let goes = is_unproven && spare != Some(at);
        if goes {
            self.remove_at(at, End::Displaced);
            self.counts.displaced += 1;
        }
        goes
    }

    /// Ends one unproven flow, if one of the next has not been proven.
    fn make_room(&mut self, spare: Option<Place>) -> bool {
        (0..MAX_TURNS).any(|_| {
            let (_, slot) = self.unproven.turn();
            slot.is_some_and(|slot| self.displace(place::<K>(slot), spare))
        })
    }

    /// Finds room for a flow, if need be somebody else's, and puts it there. `peer` is its other direction, just put there.
    #[inline(always)]
    fn place(
        &mut self,
        (home, key): (Home, &K),
        first: First,
        peer: Option<Place>,
    ) -> Result<Place, Refused> {
        let line = self.line(home);
        let place = match probe::free_at(&self.lines, line) {
            Some(place) if self.counts.live < self.capacity => place,
            _ => self.room_elsewhere(line, first.now, peer)?,
        };
        self.put(line, place, key, first);
        Ok(place)
    }

    /// Where a flow can go whose home line is full, or that comes into a full table.
    #[inline(never)]
    fn room_elsewhere(&mut self, line: usize, now: u32, peer: Option<Place>) -> Result<Place, Refused> {
        if self.counts.live >= self.capacity && !self.make_room(peer) {
            self.counts.refused += 1;
            return Err(Refused::Full);
        }
        match probe::room(&self.lines, line, now, peer) {
            Room::Free(place) => Ok(place),
            Room::Expired(place) => {
                self.remove_at(place, End::Idle);
                self.counts.expired += 1;
                Ok(place)
            }
            Room::Unproven(place) => {
                self.remove_at(place, End::Displaced);
                self.counts.displaced += 1;
                Ok(place)
            }
            Room::None => {
                self.counts.refused += 1;
                Err(Refused::Full)
            }
        }
    }

    /// Puts a flow into a free place.
    #[inline(always)]
    fn put(&mut self, home: usize, at: Place, key: &K, first: First) {
        let First { observed, binding, now } = first;
        let state = State::first(observed);
        let expires = now.wrapping_add(self.timeouts.of(state));
        let Some(entry) = probe::at_mut(&mut self.lines, at) else { return };
        *entry = Entry { key: *key, state, passed: entry.passed, expires, binding, verdict: 0, peer: 0 };
        // A first packet proves nothing.
        self.counts.unproven += 1;
        self.counts.live += 1;
        self.counts.inserted += 1;
        if at.line != home {
            probe::count_passed(&mut self.lines, home, at.line, 1);
        }
        if let Some(tallies) = &mut self.tallies {
            tallies.begin(slot::<K>(at), now);
        }
        self.forget_windows(slot::<K>(at));
    }
}
