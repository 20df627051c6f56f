//! What cannot be in an `EndpointSlice`.

use alloc::format;
use alloc::vec::Vec;
use core::net::IpAddr;

use config::element;

use crate::annotation;
use crate::object::{AddressType, EndpointSlice};
use crate::objects::{Checker, Fault, Source};

/// Endpoints of one slice, by Kubernetes' own rule.
const MAX_ENDPOINTS: usize = 1000;
/// Ports of one slice, by Kubernetes' own rule (of 1.35; 100 before).
const MAX_PORTS: usize = 20_000;

pub(crate) fn check(source: &Source, slice: &EndpointSlice, faults: &mut Vec<Fault>) {
    let checker = &mut Checker { source, faults };
    annotation::check(checker, &slice.metadata, annotation::ON_SLICE);
    // Packets cannot be sent to a name: what such a slice says is for others.
    if slice.address_type == AddressType::Name {
        return;
    }
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    checker.require(endpoints.len() <= MAX_ENDPOINTS, "/endpoints", "has more than 1000 items");
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = element("/endpoints", index);
        let count = endpoint.addresses.len();
        checker.require(count > 0, &format!("{path}/addresses"), "must have an address");
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let path = element(&format!("{path}/addresses"), index);
            if let Err(message) = reachable(address, slice.address_type) {
                checker.add(&path, message);
            }
        }
    }
    let ports = slice.ports.as_deref().unwrap_or_default();
    checker.require(ports.len() <= MAX_PORTS, "/ports", "has more than 20000 items");
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{}/port", element("/ports", index));
        checker.require(port.port != Some(0), &path, "must be from 1 to 65535");
    }
    let names = ports.iter().map(|port| port.name.as_deref().unwrap_or_default());
    checker.distinct(names, |i| format!("{}/name", element("/ports", i)), "is the name of another port too");
}

/// An address that a backend can have.
fn reachable(text: &str, address_type: AddressType) -> Result<IpAddr, &'static str> {
    let address: IpAddr = text.parse().map_err(|_| "is not an IP address")?;
    match (address_type, address) {
        (AddressType::V4, IpAddr::V4(_)) | (AddressType::V6, IpAddr::V6(_)) => {}
        _ => return Err("is not of the slice's addressType"),
    }
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return Err("cannot be a backend's address");
    }
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if is_link_local { Err("is link-local: which link is not said") } else { Ok(address) }
}
