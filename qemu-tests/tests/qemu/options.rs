//! Devices as different machines offer them: the node forwards over each.

use anyhow::{Context, Result};
use lab::gateway;
use qemu_tests::Experiment;

/// Properties of virtio-net-pci, each alone in effect.
const VARIANTS: &[&[&str]] = &[
    &["packed=on"],
    &["packed=on", "event_idx=off"],
    &["packed=on", "indirect_desc=off", "mrg_rxbuf=off"],
    &["event_idx=off"],
    &["indirect_desc=off"],
    &["mrg_rxbuf=off"],
    &["disable-legacy=on"],
    &["ctrl_vq=off"],
    &["csum=off", "guest_csum=off"],
    &["status=off"],
    &["host_mtu=1500"],
    &["rx_queue_size=1024", "tx_queue_size=256"],
    &["vectors=0"],
    &["vectors=2"],
];

pub fn every_variant_forwards(experiment: &Experiment) -> Result<()> {
    // The machine type changes how the device is found, not what it is.
    for (machine, variants) in [("q35", VARIANTS), ("pc", &VARIANTS[..2])] {
        for properties in variants {
            let what = format!("{machine} {}", properties.join(" "));
            let is_packed = properties.contains(&"packed=on");
            let (vm, stations) = experiment
                .gateway_with(
                    |builder| {
                        let builder = builder.machine(machine);
                        // The node takes packed rings only where it is told to.
                        if is_packed { builder.argument("rings=packed") } else { builder }
                    },
                    |nic| properties.iter().fold(nic, |nic, property| nic.option(property)),
                )
                .with_context(|| what.clone())?;
            super::forwarding::datagrams_cross(&stations).with_context(|| what.clone())?;
            let crash = vm.api(gateway::TOKEN)?.json("/v1/crash")?;
            anyhow::ensure!(crash["crash"].is_null(), "{what}: {crash}");
        }
    }
    experiment.measured(format!("{} variants, some on both machine types", VARIANTS.len()));
    Ok(())
}
