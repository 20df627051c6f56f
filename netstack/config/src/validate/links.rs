//! The networks that interfaces are on: that they do not overlap, and which one an address is in.

use super::{is_link_local, places};
use crate::{
    Config, IpNet,
    problem::{Problems, element, member},
};
use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use core::net::IpAddr;

/// Networks of all interfaces, outermost ones only, link-local ones left out.
pub(super) struct Links {
    /// In order of `(family, first address)`; disjoint.
    links: Vec<Link>,
    /// Where each of the node's addresses is given; link-local ones left out.
    own: BTreeMap<IpAddr, String>,
}

struct Link {
    first: (bool, u128),
    last: (bool, u128),
    interface: usize,
    network: IpNet,
    pointer: String,
}

impl Links {
    /// Collects the networks and reports those of different interfaces that overlap and addresses given twice.
    pub fn new(config: &Config, problems: &mut Problems) -> Self {
        let mut own = BTreeMap::new();
        let mut all = Vec::new();
        for (interface, value) in places(config).enumerate() {
            let pointer = member(&value.pointer, "addresses");
            let global = value.addresses.iter().enumerate().filter(|(_, net)| !is_link_local(net.addr()));
            for (index, net) in global {
                let pointer = element(&pointer, index);
                if let Some(other) = own.get(&net.addr()) {
                    problems.add(pointer, format!("{} is given already at {other}", net.addr()));
                    continue;
                }
                let _ = own.insert(net.addr(), pointer.clone());
                let (first, last) = (place(net.network()), place(net.broadcast()));
                all.push(Link { first, last, interface, network: net.trunc(), pointer });
            }
        }
        // Outer networks come before the ones inside them; prefixes nest or are disjoint.
        all.sort_by_key(|link| (link.first, core::cmp::Reverse(link.last)));
        let mut links: Vec<Link> = Vec::new();
        for link in all {
            match links.last() {
                Some(outer) if link.first <= outer.last => report_overlap(config, outer, &link, problems),
                _ => links.push(link),
            }
        }
        Self { links, own }
    }

    /// The interface on whose network `address` is.
    pub fn interface_of(&self, address: IpAddr) -> Option<usize> {
        let place = place(address);
        let after = self.links.partition_point(|link| link.first <= place);
        let link = self.links.get(after.checked_sub(1)?)?;
        (place <= link.last).then_some(link.interface)
    }

    /// Whether `address` is one of the node's own.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains_key(&address)
    }

    /// The interface that is directly on `network`.
    pub fn interface_on(&self, network: IpNet) -> Option<usize> {
        self.links.iter().find(|link| link.network == network).map(|link| link.interface)
    }
}

fn report_overlap(config: &Config, a: &Link, b: &Link, problems: &mut Problems) {
    if a.interface == b.interface {
        return;
    }
    let (earlier, later) = if a.interface < b.interface { (a, b) } else { (b, a) };
    let earlier_place = super::place(config, earlier.interface);
    let name = earlier_place.map_or("", |place| place.name);
    problems.add(
        later.pointer.clone(),
        format!(
            "network {} overlaps {} of interface {name}; networks of different interfaces must not overlap",
            later.network, earlier.network
        ),
    );
}

fn place(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (false, u32::from(v4).into()),
        IpAddr::V6(v6) => (true, v6.into()),
    }
}
