//! Takes a vector that another worker handed over: frames that are routed, and this worker has a queue of their port; or
//! packets whose flow this worker has.

use super::flow;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use buffer::{Flags, Vector};

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let Some(mut handed) = cx.shared.inbox(cx.worker).pop(cx.from_worker) else { return };
    let has_flows = cx.flows.is_some();
    for (packet, next) in handed.drain(..).zip(nexts.iter_mut()) {
        *next = match packet.meta().flags.contains(Flags::HANDED_OVER) {
            true if has_flows => Node::Flow,
            true => flow::lookup(&packet),
            false => Node::InterfaceOutput,
        };
        if packet.meta().flags.contains(Flags::TRACED) {
            cx.trace.follow();
        }
        // The node's vector was empty.
        let _ = packets.push(packet);
    }
    cx.shared.inbox(cx.from_worker).give_empty(handed);
    cx.balance.entered += packets.len() as u64;
}
