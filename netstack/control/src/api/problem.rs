//! Errors as RFC 9457 problem documents.

use super::Reply;
use crate::auth::Denial;
use crate::http::reply::reason;
use alloc::{format, vec::Vec};
use config::Problem as Fault;
use serde::Serialize;

/// Media type of a problem.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
}

/// A problem that is not about a document.
pub(super) fn problem(status: u16, detail: &str) -> Reply {
    let body = Problem { title: reason(status), status, detail, errors: &[] };
    Reply::new(status, PROBLEM_JSON, serde_json::to_vec(&body).unwrap_or_default())
}

/// A document has these faults.
pub(super) fn invalid(title: &str, errors: &[Fault]) -> Reply {
    let body = Problem { title, status: 422, detail: "", errors };
    Reply::new(422, PROBLEM_JSON, serde_json::to_vec(&body).unwrap_or_default())
}

/// The token is missing or wrong (RFC 6750 §3).
pub(super) fn denied(denial: Denial) -> Reply {
    const CHALLENGE: &str = "WWW-Authenticate";
    match denial {
        Denial::Missing => problem(401, "this needs the header field `Authorization: Bearer TOKEN`")
            .with(CHALLENGE, "Bearer realm=\"fairlead\""),
        Denial::Wrong => problem(401, "this is not the token of this node")
            .with(CHALLENGE, "Bearer realm=\"fairlead\", error=\"invalid_token\""),
        Denial::Limited(seconds) => problem(429, "too many wrong tokens came from this address")
            .with("Retry-After", format!("{seconds}")),
    }
}

/// There are such paths, not such methods.
pub(super) fn method_not_allowed(allowed: &[&str]) -> Reply {
    let methods: Vec<&str> = allowed.to_vec();
    problem(405, &format!("this path has {}", methods.join(", "))).with("Allow", methods.join(", "))
}
