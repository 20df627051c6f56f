//! Takes packets from control.

use super::drop_for;
use crate::DropReason;
use crate::context::Context;
use crate::exchange::{Inject, InjectTo};
use crate::graph::{Nexts, Node};
use crate::tables::{InterfaceId, Tables};
use buffer::{Buf, Flags, Vector};
use packet::ethernet::{ETHERTYPE_VLAN, Ethernet};

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let queue = cx.shared.injected(cx.worker);
    for next in nexts.iter_mut().take(cx.injects) {
        let Some(Inject { mut packet, to }) = queue.pop() else { break };
        *next = accept(&mut packet, to, cx.tables);
        // One for each place in `nexts`, which has as many as a vector.
        let _ = packets.push(packet);
    }
    cx.counters.injected.add(packets.len() as u64);
    cx.balance.entered += packets.len() as u64;
}

fn accept(packet: &mut Buf, to: InjectTo, tables: &Tables) -> Node {
    // A packet of control's own came in on no interface. One that waited for its neighbour keeps its own, whose address
    // is the source of an error about it.
    if packet.meta().flags.contains(Flags::ORIGINATED) {
        packet.meta_mut().rx_interface = u16::MAX;
    }
    match to {
        InjectTo::Forward4 if packet.len() >= 20 => Node::Ip4Lookup,
        InjectTo::Forward6 if packet.len() >= 40 => Node::Ip6Lookup,
        InjectTo::Transmit(interface) if packet.len() >= size_of::<Ethernet>() => {
            transmit(packet, interface, tables)
        }
        _ => drop_for(packet, DropReason::InjectMalformed),
    }
}

/// Gives a frame the VLAN tag of the interface that it leaves by.
fn transmit(packet: &mut Buf, interface: InterfaceId, tables: &Tables) -> Node {
    let Some(row) = tables.row(interface) else { return drop_for(packet, DropReason::InterfaceDown) };
    packet.meta_mut().tx_interface = interface.0;
    if row.is_tagged() {
        let Ok(frame) = packet.push_front(4) else { return drop_for(packet, DropReason::NoHeadroom) };
        frame.copy_within(4..16, 0);
        frame[12..14].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
        frame[14..16].copy_from_slice(&row.vlan_id.to_be_bytes());
    }
    Node::InterfaceOutput
}
