//! Cuts IPv4 packets to what a tunnel takes, before they are encrypted: whoever decrypts them has nothing to reassemble.
//!
//! Who sends a packet here leaves the MTU in `opaque[0]`, and the tunnel in `opaque[1]` as for esp-encrypt.

use super::ip4_fragment::{Cut, cut};
use crate::context::Context;
use crate::graph::{Nexts, Node};
use buffer::Vector;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    cut(cx, packets, nexts, Node::TunnelFragment, |packet| Cut {
        mtu: u16::try_from(packet.meta().opaque[0]).unwrap_or(u16::MAX),
        to: None,
    });
}
