//! Makes an ICMPv6 error of a dropped packet (RFC 4443 §2.4).
//!
//! 1. The packet is counted as dropped, for the reason that it came with.
//! 2. Where an error may be sent, the packet is cut to what the error quotes, and becomes the error itself.
//! 3. The error is routed like any packet that this node makes.

use super::ip6_headers::may_be_icmp_error;
use super::{IcmpError, drop, tunnel_error, was_for_us};
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::tables::InterfaceId;
use buffer::{Buf, Flags, Vector};
use core::net::Ipv6Addr;
use packet::checksum::Sum;
use packet::icmpv6::{Icmpv6, PACKET_TOO_BIG, PARAMETER_OPTION, PARAMETER_PROBLEM};
use packet::ipv6::{Ipv6, MIN_MTU};
use packet::protocol;
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

const HEADERS_BYTES: usize = size_of::<Ipv6>() + size_of::<Icmpv6>();

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let routed = if cx.flows.is_some() { Node::Flow } else { Node::Ip6Lookup };
    for (packet, next) in packets.iter_mut().zip(nexts) {
        *next = Node::Drop;
        if packet.meta().flags.contains(Flags::TUNNELLED)
            && let Some(other) = tunnel_error::leave_tunnel(packet, Node::Icmp6Error)
        {
            *next = other;
            continue;
        }
        let Some(source) = source_address(cx, packet) else { continue };
        if may_answer(packet)
            && cx.limits.take_icmp_error(packet, cx.now_ns)
            && let Some(rest) = make_error(packet, source)
        {
            rest.into_iter().for_each(|rest| cx.cache.free_one(rest));
            drop::count_replaced(cx, packet);
            *next = routed;
        }
    }
}

/// The address that a refused packet was sent to, or a global one of the interface that the packet came in on, else of
/// any.
fn source_address(cx: &Context<'_>, packet: &Buf) -> Option<Ipv6Addr> {
    if was_for_us(packet) {
        return Ipv6::ref_from_prefix(packet.data()).ok().map(|(header, _)| header.destination.into());
    }
    let rx = cx.tables.row(InterfaceId(packet.meta().rx_interface));
    let addresses = rx.into_iter().chain(cx.tables.rows()).flat_map(|row| &row.description.ipv6);
    addresses.map(|(address, _)| *address).find(|address| !address.is_unicast_link_local())
}

/// RFC 4443 §2.4 e: no error about an error, about a packet to a group (but for two kinds), or to a source that is not
/// one node. A link-local source gets none either: its packets are not forwarded.
fn may_answer(packet: &Buf) -> bool {
    let Ok((header, _)) = Ipv6::ref_from_prefix(packet.data()) else { return false };
    let source = Ipv6Addr::from(header.source);
    if source.is_unspecified() || source.is_multicast() || source.is_unicast_link_local() {
        return false;
    }
    let error = IcmpError::of(packet);
    let to_group = packet.meta().flags.contains(Flags::LINK_MULTICAST)
        || Ipv6Addr::from(header.destination).is_multicast();
    let even_about_groups =
        error.kind == PACKET_TOO_BIG || (error.kind == PARAMETER_PROBLEM && error.code == PARAMETER_OPTION);
    if to_group && !even_about_groups {
        return false;
    }
    !may_be_icmp_error(packet.data())
}

/// Turns the packet into the error that was left with it, and returns the segments that it does not quote. None: it has
/// no room, and is as it was.
fn make_error(packet: &mut Buf, source: Ipv6Addr) -> Option<Option<Buf>> {
    let error = IcmpError::of(packet);
    let (original, _) = Ipv6::read_from_prefix(packet.data()).ok()?;
    if packet.headroom() < HEADERS_BYTES {
        return None;
    }
    // Best effort: what is quoted may lack a checksum that nobody can complete.
    let _ = packet.complete_checksum();
    let rest_of_packet = packet.truncate(usize::from(MIN_MTU) - HEADERS_BYTES);

    let length = packet.total_len() + size_of::<Icmpv6>();
    let header = Ipv6::new(protocol::ICMPV6, source.octets(), original.source, length);
    let mut icmp =
        Icmpv6 { kind: error.kind, code: error.code, checksum: U16::ZERO, rest: U32::new(error.rest) };
    let sum = header.pseudo_header(protocol::ICMPV6, length as u32).bytes(icmp.as_bytes());
    icmp.checksum = packet.segments().fold(sum, Sum::bytes).finish();
    let (ip, rest) = packet.push_front(HEADERS_BYTES).ok()?.split_at_mut(size_of::<Ipv6>());
    ip.copy_from_slice(header.as_bytes());
    icmp.write_to_prefix(rest).ok()?;
    let flags = packet.meta().flags;
    packet.meta_mut().flags = (flags & Flags::TRACED) | Flags::ORIGINATED;
    Some(rest_of_packet)
}
