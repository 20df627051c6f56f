//! `policy.networking.k8s.io`: v1alpha1's `AdminNetworkPolicy` and `BaselineAdminNetworkPolicy`, v1alpha2's
//! `ClusterNetworkPolicy`.

use alloc::{string::String, vec::Vec};

use serde::Deserialize;

use super::meta::{LabelSelector, Strict};

pub type AdminNetworkPolicy = Strict<AdminSpec>;
pub type BaselineAdminNetworkPolicy = Strict<BaselineSpec>;
pub type ClusterNetworkPolicy = Strict<ClusterSpec>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSpec {
    pub priority: i32,
    pub subject: Subject,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineSpec {
    pub subject: Subject,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSpec {
    pub tier: String,
    pub priority: i32,
    pub subject: Subject,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<Pods>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pods {
    pub namespace_selector: LabelSelector,
    pub pod_selector: LabelSelector,
}

/// A rule of either direction and version; the compiler refuses what does not belong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub name: Option<String>,
    pub action: String,
    pub from: Option<Vec<Peer>>,
    pub to: Option<Vec<Peer>>,
    /// v1alpha1.
    pub ports: Option<Vec<Port>>,
    /// v1alpha2.
    pub protocols: Option<Vec<Protocol>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Peer {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<Pods>,
    pub nodes: Option<LabelSelector>,
    pub networks: Option<Vec<String>>,
    pub domain_names: Option<Vec<String>>,
}

/// v1alpha1: one of the three.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Port {
    pub port_number: Option<PortNumber>,
    pub port_range: Option<PortRange>,
    pub named_port: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortNumber {
    pub protocol: Option<String>,
    pub port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    pub protocol: Option<String>,
    pub start: u16,
    pub end: u16,
}

/// v1alpha2: one of the four.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Protocol {
    pub tcp: Option<ProtocolPorts>,
    pub udp: Option<ProtocolPorts>,
    pub sctp: Option<ProtocolPorts>,
    pub destination_named_port: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProtocolPorts {
    pub destination_port: Option<DestinationPort>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationPort {
    pub number: Option<u16>,
    pub range: Option<NumberRange>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberRange {
    pub start: u16,
    pub end: u16,
}
