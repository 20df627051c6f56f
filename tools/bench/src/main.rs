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
    /// What to measure, such as `ip4-forward/1-route`, its group `ip4-forward`, or `ip4` for all groups that begin so; everything if
    /// nothing is named.
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
    let names = [workload::names(), esp::names(), aead::names(), policy::names(), lb::names()].concat();
    if arguments.list {
        names.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    for wanted in &arguments.workloads {
        let known = names.iter().any(|name| is_meant_by(name, wanted));
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
    let meant = |name: &str| {
        arguments.workloads.is_empty() || arguments.workloads.iter().any(|wanted| is_meant_by(name, wanted))
    };
    let measurements = measure::run(meant, arguments.rounds, &clock)?;
    let esp = esp::run(meant, arguments.rounds, &clock)?;
    let aead = aead::run(meant);
    let maglev = lb::run(meant, arguments.rounds, &clock)?;
    let policy = policy::run(meant, arguments.rounds)?;
    if let Some(path) = arguments.json {
        std::fs::write(&path, report::json(&machine, &measurements, &esp, &maglev, &aead, &policy)?)
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// True if a person who says `wanted` means `name`: the whole of it, the group before its slash, or all groups that begin so before a
/// dash.
fn is_meant_by(name: &str, wanted: &str) -> bool {
    let rest = name.strip_prefix(wanted);
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.starts_with('/') || rest.starts_with('-') && !wanted.contains('/')
    })
}

#[cfg(test)]
mod tests {
    use super::is_meant_by;

    #[test]
    fn a_name_its_group_and_groups_of_a_kind_are_meant() {
        for wanted in ["esp-encrypt/aes-128-gcm-64", "esp-encrypt", "esp"] {
            assert!(is_meant_by("esp-encrypt/aes-128-gcm-64", wanted), "{wanted}");
        }
        for wanted in ["esp-encrypt/aes-128-gcm", "esp-enc", "es", "aes-128-gcm-64", ""] {
            assert!(!is_meant_by("esp-encrypt/aes-128-gcm-64", wanted), "{wanted}");
        }
    }
}
