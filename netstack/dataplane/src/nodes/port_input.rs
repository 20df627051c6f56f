//! Takes a vector of frames from a port.

use crate::context::Context;
use crate::graph::{Nexts, Node};
use buffer::Vector;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let Some(port) = cx.ports.get_mut(cx.rx_port) else { return };
    let _ = port.queue.receive(cx.cache, packets);
    cx.balance.entered += packets.len() as u64;
    nexts[..packets.len()].fill(Node::EthernetInput);
}
