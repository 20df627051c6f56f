//! Runs the steps of `cargo xtask test` in their order, the image beside others, and sums them up.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::outcome::{Outcome, summary};
use crate::steps::Step;

/// The longest that all steps together may take, on a machine that has built nothing yet. A step that is under way
/// then is ended, and those after it are not begun: each is a failure.
const RUN_LIMIT: Duration = Duration::from_secs(80 * 60);

/// Runs these steps, or all, and prints the summary; whether all passed.
pub fn run(chosen: &[Step]) -> Result<bool> {
    let chosen = if chosen.is_empty() { Step::ALL } else { chosen };
    let run_begin = Instant::now();
    let mut done: Vec<(&str, Outcome, Duration)> = Vec::new();
    thread::scope(|scope| {
        let mut beside = None;
        for step in chosen {
            // The image is linked on one core for minutes: it is built while others run, once the source is known to be sound.
            if *step == Step::Unit && chosen.contains(&Step::Image) {
                beside = Some(scope.spawn(|| carry_out(Step::Image, run_begin + RUN_LIMIT)));
            }
            let name = step.name();
            println!("{name} ...");
            let begun_before = (*step == Step::Image).then(|| beside.take()).flatten();
            let (outcome, took) = match begun_before {
                Some(thread) => thread.join().expect("a step does not panic"),
                None => carry_out(*step, run_begin + RUN_LIMIT),
            };
            let verdict = if outcome.failed.is_empty() { "ok" } else { "FAILED" };
            println!("{name} {verdict} ({:.1} s)", took.as_secs_f32());
            done.push((name, outcome, took));
        }
    });
    let minutes = run_begin.elapsed().as_secs_f32() / 60.0;
    println!("\nTotal time {minutes:.1} minutes (20 are meant to do on two quiet cores)");
    print!("{}", summary(&done));
    Ok(done.iter().all(|(_, outcome, _)| outcome.failed.is_empty()))
}

/// What came of a step, and how long it took. One that cannot be carried out has failed; those after it still tell something.
fn carry_out(step: Step, deadline: Instant) -> (Outcome, Duration) {
    let begin = Instant::now();
    let outcome = step.run(deadline).unwrap_or_else(|error| Outcome::fail(step.name(), format!("{error:#}")));
    (outcome, begin.elapsed())
}
