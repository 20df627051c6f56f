//! IPv6 packets for this node: echo is answered here, neighbour discovery, queries for listeners and everything else go to
//! control.

use super::ip4_local::{is_esp, sum_from};
use super::ip6_headers::{Upper, upper_layer};
use super::ipsec_policy::refuse_clear;
use super::{drop_for, icmp6_error, punt_for, tunnel_error};
use crate::DropReason;
use crate::context::Context;
use crate::exchange::PuntReason;
use crate::graph::{Nexts, Node};
use crate::tables::{InterfaceId, Tables};
use buffer::{Buf, Flags, Vector};
use core::net::Ipv6Addr;
use packet::icmpv6::{self, ECHO_REPLY, ECHO_REQUEST, Icmpv6};
use packet::ipv6::Ipv6;
use packet::{checksum, nd, protocol};
use zerocopy::{FromBytes, IntoBytes};

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    for (packet, next) in packets.iter_mut().zip(nexts) {
        *next = deliver(cx, packet);
    }
}

fn deliver(cx: &Context<'_>, packet: &mut Buf) -> Node {
    match upper_layer(packet.data()) {
        Upper::Protocol(protocol::ICMPV6, at) => deliver_icmp(cx, packet, at),
        Upper::Protocol(protocol, at) if is_esp(cx, packet, protocol, at) => Node::EspDecrypt,
        Upper::Protocol(..) if packet.complete_checksum().is_ok() => punt_for(packet, PuntReason::Local6),
        Upper::Protocol(..) | Upper::Malformed => drop_for(packet, DropReason::Ip6BadLength),
        Upper::Fragment if packet.meta().flags.contains(Flags::LINK_MULTICAST) => {
            drop_for(packet, DropReason::Ip6FragmentForUs)
        }
        Upper::Fragment => punt_for(packet, PuntReason::Local6),
        // The pointer is to the routing type that is not recognised, the third byte (RFC 8200 §4.4).
        Upper::Routing(at) => {
            let (kind, code) = (icmpv6::PARAMETER_PROBLEM, icmpv6::PARAMETER_HEADER_FIELD);
            icmp6_error(packet, DropReason::Ip6RoutingHeader, kind, code, at as u32 + 2)
        }
    }
}

fn deliver_icmp(cx: &Context<'_>, packet: &mut Buf, at: usize) -> Node {
    if packet.complete_checksum().is_err() {
        return drop_for(packet, DropReason::Ip6BadLength);
    }
    let Ok((header, _)) = Ipv6::read_from_prefix(packet.data()) else {
        return drop_for(packet, DropReason::Ip6BadLength);
    };
    let Some(Ok((icmp, _))) = packet.data().get(at..).map(Icmpv6::read_from_prefix) else {
        return drop_for(packet, DropReason::IcmpMalformed);
    };
    // The length field bounds the packet, so that it fits.
    let length = (packet.total_len() - at) as u32;
    if !sum_from(header.pseudo_header(protocol::ICMPV6, length), packet, at).is_valid() {
        return drop_for(packet, DropReason::IcmpMalformed);
    }
    if icmp.kind == icmpv6::PACKET_TOO_BIG {
        let quoted = packet.data().get(at + size_of::<Icmpv6>()..).unwrap_or_default();
        let _ = cx.ipsec.learn_path_mtu(quoted, icmp.rest.get(), cx.now_ns);
    }
    if let Some(next) = tunnel_error::pass_on(cx, packet, at, true) {
        return next;
    }
    match icmp.kind {
        ECHO_REQUEST if at == size_of::<Ipv6>() && !Ipv6Addr::from(header.destination).is_multicast() => {
            reply(cx, packet, icmp)
        }
        icmpv6::LISTENER_QUERY if is_listener_query(packet) => punt_for(packet, PuntReason::Nd),
        nd::ROUTER_SOLICITATION..=nd::REDIRECT => {
            // A tunnel has no neighbours, and what was in it is about no link, whatever its hop limit says.
            let is_inner = packet.meta().flags.contains(Flags::INNER);
            let is_wrong = header.hop_limit != nd::HOP_LIMIT || icmp.code != 0 || is_inner;
            if is_wrong {
                drop_for(packet, DropReason::NdMalformed)
            } else {
                punt_for(packet, PuntReason::Nd)
            }
        }
        _ => punt_for(packet, PuntReason::Local6),
    }
}

/// True if this asks who on the link listens to which groups (RFC 3810 §5.1, §6.2): somebody of the link does, with nothing
/// but a router alert before the message, and no tunnel brought it here.
fn is_listener_query(packet: &Buf) -> bool {
    let Ok((header, rest)) = Ipv6::ref_from_prefix(packet.data()) else { return false };
    header.version() == 6
        && header.next_header == protocol::HOP_BY_HOP
        && header.hop_limit == 1
        && matches!(rest, [protocol::ICMPV6, 0, _, _, _, _, _, _, icmpv6::LISTENER_QUERY, 0, ..])
        && Ipv6Addr::from(header.source).is_unicast_link_local()
        && !packet.meta().flags.intersects(Flags::INNER.union(Flags::DECRYPTED))
}

/// Turns an echo request into its reply: addresses exchanged, which keeps the pseudo-header's sum, and type changed.
fn reply(cx: &Context<'_>, packet: &mut Buf, mut icmp: Icmpv6) -> Node {
    icmp.checksum = checksum::update(icmp.checksum, u16::from(ECHO_REQUEST) << 8, u16::from(ECHO_REPLY) << 8);
    icmp.kind = ECHO_REPLY;
    packet.meta_mut().flags.insert(Flags::ORIGINATED);
    let Ok((header, message)) = Ipv6::mut_from_prefix(packet.data_mut()) else { return Node::Drop };
    let _ = icmp.write_to_prefix(message);
    core::mem::swap(&mut header.source, &mut header.destination);
    header.hop_limit = packet::DEFAULT_TTL;
    if Ipv6Addr::from(header.destination).is_unicast_link_local() {
        return match refuse_clear(cx, packet.data()) {
            Some(reason) => drop_for(packet, reason),
            None => send_back(cx.tables, packet),
        };
    }
    Node::Ip6Lookup
}

/// Sends a packet to the MAC address that it came from: no route leads to a link-local address.
fn send_back(tables: &Tables, packet: &mut Buf) -> Node {
    let interface = packet.meta().rx_interface;
    packet.meta_mut().tx_interface = interface;
    let Some(row) = tables.row(InterfaceId(interface)) else {
        return drop_for(packet, DropReason::InterfaceDown);
    };
    // The header that it came with is still before the data.
    let Ok(frame) = packet.push_front(row.header_len()) else {
        return drop_for(packet, DropReason::NoHeadroom);
    };
    frame.copy_within(6..12, 0);
    frame[6..12].copy_from_slice(&row.description.mac);
    Node::InterfaceOutput
}
