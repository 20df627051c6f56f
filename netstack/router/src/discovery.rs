//! ARP, neighbour discovery and queries for listeners: what comes in, and what is sent without being asked.

use alloc::{vec, vec::Vec};
use core::net::{IpAddr, Ipv6Addr};

use buffer::Buf;
use dataplane::{InterfaceId, Punt, PuntReason};
use packet::nd::{NA_OVERRIDE, NA_ROUTER, NA_SOLICITED};

use crate::{
    NeighbourState, Router, arp,
    groups::NeighbourKey,
    links::Link,
    listener,
    nd::{self, AdvertisedPrefix, Body},
    neighbour::Advertised,
};

/// Between two probes or announcements of an own address: `RETRANS_TIMER` (RFC 4862 §5.4), `ANNOUNCE_INTERVAL` (RFC 5227).
const PROBE_INTERVAL_NS: u64 = 1_000_000_000;
/// Time for a last message to leave before its interface does.
const GOODBYE_NS: u64 = 2_000_000;
/// Hosts take no less for an address that they have (RFC 4862 §5.5.3).
const LAST_VALID_SECONDS: u32 = 7200;
/// `DEFEND_INTERVAL` (RFC 5227 §1.1).
const DEFEND_INTERVAL_NS: u64 = 10_000_000_000;
/// Longest ARP or neighbour discovery packet that is looked at.
const MAX_PACKET_BYTES: usize = 1500;
/// M and O flags of a router advertisement (RFC 4861 §4.2).
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;

impl Router {
    /// Takes a packet from the dataplane; it comes back if it is not the router's business.
    pub fn handle_punt(&mut self, punt: Punt, now_ns: u64) -> Option<Punt> {
        self.now_ns = now_ns;
        match punt.reason {
            PuntReason::Arp => self.handle_arp(punt.interface, &contents(&punt.packet), now_ns),
            PuntReason::Nd => self.handle_nd(punt.interface, &contents(&punt.packet), now_ns),
            PuntReason::Unresolved(adjacency) => self.resolve_for(punt.packet, adjacency, now_ns),
            PuntReason::Local4 | PuntReason::Local6 => return Some(punt),
        }
        None
    }

    /// RFC 826, with the care of RFC 5227 for own addresses: who is not known is learned only from a request for an
    /// address of this node.
    fn handle_arp(&mut self, interface: InterfaceId, packet: &[u8], now_ns: u64) {
        let Some(message) = arp::parse(packet) else { return };
        let Some(link) = self.links.get(interface).filter(|link| link.is_up()) else { return };
        let mac = link.mac();
        if message.sender_mac == mac {
            return;
        }
        let sender = IpAddr::V4(message.sender);
        if link.owns(sender) {
            return self.defend(interface, sender, now_ns);
        }
        let is_probe = message.sender.is_unspecified();
        let key = NeighbourKey { interface, address: sender };
        // A next hop may be outside the interface's networks.
        if !is_probe && !link.is_on_link(sender) && !self.neighbours.contains_key(&key) {
            return;
        }
        if self.services.have(sender) {
            // Another node that has the same services.
            return;
        }
        let target = IpAddr::V4(message.target);
        let is_for_us = link.owns(target) || self.services.are_at(link, target);
        if !is_probe {
            let asked = self.neighbours.get(&key).is_some_and(|neighbour| {
                matches!(
                    neighbour.state,
                    NeighbourState::Incomplete | NeighbourState::Probe | NeighbourState::Delay
                )
            });
            if asked && is_for_us && !message.is_request {
                let mac = Some(message.sender_mac);
                let said = Advertised { mac, solicited: true, overrides: true, is_router: false };
                self.advertised(key, said, now_ns);
            } else {
                self.learn(key, message.sender_mac, is_for_us && message.is_request, now_ns);
            }
        }
        if is_for_us && message.is_request {
            let reply = arp::reply(mac, message.target, message.sender_mac, message.sender);
            self.transmit(interface, reply);
        }
    }

    /// Notes a MAC address that was told unasked; of one who is not known only if `may_add`.
    fn learn(&mut self, key: NeighbourKey, mac: [u8; 6], may_add: bool, now_ns: u64) {
        if !self.neighbours.contains_key(&key) {
            if !may_add || !self.may_learn() {
                return;
            }
            self.add_neighbour(key, now_ns);
        }
        self.heard(key, mac, now_ns);
    }

    /// Somebody else uses an own address (RFC 5227 §2.4): this node keeps it, says so now and then, and reports it.
    fn defend(&mut self, interface: InterfaceId, address: IpAddr, now_ns: u64) {
        self.note_duplicate(interface, address);
        let Some(link) = self.links.get_mut(interface) else { return };
        let IpAddr::V4(own) = address else { return };
        if link.defended_ns.is_none_or(|defended| now_ns.saturating_sub(defended) >= DEFEND_INTERVAL_NS) {
            link.defended_ns = Some(now_ns);
            let announcement = arp::request(link.mac(), own, own, None);
            self.transmit(interface, announcement);
        }
    }

    fn note_duplicate(&mut self, interface: InterfaceId, address: IpAddr) {
        let Some(link) = self.links.get_mut(interface) else { return };
        if !link.duplicates.contains(&address) {
            log::warn!("{}: somebody else uses {address}", link.name);
            link.duplicates.push(address);
        }
    }

    fn handle_nd(&mut self, interface: InterfaceId, packet: &[u8], now_ns: u64) {
        if !self.links.get(interface).is_some_and(Link::is_up) {
            return;
        }
        let Some(message) = nd::parse(packet) else { return self.handle_query(interface, packet, now_ns) };
        match message.body {
            Body::RouterSolicitation { source_mac } => {
                let random = self.random();
                if let Some(mac) = source_mac {
                    self.learn_source(interface, message.source, mac, now_ns);
                }
                let advertiser = self.links.get_mut(interface).and_then(|link| link.advertiser.as_mut());
                if let Some(advertiser) = advertiser {
                    advertiser.solicited(random, now_ns);
                    self.links_due_ns = self.links_due_ns.min(advertiser.deadline_ns);
                }
            }
            Body::RouterAdvertisement => {}
            Body::NeighbourSolicitation { target, source_mac } => {
                self.handle_solicitation(interface, message.source, target, source_mac, now_ns);
            }
            Body::NeighbourAdvertisement { target, target_mac, flags } => {
                self.handle_advertisement(interface, target, target_mac, flags, now_ns);
            }
        }
    }

    /// RFC 3810 §6.2.
    fn handle_query(&mut self, interface: InterfaceId, packet: &[u8], now_ns: u64) {
        let Some(query) = listener::parse(packet) else { return };
        let random = self.random();
        if let Some(link) = self.links.get_mut(interface) {
            link.listener.hear(query, random, now_ns);
            self.links_due_ns = self.links_due_ns.min(link.listener.due_ns());
        }
    }

    /// Has every link told of what it listens to now.
    pub(crate) fn listen(&mut self, now_ns: u64) {
        for id in self.links.ids() {
            let Some(link) = self.links.get_mut(id) else { continue };
            if link.is_up() && !link.is_tunnel() {
                let groups = link.groups6(&self.services);
                link.listener.set_groups(groups, now_ns);
            } else {
                link.listener.reset();
            }
        }
    }

    fn learn_source(&mut self, interface: InterfaceId, source: Ipv6Addr, mac: [u8; 6], now_ns: u64) {
        let address = IpAddr::V6(source);
        let is_neighbour = self.links.get(interface).is_some_and(|link| link.is_on_link(address));
        if is_neighbour {
            self.learn(NeighbourKey { interface, address }, mac, true, now_ns);
        }
    }

    /// RFC 4861 §7.2.3 and §7.2.4, RFC 4862 §5.4.3.
    fn handle_solicitation(
        &mut self,
        interface: InterfaceId,
        source: Ipv6Addr,
        target: Ipv6Addr,
        source_mac: Option<[u8; 6]>,
        now_ns: u64,
    ) {
        let is_ours =
            |link: &&Link| link.owns(IpAddr::V6(target)) || self.services.are_at(link, IpAddr::V6(target));
        let Some(link) = self.links.get(interface).filter(is_ours) else { return };
        let (mac, is_probing) = (link.mac(), link.probing.contains_key(&IpAddr::V6(target)));
        if source.is_unspecified() {
            if is_probing {
                self.note_duplicate(interface, IpAddr::V6(target));
            }
            return self.transmit(interface, nd::advertisement(mac, target, None));
        }
        if let Some(source_mac) = source_mac {
            self.learn_source(interface, source, source_mac, now_ns);
        }
        let known = self.neighbours.get(&NeighbourKey { interface, address: source.into() });
        let known = known.filter(|neighbour| neighbour.is_resolved()).map(|neighbour| neighbour.mac);
        // Without a known MAC address it is reached by its solicited-node group.
        let group_mac = packet::ethernet::multicast_mac_ipv6(nd::solicited_node(source).octets());
        let to_mac = source_mac.or(known).unwrap_or(group_mac);
        self.transmit(interface, nd::advertisement(mac, target, Some((source, Some(to_mac)))));
    }

    /// RFC 4861 §7.2.5, RFC 4862 §5.4.4.
    fn handle_advertisement(
        &mut self,
        interface: InterfaceId,
        target: Ipv6Addr,
        target_mac: Option<[u8; 6]>,
        flags: u32,
        now_ns: u64,
    ) {
        let address = IpAddr::V6(target);
        if self.services.have(address) {
            return;
        }
        if let Some(link) = self.links.get(interface).filter(|link| link.owns(address)) {
            if target_mac != Some(link.mac()) {
                self.note_duplicate(interface, address);
            }
            return;
        }
        let said = Advertised {
            mac: target_mac,
            solicited: flags & NA_SOLICITED != 0,
            overrides: flags & NA_OVERRIDE != 0,
            is_router: flags & NA_ROUTER != 0,
        };
        self.advertised(NeighbourKey { interface, address }, said, now_ns);
    }

    /// Sends the router advertisements, probes and announcements that are due.
    pub(crate) fn expire_links(&mut self, now_ns: u64) {
        if now_ns < self.links_due_ns {
            return;
        }
        for id in self.links.ids() {
            let random = self.random();
            let Some(link) = self.links.get_mut(id).filter(|link| link.is_up()) else { continue };
            let mac = link.mac();
            // Before the probes, whose answers come by the groups that are told (RFC 4862 §5.4.2).
            let records = link.listener.take_due(random, now_ns);
            let mut frames = listener::reports(mac, link.link_local(), &records);
            for (address, probe) in link.probing.iter_mut().filter(|(_, probe)| probe.due_ns <= now_ns) {
                frames.push(match address {
                    IpAddr::V4(own) => arp::request(mac, *own, *own, None),
                    IpAddr::V6(own) if probe.left == 2 => {
                        nd::solicitation(mac, Ipv6Addr::UNSPECIFIED, *own, None)
                    }
                    IpAddr::V6(own) => nd::advertisement(mac, *own, None),
                });
                probe.left -= 1;
                probe.due_ns = now_ns + PROBE_INTERVAL_NS;
            }
            link.probing.retain(|_, probe| probe.left > 0);
            let is_due = link.advertiser.as_ref().is_some_and(|advertiser| advertiser.deadline_ns <= now_ns);
            frames.into_iter().for_each(|frame| self.transmit(id, frame));
            if is_due {
                self.advertise(id, false, &[], now_ns);
            }
        }
        self.links_due_ns = self.links.due_ns();
    }

    /// Tells hosts not to use this node as their router any longer (RFC 4861 §6.2.5), nor their addresses in the networks
    /// that are `gone`. The interface may be so too: its tables are published when the message has left.
    pub(crate) fn say_goodbye(&mut self, interface: InterfaceId, gone: &[Ipv6Addr], now_ns: u64) {
        self.advertise(interface, true, gone, now_ns);
        self.changes.hold(now_ns + GOODBYE_NS);
    }

    /// Advertises; new connections are not to come from the networks that are `gone` (RFC 4862 §5.5.4).
    pub(crate) fn advertise(
        &mut self,
        interface: InterfaceId,
        is_last: bool,
        gone: &[Ipv6Addr],
        now_ns: u64,
    ) {
        let random = self.random();
        let Some(link) = self.links.get_mut(interface) else { return };
        let (mac, mtu, present) = (link.mac(), link.mtu(), link.advertised_prefixes());
        let Some(advertiser) = &mut link.advertiser else { return };
        let settings = advertiser.settings();
        let kept =
            present.into_iter().filter(|network| !gone.contains(network)).map(|network| AdvertisedPrefix {
                network,
                valid_lifetime_s: settings.valid_lifetime_seconds,
                preferred_lifetime_s: settings.preferred_lifetime_seconds,
            });
        let gone = gone.iter().map(|network| AdvertisedPrefix {
            network: *network,
            valid_lifetime_s: settings.valid_lifetime_seconds.min(LAST_VALID_SECONDS),
            preferred_lifetime_s: 0,
        });
        let prefixes: Vec<AdvertisedPrefix> = kept.chain(gone).collect();
        let ipv6 = |server: &IpAddr| if let IpAddr::V6(server) = server { Some(*server) } else { None };
        let dns_servers: Vec<Ipv6Addr> = settings.dns_servers.iter().filter_map(ipv6).collect();
        let managed = if settings.managed { MANAGED } else { 0 };
        let other = if settings.other { OTHER } else { 0 };
        let say = nd::Advertisement {
            flags: managed | other,
            router_lifetime_s: if is_last { 0 } else { settings.router_lifetime_seconds },
            mtu,
            prefixes: &prefixes,
            dns_servers: &dns_servers,
            dns_lifetime_s: if is_last { 0 } else { 3 * u32::from(settings.max_interval_seconds) },
        };
        let frame = nd::router_advertisement(mac, &say);
        advertiser.sent(random, now_ns);
        self.transmit(interface, frame);
    }
}

/// The bytes of a packet, as far as they are looked at.
fn contents(packet: &Buf) -> Vec<u8> {
    let mut bytes = vec![0; packet.total_len().min(MAX_PACKET_BYTES)];
    let length = packet.copy_out(0, &mut bytes);
    bytes.truncate(length);
    bytes
}
