//! IPv4 route lookup: destination to next-hop group, group to adjacency by flow hash.

use super::unresolved::is_directed_broadcast;
use super::{drop_for, icmp4_error, ipsec_policy, one_way};
use crate::DropReason;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::tables::{AdjacencyRow, Tables};
use buffer::{Buf, Flags, Vector};
use packet::icmpv4;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let destinations = &mut cx.scratch.destinations4[..packets.len()];
    let groups = &mut cx.scratch.groups[..packets.len()];
    if !core::mem::take(&mut cx.scratch.has_destinations) {
        for (packet, destination) in packets.iter().zip(&mut *destinations) {
            // Every way here has checked that there is a header.
            let bytes = packet.data().get(16..20).and_then(|bytes| bytes.first_chunk::<4>());
            *destination = bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes));
        }
    }
    cx.shared.fib4().lookup_batch(destinations, groups);

    let redirected = &mut nexts[..packets.len()];
    match one_way(cx.tables, groups) {
        Some((id, row)) if is_forwarded(row) => {
            packets.iter_mut().for_each(|packet| packet.meta_mut().adjacency = id);
            redirected.fill(row.next4);
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
        let id = tables.choose(group, || key.ipv4(packet));
        packet.meta_mut().adjacency = id;
        let row = tables.adjacency(id);
        *next = if is_forwarded(row) { row.next4 } else { not_forwarded(tables, packet, row) };
    }
}

/// Whether nothing more need be known about packets than their adjacency.
#[inline(always)]
fn is_forwarded(row: &AdjacencyRow) -> bool {
    row.next4 == Node::Ip4Rewrite || row.next4 == Node::Ip4Local
}

/// What else an adjacency may be than a neighbour to send to.
#[cold]
fn not_forwarded(tables: &Tables, packet: &mut Buf, row: &AdjacencyRow) -> Node {
    packet.meta_mut().tx_interface = row.tx_interface;
    let code = match row.drop4 {
        DropReason::Ip4NoRoute => icmpv4::UNREACHABLE_NETWORK,
        DropReason::Prohibited => icmpv4::UNREACHABLE_PROHIBITED,
        _ => icmpv4::UNREACHABLE_HOST,
    };
    match row.next4 {
        Node::Icmp4Error => icmp4_error(packet, row.drop4, icmpv4::UNREACHABLE, code, 0),
        Node::Drop => drop_for(packet, row.drop4),
        // Whether its neighbour is known or not, a packet goes no further than its TTL. About one to all hosts of a
        // network no error is sent (RFC 1812 §4.3.2.7).
        Node::Unresolved if has_expired(packet) && !is_directed_broadcast(tables, packet) => {
            icmp4_error(packet, DropReason::Ip4TtlExpired, icmpv4::TIME_EXCEEDED, 0, 0)
        }
        next => next,
    }
}

fn has_expired(packet: &Buf) -> bool {
    const TTL: usize = 8;
    !packet.meta().flags.contains(Flags::ORIGINATED) && packet.data().get(TTL).is_none_or(|ttl| *ttl <= 1)
}
