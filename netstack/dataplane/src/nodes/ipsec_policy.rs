//! IPsec policies (RFC 4301 §5) and must-encrypt prefixes. Lookup sends packets here only if there are any.
//!
//! 1. What came in must have come as the inbound policies say.
//! 2. What would leave by an ordinary neighbour is encrypted, passed or dropped as the outbound policies say.
//! 3. What would then still leave in the clear must not be for a must-encrypt prefix.
//!
//! A route into a tunnel is protection enough. So is it to be ESP of this node.
//!
//! Neighbour discovery with the node itself passes in the clear, whatever inbound policies say: without it nobody on the link
//! finds out where to send ESP to. The node's own comes as frames from control, not by here.

use super::{drop_for, icmp4_error, icmp6_error};
use crate::DropReason;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::tables::AdjacencyRow;
use buffer::{Buf, Flags, Vector};
use ipsec::{Action, Direction, Mode, PacketFacts, TunnelId};
use packet::ipv4::{DONT_FRAGMENT, Ipv4};
use packet::ipv6::Ipv6;
use packet::udp::PORT_IKE;
use packet::{icmpv4, icmpv6, nd, protocol};
use zerocopy::FromBytes;

/// Has policies looked at before packets go where lookup sends them.
pub(super) fn redirect(packets: &mut Vector, nexts: &mut [Node]) {
    for (packet, next) in packets.iter_mut().zip(nexts) {
        redirect_one(packet, next);
    }
}

/// The same for one packet.
pub(super) fn redirect_one(packet: &mut Buf, next: &mut Node) {
    if matches!(
        next,
        Node::Ip4Rewrite | Node::Ip6Rewrite | Node::Ip4Local | Node::Ip6Local | Node::Unresolved
    ) {
        packet.meta_mut().opaque[0] = *next as u64;
        *next = Node::IpsecPolicy;
    }
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
        || is_local && (carries_ipsec(cx, &facts) || is_neighbour_discovery(packet));
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

/// True if this is neighbour discovery of somebody on the link (RFC 4861 §6.1, §7.1): no router has lowered its hop limit,
/// no tunnel brought it here. Extension headers, which it has no use for (RFC 6980), are not looked behind.
fn is_neighbour_discovery(packet: &Buf) -> bool {
    let Ok((header, message)) = Ipv6::ref_from_prefix(packet.data()) else { return false };
    header.version() == 6
        && header.next_header == protocol::ICMPV6
        && header.hop_limit == nd::HOP_LIMIT
        && matches!(message, [nd::ROUTER_SOLICITATION..=nd::REDIRECT, 0, ..])
        && !packet.meta().flags.contains(Flags::DECRYPTED)
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
    let too_long = packet.total_len() > mtu;
    let originated = packet.meta().flags.contains(Flags::ORIGINATED);
    if packet.data().first().is_some_and(|first| first >> 4 == 6) {
        return protect6(packet, originated, too_long.then_some(mtu));
    }
    let Ok((header, _)) = Ipv4::mut_from_prefix(packet.data_mut()) else {
        return drop_for(packet, DropReason::Ip4BadLength);
    };
    if header.ttl <= 1 && !originated {
        return icmp4_error(packet, DropReason::Ip4TtlExpired, icmpv4::TIME_EXCEEDED, 0, 0);
    }
    if too_long && header.flags_fragment.get() & DONT_FRAGMENT != 0 {
        let code = icmpv4::UNREACHABLE_FRAGMENTATION_NEEDED;
        let (reason, kind) = (DropReason::Ip4FragmentationNeeded, icmpv4::UNREACHABLE);
        return icmp4_error(packet, reason, kind, code, mtu as u32);
    }
    if !originated {
        header.decrement_ttl();
    }
    // Transport mode encrypts whole packets; what comes of them is cut like any (RFC 4303 §3.3.4).
    if too_long && sa.parameters().mode == Mode::Tunnel {
        packet.meta_mut().opaque[0] = mtu as u64;
        return Node::TunnelFragment;
    }
    Node::EspEncrypt
}

fn protect6(packet: &mut Buf, originated: bool, too_long_for: Option<usize>) -> Node {
    let Ok((header, _)) = Ipv6::mut_from_prefix(packet.data_mut()) else {
        return drop_for(packet, DropReason::Ip6BadLength);
    };
    if header.hop_limit <= 1 && !originated {
        return icmp6_error(packet, DropReason::Ip6HopLimitExpired, icmpv6::TIME_EXCEEDED, 0, 0);
    }
    if let Some(mtu) = too_long_for {
        return icmp6_error(packet, DropReason::Ip6PacketTooBig, icmpv6::PACKET_TOO_BIG, 0, mtu as u32);
    }
    header.hop_limit -= u8::from(!originated);
    Node::EspEncrypt
}
