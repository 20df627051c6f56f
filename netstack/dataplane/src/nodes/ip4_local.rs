//! IPv4 packets for this node: echo is answered here, ESP decrypted, everything else goes to control.

use super::{drop_for, punt_for, tunnel_error};
use crate::DropReason;
use crate::context::Context;
use crate::exchange::PuntReason;
use crate::graph::{Nexts, Node};
use buffer::{Buf, Flags, Vector};
use packet::checksum::{self, Sum};
use packet::icmpv4::{ECHO_REPLY, ECHO_REQUEST, Icmpv4, UNREACHABLE, UNREACHABLE_FRAGMENTATION_NEEDED};
use packet::ipv4::Ipv4;
use packet::protocol;
use packet::udp::Udp;
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    for (packet, next) in packets.iter_mut().zip(nexts) {
        *next = deliver(cx, packet);
    }
}

fn deliver(cx: &Context<'_>, packet: &mut Buf) -> Node {
    let Ok((header, _)) = Ipv4::read_from_prefix(packet.data()) else {
        return drop_for(packet, DropReason::Ip4BadLength);
    };
    let is_unicast = !packet.meta().flags.contains(Flags::LINK_MULTICAST) && header.destination[0] < 224;
    if header.is_fragment() {
        return if is_unicast {
            punt_for(packet, PuntReason::Local4)
        } else {
            drop_for(packet, DropReason::Ip4FragmentForUs)
        };
    }
    if is_esp(cx, packet, header.protocol, header.header_len()) {
        return Node::EspDecrypt;
    }
    if header.protocol == protocol::ICMP {
        let at = header.header_len();
        let Some(Ok((icmp, _))) = packet.data().get(at..).map(Icmpv4::read_from_prefix) else {
            return drop_for(packet, DropReason::IcmpMalformed);
        };
        if !sum_from(Sum::new(), packet, at).is_valid() {
            return drop_for(packet, DropReason::IcmpMalformed);
        }
        // Only what was sent to one of our addresses is answered (RFC 1122 §3.2.2.6).
        if icmp.kind == ECHO_REQUEST && is_unicast {
            return reply(packet, at, icmp);
        }
        if icmp.kind == UNREACHABLE && icmp.code == UNREACHABLE_FRAGMENTATION_NEEDED {
            let quoted = packet.data().get(at + size_of::<Icmpv4>()..).unwrap_or_default();
            let [_, _, mtu @ ..] = icmp.rest;
            let _ = cx.ipsec.learn_path_mtu(quoted, u16::from_be_bytes(mtu).into(), cx.now_ns);
        }
        if let Some(next) = tunnel_error::pass_on(cx, packet, at, false) {
            return next;
        }
    }
    if packet.complete_checksum().is_err() {
        return drop_for(packet, DropReason::Ip4BadLength);
    }
    punt_for(packet, PuntReason::Local4)
}

/// True for ESP, and for what is in UDP to port 4500, or another of a tunnel's, and not IKE, which begins with four zero
/// bytes (RFC 3948 §2.2). `at` is where the protocol starts.
#[inline(always)]
pub(super) fn is_esp(cx: &Context<'_>, packet: &Buf, protocol: u8, at: usize) -> bool {
    if protocol == protocol::UDP {
        let datagram = packet.data().get(at..).unwrap_or_default();
        let Ok((udp, payload)) = Udp::ref_from_prefix(datagram) else { return false };
        let is_ike = payload.first_chunk::<4>().is_some_and(|marker| *marker == [0; 4]);
        return cx.ipsec.is_nat_t_port(udp.destination_port.get()) && !is_ike && !payload.is_empty();
    }
    protocol == protocol::ESP
}

/// Turns an echo request into its reply: addresses exchanged, type changed; options stay.
fn reply(packet: &mut Buf, at: usize, mut icmp: Icmpv4) -> Node {
    icmp.checksum = checksum::update(icmp.checksum, u16::from(ECHO_REQUEST) << 8, u16::from(ECHO_REPLY) << 8);
    // All ones is right wherever zero is, and the only checksum of a reply of zeros alone.
    if icmp.checksum == U16::ZERO {
        icmp.checksum = U16::new(u16::MAX);
    }
    icmp.kind = ECHO_REPLY;
    packet.meta_mut().flags.insert(Flags::ORIGINATED);
    let Some((header, message)) = packet.data_mut().split_at_mut_checked(at) else { return Node::Drop };
    let _ = icmp.write_to_prefix(message);
    if let Ok((fixed, _)) = Ipv4::mut_from_prefix(header) {
        core::mem::swap(&mut fixed.source, &mut fixed.destination);
        fixed.ttl = packet::DEFAULT_TTL;
    }
    fill_checksum(header);
    Node::Ip4Lookup
}

/// Sets the checksum of an IPv4 header with its options.
pub(super) fn fill_checksum(header: &mut [u8]) {
    let set = |header: &mut [u8], checksum| {
        if let Ok((fixed, _)) = Ipv4::mut_from_prefix(header) {
            fixed.checksum = checksum;
        }
    };
    set(header, U16::ZERO);
    let checksum = checksum::of(header);
    set(header, checksum);
}

/// Adds everything from an offset of the first segment to the end of the packet.
pub(super) fn sum_from(sum: Sum, packet: &Buf, offset: usize) -> Sum {
    let mut segments = packet.segments();
    let first = segments.next().and_then(|first| first.get(offset..)).unwrap_or_default();
    segments.fold(sum.bytes(first), Sum::bytes)
}
