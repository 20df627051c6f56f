//! The graph: every node in order, and where each may send a packet next.

/// A node of the graph.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Next {
    /// Destination MAC check, VLAN, EtherType.
    EthernetInput,
    /// ARP to control.
    ArpInput,
    /// RFC 1812 header validation.
    Ip4Input,
    /// Route lookup.
    Ip4Lookup,
    /// TTL, checksum, MTU, Ethernet header.
    Ip4Rewrite,
    /// Packets for this node.
    Ip4Local,
    /// RFC 8200 header validation.
    Ip6Input,
    /// Route lookup.
    Ip6Lookup,
    /// Hop limit, MTU, Ethernet header.
    Ip6Rewrite,
    /// Packets for this node.
    Ip6Local,
    /// Makes an ICMP error of a dropped packet.
    Icmp4Error,
    /// Makes an ICMPv6 error of a dropped packet.
    Icmp6Error,
    /// Packets whose neighbour control must resolve.
    PuntUnresolved,
    /// Counts the reason, frees the packet.
    Drop,
}
