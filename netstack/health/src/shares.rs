//! What health does to a pool.

use services::{Backend as Member, Pool, State};

use crate::backend::Backend;
use crate::monitor::{Monitor, Panic};
use crate::{Check, Status};

/// Steps in which a slow start's share grows: each is a change of the table.
const STEPS: u64 = 4;

/// What is so of a pool's shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// So few are up that all are used.
    pub panics: bool,
    /// When time alone changes them, if it does.
    pub until_ns: Option<u64>,
}

impl Monitor {
    /// Changes a pool's backends to what the table is to be built of at this moment. A pool that is not watched stays as it
    /// is.
    pub fn shares(&mut self, pool: &mut Pool, now_ns: u64) -> Shares {
        let Some(watched) = self.pools.get(&pool.key) else { return Shares::default() };
        let check = &watched.check;
        let known = |member: &Member| self.known(watched, member.address);
        let is_down = |member: &Member| known(member).is_some_and(|backend| backend.status == Status::Down);
        let weight = |members: &mut dyn Iterator<Item = &Member>| -> u64 {
            members
                .filter(|member| member.state == State::Active)
                .map(|member| u64::from(member.weight))
                .sum()
        };
        let all = weight(&mut pool.backends.iter());
        let up = weight(&mut pool.backends.iter().filter(|member| !is_down(member)));
        let panics = up < all && (up == 0 || up * 100 < all * u64::from(check.panic_percent));
        let panic = Panic {
            is_now: panics,
            ended_ns: if watched.panic.is_now { Some(now_ns) } else { watched.panic.ended_ns },
        };
        let step = |member: &Member| known(member).map_or(STEPS, |backend| backend.step(now_ns));
        // Parts of a weight are whole numbers: all weights of the pool are told in parts while somebody starts.
        let scales = !panics && pool.backends.iter().any(|member| step(member) < STEPS);
        for member in &mut pool.backends {
            if scales {
                member.weight = member.weight.saturating_mul(step(member) as u32);
            }
            if !panics && is_down(member) {
                member.state = State::Draining;
            }
        }
        pool.backends.retain(|member| {
            let until_ns = known(member).and_then(|backend| backend.drains_until_ns(panic));
            member.state != State::Draining || until_ns.is_none_or(|until_ns| now_ns < until_ns)
        });
        let all = watched.backends.values().filter_map(|place| self.at(*place));
        let until_ns = all.filter_map(|backend| backend.next_share_ns(panic, now_ns)).min();
        if let Some(watched) = self.pools.get_mut(&pool.key) {
            watched.panic = panic;
        }
        Shares { panics, until_ns }
    }
}

impl Backend {
    /// When its flows are forgotten, if it drains and that is ever. Who is down gets flows while all are used.
    fn drains_until_ns(&self, panic: Panic) -> Option<u64> {
        let Check { drain_ns, .. } = *self.check;
        let down_ns = self.changed_ns.filter(|_| self.status == Status::Down && !panic.is_now);
        let down_ns = down_ns.map(|at_ns| panic.ended_ns.map_or(at_ns, |ended_ns| ended_ns.max(at_ns)));
        let since_ns = [self.draining_ns, down_ns].into_iter().flatten().min();
        since_ns.filter(|_| drain_ns > 0).map(|since_ns| since_ns + drain_ns)
    }

    /// How many parts of its weight it has: from 1 to [`STEPS`].
    fn step(&self, now_ns: u64) -> u64 {
        let since_ns = self.changed_ns.filter(|_| self.status == Status::Up);
        let part_ns = self.check.slow_start_ns / STEPS;
        let parts = since_ns.and_then(|at_ns| now_ns.saturating_sub(at_ns).checked_div(part_ns));
        parts.map_or(STEPS, |parts| (parts + 1).min(STEPS))
    }

    /// When its share changes next because of time alone.
    fn next_share_ns(&self, panic: Panic, now_ns: u64) -> Option<u64> {
        let step = self.step(now_ns);
        let slow = self.changed_ns.filter(|_| step < STEPS);
        let slow = slow.map(|at_ns| at_ns + self.check.slow_start_ns / STEPS * step);
        let both = [slow, self.drains_until_ns(panic)];
        both.into_iter().flatten().filter(|at_ns| *at_ns > now_ns).min()
    }
}
