//! Decrypts ESP packets to this node, a vector at a time; what comes out came in by the tunnel's interface.

use super::esp_encrypt::{clamp_mss, reason};
use super::{drop_for, linearise};
use crate::DropReason;
use crate::context::Context;
use crate::counters::CountRun;
use crate::graph::{Nexts, Node};
use crate::tables::InterfaceId;
use buffer::{VECTOR_SIZE, Vector};
use ipsec::EspError;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let mut results = [Err(EspError::UnknownSpi); VECTOR_SIZE];
    let count = packets.len();
    linearise(cx.cache, packets);
    ipsec::decapsulate(cx.ipsec, packets, cx.now_ns, &mut results[..count]);
    let mut counted = CountRun::new(|id| cx.counters.tunnels.get(id as usize).map(|counter| &counter.rx));
    for ((packet, next), result) in packets.iter_mut().zip(nexts).zip(&results) {
        let sa = match result {
            Ok(sa) => sa,
            Err(error) => {
                *next = drop_for(packet, reason(*error));
                continue;
            }
        };
        *next = match packet.data().first() {
            Some(first) if first >> 4 == 4 => Node::Ip4Input,
            _ => Node::Ip6Input,
        };
        let tunnel = cx.ipsec.tunnel(sa.parameters().tunnel);
        if tunnel.is_some_and(|tunnel| tunnel.clamp_mss) {
            clamp_mss(cx.tables, packet, sa, tunnel.and_then(|tunnel| tunnel.interface).unwrap_or(u16::MAX));
        }
        if let Some(interface) = tunnel.and_then(|tunnel| tunnel.interface) {
            packet.meta_mut().rx_interface = interface;
            counted.add(interface.into(), packet.len());
            if !cx.tables.row(InterfaceId(interface)).is_some_and(|row| row.description.up) {
                *next = drop_for(packet, DropReason::InterfaceDown);
            }
        }
    }
    counted.finish();
}
