//! Brings packets to backends that answer clients themselves: as they are to the backend's link-layer address, or in a tunnel, whose
//! outer packets are routed like any. Part of the flow node.

use super::{drop_for, flow, icmp4_error, icmp6_error, ipsec_policy};
use crate::DropReason;
use crate::context::{Context, Scratch};
use crate::graph::{Nexts, Node};
use balancer::{Encapsulation, Snapshot, Verdict};
use buffer::{Buf, Flags};
use core::net::IpAddr;
use packet::ipv4::Ipv4;
use packet::ipv6::Ipv6;
use packet::{icmpv4, icmpv6};
use zerocopy::FromBytes;

/// Sends packets as they are to neighbours, who take them for their own. The routes to those of IPv4 are looked up at once.
#[inline(never)]
pub(super) fn send_to_neighbours(
    cx: &mut Context<'_>,
    packets: &mut [Buf],
    verdicts: &[Verdict],
    nexts: &mut Nexts,
) {
    let Scratch { destinations4, neighbours, .. } = &mut *cx.scratch;
    for (verdict, destination) in verdicts.iter().zip(&mut *destinations4).take(packets.len()) {
        *destination = match verdict {
            Verdict::SendTo(IpAddr::V4(address)) => address.to_bits(),
            _ => 0,
        };
    }
    cx.shared.fib4().lookup_batch(&destinations4[..packets.len()], neighbours);
    let columns = packets.iter_mut().zip(verdicts).zip(&cx.scratch.neighbours);
    for (((packet, verdict), group), next) in columns.zip(nexts) {
        *next = match verdict {
            Verdict::SendTo(IpAddr::V4(_)) => send_to(cx, packet, *group, false),
            Verdict::SendTo(IpAddr::V6(address)) => {
                send_to(cx, packet, cx.shared.fib6().lookup(address.to_bits()), true)
            }
            _ => continue,
        };
    }
}

/// Sends a packet as it is to the neighbour that a group of next hops leads to.
#[inline(always)]
fn send_to(cx: &Context<'_>, packet: &mut Buf, group: u32, is_v6: bool) -> Node {
    let group = cx.tables.group(group);
    let key = cx.shared.flow_key();
    let hash = |packet: &Buf| if is_v6 { key.ipv6(packet) } else { key.ipv4(packet) };
    let id = cx.tables.choose(group, || hash(packet));
    let row = cx.tables.adjacency(id);
    let next = if is_v6 { row.next6 } else { row.next4 };
    if !matches!(next, Node::Ip4Rewrite | Node::Ip6Rewrite) || row.tunnel().is_some() {
        return drop_for(packet, DropReason::ServiceNotNeighbour);
    }
    packet.meta_mut().adjacency = id;
    ipsec_policy::redirected(cx.ipsec, packet, next)
}

/// Puts packets into the tunnels to their backends.
#[inline(never)]
pub(super) fn encapsulate(cx: &Context<'_>, packets: &mut [Buf], verdicts: &[Verdict], nexts: &mut Nexts) {
    for ((packet, verdict), next) in packets.iter_mut().zip(verdicts).zip(nexts) {
        let Verdict::Encapsulate(tunnel) = verdict else { continue };
        let refused = ipsec_policy::refuse_wrapped(cx, packet);
        *next = match refused.map_or_else(|| enter(cx.services, packet, tunnel), Err) {
            Ok(()) => flow::lookup(packet),
            Err(reason) => refuse(packet, reason),
        };
    }
}

/// Puts a packet, which is one hop further then (RFC 2003 §3.1), into the tunnel to its backend. The outer packet is this
/// node's own. An error is why it is dropped.
#[inline(always)]
fn enter(services: &Snapshot, packet: &mut Buf, to: &Encapsulation) -> Result<(), DropReason> {
    let tunnel = to.tunnel(services).ok_or(DropReason::ServiceNoTunnelAddress)?;
    take_hop(packet.data_mut())?;
    let inner_bytes = packet.total_len();
    let overhead_bytes = tunnel.overhead_bytes();
    let bytes = packet.push_front(overhead_bytes).map_err(|_| DropReason::NoHeadroom)?;
    tunnel.put(bytes, inner_bytes, to.hash).map_err(|_| DropReason::ServiceTooLong)?;
    let meta = packet.meta_mut();
    meta.flags.insert(Flags::ORIGINATED | Flags::TUNNELLED);
    meta.opaque[1] = overhead_bytes as u64;
    Ok(())
}

/// Takes one hop from an IP packet that has more than one left.
#[inline(always)]
fn take_hop(bytes: &mut [u8]) -> Result<(), DropReason> {
    if bytes.first().is_some_and(|first| first >> 4 == 6) {
        match Ipv6::mut_from_prefix(bytes) {
            Ok((header, _)) if header.hop_limit > 1 => header.hop_limit -= 1,
            _ => return Err(DropReason::Ip6HopLimitExpired),
        }
    } else {
        match Ipv4::mut_from_prefix(bytes) {
            Ok((header, _)) if header.ttl > 1 => header.decrement_ttl(),
            _ => return Err(DropReason::Ip4TtlExpired),
        }
    }
    Ok(())
}

/// Drops a packet that enters no tunnel.
#[cold]
fn refuse(packet: &mut Buf, reason: DropReason) -> Node {
    match reason {
        DropReason::Ip4TtlExpired => icmp4_error(packet, reason, icmpv4::TIME_EXCEEDED, 0, 0),
        DropReason::Ip6HopLimitExpired => icmp6_error(packet, reason, icmpv6::TIME_EXCEEDED, 0, 0),
        _ => drop_for(packet, reason),
    }
}
