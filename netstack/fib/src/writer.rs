//! What the writer does: keeps the routes, and rebuilds the nodes that a change concerns.
//!
//! A node at bit `level` exists while routes of `level + 1` to `level + 8` bits need it, or where paths part. Its slots are
//! painted from those routes, shortest first, the nodes below are put in, and the result is stored slot by slot
//! (dense, or compact with the same runs as before) or written elsewhere and linked (compact).
//!
//! What a change costs at most: a route of 1 to 16 bits, a store or two for each of the 2^(16 - length) first halves it
//! covers; a longer one, at each of two nodes a walk over 510 routes, 256 slots and 256 nodes below. A default route: one store.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::{
    fmt,
    ops::Range,
    sync::atomic::Ordering::{Relaxed, Release},
};

use crate::{
    Fib, Key, NO_ROUTE, Prefix,
    arena::{Blocks, CHUNK_BYTES, LINE_WORDS, boxed},
    node::{self, DENSE_WORDS, Kind, Runs, SLOTS, Slots, block_of, is_node},
    table::TOPS,
};

/// The largest value a route may carry.
pub const VALUE_MAX: u32 = (1 << 31) - 1;

/// The writer of a [`Fib4`](crate::Fib4).
pub type Fib4Writer = Writer<u32>;
/// The writer of a [`Fib6`](crate::Fib6).
pub type Fib6Writer = Writer<u128>;

/// The level at which a path enters the lower half of an IPv6 address: always a node, so that one below it need not
/// keep more than 64 skipped bits.
const MIDDLE: u8 = 56;

/// Blocks one new route may allocate: per node it makes (at most a fork, the middle and its own) the node and a new
/// copy of the one above or below.
const BLOCKS_PER_CHANGE: usize = 8;

/// Why a route was not changed. The table is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The value is 0 or above [`VALUE_MAX`].
    Value(u32),
    /// There is no memory, or the table has reached its limit, 1 GiB if it was given none; what is unlinked and not reclaimed counts.
    Memory,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "route value {value} is not within 1..={VALUE_MAX}"),
            Self::Memory => f.write_str("no memory for the route table"),
        }
    }
}

impl core::error::Error for Error {}

/// What a table holds, in bytes, besides its fixed half megabyte and what the writer keeps of each route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Taken from the allocator for nodes. It does not shrink: what becomes free serves later routes.
    pub table_bytes: usize,
    /// Of these, linked.
    pub used_bytes: usize,
    /// Of these, unlinked and waiting for [`Writer::reclaim`].
    pub unlinked_bytes: usize,
}

/// The one that changes a table.
pub struct Writer<K: Key> {
    fib: Arc<Fib<K>>,
    blocks: Blocks,
    /// Routes by the level of the node they are painted in: lengths 0 to 16, 17 to 24, and so on in steps of 8.
    routes: [BTreeMap<Prefix<K>, u32>; 16],
    /// By the first 16 bits: the length of the prefix whose value is in `short`.
    short_len: alloc::boxed::Box<[u8; TOPS]>,
    /// The entries of the nodes on the way to a route.
    path: Vec<u32>,
}

/// Which of the maps a route is in.
fn map_of(len: u8) -> usize {
    usize::from(level_of(len) / 8 - 1)
}

/// The level of the node that a route of `len` bits is painted in; 8 for those above all nodes.
fn level_of(len: u8) -> u8 {
    (len.max(9) - 1) / 8 * 8
}

impl<K: Key> Writer<K> {
    /// An empty table.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn new() -> Result<Self, Error> {
        Self::with_blocks(Blocks::new())
    }

    /// An empty table whose nodes take at most `limit_bytes`, in steps of 256 KiB and at least one.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn with_limit(limit_bytes: usize) -> Result<Self, Error> {
        Self::with_blocks(Blocks::with_limit((limit_bytes / CHUNK_BYTES).max(1)))
    }

    fn with_blocks(blocks: Blocks) -> Result<Self, Error> {
        Ok(Self {
            fib: Arc::new(Fib::new().ok_or(Error::Memory)?),
            blocks,
            routes: Default::default(),
            short_len: boxed(|| 0).ok_or(Error::Memory)?,
            path: Vec::with_capacity(16),
        })
    }

    /// The table, for readers.
    #[must_use]
    pub fn fib(&self) -> &Arc<Fib<K>> {
        &self.fib
    }

    /// The value of exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: Prefix<K>) -> Option<u32> {
        self.routes[map_of(prefix.len())].get(&prefix).copied()
    }

    /// Number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.iter().map(BTreeMap::len).sum()
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All routes, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix<K>, u32)> {
        self.routes.iter().flatten().map(|(prefix, value)| (*prefix, *value))
    }

    /// Bytes held.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let (table_bytes, used_bytes, unlinked_bytes) = self.blocks.bytes();
        Memory { table_bytes, used_bytes, unlinked_bytes }
    }

    /// Says that what has been unlinked so far may be used again once every reader has begun a lookup in
    /// `generation` or a later one. Generations must not decrease.
    pub fn retire(&mut self, generation: u64) {
        self.blocks.retire(generation);
    }

    /// Makes what was retired at `safe_generation` or before available again.
    pub fn reclaim(&mut self, safe_generation: u64) {
        self.blocks.reclaim(safe_generation);
    }

    /// Adds a route or replaces its value; the former value comes back.
    ///
    /// # Errors
    /// [`Error`]; nothing has changed then. A value can always be replaced, if need be after [`Writer::reclaim`].
    pub fn insert(&mut self, prefix: Prefix<K>, value: u32) -> Result<Option<u32>, Error> {
        if value == NO_ROUTE || value > VALUE_MAX {
            return Err(Error::Value(value));
        }
        let before = self.get(prefix);
        if before == Some(value) {
            return Ok(before);
        }
        if prefix.len() > 16 {
            let room = match before {
                Some(_) => self.blocks.has_room(),
                None => self.blocks.reserve(&self.fib.arena, BLOCKS_PER_CHANGE),
            };
            if !room {
                return Err(Error::Memory);
            }
        }
        self.begin();
        let _ = self.routes[map_of(prefix.len())].insert(prefix, value);
        match prefix.len() {
            0 => self.fib.default.store(value, Release),
            1..=16 => self.paint_short(prefix, value, prefix.len(), |len| len <= prefix.len()),
            _ => self.insert_long(prefix, before.is_some()),
        }
        Ok(before)
    }

    /// Removes a route; its value comes back.
    ///
    /// # Errors
    /// [`Error::Memory`]; nothing has changed then, and after [`Writer::reclaim`] it will succeed: a removal takes no more
    /// memory than it unlinks, and what it needs until that is free is kept for it.
    pub fn remove(&mut self, prefix: Prefix<K>) -> Result<Option<u32>, Error> {
        let Some(before) = self.get(prefix) else { return Ok(None) };
        if prefix.len() > 16 && !self.blocks.has_room() {
            return Err(Error::Memory);
        }
        self.begin();
        let _ = self.routes[map_of(prefix.len())].remove(&prefix);
        match prefix.len() {
            0 => self.fib.default.store(NO_ROUTE, Release),
            1..=16 => {
                let wider = (1..prefix.len()).rev().filter_map(|len| Prefix::new(prefix.address(), len));
                let cover = wider.filter_map(|wider| Some((self.get(wider)?, wider.len()))).next();
                let (value, len) = cover.unwrap_or((0, 0));
                self.paint_short(prefix, value, len, |len| len == prefix.len());
            }
            _ => self.remove_long(prefix),
        }
        Ok(Some(before))
    }

    /// Lets readers know that another change begins.
    fn begin(&self) {
        let changes = &self.fib.changes;
        changes.store(changes.load(Relaxed).wrapping_add(1), Release);
    }

    /// Gives `value`, of a prefix of `len` bits, to the first halves under `prefix` whose length now is `replaces`.
    fn paint_short(&mut self, prefix: Prefix<K>, value: u32, len: u8, replaces: impl Fn(u8) -> bool) {
        for top in prefix.address().top()..=prefix.address().last(prefix.len()).top() {
            if replaces(self.short_len[top]) {
                self.short_len[top] = len;
                self.fib.short[top].store(value, Release);
                if !is_node(self.fib.tops[top].load(Relaxed)) {
                    self.fib.tops[top].store(value, Release);
                }
            }
        }
    }

    /// Brings the nodes up to date with `prefix`, which is new in the map or, if `replaced`, has a new value there.
    fn insert_long(&mut self, prefix: Prefix<K>, replaced: bool) {
        let (address, target) = (prefix.address(), level_of(prefix.len()));
        self.path.clear();
        while self.path.last().is_none_or(|node| node::level_of(*node) < target) {
            let above = self.path.last().map_or(8, |node| node::level_of(*node));
            let wanted = match above {
                8 => 16,
                16..MIDDLE => target.min(MIDDLE),
                _ => target,
            };
            let entry = self.entry_below(address);
            if !is_node(entry) {
                self.add_node(address, wanted, entry);
            } else if !self.step_into(entry, address, wanted) {
                self.fork(address, wanted, entry);
            } else if node::level_of(entry) == target {
                let first = address.byte(target);
                let affected = first..first + (1 << (target + 8 - prefix.len()));
                self.rebuild(address, self.path.len() - 1, affected, None, replaced);
            }
        }
    }

    /// The entry for `address` in the last node of the path.
    fn entry_below(&self, address: K) -> u32 {
        match self.path.last() {
            None => self.fib.tops[address.top()].load(Relaxed),
            Some(node) => self.fib.arena.load(self.word_in(*node, address)),
        }
    }

    /// The word for `address` in a node of the path.
    fn word_in(&self, node: u32, address: K) -> u32 {
        node::slot_word(&self.fib.arena, node, address.byte(node::level_of(node)))
    }

    /// Adds a node to the path, if it is on the way to `address` at bit `wanted`.
    fn step_into(&mut self, node: u32, address: K, wanted: u8) -> bool {
        let level = node::level_of(node);
        if level > wanted || (K::SKIPS && level > 16 && node::common(&self.fib.arena, node, address) < level)
        {
            return false;
        }
        self.path.push(node);
        true
    }

    /// Makes the node at bit `level` of the way to `address`, in place of the value `entry`.
    fn add_node(&mut self, address: K, level: u8, entry: u32) {
        let slots = self.painted(address, level);
        // What a node under the first 16 bits falls back to is in `short`.
        let node = if self.path.is_empty() {
            self.write_dense(level, &slots)
        } else {
            self.write(address, level, &slots, entry, 0, false)
        };
        let Some(node) = node else { return };
        self.link(address, node);
        self.path.push(node);
    }

    /// Makes the node where the way to `address` leaves that to the node `below`, at bit `wanted` at the latest.
    fn fork(&mut self, address: K, wanted: u8, below: u32) {
        let arena = &self.fib.arena;
        let level = (node::common(arena, below, address) / 8 * 8).min(wanted);
        let fallback = arena.load(node::fallback_word(below));
        let slot = arena.header(block_of(below)).map_or(0, |header| node::byte_of(header, level));
        let mut slots = self.painted(address, level);
        // Under the fork, `below` has fewer addresses and another fallback. A reader may still be on the old way to it,
        // so it is copied, not changed.
        let Some(copy) = self.copy(below, slots[slot]) else { return };
        slots[slot] = copy;
        let Some(fork) = self.write(address, level, &slots, fallback, 1, false) else { return };
        self.relink(address, self.path.len(), fork);
        self.blocks.unlink(block_of(below));
        self.path.push(fork);
    }

    /// A copy of a node with another fallback.
    fn copy(&mut self, node: u32, fallback: u32) -> Option<u32> {
        let words = self.blocks.capacity_words(block_of(node));
        let copy = self.blocks.allocate(words, false)?;
        let arena = &self.fib.arena;
        for word in 0..words {
            arena.store(copy * LINE_WORDS + word, arena.load(block_of(node) * LINE_WORDS + word));
        }
        let copy = node::moved(node, copy);
        arena.store(node::fallback_word(copy), fallback);
        Some(copy)
    }

    /// The slots of the node at bit `level` of the way to `address`, from the routes painted there.
    fn painted(&self, address: K, level: u8) -> Slots {
        let mut slots = [0; SLOTS];
        for (prefix, value) in self.own_routes(address, level) {
            let first = prefix.address().byte(level);
            let count = 1 << (level + 8 - prefix.len());
            slots.iter_mut().skip(first).take(count).for_each(|slot| *slot = *value);
        }
        slots
    }

    /// The routes that are painted in the node at bit `level` of the way to `address`.
    fn own_routes(&self, address: K, level: u8) -> impl Iterator<Item = (&Prefix<K>, &u32)> {
        let range = Prefix::range(address, level);
        self.routes[usize::from(level / 8 - 1)].range(range)
    }

    /// Writes a new dense node and gives its entry.
    fn write_dense(&mut self, level: u8, slots: &Slots) -> Option<u32> {
        let node = node::node_entry(self.blocks.allocate(DENSE_WORDS, false)?, Kind::Dense, level);
        for (slot, entry) in slots.iter().enumerate() {
            self.fib.arena.store(node::dense_word(node, slot), *entry);
        }
        Some(node)
    }

    /// Writes a new node that has so many nodes below, and gives its entry. `frugal`: in place of one that is as large.
    fn write(
        &mut self,
        address: K,
        level: u8,
        slots: &Slots,
        fallback: u32,
        below: usize,
        frugal: bool,
    ) -> Option<u32> {
        let words = node::words_at_most(self.own_routes(address, level).count() + below);
        let runs = Runs::of(slots);
        let block = self.blocks.allocate(words.max(runs.words()), frugal)?;
        Some(runs.write(&self.fib.arena, block, level, address, fallback))
    }

    /// Puts a node into the slot for `address` of the last node of the path.
    fn link(&mut self, address: K, node: u32) {
        let depth = self.path.len();
        if depth > 0 && !is_node(self.entry_below(address)) {
            let slot = address.byte(node::level_of(self.path[depth - 1]));
            self.rebuild(address, depth - 1, slot..slot + 1, Some(node), false);
        } else {
            self.relink(address, depth, node);
        }
    }

    /// Replaces a node at `depth` of the path by another entry, where the node above need not change its shape.
    fn relink(&self, address: K, depth: usize, entry: u32) {
        match depth.checked_sub(1).and_then(|above| self.path.get(above)) {
            None => self.fib.tops[address.top()].store(entry, Release),
            Some(above) => self.fib.arena.publish(self.word_in(*above, address), entry),
        }
    }

    /// Brings the `affected` slots of the node at `depth` of the path up to date with its routes. If there is a `below`, the
    /// one affected slot leads to that node, or, being 0, no longer to one.
    fn rebuild(
        &mut self,
        address: K,
        depth: usize,
        affected: Range<usize>,
        below: Option<u32>,
        frugal: bool,
    ) {
        let Some(node) = self.path.get(depth).copied() else { return };
        let (dense, level) = (depth == 0, node::level_of(node));
        let mut slots = self.painted(address, level);
        let mut nodes = 0;
        let arena = &self.fib.arena;
        for (slot, painted) in
            slots.iter_mut().enumerate().filter(|(slot, _)| !dense || affected.contains(slot))
        {
            let word = node::slot_word(arena, node, slot);
            let before = arena.load(word);
            let entry = below.filter(|_| affected.contains(&slot)).unwrap_or(before);
            if is_node(entry) {
                arena.publish(node::fallback_word(entry), *painted);
                *painted = entry;
                nodes += 1;
            }
            if dense && before != *painted {
                arena.publish(word, *painted);
            }
        }
        if dense {
            return;
        }
        let runs = Runs::of(&slots);
        let room = node::words_at_most(self.own_routes(address, level).count() + nodes);
        if runs.same_shape(arena, node) && room <= self.blocks.capacity_words(block_of(node)) {
            runs.publish_values(arena, node);
            return;
        }
        let fallback = arena.load(node::fallback_word(node));
        let Some(new) = self.write(address, level, &slots, fallback, nodes, frugal) else { return };
        self.relink(address, depth, new);
        self.blocks.unlink(block_of(node));
        if let Some(step) = self.path.get_mut(depth) {
            *step = new;
        }
    }

    /// Brings the nodes up to date with the removal of `prefix`: from its node upwards as long as nodes go away.
    fn remove_long(&mut self, prefix: Prefix<K>) {
        let (address, target) = (prefix.address(), level_of(prefix.len()));
        self.path.clear();
        while self.path.last().is_none_or(|node| node::level_of(*node) < target) {
            let entry = self.entry_below(address);
            if !is_node(entry) || !self.step_into(entry, address, target) {
                return;
            }
        }
        let first = address.byte(target);
        let mut affected = first..first + (1 << (target + 8 - prefix.len()));
        let mut gone = None;
        while let Some(node) = self.path.last().copied() {
            let depth = self.path.len() - 1;
            let level = node::level_of(node);
            let own = self.own_routes(address, level).next().is_some();
            let skip = gone.and(Some(affected.start));
            let arena = &self.fib.arena;
            let entries = (0..SLOTS).filter(|slot| Some(*slot) != skip);
            let mut nodes = entries.map(|slot| arena.load(node::slot_word(arena, node, slot)));
            match (own, nodes.find(|entry| is_node(*entry)), nodes.find(|entry| is_node(*entry))) {
                (false, None, _) => {
                    self.blocks.unlink(block_of(node));
                    let _ = self.path.pop();
                    match self.path.last().map(|above| address.byte(node::level_of(*above))) {
                        Some(slot) => affected = slot..slot + 1,
                        None => self.relink(address, 0, self.fib.short[address.top()].load(Relaxed)),
                    }
                    gone = Some(0);
                }
                (false, Some(only), None) if K::SKIPS && level != 16 && level != MIDDLE => {
                    arena.publish(node::fallback_word(only), arena.load(node::fallback_word(node)));
                    self.relink(address, depth, only);
                    self.blocks.unlink(block_of(node));
                    return;
                }
                _ => return self.rebuild(address, depth, affected, gone, true),
            }
        }
    }
}
