//! From the machine's start to a node that speaks.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Nic, Vm};
use qemu_tests::Experiment;

const LIMIT: Duration = Duration::from_secs(60);

/// The image speaks, on as many cores as it was given.
fn speaks(vm: &Vm, cores: u16) -> Result<()> {
    let _ = vm.console().wait_for(r"Fairlead (\d+\.\d+\.\d+)", LIMIT)?;
    let started = vm.console().wait_for(r"cores: (\d+)", LIMIT)?;
    ensure!(started == cores.to_string(), "{started} of {cores} cores");
    Ok(())
}

pub fn on_both_machine_types_and_many_cores(experiment: &Experiment) -> Result<()> {
    for machine in ["q35", "pc"] {
        for cores in [1, 2, 5] {
            let builder = experiment.machine(&format!("{machine}-{cores}")).machine(machine).smp(cores);
            let vm = builder.memory_mib(64).start()?;
            speaks(&vm, cores).with_context(|| format!("{machine} with {cores} cores"))?;
        }
    }
    Ok(())
}

pub fn on_an_old_processor(experiment: &Experiment) -> Result<()> {
    // Nehalem: no AVX, no RDRAND, no x2APIC.
    let vm = experiment.machine("old").cpu("Nehalem").smp(2).start()?;
    speaks(&vm, 2)
}

pub fn over_the_network(experiment: &Experiment) -> Result<()> {
    let directory = experiment.logs().join("tftp");
    fs::create_dir(&directory)?;
    let _ = fs::copy(experiment.image(), directory.join("fairlead.elf"))?;
    let boot_server = format!("tftp={},bootfile=fairlead.elf", directory.display());
    let nic = Nic::user(0).backend_option(&boot_server).boot_rom().option("bootindex=1");
    let vm = Vm::builder("pxe", experiment.logs()).nic(nic).start()?;
    speaks(&vm, 1)
}
