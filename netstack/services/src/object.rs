//! The fields of `v1` Service and `discovery.k8s.io/v1` `EndpointSlice`, as of Kubernetes 1.35.
//!
//! Fields that say nothing about where packets go are known, so that a document may have them, and not kept.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// `metadata` of any object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Metadata {
    pub name: String,
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "creationTimestamp")]
    _creation_timestamp: Option<IgnoredAny>,
    #[serde(default, rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: Option<IgnoredAny>,
    #[serde(default, rename = "deletionTimestamp")]
    _deletion_timestamp: Option<IgnoredAny>,
    #[serde(default, rename = "finalizers")]
    _finalizers: Option<IgnoredAny>,
    #[serde(default, rename = "generateName")]
    _generate_name: Option<IgnoredAny>,
    #[serde(default, rename = "generation")]
    _generation: Option<IgnoredAny>,
    #[serde(default, rename = "managedFields")]
    _managed_fields: Option<IgnoredAny>,
    #[serde(default, rename = "ownerReferences")]
    _owner_references: Option<IgnoredAny>,
    #[serde(default, rename = "resourceVersion")]
    _resource_version: Option<IgnoredAny>,
    #[serde(default, rename = "selfLink")]
    _self_link: Option<IgnoredAny>,
    #[serde(default, rename = "uid")]
    _uid: Option<IgnoredAny>,
}

/// `v1` Service.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Service {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub metadata: Metadata,
    pub spec: ServiceSpec,
    #[serde(default)]
    pub status: Option<ServiceStatus>,
}

/// `spec` of a Service.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct ServiceSpec {
    #[serde(default)]
    pub ports: Option<Vec<ServicePort>>,
    #[serde(default, rename = "selector")]
    _selector: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(default, rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    #[serde(default, rename = "type")]
    pub service_type: ServiceType,
    #[serde(default, rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
    #[serde(default)]
    pub session_affinity: SessionAffinity,
    #[serde(default)]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    #[serde(default, rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<String>,
    #[serde(default)]
    pub load_balancer_source_ranges: Option<Vec<String>>,
    #[serde(default)]
    pub external_name: Option<String>,
    #[serde(default)]
    pub external_traffic_policy: Option<TrafficPolicy>,
    #[serde(default)]
    pub internal_traffic_policy: Option<TrafficPolicy>,
    #[serde(default)]
    pub health_check_node_port: Option<u16>,
    #[serde(default, rename = "publishNotReadyAddresses")]
    _publish_not_ready_addresses: Option<bool>,
    #[serde(default)]
    pub ip_families: Option<Vec<IpFamily>>,
    #[serde(default)]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    #[serde(default, rename = "allocateLoadBalancerNodePorts")]
    _allocate_load_balancer_node_ports: Option<bool>,
    #[serde(default)]
    pub load_balancer_class: Option<String>,
    #[serde(default)]
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// One of a Service's `ports`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct ServicePort {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub protocol: crate::Protocol,
    #[serde(default, rename = "appProtocol")]
    _app_protocol: Option<String>,
    pub port: u16,
    /// Slices carry the port that this resolves to.
    #[serde(default, rename = "targetPort")]
    _target_port: Option<TargetPort>,
    #[serde(default)]
    pub node_port: Option<u16>,
}

/// A port's number or name.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a port number from 0 to 65535 or a port's name")]
enum TargetPort {
    Number(#[expect(dead_code, reason = "read to be checked")] u16),
    Name(#[expect(dead_code, reason = "read to be checked")] String),
}

/// `type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "names are Kubernetes' own")]
pub enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// `sessionAffinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "names are Kubernetes' own")]
pub enum SessionAffinity {
    #[default]
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

/// `sessionAffinityConfig`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct SessionAffinityConfig {
    #[serde(default, rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// `sessionAffinityConfig.clientIP`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct ClientIpConfig {
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
}

/// `externalTrafficPolicy` and `internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "names are Kubernetes' own")]
pub enum TrafficPolicy {
    Cluster,
    Local,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[expect(missing_docs, reason = "names are Kubernetes' own")]
pub enum IpFamily {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// As Kubernetes writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// `ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "names are Kubernetes' own")]
pub enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

/// `trafficDistribution`: how far traffic prefers to go. All act through the hints that the slices carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "names are Kubernetes' own")]
pub enum TrafficDistribution {
    PreferClose,
    PreferSameZone,
    PreferSameNode,
}

/// `status` of a Service.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct ServiceStatus {
    #[serde(default)]
    pub load_balancer: Option<LoadBalancerStatus>,
    #[serde(default, rename = "conditions")]
    _conditions: Option<IgnoredAny>,
}

/// `status.loadBalancer`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct LoadBalancerStatus {
    #[serde(default)]
    pub ingress: Option<Vec<Ingress>>,
}

/// One of `status.loadBalancer.ingress`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Ingress {
    #[serde(default)]
    pub ip: Option<String>,
    #[serde(default, rename = "hostname")]
    _hostname: Option<String>,
    #[serde(default)]
    pub ip_mode: IpMode,
    #[serde(default, rename = "ports")]
    _ports: Option<IgnoredAny>,
}

/// `ipMode` of an ingress address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum IpMode {
    /// Packets come with the address as their destination.
    #[default]
    #[serde(rename = "VIP")]
    Vip,
    /// Something else has the address and sends packets on to a node port or a pod.
    Proxy,
}

/// `discovery.k8s.io/v1` `EndpointSlice`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct EndpointSlice {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub metadata: Metadata,
    pub address_type: AddressType,
    #[serde(default)]
    pub endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    pub ports: Option<Vec<EndpointPort>>,
}

/// `addressType` of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "names are Kubernetes' own")]
pub enum AddressType {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
    #[serde(rename = "FQDN")]
    Name,
}

/// One of a slice's `endpoints`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Endpoint {
    pub addresses: Vec<String>,
    #[serde(default)]
    pub conditions: Option<Conditions>,
    #[serde(default, rename = "hostname")]
    _hostname: Option<String>,
    #[serde(default, rename = "targetRef")]
    _target_ref: Option<IgnoredAny>,
    #[serde(default, rename = "deprecatedTopology")]
    _deprecated_topology: Option<IgnoredAny>,
    #[serde(default)]
    pub node_name: Option<String>,
    #[serde(default)]
    pub zone: Option<String>,
    #[serde(default)]
    pub hints: Option<Hints>,
}

/// `conditions` of an endpoint.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Conditions {
    #[serde(default)]
    pub ready: Option<bool>,
    #[serde(default)]
    pub serving: Option<bool>,
    #[serde(default)]
    pub terminating: Option<bool>,
}

/// `hints` of an endpoint: whom it should serve.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Hints {
    #[serde(default)]
    pub for_zones: Option<Vec<Named>>,
    #[serde(default)]
    pub for_nodes: Option<Vec<Named>>,
}

/// The name of a zone or node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Named {
    pub name: String,
}

/// One of a slice's `ports`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct EndpointPort {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub protocol: Option<crate::Protocol>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default, rename = "appProtocol")]
    _app_protocol: Option<String>,
}

impl Service {
    /// The addresses that a load balancer gave.
    pub(crate) fn ingress(&self) -> &[Ingress] {
        let status = self.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        status.and_then(|status| status.ingress.as_deref()).unwrap_or_default()
    }
}

impl Metadata {
    /// The namespace, which has a default.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// The value of a label.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }
}
