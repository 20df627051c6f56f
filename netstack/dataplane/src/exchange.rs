//! Packets between workers and control: punted up, injected down.

use crate::tables::{AdjacencyId, InterfaceId};
use buffer::{Buf, BufferCache, DATA_ROOM, Flags};

/// A packet for control, its data starting at the layer-3 header.
#[derive(Debug)]
pub struct Punt {
    /// The packet. The Ethernet header it came with is still in its headroom.
    pub packet: Buf,
    /// The interface it came in on.
    pub interface: InterfaceId,
    /// What control is to do with it.
    pub reason: PuntReason,
}

/// Why a packet goes to control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PuntReason {
    /// An ARP packet about IPv4 over Ethernet; its lengths are checked.
    Arp,
    /// An ICMPv6 packet of neighbour discovery (types 133 to 137), its checksum verified, its hop limit 255.
    Nd,
    /// An IPv4 packet to an address or group of this node, or a broadcast.
    Local4,
    /// An IPv6 packet to an address or group of this node.
    Local6,
    /// A packet whose neighbour is not resolved. Its next hop is the adjacency's, or, where that is a connected
    /// network, its own destination. To be injected again with the family's `Forward`.
    Unresolved(AdjacencyId),
}

/// A packet from control.
#[derive(Debug)]
pub struct Inject {
    /// The packet. With [`Flags::ORIGINATED`] its TTL is not decremented.
    pub packet: Buf,
    /// Where it goes.
    pub to: InjectTo,
}

/// Where an injected packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectTo {
    /// Out of an interface: data is an Ethernet frame without VLAN tag, which a sub-interface adds.
    Transmit(InterfaceId),
    /// Through the IPv4 route table: data is an IPv4 packet with a valid header.
    Forward4,
    /// Through the IPv6 route table: data is an IPv6 packet with a valid header.
    Forward6,
}

impl Inject {
    /// A packet that this node makes, copied into buffers of `cache`. None when these are exhausted.
    pub fn copy(cache: &mut BufferCache, bytes: &[u8], to: InjectTo) -> Option<Self> {
        let mut packet = cache.allocate()?;
        packet.meta_mut().flags = Flags::ORIGINATED;
        let (first, rest) = bytes.split_at(bytes.len().min(DATA_ROOM));
        packet.append(first).ok()?;
        for part in rest.chunks(DATA_ROOM) {
            let mut segment = cache.allocate()?;
            segment.append(part).ok()?;
            packet.append_segment(segment);
        }
        Some(Self { packet, to })
    }
}
