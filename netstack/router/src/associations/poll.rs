//! What time asks for: expiries, replaced associations, keepalives, MTUs.

use alloc::{string::String, vec::Vec};
use core::net::IpAddr;

use dataplane::{MAX_MTU, MIN_MTU};
use ipsec::{EventKind, Sa};
use packet::ipv4::{Ipv4, VERSION_IHL};
use packet::ipv6::Ipv6;
use packet::{protocol, udp::Udp};
use zerocopy::{
    IntoBytes,
    network_endian::{U16, U32},
};

use super::IpsecEventKind;
use crate::{Output, Router, TargetStatus};

/// How often the associations are looked at.
const EVERY_NS: u64 = 250_000_000;
const NS_PER_SECOND: u64 = 1_000_000_000;
/// MTU of a path that nothing is known of.
const USUAL_MTU: u16 = 1500;
/// What encapsulation costs at most, for a tunnel whose association is not there yet.
const MAX_OVERHEAD: u16 = 120;
/// The payload of a NAT keepalive (RFC 3948 §2.3).
const KEEPALIVE: u8 = 0xff;

impl Router {
    pub(crate) fn poll_ipsec(&mut self, now_ns: u64) {
        if now_ns < self.ipsec.due_ns {
            return;
        }
        self.tell_expiries(now_ns);
        self.end_overlaps(now_ns);
        self.send_keepalives(now_ns);
        self.refresh_tunnel_mtus();
        let is_idle = self.ipsec.associations.is_empty() && self.ipsec.lingering.is_empty();
        self.ipsec.due_ns = if is_idle { u64::MAX } else { now_ns + EVERY_NS };
    }

    fn tell_expiries(&mut self, now_ns: u64) {
        for event in self.ipsec.database.poll(now_ns) {
            let known = self.ipsec.associations.values().find(|known| known.id == event.sa);
            let Some(settings) = known.map(|known| known.settings.clone()) else { continue };
            let kind = match event.kind {
                EventKind::SoftExpired => IpsecEventKind::SoftExpired,
                EventKind::HardExpired => IpsecEventKind::HardExpired,
                EventKind::PeerMoved { port } => IpsecEventKind::PeerMoved { port },
            };
            self.ipsec.tell(&settings, kind, now_ns);
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
            if now_ns < known.keepalive_ns {
                continue;
            }
            let row = ipsec.database.tunnels().find(|(id, _)| *id == known.id);
            let sa = row.and_then(|(_, tunnel)| tunnel.outbound).and_then(|id| ipsec.database.sa(id));
            let Some(sa) = sa else { continue };
            let sent_packets = sa.counters().packets;
            if core::mem::replace(&mut known.sent_packets, sent_packets) == sent_packets {
                due.push(keepalive(settings, nat.local_port, sa.peer_port()));
            }
            known.keepalive_ns = now_ns + u64::from(nat.keepalive_seconds) * NS_PER_SECOND;
        }
        due.into_iter().for_each(|packet| self.output(Output::Send(packet)));
    }

    /// Keeps the MTU of each tunnel's interface what fits the outer path.
    pub(super) fn refresh_tunnel_mtus(&mut self) {
        let tunnels = self.ipsec.tunnels.iter().filter_map(|(name, known)| {
            let settings = known.settings.as_ref().filter(|settings| settings.route_based)?;
            let row = self.ipsec.database.tunnels().find(|(id, _)| *id == known.id);
            let sa = row.and_then(|(_, tunnel)| tunnel.outbound).and_then(|id| self.ipsec.database.sa(id));
            let automatic = || self.automatic_mtu(settings.remote, sa.map(|sa| &**sa));
            Some((name.clone(), settings.mtu.unwrap_or_else(automatic)))
        });
        let tunnels: Vec<(String, u16)> = tunnels.collect();
        for (name, mtu) in tunnels {
            let link = self.links.id(&name).and_then(|id| self.links.get_mut(id));
            let Some(settings) = link.and_then(|link| link.settings.as_mut()) else { continue };
            if core::mem::replace(&mut settings.mtu, mtu) != mtu {
                log::info!(target: "ipsec", "{name}: MTU {mtu}");
                self.changes.mark_dirty();
            }
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

fn keepalive(tunnel: &config::Tunnel, local_port: u16, remote_port: u16) -> Vec<u8> {
    let length = size_of::<Udp>() + 1;
    let mut udp = Udp {
        source_port: U16::new(local_port),
        destination_port: U16::new(remote_port),
        length: U16::new(length as u16),
        checksum: U16::ZERO,
    };
    let mut packet = Vec::new();
    match (tunnel.local, tunnel.remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            let mut header = Ipv4 {
                version_ihl: VERSION_IHL,
                dscp_ecn: 0,
                total_length: U16::new((size_of::<Ipv4>() + length) as u16),
                identification: U16::ZERO,
                flags_fragment: U16::ZERO,
                ttl: 64,
                protocol: protocol::UDP,
                checksum: U16::ZERO,
                source: local.octets(),
                destination: remote.octets(),
            };
            header.checksum = packet::checksum::of(header.as_bytes());
            packet.extend_from_slice(header.as_bytes());
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) => {
            let sum = packet::checksum::Sum::default();
            let sum = sum.pseudo_header(&local.octets(), &remote.octets(), protocol::UDP, length as u32);
            udp.checksum = sum.bytes(udp.as_bytes()).bytes(&[KEEPALIVE]).finish();
            let header = Ipv6 {
                version_class_flow: U32::new(6 << 28),
                payload_length: U16::new(length as u16),
                next_header: protocol::UDP,
                hop_limit: 64,
                source: local.octets(),
                destination: remote.octets(),
            };
            packet.extend_from_slice(header.as_bytes());
        }
        // Both are of one family in every valid configuration.
        _ => return packet,
    }
    packet.extend_from_slice(udp.as_bytes());
    packet.push(KEEPALIVE);
    packet
}
