//! `fairlead run` between real hosts: network namespaces behind TAP devices and packet sockets, with ping, iperf3 and
//! the command itself. Needs root, or user namespaces that allow them; without, the tests are reported as ignored.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Netns, host, process};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

const FAIRLEAD: &str = env!("CARGO_BIN_EXE_fairlead");
const TOKEN: &str = "token-of-the-hosts-test";
/// The longest that any one program may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Figures that tests measured, for the end.
type Figures = Arc<Mutex<Vec<String>>>;
type Body = fn(&Figures) -> Result<()>;

const TESTS: [(&str, Body); 4] = [
    ("tap_forwards_between_hosts", tap_forwards),
    ("af_packet_forwards_between_hosts", af_packet_forwards),
    ("two_workers_share_the_load", two_workers),
    ("the_command_manages_a_process", command_manages),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list && !host::can_make_hosts() && host::user_namespaces_work() {
        let entered = host::enter_user_namespace();
        assert!(entered.is_ok(), "cannot enter a user namespace: {entered:?}");
    }
    let possible = host::can_make_hosts();
    // Hosts that share two processors spoil each other's figures.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let figures = Figures::default();
    let trials = TESTS.iter().map(|&(name, body)| {
        let figures = figures.clone();
        Trial::test(name, move || body(&figures).map_err(|error| format!("{error:#}").into()))
            .with_ignored_flag(!possible)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    for figure in figures.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("measured {figure}");
    }
    conclusion.exit_code()
}

/// A running `fairlead run`. It ends with the test.
struct Node {
    child: Child,
    log: PathBuf,
}

impl Node {
    fn start(name: &str, extra: &[&str]) -> Result<Node> {
        let directory =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let (config, log) = (directory.join("config.yaml"), directory.join("log"));
        fs::write(&config, CONFIG.replace("TOKEN", TOKEN))?;
        let mut command = process::tethered(FAIRLEAD);
        let _ = command
            .arg("run")
            .arg("--config")
            .arg(&config)
            .arg("--state")
            .arg(directory.join("state"))
            .args(extra);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        Ok(Node { child: command.spawn().context("cannot start fairlead run")?, log })
    }

    /// What the process said, for a failure.
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const CONFIG: &str = "\
hostname: hosted
api: {token: TOKEN}
interfaces:
  - {name: eth0, addresses: [10.1.0.1/24, '2001:db8:1::1/64']}
  - {name: eth1, addresses: [10.2.0.1/24, '2001:db8:2::1/64']}
";

/// The two hosts, with what each needs to reach the other through the node.
struct Hosts {
    left: Netns,
    right: Netns,
}

impl Hosts {
    fn new() -> Result<Hosts> {
        Ok(Hosts { left: Netns::new("left")?, right: Netns::new("right")? })
    }

    /// Takes the far ends of the node's ports.
    fn adopt(&self, left: &str, right: &str) -> Result<()> {
        for (host, device, net) in [(&self.left, left, 1), (&self.right, right, 2)] {
            host.adopt(device, &[&format!("10.{net}.0.2/24"), &format!("2001:db8:{net}::2/64")])?;
            let _ = host.ip(&["route", "add", "default", "via", &format!("10.{net}.0.1")])?;
            let _ = host.ip(&["-6", "route", "add", "default", "via", &format!("2001:db8:{net}::1")])?;
        }
        Ok(())
    }

    /// Waits until the left host reaches the right one, and then demands that it does without loss.
    fn ping(&self, node: &Node) -> Result<()> {
        for address in ["10.2.0.2", "2001:db8:2::2"] {
            let start = Instant::now();
            while !self.left.run(&["ping", "-c1", "-W1", address], LIMIT)?.status.success() {
                ensure!(start.elapsed() < LIMIT, "{address} is not reached; the node says:\n{}", node.log());
            }
            let pings = ["ping", "-c20", "-i0.05", "-W2", address];
            let said = self.left.run(&pings, LIMIT)?.succeeded()?;
            ensure!(said.contains(" 0% packet loss"), "{said}");
        }
        Ok(())
    }

    /// TCP in bulk in both directions, over both families.
    fn iperf(&self, name: &str, figures: &Figures) -> Result<()> {
        for (family, address) in [("IPv4", "10.2.0.2"), ("IPv6", "2001:db8:2::2")] {
            for reverse in [false, true] {
                let mut server =
                    self.right.command("iperf3").args(["-s", "-1"]).stdout(Stdio::null()).spawn()?;
                let result = self.iperf_client(address, reverse);
                let _ = server.kill();
                let _ = server.wait()?;
                let bits = result.with_context(|| format!("iperf3 over {family}, reverse {reverse}"))?;
                ensure!(bits > 1e6, "{family} carries {bits} bit/s");
                let figure = format!(
                    "{name} {family} {}: {:.2} Gbit/s",
                    if reverse { "right to left" } else { "left to right" },
                    bits / 1e9
                );
                figures.lock().unwrap_or_else(PoisonError::into_inner).push(figure);
            }
        }
        Ok(())
    }

    fn iperf_client(&self, address: &str, reverse: bool) -> Result<f64> {
        let mut words = vec!["iperf3", "-c", address, "-t", "1", "-J", "--connect-timeout", "3000"];
        words.extend(reverse.then_some("-R"));
        let start = Instant::now();
        loop {
            // The server may not listen yet.
            let finished = self.left.run(&words, LIMIT)?;
            let said: Value = serde_json::from_str(&finished.stdout).unwrap_or_default();
            if let Some(bits) = said["end"]["sum_received"]["bits_per_second"].as_f64() {
                return Ok(bits);
            }
            ensure!(start.elapsed() < LIMIT, "{}", finished.stdout);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A name that no other test uses: interface names have 15 characters.
fn device(letter: char) -> String {
    format!("fl{letter}{}", std::process::id())
}

fn tap(extra: &[&str], name: &str) -> Result<(Hosts, Node)> {
    let (left, right) = (device('a'), device('b'));
    let ports = [format!("tap:{left}"), format!("tap:{right}")];
    let node = Node::start(name, &[&["--port", &ports[0], "--port", &ports[1]], extra].concat())?;
    let hosts = Hosts::new()?;
    let start = Instant::now();
    while !(is_there(&left)? && is_there(&right)?) {
        ensure!(start.elapsed() < LIMIT, "the node made no devices; it says:\n{}", node.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    hosts.adopt(&left, &right)?;
    Ok((hosts, node))
}

/// Whether there is such a device. Not by /sys, which in a user namespace shows the devices outside.
fn is_there(device: &str) -> Result<bool> {
    let mut show = std::process::Command::new("ip");
    Ok(process::run(show.args(["link", "show", "dev", device]), LIMIT)?.status.success())
}

fn tap_forwards(figures: &Figures) -> Result<()> {
    let (hosts, node) = tap(&[], "tap")?;
    hosts.ping(&node)?;
    hosts.iperf("TAP", figures)
}

fn two_workers(figures: &Figures) -> Result<()> {
    let (hosts, node) = tap(&["--workers", "2"], "workers")?;
    hosts.ping(&node)?;
    hosts.iperf("TAP, 2 workers,", figures)
}

fn af_packet_forwards(figures: &Figures) -> Result<()> {
    let hosts = Hosts::new()?;
    // The node has the near ends, in a namespace of its own; the hosts' ends leave nothing to a device that is not there.
    let middle = Netns::new("node")?;
    hosts.left.join(&middle, "left")?;
    hosts.right.join(&middle, "right")?;
    let mut command = middle.command(FAIRLEAD);
    let directory =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("af-packet-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let (config, log) = (directory.join("config.yaml"), directory.join("log"));
    fs::write(&config, CONFIG.replace("TOKEN", TOKEN))?;
    let _ = command
        .args(["run", "--port", "af-packet:left", "--port", "af-packet:right", "--config"])
        .arg(&config);
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
    let node = Node { child: command.spawn()?, log };
    for (host, name, net) in [(&hosts.left, "left", 1), (&hosts.right, "right", 2)] {
        host.bring_up(name, &[&format!("10.{net}.0.2/24"), &format!("2001:db8:{net}::2/64")])?;
        let _ = host.ip(&["route", "add", "default", "via", &format!("10.{net}.0.1")])?;
        let _ = host.ip(&["-6", "route", "add", "default", "via", &format!("2001:db8:{net}::1")])?;
    }
    hosts.ping(&node)?;
    hosts.iperf("AF_PACKET", figures)
}

fn command_manages(_: &Figures) -> Result<()> {
    let (hosts, node) = tap(&[], "command")?;
    hosts.ping(&node)?;
    let fairlead = |arguments: &[&str]| -> Result<String> {
        let words = [&[FAIRLEAD, "--node", "10.1.0.1", "--token", TOKEN], arguments].concat();
        let said = hosts.left.run(&words, LIMIT)?.succeeded();
        said.with_context(|| format!("fairlead {}; the node says:\n{}", arguments.join(" "), node.log()))
    };
    ensure!(fairlead(&["status"])?.contains("hosted"));
    let interfaces = fairlead(&["get", "interfaces"])?;
    ensure!(interfaces.contains("eth0") && interfaces.contains("10.2.0.1/24"), "{interfaces}");
    ensure!(fairlead(&["get", "neighbours"])?.contains("10.2.0.2"));
    ensure!(fairlead(&["routes", "add", "198.51.100.0/24", "--via", "10.2.0.2"])?.contains("added"));
    ensure!(fairlead(&["get", "routes"])?.contains("198.51.100.0/24"));
    ensure!(fairlead(&["get", "routes", "198.51.100.7"])?.contains("10.2.0.2"));
    ensure!(fairlead(&["routes", "del", "198.51.100.0/24"])?.contains("removed"));
    ensure!(fairlead(&["get", "drops"]).is_ok());
    ensure!(fairlead(&["get", "counters"])?.contains("eth1"));
    ensure!(fairlead(&["logs"])?.contains("info"));
    ensure!(fairlead(&["save"])?.contains("store"));
    ensure!(fairlead(&["crash"])?.contains("no crash"));
    let top = fairlead(&["top", "--once"])?;
    ensure!(top.contains("eth0") && top.contains("eth1"), "{top}");
    Ok(())
}
