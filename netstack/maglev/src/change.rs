//! How even a table is, and what another one would move.

use alloc::vec;
use alloc::vec::Vec;

use crate::table::Table;

/// How many slots each backend has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares(Vec<u32>);

impl Shares {
    /// Counts the slots of a table over `backends` backends.
    pub fn of(table: &Table, backends: usize) -> Self {
        let mut counts = vec![0; backends];
        for backend in table.iter() {
            if let Some(count) = counts.get_mut(backend as usize) {
                *count += 1;
            }
        }
        Shares(counts)
    }

    /// Slots by backend.
    pub fn slots(&self) -> &[u32] {
        &self.0
    }

    /// The largest share over the mean one, 1.0 if all are equal; 0.0 without backends.
    pub fn imbalance(&self) -> f64 {
        let max = self.0.iter().copied().max().unwrap_or(0);
        let sum: u64 = self.0.iter().copied().map(u64::from).sum();
        if sum == 0 { 0.0 } else { f64::from(max) * self.0.len() as f64 / sum as f64 }
    }
}

/// What replacing one table by another of the same size does to flows that nobody remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Slots of the table.
    pub slots: u32,
    /// Slots that change their backend.
    pub moved: u32,
    /// Slots whose backend before is there after.
    pub survivors: u32,
    /// Of those, the ones that go to another backend all the same.
    pub survivors_moved: u32,
    /// Of those, the ones that go to a backend which was there before too: the disruption that a perfect table would
    /// avoid. The others go to newcomers, who need their share.
    pub needless: u32,
}

impl Change {
    /// Compares slot by slot. `after_index(i)` is where backend `i` of `before` is among those of `after`, if it still is.
    /// Tables of different sizes have no slot in common: everything moves.
    pub fn between(before: &Table, after: &Table, after_index: impl Fn(u32) -> Option<u32>) -> Self {
        let mut change = Change { slots: before.slots(), ..Change::default() };
        let same_size = before.slots() == after.slots();
        let mut was_there = vec![false; 1 + after.iter().max().unwrap_or(0) as usize];
        for kept in before.iter().filter_map(&after_index) {
            if let Some(mark) = was_there.get_mut(kept as usize) {
                *mark = true;
            }
        }
        for (slot, old) in (0..).zip(before.iter()) {
            let kept = after_index(old);
            let new = after.at(slot);
            let stays = same_size && kept == Some(new);
            let survivor_moves = kept.is_some() && !stays;
            change.moved += u32::from(!stays);
            change.survivors += u32::from(kept.is_some());
            change.survivors_moved += u32::from(survivor_moves);
            change.needless += u32::from(survivor_moves && was_there.get(new as usize) == Some(&true));
        }
        change
    }

    /// Share of all slots that move.
    pub fn moved_ratio(&self) -> f64 {
        ratio(self.moved, self.slots)
    }

    /// Share of the surviving backends' slots that move.
    pub fn survivors_moved_ratio(&self) -> f64 {
        ratio(self.survivors_moved, self.survivors)
    }
}

fn ratio(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { f64::from(part) / f64::from(whole) }
}
