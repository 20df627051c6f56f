//! The stages of boot, each with its time, for the console and for the API.

use crate::time;
use log::info;

/// Stages that are kept; a boot has fewer.
const MOST: usize = 16;

static STAGES: spin::Mutex<heapless::Vec<(&'static str, u64), MOST>> = spin::Mutex::new(heapless::Vec::new());

/// Notes that `stage` is reached now.
pub fn reached(stage: &'static str) {
    let now_ns = time::now_ns();
    let _ = STAGES.lock().push((stage, now_ns));
    info!(target: "boot", "{stage} after {} us", now_ns / 1000);
}

/// The stages reached so far, with the time since the image was entered in nanoseconds.
pub fn all() -> heapless::Vec<(&'static str, u64), MOST> {
    STAGES.lock().clone()
}
