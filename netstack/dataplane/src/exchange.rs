//! Packets between workers and control: punted up, injected down.

use crate::nodes::{Upper, upper_layer};
use crate::tables::{AdjacencyId, InterfaceId};
use buffer::{Buf, BufferCache, Flags};
use packet::ipv4::Ipv4;
use packet::protocol;
use packet::udp::{PORT_DHCP_CLIENT, Udp};
use zerocopy::FromBytes;

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
    /// An IPv4 packet to an address or group of this node, or a broadcast, or a fragment of one to an address.
    Local4,
    /// An IPv6 packet to an address or group of this node, or a fragment of one to an address.
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
    /// Nowhere: data is an IP packet for this node that nobody takes, with the metadata it was punted with. Its sender is
    /// told if that is allowed, so many times a second.
    Refuse(Refusal),
}

/// Why nobody takes a packet for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody listens at its UDP port (RFC 1122 §4.1.3.1, RFC 4443 §3.1).
    Port,
    /// Its protocol is not spoken (RFC 1122 §3.2.2.1, RFC 8200 §4).
    Protocol,
    /// The other fragments did not come in time; data is the first one (RFC 792, RFC 8200 §4.5).
    ReassemblyTime,
}

/// Kinds of packets for control. Each has a queue of its own, and they take turns, so that a flood of one kind does not
/// keep the others out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PuntKind {
    Arp,
    Nd,
    Dhcp,
    Tcp,
    Fragment,
    /// All other packets to this node's addresses.
    Other,
    Unresolved,
}

impl PuntKind {
    pub(crate) const COUNT: usize = Self::Unresolved as usize + 1;

    pub(crate) fn of(punt: &Punt) -> Self {
        match punt.reason {
            PuntReason::Arp => Self::Arp,
            PuntReason::Nd => Self::Nd,
            PuntReason::Unresolved(_) => Self::Unresolved,
            PuntReason::Local4 => Self::of_ipv4(punt.packet.data()),
            PuntReason::Local6 => match upper_layer(punt.packet.data()) {
                Upper::Protocol(protocol::TCP, _) => Self::Tcp,
                Upper::Fragment => Self::Fragment,
                _ => Self::Other,
            },
        }
    }

    fn of_ipv4(packet: &[u8]) -> Self {
        let Ok((header, _)) = Ipv4::ref_from_prefix(packet) else { return Self::Other };
        let udp = || packet.get(header.header_len()..).map(Udp::ref_from_prefix);
        match header.protocol {
            _ if header.is_fragment() => Self::Fragment,
            protocol::TCP => Self::Tcp,
            protocol::UDP => match udp() {
                Some(Ok((udp, _))) if udp.destination_port.get() == PORT_DHCP_CLIENT => Self::Dhcp,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

impl Inject {
    /// A packet that this node makes, copied into buffers of `cache`. None when these are exhausted.
    pub fn copy(cache: &mut BufferCache, bytes: &[u8], to: InjectTo) -> Option<Self> {
        let mut packet = cache.copy(bytes)?;
        packet.meta_mut().flags = Flags::ORIGINATED;
        Some(Self { packet, to })
    }
}
