//! From the machine's start to a node that speaks.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::farm::wait_until;
use lab::gateway::{self, TOKEN};
use lab::{Api, Nic, Vm, VmBuilder};
use qemu_tests::Experiment;

const LIMIT: Duration = Duration::from_secs(60);

/// Starts a node that can be managed: every core has something to do.
fn comes_up(experiment: &Experiment, machine: VmBuilder, cores: usize) -> Result<()> {
    let vm = experiment.start(machine.argument(&format!("token={TOKEN}")).nic(Nic::user(0)))?;
    let api = vm.api(TOKEN)?;
    let status = api.json("/v1/status")?;
    let used = status["cores"].as_array().map_or(0, Vec::len);
    ensure!(used == cores, "{used} of {cores} cores are used");
    knows_the_time(&api)
}

/// Both machine types have a real-time clock, which QEMU has keep the host's time.
fn knows_the_time(api: &Api) -> Result<()> {
    let mut time = None;
    wait_until("the time is known", LIMIT, || {
        time = api.json("/v1/status")?["time"].as_str().map(String::from);
        Ok(time.is_some())
    })?;
    let (time, now) = (time.context("no time")?, SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    let read = Command::new("date").args(["-u", "+%s", "-d", &time]).output().context("date")?;
    let seconds: u64 = String::from_utf8(read.stdout)?.trim().parse().with_context(|| time.clone())?;
    ensure!(seconds.abs_diff(now) < 60, "the node's time is {time}, {seconds}, the host's {now}");
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

/// The image without its Multiboot header: QEMU prefers that protocol, and so takes this one by PVH, as Firecracker and
/// Cloud Hypervisor do.
fn without_multiboot(experiment: &Experiment) -> Result<PathBuf> {
    /// The header lies within the first 8 KiB, aligned to 4 bytes (Multiboot 0.6.96, section 3.1).
    const HEADER_WITHIN: usize = 8192;
    const MAGIC: [u8; 4] = 0x1bad_b002u32.to_le_bytes();
    let mut image = fs::read(experiment.image())?;
    let mut words = image[..HEADER_WITHIN].chunks_exact_mut(4);
    let magic = words.find(|word| **word == MAGIC).context("the image has no Multiboot header")?;
    magic.fill(0);
    let path = experiment.logs().join("pvh.elf");
    fs::write(&path, image)?;
    Ok(path)
}

pub fn by_pvh(experiment: &Experiment) -> Result<()> {
    let image = without_multiboot(experiment)?;
    let mut config = gateway::config();
    config["interfaces"] = serde_json::json!([config["interfaces"][0]]);
    for machine in ["q35", "pc"] {
        let builder = experiment.machine(&format!("pvh-{machine}")).machine(machine).image(&image).smp(2);
        let builder = builder.config(config.clone()).nic(Nic::user(0)).argument("log=debug");
        let vm = experiment.start(builder).with_context(|| machine.to_owned())?;
        let _ = vm.console().wait_for("Fairlead .* by PVH", LIMIT)?;
        let status = vm.api(TOKEN)?.json("/v1/status")?;
        ensure!(status["cores"].as_array().map_or(0, Vec::len) == 2, "cores of {machine}: {status}");
        let config = vm.api(TOKEN)?.json("/v1/config")?;
        ensure!(config["hostname"] == "gateway", "the boot module does not arrive: {config}");
    }
    Ok(())
}

pub fn without_interval_timer(experiment: &Experiment) -> Result<()> {
    let machine = experiment.machine("no-pit").machine("q35,pit=off").cpu("Nehalem,-hypervisor").smp(2);
    let vm = experiment.start(machine.argument(&format!("token={TOKEN}")).nic(Nic::user(0)))?;
    let _ = vm.console().wait_for("time: .* by ACPI timer", LIMIT)?;
    Ok(())
}

pub fn on_buses_of_other_roots(experiment: &Experiment) -> Result<()> {
    let vm = experiment.start(
        experiment
            .machine("roots")
            .argument(&format!("token={TOKEN}"))
            .nic(Nic::user(0))
            .qemu_argument("-device")
            .qemu_argument("pxb-pcie,id=other,bus_nr=64,bus=pcie.0")
            .qemu_argument("-device")
            .qemu_argument("pcie-root-port,id=port64,bus=other,chassis=1")
            .qemu_argument("-netdev")
            .qemu_argument("user,id=far")
            .qemu_argument("-device")
            .qemu_argument("virtio-net-pci,netdev=far,bus=port64"),
    )?;
    let interfaces = vm.api(TOKEN)?.json("/v1/interfaces")?;
    let names = interfaces["interfaces"].as_array().map_or(0, Vec::len);
    ensure!(names == 2, "the card behind the other root is not there: {interfaces}");
    Ok(())
}
