//! IPsec policies (RFC 4301 §5) and must-encrypt prefixes. Packets come here only if there are any.
//!
//! 1. What came in must have come as the inbound policies say, also to groups and to link-local addresses.
//! 2. What would leave by an ordinary neighbour is encrypted, passed or dropped as the outbound policies say.
//! 3. What would then still leave in the clear must not be for a must-encrypt prefix.
//!
//! A route into a tunnel is protection enough. So is it to be ESP of this node.
//!
//! What keeps a link running passes in the clear, whatever policies say: neighbour discovery and listener discovery of the
//! node, without which nobody on the link finds out where to send ESP to, and the DHCP client's messages, without which the
//! node has no address. Control's own come as frames, which [`refuse_frame`] looks at: no SA can protect those, which go to
//! where no route leads.

use super::esp_encrypt::keep_mtu6;
use super::ip_fragment::cut_to;
use super::ip4_rewrite::fragmentation_needed;
use super::ip6_rewrite::into_tunnel;
use super::{drop_for, icmp4_error, icmp6_error};
use crate::DropReason;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::tables::AdjacencyRow;
use buffer::{Buf, Flags, Vector};
use core::net::{IpAddr, Ipv4Addr};
use ipsec::{Action, Direction, Mode, PacketFacts, Snapshot, TunnelId};
use packet::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use packet::icmpv6::{LISTENER_QUERY, LISTENER_REPORT};
use packet::ipv4::{DONT_FRAGMENT, Ipv4};
use packet::ipv6::{Fragment, Ipv6};
use packet::udp::{PORT_DHCP_CLIENT, PORT_DHCP_SERVER, PORT_IKE};
use packet::{icmpv4, icmpv6, nd, protocol};
use zerocopy::FromBytes;

/// Has policies looked at before packets go where lookup sends them.
pub(super) fn redirect(packets: &mut [Buf], nexts: &mut [Node]) {
    for (packet, next) in packets.iter_mut().zip(nexts) {
        *next = by_policies(packet, *next);
    }
}

/// The same for one packet, if there are any.
pub(super) fn redirected(snapshot: &Snapshot, packet: &mut Buf, next: Node) -> Node {
    if snapshot.has_policies() { by_policies(packet, next) } else { next }
}

fn by_policies(packet: &mut Buf, next: Node) -> Node {
    if !matches!(
        next,
        Node::Ip4Rewrite | Node::Ip6Rewrite | Node::Ip4Local | Node::Ip6Local | Node::Unresolved
    ) {
        return next;
    }
    packet.meta_mut().opaque[0] = next as u64;
    Node::IpsecPolicy
}

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    for (packet, next) in packets.iter_mut().zip(nexts) {
        *next = decide(cx, packet);
    }
}

fn decide(cx: &Context<'_>, packet: &mut Buf) -> Node {
    let onward = Node::ALL.get(packet.meta().opaque[0] as usize).copied().unwrap_or(Node::Drop);
    let Some(facts) = PacketFacts::of(packet.data()) else {
        return drop_for(packet, DropReason::IpsecDiscarded);
    };
    let flags = packet.meta().flags;
    let is_local = matches!(onward, Node::Ip4Local | Node::Ip6Local);
    let is_exempt = flags.contains(Flags::ORIGINATED)
        || is_local
            && (carries_ipsec(cx, &facts) || is_of_its_link(packet) || is_later_of_udp(packet, &facts));
    if !is_exempt && let Some(reason) = refuse_inbound(cx, packet, &facts) {
        return drop_for(packet, reason);
    }
    let row = cx.tables.adjacency(packet.meta().adjacency);
    if is_local || row.tunnel().is_some() || flags.contains(Flags::ENCAPSULATED) {
        return onward;
    }
    if flags.contains(Flags::ORIGINATED) && carries_ipsec(cx, &facts) {
        return onward;
    }
    match cx.ipsec.decide(Direction::Outbound, &facts) {
        Some(Action::Protect(tunnel)) => protect(cx, packet, tunnel, row),
        Some(Action::Discard) => drop_for(packet, DropReason::IpsecDiscarded),
        Some(Action::Bypass) | None if cx.ipsec.must_encrypt(&facts) => {
            drop_for(packet, DropReason::IpsecMustEncrypt)
        }
        Some(Action::Bypass) | None => onward,
    }
}

/// ESP, and what negotiates it.
fn carries_ipsec(cx: &Context<'_>, facts: &PacketFacts) -> bool {
    let is_ike = |port| port == PORT_IKE || cx.ipsec.is_nat_t_port(port);
    facts.protocol == Some(protocol::ESP)
        || facts.protocol == Some(protocol::UDP)
            && facts.ports.is_some_and(|(source, destination)| is_ike(source) || is_ike(destination))
}

/// True for a fragment that lacks the ports which tell whether it carries IPsec. The first fragment of its packet has them, and
/// is asked for: where that is refused, nothing is put together (RFC 4301 §7).
fn is_later_of_udp(packet: &Buf, facts: &PacketFacts) -> bool {
    let bytes = packet.data();
    let is_later = match facts.source {
        IpAddr::V4(_) => {
            Ipv4::ref_from_prefix(bytes).is_ok_and(|(header, _)| header.fragment_offset_bytes() > 0)
        }
        IpAddr::V6(_) => Ipv6::ref_from_prefix(bytes).is_ok_and(|(header, rest)| {
            let fragment = Fragment::ref_from_prefix(rest);
            header.next_header == protocol::FRAGMENT
                && fragment.is_ok_and(|(fragment, _)| fragment.offset_bytes() > 0)
        }),
    };
    is_later && facts.protocol == Some(protocol::UDP)
}

/// True if this is what somebody on the link finds neighbours or listeners by: no tunnel brought it here.
fn is_of_its_link(packet: &Buf) -> bool {
    let is_from_link = !packet.meta().flags.contains(Flags::DECRYPTED);
    is_from_link && (is_neighbour_discovery(packet.data()) || is_listener_discovery(packet.data()))
}

/// RFC 4861 §6.1, §7.1: no router has lowered the hop limit. Extension headers, which it has no use for (RFC 6980), are not
/// looked behind.
fn is_neighbour_discovery(bytes: &[u8]) -> bool {
    let Ok((header, message)) = Ipv6::ref_from_prefix(bytes) else { return false };
    header.version() == 6
        && header.next_header == protocol::ICMPV6
        && header.hop_limit == nd::HOP_LIMIT
        && matches!(message, [nd::ROUTER_SOLICITATION..=nd::REDIRECT, 0, ..])
}

/// RFC 3810 §5: one hop, and nothing but a router alert before the message.
fn is_listener_discovery(bytes: &[u8]) -> bool {
    let Ok((header, rest)) = Ipv6::ref_from_prefix(bytes) else { return false };
    header.version() == 6
        && header.next_header == protocol::HOP_BY_HOP
        && header.hop_limit == 1
        && matches!(rest, [protocol::ICMPV6, 0, _, _, _, _, _, _, LISTENER_QUERY | LISTENER_REPORT, 0, ..])
}

/// Why a frame of control's own may not leave in the clear, which is the only way it can.
pub(super) fn refuse_frame(cx: &Context<'_>, frame: &[u8]) -> Option<DropReason> {
    let (ethernet, bytes) = Ethernet::ref_from_prefix(frame).ok()?;
    let is_ip = matches!(ethernet.ethertype.get(), ETHERTYPE_IPV4 | ETHERTYPE_IPV6);
    let is_exempt = !is_ip || is_neighbour_discovery(bytes) || is_listener_discovery(bytes);
    if is_exempt { None } else { refuse_clear(cx, bytes) }
}

/// Why a packet of this node may not leave in the clear.
pub(super) fn refuse_clear(cx: &Context<'_>, bytes: &[u8]) -> Option<DropReason> {
    if !cx.ipsec.has_policies() {
        return None;
    }
    let Some(facts) = PacketFacts::of(bytes) else { return Some(DropReason::IpsecDiscarded) };
    if is_dhcp(&facts) {
        return None;
    }
    match cx.ipsec.decide(Direction::Outbound, &facts) {
        Some(Action::Discard) => Some(DropReason::IpsecDiscarded),
        Some(Action::Protect(_)) => Some(DropReason::IpsecMustEncrypt),
        Some(Action::Bypass) | None => cx.ipsec.must_encrypt(&facts).then_some(DropReason::IpsecMustEncrypt),
    }
}

/// A message of the DHCP client, to a server that it does not know yet.
fn is_dhcp(facts: &PacketFacts) -> bool {
    facts.protocol == Some(protocol::UDP)
        && facts.ports == Some((PORT_DHCP_CLIENT, PORT_DHCP_SERVER))
        && facts.destination == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Why a packet that is about to become part of another, which is this node's own, may not come in as it did.
pub(super) fn refuse_wrapped(cx: &Context<'_>, packet: &Buf) -> Option<DropReason> {
    if !cx.ipsec.has_policies() || packet.meta().flags.contains(Flags::ORIGINATED) {
        return None;
    }
    match PacketFacts::of(packet.data()) {
        Some(facts) => refuse_inbound(cx, packet, &facts),
        None => Some(DropReason::IpsecDiscarded),
    }
}

/// Why a packet may not come in as it did.
fn refuse_inbound(cx: &Context<'_>, packet: &Buf, facts: &PacketFacts) -> Option<DropReason> {
    let meta = packet.meta();
    let came_by = meta.flags.contains(Flags::DECRYPTED).then_some(TunnelId(meta.opaque[1] as u32));
    match cx.ipsec.decide(Direction::Inbound, facts)? {
        Action::Protect(tunnel) => (came_by != Some(tunnel)).then_some(DropReason::IpsecUnprotected),
        Action::Discard => Some(DropReason::IpsecDiscarded),
        Action::Bypass => None,
    }
}

/// What rewrite does for other packets, before the packet is encrypted: hops, and the length that the neighbour takes.
fn protect(cx: &Context<'_>, packet: &mut Buf, tunnel: TunnelId, row: &AdjacencyRow) -> Node {
    packet.meta_mut().opaque[1] = u64::from(tunnel.0);
    packet.meta_mut().tx_interface = u16::MAX;
    let Some(sa) = cx.ipsec.outbound(tunnel) else { return drop_for(packet, DropReason::EspNoSa) };
    let mtu = sa.max_inner_len(usize::from(row.mtu));
    // Transport mode encrypts whole packets; what comes of them is cut like any (RFC 4303 §3.3.4).
    let is_whole = sa.parameters().mode == Mode::Transport;
    if packet.data().first().is_some_and(|first| first >> 4 == 6) {
        return protect6(packet, mtu, is_whole);
    }
    let too_long = packet.total_len() > mtu;
    let originated = packet.meta().flags.contains(Flags::ORIGINATED);
    let Ok((header, _)) = Ipv4::mut_from_prefix(packet.data_mut()) else {
        return drop_for(packet, DropReason::Ip4BadLength);
    };
    if header.ttl <= 1 && !originated {
        return icmp4_error(packet, DropReason::Ip4TtlExpired, icmpv4::TIME_EXCEEDED, 0, 0);
    }
    if too_long && header.flags_fragment.get() & DONT_FRAGMENT != 0 {
        return fragmentation_needed(packet, mtu);
    }
    if !originated {
        header.decrement_ttl();
    }
    if too_long && !is_whole {
        return cut_to(packet, mtu, Node::TunnelFragment);
    }
    Node::EspEncrypt
}

fn protect6(packet: &mut Buf, mtu: usize, is_whole: bool) -> Node {
    let originated = packet.meta().flags.contains(Flags::ORIGINATED);
    let Ok((header, _)) = Ipv6::ref_from_prefix(packet.data()) else {
        return drop_for(packet, DropReason::Ip6BadLength);
    };
    if header.hop_limit <= 1 && !originated {
        return icmp6_error(packet, DropReason::Ip6HopLimitExpired, icmpv6::TIME_EXCEEDED, 0, 0);
    }
    if let Some(next) = keep_mtu6(packet, into_tunnel(mtu), is_whole) {
        return next;
    }
    if let Ok((header, _)) = Ipv6::mut_from_prefix(packet.data_mut()) {
        header.hop_limit -= u8::from(!originated);
    }
    Node::EspEncrypt
}
