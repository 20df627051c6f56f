//! The annotations of our own.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use config::member;
use maglev::TableSize;

use crate::object::Metadata;
use crate::objects::Checker;
use crate::virtual_service::Forwarding;

/// What they begin with.
const PREFIX: &str = "fairlead.dev/";
/// On a Service: number of slots of its tables.
pub(crate) const TABLE_SIZE: &str = "fairlead.dev/table-size";
/// On a Service: how packets reach its backends.
pub(crate) const FORWARDING: &str = "fairlead.dev/forwarding";
/// On a Service: bytes of a backend's address that its QUIC connection IDs have as server ID.
pub(crate) const SERVER_ID_BYTES: &str = "fairlead.dev/quic-server-id-bytes";
/// What is known on a Service.
pub(crate) const ON_SERVICE: &[&str] = &[TABLE_SIZE, FORWARDING, SERVER_ID_BYTES];
/// What a QUIC connection ID of 20 bytes has room for, besides its first byte and a nonce of four.
const MAX_SERVER_ID_BYTES: u8 = 15;
/// What is known on an `EndpointSlice`.
pub(crate) const ON_SLICE: &[&str] = &[WEIGHT];
/// On an `EndpointSlice`: weight of each of its endpoints, 1 without it.
pub(crate) const WEIGHT: &str = "fairlead.dev/weight";
/// Weights beyond this make a table whose lighter backends have no slot.
const MAX_WEIGHT: u32 = 10_000;

/// The size of a service's tables; the default if there is none, or a wrong one (which [`check`] names).
pub(crate) fn table_size(metadata: &Metadata) -> TableSize {
    value(metadata, TABLE_SIZE).and_then(|text| parse_size(text).ok()).unwrap_or_default()
}

/// The weight of a slice's endpoints.
pub(crate) fn weight(metadata: &Metadata) -> u32 {
    value(metadata, WEIGHT).and_then(|text| parse_weight(text).ok()).unwrap_or(1)
}

/// How packets of a service reach its backends.
pub(crate) fn forwarding(metadata: &Metadata) -> Forwarding {
    value(metadata, FORWARDING).and_then(|text| parse_forwarding(text).ok()).unwrap_or_default()
}

/// Bytes of the server ID in connection IDs of QUIC.
pub(crate) fn server_id_bytes(metadata: &Metadata) -> Option<u8> {
    value(metadata, SERVER_ID_BYTES).and_then(|text| parse_server_id_bytes(text).ok())
}

/// Checks the annotations, of which `known` are ours.
pub(crate) fn check(checker: &mut Checker<'_>, metadata: &Metadata, known: &[&str]) {
    let all: &BTreeMap<String, String> = match &metadata.annotations {
        Some(all) => all,
        None => return,
    };
    for (name, text) in all.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let checked = match name.as_str() {
            name if !known.contains(&name) => {
                Err(format!("is not a known annotation here; known are {}", known.join(", ")))
            }
            TABLE_SIZE => parse_size(text).map(drop),
            FORWARDING => parse_forwarding(text).map(drop),
            SERVER_ID_BYTES => parse_server_id_bytes(text).map(drop),
            _ => parse_weight(text).map(drop),
        };
        if let Err(message) = checked {
            checker.add(&member("/metadata/annotations", name), message);
        }
    }
}

fn value<'a>(metadata: &'a Metadata, name: &str) -> Option<&'a String> {
    metadata.annotations.as_ref()?.get(name)
}

fn parse_size(text: &str) -> Result<TableSize, String> {
    let slots = text.parse().ok();
    slots
        .and_then(|slots| TableSize::new(slots).ok())
        .ok_or_else(|| format!("must be a prime from 3 to {}, such as \"65537\"", TableSize::MAX.slots()))
}

fn parse_weight(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(weight) if weight <= MAX_WEIGHT => Ok(weight),
        _ => Err(format!("must be a whole number from 0 to {MAX_WEIGHT}")),
    }
}

fn parse_server_id_bytes(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(bytes) if (1..=MAX_SERVER_ID_BYTES).contains(&bytes) => Ok(bytes),
        _ => Err(format!("must be a whole number from 1 to {MAX_SERVER_ID_BYTES}")),
    }
}

fn parse_forwarding(text: &str) -> Result<Forwarding, String> {
    match text {
        "nat" => Ok(Forwarding::Nat),
        "full-nat" => Ok(Forwarding::FullNat),
        "direct" => Ok(Forwarding::Direct),
        "ipip" => Ok(Forwarding::Ipip),
        "gue" => Ok(Forwarding::Gue),
        _ => Err(String::from("must be nat, full-nat, direct, ipip or gue")),
    }
}
