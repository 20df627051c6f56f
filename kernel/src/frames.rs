//! Physical memory in whole pages: for page tables, stacks, the heap and devices.

use boot::{RangeSet, RangesFull};
use core::ops::Range;

/// Size of a page frame, in bytes.
pub const FRAME_BYTES: u64 = 4096;

/// Ranges the free memory may be in.
const PIECES: usize = 9216;

/// Allocations that may live at a time and be given back: the rings of 64 cards with 63 workers are 8,064. Each can
/// split the free memory once more, so bounding them makes sure that giving memory back always finds room in the
/// range table.
const ALLOCATIONS: usize = PIECES - boot::MEMORY_PIECES;

/// Hands out physically contiguous page frames, lowest address first.
#[derive(Debug)]
pub struct FrameAllocator {
    free: RangeSet<PIECES>,
    /// Allocations that may be given back.
    allocations: usize,
    total: u64,
}

impl FrameAllocator {
    /// An allocator that owns nothing yet.
    pub const fn new() -> Self {
        Self { free: RangeSet::new(), allocations: 0, total: 0 }
    }

    /// Takes over `memory`, whose ranges are page-aligned.
    ///
    /// # Errors
    /// There is no room for one of the ranges; those before it are taken over.
    pub fn add(&mut self, memory: impl Iterator<Item = Range<u64>>) -> Result<(), RangesFull> {
        for range in memory {
            self.total += range.end - range.start;
            self.free.insert(range)?;
        }
        Ok(())
    }

    /// Contiguous frames of together at least `bytes`, at a multiple of `align` (a power of two),
    /// below `limit`. Their content is whatever was there. `None` when no such piece is free.
    pub fn allocate(&mut self, bytes: u64, align: u64, limit: u64) -> Option<u64> {
        if self.allocations == ALLOCATIONS {
            return None;
        }
        let start = self.take(bytes, align, limit)?;
        self.allocations += 1;
        Some(start)
    }

    /// As [`allocate`](Self::allocate), page-aligned and never to be given back. It comes from the beginning of a piece
    /// and so splits none: there may be any number of these.
    pub fn allocate_for_ever(&mut self, bytes: u64, limit: u64) -> Option<u64> {
        self.take(bytes, FRAME_BYTES, limit)
    }

    fn take(&mut self, bytes: u64, align: u64, limit: u64) -> Option<u64> {
        let bytes = bytes.checked_next_multiple_of(FRAME_BYTES).filter(|&bytes| bytes != 0)?;
        self.free.take(bytes, align.max(FRAME_BYTES), limit)
    }

    /// Gives back what [`allocate`](Self::allocate) returned for `bytes`.
    pub fn free(&mut self, start: u64, bytes: u64) {
        let end = start + bytes.next_multiple_of(FRAME_BYTES);
        let fits = self.free.insert(start..end);
        debug_assert!(fits.is_ok(), "bounded by ALLOCATIONS");
        self.allocations -= 1;
    }

    /// Bytes that nobody has allocated.
    pub fn free_bytes(&self) -> u64 {
        self.free.total()
    }

    /// Bytes that the allocator was given.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }
}

impl Default for FrameAllocator {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> FrameAllocator {
        let mut frames = FrameAllocator::new();
        frames.add([0x10_0000..0x20_0000, 0x40_0000..0x80_0000].into_iter()).unwrap();
        frames
    }

    #[test]
    fn lowest_fit_respects_alignment_and_limit() {
        let mut frames = allocator();
        assert_eq!(frames.allocate(1, 1, u64::MAX), Some(0x10_0000));
        assert_eq!(frames.allocate(4097, 0x8000, u64::MAX), Some(0x10_8000));
        assert_eq!(frames.allocate(0x20_0000, 0x20_0000, u64::MAX), Some(0x40_0000));
        assert_eq!(frames.allocate(0x10_0000, 1, 0x60_0000), None);
        assert_eq!(frames.allocate(0, 1, u64::MAX), None);
        assert_eq!(frames.allocate(u64::MAX, 1, u64::MAX), None);
        assert_eq!(frames.free_bytes(), frames.total_bytes() - 0x1000 - 0x2000 - 0x20_0000);
    }

    #[test]
    fn every_allocation_can_be_freed_in_the_worst_order() {
        let mut frames = FrameAllocator::new();
        frames.add(core::iter::once(0x10_0000..0x1_0000_0000)).unwrap();
        let all: Vec<u64> =
            core::iter::from_fn(|| frames.allocate(FRAME_BYTES, FRAME_BYTES, u64::MAX)).collect();
        assert_eq!(all.len(), ALLOCATIONS);
        for start in all.iter().step_by(2).chain(all.iter().skip(1).step_by(2)) {
            frames.free(*start, FRAME_BYTES);
        }
        assert_eq!(frames.free_bytes(), frames.total_bytes());
        assert_eq!(frames.free.pieces(), 1);
    }

    #[test]
    fn what_stays_for_ever_is_not_limited_in_number() {
        let mut frames = FrameAllocator::new();
        frames.add(core::iter::once(0x10_0000..0x10_0000 + 20_000 * FRAME_BYTES)).unwrap();
        for index in 0..ALLOCATIONS as u64 + 100 {
            assert_eq!(frames.allocate_for_ever(1, u64::MAX), Some(0x10_0000 + index * FRAME_BYTES));
        }
        let freed = frames.allocate(FRAME_BYTES, 0x10_0000, u64::MAX).unwrap();
        frames.free(freed, FRAME_BYTES);
        assert_eq!(frames.allocate_for_ever(0, u64::MAX), None);
        assert_eq!(frames.allocate_for_ever(FRAME_BYTES, 0x10_0000), None);
        assert_eq!(frames.free.pieces(), 1);
    }
}
