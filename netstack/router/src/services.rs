//! What services need of the router: their addresses answered for on the networks they are in, and known MAC addresses of
//! the backends that packets are brought to by the link layer.

use alloc::collections::BTreeSet;
use core::net::{IpAddr, Ipv6Addr};

use crate::{
    Router,
    groups::NeighbourKey,
    links::{Link, Probe},
    nd,
};

/// Addresses of services, and backends.
#[derive(Default)]
pub(crate) struct Services {
    addresses: BTreeSet<IpAddr>,
    backends: BTreeSet<IpAddr>,
    /// Backends' entries in the neighbour table.
    pinned: BTreeSet<NeighbourKey>,
}

impl Services {
    /// True if somebody on this link who asks for the address is to be told this node.
    pub(crate) fn are_at(&self, link: &Link, address: IpAddr) -> bool {
        self.addresses.contains(&address) && link.is_on_link(address)
    }

    /// True for the address of a service.
    pub(crate) fn have(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// The groups to join on a link, so that requests for addresses come.
    pub(crate) fn groups_of<'a>(&'a self, link: &'a Link) -> impl Iterator<Item = Ipv6Addr> + 'a {
        let here = self.addresses.iter().filter(|address| link.is_on_link(**address));
        here.filter_map(|address| match address {
            IpAddr::V6(address) => Some(nd::solicited_node(*address)),
            IpAddr::V4(_) => None,
        })
    }
}

impl Router {
    /// Tells the router about services: for `addresses`, where they are in a network of an interface, requests by ARP and
    /// neighbour discovery are answered, and new ones are announced; `backends` are kept resolved. What was told before is
    /// forgotten.
    pub fn set_services(&mut self, addresses: BTreeSet<IpAddr>, backends: BTreeSet<IpAddr>, now_ns: u64) {
        self.now_ns = now_ns;
        let new: BTreeSet<IpAddr> = addresses.difference(&self.services.addresses).copied().collect();
        if addresses != self.services.addresses {
            self.changes.mark_dirty();
        }
        (self.services.addresses, self.services.backends) = (addresses, backends);
        self.listen(now_ns);
        self.announce_services(&new, now_ns);
        self.pin_backends();
    }

    /// Has those of some addresses announced that are in networks of links which are up.
    fn announce_services(&mut self, addresses: &BTreeSet<IpAddr>, now_ns: u64) {
        for id in self.links.ids() {
            let Some(link) = self.links.get_mut(id).filter(|link| link.is_up() && !link.is_tunnel()) else {
                continue;
            };
            let here: BTreeSet<IpAddr> =
                addresses.iter().filter(|address| link.is_on_link(**address)).copied().collect();
            for address in here {
                // Other nodes may have the same one: nobody is asked whether it is free.
                let left = if address.is_ipv4() { 2 } else { 1 };
                let _ = link.probing.insert(address, Probe { left, due_ns: now_ns });
            }
        }
        self.links_due_ns = self.links.due_ns();
    }

    /// Links or addresses have changed; `came_up`: a link is up that was not.
    pub(crate) fn refresh_services(&mut self, came_up: bool, now_ns: u64) {
        if came_up {
            let all = self.services.addresses.clone();
            self.announce_services(&all, now_ns);
        }
        self.pin_backends();
    }

    /// Keeps the backends resolved that are neighbours, and lets go of those that are none any more.
    fn pin_backends(&mut self) {
        let links = &self.links;
        let neighbour =
            |address: &IpAddr| Some(NeighbourKey { interface: links.towards(*address)?, address: *address });
        let wanted: BTreeSet<NeighbourKey> = self.services.backends.iter().filter_map(neighbour).collect();
        let before = core::mem::take(&mut self.services.pinned);
        before.difference(&wanted).for_each(|key| self.unpin(*key));
        for key in &wanted {
            let is_there = self.neighbours.get(key).is_some_and(|neighbour| neighbour.pinned > 0);
            if !before.contains(key) || !is_there {
                self.pin(*key);
            }
        }
        self.services.pinned = wanted;
    }
}
