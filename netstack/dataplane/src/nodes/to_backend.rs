//! Brings packets to backends that answer clients themselves: as they are to the backend's link-layer address, or in a tunnel, whose
//! outer packets are routed like any. Part of the flow node.

use super::{drop_for, flow, icmp4_error, icmp6_error, ipsec_policy};
use crate::DropReason;
use crate::context::{Context, Scratch};
use crate::graph::Node;
use balancer::{Encapsulation, Snapshot, Verdict};
use buffer::{Buf, Flags};
use core::net::IpAddr;
use packet::{icmpv4, icmpv6};
use rewrite::NoEntry;

/// Sends packets as they are to neighbours, who take them for their own, up to the first packet that does not go to one of the
/// family of the first; returns how many there are before it.
#[inline(never)]
pub(super) fn send_to_neighbours(
    cx: &mut Context<'_>,
    packets: &mut [Buf],
    verdicts: &[Verdict],
    nexts: &mut [Node],
) -> usize {
    let (count, is_v6) = find_neighbours(cx, verdicts);
    let (Some(packets), Some(nexts)) = (packets.get_mut(..count), nexts.get_mut(..count)) else {
        return count;
    };
    for ((packet, next), group) in packets.iter_mut().zip(&mut *nexts).zip(&cx.scratch.neighbours) {
        *next = send_to(cx, packet, *group, is_v6);
    }
    if cx.ipsec.has_policies() {
        ipsec_policy::redirect(packets, nexts);
    }
    count
}

/// Looks up the routes to neighbours of the family of the first, those of IPv4 all at once; returns how many follow each other, and
/// whether they are of IPv6.
#[inline(always)]
fn find_neighbours(cx: &mut Context<'_>, verdicts: &[Verdict]) -> (usize, bool) {
    let Scratch { destinations4, neighbours, .. } = &mut *cx.scratch;
    let mut count = 0;
    for (verdict, destination) in verdicts.iter().zip(&mut *destinations4) {
        let Verdict::SendTo(IpAddr::V4(address)) = verdict else { break };
        *destination = address.to_bits();
        count += 1;
    }
    if count > 0 {
        cx.shared.fib4().lookup_batch(&destinations4[..count], neighbours);
        return (count, false);
    }
    for (verdict, group) in verdicts.iter().zip(neighbours) {
        let Verdict::SendTo(IpAddr::V6(address)) = verdict else { break };
        *group = cx.shared.fib6().lookup(address.to_bits());
        count += 1;
    }
    (count, true)
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
    next
}

/// Puts packets into the tunnels to their backends, up to the first packet that goes into none; returns how many there are before
/// it.
#[inline(never)]
pub(super) fn encapsulate(
    cx: &Context<'_>,
    packets: &mut [Buf],
    verdicts: &[Verdict],
    nexts: &mut [Node],
) -> usize {
    let (has_policies, mut count) = (cx.ipsec.has_policies(), 0);
    for ((packet, verdict), next) in packets.iter_mut().zip(verdicts).zip(nexts) {
        let Verdict::Encapsulate(tunnel) = verdict else { break };
        count += 1;
        let refused = if has_policies { ipsec_policy::refuse_wrapped(cx, packet) } else { None };
        *next = match refused {
            Some(reason) => refuse(packet, reason),
            None => enter(cx.services, packet, tunnel),
        };
    }
    count
}

/// Puts a packet into the tunnel to its backend. The outer packet is this node's own.
#[inline(always)]
fn enter(services: &Snapshot, packet: &mut Buf, to: &Encapsulation) -> Node {
    let Some(tunnel) = to.tunnel(services) else { return refuse(packet, DropReason::ServiceNoTunnelAddress) };
    let (inner_bytes, overhead_bytes) = (packet.total_len(), tunnel.overhead_bytes());
    let Ok(bytes) = packet.push_front(overhead_bytes) else { return refuse(packet, DropReason::NoHeadroom) };
    if let Err(why) = tunnel.put(bytes, inner_bytes, to.hash) {
        let _ = packet.pull_front(overhead_bytes);
        return refuse_entry(packet, why);
    }
    let meta = packet.meta_mut();
    meta.flags.insert(Flags::ORIGINATED | Flags::TUNNELLED);
    meta.opaque[1] = overhead_bytes as u64;
    if tunnel.is_ipv6() { Node::Ip6Lookup } else { Node::Ip4Lookup }
}

#[cold]
fn refuse_entry(packet: &mut Buf, why: NoEntry) -> Node {
    let reason = match why {
        NoEntry::Expired => DropReason::Ip4TtlExpired,
        NoEntry::Malformed => DropReason::ServiceTooLong,
    };
    refuse(packet, reason)
}

/// Drops a packet that enters no tunnel. Who has sent one that expires is told, by whichever family it is of.
#[cold]
fn refuse(packet: &mut Buf, reason: DropReason) -> Node {
    match (reason, flow::lookup(packet)) {
        (DropReason::Ip4TtlExpired, Node::Ip6Lookup) => {
            icmp6_error(packet, DropReason::Ip6HopLimitExpired, icmpv6::TIME_EXCEEDED, 0, 0)
        }
        (DropReason::Ip4TtlExpired, _) => icmp4_error(packet, reason, icmpv4::TIME_EXCEEDED, 0, 0),
        _ => drop_for(packet, reason),
    }
}
