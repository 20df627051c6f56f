//! Takes a vector of frames that another worker handed over: they are routed, and this worker has a queue of their port.

use crate::context::Context;
use crate::graph::{Nexts, Node};
use buffer::{Flags, Vector};

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let Some(mut handed) = cx.shared.inbox(cx.worker).pop(cx.from_worker) else { return };
    for packet in handed.drain(..) {
        if packet.meta().flags.contains(Flags::TRACED) {
            cx.trace.follow();
        }
        // The node's vector was empty.
        let _ = packets.push(packet);
    }
    cx.shared.inbox(cx.from_worker).give_empty(handed);
    cx.balance.entered += packets.len() as u64;
    nexts[..packets.len()].fill(Node::InterfaceOutput);
}
