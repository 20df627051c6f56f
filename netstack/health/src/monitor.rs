//! Who is probed when.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;

use services::PoolKey;

use crate::backend::Backend;
use crate::{Change, Check, Status};

/// A pool whose backends are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub pool: PoolKey,
    /// How.
    pub check: Check,
    /// Its backends, and whether each is draining for another reason than its health.
    pub backends: Vec<(SocketAddr, bool)>,
}

/// A probe to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What to report it by.
    pub number: u64,
    /// Whom to probe.
    pub backend: SocketAddr,
    /// How.
    pub kind: crate::Kind,
    /// When it has failed.
    pub deadline_ns: u64,
}

/// A pool, and what is known of its backends.
pub(crate) struct Watched {
    pub(crate) check: Check,
    pub(crate) backends: BTreeMap<SocketAddr, Backend>,
}

/// The health of all backends that are checked.
#[derive(Default)]
pub struct Monitor {
    pub(crate) pools: BTreeMap<PoolKey, Watched>,
    /// Probes under way, by number.
    pending: BTreeMap<u64, (PoolKey, SocketAddr)>,
    next_number: u64,
}

impl Monitor {
    /// Checks these and nobody else from now on. First probes are spread over their interval.
    pub fn set_targets(&mut self, targets: &[Target], now_ns: u64) {
        let mut old = core::mem::take(&mut self.pools);
        for target in targets {
            let mut known = old.remove(&target.pool).map(|pool| pool.backends).unwrap_or_default();
            let mut backends = BTreeMap::new();
            let count = target.backends.len().max(1) as u64;
            for ((address, is_draining), index) in target.backends.iter().zip(0..) {
                let first_ns = now_ns + target.check.interval_ns / count * index;
                let mut backend = known.remove(address).unwrap_or_else(|| Backend::new(first_ns));
                backend.draining_ns = is_draining.then(|| backend.draining_ns.unwrap_or(now_ns));
                let _ = backends.insert(*address, backend);
            }
            let _ = self.pools.insert(target.pool.clone(), Watched { check: target.check.clone(), backends });
        }
        let pools = &self.pools;
        let is_there = |pool: &PoolKey, backend: &SocketAddr| {
            pools.get(pool).is_some_and(|pool| pool.backends.contains_key(backend))
        };
        self.pending.retain(|_, (pool, backend)| is_there(pool, backend));
    }

    /// A probe that is due, if there is one. Probes whose time is over have failed; `changed` becomes true if that changed a status.
    pub fn poll(&mut self, now_ns: u64, changed: &mut bool) -> Option<Probe> {
        *changed |= self.fail_overdue(now_ns);
        let (key, check, address, backend) = self
            .pools
            .iter_mut()
            .flat_map(|(key, pool)| {
                let check = &pool.check;
                pool.backends.iter_mut().map(move |(address, backend)| (key, check, address, backend))
            })
            .find(|(_, _, _, backend)| backend.pending.is_none() && backend.due_ns <= now_ns)?;
        let number = self.next_number;
        self.next_number += 1;
        let deadline_ns = now_ns + check.timeout_ns.min(check.interval_ns);
        backend.pending = Some((number, deadline_ns));
        // Who was not probed in time is not probed twice for it.
        backend.due_ns = (backend.due_ns + check.interval_ns).max(now_ns + check.interval_ns / 2);
        let _ = self.pending.insert(number, (key.clone(), *address));
        Some(Probe { number, backend: *address, kind: check.kind.clone(), deadline_ns })
    }

    /// Tells how a probe ended. True if a backend's status changed: then shares have. What comes too late does not count.
    pub fn report(&mut self, number: u64, is_good: bool, now_ns: u64) -> bool {
        let Some((key, address)) = self.pending.remove(&number) else { return false };
        let Some(pool) = self.pools.get_mut(&key) else { return false };
        let Some(backend) = pool.backends.get_mut(&address) else { return false };
        if backend.pending.take_if(|(pending, _)| *pending == number).is_none() {
            return false;
        }
        backend.count(&pool.check, is_good, now_ns)
    }

    fn fail_overdue(&mut self, now_ns: u64) -> bool {
        let backends = self.pools.values().flat_map(|pool| pool.backends.values());
        let pending = backends.filter_map(|backend| backend.pending);
        let late: Vec<u64> =
            pending.filter(|(_, deadline_ns)| *deadline_ns <= now_ns).map(|(number, _)| number).collect();
        late.into_iter().filter(|number| self.report(*number, false, now_ns)).count() > 0
    }

    /// When to poll again at the latest: a probe is due or overdue, or a share changes with time.
    pub fn next_ns(&self, now_ns: u64) -> u64 {
        let probes = self.pools.values().flat_map(|pool| pool.backends.values()).map(|backend| {
            let deadline_ns = backend.pending.map(|(_, deadline_ns)| deadline_ns);
            deadline_ns.unwrap_or(backend.due_ns)
        });
        let shares = self.pools.values().filter_map(|pool| pool.next_ns(now_ns));
        probes.chain(shares).min().unwrap_or(u64::MAX)
    }

    /// What is known of a backend; `None` if it is not checked.
    pub fn status(&self, pool: &PoolKey, backend: SocketAddr) -> Option<Status> {
        Some(self.pools.get(pool)?.backends.get(&backend)?.status)
    }

    /// The last changes of a backend's status, the oldest first.
    pub fn history(&self, pool: &PoolKey, backend: SocketAddr) -> Option<&VecDeque<Change>> {
        Some(&self.pools.get(pool)?.backends.get(&backend)?.history)
    }
}
