//! What cannot be in a Service: Kubernetes' own rules, as far as load balancing depends on them.

use alloc::format;
use alloc::vec::Vec;
use core::net::IpAddr;

use config::element;
use ipnet::IpNet;

use crate::annotation;
use crate::object::{
    IpFamily, IpFamilyPolicy, Service, ServicePort, ServiceSpec, ServiceType, SessionAffinity, TrafficPolicy,
};
use crate::objects::{Checker, Fault, Source};

/// The longest `timeoutSeconds`: a day.
const MAX_TIMEOUT_SECONDS: u32 = 86_400;

pub(crate) fn check(source: &Source, service: &Service, faults: &mut Vec<Fault>) {
    let checker = &mut Checker { source, faults };
    let spec = &service.spec;
    annotation::check(checker, &service.metadata, annotation::ON_SERVICE);
    if spec.service_type == ServiceType::ExternalName {
        checker.require(
            spec.external_name.is_some(),
            "/spec/externalName",
            "is required by type ExternalName",
        );
        return;
    }
    ports(checker, spec);
    cluster_ips(checker, spec);
    families(checker, spec);
    external(checker, spec);
    affinity(checker, spec);
    ingress(checker, service);
}

fn ports(checker: &mut Checker<'_>, spec: &ServiceSpec) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let path = |index: usize| element("/spec/ports", index);
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    checker.require(is_headless || !ports.is_empty(), "/spec/ports", "must have a port");
    let has_node_ports = matches!(spec.service_type, ServiceType::NodePort | ServiceType::LoadBalancer);
    for (index, port) in ports.iter().enumerate() {
        let at = path(index);
        checker.require(port.port != 0, &format!("{at}/port"), "must be from 1 to 65535");
        let named = ports.len() == 1 || port.name.as_ref().is_some_and(|name| !name.is_empty());
        checker.require(named, &format!("{at}/name"), "is required, as there are several ports");
        // Kubernetes prints a 0 where none is allocated.
        let node_port_is_possible = has_node_ports || port.node_port.unwrap_or(0) == 0;
        let message = "is possible with type NodePort and LoadBalancer only";
        checker.require(node_port_is_possible, &format!("{at}/nodePort"), message);
    }
    let key = |port: &ServicePort| (port.protocol, port.port);
    checker.distinct(ports.iter().map(key), path, "has the protocol and port of another one");
    let names = ports.iter().map(|port| port.name.as_deref().unwrap_or_default());
    if ports.len() > 1 {
        checker.distinct(names, |i| format!("{}/name", path(i)), "is the name of another port too");
    }
}

fn cluster_ips(checker: &mut Checker<'_>, spec: &ServiceSpec) {
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(one), Some(first)) = (&spec.cluster_ip, list.first()) {
        checker.require(one == first, "/spec/clusterIPs/0", "must be the same as clusterIP");
    }
    if list.iter().chain(&spec.cluster_ip).all(|text| text == "None" || text.is_empty()) {
        return;
    }
    checker.require(list.len() <= 2, "/spec/clusterIPs", "can have two addresses at most");
    if let Some(text) = &spec.cluster_ip {
        let _ = unicast(checker, "/spec/clusterIP", text);
    }
    let mut families = Vec::new();
    for (index, text) in list.iter().enumerate() {
        families.extend(unicast(checker, &element("/spec/clusterIPs", index), text).map(family));
    }
    let at = |i| element("/spec/clusterIPs", i);
    checker.distinct(families.iter(), at, "is of the same family as the other one");
    let named = spec.ip_families.as_deref().unwrap_or_default();
    for (index, (family, named)) in families.iter().zip(named).enumerate() {
        checker.require(family == named, &at(index), "is not of the family that ipFamilies says");
    }
}

fn families(checker: &mut Checker<'_>, spec: &ServiceSpec) {
    let named = spec.ip_families.as_deref().unwrap_or_default();
    let at = |i| element("/spec/ipFamilies", i);
    checker.distinct(named.iter(), at, "is there twice");
    let is_single = spec.ip_family_policy == Some(IpFamilyPolicy::SingleStack);
    let single_is_single = !is_single || named.len() <= 1;
    checker.require(single_is_single, "/spec/ipFamilyPolicy", "is SingleStack, and ipFamilies has two");
}

fn external(checker: &mut Checker<'_>, spec: &ServiceSpec) {
    let addresses = spec.external_ips.as_deref().unwrap_or_default();
    for (index, text) in addresses.iter().enumerate() {
        let _ = unicast(checker, &element("/spec/externalIPs", index), text);
    }
    let is_balanced = spec.service_type == ServiceType::LoadBalancer;
    let is_outside = is_balanced || spec.service_type == ServiceType::NodePort || !addresses.is_empty();
    let needs_outside = "is possible with type NodePort and LoadBalancer and with externalIPs only";
    let policy = spec.external_traffic_policy;
    checker.require(policy.is_none() || is_outside, "/spec/externalTrafficPolicy", needs_outside);

    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let needs_balancer = "is possible with type LoadBalancer only";
    checker.require(ranges.is_empty() || is_balanced, "/spec/loadBalancerSourceRanges", needs_balancer);
    for (index, text) in ranges.iter().enumerate() {
        let is_range = text.trim().parse::<IpNet>().is_ok();
        let message = "is not an address with a prefix length, such as 192.0.2.0/24";
        checker.require(is_range, &element("/spec/loadBalancerSourceRanges", index), message);
    }
    checker.require(
        spec.load_balancer_class.is_none() || is_balanced,
        "/spec/loadBalancerClass",
        needs_balancer,
    );
    if let Some(text) = spec.load_balancer_ip.as_ref().filter(|text| !text.is_empty()) {
        checker.require(is_balanced, "/spec/loadBalancerIP", needs_balancer);
        let _ = unicast(checker, "/spec/loadBalancerIP", text);
    }
    let checks_health = spec.health_check_node_port.unwrap_or(0) != 0;
    let can_check = is_balanced && policy == Some(TrafficPolicy::Local);
    let message = "is possible with type LoadBalancer and externalTrafficPolicy Local only";
    checker.require(!checks_health || can_check, "/spec/healthCheckNodePort", message);
}

fn affinity(checker: &mut Checker<'_>, spec: &ServiceSpec) {
    let Some(config) = &spec.session_affinity_config else { return };
    let by_client = spec.session_affinity == SessionAffinity::ClientIp;
    let message = "is possible with sessionAffinity ClientIP only";
    checker.require(by_client, "/spec/sessionAffinityConfig", message);
    let timeout = config.client_ip.as_ref().and_then(|config| config.timeout_seconds);
    let in_range = timeout.is_none_or(|seconds| (1..=MAX_TIMEOUT_SECONDS).contains(&seconds));
    checker.require(
        in_range,
        "/spec/sessionAffinityConfig/clientIP/timeoutSeconds",
        "must be from 1 to 86400",
    );
}

fn ingress(checker: &mut Checker<'_>, service: &Service) {
    for (index, ingress) in service.ingress().iter().enumerate() {
        let path = element("/status/loadBalancer/ingress", index);
        if let Some(text) = &ingress.ip {
            let _ = unicast(checker, &format!("{path}/ip"), text);
        }
    }
}

/// An address that clients can send to.
fn unicast(checker: &mut Checker<'_>, path: &str, text: &str) -> Option<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        checker.add(path, "is not an IP address");
        return None;
    };
    let sound = !(address.is_loopback() || address.is_unspecified() || address.is_multicast());
    checker.require(sound, path, "cannot be a service's address");
    sound.then_some(address)
}

/// The family of an address.
pub(crate) fn family(address: IpAddr) -> IpFamily {
    if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
}
