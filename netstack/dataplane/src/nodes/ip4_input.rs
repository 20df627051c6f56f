//! IPv4 header validation (RFC 1812 §5.2.2), martian addresses (§5.3.7), groups and broadcast.
//!
//! Leaves a packet whose lengths agree: data is exactly `total_length` bytes, the link layer's padding is cut off.

use super::{drop_for, flow, icmp4_error, ipsec_policy, partial_checksum};
use crate::DropReason;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::shared::Shared;
use crate::tables::{Interface, InterfaceId, Tables};
use buffer::{Buf, BufferCache, Flags, Vector};
use ipsec::Snapshot;
use packet::checksum::{self, Sum};
use packet::ipv4::{FRAGMENT_OFFSET, Ipv4, VERSION_IHL};
use packet::{icmpv4, protocol, udp};
use zerocopy::FromBytes;

const HEADER_LEN: usize = size_of::<Ipv4>();

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let expects_dhcp = cx.tables.expects_dhcp;
    // UDP must be looked at where offers of DHCP servers are waited for.
    let unusual_protocol = if expects_dhcp { protocol::UDP } else { RESERVED_PROTOCOL };
    let mut all_plain = true;
    let columns = nexts.iter_mut().zip(&mut cx.scratch.destinations4);
    for (packet, (next, column)) in packets.iter_mut().zip(columns) {
        let destination = plain_destination(packet, unusual_protocol);
        *next = match destination.or_else(|| unusual_destination(packet, expects_dhcp)) {
            Some(destination) => {
                *column = destination;
                Node::Ip4Lookup
            }
            None => {
                all_plain = false;
                examine((cx.shared, cx.tables, cx.ipsec), cx.cache, packet)
            }
        };
    }
    // Nothing waits at ip4-lookup yet: if all go there, they come there as they are.
    cx.scratch.has_destinations = all_plain;
    if cx.flows.is_some() {
        flow::redirect(cx, &mut nexts[..packets.len()]);
    }
}

const RESERVED_PROTOCOL: u8 = 255;
/// Version, header length and fragment offset, in the first 8 bytes of a header read as big endian.
const START_MASK: u64 = 0xff << 56 | FRAGMENT_OFFSET as u64;
/// What they are without options and in a packet that is whole or the first fragment.
const PLAIN_START: u64 = (VERSION_IHL as u64) << 56;

/// The destination of what almost every packet is: valid, in one segment, without options, no later fragment, its
/// checksums complete, to our MAC address, from and to an ordinary unicast address. Its length is cut to what the header
/// says. None for all others, which stay as they are.
#[inline(always)]
fn plain_destination(packet: &mut Buf, unusual_protocol: u8) -> Option<u32> {
    let &header = packet.data().first_chunk::<HEADER_LEN>()?;
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let start = header.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let plain = (start & START_MASK == PLAIN_START)
        & (total_length.wrapping_sub(HEADER_LEN) <= packet.len() - HEADER_LEN)
        & (header[9] != unusual_protocol)
        & checksum::is_ipv4_header_valid(&header)
        & ORDINARY[usize::from(header[12])]
        & ORDINARY[usize::from(header[16])]
        & !packet.meta().flags.intersects(UNUSUAL)
        & !packet.is_chained();
    plain.then(|| {
        packet.shorten(total_length);
        u32::from_be_bytes([header[16], header[17], header[18], header[19]])
    })
}

/// What needs a closer look.
const UNUSUAL: Flags = Flags::LINK_MULTICAST.union(Flags::TX_CSUM);

/// The same of a packet that may have several segments, be a later fragment, lack its transport checksum and be UDP.
#[cold]
fn unusual_destination(packet: &mut Buf, expects_dhcp: bool) -> Option<u32> {
    let header = *packet.data().first_chunk::<HEADER_LEN>()?;
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let offset_bytes = usize::from(u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_OFFSET) * 8;
    let flags = packet.meta().flags;
    // What follows the packet in a frame can be cut off here if it is in the same segment.
    let whole = total_length == packet.total_len() || !packet.is_chained() && total_length <= packet.len();
    let valid = header[0] == VERSION_IHL
        && total_length >= HEADER_LEN
        && whole
        && offset_bytes + total_length <= usize::from(u16::MAX)
        && checksum::is_ipv4_header_valid(&header)
        && ORDINARY[usize::from(header[12])]
        && ORDINARY[usize::from(header[16])]
        && !flags.contains(Flags::LINK_MULTICAST)
        && (!flags.contains(Flags::TX_CSUM) || partial_checksum::is_right4(packet, total_length))
        && !(expects_dhcp && header[9] == protocol::UDP && is_to_dhcp_client(packet));
    valid.then(|| {
        packet.shorten(total_length);
        u32::from_be_bytes([header[16], header[17], header[18], header[19]])
    })
}

/// By first octet: unicast addresses that may be on a wire, not 0/8, 127/8, 224/4, 240/4; nor 169/8, which holds the
/// link-local ones.
static ORDINARY: [bool; 256] = {
    let mut ordinary = [true; 256];
    let mut octet = 0;
    while octet < 256 {
        ordinary[octet] = !matches!(octet, 0 | 127 | 169 | 224..);
        octet += 1;
    }
    ordinary
};

/// How addresses begin that mean something on one link only (RFC 3927).
const LINK_LOCAL: [u8; 2] = [169, 254];

/// True if an address with this first octet is one host's.
fn is_host(octet: u8) -> bool {
    !matches!(octet, 0 | 127 | 224..)
}

/// Everything but a plain packet, check by check.
#[cold]
fn examine(
    (shared, tables, ipsec): (&Shared, &Tables, &Snapshot),
    cache: &mut BufferCache,
    packet: &mut Buf,
) -> Node {
    let header = match check_header(packet) {
        Ok(header) => header,
        Err(reason) => return drop_for(packet, reason),
    };
    let total_length = usize::from(header.total_length.get());
    if let Some(rest) = packet.truncate(total_length) {
        cache.free_one(rest);
    }
    if packet.meta().flags.contains(Flags::TX_CSUM) && !partial_checksum::is_right4(packet, total_length) {
        return drop_for(packet, DropReason::ChecksumPlace);
    }
    let Some(interface) = tables.row(InterfaceId(packet.meta().rx_interface)) else {
        return drop_for(packet, DropReason::InterfaceDown);
    };
    if !is_host(header.source[0]) {
        // A host that has no address yet may send from 0.0.0.0, to everybody (RFC 1122 §3.2.1.3 a).
        if header.source != [0; 4] || header.destination != [255; 4] {
            return drop_for(packet, DropReason::Ip4MartianSource);
        }
    }
    match check_options(packet.data().get(HEADER_LEN..header.header_len()).unwrap_or_default()) {
        Ok(()) => {}
        Err(OptionProblem::SourceRoute) => return drop_for(packet, DropReason::Ip4BadOption),
        Err(OptionProblem::Malformed(pointer)) => {
            let rest = u32::from(pointer) << 24;
            return icmp4_error(packet, DropReason::Ip4BadOption, icmpv4::PARAMETER_PROBLEM, 0, rest);
        }
    }
    // Offers are sent to an address that is not one of this node's yet (RFC 2131 §4.1).
    if interface.description.dhcp_client
        && !packet.meta().flags.contains(Flags::INNER)
        && is_dhcp_reply(packet, &header)
    {
        return Node::Ip4Local;
    }
    match by_destination(shared, tables, &interface.description, packet, &header) {
        Ok(next) => ipsec_policy::redirected(ipsec, packet, next),
        Err(reason) => drop_for(packet, reason),
    }
}

/// The header of a packet whose lengths agree and whose header's checksum is right.
fn check_header(packet: &Buf) -> Result<Ipv4, DropReason> {
    let (header, _) = Ipv4::read_from_prefix(packet.data()).map_err(|_| DropReason::Ip4BadLength)?;
    let header_len = header.header_len();
    let total_length = usize::from(header.total_length.get());
    if header.version() != 4 || header_len < HEADER_LEN {
        return Err(DropReason::Ip4BadHeader);
    }
    if total_length < header_len || total_length > packet.total_len() {
        return Err(DropReason::Ip4BadLength);
    }
    let whole_header = packet.data().get(..header_len).ok_or(DropReason::Ip4BadLength)?;
    if !Sum::new().bytes(whole_header).is_valid() {
        return Err(DropReason::Ip4BadChecksum);
    }
    if header.is_fragment_beyond_end() {
        return Err(DropReason::Ip4BadFragment);
    }
    Ok(header)
}

/// Where a valid packet goes.
fn by_destination(
    shared: &Shared,
    tables: &Tables,
    interface: &Interface,
    packet: &Buf,
    header: &Ipv4,
) -> Result<Node, DropReason> {
    // No link brought what was in a tunnel: nothing in it is of a link's scope.
    let is_of_link = header.destination[0] >= 224 || is_link_local(header);
    if is_of_link && packet.meta().flags.contains(Flags::INNER) {
        return Err(DropReason::EspBadInner);
    }
    match header.destination {
        [255, 255, 255, 255] => Ok(Node::Ip4Local),
        [224..=239, ..] if interface.groups4.contains(&header.destination.into()) => Ok(Node::Ip4Local),
        [224..=239, ..] => Err(DropReason::Ip4MulticastNotJoined),
        [octet, ..] if !is_host(octet) => Err(DropReason::Ip4MartianDestination),
        _ if packet.meta().flags.contains(Flags::LINK_MULTICAST) => Err(DropReason::UnicastInLinkGroup),
        _ if is_link_local(header) => {
            // It must not leave its link: only this node itself may be meant.
            let group = tables.group(shared.fib4().lookup(u32::from_be_bytes(header.destination)));
            let ours = tables.adjacency(group.first).next4 == Node::Ip4Local && group.mask == 0;
            if ours { Ok(Node::Ip4Local) } else { Err(DropReason::Ip4LinkLocalNotOurs) }
        }
        _ => Ok(Node::Ip4Lookup),
    }
}

/// True for a packet from or to an address of a link.
fn is_link_local(header: &Ipv4) -> bool {
    [header.source, header.destination].iter().any(|address| address[..2] == LINK_LOCAL)
}

enum OptionProblem {
    /// The option at this offset of the header is cut short.
    Malformed(u8),
    /// Loose or strict source routing, dropped in silence (RFC 7126 §4.3, §4.4).
    SourceRoute,
}

/// Walks the options (RFC 791 §3.1).
///
/// Record route and timestamp pass as they are, nothing is entered: RFC 1812 §5.2.4 has routers enter their address, and
/// RFC 7126 §4.5 and §4.7 say what that tells strangers. Source routing is refused.
fn check_options(options: &[u8]) -> Result<(), OptionProblem> {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        match kind {
            0 => break,
            1 => at += 1,
            0x83 | 0x89 => return Err(OptionProblem::SourceRoute),
            _ => match options.get(at + 1) {
                Some(&length) if length >= 2 && at + usize::from(length) <= options.len() => {
                    at += usize::from(length);
                }
                _ => return Err(OptionProblem::Malformed((HEADER_LEN + at) as u8)),
            },
        }
    }
    Ok(())
}

/// True for UDP to the port of DHCP clients.
fn is_dhcp_reply(packet: &Buf, header: &Ipv4) -> bool {
    let payload = packet.data().get(header.header_len()..).unwrap_or_default();
    header.protocol == protocol::UDP
        && !header.is_fragment()
        && udp::Udp::ref_from_prefix(payload)
            .is_ok_and(|(udp, _)| udp.destination_port.get() == udp::PORT_DHCP_CLIENT)
}

/// True for UDP without IP options that may be [`is_dhcp_reply`].
#[inline(always)]
fn is_to_dhcp_client(packet: &Buf) -> bool {
    const PORT: usize = HEADER_LEN + 2;
    packet.data().get(PORT..PORT + 2) == Some(&udp::PORT_DHCP_CLIENT.to_be_bytes())
}
