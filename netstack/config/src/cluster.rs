//! What a node is in a Kubernetes cluster.

use crate::{HealthCheck, IpNet, Secret};
use alloc::{string::String, vec::Vec};
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// What a node is in a Kubernetes cluster: what services and policies need to know besides their objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// The node's name there. None: no endpoint is local.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The node's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Addresses that have node ports. Empty: all addresses of the interfaces.
    pub node_addresses: Vec<IpAddr>,
    /// Source addresses of full NAT.
    pub source_addresses: Vec<IpAddr>,
    /// Clients in these networks get an address of full NAT on their way to backends of the whole cluster.
    pub masquerade: Vec<IpNet>,
    /// Clients in these networks do not.
    pub masquerade_except: Vec<IpNet>,
    /// Source addresses of tunnels to backends, one of each family at most.
    pub tunnel_addresses: Vec<IpAddr>,
    /// Destination UDP port of GUE.
    pub gue_port: u16,
    /// 16 bytes in hexadecimal that key the tables, the same on all nodes that balance the same services. None: zeros.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<Secret>,
    /// Flows of each family that a worker knows at most. None: by the free memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows_per_worker: Option<u32>,
    /// What is made of TCP's windows.
    pub tcp_window: TcpWindow,
    /// How long flows may be silent.
    pub flow_timeouts: FlowTimeouts,
    /// How backends are checked, where a Service does not say it.
    pub health_check: HealthCheck,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            node: None,
            zone: None,
            node_addresses: Vec::new(),
            source_addresses: Vec::new(),
            masquerade: Vec::new(),
            masquerade_except: Vec::new(),
            tunnel_addresses: Vec::new(),
            gue_port: GUE_PORT,
            seed: None,
            flows_per_worker: None,
            tcp_window: TcpWindow::default(),
            flow_timeouts: FlowTimeouts::default(),
            health_check: HealthCheck::default(),
        }
    }
}

/// What is made of the windows of TCP flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcpWindow {
    /// Nothing.
    #[default]
    Liberal,
    /// Segments that they have no place for are dropped.
    Strict,
}

impl TcpWindow {
    pub(crate) const NAMES: &[&str] = &["liberal", "strict"];
}

/// How long flows may be silent before they are forgotten, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowTimeouts {
    /// TCP whose other end has not been heard.
    pub tcp_opening_ms: u32,
    /// TCP between two ends that both take part.
    pub tcp_established_ms: u32,
    /// TCP after a FIN.
    pub tcp_closing_ms: u32,
    /// TCP after a RST.
    pub tcp_closed_ms: u32,
    /// Other protocols, before there was an answer.
    pub opening_ms: u32,
    /// Other protocols, after.
    pub established_ms: u32,
}

impl Default for FlowTimeouts {
    /// UDP as RFC 4787 §4.3 wants it, more than two minutes.
    fn default() -> Self {
        Self {
            tcp_opening_ms: 30_000,
            tcp_established_ms: 1_800_000,
            tcp_closing_ms: 120_000,
            tcp_closed_ms: 10_000,
            opening_ms: 30_000,
            established_ms: 180_000,
        }
    }
}

/// The least and the most of a timeout: a tenth of a second, and a day.
pub(crate) const FLOW_TIMEOUT_MS: (u32, u32) = (100, 86_400_000);

/// The port that IANA has assigned to GUE.
const GUE_PORT: u16 = 6080;

/// Bytes of a seed.
pub(crate) const SEED_BYTES: usize = 16;
