//! The resources as users write them: shapes only. What they mean is in [`crate::compile`].
//!
//! Policies refuse fields that they do not know, because a rule that is misspelt is a rule that is missing. Objects of
//! which only a part matters here (pods, nodes, endpoint slices) take whatever else the API server keeps in them.

pub mod calico;
pub mod cluster;
pub mod core;
pub mod kubernetes;
pub mod meta;

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use config::{Problem, from_value};
use serde_json::Value;

/// A resource that policy knows.
#[derive(Debug)]
pub enum Resource {
    Namespace(core::Namespace),
    Pod(core::Pod),
    Node(core::Node),
    ServiceAccount(core::ServiceAccount),
    EndpointSlice(core::EndpointSlice),
    NetworkPolicy(kubernetes::NetworkPolicy),
    AdminNetworkPolicy(cluster::AdminNetworkPolicy),
    BaselineAdminNetworkPolicy(cluster::BaselineAdminNetworkPolicy),
    ClusterNetworkPolicy(cluster::ClusterNetworkPolicy),
    CalicoNetworkPolicy(calico::NetworkPolicy),
    GlobalNetworkPolicy(calico::GlobalNetworkPolicy),
    StagedNetworkPolicy(calico::StagedNetworkPolicy),
    StagedGlobalNetworkPolicy(calico::StagedGlobalNetworkPolicy),
    StagedKubernetesNetworkPolicy(calico::StagedKubernetesNetworkPolicy),
    Tier(calico::Tier),
    NetworkSet(calico::NetworkSet),
    GlobalNetworkSet(calico::GlobalNetworkSet),
    HostEndpoint(calico::HostEndpoint),
    WorkloadEndpoint(calico::WorkloadEndpoint),
    Profile(calico::Profile),
    FelixConfiguration(calico::FelixConfiguration),
    /// Of a kind that says nothing about policy.
    Other,
}

/// Reads one resource. Kinds of other API groups than policy knows are [`Resource::Other`]; an unknown kind of a
/// group that has policies is refused, because it may be a policy misspelt.
pub fn read(value: &Value) -> Result<Resource, Problem> {
    let text = |field: &str| match value.get(field) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(Problem { pointer: format!("/{field}"), message: "a text is expected".to_string() }),
        None => Err(Problem { pointer: String::new(), message: format!("{field} is missing") }),
    };
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    Ok(match (version, kind) {
        ("v1", "Namespace") => Resource::Namespace(from_value(value)?),
        ("v1", "Pod") => Resource::Pod(from_value(value)?),
        ("v1", "Node") => Resource::Node(from_value(value)?),
        ("v1", "ServiceAccount") => Resource::ServiceAccount(from_value(value)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => Resource::EndpointSlice(from_value(value)?),
        ("networking.k8s.io/v1", "NetworkPolicy") => Resource::NetworkPolicy(from_value(value)?),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy") => {
            Resource::AdminNetworkPolicy(from_value(value)?)
        }
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy") => {
            Resource::BaselineAdminNetworkPolicy(from_value(value)?)
        }
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
            Resource::ClusterNetworkPolicy(from_value(value)?)
        }
        ("projectcalico.org/v3", kind) => calico(kind, value)?,
        _ => return other(version, kind),
    })
}

fn calico(kind: &str, value: &Value) -> Result<Resource, Problem> {
    Ok(match kind {
        "NetworkPolicy" => Resource::CalicoNetworkPolicy(from_value(value)?),
        "GlobalNetworkPolicy" => Resource::GlobalNetworkPolicy(from_value(value)?),
        "StagedNetworkPolicy" => Resource::StagedNetworkPolicy(from_value(value)?),
        "StagedGlobalNetworkPolicy" => Resource::StagedGlobalNetworkPolicy(from_value(value)?),
        "StagedKubernetesNetworkPolicy" => Resource::StagedKubernetesNetworkPolicy(from_value(value)?),
        "Tier" => Resource::Tier(from_value(value)?),
        "NetworkSet" => Resource::NetworkSet(from_value(value)?),
        "GlobalNetworkSet" => Resource::GlobalNetworkSet(from_value(value)?),
        "HostEndpoint" => Resource::HostEndpoint(from_value(value)?),
        "WorkloadEndpoint" => Resource::WorkloadEndpoint(from_value(value)?),
        "Profile" => Resource::Profile(from_value(value)?),
        "FelixConfiguration" => Resource::FelixConfiguration(from_value(value)?),
        _ => return other("projectcalico.org/v3", kind),
    })
}

/// Calico's kinds that configure something else than policy.
const CALICO_OTHERS: [&str; 12] = [
    "IPPool",
    "IPReservation",
    "IPAMConfig",
    "IPAMConfiguration",
    "BlockAffinity",
    "BGPConfiguration",
    "BGPPeer",
    "BGPFilter",
    "ClusterInformation",
    "KubeControllersConfiguration",
    "CalicoNodeStatus",
    "Node",
];

/// What is no kind of policy: nothing that matters, or one misspelt.
pub fn other(version: &str, kind: &str) -> Result<Resource, Problem> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let holds_policies = match group {
        "projectcalico.org" => !CALICO_OTHERS.contains(&kind),
        "networking.k8s.io" => kind.contains("Policy"),
        "policy.networking.k8s.io" => true,
        _ => kind.contains("NetworkPolicy") || kind.contains("NetworkSet"),
    };
    if !holds_policies {
        return Ok(Resource::Other);
    }
    let message = format!("{version} {kind} is not a kind of policy that is known here");
    Err(Problem { pointer: "/kind".to_string(), message })
}

/// The elements of a `List` of whatever kind, with what each is called by a pointer; or the one resource itself.
pub fn flatten(value: &Value) -> Vec<(String, &Value)> {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    match value.get("items") {
        Some(Value::Array(items)) if kind.ends_with("List") => {
            items.iter().enumerate().map(|(index, item)| (format!("/items/{index}"), item)).collect()
        }
        _ => Vec::from([(String::new(), value)]),
    }
}
