//! What policies are about: pods, host endpoints, nodes, sets of networks; and their labels.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::net::IpAddr;

use ipnet::IpNet;

use super::{
    Known, Made, NAMESPACE, OF_NAMESPACE, OF_SERVICE_ACCOUNT, ORCHESTRATOR, SERVICE_ACCOUNT, failsafe,
    supersedes, values,
};
use crate::api::{Resource, calico, core as objects};
use crate::model::{Action, Endpoint, EndpointKind, Match, Model, NamedPort, Networks, Profile, Rule};
use crate::problem::Problems;
use crate::selector::Labels;

/// The namespace's name as a label, which the API server puts on each namespace.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";
/// The same, which Calico puts on each endpoint, as a label of the namespace or the service account.
const CALICO_NAME: &str = "projectcalico.org/name";

/// First pass: what others refer to.
pub fn learn(resource: &Resource, known: &mut Known, _made: &mut Made, problems: &mut Problems) {
    if let Some(id) = supersedes(resource) {
        let _ = Arc::make_mut(&mut known.leaving).insert(id);
    }
    match resource {
        Resource::Namespace(namespace) => {
            let namespaces = Arc::make_mut(&mut known.namespaces);
            let _ = namespaces.insert(namespace.metadata.name.clone(), namespace.metadata.labels());
        }
        Resource::Pod(pod) if !pod.spec.host_network => known.learn_workload(pod.metadata.namespace()),
        Resource::WorkloadEndpoint(endpoint) => known.learn_workload(endpoint.metadata.namespace()),
        Resource::ServiceAccount(account) => {
            let key = (account.metadata.namespace().to_string(), account.metadata.name.clone());
            let _ = Arc::make_mut(&mut known.service_accounts).insert(key, account.metadata.labels());
        }
        Resource::Profile(profile) => {
            let labels = profile.spec.labels_to_apply.clone().unwrap_or_default();
            let _ = Arc::make_mut(&mut known.profile_labels).insert(profile.metadata.name.clone(), labels);
        }
        Resource::EndpointSlice(slice) => service(slice, known, problems),
        Resource::FelixConfiguration(felix) => failsafe::learn(felix, known, problems),
        _ => {}
    }
}

/// The name of the service that a slice is of.
pub fn service_of(slice: &objects::EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name").map(String::as_str)
}

/// What a slice of a service is known by.
pub fn slice_key(slice: &objects::EndpointSlice) -> Option<Arc<str>> {
    let service = service_of(slice)?;
    Some(format!("{}/{service}/{}", slice.metadata.namespace(), slice.metadata.name).into())
}

fn service(slice: &objects::EndpointSlice, known: &mut Known, problems: &mut Problems) {
    let Some(key) = slice_key(slice) else { return };
    let mut members = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        for address in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
            for port in slice.ports.iter().flatten() {
                let protocol = values::port_protocol(port.protocol.as_deref(), "ports", problems);
                members.extend(port.port.map(|port| (address, protocol, port)));
            }
        }
    }
    let _ = Arc::make_mut(&mut known.services).insert(key, members.into());
}

/// The service account that a pod runs as.
pub fn account(pod: &objects::Pod) -> &str {
    let account = pod.spec.service_account_name.as_ref().or(pod.spec.service_account.as_ref());
    account.map_or("default", String::as_str)
}

/// A pod: an endpoint, unless it lives in the network of its host.
pub fn pod(pod: &objects::Pod, known: &Known, made: &mut Made, problems: &mut Problems) {
    let namespace = pod.metadata.namespace();
    let name = format!("{namespace}/{}", pod.metadata.name);
    // An ended pod's address may be another pod's by now.
    let ended = matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let addresses = if ended { Vec::new() } else { pod_addresses(&pod.status, problems) };
    if pod.spec.host_network {
        let _ = made.host_network_pods.insert(name, addresses);
        return;
    }
    let account = account(pod);
    let labels = workload_labels(pod.metadata.labels(), (namespace, "k8s"), Some(account), known);
    made.model.endpoints.push(Arc::new(Endpoint {
        labels,
        addresses,
        ports: named_ports(&pod.spec, problems),
        profiles: Vec::from([format!("kns.{namespace}"), format!("ksa.{namespace}.{account}")]),
        ..Endpoint::new(EndpointKind::Workload, name)
    }));
}

/// The labels of a workload of a namespace and an orchestrator.
fn workload_labels(
    mut labels: Labels,
    (namespace, orchestrator): (&str, &str),
    account: Option<&str>,
    known: &Known,
) -> Labels {
    let text = |(key, value): (&str, &str)| (key.to_string(), value.to_string());
    labels.extend([(NAMESPACE, namespace), (ORCHESTRATOR, orchestrator)].map(text));
    labels.extend(namespace_labels(namespace, known));
    if let Some(account) = account {
        labels.extend([text((SERVICE_ACCOUNT, account))]);
        let of_account = known.service_accounts.get(&(namespace.to_string(), account.to_string()));
        labels.extend(prefixed(OF_SERVICE_ACCOUNT, of_account.cloned().unwrap_or_default(), account));
    }
    labels
}

/// A `WorkloadEndpoint`: an endpoint as a CNI plugin writes it, where no pod tells of it.
pub fn workload(
    endpoint: &calico::WorkloadEndpoint,
    known: &Known,
    model: &mut Model,
    problems: &mut Problems,
) {
    let (metadata, spec) = (&endpoint.metadata, &endpoint.spec);
    let namespace = metadata.namespace();
    let profiles = spec.profiles.clone().unwrap_or_default();
    let mut labels = Labels::new();
    for inherited in profiles.iter().filter_map(|name| known.profile_labels.get(name)) {
        labels.extend(inherited.clone());
    }
    labels.extend(metadata.labels());
    let account = spec.service_account_name.as_deref().filter(|account| !account.is_empty());
    let orchestrator = spec.orchestrator.as_deref().unwrap_or("k8s");
    let (addresses, ports) = problems.within("spec", |problems| {
        let networks = spec.ip_networks.as_deref().unwrap_or_default();
        let addresses = problems.each("ipNetworks", networks, |problems, _, text| {
            let net = values::net(text, "", problems)?;
            if net.prefix_len() != net.max_prefix_len() {
                problems.add("", "the network of a workload is one address");
            }
            Some(net.addr())
        });
        let ports = spec.ports.as_deref().unwrap_or_default();
        let ports = problems.each("ports", ports, |problems, _, port| {
            let protocol = values::protocol_number(&port.protocol, "protocol", problems);
            Some(NamedPort { name: port.name.clone()?, protocol, port: port.port })
        });
        (addresses.into_iter().flatten().collect(), ports.into_iter().flatten().collect())
    });
    model.endpoints.push(Arc::new(Endpoint {
        from_workload_endpoint: true,
        labels: workload_labels(labels, (namespace, orchestrator), account, known),
        addresses,
        ports,
        profiles,
        ..Endpoint::new(EndpointKind::Workload, format!("{namespace}/{}", metadata.name))
    }));
}

fn pod_addresses(status: &objects::PodStatus, problems: &mut Problems) -> Vec<IpAddr> {
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let texts: Vec<&String> = if status.pod_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        all.collect()
    } else {
        status.pod_ip.iter().collect()
    };
    let mut addresses = Vec::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                problems.within("status", |p| p.add("podIPs", format!("{text:?} is not an IP address")));
            }
        }
    }
    addresses
}

fn named_ports(spec: &objects::PodSpec, problems: &mut Problems) -> Vec<NamedPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut named = Vec::new();
    for port in spec.containers.iter().flatten().chain(sidecars).flat_map(|c| c.ports.iter().flatten()) {
        let protocol = values::port_protocol(port.protocol.as_deref(), "spec", problems);
        let name = port.name.clone();
        named.extend(name.map(|name| NamedPort { name, protocol, port: port.container_port }));
    }
    named
}

/// A node: its addresses are what a policy's `nodes` are.
pub fn node(node: &objects::Node, model: &mut Model) {
    let addresses = node.status.addresses.iter().flatten();
    let addresses = addresses.filter(|address| matches!(address.kind.as_str(), "InternalIP" | "ExternalIP"));
    let nets =
        addresses.filter_map(|address| address.address.parse::<IpAddr>().ok()).map(IpNet::from).collect();
    let name = node.metadata.name.clone();
    model.networks.push(Arc::new(Networks { name, node: true, labels: node.metadata.labels(), nets }));
}

/// A `NetworkSet` of a namespace, or a `GlobalNetworkSet` if nothing is `known`.
pub fn network_set(
    set: &calico::NetworkSet,
    known: Option<&Known>,
    model: &mut Model,
    problems: &mut Problems,
) {
    let nets = problems.within("spec", |p| values::nets(set.spec.nets.as_deref(), "nets", p));
    let mut labels = set.metadata.labels();
    let mut name = set.metadata.name.clone();
    if let Some(known) = known {
        let namespace = set.metadata.namespace();
        let _ = labels.insert(NAMESPACE.to_string(), namespace.to_string());
        labels.extend(namespace_labels(namespace, known));
        name = format!("{namespace}/{name}");
    }
    model.networks.push(Arc::new(Networks { name, node: false, labels, nets }));
}

/// A `HostEndpoint`.
pub fn host_endpoint(
    endpoint: &calico::HostEndpoint,
    known: &Known,
    model: &mut Model,
    problems: &mut Problems,
) {
    let profiles = endpoint.spec.profiles.clone().unwrap_or_default();
    let mut labels = Labels::new();
    for inherited in profiles.iter().filter_map(|name| known.profile_labels.get(name)) {
        labels.extend(inherited.clone());
    }
    labels.extend(endpoint.metadata.labels());
    let (addresses, ports) = problems.within("spec", |problems| {
        let texts = endpoint.spec.expected_ips.as_deref().unwrap_or_default();
        let addresses = problems.each("expectedIPs", texts, |problems, _, text| {
            let address = text.parse::<IpAddr>().ok();
            if address.is_none() {
                problems.add("", format!("{text:?} is not an IP address"));
            }
            address
        });
        let ports = endpoint.spec.ports.as_deref().unwrap_or_default();
        let ports = problems.each("ports", ports, |problems, _, port| NamedPort {
            name: port.name.clone(),
            protocol: values::protocol_number(&port.protocol, "protocol", problems),
            port: port.port,
        });
        (addresses.into_iter().flatten().collect(), ports)
    });
    let node = endpoint.spec.node.clone().filter(|name| !name.is_empty());
    model.endpoints.push(Arc::new(Endpoint {
        name: endpoint.metadata.name.clone(),
        kind: EndpointKind::Host,
        from_workload_endpoint: false,
        labels,
        addresses,
        ports,
        profiles,
        interface: endpoint.spec.interface_name.clone().filter(|name| !name.is_empty()),
        failsafe: Some(Arc::new(failsafe::of_node(node.as_deref(), known))),
        node,
    }));
}

/// What the API server's controllers would have made: the profiles of namespaces, which allow, and of service
/// accounts, which say nothing; and the one that allows everything.
pub fn builtin_profiles(known: &Known, profiles: &mut BTreeMap<String, Arc<Profile>>) {
    let allow =
        || Vec::from([Rule { action: Action::Allow, matches: Match::default(), index: 0, name: None }]);
    let all = Arc::new(Profile { ingress: allow(), egress: allow() });
    let of_namespaces = known.workloads.keys().map(|namespace| format!("kns.{namespace}"));
    for name in of_namespaces.chain(["projectcalico-default-allow".to_string()]) {
        let _ = profiles.entry(name).or_insert_with(|| all.clone());
    }
}

fn namespace_labels(namespace: &str, known: &Known) -> Labels {
    let mut labels = known.namespaces.get(namespace).cloned().unwrap_or_default();
    let _ = labels.insert(METADATA_NAME.to_string(), namespace.to_string());
    prefixed(OF_NAMESPACE, labels, namespace)
}

fn prefixed(prefix: &str, labels: Labels, name: &str) -> Labels {
    let mut all: Labels = labels.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)).collect();
    let _ = all.insert(format!("{prefix}{CALICO_NAME}"), name.to_string());
    all
}
