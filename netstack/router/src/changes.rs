//! How a change reaches the workers, in order:
//!
//! 1. what changed is compiled into tables and published as a new generation;
//! 2. when every worker has reached that generation, routes to groups that are new in it may enter the route tables;
//! 3. groups that no route uses any more are removed, and what the route tables unlinked is retired, with the then next
//!    generation; when every worker has reached it, numbers and memory are used again.
//!
//! So a worker never meets a group number in a route table that its tables do not have, or have for something else.

use alloc::collections::{BTreeSet, VecDeque};

use buffer::Buf;
use dataplane::{GroupId, Tables};
use fib::Prefix;

use crate::{
    NeighbourState, Output, Router,
    adjacencies::{BLACKHOLE, LOCAL},
    groups::{Group, NeighbourKey, Target},
    routes::{AnyPrefix, Family},
};

/// Changes that may wait before bulk changes are refused.
pub(crate) const MAX_WAITING: usize = 65_536;
/// Changes done in one poll.
const CHANGES_PER_POLL: usize = 16_384;
/// Route changes after which unlinked memory is offered for reuse.
const RECLAIM_EVERY: u32 = 1024;
/// Unlinked memory above which bulk changes are refused until workers have moved on.
pub(crate) const MAX_UNLINKED_BYTES: usize = 16 << 20;
/// How soon to look again whether workers have moved on.
const SETTLE_NS: u64 = 50_000;
/// Least time between tables for each of their rows: compiling them must not take all of control's time.
const NS_PER_ROW: u64 = 200;

/// A step that waits for its turn.
pub(crate) enum Change {
    /// Bring the table into line with the routes of a prefix.
    Sync4(Prefix<u32>),
    Sync6(Prefix<u128>),
    /// Remove a group if no route uses it.
    FreeGroup(GroupId),
    /// Route a packet again that waited for its neighbour.
    Release(Release),
}

/// A packet that waits for the tables to know its neighbour.
pub(crate) struct Release {
    packet: Buf,
    is_ipv6: bool,
    /// Number of the publication that has the neighbour, and its generation once that is known: later ones need not
    /// be waited for, or it would wait for ever while tables change all the time.
    publication: u64,
    generation: Option<u64>,
}

/// What waits to reach the workers.
pub(crate) struct Changes {
    waiting: VecDeque<Change>,
    /// The tables are not what was published last.
    dirty: bool,
    published: u64,
    publications: u64,
    /// When tables may be published next.
    publish_ns: u64,
    /// A generation that every worker is known to have reached.
    safe: u64,
    route_changes: u32,
    /// Prefixes whose new routes found no memory. They are tried again when routes went and what they took has come back.
    failed: BTreeSet<AnyPrefix>,
    routes_went: bool,
}

impl Changes {
    pub(crate) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            dirty: true,
            published: 0,
            publications: 0,
            publish_ns: 0,
            safe: 0,
            route_changes: 0,
            failed: BTreeSet::new(),
            routes_went: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.waiting.push_back(change);
    }

    /// Has a packet routed again when workers have the tables as they are now.
    pub(crate) fn release(&mut self, packet: Buf, is_ipv6: bool) {
        let publication = self.publications + u64::from(self.dirty);
        self.push(Change::Release(Release { packet, is_ipv6, publication, generation: None }));
    }

    /// Keeps the tables as they are until then.
    pub(crate) fn hold(&mut self, until_ns: u64) {
        self.publish_ns = self.publish_ns.max(until_ns);
    }

    pub(crate) fn deadline_ns(&self, now_ns: u64) -> Option<u64> {
        if self.dirty {
            Some(self.publish_ns)
        } else {
            (!self.waiting.is_empty()).then_some(now_ns + SETTLE_NS)
        }
    }
}

impl Router {
    /// Publishes what has changed, and enters and removes the routes that may be: the last part of [`Router::poll`].
    pub fn apply_changes(&mut self, now_ns: u64) {
        if self.changes.dirty && now_ns >= self.changes.publish_ns {
            self.publish(now_ns);
        }
        self.changes.safe = self.shared.quiescent_generation();
        for _ in 0..CHANGES_PER_POLL {
            let Some(change) = self.changes.waiting.pop_front() else { break };
            if let Err(change) = self.apply(change) {
                self.changes.waiting.push_front(change);
                break;
            }
        }
        self.reclaim();
        self.try_again();
    }

    /// Compiles and publishes the tables.
    fn publish(&mut self, now_ns: u64) {
        let rows = (self.adjacencies.len() + self.groups.len()) as u64;
        self.changes.publish_ns = now_ns + rows * NS_PER_ROW;
        self.changes.dirty = false;
        let (neighbours, gleans, links) = (&self.neighbours, &self.gleans, &self.links);
        let next_hops = |group: &Group| match &*group.target {
            Target::Local => [Some(LOCAL)].into(),
            Target::Blackhole => [Some(BLACKHOLE)].into(),
            Target::Connected(interface) => [gleans.get(interface).copied()].into(),
            Target::Neighbour(key) => [neighbours.get(key).and_then(|neighbour| neighbour.adjacency)].into(),
            Target::Via(_) => {
                let adjacency = |key: &Option<NeighbourKey>| {
                    let interface = (*key)?.interface;
                    if links.is_tunnel(interface) {
                        return gleans.get(&interface).copied();
                    }
                    let neighbour = neighbours.get(&(*key)?)?;
                    if neighbour.state == NeighbourState::Failed { None } else { neighbour.adjacency }
                };
                group.members.iter().map(adjacency).collect()
            }
        };
        let groups = self.groups.compile(next_hops);
        match Tables::new(self.links.compile(&self.services), &self.adjacencies.compile(), &groups) {
            Ok(tables) => {
                self.changes.published = self.shared.publish(tables);
                self.changes.publications += 1;
                self.groups.published(self.changes.published);
            }
            Err(error) => log::error!("the dataplane refused its tables: {error}"),
        }
    }

    /// Does a change; it comes back if it has to wait.
    fn apply(&mut self, mut change: Change) -> Result<(), Change> {
        let done = match &mut change {
            Change::Sync4(prefix) => self.sync_now(*prefix),
            Change::Sync6(prefix) => self.sync_now(*prefix),
            Change::FreeGroup(id) => {
                self.free_group(*id);
                Ok(true)
            }
            Change::Release(release) => Ok(self.may_release(release)),
        };
        match (done, change) {
            (Ok(false), change) => Err(change),
            (Ok(true), Change::Release(Release { packet, is_ipv6, .. })) => {
                self.waiting = self.waiting.saturating_sub(1);
                self.output(if is_ipv6 { Output::Forward6(packet) } else { Output::Forward4(packet) });
                Ok(())
            }
            (Ok(true), _) => Ok(()),
            (Err(error), change) => {
                self.try_later(&change, error);
                Ok(())
            }
        }
    }

    /// Keeps a route for which there is no memory now. Nothing of its prefix is in the table.
    fn try_later(&mut self, change: &Change, error: fib::Error) {
        if self.changes.failed.is_empty() {
            log::error!("routes are not in the table: {error}");
        }
        let _ = match change {
            Change::Sync4(prefix) => self.changes.failed.insert(AnyPrefix::V4(*prefix)),
            Change::Sync6(prefix) => self.changes.failed.insert(AnyPrefix::V6(*prefix)),
            Change::FreeGroup(_) | Change::Release(_) => false,
        };
    }

    /// Tries routes again that found no memory, once what other routes took has come back.
    fn try_again(&mut self) {
        if !self.changes.routes_went || self.changes.failed.is_empty() || self.unlinked_bytes() > 0 {
            return;
        }
        self.changes.routes_went = false;
        for prefix in core::mem::take(&mut self.changes.failed) {
            self.changes.push(match prefix {
                AnyPrefix::V4(prefix) => Change::Sync4(prefix),
                AnyPrefix::V6(prefix) => Change::Sync6(prefix),
            });
        }
    }

    fn may_release(&self, release: &mut Release) -> bool {
        let is_published = self.changes.publications >= release.publication;
        is_published && *release.generation.get_or_insert(self.changes.published) <= self.changes.safe
    }

    fn free_group(&mut self, id: GroupId) {
        let generation = self.shared.advance();
        let Some(group) = self.groups.remove(id, generation) else { return };
        for key in group.members.into_iter().flatten() {
            self.unpin(key);
        }
        self.changes.dirty = true;
    }

    /// Brings the table into line with the routes of `prefix`, now or when it may be.
    pub(crate) fn sync<K: Family>(&mut self, prefix: Prefix<K>) -> Result<(), fib::Error> {
        if self.changes.waiting.is_empty() && self.sync_now(prefix)? {
            return Ok(());
        }
        self.changes.push(K::sync(prefix));
        Ok(())
    }

    /// False: the group is not known to all workers yet, or memory must come back first.
    fn sync_now<K: Family>(&mut self, prefix: Prefix<K>) -> Result<bool, fib::Error> {
        let group = self.selected(prefix).map(|(_, id)| id);
        if let Some(id) = group {
            let ready = self.groups.get(id).and_then(|group| group.ready);
            if ready.is_none_or(|generation| generation > self.changes.safe) {
                return Ok(false);
            }
        }
        let writer = K::writer(self);
        let result = match group {
            Some(id) => writer.insert(prefix, id.0),
            None => writer.remove(prefix),
        };
        match result {
            Ok(before) => self.changes.routes_went |= before.is_some() && group.is_none(),
            // What is in the table can be replaced and removed as soon as unlinked memory has come back. Not to wait
            // would leave it there, with the number of a group that is used for something else.
            Err(fib::Error::Memory) if writer.get(prefix).is_some() => return Ok(false),
            Err(error) => return Err(error),
        }
        self.changes.route_changes += 1;
        if self.changes.route_changes.is_multiple_of(RECLAIM_EVERY) {
            self.reclaim();
        }
        Ok(true)
    }

    /// Offers what the route tables unlinked for reuse, and uses again what no worker can see any more.
    fn reclaim(&mut self) {
        if self.unlinked_bytes() > 0 {
            let generation = self.shared.advance();
            self.fib4.retire(generation);
            self.fib6.retire(generation);
        }
        let safe = self.shared.quiescent_generation();
        self.changes.safe = safe;
        self.fib4.reclaim(safe);
        self.fib6.reclaim(safe);
        self.groups.reclaim(safe);
    }

    pub(crate) fn unlinked_bytes(&self) -> usize {
        self.fib4.memory().unlinked_bytes + self.fib6.memory().unlinked_bytes
    }
}
