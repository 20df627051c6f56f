//! What a node is in a Kubernetes cluster.

use crate::{HealthCheck, Secret};
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
            tunnel_addresses: Vec::new(),
            gue_port: GUE_PORT,
            seed: None,
            flows_per_worker: None,
            health_check: HealthCheck::default(),
        }
    }
}

/// The port that IANA has assigned to GUE.
const GUE_PORT: u16 = 6080;

/// Bytes of a seed.
pub(crate) const SEED_BYTES: usize = 16;
