//! Routes: taken, resolved to neighbours, chosen.

use alloc::{collections::BTreeMap, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use config::{IpNet, Ipv4Net, Ipv6Net};
use dataplane::GroupId;
use fib::{Key, Prefix, Writer};

use crate::{
    RouteError, Router, Source,
    changes::{Change, MAX_UNLINKED_BYTES, MAX_WAITING},
    groups::{Group, NeighbourKey, Target, Via},
    rib::Rib,
};

/// Stands for the address of a next hop at the other end of a tunnel.
pub(crate) const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// An address family.
pub(crate) trait Family: Key {
    fn rib(router: &Router) -> &Rib<Self>;
    fn rib_mut(router: &mut Router) -> &mut Rib<Self>;
    fn writer(router: &mut Router) -> &mut Writer<Self>;
    fn sync(prefix: Prefix<Self>) -> Change;
    fn to_network(prefix: Prefix<Self>) -> IpNet;
}

impl Family for u32 {
    fn rib(router: &Router) -> &Rib<Self> {
        &router.rib4
    }

    fn rib_mut(router: &mut Router) -> &mut Rib<Self> {
        &mut router.rib4
    }

    fn writer(router: &mut Router) -> &mut Writer<Self> {
        &mut router.fib4
    }

    fn sync(prefix: Prefix<Self>) -> Change {
        Change::Sync4(prefix)
    }

    fn to_network(prefix: Prefix<Self>) -> IpNet {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(prefix.address()), prefix.len()))
    }
}

impl Family for u128 {
    fn rib(router: &Router) -> &Rib<Self> {
        &router.rib6
    }

    fn rib_mut(router: &mut Router) -> &mut Rib<Self> {
        &mut router.rib6
    }

    fn writer(router: &mut Router) -> &mut Writer<Self> {
        &mut router.fib6
    }

    fn sync(prefix: Prefix<Self>) -> Change {
        Change::Sync6(prefix)
    }

    fn to_network(prefix: Prefix<Self>) -> IpNet {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(prefix.address()), prefix.len()))
    }
}

/// A prefix of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AnyPrefix {
    V4(Prefix<u32>),
    V6(Prefix<u128>),
}

impl AnyPrefix {
    /// None for lengths that no address has, which an [`IpNet`] does not have either.
    pub(crate) fn of(network: IpNet) -> Option<Self> {
        Some(match network {
            IpNet::V4(network) => Self::V4(Prefix::new(network.addr().to_bits(), network.prefix_len())?),
            IpNet::V6(network) => Self::V6(Prefix::new(network.addr().to_bits(), network.prefix_len())?),
        })
    }

    /// The prefix of just one address.
    pub(crate) fn host(address: IpAddr) -> Option<Self> {
        Self::of(IpNet::from(address))
    }
}

impl Router {
    /// Adds a route, or replaces the one for its prefix, on behalf of the API.
    ///
    /// # Errors
    /// [`RouteError`]; nothing has changed then. After [`RouteError::Busy`] the caller polls the router and tries again.
    pub fn set_route(&mut self, route: &config::Route) -> Result<(), RouteError> {
        self.check_not_busy()?;
        let target = self.target(route)?;
        if self.adjacencies.in_use() >= MAX_ADJACENCIES_OF_ROUTES {
            return Err(RouteError::TooManyGroups);
        }
        self.set(Source::Dynamic, route.prefix, target)
    }

    /// Removes a route that [`Router::set_route`] added; false if there is none.
    ///
    /// # Errors
    /// [`RouteError::Busy`] and [`RouteError::Memory`]; nothing has changed then.
    pub fn remove_route(&mut self, prefix: IpNet) -> Result<bool, RouteError> {
        self.check_not_busy()?;
        self.unset(Source::Dynamic, prefix)
    }

    /// Whether [`Router::set_route`] and [`Router::remove_route`] would refuse with [`RouteError::Busy`] now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.changes.len() >= MAX_WAITING || self.unlinked_bytes() >= MAX_UNLINKED_BYTES
    }

    fn check_not_busy(&self) -> Result<(), RouteError> {
        if self.is_busy() { Err(RouteError::Busy) } else { Ok(()) }
    }

    /// Where a route of the configuration or the API leads.
    pub(crate) fn target(&self, route: &config::Route) -> Result<Target, RouteError> {
        if route.blackhole {
            return Ok(Target::Blackhole);
        }
        let mut hops = Vec::with_capacity(route.via.len());
        for hop in &route.via {
            let is_other_family = |address: IpAddr| address.is_ipv4() != matches!(route.prefix, IpNet::V4(_));
            if hop.address.is_some_and(is_other_family) {
                return Err(RouteError::Invalid("the next hop is of another family than the prefix"));
            }
            let interface = hop
                .interface
                .as_ref()
                .map(|name| self.links.id(name).ok_or_else(|| RouteError::NoInterface(name.clone())));
            let interface = interface.transpose()?;
            let is_tunnel = interface.is_some_and(|interface| self.links.is_tunnel(interface));
            let address = match hop.address {
                // There is only one at the other end.
                _ if is_tunnel => NO_ADDRESS,
                Some(address) => address,
                None => {
                    return Err(RouteError::Invalid("only a tunnel does without an address of the next hop"));
                }
            };
            hops.push(Via { address, interface, weight: u16::from(hop.weight.max(1)) });
        }
        if hops.is_empty() || hops.len() > MAX_MEMBERS {
            return Err(RouteError::Invalid("a route has 1 to 16 next hops, or is a blackhole"));
        }
        hops.sort_unstable();
        hops.dedup_by_key(|hop| (hop.address, hop.interface));
        Ok(Target::Via(hops))
    }

    pub(crate) fn set(&mut self, source: Source, network: IpNet, target: Target) -> Result<(), RouteError> {
        match AnyPrefix::of(network) {
            Some(AnyPrefix::V4(prefix)) => self.set_prefix(source, prefix, target),
            Some(AnyPrefix::V6(prefix)) => self.set_prefix(source, prefix, target),
            None => Err(RouteError::Invalid("the prefix is too long")),
        }
    }

    pub(crate) fn unset(&mut self, source: Source, network: IpNet) -> Result<bool, RouteError> {
        match AnyPrefix::of(network) {
            Some(AnyPrefix::V4(prefix)) => self.unset_prefix(source, prefix),
            Some(AnyPrefix::V6(prefix)) => self.unset_prefix(source, prefix),
            None => Ok(false),
        }
    }

    fn set_prefix<K: Family>(
        &mut self,
        source: Source,
        prefix: Prefix<K>,
        target: Target,
    ) -> Result<(), RouteError> {
        let (id, is_new) = self.groups.acquire(target)?;
        if is_new {
            self.resolve_group(id);
        }
        let before = K::rib_mut(self).insert(source, prefix, id);
        let result = self.sync(prefix);
        if result.is_err() {
            let rib = K::rib_mut(self);
            let _ = match before {
                Some(before) => rib.insert(source, prefix, before),
                None => rib.remove(source, prefix),
            };
            self.release(id);
            return Err(RouteError::Memory);
        }
        if let Some(before) = before {
            self.release(before);
        }
        if source != Source::Neighbour {
            self.reconsider_neighbours_in(prefix);
        }
        Ok(())
    }

    fn unset_prefix<K: Family>(&mut self, source: Source, prefix: Prefix<K>) -> Result<bool, RouteError> {
        let Some(before) = K::rib_mut(self).remove(source, prefix) else { return Ok(false) };
        if self.sync(prefix).is_err() {
            let _ = K::rib_mut(self).insert(source, prefix, before);
            return Err(RouteError::Memory);
        }
        self.release(before);
        if source != Source::Neighbour {
            self.reconsider_neighbours_in(prefix);
        }
        Ok(true)
    }

    /// One route less for a group; the last one frees it, after the table changes before.
    fn release(&mut self, id: GroupId) {
        if self.groups.release(id) {
            self.changes.push(Change::FreeGroup(id));
        }
    }

    /// The route that packets for a prefix follow: the preferred route with a next hop on a link that is up.
    /// A dynamic route stays where none has one: its group then says "unreachable", and a million of them need not be
    /// taken out of the table when a link goes down and put back when it comes up.
    pub(crate) fn selected<K: Family>(&self, prefix: Prefix<K>) -> Option<(Source, GroupId)> {
        let usable = |id: GroupId| self.groups.get(id).is_some_and(Group::is_usable);
        let rib = K::rib(self);
        let preferred = rib.candidates(prefix).find(|(_, id)| usable(*id));
        preferred.or_else(|| Some((Source::Dynamic, *rib.routes(Source::Dynamic).get(&prefix)?)))
    }

    /// The route that packets for an address would follow if no neighbour had one.
    pub(crate) fn longest_but_neighbours<K: Family>(&self, address: K) -> Option<GroupId> {
        let rib = K::rib(self);
        let usable = |id: GroupId| self.groups.get(id).is_some_and(Group::is_usable);
        let prefixes = (0..=K::BITS).rev().filter_map(|len| Prefix::new(address, len));
        let chosen = |prefix| {
            let mut candidates = rib.candidates(prefix).filter(|(source, _)| *source != Source::Neighbour);
            candidates.find(|(source, id)| *source == Source::Dynamic || usable(*id))
        };
        prefixes.into_iter().find_map(chosen).map(|(_, id)| id)
    }

    /// Finds the neighbours that a group's next hops are.
    pub(crate) fn resolve_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.get(id) else { return };
        let mut members = Vec::new();
        if let Target::Via(hops) = &*group.target {
            for hop in hops {
                let explicit = hop.interface.filter(|interface| {
                    let link = self.links.get(*interface);
                    link.is_some_and(|link| link.is_up() && !link.owns(hop.address))
                });
                let interface =
                    if hop.interface.is_some() { explicit } else { self.links.towards(hop.address) };
                members.push(interface.map(|interface| {
                    let is_tunnel = self.links.is_tunnel(interface);
                    NeighbourKey { interface, address: if is_tunnel { NO_ADDRESS } else { hop.address } }
                }));
            }
        }
        let before = group.members.clone();
        if before != members {
            members.iter().flatten().for_each(|key| self.pin(*key));
            before.iter().flatten().for_each(|key| self.unpin(*key));
            if let Some(group) = self.groups.get_mut(id) {
                group.members = members;
            }
        }
        self.changes.mark_dirty();
    }

    /// Makes the routes of a source exactly these.
    pub(crate) fn replace_routes(&mut self, source: Source, wanted: Vec<(IpNet, Target)>) {
        let (mut wanted4, mut wanted6) = (BTreeMap::new(), BTreeMap::new());
        for (network, target) in wanted {
            match AnyPrefix::of(network) {
                Some(AnyPrefix::V4(prefix)) => drop(wanted4.insert(prefix, target)),
                Some(AnyPrefix::V6(prefix)) => drop(wanted6.insert(prefix, target)),
                None => {}
            }
        }
        self.replace_family(source, wanted4);
        self.replace_family(source, wanted6);
    }

    fn replace_family<K: Family>(&mut self, source: Source, wanted: BTreeMap<Prefix<K>, Target>) {
        let present: Vec<Prefix<K>> = K::rib(self).routes(source).keys().copied().collect();
        for prefix in present.into_iter().filter(|prefix| !wanted.contains_key(prefix)) {
            if let Err(error) = self.unset_prefix(source, prefix) {
                log::error!("route {} stays: {error}", K::to_network(prefix));
            }
        }
        for (prefix, target) in wanted {
            let present = K::rib(self).routes(source).get(&prefix).and_then(|id| self.groups.get(*id));
            if present.is_some_and(|group| *group.target == target) {
                continue;
            }
            if let Err(error) = self.set_prefix(source, prefix, target) {
                log::error!("route {} is left out: {error}", K::to_network(prefix));
            }
        }
    }

    /// Chooses anew for every prefix that has a route of another source than the API.
    pub(crate) fn select_again(&mut self) {
        self.select_family::<u32>();
        self.select_family::<u128>();
    }

    fn select_family<K: Family>(&mut self) {
        for source in [Source::Connected, Source::Static, Source::Dhcp] {
            let prefixes: Vec<Prefix<K>> = K::rib(self).routes(source).keys().copied().collect();
            for prefix in prefixes {
                if let Err(error) = self.sync(prefix) {
                    log::error!("route {} is not in the table: {error}", K::to_network(prefix));
                }
            }
        }
    }
}

/// Adjacencies beyond which no route is taken; what remains is for neighbours and interfaces.
const MAX_ADJACENCIES_OF_ROUTES: usize = dataplane::MAX_ADJACENCIES / 2;
/// Next hops that a route may have.
const MAX_MEMBERS: usize = 16;
