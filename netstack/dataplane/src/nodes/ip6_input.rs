//! IPv6 header validation (RFC 8200 §3, §4.3), scopes (RFC 4291, RFC 4007), groups.
//!
//! Leaves a packet whose lengths agree: data is exactly the IPv6 header and its payload.

use super::ip6_headers::{OptionProblem, check_hop_by_hop};
use super::{drop_for, flow, icmp6_error, ipsec_policy, partial_checksum};
use crate::DropReason;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::tables::InterfaceId;
use buffer::{Buf, Flags, Vector};
use core::net::Ipv6Addr;
use packet::ipv6::{Fragment, Ipv6};
use packet::{icmpv6, protocol};
use zerocopy::FromBytes;

const HEADER_LEN: usize = size_of::<Ipv6>();

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let mut all_plain = true;
    for (index, (packet, next)) in packets.iter_mut().zip(&mut *nexts).enumerate() {
        *next = match plain_destination(packet).or_else(|| unusual_destination(packet)) {
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
    if cx.flows.is_some() {
        flow::redirect(cx, &mut nexts[..packets.len()]);
    }
}

/// The destination of what almost every packet is: valid, in one segment, without hop-by-hop options, no fragment, its
/// checksums complete, to our MAC address, from and to a unicast address of global scope. Its length is cut to what the
/// header says. None for all others, which stay as they are.
#[inline(always)]
fn plain_destination(packet: &mut Buf) -> Option<u128> {
    let header = packet.data().first_chunk::<HEADER_LEN>()?;
    let length = HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let plain = (header[0] >> 4 == 6)
        & (length <= packet.len())
        & (header[6] != protocol::HOP_BY_HOP)
        & (header[6] != protocol::FRAGMENT)
        & is_ordinary(header[8])
        & is_ordinary(header[24])
        & !packet.meta().flags.intersects(UNUSUAL)
        & !packet.is_chained();
    let destination = header.last_chunk::<16>().map(|bytes| u128::from_be_bytes(*bytes));
    destination.filter(|_| plain).inspect(|_| packet.shorten(length))
}

/// True if addresses with this first octet are neither special (0), link-local or site-local (0xfe), nor groups (0xff).
#[inline(always)]
fn is_ordinary(octet: u8) -> bool {
    octet.wrapping_sub(1) < 0xfd
}

/// What needs a closer look.
const UNUSUAL: Flags = Flags::LINK_MULTICAST.union(Flags::TX_CSUM);

/// The same of a packet that may have several segments, be a fragment, lack its transport checksum, and have addresses
/// in `0::/8` but for the special ones, which are all in `0::/16`.
#[cold]
fn unusual_destination(packet: &mut Buf) -> Option<u128> {
    let header = *packet.data().first_chunk::<HEADER_LEN>()?;
    let length = HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let flags = packet.meta().flags;
    // What follows the packet in a frame can be cut off here if it is in the same segment.
    let whole = length == packet.total_len() || !packet.is_chained() && length <= packet.len();
    let is_unicast = |start: [u8; 2]| (0x0001..=0xfdff).contains(&u16::from_be_bytes(start));
    let valid = header[0] >> 4 == 6
        && whole
        && header[6] != protocol::HOP_BY_HOP
        && (header[6] != protocol::FRAGMENT || is_fragment_within(packet, length))
        && is_unicast([header[8], header[9]])
        && is_unicast([header[24], header[25]])
        && !flags.contains(Flags::LINK_MULTICAST)
        && (!flags.contains(Flags::TX_CSUM) || partial_checksum::is_right6(packet, length));
    let destination = header.last_chunk::<16>().map(|bytes| u128::from_be_bytes(*bytes));
    destination.filter(|_| valid).inspect(|_| packet.shorten(length))
}

/// True if a packet of `length` bytes with a fragment header after the IPv6 header is a piece of one that is not longer
/// than a packet can be (RFC 8200 §4.5). Of others, whose pieces have more headers before them, reassembly sees it.
fn is_fragment_within(packet: &Buf, length: usize) -> bool {
    let header = packet.data().get(HEADER_LEN..).map(Fragment::ref_from_prefix);
    let Some(Ok((header, _))) = header else { return false };
    header.offset_bytes() + length <= usize::from(u16::MAX) + HEADER_LEN + size_of::<Fragment>()
}

/// Everything but a plain packet, check by check.
#[cold]
fn examine(cx: &mut Context<'_>, packet: &mut Buf) -> Node {
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
    if let Some(rest) = packet.truncate(length) {
        cx.cache.free_one(rest);
    }
    if packet.meta().flags.contains(Flags::TX_CSUM) && !partial_checksum::is_right6(packet, length) {
        return drop_for(packet, DropReason::ChecksumPlace);
    }
    if header.next_header == protocol::FRAGMENT && !is_fragment_within(packet, length) {
        return drop_for(packet, DropReason::Ip6BadFragment);
    }
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
        Ok(next) => ipsec_policy::redirected(cx.ipsec, packet, next),
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
    // No link brought what was in a tunnel: nothing in it is of a link's scope.
    let is_of_link = |address: Ipv6Addr| address.is_multicast() || address.is_unicast_link_local();
    if packet.meta().flags.contains(Flags::INNER) && (is_of_link(source) || is_of_link(destination)) {
        return Err(DropReason::EspBadInner);
    }
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
    if packet.meta().flags.contains(Flags::LINK_MULTICAST) {
        return Err(DropReason::UnicastInLinkGroup);
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
