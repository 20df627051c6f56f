//! What the fields of a configuration mean together.

mod cluster;
mod interfaces;
mod ipsec;
#[cfg(test)]
mod ipsec_tests;
mod links;
mod routes;
#[cfg(test)]
mod tests;

use crate::{
    Association, Config, IpNet, Problem, Route, Tunnel,
    problem::{Problems, element, member},
};
use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use core::net::IpAddr;
use links::Links;
pub(crate) use routes::{MAX_NEXT_HOPS, MAX_WEIGHT};

/// What a configuration is held against: one port of the machine it is for.
#[derive(Clone, Copy, Debug)]
pub struct PortFacts<'a> {
    /// The port's name.
    pub name: &'a str,
    /// Largest IP packet the device can carry, in bytes.
    pub max_mtu: u16,
}

/// Everything in `config` that is wrong on any machine; it is assumed to be as [`crate::table::CONFIG`] says.
pub fn validate(config: &Config) -> Vec<Problem> {
    let mut problems = Problems::default();
    let names = interfaces::validate(config, &mut problems);
    let links = Links::new(config, &mut problems);
    validate_api(config, &names, &mut problems);
    routes::validate(config, &names, &links, &mut problems);
    routes::validate_neighbours(config, &names, &links, &mut problems);
    ipsec::validate(config, &names, &links, &mut problems);
    cluster::validate(config, &mut problems);
    for (index, collector) in config.flow_log.collectors.iter().enumerate() {
        let pointer = member(&element("/flow_log/collectors", index), "address");
        if let Some(why) = not_a_host(collector.address) {
            problems.add(pointer, why);
        } else if is_link_local(collector.address) {
            problems.add(pointer, "is link-local: which link is not said");
        }
    }
    problems.into_vec()
}

/// Everything in `route` that is wrong by itself, whatever the interfaces are.
pub fn validate_route(route: &Route) -> Vec<Problem> {
    let mut problems = Problems::default();
    routes::validate_alone(route, "", &mut problems);
    problems.into_vec()
}

/// Everything in `association` that is wrong by itself, whatever the tunnels are.
pub fn validate_association(association: &Association) -> Vec<Problem> {
    let mut problems = Problems::default();
    ipsec::validate_alone(association, "", &mut problems);
    problems.into_vec()
}

/// The secrets that `config` needs and has not: those that a document leaves out, once [`Config::keep_secrets`] has filled
/// in what it may.
pub fn missing_secrets(config: &Config) -> Vec<Problem> {
    ipsec::missing_keys(config)
}

/// Everything in `config` that does not fit a machine with these `ports`.
pub fn validate_ports(config: &Config, ports: &[PortFacts<'_>]) -> Vec<Problem> {
    let mut problems = Problems::default();
    for (index, interface) in config.interfaces.iter().enumerate().filter(|(_, i)| i.parent.is_none()) {
        let pointer = element("/interfaces", index);
        let Some(port) = ports.iter().find(|port| port.name == interface.name) else {
            let known: Vec<&str> = ports.iter().map(|port| port.name).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            problems.add(
                member(&pointer, "name"),
                format!("is not a port of this machine; its ports are: {known}"),
            );
            continue;
        };
        if interface.mtu > port.max_mtu {
            problems.add(
                member(&pointer, "mtu"),
                format!("is more than the {} bytes the device can carry", port.max_mtu),
            );
        }
    }
    problems.into_vec()
}

/// Place of each interface by name: those of the list `interfaces`, then the tunnels.
type Names<'a> = BTreeMap<&'a str, usize>;

/// What links and routes look at of an interface: a port, a sub-interface, or a tunnel.
struct Place<'a> {
    name: &'a str,
    addresses: &'a [IpNet],
    pointer: String,
    dhcp4: bool,
    tunnel: Option<&'a Tunnel>,
}

/// The interface at a place.
fn place(config: &Config, index: usize) -> Option<Place<'_>> {
    if let Some(interface) = config.interfaces.get(index) {
        return Some(Place {
            name: &interface.name,
            addresses: &interface.addresses,
            pointer: element("/interfaces", index),
            dhcp4: interface.dhcp4,
            tunnel: None,
        });
    }
    let index = index - config.interfaces.len();
    let tunnel = config.ipsec.tunnels.get(index)?;
    Some(Place {
        name: &tunnel.name,
        addresses: &tunnel.addresses,
        pointer: element("/ipsec/tunnels", index),
        dhcp4: false,
        tunnel: Some(tunnel),
    })
}

/// All interfaces in the order of their places.
fn places(config: &Config) -> impl Iterator<Item = Place<'_>> {
    (0..config.interfaces.len() + config.ipsec.tunnels.len()).filter_map(|index| place(config, index))
}

fn validate_api(config: &Config, names: &Names<'_>, problems: &mut Problems) {
    let Some(name) = config.api.interface.as_deref() else { return };
    match names.get(name).and_then(|&index| config.interfaces.get(index)) {
        None => problems.add("/api/interface", unknown_interface(name)),
        Some(interface) if interface.addresses.is_empty() && !interface.dhcp4 => {
            problems.add("/api/interface", format!("{name} has no address: nobody could reach the API"));
        }
        Some(_) => {}
    }
}

fn unknown_interface(name: &str) -> String {
    format!("there is no interface {name} in this configuration")
}

/// Why a packet to `address` can never be meant for one host, if so.
fn not_a_host(address: IpAddr) -> Option<&'static str> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    match address {
        _ if address.is_multicast() => Some("is a multicast address"),
        _ if address.is_unspecified() => Some("is the unspecified address"),
        _ if address.is_loopback() => Some("is a loopback address"),
        _ if broadcast => Some("is the broadcast address"),
        _ if mapped => Some("is an IPv4-mapped IPv6 address"),
        _ => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
