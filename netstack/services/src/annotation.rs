//! The annotations of our own.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use config::{HEALTH_NUMBERS, HealthCheck, HealthKind, member};
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
pub(crate) const ON_SERVICE: &[&str] = &[TABLE_SIZE, FORWARDING, SERVER_ID_BYTES, HEALTH_CHECK];
/// On a Service: what probes of its backends do; with a hyphen and a name behind it, more about them.
const HEALTH_CHECK: &str = "fairlead.dev/health-check";
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

/// How a service's backends are checked, where its annotations do not say it as `defaults` say it.
pub(crate) fn health_check(metadata: &Metadata, defaults: &Arc<HealthCheck>) -> Arc<HealthCheck> {
    let mut check = defaults.clone();
    for (name, text) in metadata.annotations.iter().flatten() {
        if let Some(aspect) = name.strip_prefix(HEALTH_CHECK) {
            // What is wrong was refused.
            let _ = set_health(Arc::make_mut(&mut check), aspect, text);
        }
    }
    check
}

/// Takes one annotation, by what follows [`HEALTH_CHECK`] in its name. None if there is no such one.
fn set_health(check: &mut HealthCheck, aspect: &str, text: &str) -> Option<Result<(), String>> {
    if aspect.is_empty() {
        let kind = HealthKind::from_name(text).map(|kind| check.kind = kind);
        return Some(kind.ok_or_else(|| format!("must be one of {}", HealthKind::NAMES.join(", "))));
    }
    let aspect = aspect.strip_prefix('-')?;
    let number = HEALTH_NUMBERS.iter().find(|number| number.name == aspect);
    Some(match (aspect, number) {
        ("path", _) => config::check_path(text).map(|()| check.path = text.into()),
        ("status", _) => match config::statuses(text) {
            Some(_) => {
                check.status = text.into();
                Ok(())
            }
            None => Err("must be a status code or a range of them, such as 200-399".into()),
        },
        ("port", _) => match text.parse() {
            Ok(port) if port != 0 => {
                check.port = Some(port);
                Ok(())
            }
            _ => Err("must be a whole number from 1 to 65535".into()),
        },
        (_, Some(number)) => {
            let (min, max) = number.limits;
            let value = if number.is_time { milliseconds(text) } else { text.parse().ok() };
            match value.filter(|value| (min..=max).contains(value)) {
                Some(value) => {
                    *(number.of)(check) = value;
                    Ok(())
                }
                None if number.is_time => {
                    Err(format!("must be a time from {min}ms to {max}ms, such as 500ms or 5s"))
                }
                None => Err(format!("must be a whole number from {min} to {max}")),
            }
        }
        _ => return None,
    })
}

/// A time such as `500ms`, `5s` or `2m`.
fn milliseconds(text: &str) -> Option<u32> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let factor = match text.get(digits..)? {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    text.get(..digits)?.parse::<u32>().ok()?.checked_mul(factor)
}

/// Checks the annotations, of which `known` are ours.
pub(crate) fn check(checker: &mut Checker<'_>, metadata: &Metadata, known: &[&str]) {
    let all: &BTreeMap<String, String> = match &metadata.annotations {
        Some(all) => all,
        None => return,
    };
    let mut health = HealthCheck::default();
    for (name, text) in all.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let aspect = name.strip_prefix(HEALTH_CHECK).filter(|_| known.contains(&HEALTH_CHECK));
        let of_health = aspect.and_then(|aspect| set_health(&mut health, aspect, text));
        let checked = match name.as_str() {
            _ if of_health.is_some() => of_health.unwrap_or(Ok(())),
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
