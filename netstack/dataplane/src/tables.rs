//! What control publishes and workers read: interfaces, adjacencies, next-hop groups.
//!
//! Control describes them ([`Interface`], [`Adjacency`], [`NextHopGroup`]); [`Tables::new`] checks the whole and
//! compiles it into the compact rows that nodes use. A value in a route table is the index of a group, 0 is no route.

mod compile;

use crate::DropReason;
use crate::graph::Node;
use alloc::boxed::Box;
use alloc::vec::Vec;
use buffer::Buf;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use ipsec::TunnelId;
use packet::ethernet::{multicast_mac_ipv4, multicast_mac_ipv6};

/// Interfaces that a node has at most.
pub const MAX_INTERFACES: usize = 4096;
/// Adjacencies that a node has at most.
pub const MAX_ADJACENCIES: usize = 1 << 18;
/// Next hops of a group at most. So many of equal weight get one bucket each, in order: whoever wants to say which flows
/// move when a next hop comes or goes names them bucket by bucket.
pub const MAX_NEXT_HOPS: usize = MAX_BUCKETS as usize;
/// Buckets of a compiled group at most; weights are rounded to them.
const MAX_BUCKETS: u32 = 64;
/// Smallest MTU, so that one packet's fragments fit into a vector.
pub const MIN_MTU: u16 = 576;
/// Largest MTU.
pub const MAX_MTU: u16 = 9216;

const NO_VLAN: u16 = 0;
const NO_INTERFACE: u16 = u16::MAX;

/// Names an interface: a port or a VLAN sub-interface of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(pub u16);

/// Names an adjacency by its place in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdjacencyId(pub u32);

/// Names a next-hop group by its place in the tables; what route tables hold. Group 0 is "no route".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// An interface as control describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What it stands on.
    pub attachment: Attachment,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The longest IP packet it carries, in bytes, from [`MIN_MTU`] to [`MAX_MTU`].
    pub mtu: u16,
    /// False: what comes in or would leave is dropped.
    pub up: bool,
    /// Takes UDP port 68 whatever its destination address: the DHCP client has no address yet.
    pub dhcp_client: bool,
    /// Its IPv4 addresses with prefix lengths; the first is the source of ICMP errors. Each needs a local /32 route.
    pub ipv4: Vec<(Ipv4Addr, u8)>,
    /// Its IPv6 addresses with prefix lengths, link-local ones included. Each that is not link-local needs a local
    /// /128 route.
    pub ipv6: Vec<(Ipv6Addr, u8)>,
    /// IPv4 groups it has joined.
    pub groups4: Vec<Ipv4Addr>,
    /// IPv6 groups it has joined, solicited-node groups included.
    pub groups6: Vec<Ipv6Addr>,
}

/// What an interface stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// A port: frames without VLAN tag.
    Port,
    /// A VLAN of a port: frames with this 802.1Q tag.
    Vlan {
        /// The port.
        parent: InterfaceId,
        /// 1 to 4094.
        vlan_id: u16,
    },
    /// An IPsec tunnel: packets without link layer, encrypted by whatever SA the tunnel has at the time (see
    /// [`crate::Shared::publish_ipsec`]).
    Ipsec {
        /// The tunnel.
        tunnel: TunnelId,
    },
}

/// What to do with a packet once its next hop is known, as control describes it. One serves both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjacency {
    /// A resolved neighbour: send to it.
    Neighbour {
        /// The interface towards it.
        interface: InterfaceId,
        /// Its MAC address.
        mac: [u8; 6],
    },
    /// A neighbour that is not resolved, or a connected network: control resolves it.
    Unresolved {
        /// The interface towards it.
        interface: InterfaceId,
    },
    /// The other end of an IPsec tunnel.
    Ipsec {
        /// The tunnel's interface.
        interface: InterfaceId,
    },
    /// One of several peers behind the interface of an IPsec tunnel, each with a tunnel of its own.
    IpsecPeer {
        /// The interface.
        interface: InterfaceId,
        /// The peer's tunnel.
        tunnel: TunnelId,
    },
    /// An address of this node.
    Local,
    /// Drop, for this reason. [`DropReason::Unreachable`], [`DropReason::Prohibited`] and the families' no-route
    /// reasons tell the sender by ICMP.
    Drop(DropReason),
}

/// Where a route leads: one next hop, or several that share its flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHopGroup {
    /// Adjacencies with their weights, at most [`MAX_NEXT_HOPS`]. Empty: no route.
    pub next_hops: Vec<(AdjacencyId, u16)>,
}

impl NextHopGroup {
    /// A group of one.
    pub fn single(adjacency: AdjacencyId) -> Self {
        Self { next_hops: [(adjacency, 1)].into() }
    }
}

/// Why tables were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TablesError {
    /// More interfaces, adjacencies or next hops than there is room for.
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// An interface is impossible.
    Interface {
        /// The interface.
        interface: InterfaceId,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An adjacency names an interface that does not exist.
    Adjacency(AdjacencyId),
    /// A group names an adjacency that does not exist, or has a weight of 0, or is group 0 and not empty.
    Group(GroupId),
}

impl fmt::Display for TablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { what, limit } => write!(f, "more than {limit} {what}"),
            Self::Interface { interface, problem } => write!(f, "interface {}: {problem}", interface.0),
            Self::Adjacency(id) => write!(f, "adjacency {} names no interface", id.0),
            Self::Group(id) => write!(f, "next-hop group {} is not valid", id.0),
        }
    }
}

impl core::error::Error for TablesError {}

/// A checked and compiled snapshot.
#[derive(Debug, Default)]
pub struct Tables {
    pub(crate) interfaces: Box<[Option<InterfaceRow>]>,
    pub(crate) adjacencies: Box<[AdjacencyRow]>,
    pub(crate) groups: Box<[GroupRow]>,
    pub(crate) buckets: Box<[u32]>,
    /// Some interface waits for answers of DHCP servers.
    pub(crate) expects_dhcp: bool,
}

/// An interface as nodes see it.
#[derive(Debug)]
pub(crate) struct InterfaceRow {
    /// The port below, or the interface itself.
    pub(crate) port: InterfaceId,
    /// 0: untagged.
    pub(crate) vlan_id: u16,
    /// It and the port that it stands on are up.
    pub(crate) up: bool,
    /// Sub-interface of each VLAN; on ports that have any.
    pub(crate) vlans: Option<Box<[u16; 4096]>>,
    /// MAC addresses of the groups that it has joined.
    pub(crate) groups: Box<[[u8; 6]]>,
    pub(crate) description: Interface,
}

/// An adjacency as nodes see it.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdjacencyRow {
    /// Destination and source MAC address, VLAN tag if `header_len` is 18; the EtherType comes after it. If `header_len` is
    /// 0, the number of an IPsec tunnel in the machine's byte order.
    pub(crate) rewrite: [u8; 16],
    pub(crate) tx_interface: u16,
    pub(crate) mtu: u16,
    /// Bytes of Ethernet header: 14 or 18; 0 for a tunnel.
    pub(crate) header_len: u8,
    /// Where lookup sends IPv4 packets.
    pub(crate) next4: Node,
    /// Where lookup sends IPv6 packets.
    pub(crate) next6: Node,
    /// Why IPv4 packets are dropped, if they are.
    pub(crate) drop4: DropReason,
    /// Why IPv6 packets are dropped, if they are.
    pub(crate) drop6: DropReason,
}

const _: () = assert!(size_of::<AdjacencyRow>() == 32);

/// A group as nodes see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupRow {
    /// The adjacency if `mask` is 0, else the first of the group's buckets.
    pub(crate) first: u32,
    /// Number of buckets, a power of two, less 1.
    pub(crate) mask: u32,
}

const _: () = assert!(size_of::<GroupRow>() == 8);

impl Tables {
    /// The interface with this number.
    pub fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.row(id).map(|row| &row.description)
    }

    #[inline(always)]
    pub(crate) fn row(&self, id: InterfaceId) -> Option<&InterfaceRow> {
        self.interfaces.get(usize::from(id.0))?.as_ref()
    }

    /// Bytes of the Ethernet header that stays before the data of a packet that came in by an interface.
    pub fn link_header_bytes(&self, id: InterfaceId) -> Option<usize> {
        self.row(id).map(InterfaceRow::header_len)
    }

    /// All interfaces that exist.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &InterfaceRow> {
        self.interfaces.iter().flatten()
    }

    /// The group that a route table names; what does not exist (any more) is no route.
    #[inline(always)]
    pub(crate) fn group(&self, value: u32) -> GroupRow {
        self.groups.get(value as usize).copied().unwrap_or(GroupRow { first: u32::MAX, mask: 0 })
    }

    /// The adjacency that a group of several chooses for a flow.
    #[inline(always)]
    pub(crate) fn bucket(&self, group: GroupRow, flow_hash: u32) -> u32 {
        self.buckets.get((group.first + (flow_hash & group.mask)) as usize).copied().unwrap_or(u32::MAX)
    }

    /// The adjacency's number that a packet with this flow hash gets of a group, which asks for the hash only if it has several.
    #[inline(always)]
    pub(crate) fn choose(&self, group: GroupRow, flow_hash: impl FnOnce() -> u32) -> u32 {
        if group.mask == 0 { group.first } else { self.bucket(group, flow_hash()) }
    }

    /// The adjacency of a number; what does not exist (any more) is no route.
    #[inline(always)]
    pub(crate) fn adjacency(&self, id: u32) -> &AdjacencyRow {
        self.adjacencies.get(id as usize).unwrap_or(&AdjacencyRow::NO_ROUTE)
    }
}

impl InterfaceRow {
    fn new(id: InterfaceId, description: Interface) -> Self {
        let groups4 = description.groups4.iter().map(|group| multicast_mac_ipv4(group.octets()));
        let groups6 = description.groups6.iter().map(|group| multicast_mac_ipv6(group.octets()));
        let groups = groups4.chain(groups6).collect();
        Self { port: id, vlan_id: NO_VLAN, up: description.up, vlans: None, groups, description }
    }

    /// True for the address that means all hosts of one of its networks (RFC 919). Networks of two addresses or one have
    /// none (RFC 3021).
    pub(crate) fn is_directed_broadcast(&self, destination: Ipv4Addr) -> bool {
        self.description.ipv4.iter().any(|&(address, len)| {
            let hosts = u32::MAX.checked_shr(len.into()).unwrap_or(0);
            hosts > 1 && destination.to_bits() == address.to_bits() | hosts
        })
    }

    /// True if frames carry a VLAN tag.
    pub(crate) fn is_tagged(&self) -> bool {
        self.vlan_id != NO_VLAN
    }

    /// Bytes of Ethernet header of its frames.
    pub(crate) fn header_len(&self) -> usize {
        if self.is_tagged() { 18 } else { 14 }
    }

    /// The sub-interface of a VLAN of this port.
    pub(crate) fn vlan(&self, vlan_id: u16) -> Option<InterfaceId> {
        let id = self.vlans.as_ref()?[usize::from(vlan_id & 0xfff)];
        (id != NO_INTERFACE).then_some(InterfaceId(id))
    }
}

impl AdjacencyRow {
    pub(crate) const NO_ROUTE: Self = Self {
        rewrite: [0; 16],
        tx_interface: NO_INTERFACE,
        mtu: 0,
        header_len: 14,
        next4: Node::Icmp4Error,
        next6: Node::Icmp6Error,
        drop4: DropReason::Ip4NoRoute,
        drop6: DropReason::Ip6NoRoute,
    };

    /// The IPsec tunnel that it leads into.
    #[inline(always)]
    pub(crate) fn tunnel(&self) -> Option<TunnelId> {
        let [a, b, c, d, ..] = self.rewrite;
        (self.header_len == 0).then(|| TunnelId(u32::from_ne_bytes([a, b, c, d])))
    }

    /// Puts the Ethernet header before a packet, or leads it into its tunnel, and says where it goes.
    #[inline(always)]
    pub(crate) fn push_ethernet(&self, packet: &mut Buf, ethertype: u16) -> Node {
        packet.meta_mut().tx_interface = self.tx_interface;
        if self.header_len == 14 {
            let Ok(header) = packet.push_array::<14>() else { return no_headroom(packet) };
            header[..12].copy_from_slice(&self.rewrite[..12]);
            header[12..].copy_from_slice(&ethertype.to_be_bytes());
        } else if let Some(tunnel) = self.tunnel() {
            packet.meta_mut().opaque[1] = u64::from(tunnel.0);
            return Node::EspEncrypt;
        } else {
            let Ok(header) = packet.push_array::<18>() else { return no_headroom(packet) };
            header[..16].copy_from_slice(&self.rewrite);
            header[16..].copy_from_slice(&ethertype.to_be_bytes());
        }
        Node::InterfaceOutput
    }
}

#[cold]
fn no_headroom(packet: &mut Buf) -> Node {
    packet.meta_mut().drop_reason = DropReason::NoHeadroom as u8;
    Node::Drop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_is_no_route() {
        let tables = Tables::default();
        for value in [0, 1, u32::MAX] {
            let group = tables.group(value);
            assert_eq!(tables.adjacency(group.first).next4, Node::Icmp4Error);
        }
        assert_eq!(tables.bucket(GroupRow { first: u32::MAX, mask: 0 }, 5), u32::MAX);
    }
}
