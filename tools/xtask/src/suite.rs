//! Runs the steps of `cargo xtask test` one after the other and sums them up.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::outcome::{Outcome, summary};
use crate::steps::Step;

/// The longest that all steps together may take, on a machine that has built nothing yet. A step that is under way
/// then is ended, and those after it are not begun: each is a failure.
const RUN_LIMIT: Duration = Duration::from_secs(45 * 60);

/// Runs these steps, or all, and prints the summary; whether all passed.
pub fn run(chosen: &[Step]) -> Result<bool> {
    let chosen = if chosen.is_empty() { Step::ALL } else { chosen };
    let run_begin = Instant::now();
    let mut done: Vec<(&str, Outcome, Duration)> = Vec::new();
    for step in chosen {
        let name = step.name();
        println!("{name} ...");
        let begin = Instant::now();
        // A step that cannot be carried out has failed; those after it still tell something.
        let outcome =
            step.run(run_begin + RUN_LIMIT).unwrap_or_else(|error| Outcome::fail(name, format!("{error:#}")));
        let verdict = if outcome.failed.is_empty() { "ok" } else { "FAILED" };
        println!("{name} {verdict} ({:.1} s)", begin.elapsed().as_secs_f32());
        done.push((name, outcome, begin.elapsed()));
    }
    println!("\nTotal time {:.0} s", run_begin.elapsed().as_secs_f32());
    print!("{}", summary(&done));
    Ok(done.iter().all(|(_, outcome, _)| outcome.failed.is_empty()))
}
