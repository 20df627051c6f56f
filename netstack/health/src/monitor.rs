//! Who is probed when.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;

use services::{PoolKey, State};

use crate::backend::Backend;
use crate::{Change, Check, Failure, Status};

/// A pool whose backends are checked, or drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub pool: PoolKey,
    /// How.
    pub check: Check,
    /// Its backends, each with its state but for its health.
    pub backends: Vec<(SocketAddr, State)>,
}

/// A probe to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What to report it by.
    pub number: u64,
    /// Whom to probe.
    pub backend: SocketAddr,
    /// How.
    pub check: Arc<Check>,
    /// When it has failed.
    pub deadline_ns: u64,
}

/// A backend whose status has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its pool.
    pub pool: Arc<PoolKey>,
    /// The backend.
    pub backend: SocketAddr,
    /// What happened.
    pub change: Change,
}

/// A pool, and its backends by their places among all.
pub(crate) struct Watched {
    pub(crate) check: Arc<Check>,
    pub(crate) backends: BTreeMap<SocketAddr, u32>,
    pub(crate) panic: Panic,
}

/// Whether so few backends of a pool are up that all are used.
#[derive(Clone, Copy, Default)]
pub(crate) struct Panic {
    pub(crate) is_now: bool,
    /// When it was so last.
    pub(crate) ended_ns: Option<u64>,
}

/// The health of all backends that are checked. What a poll costs does not grow with their number but by a logarithm.
pub struct Monitor {
    pub(crate) pools: BTreeMap<Arc<PoolKey>, Watched>,
    backends: Vec<Option<Backend>>,
    free: Vec<u32>,
    /// When to look at each backend that is probed: its next probe is due, or the one under way has failed.
    queue: BTreeSet<(u64, u32)>,
    next_sequence: u32,
    /// State of the generator of jitter.
    random: u64,
}

impl Monitor {
    /// Nobody is checked. Nodes with different seeds do not probe at the same moments.
    pub fn new(seed: u64) -> Self {
        Self {
            pools: BTreeMap::new(),
            backends: Vec::new(),
            free: Vec::new(),
            queue: BTreeSet::new(),
            next_sequence: 0,
            random: seed,
        }
    }

    /// Checks these backends of a pool, and no others of it, from now on. First probes are spread over their interval. Who joins
    /// a pool that was there starts slowly. What it costs grows with the pool.
    pub fn set_target(&mut self, target: Target, now_ns: u64) {
        let Target { pool, check, backends } = target;
        let check = Arc::new(check);
        let (key, known, panic) = match self.pools.remove_entry(&pool) {
            Some((key, watched)) => (key, Some(watched.backends), watched.panic),
            None => (Arc::new(pool), None, Panic::default()),
        };
        let is_known = known.is_some();
        let mut known = known.unwrap_or_default();
        let mut places = BTreeMap::new();
        for (address, state) in backends {
            let place = known.remove(&address).unwrap_or_else(|| {
                let mut backend = Backend::new(key.clone(), address, check.clone(), state);
                backend.due_ns = now_ns + self.jitter(check.interval_ns);
                backend.changed_ns = is_known.then_some(now_ns);
                self.add(backend)
            });
            self.dequeue(place);
            if let Some(backend) = self.backends.get_mut(place as usize).and_then(Option::as_mut) {
                if backend.check.kind != check.kind {
                    // What the old check found out says nothing about this one.
                    (backend.pending, backend.status) = (None, Status::Up);
                }
                backend.check = check.clone();
                backend.due_ns = backend.due_ns.min(now_ns + check.interval_ns);
                let joins = state == State::Active && backend.state != State::Active;
                if joins && backend.status == Status::Up {
                    backend.changed_ns = Some(now_ns);
                }
                let is_draining = state == State::Draining;
                backend.draining_ns = is_draining.then(|| backend.draining_ns.unwrap_or(now_ns));
                backend.state = state;
            }
            self.enqueue(place);
            let _ = places.insert(address, place);
        }
        self.remove(known);
        let _ = self.pools.insert(key, Watched { check, backends: places, panic });
    }

    /// Checks nobody of a pool any more.
    pub fn remove_target(&mut self, pool: &PoolKey) {
        if let Some(watched) = self.pools.remove(pool) {
            self.remove(watched.backends);
        }
    }

    /// The pools that are watched, each with the number of its backends.
    pub fn pools(&self) -> impl Iterator<Item = (&Arc<PoolKey>, usize)> {
        self.pools.iter().map(|(pool, watched)| (pool, watched.backends.len()))
    }

    fn add(&mut self, backend: Backend) -> u32 {
        if let Some(place) = self.free.pop()
            && let Some(free) = self.backends.get_mut(place as usize)
        {
            *free = Some(backend);
            return place;
        }
        self.backends.push(Some(backend));
        (self.backends.len() - 1) as u32
    }

    fn remove(&mut self, places: BTreeMap<SocketAddr, u32>) {
        for place in places.into_values() {
            self.dequeue(place);
            if let Some(gone) = self.backends.get_mut(place as usize) {
                *gone = None;
                self.free.push(place);
            }
        }
    }

    /// Notes when a backend is to be looked at, if it is probed.
    fn enqueue(&mut self, place: u32) {
        if let Some(at_ns) = self.look_ns(place) {
            let _ = self.queue.insert((at_ns, place));
        }
    }

    /// Forgets it again, before what it depends on changes.
    fn dequeue(&mut self, place: u32) {
        if let Some(at_ns) = self.look_ns(place) {
            let _ = self.queue.remove(&(at_ns, place));
        }
    }

    fn look_ns(&self, place: u32) -> Option<u64> {
        let backend = self.at(place).filter(|backend| backend.check.kind.is_some())?;
        Some(backend.pending.map_or(backend.due_ns, |(_, deadline_ns)| deadline_ns))
    }

    pub(crate) fn at(&self, place: u32) -> Option<&Backend> {
        self.backends.get(place as usize)?.as_ref()
    }

    /// A number below `limit` (splitmix64).
    fn jitter(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed ^ (mixed >> 31)) * u128::from(limit)) >> 64) as u64
    }

    /// The probe that is due longest, if one is. Who cannot make it yet does not ask for it: then it is late, and nobody
    /// else is before it. Probes whose time is over have failed, and `events` is told.
    pub fn poll(&mut self, now_ns: u64, events: &mut Vec<Event>) -> Option<Probe> {
        loop {
            let (at_ns, place) = self.queue.first().copied().filter(|(at_ns, _)| *at_ns <= now_ns)?;
            if let Some((number, _)) = self.at(place)?.pending {
                events.extend(self.report(number, Err(Failure::Timeout), now_ns));
                continue;
            }
            let _ = self.queue.remove(&(at_ns, place));
            let sequence = self.next_sequence;
            self.next_sequence = sequence.wrapping_add(1);
            let interval_ns = self.at(place)?.check.interval_ns;
            let jitter_ns = self.jitter(interval_ns / 8);
            let backend = self.backends.get_mut(place as usize)?.as_mut()?;
            let number = u64::from(sequence) << 32 | u64::from(place);
            let deadline_ns = now_ns + backend.check.timeout_ns.min(interval_ns);
            backend.pending = Some((number, deadline_ns));
            // Who was not probed in time is not probed twice for it.
            let next_ns = backend.due_ns.max(now_ns.saturating_sub(interval_ns / 2));
            backend.due_ns = next_ns + interval_ns * 15 / 16 + jitter_ns;
            let probe = Probe { number, backend: backend.address, check: backend.check.clone(), deadline_ns };
            self.enqueue(place);
            return Some(probe);
        }
    }

    /// Tells how a probe ended. An event if a backend's status changed: then shares have. What comes too late does not count.
    pub fn report(&mut self, number: u64, result: Result<(), Failure>, now_ns: u64) -> Option<Event> {
        let place = number as u32;
        let backend = self.backends.get_mut(place as usize)?.as_mut()?;
        let (_, deadline_ns) = backend.pending.take_if(|(pending, _)| *pending == number)?;
        let _ = self.queue.remove(&(deadline_ns, place));
        let change = backend.count(result, now_ns);
        let event =
            change.map(|change| Event { pool: backend.pool.clone(), backend: backend.address, change });
        self.enqueue(place);
        event
    }

    /// True if no pool is watched.
    pub fn is_idle(&self) -> bool {
        self.pools.is_empty()
    }

    /// When [`Monitor::poll`] has something to do next.
    pub fn next_ns(&self) -> u64 {
        self.queue.first().map_or(u64::MAX, |(at_ns, _)| *at_ns)
    }

    /// What is known of a backend; `None` if its pool is not watched.
    pub fn backend(&self, pool: &PoolKey, backend: SocketAddr) -> Option<&Backend> {
        self.known(self.pools.get(pool)?, backend)
    }

    pub(crate) fn known(&self, watched: &Watched, backend: SocketAddr) -> Option<&Backend> {
        self.at(*watched.backends.get(&backend)?)
    }
}
