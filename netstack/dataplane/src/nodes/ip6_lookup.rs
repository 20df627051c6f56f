//! IPv6 route lookup: destination to next-hop group, group to adjacency by flow hash.

use super::{drop_for, icmp6_error, ipsec_policy, one_way};
use crate::DropReason;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::tables::AdjacencyRow;
use buffer::{Buf, Flags, Vector};
use packet::icmpv6;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let destinations = &mut cx.scratch.destinations6[..packets.len()];
    let groups = &mut cx.scratch.groups[..packets.len()];
    if !core::mem::take(&mut cx.scratch.has_destinations) {
        for (packet, destination) in packets.iter().zip(&mut *destinations) {
            // Every way here has checked that there is a header.
            let bytes = packet.data().get(24..40).and_then(|bytes| bytes.first_chunk::<16>());
            *destination = bytes.map_or(0, |bytes| u128::from_be_bytes(*bytes));
        }
    }
    cx.shared.fib6().lookup_batch(destinations, groups);

    let redirected = &mut nexts[..packets.len()];
    match one_way(cx.tables, groups) {
        Some((id, row)) if is_forwarded(row) => {
            packets.iter_mut().for_each(|packet| packet.meta_mut().adjacency = id);
            redirected.fill(row.next6);
        }
        _ => choose(cx, packets, redirected),
    }
    if cx.ipsec.has_policies() {
        ipsec_policy::redirect(packets, redirected);
    }
}

/// Leads each packet to the adjacency that the group of its route, in `scratch.groups`, chooses for its flow.
#[inline(always)]
fn choose(cx: &Context<'_>, packets: &mut Vector, nexts: &mut [Node]) {
    let (tables, key) = (cx.tables, cx.shared.flow_key());
    for ((packet, next), group) in packets.iter_mut().zip(nexts).zip(&cx.scratch.groups) {
        let group = tables.group(*group);
        let id = tables.choose(group, || key.ipv6(packet));
        packet.meta_mut().adjacency = id;
        let row = tables.adjacency(id);
        *next = if is_forwarded(row) { row.next6 } else { not_forwarded(packet, row) };
    }
}

/// Whether nothing more need be known about packets than their adjacency.
#[inline(always)]
fn is_forwarded(row: &AdjacencyRow) -> bool {
    row.next6 == Node::Ip6Rewrite || row.next6 == Node::Ip6Local
}

/// What else an adjacency may be than a neighbour to send to.
#[cold]
fn not_forwarded(packet: &mut Buf, row: &AdjacencyRow) -> Node {
    let code = match row.drop6 {
        DropReason::Ip6NoRoute => icmpv6::UNREACHABLE_NO_ROUTE,
        DropReason::Prohibited => icmpv6::UNREACHABLE_PROHIBITED,
        _ => icmpv6::UNREACHABLE_ADDRESS,
    };
    match row.next6 {
        Node::Icmp6Error => icmp6_error(packet, row.drop6, icmpv6::UNREACHABLE, code, 0),
        Node::Drop => drop_for(packet, row.drop6),
        // Whether its neighbour is known or not, a packet goes no further than its hop limit.
        Node::Unresolved if has_expired(packet) => {
            icmp6_error(packet, DropReason::Ip6HopLimitExpired, icmpv6::TIME_EXCEEDED, 0, 0)
        }
        Node::Unresolved => {
            packet.meta_mut().tx_interface = row.tx_interface;
            Node::Unresolved
        }
        next => next,
    }
}

fn has_expired(packet: &Buf) -> bool {
    const HOP_LIMIT: usize = 7;
    !packet.meta().flags.contains(Flags::ORIGINATED)
        && packet.data().get(HOP_LIMIT).is_none_or(|limit| *limit <= 1)
}
