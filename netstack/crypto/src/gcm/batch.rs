//! The jobs of a call in an order that suits the kernels: packets of one shape one after another.
//!
//! Short packets of one shape can be worked on together, and the branches that depend on the shape are
//! taken the same way many times in a row.

use super::Key;
use super::body::registers;
use crate::aead::Job;

/// How many jobs are sorted at a time.
pub(super) const MOST_JOBS: usize = 256;

/// Shapes of one key length: by number of registers up to the largest group, and longer.
const SHAPES: usize = 9;

/// A batch sorted by key length and shape.
pub(super) struct Order {
    jobs: [u8; MOST_JOBS],
    /// Where each shape ends in `jobs`.
    ends: [u16; 2 * SHAPES],
}

impl Order {
    /// Sorts up to [`MOST_JOBS`] jobs for registers of `lanes` blocks and groups of `group` registers.
    #[inline(always)]
    pub(super) fn new(jobs: &[Job<'_, Key>], lanes: usize, group: usize) -> Self {
        debug_assert!(jobs.len() <= MOST_JOBS && group < SHAPES);
        let mut shapes = [0u8; MOST_JOBS];
        let mut ends = [0u16; 2 * SHAPES];
        for (job, shape) in jobs.iter().zip(&mut shapes) {
            let long_key = usize::from(job.key.rounds == 14);
            *shape = (long_key * SHAPES + registers(lanes, job.text.len()).min(group + 1) - 1) as u8;
            ends[usize::from(*shape) % (2 * SHAPES)] += 1;
        }
        let mut total = 0;
        for end in &mut ends {
            // For now, where the shape begins.
            total += core::mem::replace(end, total);
        }
        let mut order = Self { jobs: [0; MOST_JOBS], ends };
        for (i, shape) in (0..jobs.len()).zip(shapes) {
            let slot = &mut order.ends[usize::from(shape) % (2 * SHAPES)];
            order.jobs[usize::from(*slot) % MOST_JOBS] = i as u8;
            *slot += 1;
        }
        order
    }

    /// The jobs with keys of so many rounds and texts of so many registers; one more than a group stands for
    /// all longer ones.
    #[inline(always)]
    pub(super) fn of_shape(&self, rounds: usize, registers: usize) -> &[u8] {
        let shape = (if rounds == 14 { SHAPES } else { 0 }) + registers - 1;
        let start = if shape == 0 { 0 } else { self.ends[shape - 1] };
        self.jobs.get(usize::from(start)..usize::from(self.ends[shape])).unwrap_or_default()
    }
}
