//! How long a node takes from its entry to the first packet that it forwards.
//!
//! A station sends all the while that the node boots, its neighbours are configured, and the node itself notes by its
//! time-stamp counter when the first packet has gone out. The time does not count what the loader or the host did before.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::gateway::{self, LEFT, RIGHT, Stations};
use lab::{Nic, Vm, frame};
use serde_json::json;

/// Boots that are tried; the best counts, because the host's other work is in all of them.
const BOOTS: u32 = 3;
/// Time between two packets of the station.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest that a boot may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The address of the interface that packets come to.
const NODE_MAC: frame::Mac = [0x02, 0xfa, 0, 0, 1, 1];
const PORT: u16 = 9;
/// The stage of boot, as the console has it.
const FORWARDED: &str = "first packet forwarded";

/// Boots the image in `target` some times; says how long the best took.
pub fn measure(target: &Path) -> Result<String> {
    let mut best = f64::INFINITY;
    for _ in 0..BOOTS {
        best = best.min(boot(target)?);
    }
    Ok(format!("{best:.1} ms after the kernel's entry, best of {BOOTS} boots"))
}

/// Milliseconds from the kernel's entry to the first packet forwarded, by the node's own clock.
fn boot(target: &Path) -> Result<f64> {
    let stations = Stations::new()?;
    let mut config = gateway::config();
    let mac = stations.right.mac.map(|byte| format!("{byte:02x}")).join(":");
    config["neighbours"] = json!([{ "interface": RIGHT.interface, "address": RIGHT.host4, "mac": mac }]);
    let mac = NODE_MAC.map(|byte| format!("{byte:02x}")).join(":");
    config["interfaces"][1]["mac"] = mac.clone().into();
    let machine = Vm::builder("first-packet", &target.join("demo"))
        .image(&target.join("image/fairlead.elf"))
        .config(config)
        .smp(2);
    let vm = stations.plug(machine, Nic::without_capture).start()?;
    let packet = frame::udp(&stations.left.ends(NODE_MAC, RIGHT.host4.into(), 64), 1, PORT, b"first");
    let began = Instant::now();
    let mut through = None;
    // One that came before its neighbour was known there goes out by way of control, and does not count yet.
    while !vm.console().text().contains(FORWARDED) {
        // The wire holds some frames; while nobody takes them it refuses more.
        let _ = stations.left.wire().send(&packet);
        through = stations.right.receive_udp(PORT, PAUSE)?.or(through);
        ensure!(began.elapsed() < LIMIT, "nothing is forwarded:\n{}", vm.console().tail());
    }
    let (ends, data) = through.context("the node says that it forwards, and nothing arrives")?;
    ensure!(ends.source == IpAddr::from(LEFT.host4) && data == b"first", "it arrives changed: {ends:?}");
    let line = vm.console().wait_for(&format!("{FORWARDED} after ([0-9]+) us"), LIMIT)?;
    let microseconds: f64 = line.parse().with_context(|| format!("no time in {line:?}"))?;
    Ok(microseconds / 1000.0)
}
