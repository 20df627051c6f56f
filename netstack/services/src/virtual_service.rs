//! What objects are compiled to.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

use config::HealthCheck;
use ipnet::IpNet;
use maglev::{Building, Seed, Table, TableSize};
use serde::Deserialize;

use crate::object::IpFamily;

/// Protocols that services have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

impl Protocol {
    /// Its number in IP headers.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// Where we are: what `Local` policies and topology hints are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Our name as a Kubernetes node.
    pub node: Option<String>,
    /// Our zone.
    pub zone: Option<String>,
    /// How backends are checked, where a Service does not say it.
    pub health_check: Arc<HealthCheck>,
}

/// All frontends and pools of some objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// By service, port, family and scope.
    pub pools: Vec<Pool>,
    /// In the order of their services.
    pub frontends: Vec<Frontend>,
}

/// Which endpoints serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Those of the whole cluster.
    Cluster,
    /// Those on this node.
    Local,
}

impl Scope {
    /// As the traffic policies say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// What tells pools apart, and stays the same while backends come and go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
    /// Port of the service; its name may be missing, this is not.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Family of the backends' addresses, and of the frontends'.
    pub family: IpFamily,
    /// Which endpoints serve.
    pub scope: Scope,
}

impl fmt::Display for PoolKey {
    /// As a person says it: `default/web port 80 TCP`, and what is not usual.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PoolKey { namespace, service, port, protocol, family, scope } = self;
        let family = if *family == IpFamily::V6 { " IPv6" } else { "" };
        let scope = if *scope == Scope::Local { " Local" } else { "" };
        write!(f, "{namespace}/{service} port {port} {protocol}{family}{scope}")
    }
}

/// The backends of a service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Which.
    pub key: PoolKey,
    /// The port's name; empty if it has none.
    pub port_name: String,
    /// In the order of their addresses and ports. All that established flows may still use.
    pub backends: Vec<Backend>,
    /// Slots of its table.
    pub table_size: TableSize,
    /// Whether a client keeps its backend.
    pub affinity: Option<Affinity>,
    /// How packets reach a backend.
    pub forwarding: Forwarding,
    /// The backends' QUIC connection IDs name them by so many last bytes of their addresses.
    pub server_id_bytes: Option<u8>,
    /// How its backends are checked.
    pub health_check: Arc<HealthCheck>,
}

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// Its address and port take the place of the service's; answers come back the same way.
    #[default]
    Nat,
    /// The same, and one of our own addresses takes the client's place, so that answers come back in any case.
    FullNat,
    /// As they are, to its link-layer address. It has the service's address and answers clients itself.
    Direct,
    /// In an IP packet to it; it has the service's address and answers clients itself.
    Ipip,
    /// The same, with UDP between.
    Gue,
}

/// One of a pool's backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where its packets go.
    pub address: SocketAddr,
    /// Its share among those of [`State::Active`].
    pub weight: u32,
    /// Whether it gets new flows.
    pub state: State,
    /// The node it runs on, if that is known.
    pub node: Option<String>,
}

impl Backend {
    /// What it is called in tables: the same on every node.
    pub fn name(&self) -> String {
        self.address.to_string()
    }
}

/// Whether a backend gets new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It does.
    Active,
    /// It is not ready, or hints want others for us: it keeps the flows that it has as long as it is there.
    Standby,
    /// It is going away, and keeps the flows that it has for a while.
    Draining,
}

impl State {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Draining => "draining",
        }
    }
}

/// `sessionAffinity: ClientIP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// How long a client that sends nothing keeps its backend.
    pub timeout_seconds: u32,
}

/// An address, port and protocol that clients use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// What it is.
    pub exposure: Exposure,
    /// Destination address; of a node port none, as it is every address of the node.
    pub address: Option<IpAddr>,
    /// Destination port.
    pub port: u16,
    /// Index of the pool that serves it.
    pub pool: usize,
    /// Clients that may use it; everybody if there are none.
    pub source_ranges: Vec<IpNet>,
}

/// Where clients of a frontend come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exposure {
    /// The cluster.
    ClusterIp,
    /// Outside, by an address of `externalIPs`.
    ExternalIp,
    /// Outside, by an address of the load balancer's status.
    LoadBalancer,
    /// Outside, by a port of every node.
    NodePort,
}

impl Exposure {
    /// As Kubernetes names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
        }
    }
}

impl Pool {
    /// Its backends as a Maglev table sees them: drained ones have no share.
    ///
    /// # Errors
    /// [`maglev::Error::NoBackend`] if nobody gets new flows, [`maglev::Error::TooManyBackends`].
    pub fn table(&self, seed: &Seed) -> Result<Table, maglev::Error> {
        let mut building = self.building(seed)?;
        while !building.advance(u32::MAX) {}
        Ok(building.finish())
    }

    /// The same, begun.
    ///
    /// # Errors
    /// As [`Pool::table`].
    pub fn building(&self, seed: &Seed) -> Result<Building, maglev::Error> {
        let names: Vec<String> = self.backends.iter().map(Backend::name).collect();
        let backends: Vec<maglev::Backend<'_>> = self
            .backends
            .iter()
            .zip(&names)
            .map(|(backend, name)| {
                let weight = if backend.state == State::Active { backend.weight } else { 0 };
                maglev::Backend { name: name.as_bytes(), weight }
            })
            .collect();
        Building::new(self.table_size, seed, &backends)
    }
}
