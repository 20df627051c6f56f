//! The annotations of our own.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use maglev::TableSize;

use crate::object::Metadata;
use crate::objects::Checker;

/// What they begin with.
const PREFIX: &str = "fairlead.dev/";
/// On a Service: number of slots of its tables.
pub(crate) const TABLE_SIZE: &str = "fairlead.dev/table-size";
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

/// Checks the annotations, of which `known` are ours.
pub(crate) fn check(checker: &mut Checker<'_>, metadata: &Metadata, known: &str) {
    let all: &BTreeMap<String, String> = match &metadata.annotations {
        Some(all) => all,
        None => return,
    };
    for (name, text) in all.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let checked = match name.as_str() {
            TABLE_SIZE if known == TABLE_SIZE => parse_size(text).map(drop),
            WEIGHT if known == WEIGHT => parse_weight(text).map(drop),
            _ => Err(format!("is not a known annotation here; known is {known}")),
        };
        if let Err(message) = checked {
            checker.add(&format!("/metadata/annotations/{}", name.replace('/', "~1")), message);
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
