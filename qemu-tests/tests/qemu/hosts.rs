//! Real Linux hosts, in network namespaces, that reach each other through the node.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::gateway::{Hosts, LEFT, RIGHT, TOKEN};
use lab::{Nic, Vm};
use qemu_tests::Experiment;

const LIMIT: Duration = Duration::from_secs(60);
/// More packets than a worker sees that has no queue pair of the hosts' cards: what control sends is in the tens.
const MANY: u64 = 1000;

pub fn ping_through_the_node(experiment: &Experiment) -> Result<()> {
    let (_vm, hosts) = experiment.gateway_between_hosts(|machine| machine, |nic| nic)?;
    for destination in RIGHT.hosts() {
        let words = ["ping", "-c20", "-i0.05", "-W5", "-s1000", &destination.to_string()];
        let report = hosts.left.run(&words, LIMIT)?.succeeded()?;
        ensure!(report.contains(" 0% packet loss"), "packets are lost: {report}");
        let times = report.lines().find(|line| line.starts_with("rtt")).unwrap_or_default();
        experiment.measured(format!("{destination}: {times}"));
    }
    Ok(())
}

pub fn traceroute_shows_the_node(experiment: &Experiment) -> Result<()> {
    let (_vm, hosts) = experiment.gateway_between_hosts(|machine| machine, |nic| nic)?;
    for (node, destination) in LEFT.nodes().into_iter().zip(RIGHT.hosts()) {
        let words = ["traceroute", "-n", "-q1", "-N1", "-w5", &destination.to_string()];
        let report = hosts.left.run(&words, LIMIT)?.succeeded()?;
        let hops: Vec<&str> =
            report.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(1)).collect();
        ensure!(hops == [node.to_string(), destination.to_string()], "hops: {report}");
    }
    Ok(())
}

pub fn tcp_in_bulk(experiment: &Experiment) -> Result<()> {
    let (_vm, hosts) = experiment.gateway_between_hosts(|machine| machine, Nic::without_capture)?;
    bulk(experiment, &hosts)
}

pub fn tcp_in_bulk_over_two_queues(experiment: &Experiment) -> Result<()> {
    // A core for control, and a worker for each of the two queue pairs of a card.
    let (vm, hosts): (Vm, Hosts) =
        experiment.gateway_between_hosts(|machine| machine.smp(3), |nic| nic.queues(2).without_capture())?;
    bulk(experiment, &hosts)?;
    let counters = vm.api(TOKEN)?.json("/v1/counters")?;
    let workers = counters["workers"].as_array().context("no workers")?;
    ensure!(workers.len() == 2, "{} workers on three cores", workers.len());
    let mut shares = Vec::new();
    for worker in workers {
        let nodes = worker["nodes"].as_array().context("no nodes")?;
        let of = |names: [&str; 2]| -> u64 {
            let wanted = nodes.iter().filter(|node| names.iter().any(|name| node["node"] == *name));
            wanted.filter_map(|node| node["packets"].as_u64()).sum()
        };
        // What one worker receives it sends by its own pair too; only the one pair of the card for management is shared.
        let (forwarded, handed) = (of(["ip4-rewrite", "ip6-rewrite"]), of(["handoff-input"; 2]));
        ensure!(forwarded > MANY, "one worker forwards only {forwarded} packets: {counters}");
        ensure!(handed < MANY, "{handed} packets came from the other worker: {counters}");
        shares.push(forwarded.to_string());
    }
    experiment.measured(format!("packets forwarded by each worker: {}", shares.join(", ")));
    Ok(())
}

/// Several streams at once in both directions and both families, every byte of which TCP checks.
fn bulk(experiment: &Experiment, hosts: &Hosts) -> Result<()> {
    for destination in RIGHT.hosts() {
        for direction in [None, Some("--reverse")] {
            let mut server = hosts.right.command("iperf3");
            let server = server.args(["--server", "--one-off", "--port", "5201", "--forceflush"]);
            let mut server = server.stdout(Stdio::piped()).spawn().context("iperf3")?;
            let mut said = BufReader::new(server.stdout.take().context("no output")?).lines();
            let listens = said.any(|line| line.is_ok_and(|line| line.contains("listening")));
            ensure!(listens, "the iperf3 server does not listen");
            // Nobody reads the rest of what it says, and there must be room for it.
            let rest = std::thread::spawn(move || said.for_each(drop));
            let address = destination.to_string();
            let mut words =
                vec!["iperf3", "--client", &address, "--bytes", "24M", "--parallel", "4", "--json"];
            words.extend(["--connect-timeout", "5000"]);
            words.extend(direction);
            let report = hosts.left.run(&words, LIMIT);
            let _ = server.kill();
            let _ = server.wait();
            let _ = rest.join();
            let report: serde_json::Value = serde_json::from_str(&report?.succeeded()?)?;
            let received = &report["end"]["sum_received"];
            let bytes =
                received["bytes"].as_u64().with_context(|| format!("no bytes: {}", report["error"]))?;
            // The client counts what it sent; what is under way when it ends is not counted as received.
            ensure!(bytes >= 12_000_000, "only {bytes} of 24,000,000 bytes arrived");
            let megabits = received["bits_per_second"].as_f64().unwrap_or_default() / 1e6;
            let way = direction.map_or("to", |_| "from");
            experiment.measured(format!("TCP {way} {destination}: {megabits:.0} Mbit/s"));
        }
    }
    Ok(())
}
