//! IPv4 header validation (RFC 1812 §5.2.2), martian addresses (§5.3.7), groups and broadcast.
//!
//! Leaves a packet whose lengths agree: data is exactly `total_length` bytes, the link layer's padding is cut off.

use super::{drop_for, icmp4_error};
use crate::DropReason;
use crate::context::Context;
use crate::graph::{Nexts, Node};
use crate::tables::{InterfaceId, InterfaceRow};
use buffer::{Buf, Vector};
use packet::checksum::{self, Sum};
use packet::ipv4::{Ipv4, VERSION_IHL};
use packet::{icmpv4, protocol, udp};
use zerocopy::FromBytes;

const HEADER_LEN: usize = size_of::<Ipv4>();

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let mut all_plain = true;
    let columns = nexts.iter_mut().zip(&mut cx.scratch.destinations4);
    for (packet, (next, column)) in packets.iter_mut().zip(columns) {
        *next = match plain_destination(packet) {
            Some(destination) => {
                *column = destination;
                Node::Ip4Lookup
            }
            None => {
                all_plain = false;
                let interface = cx.tables.row(InterfaceId(packet.meta().rx_interface));
                interface.map_or(Node::Drop, |interface| examine(packet, interface))
            }
        };
    }
    // Nothing waits at ip4-lookup yet: if all go there, they come there as they are.
    cx.scratch.has_destinations = all_plain;
}

/// The destination of what almost every packet is: valid, without options, from and to an ordinary unicast address.
/// Its length is cut to what the header says. None for all others, which stay as they are.
#[inline(always)]
fn plain_destination(packet: &mut Buf) -> Option<u32> {
    let &header = packet.data().first_chunk::<HEADER_LEN>()?;
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let plain = (header[0] == VERSION_IHL)
        & (total_length.wrapping_sub(HEADER_LEN) <= packet.len() - HEADER_LEN)
        & checksum::is_ipv4_header_valid(&header)
        & ORDINARY[usize::from(header[12])]
        & ORDINARY[usize::from(header[16])]
        & !packet.is_chained();
    plain.then(|| {
        packet.shorten(total_length);
        u32::from_be_bytes([header[16], header[17], header[18], header[19]])
    })
}

/// By first octet: unicast addresses that may be on a wire, not 0/8, 127/8, 224/4, 240/4.
static ORDINARY: [bool; 256] = {
    let mut ordinary = [true; 256];
    let mut octet = 0;
    while octet < 256 {
        ordinary[octet] = !matches!(octet, 0 | 127 | 224..);
        octet += 1;
    }
    ordinary
};

/// Everything but a plain packet, check by check.
#[cold]
fn examine(packet: &mut Buf, interface: &InterfaceRow) -> Node {
    let Ok((header, _)) = Ipv4::read_from_prefix(packet.data()) else {
        return drop_for(packet, DropReason::Ip4BadLength);
    };
    let header_len = header.header_len();
    let total_length = usize::from(header.total_length.get());
    if header.version() != 4 || header_len < HEADER_LEN {
        return drop_for(packet, DropReason::Ip4BadHeader);
    }
    if total_length < header_len || total_length > packet.total_len() {
        return drop_for(packet, DropReason::Ip4BadLength);
    }
    let Some(whole_header) = packet.data().get(..header_len) else {
        return drop_for(packet, DropReason::Ip4BadLength);
    };
    if !Sum::new().bytes(whole_header).is_valid() {
        return drop_for(packet, DropReason::Ip4BadChecksum);
    }
    let options = check_options(&whole_header[HEADER_LEN..]);
    packet.truncate(total_length);
    if interface.description.dhcp_client && is_dhcp_reply(packet, &header) {
        return Node::Ip4Local;
    }
    if !ORDINARY[usize::from(header.source[0])] {
        // A host that has no address yet may send from 0.0.0.0, to everybody (RFC 1122 §3.2.1.3 a).
        if header.source != [0; 4] || header.destination != [255; 4] {
            return drop_for(packet, DropReason::Ip4MartianSource);
        }
    }
    match options {
        Ok(()) => {}
        Err(OptionProblem::SourceRoute) => return drop_for(packet, DropReason::Ip4BadOption),
        Err(OptionProblem::Malformed(pointer)) => {
            let rest = u32::from(pointer) << 24;
            return icmp4_error(packet, DropReason::Ip4BadOption, icmpv4::PARAMETER_PROBLEM, 0, rest);
        }
    }
    match header.destination {
        [255, 255, 255, 255] => Node::Ip4Local,
        [224..=239, ..] if interface.description.groups4.contains(&header.destination.into()) => {
            Node::Ip4Local
        }
        [224..=239, ..] => drop_for(packet, DropReason::Ip4MulticastNotJoined),
        [octet, ..] if ORDINARY[usize::from(octet)] => Node::Ip4Lookup,
        _ => drop_for(packet, DropReason::Ip4MartianDestination),
    }
}

enum OptionProblem {
    /// The option at this offset of the header is cut short.
    Malformed(u8),
    /// Loose or strict source routing, dropped in silence (RFC 7126 §4.3, §4.4).
    SourceRoute,
}

/// Walks the options (RFC 791 §3.1). Those that only record something are passed on as they are.
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
