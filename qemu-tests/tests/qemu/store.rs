//! The configuration on a disk, whatever happens while it is written.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::gateway::{self, TOKEN};
use lab::{Api, Nic, Vm};
use qemu_tests::Experiment;
use serde_json::{Value, json};

/// Rounds of changing, storing and pulling the plug.
const ROUNDS: u64 = 12;

/// UDP port of datagrams.
const PORT: u16 = 4000;

fn empty_disk(experiment: &Experiment) -> Result<PathBuf> {
    let disk = experiment.logs().join("disk");
    fs::File::create(&disk)?.set_len(4 << 20)?;
    Ok(disk)
}

/// A node that has only its disk to know what it is.
fn from_disk(experiment: &Experiment, disk: &std::path::Path, name: &str) -> Result<(Vm, Api)> {
    let nic = || Nic::user(0).without_capture();
    let vm = experiment.start(experiment.machine(name).drive(disk).nic(nic()))?;
    let api = vm.api(TOKEN)?;
    Ok((vm, api))
}

fn named(hostname: &str) -> Value {
    let mut config = gateway::config();
    config["hostname"] = hostname.into();
    config["interfaces"] = json!([config["interfaces"][0]]);
    config
}

fn hostname(api: &Api) -> Result<String> {
    let config = api.json("/v1/config").context("the stored token is not in force")?;
    Ok(config["hostname"].as_str().unwrap_or_default().to_owned())
}

fn store(api: &Api) -> Result<()> {
    api.post("/v1/store", "application/json", b"")?.accepted().map(drop)
}

pub fn survives_a_kill_at_any_moment(experiment: &Experiment) -> Result<()> {
    let disk = empty_disk(experiment)?;
    let first =
        experiment.machine("first").drive(&disk).nic(Nic::user(0).without_capture()).config(named("round-0"));
    let vm = experiment.start(first)?;
    store(&vm.api(TOKEN)?)?;
    drop(vm);
    let mut stored = 0;
    for round in 1..=ROUNDS {
        let (vm, api) = from_disk(experiment, &disk, &format!("round-{round}"))?;
        let found = hostname(&api)?;
        ensure!(found == format!("round-{stored}"), "{found} is in force, round-{stored} was stored");
        let _ = api.put("/v1/config", &named(&format!("round-{round}")))?.accepted()?;
        // The plug is pulled sooner and later: before, while and after the configuration is written; last of all when
        // it is known to be there.
        let writer = api.clone();
        let storing = std::thread::spawn(move || store(&writer).is_ok());
        let confirmed = if round < ROUNDS {
            std::thread::sleep(Duration::from_millis(8 * (round - 1)));
            drop(vm);
            storing.join().unwrap_or(false)
        } else {
            let confirmed = storing.join().unwrap_or(false);
            drop(vm);
            confirmed
        };
        let (_vm, api) = from_disk(experiment, &disk, &format!("after-{round}"))?;
        let found = hostname(&api)?;
        let now = if found == format!("round-{round}") { round } else { stored };
        ensure!(found == format!("round-{now}"), "neither the old nor the new configuration: {found}");
        ensure!(now == round || !confirmed, "round-{round} was confirmed as stored and is lost");
        stored = now;
    }
    ensure!(stored == ROUNDS, "what was stored in peace, round-{ROUNDS}, is not there");
    experiment.measured(format!("killed {ROUNDS} times while storing, {stored} is what was stored last"));
    Ok(())
}

pub fn on_a_disk_of_4_kib_blocks(experiment: &Experiment) -> Result<()> {
    let file = empty_disk(experiment)?;
    // A disk that comes first and cannot be written is passed over.
    let fixed = experiment.logs().join("fixed");
    fs::File::create(&fixed)?.set_len(4 << 20)?;
    let fixed = format!("if=none,id=fixed,format=raw,readonly=on,file={}", fixed.display());
    let disk = |machine: lab::VmBuilder| {
        let drive = format!("if=none,id=large,format=raw,file={}", file.display());
        let device = "virtio-blk-pci,drive=large,logical_block_size=4096,physical_block_size=4096";
        let machine = machine.nic(Nic::user(0).without_capture());
        let before = ["-drive", &fixed, "-device", "virtio-blk-pci,drive=fixed"];
        before
            .into_iter()
            .chain(["-drive", &drive, "-device", device])
            .fold(machine, lab::VmBuilder::qemu_argument)
    };
    let vm = experiment.start(disk(experiment.machine("stores").config(named("large-blocks"))))?;
    store(&vm.api(TOKEN)?)?;
    drop(vm);
    let vm = experiment.start(disk(experiment.machine("finds")))?;
    let found = hostname(&vm.api(TOKEN)?)?;
    ensure!(found == "large-blocks", "{found} was stored");
    Ok(())
}

pub fn a_slow_disk_does_not_stop_forwarding(experiment: &Experiment) -> Result<()> {
    // Some hundred requests to claim and fill a fresh disk, each of which one core has to wait for.
    let drive = format!(
        "if=none,id=slow,format=raw,throttling.iops-total=20,file={}",
        empty_disk(experiment)?.display()
    );
    let with_disk = |machine: lab::VmBuilder| {
        let words = ["-drive", &drive, "-device", "virtio-blk-pci,drive=slow"];
        words.into_iter().fold(machine.smp(1), lab::VmBuilder::qemu_argument)
    };
    let (vm, stations) = experiment.gateway_with(with_disk, |nic| nic)?;
    super::forwarding::datagrams_cross(&stations)?;
    // Control answers nobody while it waits, address resolution neither.
    let (left, destination) = (&stations.left, gateway::RIGHT.hosts()[0]);
    let ends = left.ends(left.resolve(gateway::LEFT.nodes()[0])?, destination, 64);
    let api = vm.api(TOKEN)?;
    let storing = std::thread::spawn(move || store(&api));
    // By then the disk is being written.
    std::thread::sleep(Duration::from_secs(1));
    let mut crossed = 0;
    while !storing.is_finished() {
        left.wire().send(&lab::frame::udp(&ends, 1000, PORT, b"meanwhile"))?;
        let arrived = stations.right.receive_udp(PORT, Duration::from_millis(500))?.is_some();
        crossed += u32::from(arrived && !storing.is_finished());
    }
    ensure!(crossed > 0, "nothing crosses while the disk is written");
    experiment.measured(format!("{crossed} datagrams crossed while the disk was written"));
    Ok(())
}
