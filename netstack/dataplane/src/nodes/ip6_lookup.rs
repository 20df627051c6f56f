//! IPv6 route lookup: destination to next-hop group, group to adjacency by flow hash.

use super::{drop_for, icmp6_error, ipsec_policy};
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

    let (tables, key) = (cx.tables, cx.shared.flow_key());
    let redirected = &mut nexts[..packets.len()];
    for ((packet, next), group) in packets.iter_mut().zip(&mut *redirected).zip(groups) {
        let group = tables.group(*group);
        let id = if group.mask == 0 { group.first } else { tables.bucket(group, key.ipv6(packet)) };
        packet.meta_mut().adjacency = id;
        let row = tables.adjacency(id);
        *next = row.next6;
        if row.next6 != Node::Ip6Rewrite && row.next6 != Node::Ip6Local {
            *next = not_forwarded(packet, row);
        }
    }
    if cx.ipsec.has_policies() {
        ipsec_policy::redirect(packets, redirected);
    }
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
