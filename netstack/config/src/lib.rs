//! The configuration of a node: its schema, its validation, its differences.
//!
//! A configuration is one JSON document that is replaced as a whole. The way of a document:
//!
//! 1. [`parse`] reads JSON and holds it against [`table::CONFIG`], the one table of fields, limits and meanings (`check`);
//! 2. the types of [`Config`] take it up;
//! 3. [`validate`] looks at the document as a whole: names that must exist, networks that must not overlap;
//! 4. [`validate_ports`] holds it against the ports of the machine it is for;
//! 5. [`diff`] says what it changes.
//!
//! Every fault found is a [`Problem`] with a JSON pointer; all faults are reported, not only the first. The same table gives
//! the JSON Schema of the API description ([`schema::Schema::to_json_schema`]).
//!
//! Not here: applying a configuration (`router`, `control`), storing it (`control`), YAML (the tools convert).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod check;
mod cluster;
mod diff;
mod flow_log;
mod health;
mod ipsec;
mod mac;
mod model;
mod problem;
pub mod schema;
mod secret;
pub mod table;
mod validate;
mod value;

pub use check::check_token;
pub use cluster::{Cluster, FlowTimeouts, TcpWindow};
pub use diff::{Change, ChangeKind, diff};
pub use flow_log::{Collector, FlowLog};
pub use health::{HEALTH_NUMBERS, HealthCheck, HealthKind, HealthNumber, check_path, statuses};
pub use ipnet::{self, IpNet, Ipv4Net, Ipv6Net};
pub use ipsec::{
    Association, AssociationDirection, DfHandling, EcnHandling, Ipsec, IpsecAlgorithm, IpsecMode, Lifetime,
    NatTraversal, PolicyAction, SecurityPolicy, TrafficSelector, Tunnel, ports,
};
pub use mac::{BadMacAddress, MacAddress};
pub use model::{Api, Config, Interface, Log, LogLevel, Neighbour, NextHop, Route, RouterAdvertisements};
pub use problem::{MAX_PROBLEMS, Problem, element, member};
pub use secret::Secret;
pub use validate::{
    PortFacts, missing_secrets, validate, validate_association, validate_ports, validate_route,
};
pub use value::from_value;

use alloc::{format, vec, vec::Vec};
use problem::Problems;
use schema::Schema;
use serde::de::DeserializeOwned;
use zeroize::Zeroize;

/// Reads and validates a JSON document as a whole.
///
/// # Errors
/// Everything that is wrong with it, at most [`MAX_PROBLEMS`] problems. Faults of structure are reported first; what the
/// fields mean together is looked at when there are none.
pub fn parse(json: &[u8]) -> Result<Config, Vec<Problem>> {
    let config: Config = parse_shape(json, &table::CONFIG)?;
    let problems = validate(&config);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Reads one route, as a line of a bulk change gives it. Whether its next hops are on a link is not looked at.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_route(json: &[u8]) -> Result<Route, Vec<Problem>> {
    let route: Route = parse_shape(json, table::route())?;
    let problems = validate_route(&route);
    if problems.is_empty() { Ok(route) } else { Err(problems) }
}

/// Reads one security association, as a key daemon gives it. Whether its tunnel is there is not looked at.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_association(json: &[u8]) -> Result<Association, Vec<Problem>> {
    let association: Association = parse_shape(json, table::association())?;
    let problems = validate_association(&association);
    if problems.is_empty() { Ok(association) } else { Err(problems) }
}

/// A document as a tree. It may hold keys and tokens: all texts are cleared when it goes.
struct Tree(serde_json::Value);

impl Drop for Tree {
    fn drop(&mut self) {
        clear(&mut self.0);
    }
}

/// Clears the texts of a tree, whose depth `serde_json` limits.
fn clear(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => text.zeroize(),
        serde_json::Value::Array(values) => values.iter_mut().for_each(clear),
        serde_json::Value::Object(members) => members.values_mut().for_each(clear),
        _ => {}
    }
}

fn parse_shape<T: DeserializeOwned>(json: &[u8], schema: &Schema) -> Result<T, Vec<Problem>> {
    let whole = |error: serde_json::Error| {
        let message = format!("is not valid JSON: {error}");
        vec![Problem { pointer: "".into(), message }]
    };
    let tree = Tree(serde_json::from_slice(json).map_err(whole)?);
    let mut problems = Problems::default();
    check::check(&tree.0, schema, &mut problems);
    if !problems.is_empty() {
        return Err(problems.into_vec());
    }
    // From the text again, not from the value: this notices a member that is given twice.
    serde_json::from_slice(json).map_err(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_cleared_of_its_texts() {
        let mut tree = serde_json::json!({"a": ["secret", {"b": "other"}], "c": "third", "d": 7});
        clear(&mut tree);
        assert_eq!(tree, serde_json::json!({"a": ["", {"b": ""}], "c": "", "d": 7}));
    }
}
