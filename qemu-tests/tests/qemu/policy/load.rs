//! Policy under load: a thousand changes while a stream runs, and more flows than there is room for.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Api;
use lab::farm::{apply, wait_until};
use lab::gateway::{Hosts, RIGHT};
use qemu_tests::Experiment;
use serde_json::{Value, json};

use super::{LIMIT, PORTS, Running, denied, objects};

/// Changes of a policy, and how many are asked for at once.
const CHANGES: usize = 1000;
const ASKED: usize = 4;
const IPERF_PORT: u16 = 5201;
/// Room for flows in the flood, and flows that it begins.
pub const FLOWS: u64 = 2048;
const FLOOD: usize = 20_000;

/// Many datagrams, each of another flow. Arguments: address, how many.
const FLOOD_PROGRAM: &str = r#"
import socket, struct, sys
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
for number in range(int(sys.argv[2])):
    raw.sendto(struct.pack("!HHHH", 1024 + number % 50000, 7, 8, 0), (sys.argv[1], 0))
"#;

/// A policy that lets a stream pass, and what the connection of before still has to say, in one of many versions.
fn version(number: usize) -> Value {
    let mut policy = objects(IPERF_PORT)["items"][2].take();
    let ports = [IPERF_PORT, PORTS[0], 20_000 + number as u16];
    policy["spec"]["ingress"][0]["ports"] =
        ports.iter().map(|port| json!({ "protocol": "TCP", "port": port })).collect();
    policy
}

fn iperf3(hosts: &Hosts) -> Result<(Running, Running)> {
    let port = IPERF_PORT.to_string();
    let mut server = hosts.right.command("iperf3");
    let server = Running(server.args(["-s", "-p", &port]).stdout(Stdio::null()).spawn()?);
    let to = RIGHT.host4.to_string();
    wait_until("iperf3 listens", LIMIT, || {
        let sockets = hosts.right.run(&["ss", "-Hltn", &format!("sport = :{port}")], LIMIT)?;
        Ok(!sockets.stdout.is_empty())
    })?;
    let mut client = hosts.left.command("iperf3");
    let client = client.args(["-c", &to, "-p", &port, "-t", "600", "-b", "20M"]).stdout(Stdio::null());
    Ok((server, Running(client.spawn()?)))
}

/// Bytes that have left to the right.
fn sent(api: &Api) -> Result<u64> {
    let interfaces = api.json("/v1/interfaces")?;
    let all = interfaces["interfaces"].as_array().with_context(|| format!("no interfaces: {interfaces}"))?;
    let right = all.iter().find(|interface| interface["name"] == RIGHT.interface);
    right
        .and_then(|right| right["counters"]["tx_bytes"].as_u64())
        .with_context(|| format!("no bytes: {interfaces}"))
}

/// Changes a policy a thousand times while a stream runs, of which no packet is refused.
pub fn storm(experiment: &Experiment, hosts: &Hosts, api: &Api) -> Result<()> {
    let mut first = objects(IPERF_PORT);
    first["items"][2] = version(0);
    apply(api, &first)?;
    let (_server, mut client) = iperf3(hosts)?;
    let (before, refused) = (sent(api)?, denied(api)?);
    wait_until("the stream runs", LIMIT, || Ok(sent(api)? > before + 1_000_000))?;
    let begun = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let ask = |first: usize| {
            move || -> Result<()> {
                for number in (first..CHANGES).step_by(ASKED) {
                    let body = version(number).to_string();
                    let _ = api.post("/v1/resources", "application/json", body.as_bytes())?.accepted()?;
                }
                Ok(())
            }
        };
        let asking: Vec<_> = (0..ASKED).map(|first| scope.spawn(ask(first))).collect();
        asking.into_iter().try_for_each(|asking| asking.join().expect("no panic"))
    })?;
    let took = begun.elapsed();
    let after = sent(api)?;
    wait_until("the stream goes on", LIMIT, || Ok(sent(api)? > after + 100_000))?;
    ensure!(client.0.try_wait()?.is_none(), "iperf3 has ended");
    let lost = denied(api)? - refused;
    ensure!(lost == 0, "{lost} packets of the stream were refused");
    experiment
        .measured(format!("{CHANGES} changes of policy in {:.1} s, no packet refused", took.as_secs_f64()));
    Ok(())
}

/// Begins more flows than there is room for; `answered` says that a connection of before is.
pub fn flood(
    experiment: &Experiment,
    hosts: &Hosts,
    api: &Api,
    mut answered: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let to: IpAddr = RIGHT.host4.into();
    let (to, count) = (to.to_string(), FLOOD.to_string());
    let refused = denied(api)?;
    let mut program = hosts.left.command("python3");
    let mut program = Running(program.args(["-c", FLOOD_PROGRAM, &to, &count]).spawn()?);
    let mut asked = 0;
    while program.0.try_wait()?.is_none() {
        ensure!(answered()?, "the connection is silent under the flood");
        asked += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(answered()?, "the connection is silent after the flood");
    ensure!(denied(api)? == refused, "policy has refused packets of the flood");
    experiment.measured(format!(
        "{FLOOD} flows through room for {FLOWS}; one of before was answered {asked} times meanwhile"
    ));
    Ok(())
}
