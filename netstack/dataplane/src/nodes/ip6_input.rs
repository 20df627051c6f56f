//! IPv6 header validation (RFC 8200 §3, §4.3), scopes (RFC 4291, RFC 4007), groups.
//!
//! Leaves a packet whose lengths agree: data is exactly the IPv6 header and its payload.

use super::ip6_headers::{OptionProblem, check_hop_by_hop};
use super::{drop_for, icmp6_error};
use crate::DropReason;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::tables::InterfaceId;
use buffer::{Buf, Vector};
use core::net::Ipv6Addr;
use packet::ipv6::Ipv6;
use packet::{icmpv6, protocol};
use zerocopy::FromBytes;

const HEADER_LEN: usize = size_of::<Ipv6>();

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let mut all_plain = true;
    for (index, (packet, next)) in packets.iter_mut().zip(nexts).enumerate() {
        *next = match plain_destination(packet) {
            Some(destination) => {
                cx.scratch.destinations6[index] = destination;
                Node::Ip6Lookup
            }
            None => {
                all_plain = false;
                examine(cx, packet)
            }
        };
    }
    // Nothing waits at ip6-lookup yet: if all go there, they come there as they are.
    cx.scratch.has_destinations = all_plain;
}

/// The destination of what almost every packet is: valid, without hop-by-hop options, from and to a unicast address of
/// global scope. Its length is cut to what the header says. None for all others, which stay as they are.
#[inline(always)]
fn plain_destination(packet: &mut Buf) -> Option<u128> {
    let header = packet.data().first_chunk::<HEADER_LEN>()?;
    let length = HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let plain = (header[0] >> 4 == 6)
        & (length <= packet.len())
        & (header[6] != protocol::HOP_BY_HOP)
        & is_ordinary(header[8])
        & is_ordinary(header[24])
        & !packet.is_chained();
    let destination = header.last_chunk::<16>().map(|bytes| u128::from_be_bytes(*bytes));
    destination.filter(|_| plain).inspect(|_| packet.shorten(length))
}

/// True if addresses with this first octet are neither special (0), link-local or site-local (0xfe), nor groups (0xff).
#[inline(always)]
fn is_ordinary(octet: u8) -> bool {
    octet.wrapping_sub(1) < 0xfd
}

/// Everything but a plain packet, check by check.
#[cold]
fn examine(cx: &Context<'_>, packet: &mut Buf) -> Node {
    let Ok((header, _)) = Ipv6::read_from_prefix(packet.data()) else {
        return drop_for(packet, DropReason::Ip6BadLength);
    };
    if header.version() != 6 {
        return drop_for(packet, DropReason::Ip6BadHeader);
    }
    let length = HEADER_LEN + usize::from(header.payload_length.get());
    if length > packet.total_len() {
        return drop_for(packet, DropReason::Ip6BadLength);
    }
    packet.truncate(length);
    let (source, destination) = (Ipv6Addr::from(header.source), Ipv6Addr::from(header.destination));
    if source.is_multicast() || source.is_loopback() || source.to_ipv4_mapped().is_some() {
        return drop_for(packet, DropReason::Ip6MartianSource);
    }
    if destination.is_unspecified() || destination.is_loopback() || destination.to_ipv4_mapped().is_some() {
        return drop_for(packet, DropReason::Ip6MartianDestination);
    }
    if header.next_header == protocol::HOP_BY_HOP
        && let Err(problem) = check_hop_by_hop(packet.data())
    {
        return refuse_options(packet, problem, destination);
    }
    match by_scope(cx, packet, source, destination) {
        Ok(next) => next,
        Err(reason) => drop_for(packet, reason),
    }
}

/// Where a valid packet goes, by the scopes of its addresses.
fn by_scope(
    cx: &Context<'_>,
    packet: &Buf,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Result<Node, DropReason> {
    let interface =
        cx.tables.row(InterfaceId(packet.meta().rx_interface)).ok_or(DropReason::InterfaceDown)?;
    let interface = &interface.description;
    if destination.is_multicast() {
        // Interface-local scope never is on a wire, and 0 is reserved (RFC 4291 §2.7).
        return match destination.octets()[1] & 0xf {
            0 | 1 => Err(DropReason::Ip6MartianDestination),
            _ if interface.groups6.contains(&destination) => Ok(Node::Ip6Local),
            _ => Err(DropReason::Ip6MulticastNotJoined),
        };
    }
    if source.is_unspecified() {
        return Err(DropReason::Ip6MartianSource);
    }
    if destination.is_unicast_link_local() {
        let ours = interface.ipv6.iter().any(|(address, _)| *address == destination);
        return if ours { Ok(Node::Ip6Local) } else { Err(DropReason::Ip6LinkLocalNotOurs) };
    }
    if source.is_unicast_link_local() {
        // It must not leave its link: only this node itself may be meant.
        let group = cx.tables.group(cx.shared.fib6().lookup(destination.to_bits()));
        let ours = cx.tables.adjacency(group.first).next6 == Node::Ip6Local && group.mask == 0;
        return if ours { Ok(Node::Ip6Local) } else { Err(DropReason::Ip6LinkLocalNotOurs) };
    }
    Ok(Node::Ip6Lookup)
}

fn refuse_options(packet: &mut Buf, problem: OptionProblem, destination: Ipv6Addr) -> Node {
    let reason = DropReason::Ip6BadHopByHop;
    match problem {
        OptionProblem::Unrecognised { pointer, unicast_only }
            if !unicast_only || !destination.is_multicast() =>
        {
            icmp6_error(packet, reason, icmpv6::PARAMETER_PROBLEM, icmpv6::PARAMETER_OPTION, pointer)
        }
        _ => drop_for(packet, reason),
    }
}
