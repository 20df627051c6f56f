//! What the API does: [`endpoints`] is the list of paths; each file here answers some of them.
//!
//! The way of a request, once [`crate::http`] has its header section: [`dispatch`] finds the endpoint, checks the token and the
//! query, and reads the body if there is one; the endpoint's handler makes the reply out of the [`Node`](crate::Node).

mod bulk;
mod configuration;
mod dispatch;
mod edit;
mod endpoints;
mod flows;
mod interfaces;
mod ipsec;
mod list;
mod log;
mod metrics;
mod neighbours;
mod openapi;
mod policy;
mod problem;
mod query;
#[cfg(test)]
mod resource_tests;
mod resources;
mod room;
mod routes;
mod services;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod traffic;

use crate::http;
use crate::node::Node;
use alloc::vec::Vec;
use serde::Serialize;

pub(crate) type Reply = http::Reply<Node>;

/// JSON.
pub(crate) const JSON: &str = "application/json";
/// One JSON value a line.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// An answer that is a JSON value.
fn json(status: u16, value: &impl Serialize) -> Reply {
    Reply::new(status, JSON, text(value))
}

/// A JSON value as text.
fn text(value: &impl Serialize) -> Vec<u8> {
    // Serializing what this crate makes into memory cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Appends a JSON value and a line end.
fn push_line(out: &mut Vec<u8>, value: &impl Serialize) {
    out.extend(text(value));
    out.push(b'\n');
}
