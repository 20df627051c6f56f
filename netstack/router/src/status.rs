//! What the router tells about itself.

use alloc::vec::Vec;
use core::net::IpAddr;

use config::{IpNet, MacAddress};
use dataplane::{GroupId, InterfaceId};
use fib::Prefix;

use crate::{
    InterfaceStatus, NeighbourStatus, NextHopStatus, RouteCursor, RouteStatus, Router, Source, TargetStatus,
    groups::{Group, NeighbourKey, Target},
    links::Link,
    neighbour::Neighbour,
    routes::{AnyPrefix, Family},
};

/// Routes in a page at most.
const MAX_PAGE: usize = 4096;

impl Router {
    /// Routes within a prefix, by prefix, then source; at most `limit` (and 4096), after the one that `after` names.
    #[must_use]
    pub fn routes(&self, within: IpNet, after: Option<RouteCursor>, limit: usize) -> Vec<RouteStatus> {
        let limit = limit.min(MAX_PAGE);
        let after = after.and_then(|(network, source)| Some((AnyPrefix::of(network)?, source)));
        match (AnyPrefix::of(within.trunc()), after) {
            (Some(AnyPrefix::V4(within)), Some((AnyPrefix::V4(after), source))) => {
                self.page(within, Some((after, source)), limit)
            }
            (Some(AnyPrefix::V4(within)), _) => self.page(within, None, limit),
            (Some(AnyPrefix::V6(within)), Some((AnyPrefix::V6(after), source))) => {
                self.page(within, Some((after, source)), limit)
            }
            (Some(AnyPrefix::V6(within)), _) => self.page(within, None, limit),
            (None, _) => Vec::new(),
        }
    }

    fn page<K: Family>(
        &self,
        within: Prefix<K>,
        after: Option<(Prefix<K>, Source)>,
        limit: usize,
    ) -> Vec<RouteStatus> {
        let page = K::rib(self).page(within, after, limit);
        page.into_iter().filter_map(|(prefix, source, id)| self.route_status(prefix, source, id)).collect()
    }

    /// The route that packets to `address` follow.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<RouteStatus> {
        match AnyPrefix::host(address)? {
            AnyPrefix::V4(prefix) => self.lookup_family(prefix.address()),
            AnyPrefix::V6(prefix) => self.lookup_family(prefix.address()),
        }
    }

    /// The address that this node asks `address` from: of the interface that leads there, in the same network if it can be.
    #[must_use]
    pub fn source_for(&self, address: IpAddr) -> Option<IpAddr> {
        let leaves_by = self.lookup(address).and_then(|route| match route.target {
            TargetStatus::Connected { interface } => Some(interface),
            TargetStatus::Via(hops) => hops.into_iter().find_map(|hop| hop.interface),
            TargetStatus::Local | TargetStatus::Blackhole => None,
        });
        let all =
            self.links.iter().flat_map(|(_, link)| link.addresses().map(move |network| (link, network)));
        let of_family = all.filter(|(_, network)| network.addr().is_ipv4() == address.is_ipv4());
        let distance = |(link, network): &(&Link, IpNet)| {
            (leaves_by.as_ref() != Some(&link.name), !network.contains(&address))
        };
        of_family.min_by_key(distance).map(|(_, network)| network.addr())
    }

    fn lookup_family<K: Family>(&self, address: K) -> Option<RouteStatus> {
        let rib = K::rib(self);
        let prefix = rib.longest(address, |prefix| self.selected(prefix).is_some())?;
        let (source, id) = self.selected(prefix)?;
        self.route_status(prefix, source, id)
    }

    /// The longest route in use that all of a prefix follows.
    pub(crate) fn covering_route<K: Family>(&self, prefix: Prefix<K>) -> Option<RouteStatus> {
        let covers = |route: Prefix<K>| route.len() <= prefix.len() && self.selected(route).is_some();
        let route = K::rib(self).longest(prefix.address(), covers)?;
        let (source, id) = self.selected(route)?;
        self.route_status(route, source, id)
    }

    fn route_status<K: Family>(&self, prefix: Prefix<K>, source: Source, id: GroupId) -> Option<RouteStatus> {
        let group = self.groups.get(id)?;
        let first = K::rib(self)
            .candidates(prefix)
            .find(|(_, candidate)| self.groups.get(*candidate).is_some_and(Group::is_usable));
        Some(RouteStatus {
            prefix: K::to_network(prefix),
            source,
            target: self.target_status(group),
            active: first.is_some_and(|(first, _)| first == source),
        })
    }

    fn target_status(&self, group: &Group) -> TargetStatus {
        match &*group.target {
            Target::Local => TargetStatus::Local,
            Target::Connected(interface) => {
                TargetStatus::Connected { interface: self.links.name(*interface) }
            }
            Target::Blackhole => TargetStatus::Blackhole,
            Target::Neighbour(key) => TargetStatus::Via([self.next_hop_status(*key, 1)].into()),
            Target::Via(hops) => {
                let member = |place: usize| group.members.get(place).copied().flatten();
                let hops = hops.iter().enumerate().map(|(place, hop)| match member(place) {
                    Some(key) => self.next_hop_status(key, hop.weight),
                    None => NextHopStatus {
                        address: Some(hop.address).filter(|address| !address.is_unspecified()),
                        interface: None,
                        weight: hop.weight,
                        resolved: false,
                    },
                });
                TargetStatus::Via(hops.collect())
            }
        }
    }

    fn next_hop_status(&self, key: NeighbourKey, weight: u16) -> NextHopStatus {
        NextHopStatus {
            address: Some(key.address).filter(|address| !address.is_unspecified()),
            interface: Some(self.links.name(key.interface)),
            weight,
            resolved: self.links.is_tunnel(key.interface)
                || self.neighbours.get(&key).is_some_and(Neighbour::is_resolved),
        }
    }

    /// Number of routes of a source, both families.
    #[must_use]
    pub fn route_count(&self, source: Source) -> usize {
        self.rib4.count(source) + self.rib6.count(source)
    }

    /// Changes that have not reached the workers yet.
    #[must_use]
    pub fn pending_changes(&self) -> usize {
        self.changes.len()
    }

    /// All neighbours, by interface and address.
    #[must_use]
    pub fn neighbours(&self, now_ns: u64) -> Vec<NeighbourStatus> {
        let neighbours = self.neighbours.iter().map(|(key, neighbour)| NeighbourStatus {
            interface: self.links.name(key.interface),
            address: key.address,
            mac: neighbour.is_resolved().then_some(MacAddress(neighbour.mac)),
            state: neighbour.state,
            is_router: neighbour.is_router,
            is_next_hop: neighbour.pinned > 0,
            age_ns: now_ns.saturating_sub(neighbour.changed_ns),
        });
        neighbours.collect()
    }

    /// How many there are.
    #[must_use]
    pub fn neighbour_count(&self) -> usize {
        self.neighbours.len()
    }

    /// All interfaces, by number.
    #[must_use]
    pub fn interfaces(&self) -> Vec<InterfaceStatus> {
        let interfaces = self.links.iter().map(|(id, link)| InterfaceStatus {
            id,
            name: link.name.clone(),
            mac: (!link.is_tunnel()).then(|| MacAddress(link.mac())),
            mtu: link.mtu(),
            enabled: link.settings.as_ref().is_some_and(|settings| settings.enabled),
            link_up: link.link_up,
            addresses: link.addresses().collect(),
            link_local: link.settings.as_ref().filter(|_| !link.is_tunnel()).map(|_| link.link_local()),
            duplicates: link.duplicates.clone(),
        });
        interfaces.collect()
    }

    /// The number of an interface.
    #[must_use]
    pub fn interface_id(&self, name: &str) -> Option<InterfaceId> {
        self.links.id(name)
    }
}
