//! What readers do: one lookup, or those of a vector at once.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering::Acquire};

use crate::{
    Key,
    arena::{Arena, LINE_WORDS, Lines, boxed},
    node::{block_of, dense_word, fallback, find, is_node, is_value},
};

/// What a lookup gives where no route covers the destination.
pub const NO_ROUTE: u32 = 0;

/// A table of IPv4 routes; keys are addresses in host byte order.
pub type Fib4 = Fib<u32>;
/// A table of IPv6 routes; keys are addresses in host byte order.
pub type Fib6 = Fib<u128>;

/// Entries of a table by the first 16 bits of an address.
pub(crate) const TOPS: usize = 1 << 16;

/// Keys whose cache misses overlap: as many as a core has outstanding, and small enough for arrays on the stack.
const GROUP: usize = 32;

/// A group smaller than this is looked up key by key: setting up the steps costs more than the misses they overlap.
const WORTH_GROUPING: usize = 3;

/// Levels a lookup can pass; a bound on the loops of a reader.
const LEVELS: usize = 16;

/// How often a lookup that changes came between begins again.
const RETRIES: usize = 8;

/// A table of routes, read by any number of threads while its [`Writer`](crate::Writer) changes it.
pub struct Fib<K: Key> {
    /// The value for an address that no other route covers.
    pub(crate) default: AtomicU32,
    /// By the first 16 bits: the node below, else what `short` has.
    pub(crate) tops: Box<[AtomicU32; TOPS]>,
    /// By the first 16 bits: the value of the longest prefix of 1 to 16 bits, or 0.
    pub(crate) short: Box<[AtomicU32; TOPS]>,
    pub(crate) arena: Arena,
    /// Number of changes so far, counted when one begins. A lookup that sees the same number before and after has met at most
    /// one change; one that has met more may have seen neither what they took nor what they gave.
    pub(crate) changes: AtomicU32,
    family: core::marker::PhantomData<K>,
}

impl<K: Key> Fib<K> {
    /// An empty table; `None` if there is no memory for it.
    pub(crate) fn new() -> Option<Self> {
        Some(Self {
            default: AtomicU32::new(NO_ROUTE),
            tops: boxed(|| AtomicU32::new(0))?,
            short: boxed(|| AtomicU32::new(0))?,
            arena: Arena::new()?,
            changes: AtomicU32::new(0),
            family: core::marker::PhantomData,
        })
    }

    /// The value of the longest prefix that covers `destination`, [`NO_ROUTE`] if there is none.
    #[must_use]
    #[inline]
    pub fn lookup(&self, destination: K) -> u32 {
        let before = self.changes.load(Acquire);
        match self.look(destination) {
            (value, true) => value,
            (value, false) if self.changes.load(Acquire) == before => value,
            (_, false) => self.look_again(destination),
        }
    }

    /// [`Fib::lookup`] after a change came in between.
    #[cold]
    fn look_again(&self, destination: K) -> u32 {
        let mut value = NO_ROUTE;
        for _ in 0..RETRIES {
            let before = self.changes.load(Acquire);
            let whole;
            (value, whole) = self.look(destination);
            if whole || self.changes.load(Acquire) == before {
                break;
            }
        }
        value
    }

    /// The value for a key, and whether it came from one place.
    #[inline]
    fn look(&self, key: K) -> (u32, bool) {
        let mut entry = self.tops[key.top()].load(Acquire);
        if is_node(entry) {
            entry = self.arena.load(dense_word(entry, key.byte(16)));
        }
        let mut best = 0;
        for _ in 0..LEVELS {
            if !is_node(entry) {
                break;
            }
            let Some(header) = self.arena.header(block_of(entry)) else { break };
            entry = find(self.arena.lines(), header, entry, key);
            let fallback = fallback(header);
            best = if fallback == 0 { best } else { fallback };
        }
        if is_value(entry) { (entry, true) } else { (self.decide(key, best), false) }
    }

    /// The value for a key that matched no longer prefix than that of `best`.
    #[inline]
    fn decide(&self, key: K, best: u32) -> u32 {
        let or = |value: u32, other: &AtomicU32| if value == 0 { other.load(Acquire) } else { value };
        or(or(best, &self.short[key.top()]), &self.default)
    }

    /// [`Fib::lookup`] of every destination, in order: `values[i]` for `destinations[i]`. Works on as many as the
    /// shorter slice has, and overlaps their cache misses.
    pub fn lookup_batch(&self, destinations: &[K], values: &mut [u32]) {
        for (keys, values) in destinations.chunks(GROUP).zip(values.chunks_mut(GROUP)) {
            if keys.len() < WORTH_GROUPING {
                keys.iter().zip(values).for_each(|(key, value)| *value = self.lookup(*key));
            } else if keys.iter().all(|key| *key == keys[0]) {
                values.fill(self.lookup(keys[0]));
            } else {
                self.lookup_group(keys, values);
            }
        }
    }

    /// Looks up a group one step for all keys at a time. A step leaves in `values` the entries it came to, and asks for the
    /// lines of the next.
    #[inline]
    fn lookup_group(&self, keys: &[K], values: &mut [u32]) {
        let before = self.changes.load(Acquire);
        let lines = self.arena.lines();
        for (key, value) in keys.iter().zip(values.iter_mut()) {
            *value = self.tops[key.top()].load(Acquire);
            if is_node(*value) {
                lines.prefetch(dense_word(*value, key.byte(16)) / LINE_WORDS);
            }
        }
        let (mut open, mut whole) = (false, true);
        for (key, value) in keys.iter().zip(values.iter_mut()) {
            if is_node(*value) {
                *value = lines.load(dense_word(*value, key.byte(16)));
                if is_node(*value) {
                    lines.prefetch_node(*value, *key);
                    open = true;
                }
            }
            whole &= *value != 0;
        }
        if open {
            whole &= descend(lines, keys, values);
        }
        if !whole {
            self.finish(keys, values, before);
        }
    }

    /// Looks up again, one by one, what matched nothing. Should there have been changes since `before`, then all: what they
    /// took away and what they gave instead may both have been overlooked.
    fn finish(&self, keys: &[K], values: &mut [u32], before: u32) {
        let changed = self.changes.load(Acquire) != before;
        for (key, value) in keys.iter().zip(values).filter(|(_, value)| changed || !is_value(**value)) {
            *value = self.lookup(*key);
        }
    }
}

/// Follows all keys that came to a node to the end. False: some value is not from a slot.
fn descend<K: Key>(lines: Lines<'_>, keys: &[K], values: &mut [u32]) -> bool {
    // Numbers of the keys whose way goes on, noted without a branch that a processor would have to guess.
    let (mut lanes, mut open) = ([0u8; GROUP], 0);
    for (value, lane) in values.iter().zip(0..) {
        lanes[open % GROUP] = lane;
        open += usize::from(is_node(*value));
    }
    let mut whole = true;
    for _ in 0..LEVELS {
        let mut still = 0;
        for index in 0..open {
            let lane = lanes[index % GROUP];
            let (Some(key), Some(value)) = (keys.get(usize::from(lane)), values.get_mut(usize::from(lane)))
            else {
                continue;
            };
            let entry = *value;
            let Some(header) = lines.header(block_of(entry)) else { continue };
            let slot = find(lines, header, entry, *key);
            let fallback = fallback(header);
            whole &= slot != 0;
            *value = if slot == 0 { fallback } else { slot };
            lanes[still % GROUP] = lane;
            if is_node(slot) {
                lines.prefetch_node(slot, *key);
                still += 1;
            }
        }
        open = still;
        if open == 0 {
            return whole;
        }
    }
    false
}
