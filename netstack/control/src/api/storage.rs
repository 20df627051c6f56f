//! The configuration store.

use super::{Reply, dispatch::Request, json, problem::problem};
use crate::node::Node;
use crate::store::{SlotState, Store, StoreError};
use alloc::string::ToString;
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
        Err(error) => broken(&error),
    }
}

/// `POST /v1/store`.
pub(super) fn save(node: &mut Node, request: &Request) -> Reply {
    if node.running.confirm_by_ns().is_some() {
        return problem(409, "a change waits for confirmation: confirm it first");
    }
    match node.save_config() {
        None => problem(409, "this machine has no store: no virtio-blk device was given to it"),
        Some(Ok(())) => get(node, request),
        Some(Err(error @ StoreError::Foreign)) => problem(409, &error.to_string()),
        Some(Err(error)) => broken(&error),
    }
}

fn broken(error: &StoreError) -> Reply {
    problem(503, &alloc::format!("the store does not work: {error}"))
}
