//! Packets whose neighbour control must resolve, so many a second.

use super::{drop_for, punt_for};
use crate::DropReason;
use crate::context::Context;
use crate::exchange::PuntReason;
use crate::graph::Nexts;
use crate::tables::AdjacencyId;
use buffer::Vector;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    for (packet, next) in packets.iter_mut().zip(nexts) {
        *next = if cx.limits.unresolved.take(cx.now_ns) {
            let adjacency = AdjacencyId(packet.meta().adjacency);
            punt_for(packet, PuntReason::Unresolved(adjacency))
        } else {
            drop_for(packet, DropReason::PuntRateLimited)
        };
    }
}
