//! What readers do: one lookup, or those of a vector at once.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering::Acquire};

use crate::{
    Key,
    arena::{Arena, LINE_WORDS, boxed},
    node::{block_of, dense_word, find, is_node, is_value},
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

/// A table of routes, read by any number of threads while its [`Writer`](crate::Writer) changes it.
pub struct Fib<K: Key> {
    /// The value for an address that no other route covers.
    pub(crate) default: AtomicU32,
    /// By the first 16 bits: the node below, else what `short` has.
    pub(crate) tops: Box<[AtomicU32; TOPS]>,
    /// By the first 16 bits: the value of the longest prefix of 1 to 16 bits, or 0.
    pub(crate) short: Box<[AtomicU32; TOPS]>,
    pub(crate) arena: Arena,
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
            family: core::marker::PhantomData,
        })
    }

    /// The value of the longest prefix that covers `destination`, [`NO_ROUTE`] if there is none.
    #[must_use]
    #[inline]
    pub fn lookup(&self, destination: K) -> u32 {
        let mut entry = self.tops[destination.top()].load(Acquire);
        if is_node(entry) {
            entry = self.arena.load(dense_word(block_of(entry), destination.byte(16)));
        }
        let mut best = 0;
        for _ in 0..LEVELS {
            if !is_node(entry) {
                break;
            }
            let block = block_of(entry);
            let Some(header) = self.arena.header(block) else { break };
            let (word, fallback) = find(header, block, destination);
            best = if fallback == 0 { best } else { fallback };
            entry = self.arena.load(word);
        }
        if is_value(entry) { entry } else { self.decide(destination, best) }
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

    /// Looks up a group one step for all keys at a time. A step leaves in `values` the entries it came to, and asks for
    /// the lines of the next.
    #[inline]
    fn lookup_group(&self, keys: &[K], values: &mut [u32]) {
        let default = self.default.load(Acquire);
        let mut open = false;
        for (key, value) in keys.iter().zip(values.iter_mut()) {
            let entry = self.tops[key.top()].load(Acquire);
            *value = if entry == 0 { default } else { entry };
            if is_node(entry) {
                self.arena.prefetch(dense_word(block_of(entry), key.byte(16)) / LINE_WORDS);
                open = true;
            }
        }
        if open {
            open = false;
            for (key, value) in keys.iter().zip(values.iter_mut()).filter(|(_, value)| is_node(**value)) {
                let entry = self.arena.load(dense_word(block_of(*value), key.byte(16)));
                open |= is_node(entry);
                *value = self.settle(*key, entry, 0);
            }
        }
        if open {
            self.descend(keys, values);
        }
    }

    /// Replaces every node in `values`, all compact, by what is found under it.
    fn descend(&self, keys: &[K], values: &mut [u32]) {
        let mut best = [0; GROUP];
        for _ in 0..LEVELS {
            let mut open = false;
            for ((key, value), best) in keys.iter().zip(values.iter_mut()).zip(&mut best) {
                if !is_node(*value) {
                    continue;
                }
                let block = block_of(*value);
                let Some(header) = self.arena.header(block) else { continue };
                let (word, fallback) = find(header, block, *key);
                *best = if fallback == 0 { *best } else { fallback };
                let entry = self.arena.load(word);
                open |= is_node(entry);
                *value = self.settle(*key, entry, *best);
            }
            if !open {
                return;
            }
        }
    }

    /// The value an entry means, or the entry of a node itself, whose line is asked for.
    #[inline(always)]
    fn settle(&self, key: K, entry: u32, best: u32) -> u32 {
        if is_node(entry) {
            self.arena.prefetch(block_of(entry));
        }
        if entry == 0 { self.decide(key, best) } else { entry }
    }
}
