//! Counts why packets are dropped, and frees them.

use crate::context::Context;
use crate::graph::Nexts;
use buffer::{Buf, Vector};

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, _: &mut Nexts) {
    for packet in packets.iter() {
        count(cx, packet);
    }
    cx.balance.left += packets.len() as u64;
    cx.cache.free(packets);
}

/// Counts a packet as dropped whose buffer has become an error about it, and that error as made.
pub(super) fn count_replaced(cx: &mut Context<'_>, packet: &Buf) {
    count(cx, packet);
    cx.counters.made.add(1);
    cx.balance.left += 1;
    cx.balance.entered += 1;
}

/// Counts the reason that was left with a packet, and the interface that it came in on.
fn count(cx: &Context<'_>, packet: &Buf) {
    let meta = packet.meta();
    if let Some(counter) = cx.counters.drops.get(usize::from(meta.drop_reason)) {
        counter.add(1);
    }
    if let Some(counter) = cx.counters.interfaces.get(usize::from(meta.rx_interface)) {
        counter.rx_drops.add(1);
    }
}
