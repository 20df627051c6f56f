//! What every kind of policy is compiled into: tiers of ordered policies of rules, and the endpoints they are about.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use core::{cmp::Ordering, fmt, net::IpAddr};

use ipnet::IpNet;

use crate::failsafe::Failsafe;
use crate::selector::{Labels, Selector};

/// Everything that decides. Its parts are shared, so that what changes from one model to the next is found by what is not.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// In the order in which they are asked.
    pub tiers: Vec<Tier>,
    /// By name.
    pub profiles: BTreeMap<String, Arc<Profile>>,
    /// Pods and host endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Named sets of networks, and nodes.
    pub networks: Vec<Arc<Networks>>,
}

/// A tier: policies that are asked together.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// Its place among the tiers.
    pub order: Order,
    /// What happens to a packet for an endpoint that a policy of the tier selects, if no rule of the tier matches.
    pub default_action: DefaultAction,
    /// In the order in which they are asked.
    pub policies: Vec<Arc<Policy>>,
}

/// A place in an order: smaller first, none last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Order(pub Option<f64>);

impl Order {
    /// Compares places; equal ones are ordered by name.
    pub fn compare(self, other: Order) -> Ordering {
        let number = |order: Order| order.0.unwrap_or(f64::INFINITY);
        number(self).total_cmp(&number(other))
    }
}

/// What a tier does with what none of its rules matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// Drops it.
    Deny,
    /// Leaves it to the next tier.
    Pass,
}

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What it is called.
    pub id: PolicyId,
    /// Its place in the tier.
    pub order: Order,
    /// Whether it is enforced.
    pub standing: Standing,
    /// Labels of the endpoints it applies to.
    pub subject: Selector,
    /// Which of an endpoint's packets it is about.
    pub hook: Hook,
    /// Rules for packets to the endpoint; none if the policy says nothing about them.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for packets from the endpoint; none if the policy says nothing about them.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The rules of a direction; none if the policy does not apply to it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// Whether a policy is enforced now, and whether it would be if staged policies were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is, and would be.
    Enforced,
    /// It is, and would not be: a staged policy takes its place, or deletes it.
    Leaving,
    /// It would be: it is counted and enforces nothing.
    Staged,
}

impl Standing {
    /// True if it is enforced now.
    pub fn is_enforced(self) -> bool {
        self != Standing::Staged
    }

    /// True if it would be, were staged policies enforced.
    pub fn would_be_enforced(self) -> bool {
        self != Standing::Leaving
    }
}

/// The name of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// Its own name.
    pub name: String,
    /// Its namespace, if its kind has one.
    pub namespace: Option<String>,
    /// Its kind. Kubernetes' own is `KubernetesNetworkPolicy`, as in Calico, whose own is `NetworkPolicy`.
    pub kind: &'static str,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Which packets of an endpoint a policy is about. Those of workloads are always [`Hook::Normal`]; a host endpoint
/// has packets of its own and packets that it forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// A workload's packets; a host's own.
    Normal,
    /// Those, and what a host forwards (`applyOnForward`).
    Forward,
    /// Before destination translation (`preDNAT`), a host's own and forwarded.
    PreDnat,
    /// Before connection tracking (`doNotTrack`), a host's own and forwarded.
    Untracked,
}

/// What an endpoint without a decision by policy does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Rules for packets to the endpoint.
    pub ingress: Vec<Rule>,
    /// Rules for packets from the endpoint.
    pub egress: Vec<Rule>,
}

impl Profile {
    /// The rules of a direction.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// As the endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Direction::Ingress { "ingress" } else { "egress" })
    }
}

/// A rule: what it does with packets that match.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// What it is about.
    pub matches: Match,
    /// Which of the rules that its author wrote it is, from 0. One written rule may become several here.
    pub index: usize,
    /// What its author called it.
    pub name: Option<String>,
}

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Accepts it.
    Allow,
    /// Drops it.
    Deny,
    /// Records it and goes on to the next rule.
    Log,
    /// Leaves the tier.
    Pass,
}

/// The packets a rule is about: all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// Only of this version.
    pub ip_version: Option<IpVersion>,
    /// Only of this protocol.
    pub protocol: Option<u8>,
    /// Not of this protocol.
    pub not_protocol: Option<u8>,
    /// Only ICMP messages of this type.
    pub icmp: Option<Icmp>,
    /// No ICMP messages of this type.
    pub not_icmp: Option<Icmp>,
    /// Where they come from.
    pub source: Side,
    /// Where they go.
    pub destination: Side,
}

/// Version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// That of an address.
    pub fn of(address: IpAddr) -> IpVersion {
        if address.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 }
    }
}

/// ICMP messages of a type, and of a code if one is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code; any if none.
    pub code: Option<u8>,
}

/// One end of the packets a rule is about: all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// In one of these networks, unless there are none.
    pub nets: Vec<IpNet>,
    /// In none of these networks.
    pub not_nets: Vec<IpNet>,
    /// In every one of these sets.
    pub sets: Vec<Set>,
    /// In none of these sets.
    pub not_sets: Vec<Set>,
    /// One of these ports, unless there are none.
    pub ports: Vec<Ports>,
    /// None of these ports.
    pub not_ports: Vec<Ports>,
}

/// A set of addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Those of the endpoints and network sets whose labels are selected.
    Selected(Selector),
    /// Those of the nodes whose labels are selected.
    Nodes(Selector),
    /// These.
    Members(Vec<IpNet>),
}

/// A condition on a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// From the first to the last.
    Range(u16, u16),
    /// The port that the endpoint of that address calls so, of this protocol if one is said.
    Named(String, Option<u8>),
    /// An address with a protocol and a port.
    Members(Vec<(IpNet, u8, u16)>),
}

/// Something that policy protects.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `namespace/name`, or the name of the host endpoint.
    pub name: String,
    /// What it is.
    pub kind: EndpointKind,
    /// Of a workload: it is from a `WorkloadEndpoint`, not from a `Pod`. One of each may have the same name.
    pub from_workload_endpoint: bool,
    /// Its labels, with those it has from its namespace, service account and profiles.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
    /// Names of profiles, in the order in which they are asked.
    pub profiles: Vec<String>,
    /// Of a host endpoint, the interface that it is, `*` for all; none if its addresses say so.
    pub interface: Option<String>,
    /// Of a host endpoint, the node that the interface is of; none for all.
    pub node: Option<String>,
    /// Of a host endpoint, the ports that no policy closes.
    pub failsafe: Option<Arc<Failsafe>>,
}

impl Endpoint {
    /// One about which nothing else is known. The failsafe ports of a host are Calico's then.
    pub fn new(kind: EndpointKind, name: String) -> Endpoint {
        Endpoint {
            name,
            kind,
            from_workload_endpoint: false,
            labels: Labels::new(),
            addresses: Vec::new(),
            ports: Vec::new(),
            profiles: Vec::new(),
            interface: None,
            node: None,
            failsafe: (kind == EndpointKind::Host).then(Arc::default),
        }
    }
}

/// What an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointKind {
    /// A pod.
    Workload,
    /// An interface of a host.
    Host,
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// The protocol's number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// Networks with labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Networks {
    /// What it is called.
    pub name: String,
    /// A node, which only [`Set::Nodes`] selects, or a network set, which only [`Set::Selected`] does.
    pub node: bool,
    /// Its labels.
    pub labels: Labels,
    /// The networks.
    pub nets: Vec<IpNet>,
}

/// A packet as far as policy looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address; of the same version.
    pub destination: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// Source port; 0 if the protocol has none.
    pub source_port: u16,
    /// Destination port; 0 if the protocol has none.
    pub destination_port: u16,
    /// Type and code of an ICMP message; zeros otherwise.
    pub icmp: (u8, u8),
}

/// Numbers of protocols.
pub mod protocol {
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// RFC 9260.
    pub const SCTP: u8 = 132;
    /// RFC 3828.
    pub const UDP_LITE: u8 = 136;
}

impl Model {
    /// Sorts tiers and policies into the order in which they are asked.
    pub fn sort(&mut self) {
        self.tiers.sort_by(|a, b| a.order.compare(b.order).then_with(|| a.name.cmp(&b.name)));
        for tier in &mut self.tiers {
            tier.policies.sort_by(|a, b| a.order.compare(b.order).then_with(|| a.id.cmp(&b.id)));
        }
    }
}
