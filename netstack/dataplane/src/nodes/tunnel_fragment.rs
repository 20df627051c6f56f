//! Cuts packets to what a tunnel takes, before they are encrypted: whoever decrypts them has nothing to reassemble. They are as
//! those for ip-fragment.
//!
//! Who sends a packet here leaves the MTU in `opaque[0]`, and the tunnel in `opaque[1]` as for esp-encrypt.

use super::ip_fragment::cut;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use buffer::Vector;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    cut(cx, packets, nexts, Node::TunnelFragment, |_| None);
}
