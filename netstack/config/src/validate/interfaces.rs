//! Interfaces: names, parents, VLANs, addresses, MTUs, router advertisements.

use super::{Names, not_a_host, places, unknown_interface};
use crate::{
    Config, Interface, IpNet, RouterAdvertisements,
    problem::{Problems, element, member},
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
};

/// Names with a meaning of their own in commands and in the API.
const RESERVED_NAMES: [&str; 8] = ["all", "any", "default", "drop", "lo", "local", "none", "self"];

/// Smallest MTU of a link that carries IPv6 (RFC 8200 §5).
pub(super) const IPV6_MIN_MTU: u16 = 1280;

/// Reports what is wrong with interfaces and returns their names.
pub(super) fn validate<'a>(config: &'a Config, problems: &mut Problems) -> Names<'a> {
    let mut names = Names::new();
    for (index, place) in places(config).enumerate() {
        let (name, pointer) = (place.name, member(&place.pointer, "name"));
        if RESERVED_NAMES.contains(&name) {
            problems.add(pointer, format!("{name} is a reserved name; choose another"));
        } else if let Some(other) = names.get(name).and_then(|other| super::place(config, *other)) {
            problems.add(pointer, format!("{name} is the name of {} already", other.pointer));
        } else {
            let _ = names.insert(name, index);
        }
    }
    let mut tags = BTreeMap::new();
    for (index, interface) in config.interfaces.iter().enumerate() {
        let pointer = element("/interfaces", index);
        validate_parent(config, interface, &names, &mut tags, &pointer, problems);
        validate_addresses(interface, &pointer, problems);
        if let Some(advertisements) = &interface.router_advertisements {
            validate_advertisements(
                interface,
                advertisements,
                &member(&pointer, "router_advertisements"),
                problems,
            );
        }
    }
    names
}

/// `tags` has the pointer of the first sub-interface of each parent and VLAN.
fn validate_parent<'a>(
    config: &Config,
    interface: &'a Interface,
    names: &Names<'_>,
    tags: &mut BTreeMap<(&'a str, u16), String>,
    pointer: &str,
    problems: &mut Problems,
) {
    let (name, vlan) = match (&interface.parent, interface.vlan) {
        (None, None) => return,
        (Some(name), Some(vlan)) => (name.as_str(), vlan),
        (Some(_), None) => {
            return problems
                .add(member(pointer, "vlan"), "is missing; a sub-interface has a parent and a VLAN");
        }
        (None, Some(_)) => {
            return problems
                .add(member(pointer, "parent"), "is missing; a sub-interface has a parent and a VLAN");
        }
    };
    let Some(parent) = names.get(name).and_then(|&index| config.interfaces.get(index)) else {
        return problems.add(member(pointer, "parent"), unknown_interface(name));
    };
    if parent.parent.is_some() {
        problems
            .add(member(pointer, "parent"), format!("{name} is a sub-interface itself; a parent is a port"));
    }
    if interface.mtu > parent.mtu {
        problems.add(
            member(pointer, "mtu"),
            format!("is more than the {} bytes of its parent {name}", parent.mtu),
        );
    }
    if let Some(other) = tags.get(&(name, vlan)) {
        problems.add(member(pointer, "vlan"), format!("VLAN {vlan} of {name} belongs to {other} already"));
    } else {
        let _ = tags.insert((name, vlan), pointer.to_string());
    }
}

fn validate_addresses(interface: &Interface, pointer: &str, problems: &mut Problems) {
    validate_address_list(&interface.addresses, &member(pointer, "addresses"), problems);
    let has_v4 = interface.addresses.iter().any(|net| matches!(net, IpNet::V4(_)));
    let has_v6 = interface.addresses.iter().any(|net| matches!(net, IpNet::V6(_)));
    if has_v4 && interface.dhcp4 {
        problems.add(
            member(pointer, "dhcp4"),
            "an interface has IPv4 addresses either by DHCP or by configuration; leave one out",
        );
    }
    if has_v6 && interface.mtu < IPV6_MIN_MTU {
        problems.add(
            member(pointer, "mtu"),
            format!("must be at least {IPV6_MIN_MTU} on an interface with IPv6 addresses"),
        );
    }
}

/// Reports what is wrong with the addresses of one interface by themselves.
pub(super) fn validate_address_list(addresses: &[IpNet], pointer: &str, problems: &mut Problems) {
    for (index, net) in addresses.iter().enumerate() {
        if let Some(fault) = fault_of_address(net) {
            problems.add(element(pointer, index), format!("{net} {fault}"));
        }
        if addresses.iter().take(index).any(|other| other.addr() == net.addr())
            && super::is_link_local(net.addr())
        {
            problems.add(element(pointer, index), format!("{} is given twice", net.addr()));
        }
    }
}

fn fault_of_address(net: &IpNet) -> Option<&'static str> {
    if let Some(fault) = not_a_host(net.addr()) {
        return Some(fault);
    }
    match net {
        _ if net.prefix_len() == 0 => Some("has prefix length 0, the whole address space"),
        IpNet::V4(v4) if v4.prefix_len() <= 30 && v4.addr() == v4.network() => {
            Some("is the network's own address, not a host's")
        }
        IpNet::V4(v4) if v4.prefix_len() <= 30 && v4.addr() == v4.broadcast() => {
            Some("is the network's broadcast address, not a host's")
        }
        // RFC 4291 §2.6.1: the subnet-router anycast address belongs to all routers.
        IpNet::V6(v6) if v6.prefix_len() <= 126 && v6.addr() == v6.network() => {
            Some("is the subnet-router anycast address, not a host's")
        }
        _ => None,
    }
}

/// RFC 4861 §6.2.1.
fn validate_advertisements(
    interface: &Interface,
    advertisements: &RouterAdvertisements,
    pointer: &str,
    problems: &mut Problems,
) {
    let advertisable = |net: &IpNet| matches!(net, IpNet::V6(v6) if v6.prefix_len() == 64 && !v6.addr().is_unicast_link_local());
    if !interface.addresses.iter().any(advertisable) {
        problems.add(
            pointer,
            "needs an IPv6 address with prefix length 64 on the interface, to advertise its network",
        );
    }
    for (index, server) in advertisements.dns_servers.iter().enumerate() {
        if server.is_ipv4() || not_a_host(*server).is_some() {
            problems
                .add(element(&member(pointer, "dns_servers"), index), "must be an IPv6 address of a host");
        }
    }
    let lifetime = advertisements.router_lifetime_seconds;
    if lifetime != 0 && lifetime < advertisements.max_interval_seconds {
        problems
            .add(member(pointer, "router_lifetime_seconds"), "must be 0 or at least max_interval_seconds");
    }
    if advertisements.preferred_lifetime_seconds > advertisements.valid_lifetime_seconds {
        problems.add(
            member(pointer, "preferred_lifetime_seconds"),
            "must not be more than valid_lifetime_seconds",
        );
    }
}
