//! The nodes of the graph, one a file, each a function over a vector of packets.

pub(crate) mod arp_input;
pub(crate) mod drop;
pub(crate) mod esp_decrypt;
pub(crate) mod esp_encrypt;
pub(crate) mod ethernet_input;
pub(crate) mod flow;
mod fragment_plan;
pub(crate) mod handoff_input;
pub(crate) mod held_fragments;
pub(crate) mod icmp4_error;
pub(crate) mod icmp6_error;
pub(crate) mod inject;
pub(crate) mod interface_output;
pub(crate) mod ip4_input;
pub(crate) mod ip4_local;
pub(crate) mod ip4_lookup;
pub(crate) mod ip4_rewrite;
mod ip6_headers;
pub(crate) mod ip6_input;
pub(crate) mod ip6_local;
pub(crate) mod ip6_lookup;
pub(crate) mod ip6_rewrite;
pub(crate) mod ip_fragment;
pub(crate) mod ipsec_policy;
mod partial_checksum;
pub(crate) mod port_input;
pub(crate) mod punt;
mod to_backend;
mod tunnel_error;
pub(crate) mod tunnel_fragment;
pub(crate) mod unresolved;

pub(crate) use ip6_headers::{Upper, upper_layer};

use crate::DropReason;
use crate::exchange::PuntReason;
use crate::graph::Node;
use crate::tables::{AdjacencyId, AdjacencyRow, Tables};
use buffer::{Buf, BufferCache};

/// How many packets ahead of its work a node that touches cold lines asks for them.
const PREFETCH_AHEAD: usize = 8;

/// The adjacency of a vector whose packets all have the same, as their routes' groups tell.
#[inline(always)]
fn one_way<'a>(tables: &'a Tables, groups: &[u32]) -> Option<(u32, &'a AdjacencyRow)> {
    let (first, last) = (*groups.first()?, *groups.last()?);
    // Where there are several, the two ends differ as a rule; to look at all else takes no branch for each.
    if first != last || groups.iter().fold(0, |differ, group| differ | (group ^ first)) != 0 {
        return None;
    }
    let group = tables.group(first);
    (group.mask == 0).then(|| (group.first, tables.adjacency(group.first)))
}

/// Sends a packet to the drop node.
fn drop_for(packet: &mut Buf, reason: DropReason) -> Node {
    packet.meta_mut().drop_reason = reason as u8;
    Node::Drop
}

/// Brings packets of several segments into one each, where there is room.
fn linearise(cache: &mut BufferCache, packets: &mut [Buf]) {
    for packet in packets.iter_mut().filter(|packet| packet.is_chained()) {
        if let Ok(Some(rest)) = packet.linearise() {
            cache.free_one(rest);
        }
    }
}

/// Gives a packet other bytes, in buffers of their own.
fn replace(cache: &mut BufferCache, packet: &mut Buf, bytes: &[u8]) -> Result<(), DropReason> {
    let mut copy = cache.copy(bytes).ok_or(DropReason::NoBuffer)?;
    *copy.meta_mut() = *packet.meta();
    cache.free_one(core::mem::replace(packet, copy));
    Ok(())
}

/// An ICMP or ICMPv6 error: type, code, and the second word of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IcmpError {
    kind: u8,
    code: u8,
    rest: u32,
}

impl IcmpError {
    /// Leaves the error with the packet that it is about, for the node that makes it.
    fn leave_with(self, packet: &mut Buf, reason: DropReason) {
        let meta = packet.meta_mut();
        meta.drop_reason = reason as u8;
        meta.opaque[0] = self.word();
    }

    fn word(self) -> u64 {
        u64::from(self.kind) << 40 | u64::from(self.code) << 32 | u64::from(self.rest)
    }

    /// The error that was left with a packet.
    fn of(packet: &Buf) -> Self {
        let word = packet.meta().opaque[0];
        Self { kind: (word >> 40) as u8, code: (word >> 32) as u8, rest: word as u32 }
    }
}

/// True for a packet to an address of this node, or of a service, that was refused.
fn was_for_us(packet: &Buf) -> bool {
    let reason = DropReason::from_number(packet.meta().drop_reason);
    matches!(
        reason,
        Some(
            DropReason::LocalPortUnreachable
                | DropReason::ServiceNoBackend
                | DropReason::ServiceNoPort
                | DropReason::LocalProtocolUnreachable
                | DropReason::ReassemblyTimeout
        )
    )
}

/// Sends an IPv4 packet to be dropped with an ICMP error to its sender.
fn icmp4_error(packet: &mut Buf, reason: DropReason, kind: u8, code: u8, rest: u32) -> Node {
    IcmpError { kind, code, rest }.leave_with(packet, reason);
    Node::Icmp4Error
}

/// Sends an IPv6 packet to be dropped with an ICMPv6 error to its sender.
fn icmp6_error(packet: &mut Buf, reason: DropReason, kind: u8, code: u8, rest: u32) -> Node {
    IcmpError { kind, code, rest }.leave_with(packet, reason);
    Node::Icmp6Error
}

/// Sends a packet to control.
fn punt_for(packet: &mut Buf, reason: PuntReason) -> Node {
    packet.meta_mut().punt_reason = match reason {
        PuntReason::Arp => 0,
        PuntReason::Nd => 1,
        PuntReason::Local4 => 2,
        PuntReason::Local6 => 3,
        PuntReason::Unresolved(_) => 4,
    };
    Node::Punt
}

/// Why a packet at the punt node goes to control.
fn punt_reason(packet: &Buf) -> PuntReason {
    match packet.meta().punt_reason {
        0 => PuntReason::Arp,
        1 => PuntReason::Nd,
        2 => PuntReason::Local4,
        3 => PuntReason::Local6,
        _ => PuntReason::Unresolved(AdjacencyId(packet.meta().adjacency)),
    }
}
