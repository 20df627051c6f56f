//! The live view: traffic that goes on, and what the node says of it, until Ctrl-C.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::gateway::{LEFT, RIGHT, Stations};
use lab::{Api, Netns, frame};

use super::stage::{Ends, Stage};

/// Bit rate of each stream: enough to be seen, little enough to leave an emulating machine usable.
const BIT_RATE: &str = "20M";

/// Time between two views.
const PERIOD: Duration = Duration::from_secs(1);

/// How many times in a row the API may fail to answer: a node that restarts does, one that is gone does for ever.
const MAX_REFUSALS: usize = 30;

/// How long a datagram of the stations may take, and how long they rest after some.
const ARRIVAL: Duration = Duration::from_millis(20);

/// How many lines of the console are shown.
const CONSOLE_LINES: usize = 8;

/// What the live view leaves to the scenario.
const MORE: &str =
    "`cargo xtask demo --once` also shows an IPsec tunnel, load balancing and network policy, with figures";

/// Counters by name.
type Counters = BTreeMap<String, u64>;

/// Shows what happens until Ctrl-C.
pub fn show(stage: &Stage, api: &str) -> Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let _ = signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let mut traffic = Traffic::default();
    let terminal = std::io::stdout().is_terminal();
    let (mut before, mut at) = (counters(stage.api())?, Instant::now());
    let mut refusals = 0;
    while !ended.load(Ordering::Relaxed) {
        match stage.ends() {
            Ends::Hosts(hosts) => {
                traffic.keep_going(&hosts.left, &hosts.right)?;
                std::thread::sleep(PERIOD);
            }
            Ends::Stations(stations) => {
                let until = Instant::now() + PERIOD;
                // The node may be busy, or its cable pulled over the API: the next period tries again.
                if datagrams(stations, until).is_err() {
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                }
            }
        }
        let now = match counters(stage.api()) {
            Ok(now) => now,
            Err(error) if refusals < MAX_REFUSALS => {
                refusals += 1;
                println!("the API does not answer: {error:#}");
                continue;
            }
            Err(error) => return Err(error),
        };
        refusals = 0;
        let elapsed = at.elapsed();
        at = Instant::now();
        let carries = match stage.ends() {
            Ends::Hosts(_) => "TCP",
            Ends::Stations(_) => "datagrams",
        };
        let view = view(&before, &now, elapsed, &stage.vm().console().text(), (carries, api));
        // Home and clear only where there is a screen; a log gets one view below the other.
        let screen = if terminal { format!("\x1b[H\x1b[2J{view}") } else { view };
        std::io::stdout().write_all(screen.as_bytes())?;
        std::io::stdout().flush()?;
        before = now;
    }
    println!("\nended");
    Ok(())
}

/// Datagrams of both families, from left to right and back, until then. What is lost is the node's to count.
fn datagrams(stations: &Stations, until: Instant) -> Result<()> {
    const PORT: u16 = 5205;
    /// How many are on their way at a time.
    const BURST: usize = 32;
    let ways =
        [(&stations.left, &stations.right, LEFT, RIGHT), (&stations.right, &stations.left, RIGHT, LEFT)];
    let mut flows = Vec::new();
    for (from, to, near, far) in ways {
        for (node, destination) in near.nodes().into_iter().zip(far.hosts()) {
            let ends = from.ends(from.resolve(node)?, destination, 64);
            flows.push((from, to, frame::udp(&ends, 1000, PORT, &[0; 1000])));
        }
    }
    while Instant::now() < until {
        for (from, to, datagram) in &flows {
            (0..BURST).try_for_each(|_| from.wire().send(datagram))?;
            // Whoever receives answers the node's address resolution, too.
            let mut arrived = 0;
            while arrived < BURST && to.receive_udp(PORT, ARRIVAL)?.is_some() {
                arrived += 1;
            }
        }
        std::thread::sleep(ARRIVAL);
    }
    Ok(())
}

/// Programs that send: started again when they end.
#[derive(Default)]
struct Traffic {
    programs: Vec<Option<Child>>,
}

impl Traffic {
    fn keep_going(&mut self, left: &Netns, right: &Netns) -> Result<()> {
        let to = RIGHT.hosts().map(|address| address.to_string());
        let client = |address, port| {
            [
                "--client",
                address,
                "--port",
                port,
                "--bitrate",
                BIT_RATE,
                "--time",
                "3600",
                "--connect-timeout",
                "3000",
            ]
        };
        let wanted: [(&Netns, &str, Vec<&str>); 6] = [
            (right, "iperf3", vec!["--server", "--port", "5204"]),
            (right, "iperf3", vec!["--server", "--port", "5206"]),
            (left, "iperf3", client(&to[0], "5204").to_vec()),
            (left, "iperf3", client(&to[1], "5206").to_vec()),
            (left, "ping", vec!["-q", &to[0]]),
            (left, "ping", vec!["-q", &to[1]]),
        ];
        self.programs.resize_with(wanted.len(), || None);
        for (program, (netns, name, arguments)) in self.programs.iter_mut().zip(wanted) {
            if program.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
                continue;
            }
            let mut command = netns.command(name);
            let child =
                command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            *program = Some(child.spawn().with_context(|| format!("cannot start {name}"))?);
        }
        Ok(())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for child in self.programs.iter_mut().flatten() {
            // Both fail only if the process is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `eth1 rx_packets` and so on, and `drop REASON`.
fn counters(api: &Api) -> Result<Counters> {
    let mut counters = Counters::new();
    let interfaces = api.json("/v1/interfaces")?;
    for interface in interfaces["interfaces"].as_array().context("no interfaces")? {
        let name = interface["name"].as_str().unwrap_or_default();
        for (counter, value) in interface["counters"].as_object().into_iter().flatten() {
            let _ = counters.insert(format!("{name} {counter}"), value.as_u64().unwrap_or(0));
        }
    }
    let drops = api.json("/v1/drops")?;
    for drop in drops["drops"].as_array().into_iter().flatten() {
        let reason = drop["reason"].as_str().unwrap_or_default();
        let _ = counters.insert(format!("drop {reason}"), drop["packets"].as_u64().unwrap_or(0));
    }
    Ok(counters)
}

fn view(
    before: &Counters,
    now: &Counters,
    elapsed: Duration,
    console: &str,
    (carries, api): (&str, &str),
) -> String {
    let rate = |counter: &str| {
        let difference =
            now.get(counter).copied().unwrap_or(0).saturating_sub(before.get(counter).copied().unwrap_or(0));
        difference as f64 / elapsed.as_secs_f64()
    };
    let mut view = format!(
        "Fairlead demo: {carries}, IPv4 and IPv6, between two hosts; ends by Ctrl-C\n{MORE}\nAPI {api}\n\n"
    );
    view += "interface      rx packet/s     rx Mbit/s    tx packet/s     tx Mbit/s\n";
    for name in ["eth0", "eth1", "eth2"] {
        let packets = |way: &str| rate(&format!("{name} {way}_packets"));
        let megabits = |way: &str| rate(&format!("{name} {way}_bytes")) * 8e-6;
        let _ = writeln!(
            view,
            "{name:<12} {:>13.0} {:>13.2} {:>14.0} {:>13.2}",
            packets("rx"),
            megabits("rx"),
            packets("tx"),
            megabits("tx")
        );
    }
    view += "\ndropped\n";
    for (name, total) in now.iter().filter(|(_, total)| **total > 0) {
        if let Some(reason) = name.strip_prefix("drop ") {
            let _ = writeln!(view, "  {reason:<32} {total:>10} ({:.0}/s)", rate(name));
        }
    }
    view += "\nconsole\n";
    let lines: Vec<&str> = console.lines().collect();
    for line in &lines[lines.len().saturating_sub(CONSOLE_LINES)..] {
        let _ = writeln!(view, "  {line}");
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let before = Counters::from([("eth1 rx_packets".into(), 100), ("drop no-route".into(), 5)]);
        let now = Counters::from([("eth1 rx_packets".into(), 300), ("drop no-route".into(), 7)]);
        let view = view(&before, &now, Duration::from_secs(2), "one\ntwo\n", ("TCP", "http://x"));
        let eth1: Vec<&str> =
            view.lines().find(|line| line.starts_with("eth1")).unwrap().split_ascii_whitespace().collect();
        assert_eq!(eth1, ["eth1", "100", "0.00", "0", "0.00"]);
        assert!(
            view.contains("no-route") && view.contains("7 (1/s)") && view.ends_with("  one\n  two\n"),
            "{view}"
        );
    }
}
