//! A worker's memory for flows.

use crate::policing::Generation;
use alloc::boxed::Box;
use alloc::vec;
use balancer::{Balancer, Verdict};
use buffer::VECTOR_SIZE;
use flow::{Config, Error};

/// Source ports that full NAT uses: above node ports, below what the node's own connections use.
pub const FULL_NAT_PORTS: (u16, u16) = (32_768, 60_999);

/// How often a bounded part of the tables is looked through for flows that have been quiet for too long.
const EXPIRE_EVERY_NS: u64 = 1_000_000;
/// Parts that are made up for at most.
pub(crate) const EXPIRE_BEHIND: u64 = 8;
const LINE_BYTES: usize = 64;
/// A walk round the tables takes at least this many parts.
const EXPIRE_PARTS: usize = 8192;
/// Cache lines of a table in one part at least, and at most.
const EXPIRE_LINES: (usize, usize) = (16, 256);

/// All that a worker needs to follow flows: control makes it, and the worker allocates nothing.
pub struct Flows {
    balancer: Balancer,
    verdicts: Box<[Verdict]>,
    expire_lines: usize,
    expire_due_ns: u64,
    looked_at: Option<LookedAt>,
}

/// How far the walk is that forgets verdicts of long ago.
struct LookedAt {
    /// When the last whole walk began.
    all: Generation,
    /// When this one did.
    begun: Generation,
    parts: usize,
}

impl Flows {
    /// Tables for worker `worker` of `workers`.
    ///
    /// # Errors
    /// As [`flow::FlowTable::new`].
    pub fn new(ipv4: &Config, ipv6: &Config, worker: usize, workers: usize) -> Result<Box<Self>, Error> {
        let share = (worker as u16, workers as u16);
        let balancer = Balancer::new((ipv4, ipv6), share, FULL_NAT_PORTS)?;
        let bytes = balancer.flows4().bytes().max(balancer.flows6().bytes());
        let (least, most) = EXPIRE_LINES;
        Ok(Box::new(Self {
            balancer,
            verdicts: vec![Verdict::NotOurs; VECTOR_SIZE].into(),
            expire_lines: (bytes / LINE_BYTES / EXPIRE_PARTS).clamp(least, most),
            expire_due_ns: 0,
            looked_at: None,
        }))
    }

    /// Has the windows of TCP flows followed, and segments dropped that these have no place for.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn follow_windows(&mut self) -> Result<(), Error> {
        self.balancer.follow_windows()
    }

    /// The tables, and what decides by them.
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// The same to work with, and a column of verdicts.
    pub(crate) fn parts(&mut self) -> (&mut Balancer, &mut [Verdict]) {
        (&mut self.balancer, &mut self.verdicts)
    }

    /// Frees flows that have been quiet for too long in a part of the tables, if it is time. True if it was. To be called
    /// before verdicts of `policy` are asked for.
    pub(crate) fn expire(&mut self, now_ns: u64, policy: Option<Generation>) -> bool {
        let is_due = now_ns >= self.expire_due_ns;
        if is_due {
            // A worker that has slept makes up for some of it.
            let caught_up_ns = now_ns.saturating_sub(EXPIRE_BEHIND * EXPIRE_EVERY_NS);
            self.expire_due_ns = caught_up_ns.max(self.expire_due_ns) + EXPIRE_EVERY_NS;
            self.balancer.expire(now_ns, self.expire_lines);
        }
        if let Some(generation) = policy {
            self.forget_old_verdicts(generation, is_due);
        }
        is_due
    }

    /// Forgets verdicts before the number of their generation comes again: old ones in a part of the tables if it is due, or
    /// all if the worker has slept through so many changes of policy that the walk cannot have kept up.
    fn forget_old_verdicts(&mut self, now: Generation, is_due: bool) {
        let looked_at = self.looked_at.get_or_insert(LookedAt { all: now, begun: now, parts: 0 });
        if now.is_far_from(looked_at.all) {
            self.balancer.revise(usize::MAX, |verdict| *verdict = 0);
            *looked_at = LookedAt { all: now, begun: now, parts: 0 };
        } else if is_due {
            self.balancer.revise(self.expire_lines, |verdict| now.forget_old(verdict));
            looked_at.parts += 1;
            let bytes = self.balancer.flows4().bytes().max(self.balancer.flows6().bytes());
            if looked_at.parts * self.expire_lines * LINE_BYTES >= bytes {
                *looked_at = LookedAt { all: looked_at.begun, begun: now, parts: 0 };
            }
        }
    }
}
