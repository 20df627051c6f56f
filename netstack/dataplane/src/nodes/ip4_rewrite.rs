//! TTL, checksum, MTU, Ethernet header or tunnel.

use super::ip_fragment::cut_to;
use super::{drop_for, icmp4_error};
use crate::DropReason;
use crate::context::Context;
use crate::counters::CountRun;
use crate::graph::{Nexts, Node};
use crate::tables::AdjacencyRow;
use buffer::{Buf, Flags, Vector};
use packet::ethernet::ETHERTYPE_IPV4;
use packet::icmpv4;
use packet::ipv4::{DONT_FRAGMENT, Ipv4};
use zerocopy::FromBytes;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let tables = cx.tables;
    let mut counted = CountRun::new(|id| cx.counters.adjacencies.get(id as usize));
    for (packet, next) in packets.iter_mut().zip(nexts) {
        let id = packet.meta().adjacency;
        let row = tables.adjacency(id);
        *next = if is_plain(packet, row) {
            row.push_ethernet(packet, ETHERTYPE_IPV4)
        } else {
            forward(packet, row)
        };
        if matches!(*next, Node::InterfaceOutput | Node::EspEncrypt) {
            counted.add(id, packet.total_len());
        }
    }
    counted.finish();
}

/// True for a packet that has hops left and fits; its TTL is decremented then, unless this node made it.
#[inline(always)]
fn is_plain(packet: &mut Buf, row: &AdjacencyRow) -> bool {
    let originated = packet.meta().flags.contains(Flags::ORIGINATED);
    let fits = packet.total_len() <= usize::from(row.mtu);
    match Ipv4::mut_from_prefix(packet.data_mut()) {
        Ok((header, _)) if fits & (originated | (header.ttl > 1)) => {
            if !originated {
                header.decrement_ttl();
            }
            true
        }
        _ => false,
    }
}

/// Makes any other packet ready to be sent to the neighbour.
#[cold]
fn forward(packet: &mut Buf, row: &AdjacencyRow) -> Node {
    let originated = packet.meta().flags.contains(Flags::ORIGINATED);
    let too_long = packet.total_len() > usize::from(row.mtu);
    let Ok((header, _)) = Ipv4::mut_from_prefix(packet.data_mut()) else {
        return drop_for(packet, DropReason::Ip4BadLength);
    };
    if header.ttl <= 1 && !originated {
        return icmp4_error(packet, DropReason::Ip4TtlExpired, icmpv4::TIME_EXCEEDED, 0, 0);
    }
    if too_long && header.flags_fragment.get() & DONT_FRAGMENT != 0 {
        return fragmentation_needed(packet, row.mtu.into());
    }
    if !originated {
        header.decrement_ttl();
    }
    if too_long && row.tunnel().is_some() {
        return cut_for_tunnel(packet, row);
    }
    if too_long {
        return cut_to(packet, row.mtu.into(), Node::IpFragment);
    }
    row.push_ethernet(packet, ETHERTYPE_IPV4)
}

/// Has a packet cut before it is encrypted. What was encrypted already is not cut again: that would be a tunnel in a
/// tunnel whose MTU does not take the other into account.
fn cut_for_tunnel(packet: &mut Buf, row: &AdjacencyRow) -> Node {
    if packet.meta().flags.contains(Flags::ENCAPSULATED) {
        return drop_for(packet, DropReason::EspTooLong);
    }
    let _: Node = row.push_ethernet(packet, ETHERTYPE_IPV4);
    cut_to(packet, row.mtu.into(), Node::TunnelFragment)
}

/// Tells the sender the MTU (RFC 1191 §4).
pub(super) fn fragmentation_needed(packet: &mut Buf, mtu: usize) -> Node {
    let code = icmpv4::UNREACHABLE_FRAGMENTATION_NEEDED;
    icmp4_error(packet, DropReason::Ip4FragmentationNeeded, icmpv4::UNREACHABLE, code, mtu as u32)
}
