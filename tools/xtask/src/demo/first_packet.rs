//! How long a node takes from its entry to the first packet that it forwards.
//!
//! A station sends all the while that the node boots, its neighbours are configured, and the node itself notes by its
//! time-stamp counter when the first packet has gone out. The time does not count what the loader or the host did before.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::gateway::{self, LEFT, RIGHT, Stations};
use lab::{Nic, Vm, frame};
use serde_json::json;

use super::acts::check;
use super::{Check, Verdict};

/// Boots that are tried; the best counts, because the host's other work is in all of them.
const BOOTS: usize = 3;
/// Further ones before it is said that a node is slow: its clock goes on while the host has other things to do.
const MORE_BOOTS: usize = 5;
/// Time between two packets of the station.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest that a boot may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The address of the interface that packets come to.
const NODE_MAC: frame::Mac = [0x02, 0xfa, 0, 0, 1, 1];
const PORT: u16 = 9;
/// The stage of boot, as the console has it.
const FORWARDED: &str = "first packet forwarded";

/// What it may take.
const BOUND_MILLISECONDS: f64 = 100.0;

/// Boots the image in `target` some times; says how long the best took, and its stages. Longer than
/// [`BOUND_MILLISECONDS`] is a failure, unless the host kept the node from running for what is too much.
pub fn measure(target: &Path) -> Check {
    const WHAT: &str = "forwards its first packet";
    let mut boots = Vec::new();
    while boots.len() < BOOTS || boots.len() < BOOTS + MORE_BOOTS && !boots.iter().any(Boot::is_quick) {
        match boot(target) {
            Ok(boot) => boots.push(boot),
            Err(error) => return check(WHAT, Err(error)),
        }
    }
    judge(WHAT, &boots)
}

fn judge(what: &str, boots: &[Boot]) -> Check {
    let Some(best) = boots.iter().min_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds)) else {
        return check(what, Err(anyhow!("no boot was tried")));
    };
    let Boot { milliseconds, stages, .. } = best;
    let than = if best.is_quick() { "less" } else { "not less" };
    let said = format!(
        "{milliseconds:.1} ms after the kernel's entry, {than} than {BOUND_MILLISECONDS}; best of {} boots: {stages}",
        boots.len()
    );
    if best.is_quick() {
        return check(what, Ok(said));
    }
    match boots.iter().find(|boot| boot.would_be_quick()) {
        Some(Boot { milliseconds, held_up_milliseconds: held_up, .. }) => Check {
            what: what.to_owned(),
            measured: format!(
                "{said}; the machine is busy: of one that took {milliseconds:.1} ms it kept the first core from running for {held_up:.0} ms"
            ),
            verdict: Verdict::NotShown,
        },
        None => check(what, Err(anyhow!(said))),
    }
}

/// One boot: how long it took to the first packet, and the stages on the way.
struct Boot {
    milliseconds: f64,
    stages: String,
    /// Time that passed while the first core, which has no reason to halt before the first packet, had no processor.
    held_up_milliseconds: f64,
}

impl Boot {
    fn is_quick(&self) -> bool {
        self.milliseconds < BOUND_MILLISECONDS
    }

    /// On a machine that lets it run.
    fn would_be_quick(&self) -> bool {
        self.milliseconds - self.held_up_milliseconds < BOUND_MILLISECONDS
    }
}

/// Boots to the first packet forwarded, timed by the node's own clock.
fn boot(target: &Path) -> Result<Boot> {
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
    let mut vm = stations.plug(machine, Nic::without_capture).start()?;
    let core = vm.first_core()?;
    let packet = frame::udp(&stations.left.ends(NODE_MAC, RIGHT.host4.into(), 64), 1, PORT, b"first");
    let began = Instant::now();
    let mut through = None;
    // What the first core has had, and when: the console is silent until the first packet, so that only then is it known
    // when the kernel was entered.
    let mut had = vec![(Duration::ZERO, core.time()?)];
    // One that came before its neighbour was known there goes out by way of control, and does not count yet.
    while !vm.console().text().contains(FORWARDED) {
        // The wire holds some frames; while nobody takes them it refuses more.
        let _ = stations.left.wire().send(&packet);
        through = stations.right.receive_udp(PORT, PAUSE)?.or(through);
        had.push((began.elapsed(), core.time()?));
        ensure!(began.elapsed() < LIMIT, "nothing is forwarded:\n{}", vm.console().tail());
    }
    had.push((began.elapsed(), core.time()?));
    let (ends, data) = through.context("the node says that it forwards, and nothing arrives")?;
    ensure!(ends.source == IpAddr::from(LEFT.host4) && data == b"first", "it arrives changed: {ends:?}");
    let line = vm.console().wait_for(&format!("{FORWARDED} after ([0-9]+) us"), LIMIT)?;
    let microseconds: f64 = line.parse().with_context(|| format!("no time in {line:?}"))?;
    let took = Duration::from_secs_f64(microseconds / 1e6);
    Ok(Boot {
        milliseconds: microseconds / 1000.0,
        stages: stages(&vm.console().text()),
        held_up_milliseconds: held_up(&had, took).as_secs_f64() * 1000.0,
    })
}

/// How much of the last `took` a core did not have, by what it had had when.
fn held_up(had: &[(Duration, Duration)], took: Duration) -> Duration {
    let Some((end, all)) = had.last() else { return Duration::ZERO };
    let entry = end.saturating_sub(took);
    let before = had.iter().rfind(|(at, _)| *at <= entry).map_or(Duration::ZERO, |(_, time)| *time);
    took.saturating_sub(all.saturating_sub(before))
}

/// The stages that a console names, with the milliseconds at which each was reached: `memory 6.8, cores 10.1`.
fn stages(console: &str) -> String {
    let stage = |line: &str| {
        let (name, after) =
            line.split_once(" boot: ")?.1.trim_end().strip_suffix(" us")?.split_once(" after ")?;
        Some(format!("{name} {:.1}", after.parse::<f64>().ok()? / 1000.0))
    };
    console.lines().filter_map(stage).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(boots: &[(f64, f64)]) -> Check {
        let boot = |&(milliseconds, held_up_milliseconds)| Boot {
            milliseconds,
            held_up_milliseconds,
            stages: String::new(),
        };
        judge("", &boots.iter().map(boot).collect::<Vec<_>>())
    }

    #[test]
    fn the_best_boot_counts_and_a_busy_machine_is_no_excuse_for_a_slow_node() {
        assert_eq!(judged(&[(190.0, 0.0), (90.0, 0.0), (110.0, 50.0)]).verdict, Verdict::Passed);
        let busy = judged(&[(150.0, 10.0), (160.0, 75.0)]);
        assert_eq!(busy.verdict, Verdict::NotShown);
        assert!(
            busy.measured.contains("150.0 ms") && busy.measured.contains("the machine is busy"),
            "{}",
            busy.measured
        );
        assert_eq!(judged(&[(150.0, 0.0), (150.0, 49.0)]).verdict, Verdict::Failed);
        assert_eq!(judged(&[]).verdict, Verdict::Failed);
    }

    #[test]
    fn only_what_the_core_lacks_since_the_kernel_s_entry_counts() {
        let ms = Duration::from_millis;
        // It lacked all of the first 100 ms, which were the loader's, and 30 of those of the kernel.
        let had = [(ms(0), ms(0)), (ms(100), ms(0)), (ms(200), ms(80)), (ms(250), ms(120))];
        assert_eq!(held_up(&had, ms(150)), ms(30));
        assert_eq!(held_up(&had, ms(400)), ms(280));
        assert_eq!(held_up(&[], ms(1)), ms(0));
    }

    #[test]
    fn stages_are_read_from_the_console() {
        let console = "[  0.007818] info  boot: memory after 7696 us\r\n[  0.010000] info  boot: time: 2699 MHz\r\n\
                       [  0.097258] info  boot: first packet forwarded after 97133 us\r\n";
        assert_eq!(super::stages(console), "memory 7.7, first packet forwarded 97.1");
    }
}
