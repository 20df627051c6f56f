//! The neighbour table: bounded, with packets that wait.

use alloc::vec::Vec;
use core::net::IpAddr;

use buffer::Buf;
use config::IpNet;
use dataplane::{Adjacency, AdjacencyId, DropReason, InterfaceId};
use fib::Prefix;

use crate::{
    NeighbourState, Router, RouterDrop, Source,
    adjacencies::Owner,
    arp,
    groups::{NeighbourKey, Target},
    nd,
    neighbour::{Action, Advertised, Neighbour},
    routes::{AnyPrefix, Family},
};

/// Neighbours whose timers are looked at in one poll.
const TIMERS_PER_POLL: usize = 4096;
/// How often forgettable neighbours are searched for at most.
const SEARCH_INTERVAL_NS: u64 = 100_000_000;
/// Bytes of a packet's header that hold its destination: that of IPv6.
const HEADER_BYTES: usize = 40;

impl Router {
    /// A packet came to a neighbour that is not resolved, by this adjacency.
    pub(crate) fn resolve_for(&mut self, packet: Buf, adjacency: AdjacencyId, now_ns: u64) {
        if let Err((reason, packets)) = self.hold(packet, adjacency, now_ns) {
            self.count_drops(reason, packets);
        }
        self.expire_neighbours(now_ns);
    }

    /// Keeps a packet until its neighbour is known. Err: why packets, this one or one that waited longer, are dropped.
    fn hold(&mut self, packet: Buf, adjacency: AdjacencyId, now_ns: u64) -> Result<(), (RouterDrop, usize)> {
        const NOT_ON_LINK: (RouterDrop, usize) = (RouterDrop::NotOnLink, 1);
        let (destination, is_ipv6) = destination(&packet).ok_or(NOT_ON_LINK)?;
        let (key, is_next_hop) = match self.adjacencies.owner(adjacency) {
            Owner::Neighbour(key) => (key, true),
            Owner::Interface(interface) => (NeighbourKey { interface, address: destination }, false),
            Owner::Nobody => return Err(NOT_ON_LINK),
        };
        if !self.neighbours.contains_key(&key) {
            let link = self.links.get(key.interface);
            if !link.is_some_and(|link| link.is_up() && link.is_on_link(key.address)) {
                return Err(NOT_ON_LINK);
            }
            if self.incomplete >= self.limits.incomplete || !self.make_room(now_ns) {
                return Err((RouterDrop::TooManyNeighbours, 1));
            }
            self.add_neighbour(key, now_ns);
        }
        let limits = self.limits;
        let has_route = is_next_hop || self.has_host_route(key);
        let neighbour = self.neighbours.get_mut(&key).ok_or(NOT_ON_LINK)?;
        match neighbour.state {
            NeighbourState::Failed => return Err((RouterDrop::NoAnswer, 1)),
            NeighbourState::Incomplete => {
                let mut dropped = 0;
                if neighbour.waiting.len() >= limits.waiting_per_neighbour && !neighbour.waiting.is_empty() {
                    // RFC 4861 §7.2.2: the oldest gives way.
                    drop(neighbour.waiting.remove(0));
                    self.waiting = self.waiting.saturating_sub(1);
                    dropped += 1;
                }
                if self.waiting < limits.waiting {
                    neighbour.waiting.push((packet, is_ipv6));
                    self.waiting += 1;
                } else {
                    dropped += 1;
                }
                if dropped > 0 {
                    return Err((RouterDrop::QueueFull, dropped));
                }
            }
            _ if self.waiting >= limits.waiting => return Err((RouterDrop::QueueFull, 1)),
            // It has been resolved since the packet was punted; but without a route to it the packet would come again.
            _ if has_route => {
                self.waiting += 1;
                self.changes.release(packet, is_ipv6);
            }
            _ => return Err(NOT_ON_LINK),
        }
        Ok(())
    }

    /// Sees to it that one more neighbour may be kept; those of routes and of the configuration are not counted as others'.
    pub(crate) fn make_room(&mut self, now_ns: u64) -> bool {
        if self.neighbours.len() < self.limits.neighbours {
            return true;
        }
        if now_ns < self.search_ns {
            return false;
        }
        self.search_ns = now_ns + SEARCH_INTERVAL_NS;
        let expendable = self.neighbours.iter().filter(|(_, neighbour)| neighbour.is_expendable());
        let mut expendable: Vec<_> =
            expendable.map(|(key, neighbour)| (neighbour.changed_ns, *key)).collect();
        expendable.sort_unstable();
        let count = (self.limits.neighbours / 16).max(1);
        expendable.into_iter().take(count).for_each(|(_, key)| self.forget(key));
        self.neighbours.len() < self.limits.neighbours
    }

    /// Whether one that nobody asked for may be learned: they may fill half of the table.
    pub(crate) fn may_learn(&self) -> bool {
        self.neighbours.len() < self.limits.neighbours / 2
    }

    /// Begins to resolve a neighbour.
    pub(crate) fn add_neighbour(&mut self, key: NeighbourKey, now_ns: u64) {
        let _ = self.neighbours.insert(key, Neighbour::incomplete(now_ns));
        self.incomplete += 1;
        self.arm(key);
    }

    /// A group has this next hop.
    pub(crate) fn pin(&mut self, key: NeighbourKey) {
        if self.links.is_tunnel(key.interface) {
            return;
        }
        if !self.neighbours.contains_key(&key) {
            self.add_neighbour(key, self.now_ns);
        }
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        neighbour.pinned += 1;
        self.give_adjacency(key);
    }

    /// A group no longer has this next hop.
    pub(crate) fn unpin(&mut self, key: NeighbourKey) {
        if let Some(neighbour) = self.neighbours.get_mut(&key) {
            neighbour.pinned = neighbour.pinned.saturating_sub(1);
        }
    }

    fn give_adjacency(&mut self, key: NeighbourKey) {
        let Some(neighbour) = self.neighbours.get_mut(&key).filter(|neighbour| neighbour.adjacency.is_none())
        else {
            return;
        };
        let adjacency = adjacency_of(key.interface, neighbour);
        neighbour.adjacency = Some(self.adjacencies.add(Owner::Neighbour(key), adjacency));
        self.changes.mark_dirty();
    }

    /// A neighbour may have changed: brings its adjacency, its host route and its timer into line, and lets packets go that
    /// wait for no longer.
    pub(crate) fn settle(&mut self, key: NeighbourKey, was_incomplete: bool) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let is_incomplete = neighbour.state == NeighbourState::Incomplete;
        match (was_incomplete, is_incomplete) {
            (true, false) => self.incomplete = self.incomplete.saturating_sub(1),
            (false, true) => self.incomplete += 1,
            _ => {}
        }
        self.arm(key);
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let adjacency = adjacency_of(key.interface, neighbour);
        if let Some(id) = neighbour.adjacency
            && self.adjacencies.set(id, adjacency)
        {
            self.changes.mark_dirty();
        }
        if !is_incomplete {
            let waiting = core::mem::take(&mut neighbour.waiting);
            self.give_adjacency(key);
            self.keep_host_route(key);
            for (packet, is_ipv6) in waiting {
                self.changes.release(packet, is_ipv6);
            }
        }
    }

    /// Packets to a neighbour on a connected network follow a route of its own, unless another route is meant for them: a
    /// neighbour says who it is, not what is routed where.
    fn keep_host_route(&mut self, key: NeighbourKey) {
        let is_wanted = self.links.towards(key.address) == Some(key.interface) && self.follows_connected(key);
        let network = IpNet::from(key.address);
        let result = match (is_wanted, self.has_host_route(key)) {
            (true, false) => self.set(Source::Neighbour, network, Target::Neighbour(key)),
            (false, true) => self.unset(Source::Neighbour, network).map(drop),
            _ => Ok(()),
        };
        if let Err(error) = result {
            log::error!("the route of neighbour {} cannot be changed: {error}", key.address);
        }
    }

    /// Whether packets for a neighbour, if it had no route of its own, would follow its interface's network.
    fn follows_connected(&self, key: NeighbourKey) -> bool {
        let group = match AnyPrefix::host(key.address) {
            Some(AnyPrefix::V4(host)) => self.longest_but_neighbours(host.address()),
            Some(AnyPrefix::V6(host)) => self.longest_but_neighbours(host.address()),
            None => None,
        };
        group
            .and_then(|id| self.groups.get(id))
            .is_some_and(|group| *group.target == Target::Connected(key.interface))
    }

    /// The routes of a prefix changed: those of neighbours inside may have to come or go. Only networks within connected
    /// ones matter.
    pub(crate) fn reconsider_neighbours_in<K: Family>(&mut self, prefix: Prefix<K>) {
        let connected = K::rib(self).covering(Source::Connected, prefix);
        let leads_to = |id| match self.groups.get(id).map(|group| &*group.target) {
            Some(Target::Connected(interface)) => Some(*interface),
            _ => None,
        };
        let mut interfaces: Vec<InterfaceId> = connected.filter_map(leads_to).collect();
        interfaces.dedup();
        let first = K::to_network(prefix).network();
        let last = K::to_network(prefix).broadcast();
        for interface in interfaces {
            let range =
                NeighbourKey { interface, address: first }..=NeighbourKey { interface, address: last };
            let keys: Vec<_> = self.neighbours.range(range).map(|(key, _)| *key).collect();
            keys.into_iter().for_each(|key| self.reconsider_neighbour(key));
        }
    }

    /// The same for all of them.
    pub(crate) fn reconsider_neighbours(&mut self) {
        let keys: Vec<_> = self.neighbours.keys().copied().collect();
        keys.into_iter().for_each(|key| self.reconsider_neighbour(key));
    }

    fn reconsider_neighbour(&mut self, key: NeighbourKey) {
        if self.neighbours.get(&key).is_some_and(|neighbour| neighbour.state != NeighbourState::Incomplete) {
            self.keep_host_route(key);
        }
    }

    fn has_host_route(&self, key: NeighbourKey) -> bool {
        let group = match AnyPrefix::host(key.address) {
            Some(AnyPrefix::V4(prefix)) => self.rib4.routes(Source::Neighbour).get(&prefix),
            Some(AnyPrefix::V6(prefix)) => self.rib6.routes(Source::Neighbour).get(&prefix),
            None => None,
        };
        let group = group.and_then(|id| self.groups.get(*id));
        group.is_some_and(|group| *group.target == Target::Neighbour(key))
    }

    /// Removes a neighbour, or, if routes need it, what is known of it.
    pub(crate) fn forget(&mut self, key: NeighbourKey) {
        if self.has_host_route(key)
            && let Err(error) = self.unset(Source::Neighbour, IpNet::from(key.address))
        {
            log::error!("the route of neighbour {} stays: {error}", key.address);
        }
        let Some(neighbour) = self.neighbours.remove(&key) else { return };
        let _ = self.timers.remove(&(neighbour.armed_ns, key));

        self.waiting = self.waiting.saturating_sub(neighbour.waiting.len());
        self.count_drops(RouterDrop::Forgotten, neighbour.waiting.len());
        if neighbour.state == NeighbourState::Incomplete {
            self.incomplete = self.incomplete.saturating_sub(1);
        }
        if let Some(adjacency) = neighbour.adjacency {
            self.adjacencies.remove(adjacency);
            self.changes.mark_dirty();
        }
        for _ in 0..neighbour.pinned {
            self.pin(key);
        }
    }

    /// Forgets all neighbours on an interface.
    pub(crate) fn forget_neighbours_of(&mut self, interface: InterfaceId) {
        let keys: Vec<_> = self.neighbours.keys().filter(|key| key.interface == interface).copied().collect();
        for key in keys {
            if let Some(neighbour) = self.neighbours.get_mut(&key) {
                neighbour.pinned = 0;
            }
            self.forget(key);
        }
    }

    /// Forgets neighbours whose link is down or whose network is gone, except those that routes still name.
    pub(crate) fn forget_unreachable(&mut self) {
        let gone = |key: &NeighbourKey, neighbour: &Neighbour| {
            let link = self.links.get(key.interface);
            neighbour.pinned == 0 && !link.is_some_and(|link| link.is_up() && link.is_on_link(key.address))
        };
        let keys = self.neighbours.iter().filter(|(key, neighbour)| gone(key, neighbour));
        let keys: Vec<_> = keys.map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.forget(key));
    }

    /// Makes the neighbours permanent that the configuration names, and no others.
    pub(crate) fn refresh_static_neighbours(&mut self, now_ns: u64) {
        let mut wanted = Vec::new();
        for neighbour in &self.static_neighbours {
            let Some(interface) = self.links.id(&neighbour.interface) else { continue };
            if self.links.get(interface).is_some_and(|link| link.is_up() && !link.owns(neighbour.address)) {
                wanted.push((NeighbourKey { interface, address: neighbour.address }, neighbour.mac.0));
            }
        }
        let permanent = self.neighbours.iter().filter(|(_, neighbour)| neighbour.is_permanent());
        let stale = permanent.filter(|(key, _)| !wanted.iter().any(|(wanted, _)| wanted == *key));
        let stale: Vec<_> = stale.map(|(key, _)| *key).collect();
        stale.into_iter().for_each(|key| self.forget(key));
        for (key, mac) in wanted {
            if !self.neighbours.contains_key(&key) {
                self.add_neighbour(key, now_ns);
            }
            let Some(neighbour) = self.neighbours.get_mut(&key) else { continue };
            let was_incomplete = neighbour.state == NeighbourState::Incomplete;
            if !neighbour.is_permanent() || neighbour.mac != mac {
                neighbour.make_permanent(mac, now_ns);
            }
            self.settle(key, was_incomplete);
        }
    }

    /// A neighbour told its MAC address unasked.
    pub(crate) fn heard(&mut self, key: NeighbourKey, mac: [u8; 6], now_ns: u64) {
        self.update(key, |neighbour| neighbour.heard(mac, now_ns));
    }

    /// A neighbour answered.
    pub(crate) fn advertised(&mut self, key: NeighbourKey, said: Advertised, now_ns: u64) {
        let random = self.random();
        self.update(key, |neighbour| neighbour.advertised(said, random, now_ns));
    }

    fn update(&mut self, key: NeighbourKey, update: impl FnOnce(&mut Neighbour) -> bool) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let was_incomplete = neighbour.state == NeighbourState::Incomplete;
        let _ = update(neighbour);
        self.settle(key, was_incomplete);
    }

    fn arm(&mut self, key: NeighbourKey) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let _ = self.timers.remove(&(neighbour.armed_ns, key));
        neighbour.armed_ns = neighbour.deadline_ns;
        if neighbour.deadline_ns != u64::MAX {
            let _ = self.timers.insert((neighbour.deadline_ns, key));
        }
    }

    /// Lets the timers of neighbours run out.
    pub(crate) fn expire_neighbours(&mut self, now_ns: u64) {
        for _ in 0..TIMERS_PER_POLL {
            let Some((deadline_ns, key)) = self.timers.first().copied() else { return };
            if deadline_ns > now_ns {
                return;
            }
            self.expire_neighbour(key, now_ns);
        }
    }

    fn expire_neighbour(&mut self, key: NeighbourKey, now_ns: u64) {
        let used = self.was_used(key);
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let was_incomplete = neighbour.state == NeighbourState::Incomplete;
        match neighbour.on_timer(now_ns, used) {
            Action::Remove => return self.forget(key),
            Action::SolicitAll => self.solicit(key, None),
            Action::SolicitOne => {
                let mac = neighbour.mac;
                self.solicit(key, Some(mac));
            }
            Action::Fail => {
                log::debug!(
                    "neighbour {} on {} does not answer",
                    key.address,
                    self.links.name(key.interface)
                );
            }
            Action::Nothing => {}
        }
        self.settle(key, was_incomplete);
    }

    /// Whether packets went to a neighbour since this was last asked.
    fn was_used(&mut self, key: NeighbourKey) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return false };
        let Some(adjacency) = neighbour.adjacency else { return false };
        let packets = self.shared.adjacency_counters(adjacency).packets;
        neighbour.packets.replace(packets).is_some_and(|before| before != packets)
    }

    /// Asks who a neighbour is: everybody, or itself.
    fn solicit(&mut self, key: NeighbourKey, to: Option<[u8; 6]>) {
        let Some(link) = self.links.get(key.interface).filter(|link| link.is_up()) else { return };
        let frame = match key.address {
            IpAddr::V4(target) => {
                let Some(source) = link.source4(target) else { return };
                arp::request(link.mac(), source, target, to)
            }
            IpAddr::V6(target) => nd::solicitation(link.mac(), link.link_local(), target, to),
        };
        self.transmit(key.interface, frame);
    }
}

fn adjacency_of(interface: InterfaceId, neighbour: &Neighbour) -> Adjacency {
    match neighbour.state {
        NeighbourState::Incomplete => Adjacency::Unresolved { interface },
        NeighbourState::Failed => Adjacency::Drop(DropReason::Unreachable),
        _ => Adjacency::Neighbour { interface, mac: neighbour.mac },
    }
}

/// The destination of an IP packet, and whether it is IPv6.
fn destination(packet: &Buf) -> Option<(IpAddr, bool)> {
    let mut header = [0; HEADER_BYTES];
    let length = packet.copy_out(0, &mut header);
    let header = header.get(..length)?;
    match header.first()? >> 4 {
        4 => Some((IpAddr::from(<[u8; 4]>::try_from(header.get(16..20)?).ok()?), false)),
        6 => Some((IpAddr::from(<[u8; 16]>::try_from(header.get(24..40)?).ok()?), true)),
        _ => None,
    }
}
