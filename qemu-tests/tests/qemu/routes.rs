//! As many routes as the Internet has, loaded over the API and used.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::gateway::{self, LEFT, RIGHT, Stations};
use lab::{Api, frame};
use qemu_tests::Experiment;

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 4000;

/// How many /24 networks, from 16.0.0.0 on.
const ROUTES: u32 = 1_000_000;
const FIRST: u32 = 16 << 24;

/// Network `number`.
fn network(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + (number << 8))
}

/// Networks go to the right host or back to the left one, in no regular pattern.
fn goes_right(number: u32) -> bool {
    number.wrapping_mul(0x9e37_79b9) >> 31 == 1
}

fn next_hop(number: u32) -> Ipv4Addr {
    if goes_right(number) { RIGHT.host4 } else { LEFT.host4 }
}

/// One line for each network, as the API takes them.
fn changes(operation: &str) -> String {
    let mut lines = String::new();
    for number in 0..ROUTES {
        let prefix = network(number);
        let _ = match operation {
            "add" => writeln!(
                lines,
                r#"{{"op":"add","prefix":"{prefix}/24","via":[{{"address":"{}"}}]}}"#,
                next_hop(number)
            ),
            _ => writeln!(lines, r#"{{"op":"{operation}","prefix":"{prefix}/24"}}"#),
        };
    }
    lines
}

/// Sends changes while the hosts go on answering the node: unread requests for their addresses would fill their sockets,
/// and QEMU then does little but try to send the next one.
fn change(api: &Api, stations: &Stations, operation: &str) -> Result<serde_json::Value> {
    let lines = changes(operation);
    std::thread::scope(|scope| {
        let loading =
            scope.spawn(|| api.post("/v1/routes", "application/x-ndjson", lines.as_bytes())?.json());
        while !loading.is_finished() {
            for station in [&stations.left, &stations.right] {
                let _ = station.receive_udp(PORT, Duration::from_millis(10))?;
            }
        }
        loading.join().unwrap_or_else(|_| bail!("the client panicked"))
    })
}

pub fn a_million_are_loaded_looked_up_and_removed(experiment: &Experiment) -> Result<()> {
    let (vm, stations) =
        experiment.gateway_with(|machine| machine.memory_mib(1024).smp(2), lab::Nic::without_capture)?;
    let api = vm.api(gateway::TOKEN)?;
    let free = || -> Result<u64> {
        let status = api.json("/v1/status")?;
        status["memory"]["free_bytes"].as_u64().context("no free memory reported")
    };
    let free_before = free()?;
    let begin = Instant::now();
    let answer = change(&api, &stations, "add")?;
    let took = begin.elapsed().as_secs_f32();
    ensure!(answer["added"] == ROUTES && answer["failed"] == 0, "{answer}");
    experiment.measured(format!("{ROUTES} routes added in {took:.1} s over the API"));
    experiment.measured(format!("they take {} MiB", free_before.saturating_sub(free()?) >> 20));

    for step in 0..200 {
        let number = step * 4999;
        let address = Ipv4Addr::from(u32::from(network(number)) | 77);
        let found = api.json(&format!("/v1/routes/lookup?address={address}"))?;
        let text = found.to_string();
        let expected = (format!("{}/24", network(number)), next_hop(number).to_string());
        ensure!(
            text.contains(&expected.0) && text.contains(&expected.1),
            "{address}: {found}, not {expected:?}"
        );
    }
    let left = &stations.left;
    let gateway_mac = left.resolve(LEFT.node4.into())?;
    for number in (0..ROUTES).filter(|number| goes_right(*number)).step_by(10_007) {
        let destination = Ipv4Addr::from(u32::from(network(number)) | 9);
        let ends = left.ends(gateway_mac, destination.into(), 64);
        left.wire().send(&frame::udp(&ends, 1000, PORT, b"far away"))?;
        let (got, _) = stations
            .right
            .receive_udp(PORT, LIMIT)?
            .with_context(|| format!("nothing to {destination} arrives"))?;
        ensure!(got.destination == destination, "sent to {destination}, arrived {got:?}");
    }
    let begin = Instant::now();
    let answer = change(&api, &stations, "remove")?;
    ensure!(answer["removed"] == ROUTES && answer["failed"] == 0, "{answer}");
    experiment.measured(format!("removed in {:.1} s", begin.elapsed().as_secs_f32()));
    let gone = api.get(&format!("/v1/routes/lookup?address={}", network(5)))?;
    ensure!(!gone.body.contains("/24"), "a removed route is still found: {}", gone.body);
    super::forwarding::datagrams_cross(&stations)
}
