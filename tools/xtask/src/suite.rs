//! Runs the steps of `cargo xtask test` one after the other and sums them up.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::outcome::{Outcome, summary};
use crate::steps::Step;

/// Runs these steps, or all, and prints the summary; whether all passed.
pub fn run(chosen: &[Step]) -> Result<bool> {
    let chosen = if chosen.is_empty() { Step::ALL } else { chosen };
    let begin = Instant::now();
    let mut done: Vec<(&str, Outcome, Duration)> = Vec::new();
    for step in chosen {
        let name = step.name();
        println!("{name} ...");
        let begin = Instant::now();
        // A step that cannot be carried out has failed; those after it still tell something.
        let outcome = step.run().unwrap_or_else(|error| Outcome::fail(name, format!("{error:#}")));
        let verdict = if outcome.failed.is_empty() { "ok" } else { "FAILED" };
        println!("{name} {verdict} ({:.1} s)", begin.elapsed().as_secs_f32());
        done.push((name, outcome, begin.elapsed()));
    }
    println!("\nTotal time {:.0} s", begin.elapsed().as_secs_f32());
    print!("{}", summary(&done));
    Ok(done.iter().all(|(_, outcome, _)| outcome.failed.is_empty()))
}
