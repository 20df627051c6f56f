//! The jobs of a call in an order that suits the kernels: packets of one shape one after another.
//!
//! Short packets of one shape can be worked on together, and the branches that depend on the shape are
//! taken the same way many times in a row.

use super::Key;
use super::body::registers;
use super::key::Rounds;
use super::lanes::Lanes;
use crate::aead::Job;
use core::ops::Range;

/// How many jobs are sorted at a time.
pub(super) const MOST_JOBS: usize = 256;

/// How many packets ahead their keys are fetched into the cache.
pub(super) const PREFETCH_AHEAD: usize = 16;

/// Shapes of one key length: by number of registers up to the largest group, and longer.
const SHAPES: usize = 9;

/// Stands where there is no job.
const NO_SHAPE: u8 = u8::MAX;

/// A batch sorted by key length and shape.
pub(super) struct Order {
    /// Indexes of jobs; those behind the last job are 0.
    jobs: [u8; MOST_JOBS + PREFETCH_AHEAD],
    /// Where each shape ends in `jobs`.
    ends: [u16; 2 * SHAPES],
}

impl Order {
    /// Sorts up to [`MOST_JOBS`] jobs for groups of `group` registers.
    ///
    /// Not by counting: jobs of one shape in a row would wait for each other's counter.
    ///
    /// # Safety
    /// The CPU has what `L` needs.
    #[inline(always)]
    pub(super) unsafe fn new<L: Lanes>(jobs: &[Job<'_, Key>], group: usize) -> Self {
        debug_assert!(jobs.len() <= MOST_JOBS && group < SHAPES);
        let mut shapes = [[NO_SHAPE; 64]; MOST_JOBS / 64];
        let mut present = 0u32;
        for (job, shape) in jobs.iter().zip(shapes.as_flattened_mut()) {
            let long_key = usize::from(job.key.rounds == Rounds::Fourteen);
            *shape = (long_key * SHAPES + registers(L::LANES, job.text.len()).min(group + 1) - 1) as u8;
            present |= 1 << *shape;
        }
        let mut order = Self { jobs: [0; MOST_JOBS + PREFETCH_AHEAD], ends: [0; 2 * SHAPES] };
        let mut place = 0;
        for (shape, end) in order.ends.iter_mut().enumerate() {
            if present >> shape & 1 == 1 {
                for (i, chunk) in shapes[..jobs.len().div_ceil(64)].iter().enumerate() {
                    // SAFETY: as demanded.
                    let mut equal = unsafe { L::equal_bytes(chunk, shape as u8) };
                    while equal != 0 {
                        order.jobs[place % MOST_JOBS] = (64 * i) as u8 + equal.trailing_zeros() as u8;
                        equal &= equal - 1;
                        place += 1;
                    }
                }
            }
            *end = place as u16;
        }
        order
    }

    /// The places in the order of jobs with keys of so many rounds and texts of so many registers; one more
    /// than a group stands for all longer ones.
    #[inline(always)]
    pub(super) fn of_shape(&self, rounds: usize, registers: usize) -> Range<usize> {
        let shape = (if rounds == 14 { SHAPES } else { 0 }) + registers - 1;
        let start = if shape == 0 { 0 } else { self.ends[shape - 1] };
        usize::from(start)..usize::from(self.ends[shape])
    }

    /// The index of the job at that place, which is below `MOST_JOBS + PREFETCH_AHEAD`.
    #[inline(always)]
    pub(super) fn job(&self, place: usize) -> usize {
        usize::from(self.jobs[place])
    }
}
