//! One backend's health.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::fmt;
use core::net::SocketAddr;

use services::{PoolKey, State};

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

impl Status {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Status::Up => "up",
            Status::Down => "down",
        }
    }
}

/// Why a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer came in time.
    Timeout,
    /// The connection was refused.
    Refused,
    /// The connection ended before there was an answer.
    Closed,
    /// The answer is not HTTP/1.
    NotHttp,
    /// The answer has this status code.
    Status(u16),
    /// The node has no address to ask from.
    NoAddress,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Timeout => "no answer in time",
            Failure::Refused => "connection refused",
            Failure::Closed => "connection closed without an answer",
            Failure::NotHttp => "the answer is not HTTP/1",
            Failure::Status(code) => return write!(f, "status {code}"),
            Failure::NoAddress => "the node has no address to ask from",
        })
    }
}

/// A change of a backend's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at_ns: u64,
    /// What it became.
    pub to: Status,
    /// Why the last probe failed, if it became that by failures.
    pub why: Option<Failure>,
}

/// What is known of a backend.
#[derive(Clone, Debug)]
pub struct Backend {
    pub(crate) pool: Arc<PoolKey>,
    pub(crate) address: SocketAddr,
    pub(crate) check: Arc<Check>,
    pub(crate) status: Status,
    /// Results in a row that speak against the status.
    streak: u32,
    /// What it is but for its health.
    pub(crate) state: State,
    /// When it came, or came to be active, or its status changed last; `None` if it was there from the first.
    pub(crate) changed_ns: Option<u64>,
    /// When it began to drain for another reason than its health.
    pub(crate) draining_ns: Option<u64>,
    history: VecDeque<Change>,
    /// When the next probe is due.
    pub(crate) due_ns: u64,
    /// The probe that is under way, and when it has failed.
    pub(crate) pending: Option<(u64, u64)>,
    probes: u64,
    failures: u64,
    changes: u64,
    last_failure: Option<(u64, Failure)>,
}

impl Backend {
    pub(crate) fn new(pool: Arc<PoolKey>, address: SocketAddr, check: Arc<Check>, state: State) -> Self {
        Self {
            pool,
            address,
            check,
            status: Status::Up,
            streak: 0,
            state,
            changed_ns: None,
            draining_ns: None,
            history: VecDeque::new(),
            due_ns: 0,
            pending: None,
            probes: 0,
            failures: 0,
            changes: 0,
            last_failure: None,
        }
    }

    /// Counts a result. The change, if it changed the status.
    pub(crate) fn count(&mut self, result: Result<(), Failure>, now_ns: u64) -> Option<Change> {
        self.probes += 1;
        if let Err(failure) = result {
            self.failures += 1;
            self.last_failure = Some((now_ns, failure));
        }
        let (speaks_for, wanted, other) = match self.status {
            Status::Up => (result.is_ok(), self.check.fall, Status::Down),
            Status::Down => (result.is_err(), self.check.rise, Status::Up),
        };
        self.streak = if speaks_for { 0 } else { self.streak + 1 };
        if self.streak < wanted.max(1) {
            return None;
        }
        self.streak = 0;
        self.status = other;
        self.changed_ns = Some(now_ns);
        self.changes += 1;
        if self.history.len() == HISTORY {
            let _ = self.history.pop_front();
        }
        let change = Change { at_ns: now_ns, to: other, why: result.err() };
        self.history.push_back(change);
        Some(change)
    }

    /// How it is checked.
    pub fn check(&self) -> &Check {
        &self.check
    }

    /// Whether it serves.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The last changes of its status, the oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Change> {
        self.history.iter()
    }

    /// Probes that have ended, and those of them that failed.
    pub fn probes(&self) -> (u64, u64) {
        (self.probes, self.failures)
    }

    /// How often its status changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// When a probe failed last, and why.
    pub fn last_failure(&self) -> Option<(u64, Failure)> {
        self.last_failure
    }
}
