//! The configuration store.

use super::{Reply, dispatch::Request, json, problem::problem};
use crate::node::{Kept, Node};
use crate::store::{SlotState, Store, StoreError};
use alloc::{format, string::String};
use serde::Serialize;

#[derive(Serialize)]
struct StoreStatus {
    available: bool,
    /// It holds the running configuration.
    saved: bool,
    slots: [SlotState; 2],
}

/// `GET /v1/store`.
pub(super) fn get(node: &mut Node, _: &Request) -> Reply {
    let saved = node.running.saved_generation == Some(node.running.generation());
    let slots = match node.platform.store() {
        Some(device) => Store::open(device).and_then(|mut store| store.slots()).map(Some),
        None => Ok(None),
    };
    match slots {
        Ok(slots) => {
            let slots_shown = slots.unwrap_or([SlotState::Empty; 2]);
            json(200, &StoreStatus { available: slots.is_some(), saved, slots: slots_shown })
        }
        Err(error) => problem(status(&error), &format!("the store cannot be read: {error}")),
    }
}

/// `POST /v1/store`.
pub(super) fn save(node: &mut Node, request: &Request) -> Reply {
    if node.running.confirm_by_ns().is_some() {
        return problem(409, "a change waits for confirmation: confirm it first");
    }
    let Some(Kept { config, objects }) = node.save_config() else {
        return problem(409, "this machine has no store: no virtio-blk device was given to it");
    };
    let mut detail = String::new();
    for (what, result) in [("the configuration is", &config), ("the objects are", &objects)] {
        let between = if detail.is_empty() { "" } else { "; " };
        detail += &match result {
            Ok(()) => format!("{between}{what} kept"),
            Err(error) => format!("{between}{what} not kept: {error}"),
        };
    }
    match config.err().or(objects.err()) {
        None => get(node, request),
        Some(error) => problem(status(&error), &detail),
    }
}

fn status(error: &StoreError) -> u16 {
    match error {
        StoreError::Foreign { .. } => 409,
        StoreError::TooSmall { .. } | StoreError::TooLong { .. } => 507,
        StoreError::Device(_) => 503,
    }
}
