//! The configuration: read, replaced, confirmed, taken back.

use super::{
    Reply,
    dispatch::Request,
    json,
    problem::{invalid, problem},
};
use crate::node::Node;
use alloc::vec::Vec;
use config::{Change, Config};
use serde::Serialize;
use serde_json::json;

#[derive(Serialize)]
struct ConfigChange {
    /// Of the configuration in force after this.
    generation: u64,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirm_seconds: Option<u64>,
    changes: Vec<Change>,
}

/// `GET /v1/config`.
pub(super) fn get(node: &mut Node, _: &Request) -> Reply {
    json(200, &node.running.config().without_secrets()).with("ETag", node.running.etag())
}

/// `PUT /v1/config`.
pub(super) fn put(node: &mut Node, request: &Request, body: &[u8]) -> Reply {
    if request.if_match.as_ref().is_some_and(|tags| !node.running.matches(tags)) {
        return problem(412, "the configuration was changed since the one in If-Match was read");
    }
    let config = match read(node, body) {
        Ok(config) => config,
        Err(faults) => return invalid("configuration is not valid", &faults),
    };
    let changes = config::diff(node.running.config(), &config);
    let dry_run = request.query.flag("dry_run");
    let confirm_seconds = request.query.integer("confirm_seconds");
    if !dry_run {
        if node.running.confirm_by_ns().is_some() {
            return problem(409, "another change waits for confirmation: confirm it or roll it back first");
        }
        node.replace_config(config, confirm_seconds);
    }
    let generation = node.running.generation();
    json(
        200,
        &ConfigChange { generation, dry_run, confirm_seconds: confirm_seconds.filter(|_| !dry_run), changes },
    )
    .with("ETag", node.running.etag())
}

fn read(node: &Node, body: &[u8]) -> Result<Config, Vec<config::Problem>> {
    let mut config = config::parse(body)?;
    node.check(&config)?;
    config.keep_secrets(node.running.config());
    let missing = config::missing_secrets(&config);
    if missing.is_empty() { Ok(config) } else { Err(missing) }
}

/// `POST /v1/config/confirm`.
pub(super) fn confirm(node: &mut Node, _: &Request) -> Reply {
    if !node.running.confirm() {
        return problem(409, "no change waits for confirmation");
    }
    log::info!(target: "config", "generation {} is confirmed", node.running.generation());
    generation(node)
}

/// `POST /v1/config/rollback`.
pub(super) fn rollback(node: &mut Node, _: &Request) -> Reply {
    if node.running.confirm_by_ns().is_none() {
        return problem(409, "no change waits for confirmation");
    }
    node.roll_back("asked for");
    generation(node)
}

fn generation(node: &Node) -> Reply {
    json(200, &json!({"generation": node.running.generation()}))
}
