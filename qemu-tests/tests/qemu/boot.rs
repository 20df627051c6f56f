//! From the kernel's entry to a node that can be managed.

use std::time::Duration;

use anyhow::Result;
use qemu_tests::Experiment;

const LIMIT: Duration = Duration::from_secs(60);

pub fn starts_in_64_mib(experiment: &Experiment) -> Result<()> {
    let vm = experiment.machine("node").memory_mib(64).start()?;
    let version = vm.console().wait_for(r"Fairlead (\d+\.\d+\.\d+)", LIMIT)?;
    experiment.measured(format!("version {version} starts in 64 MiB"));
    Ok(())
}
