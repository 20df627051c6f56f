//! ARP for control.

use super::{drop_for, punt_for};
use crate::DropReason;
use crate::context::Context;
use crate::exchange::PuntReason;
use crate::graph::Nexts;
use buffer::Vector;
use packet::arp::Arp;
use zerocopy::FromBytes;

#[inline(never)]
pub(crate) fn run(_: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    for (packet, next) in packets.iter_mut().zip(nexts) {
        let valid = Arp::ref_from_prefix(packet.data()).is_ok_and(|(arp, _)| arp.is_ipv4_over_ethernet());
        *next = if valid {
            punt_for(packet, PuntReason::Arp)
        } else {
            drop_for(packet, DropReason::ArpMalformed)
        };
    }
}
