//! `projectcalico.org/v3`.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::kubernetes;
use super::meta::{LabelSelector, Loose, Metadata, NumberOrText, Strict};

pub type NetworkPolicy = Strict<PolicySpec>;
pub type GlobalNetworkPolicy = Strict<GlobalPolicySpec>;
pub type StagedNetworkPolicy = Strict<StagedPolicySpec>;
pub type StagedGlobalNetworkPolicy = Strict<StagedGlobalPolicySpec>;
pub type StagedKubernetesNetworkPolicy = Strict<StagedKubernetesSpec>;
pub type Tier = Strict<TierSpec>;
pub type NetworkSet = Strict<NetworkSetSpec>;
pub type GlobalNetworkSet = Strict<NetworkSetSpec>;
pub type HostEndpoint = Strict<HostEndpointSpec>;
pub type Profile = Strict<ProfileSpec>;
pub type WorkloadEndpoint = Loose<WorkloadEndpointSpec>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicySpec {
    pub tier: Option<String>,
    pub order: Option<f64>,
    pub selector: Option<String>,
    pub service_account_selector: Option<String>,
    pub types: Option<Vec<String>>,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
    #[serde(rename = "performanceHints")]
    _performance_hints: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GlobalPolicySpec {
    pub tier: Option<String>,
    pub order: Option<f64>,
    pub selector: Option<String>,
    pub service_account_selector: Option<String>,
    pub namespace_selector: Option<String>,
    pub types: Option<Vec<String>>,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
    pub do_not_track: Option<bool>,
    #[serde(rename = "preDNAT")]
    pub pre_dnat: Option<bool>,
    pub apply_on_forward: Option<bool>,
    #[serde(rename = "performanceHints")]
    _performance_hints: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StagedPolicySpec {
    pub staged_action: Option<String>,
    pub tier: Option<String>,
    pub order: Option<f64>,
    pub selector: Option<String>,
    pub service_account_selector: Option<String>,
    pub types: Option<Vec<String>>,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
    #[serde(rename = "performanceHints")]
    _performance_hints: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StagedGlobalPolicySpec {
    pub staged_action: Option<String>,
    pub tier: Option<String>,
    pub order: Option<f64>,
    pub selector: Option<String>,
    pub service_account_selector: Option<String>,
    pub namespace_selector: Option<String>,
    pub types: Option<Vec<String>>,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
    pub do_not_track: Option<bool>,
    #[serde(rename = "preDNAT")]
    pub pre_dnat: Option<bool>,
    pub apply_on_forward: Option<bool>,
    #[serde(rename = "performanceHints")]
    _performance_hints: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StagedKubernetesSpec {
    pub staged_action: Option<String>,
    pub pod_selector: Option<LabelSelector>,
    pub ingress: Option<Vec<kubernetes::IngressRule>>,
    pub egress: Option<Vec<kubernetes::EgressRule>>,
    pub policy_types: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TierSpec {
    pub order: Option<f64>,
    pub default_action: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSetSpec {
    pub nets: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HostEndpointSpec {
    pub node: Option<String>,
    pub interface_name: Option<String>,
    #[serde(rename = "expectedIPs")]
    pub expected_ips: Option<Vec<String>>,
    pub profiles: Option<Vec<String>>,
    pub ports: Option<Vec<EndpointPort>>,
}

/// Written by a CNI plugin, which keeps more in it than policy is about.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEndpointSpec {
    pub orchestrator: Option<String>,
    pub service_account_name: Option<String>,
    pub ip_networks: Option<Vec<String>>,
    pub profiles: Option<Vec<String>>,
    pub ports: Option<Vec<WorkloadPort>>,
}

#[derive(Debug, Deserialize)]
pub struct WorkloadPort {
    pub name: Option<String>,
    pub protocol: NumberOrText,
    pub port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointPort {
    pub name: String,
    pub protocol: NumberOrText,
    pub port: u16,
}

/// What a node's agent does. Policy is about few of its many fields.
#[derive(Debug, Deserialize)]
pub struct FelixConfiguration {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtoPort {
    pub protocol: Option<String>,
    pub port: u16,
    pub net: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProfileSpec {
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
    pub labels_to_apply: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    pub action: String,
    pub ip_version: Option<i64>,
    pub protocol: Option<NumberOrText>,
    pub not_protocol: Option<NumberOrText>,
    pub icmp: Option<Icmp>,
    #[serde(rename = "notICMP")]
    pub not_icmp: Option<Icmp>,
    pub source: Option<Entity>,
    pub destination: Option<Entity>,
    pub http: Option<IgnoredAny>,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Icmp {
    #[serde(rename = "type")]
    pub kind: Option<i64>,
    pub code: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Entity {
    pub nets: Option<Vec<String>>,
    pub not_nets: Option<Vec<String>>,
    pub selector: Option<String>,
    pub not_selector: Option<String>,
    pub namespace_selector: Option<String>,
    pub ports: Option<Vec<NumberOrText>>,
    pub not_ports: Option<Vec<NumberOrText>>,
    pub service_accounts: Option<ServiceAccounts>,
    pub services: Option<Service>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccounts {
    pub names: Option<Vec<String>>,
    pub selector: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub name: String,
    pub namespace: Option<String>,
}
