//! Hands packets to control.

use super::{drop_for, punt_reason};
use crate::DropReason;
use crate::context::Context;
use crate::exchange::Punt;
use crate::graph::{Nexts, Node};
use crate::tables::InterfaceId;
use buffer::Vector;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let mut refused = Vector::new();
    let mut punted = 0;
    for packet in packets.drain(..) {
        let interface = InterfaceId(packet.meta().rx_interface);
        let reason = punt_reason(&packet);
        match cx.shared.punt(Punt { packet, interface, reason }) {
            Ok(()) => {
                punted += 1;
                if let Some(counter) = cx.counters.interfaces.get(usize::from(interface.0)) {
                    counter.punts.add(1);
                }
            }
            Err(mut punt) => {
                let _: Node = drop_for(&mut punt.packet, DropReason::PuntQueueFull);
                // Not more than there were in a vector.
                let _ = refused.push(punt.packet);
            }
        }
    }
    cx.counters.punted.add(punted);
    cx.balance.left += punted;
    if punted > 0 {
        cx.shared.wake_control();
    }
    nexts[..refused.len()].fill(Node::Drop);
    *packets = refused;
}
