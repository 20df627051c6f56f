//! What health does to a pool.

use services::{Backend as Member, Pool, State};

use crate::backend::Backend;
use crate::monitor::{Monitor, Watched};
use crate::{Check, Status};

/// Steps in which a slow start's share grows: each is a change of the table.
const STEPS: u64 = 4;

impl Monitor {
    /// Changes a pool's backends to what the table is to be built of at this moment. A pool that is not checked stays as it is.
    pub fn shares(&self, pool: &mut Pool, now_ns: u64) {
        let Some(watched) = self.pools.get(&pool.key) else { return };
        let check = &watched.check;
        let known = |member: &Member| watched.backends.get(&member.address);
        let is_down = |member: &Member| known(member).is_some_and(|backend| backend.status == Status::Down);
        let weight = |members: &mut dyn Iterator<Item = &Member>| -> u64 {
            members
                .filter(|member| member.state == State::Active)
                .map(|member| u64::from(member.weight))
                .sum()
        };
        let all = weight(&mut pool.backends.iter());
        let up = weight(&mut pool.backends.iter().filter(|member| !is_down(member)));
        let panics = up == 0 || up * 100 < all * u64::from(check.panic_percent);
        let starts = |member: &Member| {
            let backend = known(member)?;
            (backend.status == Status::Up).then_some(backend.changed_ns?)
        };
        let is_slow =
            |member: &Member| starts(member).is_some_and(|at_ns| step(check, at_ns, now_ns) < STEPS);
        // Parts of a weight are whole numbers: all weights of the pool are told in parts while somebody starts.
        let scales = !panics && pool.backends.iter().any(is_slow);
        for member in &mut pool.backends {
            if scales {
                let parts = starts(member).map_or(STEPS, |at_ns| step(check, at_ns, now_ns));
                member.weight = member.weight.saturating_mul(parts as u32);
            }
            if !panics && is_down(member) {
                member.state = State::Draining;
            }
        }
        pool.backends.retain(|member| {
            let since_ns = known(member).and_then(|backend| drains_since(backend, panics));
            member.state != State::Draining
                || since_ns.is_none_or(|since_ns| now_ns < since_ns + check.drain_ns)
        });
    }
}

/// When a backend began to drain.
fn drains_since(backend: &Backend, panics: bool) -> Option<u64> {
    let down_ns = (backend.status == Status::Down && !panics).then_some(backend.changed_ns).flatten();
    match (backend.draining_ns, down_ns) {
        (Some(draining_ns), Some(down_ns)) => Some(draining_ns.min(down_ns)),
        (draining_ns, down_ns) => draining_ns.or(down_ns),
    }
}

/// How many parts of its weight a backend has that came up at `at_ns`: from 1 to [`STEPS`].
fn step(check: &Check, at_ns: u64, now_ns: u64) -> u64 {
    let part_ns = check.slow_start_ns / STEPS;
    now_ns.saturating_sub(at_ns).checked_div(part_ns).map_or(STEPS, |parts| (parts + 1).min(STEPS))
}

impl Watched {
    /// When a share changes next because of time alone.
    pub(crate) fn next_ns(&self, now_ns: u64) -> Option<u64> {
        let check = &self.check;
        let of = |backend: &Backend| {
            let slow =
                (backend.status == Status::Up).then_some(backend.changed_ns).flatten().and_then(|at_ns| {
                    let step = step(check, at_ns, now_ns);
                    (step < STEPS).then(|| at_ns + check.slow_start_ns / STEPS * step)
                });
            let drained = drains_since(backend, false).map(|since_ns| since_ns + check.drain_ns);
            slow.into_iter().chain(drained).filter(|at_ns| *at_ns > now_ns).min()
        };
        self.backends.values().filter_map(of).min()
    }
}
