//! What the router takes and tells.

use alloc::{string::String, vec::Vec};
use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use buffer::Buf;
use config::{IpNet, Ipv4Net, MacAddress};
use dataplane::InterfaceId;

/// A port of the machine. Its place in the list that [`Router::new`](crate::Router::new) takes is its [`InterfaceId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, `eth0` and so on.
    pub name: String,
    /// The device's own MAC address.
    pub mac: [u8; 6],
}

/// Bounds on what others can make the router keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Neighbours in all. Those that routes and the configuration name come on top.
    pub neighbours: usize,
    /// Neighbours being resolved at a time.
    pub incomplete: usize,
    /// Packets waiting for one neighbour.
    pub waiting_per_neighbour: usize,
    /// Packets waiting in all; buffers that are out of the workers' hands.
    pub waiting: usize,
    /// Different sets of next hops.
    pub groups: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { neighbours: 16_384, incomplete: 512, waiting_per_neighbour: 4, waiting: 128, groups: 65_536 }
    }
}

/// Where a route comes from. Of several routes for a prefix the first in this order is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An interface's own address or network.
    Connected,
    /// The configuration.
    Static,
    /// A DHCP lease.
    Dhcp,
    /// The API.
    Dynamic,
    /// A neighbour that has been resolved, or could not be.
    Neighbour,
}

impl Source {
    /// All, in order of preference.
    pub const ALL: [Self; 5] = [Self::Connected, Self::Static, Self::Dhcp, Self::Dynamic, Self::Neighbour];

    /// Its name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Static => "static",
            Self::Dhcp => "dhcp",
            Self::Dynamic => "dynamic",
            Self::Neighbour => "neighbour",
        }
    }
}

/// A route, as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStatus {
    /// Destination network.
    pub prefix: IpNet,
    /// Where it comes from.
    pub source: Source,
    /// Where it leads.
    pub target: TargetStatus,
    /// Whether packets follow it: it is the preferred one for its prefix and a next hop is on a link that is up.
    pub active: bool,
}

/// Where a route leads, as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetStatus {
    /// To this node.
    Local,
    /// To the neighbours on an interface.
    Connected {
        /// The interface's name.
        interface: String,
    },
    /// Nowhere: dropped.
    Blackhole,
    /// To other routers, or to a neighbour itself.
    Via(Vec<NextHopStatus>),
}

/// One next hop of a route, as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHopStatus {
    /// Its address; None for the other end of a tunnel.
    pub address: Option<IpAddr>,
    /// The interface towards it; None while it is on no link that is up.
    pub interface: Option<String>,
    /// Share of the flows.
    pub weight: u16,
    /// Whether its MAC address is known.
    pub resolved: bool,
}

/// Place in a listing of routes: the last route of the page before.
pub type RouteCursor = (IpNet, Source);

/// State of a neighbour (RFC 4861 §7.3.2), the same for ARP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NeighbourState {
    /// Being resolved.
    Incomplete,
    /// Known, and heard of within the reachable time.
    Reachable,
    /// Known, perhaps out of date; used until packets make it worth a check.
    Stale,
    /// Packets went to it; about to be checked.
    Delay,
    /// Being checked.
    Probe,
    /// Did not answer.
    Failed,
    /// Configured.
    Permanent,
}

impl NeighbourState {
    /// Its name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Delay => "delay",
            Self::Probe => "probe",
            Self::Failed => "failed",
            Self::Permanent => "permanent",
        }
    }
}

/// A neighbour, as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourStatus {
    /// Name of the interface it is on.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, if known.
    pub mac: Option<MacAddress>,
    /// Its state.
    pub state: NeighbourState,
    /// Whether it said that it is a router (IPv6).
    pub is_router: bool,
    /// Whether a route names it as next hop.
    pub is_next_hop: bool,
    /// Since its state or MAC address last changed, in nanoseconds.
    pub age_ns: u64,
}

/// An interface, as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// Its number in the dataplane.
    pub id: InterfaceId,
    /// Its name.
    pub name: String,
    /// Its MAC address; None for a tunnel.
    pub mac: Option<MacAddress>,
    /// The longest IP packet it carries, in bytes.
    pub mtu: u16,
    /// Whether the configuration has it and enables it.
    pub enabled: bool,
    /// Whether the port has a link.
    pub link_up: bool,
    /// Its addresses, by configuration and DHCP, with the link's prefix length.
    pub addresses: Vec<IpNet>,
    /// Its IPv6 link-local address; None while it is not configured.
    pub link_local: Option<Ipv6Addr>,
    /// Addresses of it that somebody else on the link uses as well.
    pub duplicates: Vec<IpAddr>,
}

/// What a DHCP server gave for an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpLease {
    /// The node's address with the link's prefix length.
    pub address: Ipv4Net,
    /// Networks with their routers on the link; the default route is one of them.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// MTU of the link in bytes.
    pub mtu: Option<u16>,
}

/// Why a route was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// There is no interface of this name.
    NoInterface(String),
    /// The prefix or a next hop is not one that a route can have.
    Invalid(&'static str),
    /// There are too many different sets of next hops.
    TooManyGroups,
    /// No memory.
    Memory,
    /// Workers have not caught up with earlier changes: try again after the next poll.
    Busy,
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface(name) => write!(f, "there is no interface {name}"),
            Self::Invalid(problem) => f.write_str(problem),
            Self::TooManyGroups => f.write_str("too many different sets of next hops"),
            Self::Memory => f.write_str("no memory for the route"),
            Self::Busy => f.write_str("earlier changes are still being applied"),
        }
    }
}

impl core::error::Error for RouteError {}

/// What the router wants done by the one who polls it.
#[derive(Debug)]
pub enum Output {
    /// Send an Ethernet frame, without VLAN tag, out of an interface.
    Transmit {
        /// The interface.
        interface: InterfaceId,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Route an IP packet of this node.
    Send(Vec<u8>),
    /// Have an IPv4 packet that waited for its neighbour routed again.
    Forward4(Buf),
    /// Have an IPv6 packet that waited for its neighbour routed again.
    Forward6(Buf),
}

/// Why the router dropped a packet that the dataplane gave it, or one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterDrop {
    /// Its destination is not on the link that it was to go out by, or no longer.
    NotOnLink,
    /// The neighbour table is full, or too many neighbours are being looked for.
    TooManyNeighbours,
    /// As many packets as may wait for a neighbour, or for all of them together, wait already.
    QueueFull,
    /// The neighbour does not answer.
    NoAnswer,
    /// The neighbour was forgotten while the packet waited for it.
    Forgotten,
    /// Too much waits to be sent.
    OutputFull,
}

impl RouterDrop {
    /// All; a reason's place is its number.
    pub const ALL: [Self; 6] = [
        Self::NotOnLink,
        Self::TooManyNeighbours,
        Self::QueueFull,
        Self::NoAnswer,
        Self::Forgotten,
        Self::OutputFull,
    ];
}
