//! What time asks for: expiries, replaced associations, keepalives, MTUs.

use alloc::{string::String, vec::Vec};
use core::net::{IpAddr, SocketAddr};

use dataplane::{MAX_MTU, MIN_MTU};
use ipsec::{Event, EventKind, Sa};
use packet::ipv4::Ipv4;
use packet::ipv6::Ipv6;
use packet::{protocol, udp::Udp};
use zerocopy::{IntoBytes, network_endian::U16};

use super::IpsecEventKind;
use crate::{Output, Router, TargetStatus};

/// How often the associations are looked at.
const EVERY_NS: u64 = 250_000_000;
const NS_PER_SECOND: u64 = 1_000_000_000;
/// MTU of a path that nothing is known of.
const USUAL_MTU: u16 = 1500;
/// What encapsulation costs at most, for a tunnel whose association is not there yet.
const MAX_OVERHEAD: u16 = 120;
/// How long an association of a key daemon is still told of once it carries nothing.
const EXPIRED_KEPT_NS: u64 = 300 * NS_PER_SECOND;
/// The payload of a NAT keepalive (RFC 3948 §2.3).
const KEEPALIVE: u8 = 0xff;

impl Router {
    pub(crate) fn poll_ipsec(&mut self, now_ns: u64) {
        if now_ns < self.ipsec.due_ns {
            return;
        }
        self.tell_expiries(now_ns);
        self.end_overlaps(now_ns);
        self.forget_expired(now_ns);
        self.send_keepalives(now_ns);
        self.refresh_tunnel_mtus();
        let is_idle = self.ipsec.associations.is_empty() && self.ipsec.lingering.is_empty();
        self.ipsec.due_ns = if is_idle { u64::MAX } else { now_ns + EVERY_NS };
    }

    /// Has [`Router::poll`] look at the associations, which it may have had no reason to before.
    pub(super) fn poll_ipsec_soon(&mut self, now_ns: u64) {
        self.ipsec.due_ns = self.ipsec.due_ns.min(now_ns + EVERY_NS);
    }

    fn tell_expiries(&mut self, now_ns: u64) {
        for event in self.ipsec.database.poll(now_ns) {
            let Some(settings) = self.settings_of(event) else { continue };
            let kind = match event.kind {
                EventKind::SoftExpired => IpsecEventKind::SoftExpired,
                EventKind::HardExpired => {
                    if let Some(known) = self.ipsec.associations.get_mut(&settings.name) {
                        known.expired_ns = Some(now_ns);
                    }
                    IpsecEventKind::HardExpired
                }
                EventKind::PeerMoved { to } => {
                    if let Some(known) = self.ipsec.tunnels.get_mut(&settings.tunnel) {
                        known.moved_to = Some(to);
                    }
                    IpsecEventKind::PeerMoved { to }
                }
            };
            self.ipsec.tell(&settings, kind, now_ns);
        }
    }

    /// The association that an event is of. One that was replaced tells no more than that its peer moved.
    fn settings_of(&self, event: Event) -> Option<config::Association> {
        let present = self.ipsec.associations.find(event.sa);
        let replaced = || {
            let mut replaced = self.ipsec.lingering.iter().map(|lingering| &lingering.known);
            replaced.find(|known| known.id == event.sa && matches!(event.kind, EventKind::PeerMoved { .. }))
        };
        present.or_else(replaced).map(|known| known.settings.clone())
    }

    /// Removes associations of a key daemon that expired a while ago. Those of the configuration stay, as it says: put in
    /// force again they would be new ones under an old key.
    fn forget_expired(&mut self, now_ns: u64) {
        let is_over = |since_ns: u64| now_ns.saturating_sub(since_ns) >= EXPIRED_KEPT_NS;
        let all = self.ipsec.associations.iter();
        let over = all.filter(|(_, known)| known.is_dynamic && known.expired_ns.is_some_and(is_over));
        let over: Vec<String> = over.map(|(name, _)| name.clone()).collect();
        for name in over {
            if let Err(error) = self.remove_association(&name, now_ns) {
                log::error!(target: "ipsec", "{name} has expired and stays: {error}");
            }
        }
    }

    fn end_overlaps(&mut self, now_ns: u64) {
        let ipsec = &mut self.ipsec;
        let over: Vec<_> = ipsec.lingering.extract_if(.., |lingering| now_ns >= lingering.until_ns).collect();
        if over.is_empty() {
            return;
        }
        for lingering in over {
            let _ = ipsec.database.remove(lingering.known.id);
            ipsec.tell(&lingering.known.settings, IpsecEventKind::Removed, now_ns);
        }
        self.publish_ipsec();
    }

    /// A tunnel in UDP that sent nothing for a while sends a keepalive, so that the NAT on the way does not forget it.
    fn send_keepalives(&mut self, now_ns: u64) {
        let mut due = Vec::new();
        let ipsec = &mut self.ipsec;
        for known in ipsec.tunnels.values_mut() {
            let Some(settings) = known.settings.as_ref().filter(|settings| settings.enabled) else {
                continue;
            };
            let Some(nat) = settings.nat_traversal.as_ref().filter(|nat| nat.keepalive_seconds > 0) else {
                continue;
            };
            let Some(sa) = ipsec.database.outbound(known.id) else { continue };
            let Some(peer) = sa.peer() else { continue };
            let interval_ns = u64::from(nat.keepalive_seconds) * NS_PER_SECOND;
            let is_due = |keepalive_ns: u64| {
                let sent_ns = sa.counters().last_used_ns.max(keepalive_ns);
                now_ns.saturating_sub(sent_ns) >= interval_ns
            };
            // The first one has the NAT know the tunnel before the peer sends anything.
            if known.keepalive_ns.is_none_or(is_due) {
                known.keepalive_ns = Some(now_ns);
                due.push(keepalive(settings.local, nat.local_port, peer));
            }
        }
        due.into_iter().for_each(|packet| self.output(Output::Send(packet)));
    }

    /// Keeps the MTU of each tunnel's interface what fits the outer path.
    pub(super) fn refresh_tunnel_mtus(&mut self) {
        let names: Vec<String> = self.ipsec.tunnels.keys().cloned().collect();
        names.iter().for_each(|name| self.refresh_tunnel_mtu(name));
    }

    pub(super) fn refresh_tunnel_mtu(&mut self, name: &str) {
        let Some(known) = self.ipsec.tunnels.get(name) else { return };
        let Some(settings) = known.settings.as_ref() else { return };
        let sa = self.ipsec.database.outbound(known.id).map(|sa| &**sa);
        let fits = self.automatic_mtu(sa.map_or(settings.remote, Sa::remote), sa);
        if let Some(sa) = sa {
            sa.limit_padding(fits);
        }
        if !settings.route_based {
            return;
        }
        let mtu = settings.mtu.unwrap_or(fits);
        let link = self.links.id(name).and_then(|id| self.links.get_mut(id));
        let Some(settings) = link.and_then(|link| link.settings.as_mut()) else { return };
        if core::mem::replace(&mut settings.mtu, mtu) != mtu {
            log::info!(target: "ipsec", "{name}: MTU {mtu}");
            self.changes.mark_dirty();
        }
    }

    fn automatic_mtu(&self, remote: IpAddr, sa: Option<&Sa>) -> u16 {
        let outer = self.path_mtu(remote);
        let inner = match sa {
            Some(sa) => {
                let outer = sa.path_mtu().map_or(outer, |path| path.min(outer));
                u16::try_from(sa.max_inner_len(usize::from(outer))).unwrap_or(u16::MAX)
            }
            None => outer.saturating_sub(MAX_OVERHEAD),
        };
        inner.clamp(MIN_MTU, MAX_MTU)
    }

    /// The least MTU of the interfaces by which packets to `address` leave.
    fn path_mtu(&self, address: IpAddr) -> u16 {
        let mtu_of =
            |name: &str| self.links.id(name).and_then(|id| self.links.get(id)).map(crate::links::Link::mtu);
        let mtu = match self.lookup(address).map(|route| route.target) {
            Some(TargetStatus::Connected { interface }) => mtu_of(&interface),
            Some(TargetStatus::Via(hops)) => {
                hops.iter().filter_map(|hop| mtu_of(hop.interface.as_deref()?)).min()
            }
            _ => None,
        };
        mtu.unwrap_or(USUAL_MTU)
    }
}

fn keepalive(local: IpAddr, local_port: u16, peer: SocketAddr) -> Vec<u8> {
    let length = size_of::<Udp>() + 1;
    let mut udp = Udp {
        source_port: U16::new(local_port),
        destination_port: U16::new(peer.port()),
        length: U16::new(length as u16),
        checksum: U16::ZERO,
    };
    let mut packet = Vec::new();
    match (local, peer.ip()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            let mut header = Ipv4::new(protocol::UDP, local.octets(), remote.octets(), length);
            header.fill_checksum();
            packet.extend_from_slice(header.as_bytes());
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) => {
            let sum = packet::checksum::Sum::default();
            let sum = sum.pseudo_header(&local.octets(), &remote.octets(), protocol::UDP, length as u32);
            udp.checksum = sum.bytes(udp.as_bytes()).bytes(&[KEEPALIVE]).finish();
            let header = Ipv6::new(protocol::UDP, local.octets(), remote.octets(), length);
            packet.extend_from_slice(header.as_bytes());
        }
        // Both are of one family in every valid configuration.
        _ => return packet,
    }
    packet.extend_from_slice(udp.as_bytes());
    packet.push(KEEPALIVE);
    packet
}
