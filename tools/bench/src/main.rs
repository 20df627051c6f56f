//! `bench [WORKLOAD...] [--json FILE]`: what the dataplane costs.

use anyhow::{Context, Result, ensure};
use bench::report::{self, Machine};
use bench::{calibration, counters, measure, workload};
use clap::Parser;
use std::path::PathBuf;

/// Measures the dataplane on in-memory ports.
#[derive(Parser)]
struct Arguments {
    /// What to measure, such as `ip4-forward` or `ip4-forward/1-route`; everything if nothing is named.
    workloads: Vec<String>,
    /// Also writes the figures to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Rounds of each workload, of which the best counts.
    #[arg(long, default_value_t = 400)]
    rounds: usize,
    /// Names the workloads and measures nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let all = workload::all();
    if arguments.list {
        all.iter().for_each(|workload| println!("{}", workload.name()));
        return Ok(());
    }
    for wanted in &arguments.workloads {
        let known = all.iter().any(|workload| workload.is_meant_by(wanted));
        ensure!(known, "there is no workload {wanted}; --list names them");
    }
    ensure!(arguments.rounds > 0, "at least one round is needed");

    let pinned = counters::pin_to_one_core();
    let clocks_per_second = measure::clocks_per_second();
    let machine = Machine {
        tsc_ghz: clocks_per_second / 1e9,
        clocks_per_addition: calibration::clocks_per_addition(),
        pinned,
    };
    println!("{}", report::calibration_line(&machine));
    let mut measurements = Vec::new();
    for workload in &all {
        let meant = arguments.workloads.iter().any(|wanted| workload.is_meant_by(wanted));
        if meant || arguments.workloads.is_empty() {
            let measurement = measure::measure(workload, arguments.rounds, clocks_per_second)
                .with_context(|| workload.name())?;
            print!("{}", report::text(&measurement));
            measurements.push(measurement);
        }
    }
    if let Some(path) = arguments.json {
        std::fs::write(&path, report::json(&machine, &measurements)?)
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}
