//! Takes packets from control.

use super::ip6_headers::upper_layer_field;
use super::{drop_for, icmp4_error, icmp6_error, ipsec_policy};
use crate::DropReason;
use crate::context::Context;
use crate::exchange::{Inject, InjectTo, Refusal};
use crate::graph::{Nexts, Node};
use crate::policing::Policy;
use crate::tables::{InterfaceId, Tables};
use buffer::{Buf, Flags, Vector};
use packet::ethernet::{ETHERTYPE_VLAN, Ethernet};
use packet::{icmpv4, icmpv6};

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let queue = cx.shared.injected(cx.worker);
    let is_judged = cx.flows.is_some() && cx.policy.is_some_and(Policy::is_about_the_node);
    for next in nexts.iter_mut().take(cx.injects) {
        let Some(Inject { mut packet, to }) = queue.pop() else { break };
        *next = accept(cx, &mut packet, to);
        if is_judged && matches!(*next, Node::Ip4Lookup | Node::Ip6Lookup) {
            *next = Node::Flow;
        }
        // One for each place in `nexts`, which has as many as a vector.
        let _ = packets.push(packet);
    }
    cx.counters.injected.add(packets.len() as u64);
    cx.balance.entered += packets.len() as u64;
}

fn accept(cx: &Context<'_>, packet: &mut Buf, to: InjectTo) -> Node {
    // A packet of control's own came in on no interface. One that waited for its neighbour keeps its own, whose address
    // is the source of an error about it.
    if packet.meta().flags.contains(Flags::ORIGINATED) {
        packet.meta_mut().rx_interface = u16::MAX;
    }
    match to {
        InjectTo::Forward4 if packet.len() >= 20 => Node::Ip4Lookup,
        InjectTo::Forward6 if packet.len() >= 40 => Node::Ip6Lookup,
        InjectTo::Refuse(refusal) => refuse(packet, refusal),
        InjectTo::Transmit(interface) if packet.len() >= size_of::<Ethernet>() => {
            match ipsec_policy::refuse_frame(cx, packet.data()) {
                Some(reason) => drop_for(packet, reason),
                None => transmit(packet, interface, cx.tables),
            }
        }
        _ => drop_for(packet, DropReason::InjectMalformed),
    }
}

/// Has the sender of a packet told that nobody takes it.
fn refuse(packet: &mut Buf, refusal: Refusal) -> Node {
    use {icmpv4 as v4, icmpv6 as v6};
    let reason = match refusal {
        Refusal::Port => DropReason::LocalPortUnreachable,
        Refusal::Protocol => DropReason::LocalProtocolUnreachable,
        Refusal::ReassemblyTime => DropReason::ReassemblyTimeout,
    };
    match packet.data().first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            let (kind, code) = match refusal {
                Refusal::Port => (v4::UNREACHABLE, v4::UNREACHABLE_PORT),
                Refusal::Protocol => (v4::UNREACHABLE, v4::UNREACHABLE_PROTOCOL),
                Refusal::ReassemblyTime => (v4::TIME_EXCEEDED, v4::TIME_EXCEEDED_REASSEMBLY),
            };
            icmp4_error(packet, reason, kind, code, 0)
        }
        Some(6) if packet.len() >= 40 => {
            let field = upper_layer_field(packet.data()).unwrap_or_default();
            let (kind, code, rest) = match refusal {
                Refusal::Port => (v6::UNREACHABLE, v6::UNREACHABLE_PORT, 0),
                Refusal::Protocol => (v6::PARAMETER_PROBLEM, v6::PARAMETER_NEXT_HEADER, field),
                Refusal::ReassemblyTime => (v6::TIME_EXCEEDED, v6::TIME_EXCEEDED_REASSEMBLY, 0),
            };
            icmp6_error(packet, reason, kind, code, rest)
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
