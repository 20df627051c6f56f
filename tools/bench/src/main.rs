//! `bench [WORKLOAD...] [--json FILE]`: what the dataplane costs.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use bench::report::{self, Machine};
use bench::{aead, calibration, counters, esp, lb, measure, policy, workload};
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
    let aeads: Vec<String> = aead::names().iter().map(|name| format!("aead/{name}")).collect();
    let (policies, balancers) = (policy::names(), lb::names());
    if arguments.list {
        all.iter().for_each(|workload| println!("{}", workload.name()));
        esp::all().iter().for_each(|workload| println!("{}", workload.name()));
        aeads.iter().chain(&policies).chain(&balancers).for_each(|name| println!("{name}"));
        return Ok(());
    }
    for wanted in &arguments.workloads {
        let known = all.iter().any(|workload| workload.is_meant_by(wanted))
            || esp::all().iter().any(|workload| workload.is_meant_by(wanted))
            || wanted == "aead"
            || aeads.contains(wanted)
            || policies.iter().chain(&balancers).any(|name| is_meant_by(name, wanted));
        ensure!(known, "there is no workload {wanted}; --list names them");
    }
    ensure!(arguments.rounds > 0, "at least one round is needed");

    let pinned = counters::pin_to_one_core();
    let clock = measure::Clock::new();
    let machine = Machine {
        tsc_ghz: clock.per_second / 1e9,
        clocks_per_addition: calibration::clocks_per_addition(),
        clocks_per_reading: clock.read,
        pinned,
        core_counters: counters::CoreCounters::open().is_some(),
    };
    println!("{}", report::calibration_line(&machine));
    let mut measurements = Vec::new();
    for workload in &all {
        let meant = arguments.workloads.iter().any(|wanted| workload.is_meant_by(wanted));
        if meant || arguments.workloads.is_empty() {
            let measurement =
                measure::measure(workload, arguments.rounds, &clock).with_context(|| workload.name())?;
            print!("{}", report::text(&measurement));
            measurements.push(measurement);
        }
    }
    let mut esp_rows = Vec::new();
    for workload in esp::all() {
        let meant = arguments.workloads.iter().any(|wanted| workload.is_meant_by(wanted));
        if meant || arguments.workloads.is_empty() {
            let row = workload.measure(arguments.rounds, &clock).with_context(|| workload.name())?;
            print!("{row}");
            esp_rows.push(row);
        }
    }
    let meant = |name: &str| {
        let mut wanted = arguments.workloads.iter();
        arguments.workloads.is_empty()
            || wanted.any(|wanted| wanted == "aead" || wanted.strip_prefix("aead/") == Some(name))
    };
    let aead = if aead::names().iter().any(|name| meant(name)) { aead::run(meant) } else { Vec::new() };
    let meant = |name: &str| {
        arguments.workloads.is_empty() || arguments.workloads.iter().any(|wanted| is_meant_by(name, wanted))
    };
    let lb_rows = lb::run(meant, arguments.rounds, &clock)?;
    let policy = policy::run(meant, arguments.rounds)?;
    if let Some(path) = arguments.json {
        std::fs::write(&path, report::json(&machine, &measurements, &esp_rows, &lb_rows, &aead, &policy)?)
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// True if a person who says `wanted` means `name`, or the group before its slash.
fn is_meant_by(name: &str, wanted: &str) -> bool {
    name == wanted || name.split_once('/').is_some_and(|(group, _)| group == wanted)
}
