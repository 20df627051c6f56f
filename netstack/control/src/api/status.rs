//! What the node is and how it fares; reboot.

use super::{Reply, dispatch::Request, json};
use crate::date::Date;
use crate::node::Node;
use crate::platform::{BootStage, Core, Memory};
use crate::running::Source;
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};
use serde::Serialize;
use serde_json::json;

#[derive(Serialize)]
struct Status {
    version: String,
    hostname: String,
    uptime_seconds: f64,
    /// If the machine knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    config: ConfigStatus,
    /// Routes by where they come from.
    routes: BTreeMap<&'static str, usize>,
    memory: Memory,
    cores: Vec<Core>,
    boot: Vec<BootStage>,
    crashed: bool,
    /// AES-GCM implementation.
    crypto: &'static str,
    /// The implementation of each cipher.
    ciphers: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct ConfigStatus {
    generation: u64,
    source: Source,
    /// The store holds this very generation.
    saved: bool,
    /// Until an unconfirmed change is taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirm_seconds_left: Option<u64>,
}

/// `GET /v1/health`.
pub(super) fn health(_: &mut Node, _: &Request) -> Reply {
    json(200, &json!({"status": "ok"}))
}

/// `GET /v1/status`.
pub(super) fn status(node: &mut Node, _: &Request) -> Reply {
    let generation = node.running.generation();
    let routes = router::Source::ALL.map(|source| (source.name(), node.router.route_count(source)));
    let left_ns = node.running.confirm_by_ns().map(|by_ns| by_ns.saturating_sub(node.now_ns));
    json(
        200,
        &Status {
            version: node.platform.version().into(),
            hostname: node.running.config().hostname.clone(),
            uptime_seconds: node.uptime_seconds(),
            time: node.platform.unix_ns().map(|ns| Date(ns / 1_000_000_000).to_string()),
            config: ConfigStatus {
                generation,
                source: node.running.source(),
                saved: node.running.saved_generation == Some(generation),
                confirm_seconds_left: left_ns.map(|ns| ns.div_ceil(1_000_000_000)),
            },
            routes: routes.into(),
            memory: node.platform.memory(),
            cores: node.platform.cores(),
            boot: node.platform.boot_stages(),
            crashed: node.platform.last_crash().is_some(),
            crypto: node.router.crypto().kernel().name(),
            ciphers: ciphers(&node.router.ciphers()),
        },
    )
}

fn ciphers(suite: &crypto::Suite) -> BTreeMap<&'static str, &'static str> {
    [
        ("aes-gcm", suite.gcm.kernel().name()),
        ("chacha20-poly1305", suite.chacha.kernel().name()),
        ("aes-cbc-hmac-sha2", suite.cbc_hmac.kernel().name()),
    ]
    .into()
}

/// `GET /v1/crash`.
pub(super) fn crash(node: &mut Node, _: &Request) -> Reply {
    json(200, &json!({"crash": node.platform.last_crash()}))
}

/// `POST /v1/reboot`.
pub(super) fn reboot(node: &mut Node, _: &Request) -> Reply {
    log::warn!(target: "api", "restart asked for");
    node.reboot_soon();
    json(202, &json!({"rebooting": true}))
}
