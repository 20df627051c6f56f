//! Routes and static neighbours against the links of the node.

use super::{Names, is_link_local, links::Links, not_a_host, place, unknown_interface};
use crate::{
    Config, NextHop, Route,
    problem::{Problems, element, member},
};
use alloc::{collections::BTreeMap, format};
use core::net::IpAddr;

/// Next hops of a route at most.
pub(crate) const MAX_NEXT_HOPS: usize = 16;
/// Weight of a next hop at most.
pub(crate) const MAX_WEIGHT: u8 = 16;

/// Reports what is wrong with routes.
pub(super) fn validate(config: &Config, names: &Names<'_>, links: &Links, problems: &mut Problems) {
    let mut prefixes = BTreeMap::new();
    for (index, route) in config.routes.iter().enumerate() {
        let pointer = element("/routes", index);
        validate_alone(route, &pointer, problems);
        if let Some(other) = prefixes.insert(route.prefix, index) {
            problems.add(
                member(&pointer, "prefix"),
                format!("{} is the prefix of /routes/{other} already", route.prefix),
            );
        }
        if let Some(interface) = links.interface_on(route.prefix).and_then(|index| place(config, index)) {
            let message = format!(
                "{} is the network of interface {}, which is routed without a static route",
                route.prefix, interface.name
            );
            problems.add(member(&pointer, "prefix"), message);
        }
        for (hop_index, hop) in route.via.iter().enumerate() {
            let pointer = element(&member(&pointer, "via"), hop_index);
            validate_on_link(config, hop, names, links, &pointer, problems);
        }
    }
}

/// Reports what is wrong with `route` whatever the links are.
pub(super) fn validate_alone(route: &Route, pointer: &str, problems: &mut Problems) {
    if route.via.is_empty() != route.blackhole {
        problems.add(pointer, "needs either next hops in via or blackhole: true, not both");
    }
    if route.prefix.addr() != route.prefix.network() {
        problems.add(
            member(pointer, "prefix"),
            format!("has host bits set; did you mean {}?", route.prefix.trunc()),
        );
    }
    if route.via.len() > MAX_NEXT_HOPS {
        problems.add(
            member(pointer, "via"),
            format!("has {} items; at most {MAX_NEXT_HOPS} are allowed", route.via.len()),
        );
    }
    if route.prefix.addr().is_multicast() {
        problems
            .add(member(pointer, "prefix"), format!("{} is multicast; only unicast is routed", route.prefix));
    }
    for (index, hop) in route.via.iter().enumerate() {
        let hop_pointer = element(&member(pointer, "via"), index);
        if !(1..=MAX_WEIGHT).contains(&hop.weight) {
            problems
                .add(member(&hop_pointer, "weight"), format!("must be an integer from 1 to {MAX_WEIGHT}"));
        }
        let pointer = member(&hop_pointer, "address");
        let is_same = |other: &NextHop| (other.address, &other.interface) == (hop.address, &hop.interface);
        let is_given_before = route.via.iter().take(index).any(is_same);
        let Some(address) = hop.address else {
            if hop.interface.is_none() {
                problems.add(hop_pointer, "needs an address, or the tunnel that is its interface");
            } else if is_given_before {
                problems.add(hop_pointer, "is given twice; use weight to give it a larger share");
            }
            continue;
        };
        if address.is_ipv4() != route.prefix.addr().is_ipv4() {
            problems.add(pointer, format!("{} is not of the address family of {}", address, route.prefix));
        } else if let Some(fault) = not_a_host(address) {
            problems.add(pointer, format!("{} {fault}, not a router's", address));
        } else if is_link_local(address) && hop.interface.is_none() {
            problems.add(pointer, format!("{} is link-local; name its interface", address));
        } else if is_given_before {
            problems
                .add(pointer, format!("{} is given twice; use weight to give it a larger share", address));
        }
    }
}

fn validate_on_link(
    config: &Config,
    hop: &NextHop,
    names: &Names<'_>,
    links: &Links,
    pointer: &str,
    problems: &mut Problems,
) {
    if let Some(address) = hop.address.filter(|address| links.is_own(*address)) {
        return problems.add(member(pointer, "address"), format!("{address} is this node's own address"));
    }
    let named = match hop.interface.as_deref().map(|name| (name, names.get(name))) {
        Some((name, None)) => return problems.add(member(pointer, "interface"), unknown_interface(name)),
        Some((_, index)) => index.copied(),
        None => None,
    };
    let tunnel = named.and_then(|index| place(config, index)).and_then(|place| place.tunnel);
    match hop.address {
        // There is only the peer at the other end: the address does not matter.
        _ if tunnel.is_some_and(|tunnel| tunnel.route_based) => {}
        _ if tunnel.is_some() => {
            problems.add(member(pointer, "interface"), "is a tunnel that is not route_based");
        }
        None => problems.add(member(pointer, "address"), "is missing: only a tunnel does without"),
        Some(address) => {
            if let Some(fault) = fault_on_link(config, address, named, links) {
                problems.add(member(pointer, "address"), fault);
            }
        }
    }
}

/// Why `address` is not a neighbour on interface `named`, or where that is None on any interface.
fn fault_on_link(
    config: &Config,
    address: IpAddr,
    named: Option<usize>,
    links: &Links,
) -> Option<alloc::string::String> {
    let interface = |index: usize| place(config, index);
    if is_link_local(address) {
        return None;
    }
    match (links.interface_of(address), named) {
        (Some(found), Some(named)) if found != named => Some(format!(
            "{address} is on the network of interface {}, not of {}",
            interface(found).map_or("", |i| i.name),
            interface(named).map_or("", |i| i.name)
        )),
        (Some(_), _) => None,
        (None, Some(named)) if address.is_ipv4() && interface(named).is_some_and(|i| i.dhcp4) => None,
        (None, Some(named)) => {
            let name = interface(named).map_or("", |i| i.name);
            Some(format!(
                "{address} is not on a network of interface {name}; give the interface an address on that network"
            ))
        }
        (None, None) => Some(format!(
            "{address} is not on the network of any interface; give one an address there, or name a dhcp4 interface"
        )),
    }
}

/// Reports what is wrong with static neighbours.
pub(super) fn validate_neighbours(
    config: &Config,
    names: &Names<'_>,
    links: &Links,
    problems: &mut Problems,
) {
    let mut known = BTreeMap::new();
    for (index, neighbour) in config.neighbours.iter().enumerate() {
        let pointer = element("/neighbours", index);
        let address = member(&pointer, "address");
        if let Some(other) = known.insert((neighbour.interface.as_str(), neighbour.address), index) {
            problems.add(pointer.clone(), format!("is given already at /neighbours/{other}"));
        }
        let Some(&named) = names.get(neighbour.interface.as_str()) else {
            problems.add(member(&pointer, "interface"), unknown_interface(&neighbour.interface));
            continue;
        };
        if place(config, named).is_some_and(|place| place.tunnel.is_some()) {
            problems.add(member(&pointer, "interface"), "is a tunnel, which has no neighbours");
        } else if let Some(fault) = not_a_host(neighbour.address) {
            problems.add(address, format!("{} {fault}, not a neighbour's", neighbour.address));
        } else if links.is_own(neighbour.address) {
            problems.add(address, format!("{} is this node's own address", neighbour.address));
        } else if let Some(fault) = fault_on_link(config, neighbour.address, Some(named), links) {
            problems.add(address, fault);
        }
    }
}
