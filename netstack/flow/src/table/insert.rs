//! Flows come into the table, and others make room for them.

use super::{FlowTable, Home, MAX_TURNS, Refused, Slot, TURNS_AHEAD};
use crate::entry::Entry;
use crate::key::Key;
use crate::link::Link;
use crate::probe::{self, Place, Space};
use crate::state::{Observed, State, ticks};
use crate::tally::End;
use crate::unproven::Turn;

/// A flow that is to come into the table, which [`FlowTable::find_at`] has just not found.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<'a, K> {
    /// Its key.
    pub asks: &'a Home<K>,
    /// What is known of its answers.
    pub answers: Answers<'a, K>,
    /// What its first packet says.
    pub observed: Observed,
    /// What it is bound to.
    pub binding: u32,
    /// When it comes.
    pub now_ns: u64,
}

/// What is known of a flow's answers. Where they pass here, each direction is the other's peer and lives as long as it does.
#[derive(Clone, Copy, Debug)]
pub enum Answers<'a, K> {
    /// They do not pass here.
    Elsewhere,
    /// They come from where the flow goes to, and one entry is of both directions.
    Same,
    /// They have this key.
    Other(&'a Home<K>),
}

/// Where a flow can go, as long as nothing else comes into the table.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub(crate) asks: Place,
    answers: Option<Place>,
}

/// What the entries of a flow have in common.
#[derive(Clone, Copy)]
struct Begins {
    state: State,
    expires: u32,
    binding: u32,
    verdict: u32,
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
        let (asks, answers) = (&self.home(key), Answers::Elsewhere);
        self.replace(&Newcomer { asks, answers, observed, binding, now_ns })
    }

    /// Keeps both directions of a flow whose first packet was `observed`, as they pass here. The slot is that of `key`.
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
        let (asks, other) = (&self.home(key), self.home(answer));
        let answers = if asks.turned().is(&other) { Answers::Same } else { Answers::Other(&other) };
        self.replace(&Newcomer { asks, answers, observed, binding, now_ns })
    }

    fn replace(&mut self, flow: &Newcomer<'_, K>) -> Result<Slot, Refused> {
        self.remove_key(flow.asks);
        let room = self.room(flow)?;
        Ok(self.begin(flow, room, 0))
    }

    /// Keeps a flow that is not in the table, if that and where it can go are to be seen at a glance, and nobody wants to know what
    /// flows carry. As [`FlowTable::room`] and [`FlowTable::begin`] would.
    #[inline(never)]
    pub fn begin_at_home(&mut self, flow: &Newcomer<'_, K>) -> Option<Slot> {
        let room = self.room_at_home(flow)?;
        Some(self.begin(flow, room, 0))
    }

    /// Where a flow can go that is not in the table, if both is to be seen at a glance, and nobody wants to know what flows carry.
    #[inline(always)]
    pub fn room_at_home(&self, flow: &Newcomer<'_, K>) -> Option<Room> {
        if self.tallies.is_some() || self.counts.live + 2 > self.capacity {
            return None;
        }
        let place = |home| probe::free_at_home(&self.lines, self.line(home), home);
        let asks = place(flow.asks)?;
        let answers = match flow.answers {
            Answers::Other(home) => Some(place(home).filter(|answers| answers.line != asks.line)?),
            Answers::Same | Answers::Elsewhere => None,
        };
        Some(Room { asks, answers })
    }

    /// Finds room for a flow, if need be somebody else's.
    ///
    /// # Errors
    /// As [`FlowTable::insert_pair`].
    #[inline(never)]
    pub fn room(&mut self, flow: &Newcomer<'_, K>) -> Result<Room, Refused> {
        let now = ticks(flow.now_ns);
        match flow.answers {
            Answers::Elsewhere => {}
            Answers::Same => self.vacate(&flow.asks.turned(), flow, now)?,
            Answers::Other(answers) => {
                self.vacate(answers, flow, now)?;
                let asks = self.room_at(flow.asks, now, None)?;
                return Ok(Room { asks, answers: Some(self.room_at(answers, now, Some(asks))?) });
            }
        }
        Ok(Room { asks: self.room_at(flow.asks, now, None)?, answers: None })
    }

    /// Sees to it that no flow has the key of another one's answers. One that ends as it was going to is removed.
    fn vacate(&mut self, answers: &Home<K>, flow: &Newcomer<'_, K>, now: u32) -> Result<(), Refused> {
        if flow.asks.is(answers) {
            return Err(Refused::AnswerTaken);
        }
        let Some(at) = self.find(answers) else { return Ok(()) };
        let holds = |entry: &Entry<K>| self.is_alive(entry, now) && !self.gives_way(entry, flow.observed);
        if probe::at(&self.lines, at).is_some_and(holds) {
            return Err(Refused::AnswerTaken);
        }
        self.remove_at(at, End::Idle);
        Ok(())
    }

    /// Keeps a flow in the room found for it, with a verdict of its owner's. The slot is that of the asking direction.
    #[inline(always)]
    pub fn begin(&mut self, flow: &Newcomer<'_, K>, room: Room, verdict: u32) -> Slot {
        let state = State::first(flow.observed);
        let expires = ticks(flow.now_ns).wrapping_add(self.timeouts.of(state));
        let Newcomer { asks: home, answers, binding, .. } = *flow;
        let begins = Begins { state, expires, binding, verdict };
        let asks = Slot::at::<K>(room.asks);
        let turn = self.give_way();
        let mut entries = 1;
        let link = match (answers, room.answers) {
            (Answers::Same, _) => Link::both(home.is_down),
            (Answers::Other(answer), Some(at)) => {
                // Two slots, two turns; the pair goes as one.
                let _ = self.give_way();
                entries = 2;
                self.put(answer, at, Link::answers_to(answer.is_down, asks), begins);
                let keeps_source = answer.key().goes_to(&home.key());
                Link::asks_of(home.is_down, Slot::at::<K>(at), keeps_source)
            }
            _ => Link::asks(home.is_down),
        };
        self.put(home, room.asks, link, begins);
        // A first packet proves nothing.
        self.counts.unproven += entries;
        self.counts.live += entries;
        self.counts.inserted += entries as u64;
        self.unproven.put(turn, asks);
        asks
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
            let _ = self.displace(slot.place::<K>());
        }
        let (line, peer) = TURNS_AHEAD;
        if let Some(slot) = self.unproven.ahead(line) {
            self.prefetch_slot(slot);
        }
        if let Some(peer) = self.unproven.ahead(peer).and_then(|slot| self.side(slot)?.entry.link.peer()) {
            self.prefetch_slot(peer);
        }
    }

    /// Ends an unproven flow for another one. False if it is none.
    fn displace(&mut self, at: Place) -> bool {
        let is_unproven = probe::at(&self.lines, at).is_some_and(|entry| entry.state.is_unproven());
        if is_unproven {
            self.remove_at(at, End::Displaced);
            self.counts.displaced += 1;
        }
        is_unproven
    }

    /// Ends one unproven flow, if one of the next has not been proven.
    fn make_room(&mut self) -> bool {
        (0..MAX_TURNS).any(|_| {
            let (_, slot) = self.unproven.turn();
            slot.is_some_and(|slot| self.displace(slot.place::<K>()))
        })
    }

    /// Finds room for one direction of a flow; `taken` is that of the other one.
    fn room_at(&mut self, home: &Home<K>, now: u32, taken: Option<Place>) -> Result<Place, Refused> {
        let line = self.line(home);
        let live = self.counts.live + usize::from(taken.is_some());
        let place = match probe::free_at(&self.lines, line, taken) {
            Some(place) if live < self.capacity => place,
            _ => self.room_elsewhere(line, now, taken)?,
        };
        if let Some(tallies) = &mut self.tallies {
            tallies.begin(Slot::at::<K>(place), now);
        }
        Ok(place)
    }

    /// Where a flow can go whose home line is full, or that comes into a full table.
    #[inline(never)]
    fn room_elsewhere(&mut self, line: usize, now: u32, taken: Option<Place>) -> Result<Place, Refused> {
        let live = self.counts.live + usize::from(taken.is_some());
        if live >= self.capacity && !self.make_room() {
            self.counts.refused += 1;
            return Err(Refused::Full);
        }
        match probe::room(&self.lines, line, now, taken) {
            Space::Free(place) => Ok(place),
            Space::Expired(place) => {
                self.remove_at(place, End::Idle);
                self.counts.expired += 1;
                Ok(place)
            }
            Space::Unproven(place) => {
                self.remove_at(place, End::Displaced);
                self.counts.displaced += 1;
                Ok(place)
            }
            Space::None => {
                self.counts.refused += 1;
                Err(Refused::Full)
            }
        }
    }

    /// Puts one direction of a flow into a free place: its key straight from where it was put together, a while ago.
    #[inline(always)]
    fn put(&mut self, home: &Home<K>, at: Place, link: Link, begins: Begins) {
        let Some(entry) = probe::at_mut(&mut self.lines, at) else { return };
        let Begins { state, expires, binding, verdict } = begins;
        entry.key = home.key;
        (entry.state, entry.expires, entry.link) = (state, expires, link);
        (entry.binding, entry.verdict) = (binding, verdict);
        let line = self.line(home);
        if at.line != line {
            probe::count_passed(&mut self.lines, line, at.line, 1);
        }
        self.forget_windows(Slot::at::<K>(at));
    }
}
