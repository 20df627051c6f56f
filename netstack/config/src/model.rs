//! The configuration as types. Every field is described, with its limits, in [`crate::table`]; a test holds the two together.

use crate::{Association, Cluster, FlowLog, Ipsec, MacAddress, Tree};
use alloc::{string::String, vec::Vec};
use core::{fmt, fmt::Write as _, net::IpAddr};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// A whole configuration: what a node is told to be. It is replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The node's name, an RFC 1123 host name; DHCP requests carry it.
    pub hostname: String,
    /// The management API.
    pub api: Api,
    /// The log.
    pub log: Log,
    /// Ports and VLAN sub-interfaces, in any order.
    pub interfaces: Vec<Interface>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// Static neighbours (ARP and ND entries).
    pub neighbours: Vec<Neighbour>,
    /// ESP.
    pub ipsec: Ipsec,
    /// What the node is in a Kubernetes cluster.
    pub cluster: Cluster,
    /// What is told of flows.
    pub flow_log: FlowLog,
}

/// The management API.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Bearer token. None: the token in force stays, or at boot one is made and printed on the console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// TCP port.
    pub port: u16,
    /// Answer only requests that arrive for an address of this interface. None: every local address answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// The log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The least severe level that is kept.
    pub level: LogLevel,
}

/// Severity of a log line, most severe first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something asked for did not happen.
    Error,
    /// Something is likely wrong.
    Warn,
    /// What a person follows in normal operation.
    #[default]
    Info,
    /// Decisions of the control side.
    Debug,
    /// Single packets of the control side.
    Trace,
}

/// A port of the machine (`eth0`...) or, with `parent` and `vlan`, an 802.1Q sub-interface of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// The port's name, or the sub-interface's own name (by custom `PARENT.VLAN`).
    pub name: String,
    /// A note for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Whether packets pass.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Port whose tagged frames this sub-interface takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// 802.1Q VLAN identifier, 1..=4094; given exactly when `parent` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// MAC address. None: the device's own, or the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Largest IP packet in bytes, without Ethernet and VLAN headers.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// The node's addresses on this link, with the link's prefix length.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// Get an IPv4 address, default route and MTU by DHCP.
    #[serde(default)]
    pub dhcp4: bool,
    /// Send IPv6 router advertisements. None: only be a silent router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_advertisements: Option<RouterAdvertisements>,
}

/// What an interface advertises as an IPv6 router (RFC 4861 §6.2.1). Every /64 of the interface's addresses is
/// advertised as an on-link prefix for autonomous configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterAdvertisements {
    /// Longest time between two unsolicited advertisements (`MaxRtrAdvInterval`).
    pub max_interval_seconds: u16,
    /// How long hosts may use this node as default router (`AdvDefaultLifetime`); 0 means never.
    pub router_lifetime_seconds: u16,
    /// Hosts get addresses by DHCPv6 (M flag).
    pub managed: bool,
    /// Hosts get other configuration by DHCPv6 (O flag).
    pub other: bool,
    /// How long an advertised prefix stays valid (`AdvValidLifetime`).
    pub valid_lifetime_seconds: u32,
    /// How long addresses of an advertised prefix stay preferred (`AdvPreferredLifetime`).
    pub preferred_lifetime_seconds: u32,
    /// IPv6 addresses of recursive DNS servers that hosts are told of (RFC 8106), for three times the longest interval.
    pub dns_servers: Vec<IpAddr>,
}

/// A static route: next hops, or a blackhole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination network; no host bits.
    pub prefix: IpNet,
    /// Next hops; traffic is spread over them by flow in proportion to their weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<NextHop>,
    /// Drop what goes there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub blackhole: bool,
}

/// One next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextHop {
    /// The router's address, of the family of the route's prefix. None where there is but one at the other end: on a
    /// tunnel's interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its interface; needed for an IPv6 link-local address, where DHCP gives the interface's network, and for a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Share of the flows.
    #[serde(default = "default_weight")]
    pub weight: u8,
}

/// A static neighbour: no ARP or neighbour discovery is done for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Interface the neighbour is on.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: MacAddress,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: "fairlead".into(),
            api: Api::default(),
            log: Log::default(),
            interfaces: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
            ipsec: Ipsec::default(),
            cluster: Cluster::default(),
            flow_log: FlowLog::default(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { token: None, port: 80, interface: None }
    }
}

// The token must not get into a log by way of `{:?}`.
impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("token", &self.token.as_ref().map(|_| "<secret>"))
            .field("port", &self.port)
            .field("interface", &self.interface)
            .finish()
    }
}

impl Default for RouterAdvertisements {
    fn default() -> Self {
        Self {
            max_interval_seconds: 600,
            router_lifetime_seconds: 1800,
            managed: false,
            other: false,
            valid_lifetime_seconds: 2_592_000,
            preferred_lifetime_seconds: 604_800,
            dns_servers: Vec::new(),
        }
    }
}

impl Interface {
    /// An enabled port without addresses.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            enabled: true,
            parent: None,
            vlan: None,
            mac: None,
            mtu: default_mtu(),
            addresses: Vec::new(),
            dhcp4: false,
            router_advertisements: None,
        }
    }
}

impl Config {
    /// The same, for showing it to somebody.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut shown = self.clone();
        shown.api.token = None;
        shown.cluster.seed = None;
        shown.ipsec.associations.iter_mut().for_each(|association| association.key = None);
        shown
    }

    /// The document as JSON, with the secrets in it; cleared when it goes. There is room for it from the start: a vector that grows
    /// leaves what it had where it was.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        /// Bytes of a secret's name, its quotes and its comma, and more than are needed.
        const AROUND: usize = 32;
        let shown = serde_json::to_vec(&self.without_secrets()).unwrap_or_default();
        let keys = self.ipsec.associations.iter().filter_map(|association| association.key.as_ref());
        let secrets = keys.chain(&self.cluster.seed).map(|secret| secret.expose().len());
        let secrets = secrets.chain(self.api.token.as_ref().map(String::len));
        let room = shown.len() + secrets.map(|bytes| bytes + AROUND).sum::<usize>();
        let mut json = Zeroizing::new(String::with_capacity(room));
        let tree = serde_json::to_value(self).map(Tree);
        if tree.map_err(|_| fmt::Error).and_then(|tree| write!(json, "{}", tree.0)).is_err() {
            json.zeroize();
        }
        Zeroizing::new(core::mem::take(&mut *json).into_bytes())
    }

    /// Fills in the secrets that a new document leaves out and the one before has: the token, the cluster's seed, and keys of associations of
    /// the same name, direction, SPI and algorithm.
    pub fn keep_secrets(&mut self, before: &Self) {
        if self.api.token.is_none() {
            self.api.token.clone_from(&before.api.token);
        }
        if self.cluster.seed.is_none() {
            self.cluster.seed.clone_from(&before.cluster.seed);
        }
        let same = |a: &Association, b: &Association| {
            (&a.name, a.direction, a.spi, a.algorithm) == (&b.name, b.direction, b.spi, b.algorithm)
        };
        for association in self.ipsec.associations.iter_mut().filter(|association| association.key.is_none())
        {
            let known = before.ipsec.associations.iter().find(|known| same(known, association));
            association.key = known.and_then(|known| known.key.clone());
        }
    }

    /// What a node does that was told nothing: its first port asks for an address by DHCP, for management.
    pub fn without_instructions(first_port: Option<&str>) -> Self {
        let interfaces = first_port.map(|name| Interface { dhcp4: true, ..Interface::new(name) });
        Self { interfaces: interfaces.into_iter().collect(), ..Self::default() }
    }
}

fn yes() -> bool {
    true
}

fn is_false(value: &bool) -> bool {
    !value
}

fn default_mtu() -> u16 {
    1500
}

fn default_weight() -> u8 {
    1
}
