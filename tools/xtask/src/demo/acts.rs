//! What the demo shows, one capability an act.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::frame;
use lab::gateway::{self, Hosts, LEFT, RIGHT, Stations};
use serde_json::Value;

use super::stage::{Ends, Stage};
use super::{Check, Verdict, balancing, first_packet, policing, tunnel};
use crate::cargo;

/// One capability, shown and checked.
pub struct Act {
    /// What it shows.
    pub title: &'static str,
    /// Shows it.
    pub play: fn(&Stage) -> Result<Vec<Check>>,
}

/// In the order in which they are played.
pub const ALL: &[Act] = &[
    Act { title: "booting", play: booting },
    Act { title: "forwarding", play: forwarding },
    Act { title: "encrypting", play: tunnel::encrypting },
    Act { title: "balancing", play: balancing::balancing },
    Act { title: "policing", play: policing::policing },
    Act { title: "management", play: management },
    Act { title: "accounting", play: accounting },
];

/// The longest that a program in an act may run.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn check(what: impl Into<String>, measured: Result<String>) -> Check {
    let verdict = if measured.is_ok() { Verdict::Passed } else { Verdict::Failed };
    Check { what: what.into(), measured: measured.unwrap_or_else(|error| format!("{error:#}")), verdict }
}

/// A row for what this machine cannot show.
pub(super) fn not_shown(what: impl Into<String>, why: &str) -> Check {
    let measured = format!("not shown here: {why}");
    Check { what: what.into(), measured, verdict: Verdict::NotShown }
}

/// Why acts whose hosts are network namespaces are not shown.
pub(super) const NEEDS_NAMESPACES: &str =
    "its hosts are network namespaces, which need root or user namespaces";

fn booting(stage: &Stage) -> Result<Vec<Check>> {
    let status = stage.api().json("/v1/status")?;
    let stages = status["boot"].as_array().context("the node reports no stages of its boot")?;
    let last = stages.last().context("the node reports no stages of its boot")?;
    let milliseconds = last["at_microseconds"].as_f64().context("a stage without a time")? / 1000.0;
    let name = last["stage"].as_str().unwrap_or("?");
    let free = status["memory"]["free_bytes"].as_u64().context("no free memory reported")?;
    Ok(vec![
        check("boots", Ok(format!("\"{name}\" {milliseconds:.1} ms after the kernel's entry"))),
        first_packet::measure(&cargo::target_directory()),
        check("leaves memory free", Ok(format!("{} MiB of 256", free >> 20))),
    ])
}

fn forwarding(stage: &Stage) -> Result<Vec<Check>> {
    match stage.ends() {
        Ends::Hosts(hosts) => Ok(between_hosts(hosts)),
        Ends::Stations(stations) => Ok(between_stations(stations)),
    }
}

fn between_hosts(hosts: &Hosts) -> Vec<Check> {
    let mut checks = Vec::new();
    for (family, node, destination) in families() {
        checks.push(check(format!("{family} ping, 20 packets of 1000 bytes"), ping(hosts, &destination)));
        checks.push(check(
            format!("{family} traceroute shows the node"),
            traceroute(hosts, &node, &destination),
        ));
        checks.push(check(format!("{family} TCP, 32 MB in 4 streams"), tcp(hosts, &destination)));
    }
    checks
}

/// Name, the node's near address, the far host's address.
fn families() -> impl Iterator<Item = (&'static str, String, String)> {
    let addresses = LEFT.nodes().into_iter().zip(RIGHT.hosts());
    addresses.map(|(node, host)| {
        (if host.is_ipv4() { "IPv4" } else { "IPv6" }, node.to_string(), host.to_string())
    })
}

fn ping(hosts: &Hosts, destination: &str) -> Result<String> {
    let report =
        hosts.left.run(&["ping", "-c20", "-i0.05", "-s1000", "-W2", destination], LIMIT)?.succeeded()?;
    anyhow::ensure!(report.contains(" 0% packet loss"), "packets are lost: {report}");
    let times = report.lines().find_map(|line| line.split_once(" = ")).context("ping reports no times")?;
    Ok(format!("0% lost, min/avg/max/mdev {}", times.1))
}

fn traceroute(hosts: &Hosts, node: &str, destination: &str) -> Result<String> {
    let report =
        hosts.left.run(&["traceroute", "-n", "-q1", "-N1", "-w2", destination], LIMIT)?.succeeded()?;
    let hops: Vec<&str> =
        report.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(1)).collect();
    anyhow::ensure!(hops == [node, destination], "the hops are {hops:?}");
    Ok(hops.join(" then "))
}

fn tcp(hosts: &Hosts, destination: &str) -> Result<String> {
    let mut server = hosts.right.command("iperf3");
    let mut server = server.args(["--server", "--one-off"]).stdout(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_millis(300));
    let client = [
        "iperf3",
        "--client",
        destination,
        "--connect-timeout",
        "5000",
        "--bytes",
        "32M",
        "--parallel",
        "4",
        "--json",
    ];
    let report = hosts.left.run(&client, LIMIT);
    // It has ended by itself if the client reached it.
    let _ = server.kill();
    let _ = server.wait()?;
    let report: Value = serde_json::from_str(&report?.succeeded()?)?;
    let received = &report["end"]["sum_received"];
    let bytes = received["bytes"].as_u64().context("iperf3 reports no bytes")?;
    // The client counts what it sent; what is under way when it ends is not counted as received.
    anyhow::ensure!(bytes >= 16_000_000, "only {bytes} of 32,000,000 bytes arrived");
    let megabits = received["bits_per_second"].as_f64().unwrap_or_default() / 1e6;
    Ok(format!("{megabits:.0} Mbit/s, {} retransmits", report["end"]["sum_sent"]["retransmits"]))
}

fn between_stations(stations: &Stations) -> Vec<Check> {
    const PORT: u16 = 4000;
    let (left, right) = (&stations.left, &stations.right);
    let mut checks = Vec::new();
    for (node, destination) in LEFT.nodes().into_iter().zip(RIGHT.hosts()) {
        let cross = || -> Result<String> {
            let ends = left.ends(left.resolve(node)?, destination, 64);
            for number in 0..100_u8 {
                left.wire().send(&frame::udp(&ends, 1000, PORT, &[number; 1000]))?;
                let got = right.receive_udp(PORT, Duration::from_secs(5))?.context("a datagram is lost")?;
                anyhow::ensure!(
                    got.0.hop_limit == 63 && got.1 == [number; 1000],
                    "it arrives changed: {got:?}"
                );
            }
            Ok("0 lost, hop limit 64 became 63".to_owned())
        };
        checks.push(check(format!("100 datagrams to {destination}"), cross()));
    }
    checks
}

fn management(stage: &Stage) -> Result<Vec<Check>> {
    let api = stage.api();
    let refused = api.with_token("wrong-token-wrong-token").get("/v1/status")?;
    let refusal =
        if refused.status == 401 { Ok("401".into()) } else { Err(anyhow::anyhow!("{}", refused.status)) };
    let mut bad = gateway::config();
    bad["interfaces"][1]["mtu"] = 20.into();
    let reply = api.put("/v1/config", &bad)?;
    let pointed = if reply.status == 422 && reply.body.contains("/interfaces/1/mtu") {
        Ok("422, pointing at /interfaces/1/mtu".into())
    } else {
        Err(anyhow::anyhow!("{}: {}", reply.status, reply.body))
    };
    let mut good = gateway::config();
    good["interfaces"][1]["mtu"] = 1400.into();
    let dry = api.put("/v1/config?dry_run=true", &good).and_then(|reply| reply.json());
    let dry = dry.map(|answer| format!("would change {}", answer["changes"][0]["item"]));
    let metrics = api.get("/metrics").and_then(lab::Reply::accepted);
    Ok(vec![
        check("a wrong token is refused", refusal),
        check("a bad configuration is refused, with the field", pointed),
        check("a dry run says what would change", dry),
        check("metrics for Prometheus", metrics.map(|reply| format!("{} lines", reply.body.lines().count()))),
    ])
}

fn accounting(stage: &Stage) -> Result<Vec<Check>> {
    let interfaces = stage.api().json("/v1/interfaces")?;
    let list = interfaces["interfaces"].as_array().context("no interfaces")?;
    let total = |counter: &str| -> u64 {
        let counts = list.iter().filter_map(|interface| interface["counters"][counter].as_u64());
        counts.sum()
    };
    let (received, sent) = (total("rx_packets"), total("tx_packets"));
    let counted = if received > 0 && sent > 0 {
        Ok(format!("{received} in, {sent} out"))
    } else {
        Err(anyhow::anyhow!("{received} in, {sent} out"))
    };
    let crash = stage.api().json("/v1/crash")?;
    let crash =
        if crash["crash"].is_null() { Ok("no record".into()) } else { Err(anyhow::anyhow!("{crash}")) };
    Ok(vec![check("packets are counted", counted), check("nothing crashed", crash)])
}
