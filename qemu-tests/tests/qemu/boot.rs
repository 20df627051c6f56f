//! From the machine's start to a node that speaks.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::gateway::TOKEN;
use lab::{Nic, Vm, VmBuilder};
use qemu_tests::Experiment;

const LIMIT: Duration = Duration::from_secs(60);

/// Starts a node that can be managed. Its card has one pair of queues, so that one worker and control are all it needs.
fn comes_up(experiment: &Experiment, machine: VmBuilder, cores: usize) -> Result<()> {
    let vm = experiment.start(machine.argument(&format!("token={TOKEN}")).nic(Nic::user(0)))?;
    let status = vm.api(TOKEN)?.json("/v1/status")?;
    let used = status["cores"].as_array().map_or(0, Vec::len);
    ensure!(used == cores.min(2), "{used} of {cores} cores are used");
    Ok(())
}

pub fn on_both_machine_types_and_many_cores(experiment: &Experiment) -> Result<()> {
    for machine in ["q35", "pc"] {
        for cores in [1, 2, 5] {
            let builder = experiment.machine(&format!("{machine}-{cores}")).machine(machine).smp(cores);
            comes_up(experiment, builder.memory_mib(64), cores.into())
                .with_context(|| format!("{machine} with {cores} cores"))?;
        }
    }
    Ok(())
}

pub fn on_an_old_processor(experiment: &Experiment) -> Result<()> {
    // Nehalem: no AVX, no RDRAND, no x2APIC.
    comes_up(experiment, experiment.machine("old").cpu("Nehalem").smp(2), 2)
}

pub fn over_the_network(experiment: &Experiment) -> Result<()> {
    let directory = experiment.logs().join("tftp");
    fs::create_dir(&directory)?;
    let _ = fs::copy(experiment.image(), directory.join("fairlead.elf"))?;
    let boot_server = format!("tftp={},bootfile=fairlead.elf", directory.display());
    let nic = Nic::user(0).backend_option(&boot_server).boot_rom().option("bootindex=1");
    let vm = Vm::builder("pxe", experiment.logs()).nic(nic).start()?;
    let token = vm.console().wait_for("this one was made: ([0-9a-f]+)", LIMIT)?;
    let api = vm.api(&token)?;
    api.wait_until_healthy(LIMIT)?;
    let _ = api.json("/v1/status")?;
    Ok(())
}
