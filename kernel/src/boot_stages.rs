//! The stages of boot, each with its time, for the console and for the API.

use crate::time;
use log::info;

/// Stages that are kept; a boot has fewer.
const MOST: usize = 16;

/// Names, and what the time-stamp counter showed.
static STAGES: spin::Mutex<heapless::Vec<(&'static str, u64), MOST>> = spin::Mutex::new(heapless::Vec::new());

/// Notes that `stage` is reached now.
pub fn reached(stage: &'static str) {
    let mut stages = STAGES.lock();
    // With the lock taken: another core may reach the next stage.
    let tsc = time::tsc();
    let _ = stages.push((stage, tsc));
    drop(stages);
    info!(target: "boot", "{stage} after {} us", time::since_entry_ns(tsc) / 1000);
}

/// The stages reached so far, with the time since the image was entered in nanoseconds, by the clock as it is known now.
pub fn all() -> heapless::Vec<(&'static str, u64), MOST> {
    STAGES.lock().iter().map(|&(stage, tsc)| (stage, time::since_entry_ns(tsc))).collect()
}
