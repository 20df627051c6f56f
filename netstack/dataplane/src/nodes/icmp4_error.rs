//! Makes an ICMP error of a dropped packet (RFC 1812 §4.3, RFC 1122 §3.2.2).
//!
//! 1. The packet is counted as dropped, for the reason that it came with.
//! 2. Where an error may be sent, the packet is cut to what the error quotes, and becomes the error itself.
//! 3. The error is routed like any packet that this node makes.

use super::{IcmpError, drop, tunnel_error, was_for_us};
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::tables::{InterfaceId, Tables};
use buffer::{Buf, Flags, Vector};
use core::net::Ipv4Addr;
use packet::checksum::Sum;
use packet::icmpv4::Icmpv4;
use packet::ipv4::{DONT_FRAGMENT, Ipv4};
use packet::protocol;
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

/// An error is at most this long, IP header included (RFC 1812 §4.3.2.3).
const MAX_ERROR_BYTES: usize = 576;
const HEADERS_BYTES: usize = size_of::<Ipv4>() + size_of::<Icmpv4>();
/// DSCP of errors: internetwork control (RFC 1812 §4.3.2.5).
const DSCP_INTERNETWORK_CONTROL: u8 = 0xc0;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let routed = if cx.flows.is_some() { Node::Flow } else { Node::Ip4Lookup };
    for (packet, next) in packets.iter_mut().zip(nexts) {
        *next = Node::Drop;
        if packet.meta().flags.contains(Flags::TUNNELLED)
            && let Some(other) = tunnel_error::leave_tunnel(packet, Node::Icmp4Error)
        {
            *next = other;
            continue;
        }
        let Some(source) = source_address(cx, packet) else { continue };
        if may_answer(cx.tables, packet)
            && cx.limits.take_icmp_error(packet, cx.now_ns)
            && let Some(rest) = make_error(packet, source)
        {
            rest.into_iter().for_each(|rest| cx.cache.free_one(rest));
            drop::count_replaced(cx, packet);
            *next = routed;
        }
    }
}

/// The address that a refused packet was sent to, or that of the interface that the packet came in on, else of any.
fn source_address(cx: &Context<'_>, packet: &Buf) -> Option<Ipv4Addr> {
    if was_for_us(packet) {
        return Ipv4::ref_from_prefix(packet.data()).ok().map(|(header, _)| header.destination.into());
    }
    let rx = cx.tables.row(InterfaceId(packet.meta().rx_interface));
    let mut addresses = rx.into_iter().chain(cx.tables.rows()).flat_map(|row| &row.description.ipv4);
    addresses.next().map(|(address, _)| *address)
}

/// RFC 1812 §4.3.2.7: no error about an ICMP error, a broadcast or multicast, a fragment that is not the first, or a
/// source that is not one host.
fn may_answer(tables: &Tables, packet: &Buf) -> bool {
    let data = packet.data();
    let Ok((header, _)) = Ipv4::ref_from_prefix(data) else { return false };
    let is_host = |octet| matches!(octet, 1..=126 | 128..=223);
    let is_icmp_error = || {
        let message = data.get(header.header_len()..).and_then(|message| message.first());
        header.protocol == protocol::ICMP && message.is_none_or(|kind| Icmpv4::is_error(*kind))
    };
    let rx = tables.row(InterfaceId(packet.meta().rx_interface));
    !packet.meta().flags.contains(Flags::LINK_MULTICAST)
        && !rx.is_some_and(|row| row.is_directed_broadcast(header.destination.into()))
        && is_host(header.source[0])
        && is_host(header.destination[0])
        && header.fragment_offset_bytes() == 0
        && !is_icmp_error()
}

/// Turns the packet into the error that was left with it, and returns the segments that it does not quote. None: it has
/// no room, and is as it was.
fn make_error(packet: &mut Buf, source: Ipv4Addr) -> Option<Option<Buf>> {
    let error = IcmpError::of(packet);
    let (original, _) = Ipv4::read_from_prefix(packet.data()).ok()?;
    if packet.headroom() < HEADERS_BYTES {
        return None;
    }
    // Best effort: what is quoted may lack a checksum that nobody can complete.
    let _ = packet.complete_checksum();
    let rest_of_packet = packet.truncate(MAX_ERROR_BYTES - HEADERS_BYTES);

    let mut icmp =
        Icmpv4 { kind: error.kind, code: error.code, checksum: U16::ZERO, rest: error.rest.to_be_bytes() };
    icmp.checksum = packet.segments().fold(Sum::new().bytes(icmp.as_bytes()), Sum::bytes).finish();
    let length = packet.total_len() + size_of::<Icmpv4>();
    let mut header = Ipv4 {
        dscp_ecn: DSCP_INTERNETWORK_CONTROL,
        flags_fragment: U16::new(DONT_FRAGMENT),
        ..Ipv4::new(protocol::ICMP, source.octets(), original.source, length)
    };
    header.fill_checksum();
    let (ip, rest) = packet.push_front(HEADERS_BYTES).ok()?.split_at_mut(size_of::<Ipv4>());
    ip.copy_from_slice(header.as_bytes());
    icmp.write_to_prefix(rest).ok()?;
    let flags = packet.meta().flags;
    packet.meta_mut().flags = (flags & Flags::TRACED) | Flags::ORIGINATED;
    Some(rest_of_packet)
}
