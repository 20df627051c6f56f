//! One backend's health.

use alloc::collections::VecDeque;

use crate::Check;

/// Changes that are remembered of a backend.
const HISTORY: usize = 16;

/// Whether a backend serves, as far as probes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Up,
    /// It does not.
    Down,
}

/// A change of a backend's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at_ns: u64,
    /// What it became.
    pub to: Status,
}

/// What is known of a backend.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) status: Status,
    /// Results in a row that speak against the status.
    streak: u32,
    /// When the status changed last; `None` if it never did.
    pub(crate) changed_ns: Option<u64>,
    /// When it began to drain for another reason than its health.
    pub(crate) draining_ns: Option<u64>,
    pub(crate) history: VecDeque<Change>,
    /// When the next probe is due.
    pub(crate) due_ns: u64,
    /// The probe that is under way, and when it has failed.
    pub(crate) pending: Option<(u64, u64)>,
}

impl Backend {
    pub(crate) fn new(due_ns: u64) -> Self {
        let (changed_ns, draining_ns, pending) = (None, None, None);
        let history = VecDeque::with_capacity(HISTORY);
        Self { status: Status::Up, streak: 0, changed_ns, draining_ns, history, due_ns, pending }
    }

    /// Counts a result. True if the status changed.
    pub(crate) fn count(&mut self, check: &Check, is_good: bool, now_ns: u64) -> bool {
        let (speaks_for, wanted, other) = match self.status {
            Status::Up => (is_good, check.fall, Status::Down),
            Status::Down => (!is_good, check.rise, Status::Up),
        };
        self.streak = if speaks_for { 0 } else { self.streak + 1 };
        if self.streak < wanted.max(1) {
            return false;
        }
        self.streak = 0;
        self.status = other;
        self.changed_ns = Some(now_ns);
        if self.history.len() == HISTORY {
            let _ = self.history.pop_front();
        }
        self.history.push_back(Change { at_ns: now_ns, to: other });
        true
    }
}
