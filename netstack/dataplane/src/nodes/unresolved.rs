//! Packets whose neighbour control must resolve, so many a second. Directed broadcasts have none.

use super::{drop_for, punt_for};
use crate::DropReason;
use crate::context::Context;
use crate::exchange::PuntReason;
use crate::graph::{Nexts, Node};
use crate::tables::{AdjacencyId, InterfaceId, Tables};
use buffer::{Buf, Vector};
use packet::ipv4::Ipv4;
use zerocopy::FromBytes;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    for (packet, next) in packets.iter_mut().zip(nexts) {
        *next = resolve(cx, packet);
    }
}

fn resolve(cx: &mut Context<'_>, packet: &mut Buf) -> Node {
    if is_directed_broadcast(cx.tables, packet) {
        return drop_for(packet, DropReason::Ip4DirectedBroadcast);
    }
    if !cx.limits.take_unresolved(packet, cx.now_ns) {
        return drop_for(packet, DropReason::PuntRateLimited);
    }
    let adjacency = AdjacencyId(packet.meta().adjacency);
    punt_for(packet, PuntReason::Unresolved(adjacency))
}

/// True for an IPv4 packet to all hosts of a network of the interface that it would leave by (RFC 2644 §2).
pub(super) fn is_directed_broadcast(tables: &Tables, packet: &Buf) -> bool {
    let Some(row) = tables.row(InterfaceId(packet.meta().tx_interface)) else { return false };
    let Ok((header, _)) = Ipv4::ref_from_prefix(packet.data()) else { return false };
    header.version() == 4 && row.is_directed_broadcast(header.destination.into())
}
