//! Interfaces, as they are.

use super::{Reply, dispatch::Request, json};
use crate::node::Node;
use alloc::{string::String, vec::Vec};
use config::{IpNet, MacAddress};
use core::net::{IpAddr, Ipv6Addr};
use dataplane::{Combined, InterfaceCounters};
use router::InterfaceStatus;
use serde::Serialize;

#[derive(Serialize)]
struct Interfaces {
    interfaces: Vec<Interface>,
}

#[derive(Serialize)]
struct Interface {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddress>,
    mtu: u16,
    enabled: bool,
    link_up: bool,
    addresses: Vec<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_local: Option<Ipv6Addr>,
    /// Addresses that somebody else on the link uses, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    duplicates: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dhcp4: Option<Dhcp4>,
    counters: Counters,
}

#[derive(Serialize)]
struct Dhcp4 {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_seconds: Option<u32>,
}

/// Counters of an interface.
#[derive(Serialize)]
pub(super) struct Counters {
    pub rx_packets: u64,
    rx_bytes: u64,
    pub tx_packets: u64,
    tx_bytes: u64,
    rx_drops: u64,
    tx_drops: u64,
    punts: u64,
}

impl From<InterfaceCounters> for Counters {
    fn from(from: InterfaceCounters) -> Self {
        let (
            Combined { packets: rx_packets, bytes: rx_bytes },
            Combined { packets: tx_packets, bytes: tx_bytes },
        ) = (from.rx, from.tx);
        let (rx_drops, tx_drops, punts) = (from.rx_drops, from.tx_drops, from.punts);
        Self { rx_packets, rx_bytes, tx_packets, tx_bytes, rx_drops, tx_drops, punts }
    }
}

/// `GET /v1/interfaces`.
pub(super) fn list(node: &mut Node, _: &Request) -> Reply {
    let interfaces = node.router.interfaces().into_iter().map(|status| interface(node, status)).collect();
    json(200, &Interfaces { interfaces })
}

fn interface(node: &Node, status: InterfaceStatus) -> Interface {
    let dhcp4 = node.dhcp.get(&status.id).map(|client| Dhcp4 {
        state: client.state_name(),
        server: client.lease().map(|lease| lease.server.into()),
        lease_seconds: client.lease().and_then(|lease| lease.seconds),
    });
    Interface {
        dhcp4,
        counters: node.shared.interface_counters(status.id).into(),
        name: status.name,
        mac: status.mac,
        mtu: status.mtu,
        enabled: status.enabled,
        link_up: status.link_up,
        addresses: status.addresses,
        link_local: status.link_local,
        duplicates: status.duplicates,
    }
}
