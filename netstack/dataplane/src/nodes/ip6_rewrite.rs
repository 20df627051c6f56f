//! Hop limit, MTU, Ethernet header or tunnel.

use super::ip_fragment::cut_to;
use super::{drop_for, icmp6_error};
use crate::DropReason;
use crate::context::Context;
use crate::counters::CountRun;
use crate::graph::{Nexts, Node};
use crate::tables::AdjacencyRow;
use buffer::{Buf, Flags, Vector};
use packet::ethernet::ETHERTYPE_IPV6;
use packet::icmpv6;
use packet::ipv6::{Ipv6, MIN_MTU};
use zerocopy::FromBytes;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let tables = cx.tables;
    let mut counted = CountRun::new(|id| cx.counters.adjacencies.get(id as usize));
    for (packet, next) in packets.iter_mut().zip(nexts) {
        let id = packet.meta().adjacency;
        let row = tables.adjacency(id);
        *next = if is_plain(packet, row) {
            row.push_ethernet(packet, ETHERTYPE_IPV6)
        } else {
            forward(packet, row)
        };
        if matches!(*next, Node::InterfaceOutput | Node::EspEncrypt) {
            counted.add(id, packet.total_len());
        }
    }
    counted.finish();
}

/// True for a packet that has hops left and fits; its hop limit is decremented then, unless this node made it.
#[inline(always)]
fn is_plain(packet: &mut Buf, row: &AdjacencyRow) -> bool {
    let originated = packet.meta().flags.contains(Flags::ORIGINATED);
    let fits = packet.total_len() <= usize::from(row.mtu);
    match Ipv6::mut_from_prefix(packet.data_mut()) {
        Ok((header, _)) if fits & (originated | (header.hop_limit > 1)) => {
            header.hop_limit -= u8::from(!originated);
            true
        }
        _ => false,
    }
}

/// Makes any other packet ready to be sent to the neighbour.
#[cold]
fn forward(packet: &mut Buf, row: &AdjacencyRow) -> Node {
    let originated = packet.meta().flags.contains(Flags::ORIGINATED);
    let mtu = if row.tunnel().is_some() { into_tunnel(row.mtu.into()) } else { row.mtu.into() };
    let too_long = packet.total_len() > mtu;
    let Ok((header, _)) = Ipv6::mut_from_prefix(packet.data_mut()) else {
        return drop_for(packet, DropReason::Ip6BadLength);
    };
    if header.hop_limit <= 1 && !originated {
        return icmp6_error(packet, DropReason::Ip6HopLimitExpired, icmpv6::TIME_EXCEEDED, 0, 0);
    }
    if too_long {
        return cut_or_refuse(packet, row, mtu);
    }
    if !originated {
        header.hop_limit -= 1;
    }
    row.push_ethernet(packet, ETHERTYPE_IPV6)
}

/// The longest packet that is put into a tunnel which takes so many bytes: the least MTU of IPv6 passes any, if need be in an
/// outer packet that is cut (RFC 2473 §7.1).
pub(super) fn into_tunnel(mtu: usize) -> usize {
    mtu.max(MIN_MTU.into())
}

/// What this node made is cut by it, as its source: into what any path takes, of which it keeps no record (RFC 8200 §5). Outer packets
/// are cut to the link, since what is known of their path is known before; but not those of a tunnel in a tunnel whose MTU does not
/// take the other into account.
fn cut_or_refuse(packet: &mut Buf, row: &AdjacencyRow, mtu: usize) -> Node {
    let is_outer = packet.meta().flags.contains(Flags::ENCAPSULATED);
    match row.tunnel() {
        Some(_) if is_outer => drop_for(packet, DropReason::EspTooLong),
        Some(_) if is_own(packet) => {
            let _: Node = row.push_ethernet(packet, ETHERTYPE_IPV6);
            cut_to(packet, mtu, Node::TunnelFragment)
        }
        None if is_own(packet) => {
            cut_to(packet, if is_outer { mtu } else { MIN_MTU.into() }, Node::IpFragment)
        }
        _ => too_big(packet, mtu),
    }
}

/// True for a packet that this node made, and not of another one's for a tunnel to a service's backend.
pub(super) fn is_own(packet: &Buf) -> bool {
    packet.meta().flags.intersection(Flags::ORIGINATED.union(Flags::TUNNELLED)) == Flags::ORIGINATED
}

/// Tells the sender the MTU (RFC 8201 §3).
pub(super) fn too_big(packet: &mut Buf, mtu: usize) -> Node {
    icmp6_error(packet, DropReason::Ip6PacketTooBig, icmpv6::PACKET_TOO_BIG, 0, mtu as u32)
}
