//! Takes fragments that need not be held any more: the first one of their packet has come, or is not expected to come.

use super::{drop_for, flow};
use crate::DropReason;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::held::Released;
use buffer::Vector;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let has_flows = cx.flows.is_some();
    let mut nexts = nexts.iter_mut();
    cx.held.release(cx.now_ns, |released| {
        let (packet, next) = match released {
            Released::Follows(packet) if has_flows => (packet, Node::Flow),
            Released::Follows(packet) => {
                let next = flow::lookup(&packet);
                (packet, next)
            }
            Released::Late(mut packet) => {
                let next = drop_for(&mut packet, DropReason::FragmentWithoutFirst);
                (packet, next)
            }
        };
        // A vector takes all that the ring holds.
        if packets.push(packet).is_ok()
            && let Some(place) = nexts.next()
        {
            *place = next;
        }
    });
    cx.counters.flows.held.set(cx.held.len() as u64);
    cx.balance.entered += packets.len() as u64;
}
