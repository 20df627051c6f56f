//! What the words of a node say.
//!
//! A node at bit `level` of the address has 256 slots, one for each value of the 8 bits from there on. A slot holds an
//! [entry](is_node): 0 where the node has no route of its own, the value of a route, or the node below. The entry of a
//! node says where it is, which kind it is and its level, so that a reader asks for the right lines before it has any:
//!
//! | bits | |
//! |---|---|
//! | 31 | set |
//! | 28..30 | kind |
//! | 24..28 | level / 8 |
//! | 0..24 | number of its first line |
//!
//! Equal neighbouring slots make a *run*. By the number of runs a node is one of
//!
//! * **few**, up to 8: one line, in which the runs' last slots are compared all at once;
//! * **compact**, up to 96: one value for each run, found by counting the bits of a bitmap;
//! * **wide**: a slot each.
//!
//! The node at bit 16 is **dense**: just its 256 slots. The others begin with a header:
//!
//! | word | |
//! |---|---|
//! | 0..8 | compact: bit `s % 32` of word `s / 32` is set where slot `s` begins a run |
//! | 8, 9 | compact: byte `w`: number of runs that begin before word `w` of the bitmap |
//! | 0, 1 | few: byte `r`: the last slot of run `r`, 255 from the last run on |
//! | 2..10 | few: the values of the runs |
//! | 10 | fallback: the entry of the slot above under this node, for addresses that match nothing in it |
//! | 11, 12 | IPv6 only: the 64 bits of the address around `level`, high word first |
//! | 13.. | compact: the values of the runs |
//! | 16.. | wide: the slots |

use core::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed};

use crate::{
    Key,
    arena::{Arena, LINE_WORDS, Lines},
};

/// Slots of a node.
pub(crate) const SLOTS: usize = 256;

/// The expanded slots of a node.
pub(crate) type Slots = [u32; SLOTS];

/// The first line of a node.
type Header = [AtomicU32; LINE_WORDS as usize];

/// Words of a dense node.
pub(crate) const DENSE_WORDS: u32 = SLOTS as u32;

const NODE: u32 = 1 << 31;
const BLOCK: u32 = (1 << 24) - 1;
const FEW_RUNS: u32 = 8;
const COMPACT_RUNS: u32 = 96;
const FEW_VALUES: u32 = 2;
const RANKS: usize = 8;
const FALLBACK: u32 = 10;
const SKIPPED: usize = 11;
const COMPACT_VALUES: u32 = 13;

const _: () = assert!(FEW_VALUES + FEW_RUNS == FALLBACK);

/// How a node keeps its slots.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Few = 0,
    Compact = 1,
    Wide = 2,
    Dense = 3,
}

impl Kind {
    #[inline(always)]
    fn of(entry: u32) -> Self {
        match entry >> 28 & 3 {
            0 => Self::Few,
            1 => Self::Compact,
            2 => Self::Wide,
            _ => Self::Dense,
        }
    }

    /// The kind for so many runs.
    fn for_runs(runs: u32) -> Self {
        if runs <= FEW_RUNS {
            Self::Few
        } else if runs <= COMPACT_RUNS {
            Self::Compact
        } else {
            Self::Wide
        }
    }

    fn words(self, runs: u32) -> u32 {
        match self {
            Self::Few => LINE_WORDS,
            Self::Compact => COMPACT_VALUES + runs,
            Self::Wide => LINE_WORDS + DENSE_WORDS,
            Self::Dense => DENSE_WORDS,
        }
    }
}

/// Words that a node with so many routes of its own and nodes below may ever need until it has more of them: as for two
/// ends of each. So what replaces a node when a route goes never needs a larger block.
pub(crate) fn words_at_most(routes_and_nodes: usize) -> u32 {
    let runs = (2 * routes_and_nodes as u32 + 1).min(SLOTS as u32);
    Kind::for_runs(runs).words(runs)
}

/// The entry for a node.
pub(crate) fn node_entry(block: u32, kind: Kind, level: u8) -> u32 {
    NODE | (kind as u32) << 28 | u32::from(level / 8) << 24 | block
}

/// The entry for a copy of a node.
pub(crate) fn moved(entry: u32, block: u32) -> u32 {
    entry & !BLOCK | block
}

/// Whether an entry names a node.
#[inline(always)]
pub(crate) fn is_node(entry: u32) -> bool {
    entry >= NODE
}

/// Whether an entry is neither 0 nor a node; one comparison.
#[inline(always)]
pub(crate) fn is_value(entry: u32) -> bool {
    entry.wrapping_sub(1) < NODE - 1
}

/// The block of the node that an entry names.
#[inline(always)]
pub(crate) fn block_of(entry: u32) -> u32 {
    entry & BLOCK
}

/// The level of the node that an entry names.
#[inline(always)]
pub(crate) fn level_of(entry: u32) -> u8 {
    (entry >> 24 & 15) as u8 * 8
}

/// The word of slot `slot` of the dense node that an entry names.
#[inline(always)]
pub(crate) fn dense_word(entry: u32, slot: usize) -> u32 {
    block_of(entry) * LINE_WORDS + slot as u32
}

/// The word of the fallback of a node that is not dense.
pub(crate) fn fallback_word(entry: u32) -> u32 {
    block_of(entry) * LINE_WORDS + FALLBACK
}

/// The entry that a node's header has for addresses that match nothing in it.
#[inline(always)]
pub(crate) fn fallback(header: &Header) -> u32 {
    header[FALLBACK as usize].load(Acquire)
}

/// The line besides the header that a lookup of `key` will need, where the entry tells.
#[inline(always)]
pub(crate) fn second_line<K: Key>(entry: u32, key: K) -> Option<u32> {
    let line = block_of(entry) + 1 + key.byte(level_of(entry)) as u32 / LINE_WORDS;
    (entry >> 28 & 3 == Kind::Wide as u32).then_some(line)
}

/// The entry for `key` in the node of `entry`, which is not dense and whose first line is `header`; 0 where `key` differs in the
/// bits that the node skips.
#[inline(always)]
pub(crate) fn find<K: Key>(lines: Lines<'_>, header: &Header, entry: u32, key: K) -> u32 {
    let level = level_of(entry);
    let slot = key.byte(level);
    let found = if Kind::of(entry) == Kind::Few {
        header[(FEW_VALUES + few_rank(header, slot)) as usize].load(Acquire)
    } else {
        lines.load(word_in(header, entry, slot))
    };
    if K::SKIPS && differs(key.half(level), skipped(header), level) { 0 } else { found }
}

/// The word of a slot of the node that is not dense.
#[inline(always)]
fn word_in(header: &Header, entry: u32, slot: usize) -> u32 {
    let first = block_of(entry) * LINE_WORDS;
    match Kind::of(entry) {
        Kind::Few => first + FEW_VALUES + few_rank(header, slot),
        Kind::Compact => first + COMPACT_VALUES + rank(header, slot),
        Kind::Wide | Kind::Dense => first + LINE_WORDS + slot as u32,
    }
}

/// The 64 bits that an IPv6 node keeps of the address around its level.
#[inline(always)]
fn skipped(header: &Header) -> u64 {
    u64::from(header[SKIPPED].load(Relaxed)) << 32 | u64::from(header[SKIPPED + 1].load(Relaxed))
}

/// Whether two halves differ in the bits before `level`.
#[inline(always)]
fn differs(a: u64, b: u64, level: u8) -> bool {
    ((a ^ b) >> 8) >> (56 - level % 64) != 0
}

/// The number of the run that `slot` is in, of a compact node.
#[inline(always)]
fn rank(header: &Header, slot: usize) -> u32 {
    let word = slot / 32 % 8;
    let starts = header[word].load(Relaxed) & (u32::MAX >> (31 - slot % 32));
    let before = header[RANKS + word / 4].load(Relaxed) >> (word % 4 * 8) & 0xff;
    before + starts.count_ones() - 1
}

/// The same of a few: the first of the runs' last slots that is not before `slot`, eight bytes compared at once.
#[inline(always)]
fn few_rank(header: &Header, slot: usize) -> u32 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let last = u64::from(header[1].load(Relaxed)) << 32 | u64::from(header[0].load(Relaxed));
    let slots = slot as u64 * 0x0101_0101_0101_0101;
    let low_not_less = (last | HIGH) - (slots & !HIGH);
    let not_less = (last & !slots | !(last ^ slots) & low_not_less) & HIGH;
    not_less.trailing_zeros() / 8 % FEW_RUNS
}

/// The number of leading bits in which `key` agrees with the addresses under the node of `entry`, as far as the node's
/// level, given that it agrees with them in the bits before the half that the level lies in.
pub(crate) fn common<K: Key>(arena: &Arena, entry: u32, key: K) -> u8 {
    let level = level_of(entry);
    let theirs = arena.header(block_of(entry)).map_or(0, skipped);
    let same = (key.half(level) ^ theirs).leading_zeros() as u8;
    level / 64 * 64 + same.min(level % 64)
}

/// The slot at bit `level` under which an IPv6 node lies, if both are in the same half of the address.
pub(crate) fn byte_of(header: &Header, level: u8) -> usize {
    (skipped(header) >> (56 - level % 64) & 0xff) as usize
}

/// The word with the entry for `slot` of the node of `entry`.
pub(crate) fn slot_word(arena: &Arena, entry: u32, slot: usize) -> u32 {
    match (Kind::of(entry), arena.header(block_of(entry))) {
        (Kind::Dense, _) => dense_word(entry, slot),
        (_, Some(header)) => word_in(header, entry, slot),
        (_, None) => 0,
    }
}

/// A node that is not dense, about to be written.
pub(crate) struct Runs<'a> {
    slots: &'a Slots,
    bitmap: [u32; 8],
    values: Slots,
    len: u32,
}

impl<'a> Runs<'a> {
    /// The runs of equal slots.
    pub(crate) fn of(slots: &'a Slots) -> Self {
        let mut runs = Self { slots, bitmap: [0; 8], values: [0; SLOTS], len: 0 };
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

    /// How it is best kept.
    pub(crate) fn kind(&self) -> Kind {
        Kind::for_runs(self.len)
    }

    /// Words the node takes.
    pub(crate) fn words(&self) -> u32 {
        self.kind().words(self.len)
    }

    /// The last slots of the runs.
    fn lasts(&self) -> [u8; 8] {
        let mut lasts = [255; 8];
        let starts = (1..SLOTS).filter(|slot| self.bitmap[slot / 32] >> (slot % 32) & 1 != 0);
        lasts.iter_mut().zip(starts).for_each(|(last, start)| *last = (start - 1) as u8);
        lasts
    }

    /// The words of the header that say where runs are, from the first on.
    fn shape(&self) -> ([u32; 10], usize) {
        let mut shape = [0; 10];
        match self.kind() {
            Kind::Few => {
                let lasts = u64::from_le_bytes(self.lasts());
                (shape[0], shape[1]) = (lasts as u32, (lasts >> 32) as u32);
                (shape, 2)
            }
            Kind::Compact => {
                let mut before = 0;
                let mut ranks = 0;
                for (word, starts) in self.bitmap.iter().enumerate() {
                    shape[word] = *starts;
                    ranks |= u64::from(before) << (8 * word);
                    before += starts.count_ones();
                }
                (shape[RANKS], shape[RANKS + 1]) = (ranks as u32, (ranks >> 32) as u32);
                (shape, 10)
            }
            Kind::Wide | Kind::Dense => (shape, 0),
        }
    }

    /// The words after `first` that hold values, and those values.
    fn values(&self) -> impl Iterator<Item = (u32, u32)> {
        let (first, values) = match self.kind() {
            Kind::Few => (FEW_VALUES, &self.values[..self.len as usize]),
            Kind::Compact => (COMPACT_VALUES, &self.values[..self.len as usize]),
            Kind::Wide | Kind::Dense => (LINE_WORDS, &self.slots[..]),
        };
        (first..).zip(values.iter().copied())
    }

    /// Whether the node of `entry` is of the same kind and has its runs at the same slots.
    pub(crate) fn same_shape(&self, arena: &Arena, entry: u32) -> bool {
        let (shape, len) = self.shape();
        let words = (block_of(entry) * LINE_WORDS..).zip(&shape[..len]);
        Kind::of(entry) == self.kind() && words.into_iter().all(|(word, value)| arena.load(word) == *value)
    }

    /// Changes the values of the linked node of `entry`, which has the same shape.
    pub(crate) fn publish_values(&self, arena: &Arena, entry: u32) {
        for (word, value) in self.values() {
            let word = block_of(entry) * LINE_WORDS + word;
            if arena.load(word) != value {
                arena.publish(word, value);
            }
        }
    }

    /// Writes a node that is not linked yet, at `level` of the way to `key`, and gives its entry.
    pub(crate) fn write<K: Key>(&self, arena: &Arena, block: u32, level: u8, key: K, fallback: u32) -> u32 {
        let first = block * LINE_WORDS;
        let (shape, len) = self.shape();
        (first..).zip(&shape[..len]).for_each(|(word, value)| arena.store(word, *value));
        arena.store(first + FALLBACK, fallback);
        if K::SKIPS {
            arena.store(first + SKIPPED as u32, (key.half(level) >> 32) as u32);
            arena.store(first + SKIPPED as u32 + 1, key.half(level) as u32);
        }
        self.values().for_each(|(word, value)| arena.store(first + word, value));
        node_entry(block, self.kind(), level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Blocks;

    fn check(slots: Slots, kind: Kind) {
        let (arena, mut blocks) = (Arena::new().unwrap(), Blocks::new());
        assert!(blocks.reserve(&arena, 2));
        let runs = Runs::of(&slots);
        assert_eq!(runs.kind(), kind);
        let block = blocks.allocate(runs.words(), false).unwrap();
        let four = runs.write(&arena, block, 24, 0x0a01_0200u32, 77);
        let block = blocks.allocate(runs.words(), false).unwrap();
        let key = 0x2001_0db8_0102_0304_0506_0708_090a_0b0cu128;
        let six = runs.write(&arena, block, 96, key, 78);
        assert!(runs.same_shape(&arena, four) && runs.same_shape(&arena, six));
        assert_eq!(
            (level_of(six), common(&arena, six, key), common(&arena, six, key ^ 1 << 40)),
            (96, 96, 87)
        );
        let look = |entry| {
            let header = arena.header(block_of(entry)).unwrap();
            (header, fallback(header))
        };
        for (slot, entry) in slots.iter().enumerate() {
            let (header, fallback) = look(four);
            let found = find(arena.lines(), header, four, 0x0a01_0200 | slot as u32);
            assert_eq!((found, fallback), (*entry, 77));
            assert_eq!(arena.load(slot_word(&arena, six, slot)), *entry);
            let key = key & !(0xff << 24) | (slot as u128) << 24;
            let (header, fallback) = look(six);
            assert_eq!((find(arena.lines(), header, six, key), fallback), (*entry, 78));
            assert_eq!(find(arena.lines(), header, six, key ^ 1 << 32), 0, "a skipped bit differs");
            let line = (kind == Kind::Wide).then_some(slot_word(&arena, six, slot) / LINE_WORDS);
            assert_eq!(second_line(six, key), line);
        }
    }

    #[test]
    fn slots_come_back_from_runs() {
        check([0; SLOTS], Kind::Few);
        check([5; SLOTS], Kind::Few);
        check(core::array::from_fn(|slot| slot as u32 / 32 + 1), Kind::Few);
        check(core::array::from_fn(|slot| [1, 2, 3, 2, 5, 5, 5][slot.min(6)]), Kind::Few);
        check(core::array::from_fn(|slot| u32::from(slot == 255)), Kind::Few);
        check(core::array::from_fn(|slot| u32::from(slot >= 128)), Kind::Few);
        check(core::array::from_fn(|slot| slot as u32 / 7 % 3), Kind::Compact);
        check(core::array::from_fn(|slot| slot as u32 + 1), Kind::Wide);
    }

    #[test]
    fn a_node_never_outgrows_what_is_reckoned() {
        for routes in 0..200 {
            let slots: Slots =
                core::array::from_fn(|slot| if slot < 2 * routes { slot as u32 % 2 } else { 0 });
            assert!(Runs::of(&slots).words() <= words_at_most(routes), "{routes}");
            assert!(words_at_most(routes) <= words_at_most(routes + 1), "{routes}");
        }
    }

    #[test]
    fn entries_are_told_apart() {
        let entry = node_entry(9, Kind::Wide, 120);
        assert!(!is_node(0) && !is_node(crate::VALUE_MAX) && is_node(entry));
        assert!(
            !is_value(0) && is_value(1) && is_value(crate::VALUE_MAX) && !is_value(NODE) && !is_value(entry)
        );
        assert_eq!((block_of(entry), level_of(entry), Kind::of(entry)), (9, 120, Kind::Wide));
        assert_eq!(moved(entry, 12), node_entry(12, Kind::Wide, 120));
    }
}
