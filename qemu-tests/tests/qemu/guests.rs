//! A guest with Debian's kernel at the far end of a cable.

use anyhow::{Result, ensure};
use lab::gateway::{self, LEFT, RIGHT};
use lab::{Cable, Nic, Station};
use qemu_tests::Experiment;

/// A station reaches a guest through the node, and the guest the node; scripts tell what happened in the guest.
pub fn is_routed_to(experiment: &Experiment) -> Result<()> {
    let cable = Cable::new()?;
    let [node_end, guest_end] = cable.ends();
    let left = Station::new(lab::FrameSocket::new()?, 1, LEFT.host4, LEFT.host6);
    let machine = experiment.machine("gateway").config(gateway::config());
    let machine = machine.nic(Nic::user(0).without_capture()).nic(left.wire().nic()).nic(node_end);
    let _node = experiment.start(machine)?;
    let mut guest =
        experiment.guest(experiment.bare_machine("guest").nic(guest_end.option("mac=52:54:00:fa:1f:02")))?;
    let _ = guest.sh(&format!(
        "ip link set eth0 up\nip addr add {}/24 dev eth0\nip -6 addr add {}/64 dev eth0 nodad\n\
         ip route add default via {}\nip -6 route add default via {}",
        RIGHT.host4, RIGHT.host6, RIGHT.node4, RIGHT.node6
    ))?;
    for node in RIGHT.nodes().into_iter().chain(LEFT.nodes()) {
        let report = guest.sh(&format!("ping -c 3 -W 5 {node}"))?;
        ensure!(report.contains(" 0% packet loss"), "{report}");
    }
    let failed = guest.run("echo no >&2; exit 7")?;
    ensure!((failed.status, failed.stderr.as_str()) == (7, "no\n"), "{failed:?}");
    let modules = guest.sh("cat /proc/modules")?;
    for module in ["esp4", "esp6", "gcm", "chacha20poly1305", "seqiv", "echainiv", "authencesn"] {
        ensure!(
            modules.lines().any(|line| line.starts_with(&format!("{module} "))),
            "no {module}: {modules}"
        );
    }
    Ok(())
}
