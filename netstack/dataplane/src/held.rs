//! Later fragments that came before the first one of their packet, which alone says whose they are; and first ones of SCTP that go to
//! another port and whose last one is to come, which says how long what their checksum covers is.
//!
//! They wait in a ring of [`PLACES`] until that one comes, for [`WAIT_NS`] at most; when it is full, the one that has
//! waited longest goes. So a flood of fragments takes as many buffers, and shortens the wait of others.

use alloc::collections::VecDeque;
use balancer::Balancer;
use buffer::{Buf, VECTOR_SIZE};

/// Fragments that a worker holds at most.
pub(crate) const PLACES: usize = 128;
/// How long one waits.
pub(crate) const WAIT_NS: u64 = 1_000_000_000;

const _: () = assert!(PLACES <= VECTOR_SIZE, "a vector takes all that wait");

/// A worker's ring.
pub(crate) struct Held {
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
    /// Some may have what they waited for.
    is_ready: bool,
}

struct Waiting {
    packet: Buf,
    until_ns: u64,
    /// The one that it waits for has come.
    is_ready: bool,
}

/// Why a fragment waits no longer.
pub(crate) enum Released {
    /// The one that it waited for has come.
    Follows(Buf),
    /// It has not come in time.
    Late(Buf),
}

impl Held {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::with_capacity(PLACES), is_ready: false }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Holds a fragment; gives back the one whose place it takes.
    pub(crate) fn hold(&mut self, packet: Buf, now_ns: u64) -> Option<Buf> {
        let oldest = if self.waiting.len() == PLACES { self.waiting.pop_front() } else { None };
        self.waiting.push_back(Waiting { packet, until_ns: now_ns + WAIT_NS, is_ready: false });
        oldest.map(|oldest| oldest.packet)
    }

    /// Looks which ones have what they wait for, after that may have come.
    pub(crate) fn look(&mut self, balancer: &Balancer, now_ns: u64) {
        for waiting in &mut self.waiting {
            waiting.is_ready = balancer.knows_awaited(waiting.packet.data(), now_ns);
            self.is_ready |= waiting.is_ready;
        }
    }

    /// True if some are to be released.
    #[inline(always)]
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        self.is_ready || self.waiting.front().is_some_and(|oldest| oldest.until_ns <= now_ns)
    }

    /// Releases those that are due, in the order in which they came.
    pub(crate) fn release(&mut self, now_ns: u64, mut each: impl FnMut(Released)) {
        self.is_ready = false;
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else { break };
            match waiting {
                Waiting { packet, is_ready: true, .. } => each(Released::Follows(packet)),
                Waiting { packet, until_ns, .. } if until_ns <= now_ns => each(Released::Late(packet)),
                waiting => self.waiting.push_back(waiting),
            }
        }
    }
}
