//! IPsec: tunnels, associations, policies against each other and against the links of the node.

use super::{Names, interfaces, links::Links, not_a_host};
use crate::{
    Association, AssociationDirection, Config, IpsecMode, Lifetime, PolicyAction, Problem, SecurityPolicy,
    Tunnel,
    problem::{Problems, element, member},
};
use alloc::{collections::BTreeMap, format, vec::Vec};
use core::net::IpAddr;

/// Protocols that have ports: TCP, UDP, SCTP.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// Reports what is wrong with the section.
pub(super) fn validate(config: &Config, names: &Names<'_>, links: &Links, problems: &mut Problems) {
    let mut tunnels: BTreeMap<&str, &Tunnel> = BTreeMap::new();
    for (index, tunnel) in config.ipsec.tunnels.iter().enumerate() {
        let pointer = element("/ipsec/tunnels", index);
        validate_tunnel(config, tunnel, links, &pointer, problems);
        let _ = tunnels.insert(&tunnel.name, tunnel);
    }
    validate_associations(config, &tunnels, problems);
    let mut known = BTreeMap::new();
    for (index, policy) in config.ipsec.policies.iter().enumerate() {
        let pointer = element("/ipsec/policies", index);
        if let Some(other) = known.insert(policy.name.as_str(), index) {
            problems.add(member(&pointer, "name"), format!("is the name of /ipsec/policies/{other} already"));
        }
        validate_policy(policy, &tunnels, names, &pointer, problems);
    }
}

fn validate_tunnel(config: &Config, tunnel: &Tunnel, links: &Links, pointer: &str, problems: &mut Problems) {
    for (name, address) in [("local", tunnel.local), ("remote", tunnel.remote)] {
        if let Some(fault) = not_a_host(address) {
            problems.add(member(pointer, name), format!("{address} {fault}, not a host's"));
        } else if super::is_link_local(address) {
            problems.add(
                member(pointer, name),
                format!("{address} is link-local; give an address that is routed"),
            );
        }
    }
    if tunnel.local.is_ipv4() != tunnel.remote.is_ipv4() {
        problems.add(member(pointer, "remote"), format!("is not of the address family of {}", tunnel.local));
    }
    let leased = config.interfaces.iter().any(|interface| interface.dhcp4) && tunnel.local.is_ipv4();
    if !links.is_own(tunnel.local) && !leased {
        problems.add(member(pointer, "local"), format!("{} is not an address of this node", tunnel.local));
    }
    if links.is_own(tunnel.remote) {
        problems.add(member(pointer, "remote"), format!("{} is this node's own address", tunnel.remote));
    }
    let own = |net: &ipnet::IpNet| net.addr() == tunnel.local;
    if tunnel.addresses.iter().any(own) {
        problems.add(member(pointer, "local"), "is an address of the tunnel itself, which is inside of it");
    }
    if tunnel.mode == IpsecMode::Transport && tunnel.route_based {
        problems.add(
            member(pointer, "route_based"),
            "transport mode is no interface that routes lead to; write false and let policies lead here",
        );
    }
    if !tunnel.route_based && !tunnel.addresses.is_empty() {
        problems
            .add(member(pointer, "addresses"), "only an interface has addresses: this is not route_based");
    }
    if !tunnel.route_based && tunnel.mtu.is_some() {
        problems.add(member(pointer, "mtu"), "only an interface has an MTU: this is not route_based");
    }
    interfaces::validate_address_list(&tunnel.addresses, &member(pointer, "addresses"), problems);
    let has_v6 = tunnel.addresses.iter().any(|net| net.addr().is_ipv6());
    if has_v6 && tunnel.mtu.is_some_and(|mtu| mtu < interfaces::IPV6_MIN_MTU) {
        problems.add(
            member(pointer, "mtu"),
            format!("must be at least {} on an interface with IPv6 addresses", interfaces::IPV6_MIN_MTU),
        );
    }
    for (index, selector) in tunnel.selectors.iter().enumerate() {
        if selector.local.addr().is_ipv4() != selector.remote.addr().is_ipv4() {
            let pointer = element(&member(pointer, "selectors"), index);
            problems.add(
                member(&pointer, "remote"),
                format!("is not of the address family of {}", selector.local),
            );
        }
    }
}

fn validate_associations(config: &Config, tunnels: &BTreeMap<&str, &Tunnel>, problems: &mut Problems) {
    let (mut known, mut spis) = (BTreeMap::new(), BTreeMap::new());
    for (index, association) in config.ipsec.associations.iter().enumerate() {
        let pointer = element("/ipsec/associations", index);
        if let Some(other) = known.insert(association.name.as_str(), index) {
            problems
                .add(member(&pointer, "name"), format!("is the name of /ipsec/associations/{other} already"));
        }
        if !tunnels.contains_key(association.tunnel.as_str()) {
            problems.add(
                member(&pointer, "tunnel"),
                format!("there is no tunnel {} in this configuration", association.tunnel),
            );
        }
        // Inbound SPIs are the node's own choice; outbound ones are the peer's, and two peers may choose the same.
        let remote = match association.direction {
            AssociationDirection::In => None,
            AssociationDirection::Out => tunnels.get(association.tunnel.as_str()).map(|tunnel| tunnel.remote),
        };
        if let Some(other) =
            spis.insert((association.direction == AssociationDirection::In, remote, association.spi), index)
        {
            problems
                .add(member(&pointer, "spi"), format!("is the SPI of /ipsec/associations/{other} already"));
        }
        validate_alone(association, &pointer, problems);
    }
}

/// Reports what is wrong with an association whatever the tunnels are.
pub(super) fn validate_alone(association: &Association, pointer: &str, problems: &mut Problems) {
    let wanted = association.algorithm.key_bytes();
    if let Some(key) = &association.key
        && key.to_bytes().is_none_or(|bytes| bytes.len() != wanted)
    {
        let given = key.expose().len() / 2;
        problems.add(
            member(pointer, "key"),
            format!(
                "has {given} bytes; {} takes {wanted}: cipher key, then salt or authentication key",
                association.algorithm.name()
            ),
        );
    }
    if !association.esn && association.sequence_after.is_some_and(|last| last > u64::from(u32::MAX)) {
        problems.add(
            member(pointer, "sequence_after"),
            format!("is above {}, the last number without esn", u32::MAX),
        );
    }
    let Some(lifetime) = &association.lifetime else { return };
    let Lifetime { soft_seconds, hard_seconds, soft_bytes, hard_bytes, soft_packets, hard_packets } =
        *lifetime;
    for (name, soft, hard) in [
        ("soft_seconds", soft_seconds, hard_seconds),
        ("soft_bytes", soft_bytes, hard_bytes),
        ("soft_packets", soft_packets, hard_packets),
    ] {
        if let (Some(soft), Some(hard)) = (soft, hard)
            && soft > hard
        {
            problems.add(
                member(&member(pointer, "lifetime"), name),
                format!("is more than the {hard} after which the association stops"),
            );
        }
    }
}

fn validate_policy(
    policy: &SecurityPolicy,
    tunnels: &BTreeMap<&str, &Tunnel>,
    names: &Names<'_>,
    pointer: &str,
    problems: &mut Problems,
) {
    let place = member(pointer, "tunnel");
    match (policy.action, policy.tunnel.as_deref()) {
        (PolicyAction::Protect, None) => problems.add(place, "is missing: the tunnel that protects"),
        (PolicyAction::Protect, Some(name)) if tunnels.contains_key(name) => {
            let tunnel = tunnels[name];
            if tunnel.mode == IpsecMode::Transport {
                validate_between_hosts(policy, tunnel, pointer, problems);
            }
        }
        (PolicyAction::Protect, Some(name)) if names.contains_key(name) => {
            problems.add(place, format!("{name} is an interface, not a tunnel"));
        }
        (PolicyAction::Protect, Some(name)) => {
            problems.add(place, format!("there is no tunnel {name} in this configuration"));
        }
        (_, Some(_)) => problems.add(place, "is for action protect alone"),
        (_, None) => {}
    }
    let is_ipv4 = |address: IpAddr| address.is_ipv4();
    if is_ipv4(policy.source.addr()) != is_ipv4(policy.destination.addr()) {
        problems.add(
            member(pointer, "destination"),
            format!("is not of the address family of {}", policy.source),
        );
    }
    let has_ports = policy.protocol.is_some_and(|protocol| WITH_PORTS.contains(&protocol));
    for (name, ports) in
        [("source_ports", &policy.source_ports), ("destination_ports", &policy.destination_ports)]
    {
        if ports.is_some() && !has_ports {
            problems
                .add(member(pointer, name), "needs a protocol with ports: 6 (TCP), 17 (UDP) or 132 (SCTP)");
        }
    }
}

/// Reports a policy that leads to transport mode what is not between its ends: the outer header would still be the packet's own, and
/// whoever it is for has not the key.
fn validate_between_hosts(policy: &SecurityPolicy, tunnel: &Tunnel, pointer: &str, problems: &mut Problems) {
    let (from, to) = match policy.direction {
        AssociationDirection::Out => (tunnel.local, tunnel.remote),
        AssociationDirection::In => (tunnel.remote, tunnel.local),
    };
    for (name, network, end) in [("source", policy.source, from), ("destination", policy.destination, to)] {
        let host = ipnet::IpNet::from(end);
        if network != host {
            problems.add(
                member(pointer, name),
                format!(
                    "must be {host}: transport mode is between {} and {} alone",
                    tunnel.local, tunnel.remote
                ),
            );
        }
    }
}

/// The keys that a configuration still lacks, once those that stay were filled in.
pub(super) fn missing_keys(config: &Config) -> Vec<Problem> {
    let mut problems = Problems::default();
    for (index, association) in config.ipsec.associations.iter().enumerate() {
        if association.key.is_none() {
            problems.add(
                member(&element("/ipsec/associations", index), "key"),
                "is missing: there is no association of this name, direction, SPI and algorithm whose key could stay",
            );
        }
    }
    problems.into_vec()
}
