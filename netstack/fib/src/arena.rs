//! The memory nodes live in: lines of 64 bytes that readers reach by number.
//!
//! A fixed directory of chunks; a chunk is allocated when it is first needed and never moves or goes away, so a
//! reader needs no lock and no reference count, and an empty table costs no more than the directory. [`Blocks`] is the
//! writer's side: which lines are free, and which are unlinked but perhaps still being read.

use alloc::{
    boxed::Box,
    collections::{BTreeSet, VecDeque},
    vec::Vec,
};
use core::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use once_cell::race::OnceBox;

use crate::{Key, node};

/// Words of 32 bits in a line.
pub(crate) const LINE_WORDS: u32 = 16;
const CHUNK_LINES: usize = 4096;
const CHUNKS: usize = 4096;
/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: usize = CHUNK_LINES * size_of::<Line>();
const PAGE_LINES: usize = 64;
const CHUNK_PAGES: usize = CHUNK_LINES / PAGE_LINES;

/// Lines of a block by size class. A page of 64 lines holds blocks of one class, so that a page that became empty can
/// serve another; the largest class is more than a wide node (272 words) so that pages are filled.
const CLASS_LINES: [u32; 11] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 21];

/// One cache line of words.
#[repr(C, align(64))]
#[derive(Default)]
pub(crate) struct Line([AtomicU32; LINE_WORDS as usize]);

const _: () = assert!(size_of::<Line>() == 64);

type Chunk = [Line; CHUNK_LINES];

/// What readers see: lines by number. A block is named by the number of its first line.
pub(crate) struct Arena {
    chunks: Box<[OnceBox<Chunk>; CHUNKS]>,
}

/// A table of the given number of entries, made on the heap.
pub(crate) fn boxed<T, const N: usize>(entry: impl Fn() -> T) -> Option<Box<[T; N]>> {
    let mut entries = Vec::new();
    entries.try_reserve_exact(N).ok()?;
    entries.resize_with(N, entry);
    entries.into_boxed_slice().try_into().ok()
}

impl Arena {
    pub(crate) fn new() -> Option<Self> {
        Some(Self { chunks: boxed(OnceBox::new)? })
    }

    /// What a reader uses, at hand in a register.
    #[inline(always)]
    pub(crate) fn lines(&self) -> Lines<'_> {
        Lines(&self.chunks)
    }

    #[inline(always)]
    fn line(&self, line: u32) -> Option<&Line> {
        self.lines().line(line)
    }

    /// The first line of a block; a reader looks at several words of it.
    #[inline(always)]
    pub(crate) fn header(&self, block: u32) -> Option<&[AtomicU32; LINE_WORDS as usize]> {
        self.lines().header(block)
    }

    /// Word `word` counted from the start of line 0; 0 where there is no memory.
    #[inline(always)]
    pub(crate) fn load(&self, word: u32) -> u32 {
        self.lines().load(word)
    }

    /// Sets a word that readers may be looking at: everything written before is visible to who sees it.
    pub(crate) fn publish(&self, word: u32, value: u32) {
        if let Some(line) = self.line(word / LINE_WORDS) {
            line.0[(word % LINE_WORDS) as usize].store(value, Release);
        }
    }

    /// Sets a word of a block that is not linked yet.
    pub(crate) fn store(&self, word: u32, value: u32) {
        if let Some(line) = self.line(word / LINE_WORDS) {
            line.0[(word % LINE_WORDS) as usize].store(value, Relaxed);
        }
    }

    /// Allocates chunk number `chunk`; `false` if the directory or the memory is at its end.
    fn grow(&self, chunk: usize) -> bool {
        match (self.chunks.get(chunk), boxed(Line::default)) {
            (Some(entry), Some(lines)) => entry.set(lines).is_ok(),
            _ => false,
        }
    }
}

/// The lines of an arena.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a>(&'a [OnceBox<Chunk>; CHUNKS]);

impl<'a> Lines<'a> {
    #[inline(always)]
    fn line(self, line: u32) -> Option<&'a Line> {
        let chunk = self.0[line as usize / CHUNK_LINES % CHUNKS].get()?;
        Some(&chunk[line as usize % CHUNK_LINES])
    }

    /// Asks the processor for a line.
    #[inline(always)]
    pub(crate) fn prefetch(self, line: u32) {
        if let Some(line) = self.line(line) {
            buffer::prefetch_read(line);
        }
    }

    /// Asks for the lines of a node that a lookup of `key` will need, as far as its entry tells.
    #[inline(always)]
    pub(crate) fn prefetch_node<K: Key>(self, entry: u32, key: K) {
        self.prefetch(node::block_of(entry));
        if let Some(line) = node::second_line(entry, key) {
            self.prefetch(line);
        }
    }

    /// The first line of a block; a reader looks at several words of it.
    #[inline(always)]
    pub(crate) fn header(self, block: u32) -> Option<&'a [AtomicU32; LINE_WORDS as usize]> {
        self.line(block).map(|line| &line.0)
    }

    /// Word `word` counted from the start of line 0; 0 where there is no memory.
    #[inline(always)]
    pub(crate) fn load(self, word: u32) -> u32 {
        self.line(word / LINE_WORDS).map_or(0, |line| line.0[(word % LINE_WORDS) as usize].load(Acquire))
    }
}

/// 64 lines cut into blocks of one class.
struct Page {
    class: u8,
    /// Bit `n` is set while block `n` of the page is free.
    free: u64,
}

fn blocks_of_page(class: usize) -> u64 {
    u64::MAX >> (PAGE_LINES - PAGE_LINES / CLASS_LINES[class] as usize)
}

/// The writer's account of the arena.
pub(crate) struct Blocks {
    pages: Vec<Page>,
    /// Pages without any block in use. The lowest are taken first, so that what is used stays together.
    empty: BTreeSet<u32>,
    /// Pages with some blocks in use and some free, by class.
    partial: [BTreeSet<u32>; CLASS_LINES.len()],
    unlinked: Vec<u32>,
    retired: VecDeque<(u64, Vec<u32>)>,
    used_lines: usize,
    unlinked_lines: usize,
    /// Chunks there may be.
    limit: usize,
}

/// Pages that only changes may use which give back as much as they take. As many as there are classes: while a change
/// that takes a block gives back one of no smaller class, and takes a larger one where its own class has none, there is
/// always one left for each class, in whatever order they come.
const KEPT_PAGES: usize = CLASS_LINES.len();

impl Blocks {
    pub(crate) fn new() -> Self {
        Self::with_limit(CHUNKS)
    }

    /// With at most `limit` chunks.
    pub(crate) fn with_limit(limit: usize) -> Self {
        Self {
            limit,
            pages: Vec::new(),
            empty: BTreeSet::new(),
            partial: Default::default(),
            unlinked: Vec::new(),
            retired: VecDeque::new(),
            used_lines: 0,
            unlinked_lines: 0,
        }
    }

    /// Sees to it that the next `blocks` blocks can be allocated, whatever their size, and still leave what is kept for
    /// changes that need no more memory.
    pub(crate) fn reserve(&mut self, arena: &Arena, blocks: usize) -> bool {
        while self.empty.len() < blocks + KEPT_PAGES {
            let first = self.pages.len();
            if first / CHUNK_PAGES >= self.limit
                || self.pages.try_reserve(CHUNK_PAGES).is_err()
                || !arena.grow(first / CHUNK_PAGES)
            {
                return false;
            }
            self.pages.resize_with(first + CHUNK_PAGES, || Page { class: 0, free: 0 });
            // Page 0 is left out: there is no block 0, which lets one comparison tell a value from all else.
            self.empty.extend((first.max(1) as u32)..self.pages.len() as u32);
        }
        true
    }

    /// Whether a block of any size can be allocated frugally.
    pub(crate) fn has_room(&self) -> bool {
        !self.empty.is_empty() || !self.partial[CLASS_LINES.len() - 1].is_empty()
    }

    /// A block of at least `words` words; `None` if none was reserved or it would be larger than the largest class.
    /// `frugal`: rather a larger block than a new page.
    pub(crate) fn allocate(&mut self, words: u32, frugal: bool) -> Option<u32> {
        let fitting = CLASS_LINES.iter().position(|lines| lines * LINE_WORDS >= words)?;
        let last = if frugal { CLASS_LINES.len() - 1 } else { fitting };
        let partial = (fitting..=last).find_map(|class| Some((class, *self.partial[class].first()?)));
        let (class, number) = match partial {
            Some(found) => found,
            None => {
                let number = self.empty.pop_first()?;
                self.pages[number as usize] = Page { class: fitting as u8, free: blocks_of_page(fitting) };
                let _ = self.partial[fitting].insert(number);
                (fitting, number)
            }
        };
        let page = &mut self.pages[number as usize];
        let index = page.free.trailing_zeros();
        page.free &= page.free - 1;
        if page.free == 0 {
            let _ = self.partial[class].remove(&number);
        }
        self.used_lines += CLASS_LINES[class] as usize;
        Some(number * PAGE_LINES as u32 + index * CLASS_LINES[class])
    }

    /// Words a block has.
    pub(crate) fn capacity_words(&self, block: u32) -> u32 {
        self.pages.get(block as usize / PAGE_LINES).map_or(0, |page| self.lines(page) * LINE_WORDS)
    }

    fn lines(&self, page: &Page) -> u32 {
        CLASS_LINES[usize::from(page.class)]
    }

    /// Notes that no entry names `block` any longer.
    pub(crate) fn unlink(&mut self, block: u32) {
        let lines = (self.capacity_words(block) / LINE_WORDS) as usize;
        self.used_lines -= lines;
        self.unlinked_lines += lines;
        self.unlinked.push(block);
    }

    /// What has been unlinked so far may be used again from `generation` on.
    pub(crate) fn retire(&mut self, generation: u64) {
        if !self.unlinked.is_empty() {
            self.retired.push_back((generation, core::mem::take(&mut self.unlinked)));
        }
    }

    /// Frees what was retired at `safe_generation` or before.
    pub(crate) fn reclaim(&mut self, safe_generation: u64) {
        while self.retired.front().is_some_and(|(generation, _)| *generation <= safe_generation) {
            let Some((_, blocks)) = self.retired.pop_front() else { return };
            for block in blocks {
                self.free(block);
            }
        }
    }

    fn free(&mut self, block: u32) {
        let number = block / PAGE_LINES as u32;
        let page = &mut self.pages[number as usize];
        let class = usize::from(page.class);
        page.free |= 1 << (block % PAGE_LINES as u32 / CLASS_LINES[class]);
        if page.free == blocks_of_page(class) {
            let _ = self.partial[class].remove(&number);
            let _ = self.empty.insert(number);
        } else {
            let _ = self.partial[class].insert(number);
        }
        self.unlinked_lines -= CLASS_LINES[class] as usize;
    }

    /// Bytes taken from the allocator for lines, bytes linked, bytes unlinked and not free yet.
    pub(crate) fn bytes(&self) -> (usize, usize, usize) {
        let line = size_of::<Line>();
        (self.pages.len() * PAGE_LINES * line, self.used_lines * line, self.unlinked_lines * line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_come_back() {
        let (arena, mut blocks) = (Arena::new().unwrap(), Blocks::new());
        let mut owner = std::collections::HashMap::new();
        let mut all = Vec::new();
        for n in 0..5000u32 {
            assert!(blocks.reserve(&arena, 1));
            let words = n * 7919 % 336 + 1;
            let block = blocks.allocate(words, n % 2 == 0).unwrap();
            assert!(block != 0 && blocks.capacity_words(block) >= words);
            for line in block..block + blocks.capacity_words(block) / LINE_WORDS {
                assert_eq!(owner.insert(line, n), None);
                arena.store(line * LINE_WORDS, n);
            }
            all.push(block);
        }
        assert!(owner.iter().all(|(line, n)| arena.load(line * LINE_WORDS) == *n));
        assert!(blocks.allocate(337, true).is_none());
        all.iter().for_each(|block| blocks.unlink(*block));
        blocks.reclaim(u64::MAX);
        assert_eq!(blocks.bytes().1, 0);
        assert!(blocks.bytes().2 > 0, "not retired yet");
        blocks.retire(7);
        blocks.reclaim(6);
        assert!(blocks.bytes().2 > 0, "not safe yet");
        blocks.reclaim(7);
        assert_eq!(blocks.bytes().2, 0);
        assert_eq!(blocks.empty.len(), blocks.pages.len() - 1);
    }

    #[test]
    fn nothing_is_there_before_the_first_chunk() {
        let arena = Arena::new().unwrap();
        arena.lines().prefetch(u32::MAX);
        assert_eq!(arena.load(u32::MAX), 0);
        assert!(arena.header(0).is_none() && !arena.grow(CHUNKS));
    }
}
