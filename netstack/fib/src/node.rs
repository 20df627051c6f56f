//! What the words of a node say.
//!
//! A node at bit `level` of the address has 256 slots, one for each value of the 8 bits from there on. A slot holds an
//! [entry](is_node): 0 where the node has no route of its own, the value of a route, or the node below.
//!
//! A **dense** node is its 256 slots. A **compact** node keeps one value for each run of equal slots:
//!
//! | word | |
//! |---|---|
//! | 0..8 | bitmap: bit `s % 32` of word `s / 32` is set where slot `s` begins a run |
//! | 8, 9 | byte `w`: number of runs that begin before word `w` of the bitmap |
//! | 10 | fallback: the entry of the slot above under this node, for addresses that match nothing in it |
//! | 11, 12 | IPv6 only: the 64 bits of the address around `level`, high word first; the low byte, which is never before `level`, is `level` |
//! | 11.. or 13.. | the values of the runs |

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::{
    Key,
    arena::{Arena, LINE_WORDS},
};

/// Slots of a node.
pub(crate) const SLOTS: usize = 256;

/// The expanded slots of a node.
pub(crate) type Slots = [u32; SLOTS];

/// Words of a dense node.
pub(crate) const DENSE_WORDS: u32 = SLOTS as u32;

const NODE: u32 = 1 << 31;
const RANKS: usize = 8;
const FALLBACK: u32 = 10;
const SKIPPED: usize = 11;

const _: () = assert!(<u32 as crate::prefix::sealed::Layout>::HEADER_WORDS as usize == SKIPPED);
const _: () = assert!(<u128 as crate::prefix::sealed::Layout>::HEADER_WORDS as usize == SKIPPED + 2);

/// The entry for the node in `block`.
pub(crate) fn node_entry(block: u32) -> u32 {
    block | NODE
}

/// Whether an entry names a node.
#[inline(always)]
pub(crate) fn is_node(entry: u32) -> bool {
    entry >= NODE
}

/// Whether an entry is neither 0 nor a node; one comparison, because there is no block 0.
#[inline(always)]
pub(crate) fn is_value(entry: u32) -> bool {
    entry.wrapping_sub(1) < NODE
}

/// The block of the node that an entry names.
#[inline(always)]
pub(crate) fn block_of(entry: u32) -> u32 {
    entry & !NODE
}

/// The word of slot `slot` of a dense node.
#[inline(always)]
pub(crate) fn dense_word(block: u32, slot: usize) -> u32 {
    block * LINE_WORDS + slot as u32
}

/// The word of the fallback of a compact node.
pub(crate) fn fallback_word(block: u32) -> u32 {
    block * LINE_WORDS + FALLBACK
}

/// The word with the entry for `key` in the compact node whose first line is `header`, and the node's fallback. Word 0,
/// which is always 0, where `key` differs in the bits that the node skips.
#[inline(always)]
pub(crate) fn find<K: Key>(header: &[AtomicU32; LINE_WORDS as usize], block: u32, key: K) -> (u32, u32) {
    let fallback = header[FALLBACK as usize].load(Relaxed);
    if !K::SKIPS {
        return (value_word::<K>(block, rank(header, key.byte(24))), fallback);
    }
    let skipped = skipped(header);
    let level = skipped as u8;
    let word = value_word::<K>(block, rank(header, key.byte(level)));
    (if differs(key.half(level), skipped, level) { 0 } else { word }, fallback)
}

/// The 64 bits that an IPv6 node keeps of the address around its level.
#[inline(always)]
fn skipped(header: &[AtomicU32; LINE_WORDS as usize]) -> u64 {
    u64::from(header[SKIPPED].load(Relaxed)) << 32 | u64::from(header[SKIPPED + 1].load(Relaxed))
}

/// Whether two halves differ in the bits before `level`.
#[inline(always)]
fn differs(a: u64, b: u64, level: u8) -> bool {
    ((a ^ b) >> 8) >> (56 - level % 64) != 0
}

/// The number of the run that `slot` is in.
#[inline(always)]
fn rank(header: &[AtomicU32; LINE_WORDS as usize], slot: usize) -> u32 {
    let word = slot / 32 % 8;
    let starts = header[word].load(Relaxed) & (u32::MAX >> (31 - slot % 32));
    let before = header[RANKS + word / 4].load(Relaxed) >> (word % 4 * 8) & 0xff;
    before + starts.count_ones() - 1
}

#[inline(always)]
fn value_word<K: Key>(block: u32, run: u32) -> u32 {
    block * LINE_WORDS + K::HEADER_WORDS + run
}

/// The level of a compact node.
pub(crate) fn level<K: Key>(arena: &Arena, block: u32) -> u8 {
    if K::SKIPS { arena.header(block).map_or(0, |header| skipped(header) as u8) } else { 24 }
}

/// The number of leading bits in which `key` agrees with the addresses under the compact node in `block`, as far as the
/// node's level, given that it agrees with them in the bits before the half that the level lies in.
pub(crate) fn common<K: Key>(arena: &Arena, block: u32, key: K) -> u8 {
    let level = level::<K>(arena, block);
    let theirs = arena.header(block).map_or(0, skipped);
    let same = (key.half(level) ^ theirs).leading_zeros() as u8;
    level / 64 * 64 + same.min(level % 64)
}

/// The slot at bit `level` under which an IPv6 node lies, if both are in the same half of the address.
pub(crate) fn byte_of(header: &[AtomicU32; LINE_WORDS as usize], level: u8) -> usize {
    (skipped(header) >> (56 - level % 64) & 0xff) as usize
}

/// A compact node about to be written, or as read.
pub(crate) struct Runs {
    bitmap: [u32; 8],
    values: Slots,
    len: u32,
}

impl Runs {
    /// The runs of equal slots.
    pub(crate) fn of(slots: &Slots) -> Self {
        let mut runs = Self { bitmap: [0; 8], values: [0; SLOTS], len: 0 };
        let mut previous = None;
        for (slot, entry) in slots.iter().enumerate() {
            if previous != Some(*entry) {
                runs.bitmap[slot / 32] |= 1 << (slot % 32);
                runs.values[runs.len as usize % SLOTS] = *entry;
                runs.len += 1;
                previous = Some(*entry);
            }
        }
        runs
    }

    /// Words the node takes.
    pub(crate) fn words<K: Key>(&self) -> u32 {
        K::HEADER_WORDS + self.len
    }

    fn values(&self) -> impl Iterator<Item = (u32, u32)> {
        (0..self.len).zip(self.values.iter().copied())
    }

    /// Whether the node in `block` has its runs at the same slots.
    pub(crate) fn same_shape(&self, arena: &Arena, block: u32) -> bool {
        (0..8).all(|word| arena.load(block * LINE_WORDS + word) == self.bitmap[word as usize])
    }

    /// Changes the values of the linked node in `block`, which has the same shape.
    pub(crate) fn publish_values<K: Key>(&self, arena: &Arena, block: u32) {
        for (run, value) in self.values() {
            let word = value_word::<K>(block, run);
            if arena.load(word) != value {
                arena.publish(word, value);
            }
        }
    }

    /// Writes a node that is not linked yet, at `level` of the way to `key`.
    pub(crate) fn write<K: Key>(&self, arena: &Arena, block: u32, level: u8, key: K, fallback: u32) {
        let base = block * LINE_WORDS;
        let mut ranks = [0u8; 8];
        let mut before = 0;
        for (word, starts) in self.bitmap.iter().enumerate() {
            arena.store(base + word as u32, *starts);
            ranks[word] = before as u8;
            before += starts.count_ones();
        }
        let ranks = u64::from_le_bytes(ranks);
        arena.store(base + RANKS as u32, ranks as u32);
        arena.store(base + RANKS as u32 + 1, (ranks >> 32) as u32);
        arena.store(fallback_word(block), fallback);
        if K::SKIPS {
            arena.store(base + SKIPPED as u32, (key.half(level) >> 32) as u32);
            arena.store(base + SKIPPED as u32 + 1, key.half(level) as u32 & !0xff | u32::from(level));
        }
        for (run, value) in self.values() {
            arena.store(value_word::<K>(block, run), value);
        }
    }
}

/// The word with the entry for `slot` of the compact node in `block`.
pub(crate) fn slot_word<K: Key>(arena: &Arena, block: u32, slot: usize) -> u32 {
    arena.header(block).map_or(0, |header| value_word::<K>(block, rank(header, slot)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Blocks;

    fn check(slots: Slots) {
        let (arena, mut blocks) = (Arena::new().unwrap(), Blocks::new());
        assert!(blocks.reserve(&arena, 2));
        let runs = Runs::of(&slots);
        let four = blocks.allocate(runs.words::<u32>()).unwrap();
        runs.write(&arena, four, 24, 0x0a01_0200u32, 77);
        let six = blocks.allocate(runs.words::<u128>()).unwrap();
        let key = 0x2001_0db8_0102_0304_0506_0708_090a_0b0cu128;
        runs.write(&arena, six, 96, key, 78);
        assert!(runs.same_shape(&arena, four));
        assert_eq!(
            (level::<u128>(&arena, six), common(&arena, six, key), common(&arena, six, key ^ 1 << 40)),
            (96, 96, 87)
        );
        for (slot, entry) in slots.iter().enumerate() {
            let (word, fallback) = find(arena.header(four).unwrap(), four, 0x0a01_0200 | slot as u32);
            assert_eq!((arena.load(word), fallback), (*entry, 77));
            assert_eq!(arena.load(slot_word::<u128>(&arena, six, slot)), *entry);
            let key = key & !(0xff << 24) | (slot as u128) << 24;
            let (word, fallback) = find(arena.header(six).unwrap(), six, key);
            assert_eq!((arena.load(word), fallback), (*entry, 78));
            let (word, fallback) = find(arena.header(six).unwrap(), six, key ^ 1 << 32);
            assert_eq!((arena.load(word), fallback), (0, 78), "a skipped bit differs");
        }
    }

    #[test]
    fn slots_come_back_from_runs() {
        check([0; SLOTS]);
        check([5; SLOTS]);
        check(core::array::from_fn(|slot| slot as u32 + 1));
        check(core::array::from_fn(|slot| slot as u32 / 7 % 3));
        check(core::array::from_fn(|slot| u32::from(slot == 255)));
    }

    #[test]
    fn entries_are_told_apart() {
        assert!(!is_value(0) && is_value(1) && is_value(crate::VALUE_MAX) && !is_value(node_entry(1)));
        assert!(!is_node(crate::VALUE_MAX) && is_node(node_entry(1)) && block_of(node_entry(9)) == 9);
    }
}
