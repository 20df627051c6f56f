//! Where routes lead: each different target is one next-hop group, counted by the routes that use it.
//!
//! A group's number is what route tables hold. It is given again only after a number of steps: no route uses it, the
//! route tables no longer name it, and every worker has moved on since.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};
use core::net::IpAddr;

use dataplane::{AdjacencyId, GroupId, InterfaceId, NextHopGroup};

use crate::{RouteError, adjacencies::UNREACHABLE, buckets};

/// Names a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NeighbourKey {
    pub(crate) interface: InterfaceId,
    pub(crate) address: IpAddr,
}

/// A next hop, as a route names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Via {
    pub(crate) address: IpAddr,
    /// None: the one whose network the address is in.
    pub(crate) interface: Option<InterfaceId>,
    pub(crate) weight: u16,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Local,
    Connected(InterfaceId),
    Blackhole,
    /// A neighbour on a connected network; its group does not keep it.
    Neighbour(NeighbourKey),
    /// Sorted, each next hop once.
    Via(Vec<Via>),
}

/// A target that is in use.
pub(crate) struct Group {
    pub(crate) target: Arc<Target>,
    /// For each next hop of a [`Target::Via`] the neighbour it is, if it is on a link which is up.
    pub(crate) members: Vec<Option<NeighbourKey>>,
    /// Generation of the tables that have it; workers must have reached that before a route may name it.
    pub(crate) ready: Option<u64>,
    routes: u64,
    /// For several next hops: which of them each bucket belongs to while all are well.
    buckets: Vec<usize>,
}

/// All groups.
pub(crate) struct Groups {
    ids: BTreeMap<Arc<Target>, GroupId>,
    groups: Vec<Option<Group>>,
    free: Vec<GroupId>,
    retired: VecDeque<(u64, GroupId)>,
    limit: usize,
}

impl Groups {
    pub(crate) fn new(limit: usize) -> Self {
        // Group 0 is "no route".
        Self {
            ids: BTreeMap::new(),
            groups: [None].into(),
            free: Vec::new(),
            retired: VecDeque::new(),
            limit,
        }
    }

    /// The group for `target`, with one more route; and whether it is new, so that its members have to be found.
    pub(crate) fn acquire(&mut self, target: Target) -> Result<(GroupId, bool), RouteError> {
        if let Some(id) = self.ids.get(&target).copied() {
            self.add_route(id);
            return Ok((id, false));
        }
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.groups.len() > self.limit => return Err(RouteError::TooManyGroups),
            None => {
                self.groups.push(None);
                GroupId(self.groups.len() as u32 - 1)
            }
        };
        let buckets = match &target {
            Target::Via(hops) if hops.len() > 1 => {
                let hops: Vec<_> = hops.iter().map(|hop| (hop.identity(), hop.weight)).collect();
                buckets::share(&hops)
            }
            _ => Vec::new(),
        };
        let target = Arc::new(target);
        let _ = self.ids.insert(target.clone(), id);
        self.groups[id.0 as usize] =
            Some(Group { target, members: Vec::new(), ready: None, routes: 1, buckets });
        Ok((id, true))
    }

    fn add_route(&mut self, id: GroupId) {
        if let Some(group) = self.get_mut(id) {
            group.routes += 1;
        }
    }

    /// One route less; true if that was the last.
    pub(crate) fn release(&mut self, id: GroupId) -> bool {
        self.get_mut(id).is_some_and(|group| {
            group.routes = group.routes.saturating_sub(1);
            group.routes == 0
        })
    }

    /// Removes a group that still has no route, after which its number rests until [`Groups::reclaim`].
    pub(crate) fn remove(&mut self, id: GroupId, generation: u64) -> Option<Group> {
        let slot = self.groups.get_mut(id.0 as usize)?;
        let group = slot.take_if(|group| group.routes == 0)?;
        let _ = self.ids.remove(&group.target);
        self.retired.push_back((generation, id));
        Some(group)
    }

    /// Gives numbers free that were removed before all workers reached this generation.
    pub(crate) fn reclaim(&mut self, safe_generation: u64) {
        while let Some((_, id)) = self.retired.pop_front_if(|(generation, _)| *generation <= safe_generation)
        {
            self.free.push(id);
        }
    }

    /// Whether a group leads to this interface.
    pub(crate) fn names_interface(&self, id: InterfaceId) -> bool {
        self.groups.iter().flatten().any(|group| match &*group.target {
            Target::Connected(interface) => *interface == id,
            Target::Neighbour(key) => key.interface == id,
            Target::Via(hops) => hops.iter().any(|hop| hop.interface == Some(id)),
            Target::Local | Target::Blackhole => false,
        })
    }

    pub(crate) fn get(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups.get_mut(id.0 as usize)?.as_mut()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = GroupId> {
        let used = self.groups.iter().enumerate().filter(|(_, group)| group.is_some());
        used.map(|(index, _)| GroupId(index as u32))
    }

    /// Number of groups in use.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Notes that tables with all present groups are published as `generation`.
    pub(crate) fn published(&mut self, generation: u64) {
        for group in self.groups.iter_mut().flatten().filter(|group| group.ready.is_none()) {
            group.ready = Some(generation);
        }
    }

    /// All groups for the tables. `next_hops` gives the adjacency of each next hop of one, if it can be used.
    pub(crate) fn compile(
        &self,
        next_hops: impl Fn(&Group) -> Vec<Option<AdjacencyId>>,
    ) -> Vec<NextHopGroup> {
        let compile = |group: &Group| group.compile(&next_hops(group));
        self.groups.iter().map(|group| group.as_ref().map_or_else(NextHopGroup::default, compile)).collect()
    }
}

impl Via {
    /// A number that stands for it.
    fn identity(&self) -> u64 {
        let address = match self.address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let interface = self.interface.map_or(u64::MAX, |id| u64::from(id.0));
        buckets::mix(buckets::mix(address as u64) ^ (address >> 64) as u64) ^ buckets::mix(interface)
    }
}

impl Group {
    /// Whether packets that follow it may arrive somewhere.
    pub(crate) fn is_usable(&self) -> bool {
        !matches!(&*self.target, Target::Via(_)) || self.members.iter().any(Option::is_some)
    }

    fn compile(&self, next_hops: &[Option<AdjacencyId>]) -> NextHopGroup {
        let Target::Via(hops) = &*self.target else {
            return NextHopGroup::single(next_hops.first().copied().flatten().unwrap_or(UNREACHABLE));
        };
        let alive: Vec<(AdjacencyId, u16)> = next_hops
            .iter()
            .zip(hops)
            .filter_map(|(adjacency, hop)| Some(((*adjacency)?, hop.weight)))
            .collect();
        match *alive.as_slice() {
            [] => NextHopGroup::single(UNREACHABLE),
            [(only, _)] => NextHopGroup::single(only),
            _ => {
                let owners: Vec<_> =
                    self.buckets.iter().map(|hop| next_hops.get(*hop).copied().flatten()).collect();
                let buckets = buckets::fill(&owners, &alive);
                NextHopGroup { next_hops: buckets.into_iter().map(|adjacency| (adjacency, 1)).collect() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_again_only_when_nobody_uses_it() {
        let mut groups = Groups::new(3);
        let connected = |n| Target::Connected(InterfaceId(n));
        let (first, new) = groups.acquire(connected(1)).unwrap();
        assert!(new && first != GroupId(0));
        assert_eq!(groups.acquire(connected(1)), Ok((first, false)));
        assert!(!groups.release(first) && groups.release(first));
        assert_eq!(groups.acquire(connected(1)), Ok((first, false)), "taken up again");
        assert!(groups.remove(first, 5).is_none());
        assert!(groups.release(first) && groups.remove(first, 5).is_some());
        let (second, _) = groups.acquire(connected(1)).unwrap();
        assert_ne!(second, first, "still resting");
        groups.reclaim(4);
        let (third, _) = groups.acquire(connected(3)).unwrap();
        assert_eq!(groups.acquire(connected(4)), Err(RouteError::TooManyGroups));
        groups.reclaim(5);
        assert_eq!(groups.acquire(connected(4)), Ok((first, true)));
        assert!(third != second && groups.len() == 3);
    }
}
