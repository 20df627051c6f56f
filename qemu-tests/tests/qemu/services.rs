//! Services before backends that real programs run: connections that outlive appliances and backends, and bulk.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::farm::{
    BULK, Connections, FLOWS, Farm, NODE_PORT, VIP, VIP6, apply, near_client, objects6, wait_until,
    wait_until_it_answers,
};
use lab::{Api, Vm, gateway};
use qemu_tests::Experiment;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
/// How long a connection may take to answer: retransmissions after a loss take their time.
const ANSWER: Duration = Duration::from_secs(15);
/// Long-lived connections.
const CONNECTIONS: u64 = 2000;

/// The same on all appliances.
fn apply_to(apis: &[&Api], objects: &Value) -> Result<()> {
    apis.iter().try_for_each(|api| apply(api, objects))
}

fn start(experiment: &Experiment, farm: &Farm, appliance: usize) -> Result<Vm> {
    let machine = experiment.machine(&format!("appliance{appliance}")).config(Farm::config(appliance));
    experiment.start(farm.plug(appliance, machine))
}

/// What happens to connections, and how many of them it breaks.
fn broken(
    experiment: &Experiment,
    connections: &mut Connections,
    what: &str,
    bound: impl FnOnce(&[u64]) -> u64,
) -> Result<()> {
    let begin = Instant::now();
    let round = connections.round(ANSWER)?;
    let (all, seconds) = (round.alive + round.broken, begin.elapsed().as_secs_f32());
    let bound = bound(&round.lost_of);
    experiment.measured(format!(
        "{what}: {} of {all} connections broken (at most {bound} may be; all asked in {seconds:.1} s)",
        round.broken
    ));
    ensure!(round.broken <= bound, "{what}: {}", round.report);
    Ok(())
}

pub fn connections_outlive_appliances_and_backends(experiment: &Experiment) -> Result<()> {
    let mut farm = Farm::new(2, 3)?;
    let first = start(experiment, &farm, 0)?;
    let second = start(experiment, &farm, 1)?;
    farm.join()?;
    let apis = [first.api(gateway::TOKEN)?, second.api(gateway::TOKEN)?];
    let both = [&apis[0], &apis[1]];
    apply_to(&both, &Farm::objects("nat", &[0, 1, 2], &[]))?;
    wait_until_it_answers(&farm)?;

    let mut connections = farm.connections()?;
    let opened = connections.open(CONNECTIONS)?;
    let served = opened["servers"].as_object().context("no servers")?;
    ensure!(served.len() == 3, "not all backends serve: {opened}");
    broken(experiment, &mut connections, "over both appliances", |_| 0)?;

    // What the other appliance did not know it serves by the same table; answers still come by both.
    farm.route_via(&[1])?;
    broken(experiment, &mut connections, "all moved to the second appliance", |_| 0)?;
    farm.route_via(&[0])?;
    broken(experiment, &mut connections, "all moved to the first appliance", |_| 0)?;
    farm.route_via(&[0, 1])?;
    broken(experiment, &mut connections, "back to both", |_| 0)?;

    apply_to(&both, &Farm::objects("nat", &[1, 2], &[0]))?;
    broken(experiment, &mut connections, "a backend is drained", |_| 0)?;
    let fresh = farm.connections()?.open(200)?;
    ensure!(fresh["servers"]["backend0"].is_null(), "a drained backend gets connections: {fresh}");

    farm.kill_backend(1)?;
    apply_to(&both, &Farm::objects("nat", &[2], &[0]))?;
    broken(experiment, &mut connections, "a backend died and is removed", |lost_of| lost_of[1])?;

    // Those that were opened since have only been seen by one of the two.
    let _ = connections.open(300)?;
    drop(first);
    farm.route_via(&[1])?;
    broken(experiment, &mut connections, "an appliance is killed", |_| 0)
}

pub fn requests_and_bulk_by_every_way(experiment: &Experiment) -> Result<()> {
    let mut farm = Farm::new(1, 3)?;
    let vm = start(experiment, &farm, 0)?;
    farm.join()?;
    let api = vm.api(gateway::TOKEN)?;
    apply(&api, &Farm::objects("nat", &[0, 1, 2], &[]))?;
    wait_until_it_answers(&farm)?;
    let room = format!("each worker has room for {FLOWS} IPv4 and {FLOWS} IPv6 flows");
    let _ = vm.console().wait_for(&room, LIMIT)?;
    let requests = farm.requests(60, 4)?;
    experiment.measured(format!(
        "HTTP over NAT, 60 clients: {:.0} requests/s, {} failed",
        requests.per_second, requests.failed
    ));
    ensure!(requests.answered > 50 && requests.failed == 0, "{requests:?}");
    let begin = Instant::now();
    let _ = farm.connections()?.open(2000)?;
    experiment.measured(format!("new connections: {:.0}/s", 2000.0 / begin.elapsed().as_secs_f32()));
    farm.take_service_address(2)?;
    for forwarding in ["nat", "full-nat", "direct", "ipip", "gue"] {
        apply(&api, &Farm::objects(forwarding, &[2], &[]))?;
        let megabits = bulk(&farm, VIP.into(), BULK, 12)?;
        experiment.measured(format!("TCP over {forwarding}: {megabits:.0} Mbit/s"));
    }
    for forwarding in ["nat", "direct", "gue"] {
        apply(&api, &objects6(forwarding, 2))?;
        let megabits = bulk(&farm, VIP6.into(), BULK, 8)?;
        experiment.measured(format!("TCP and IPv6 over {forwarding}: {megabits:.0} Mbit/s"));
        if forwarding == "nat" {
            let megabits = bulk(&farm, near_client(0, 1).into(), NODE_PORT, 8)?;
            experiment.measured(format!("TCP and IPv6 by a node port: {megabits:.0} Mbit/s"));
        }
    }
    Ok(())
}

/// Health checks by HTTP of the service of [`Farm::objects`], whose lines are served by another server.
fn with_health_checks(mut objects: Value) -> Value {
    let annotations = &mut objects["items"][0]["metadata"]["annotations"];
    for (aspect, value) in [
        ("", "http"),
        ("-port", "8080"),
        ("-path", "/page"),
        ("-interval", "400ms"),
        ("-timeout", "400ms"),
        ("-fall", "2"),
        ("-slow-start", "12s"),
    ] {
        annotations[format!("fairlead.dev/health-check{aspect}")] = value.into();
    }
    objects
}

/// The node's view of the port of lines.
fn lines(api: &Api) -> Result<Value> {
    let services = api.json("/v1/services?name=web")?;
    let ports = services["services"].as_array().context("no services")?;
    ports.iter().find(|service| service["port_name"] == "lines").cloned().context("no port of lines")
}

/// Waits until a backend's health is as said; how long it took.
fn wait_until_health(api: &Api, backend: usize, status: &str) -> Result<f32> {
    let begin = Instant::now();
    wait_until(&format!("backend {backend} is {status}"), LIMIT, || {
        Ok(lines(api)?["backends"][backend]["health"]["status"] == status)
    })?;
    Ok(begin.elapsed().as_secs_f32())
}

pub fn a_backend_that_fails_its_checks_is_avoided(experiment: &Experiment) -> Result<()> {
    let mut farm = Farm::new(1, 3)?;
    let vm = start(experiment, &farm, 0)?;
    farm.join()?;
    let api = vm.api(gateway::TOKEN)?;
    apply(&api, &with_health_checks(Farm::objects("nat", &[0, 1, 2], &[])))?;
    wait_until_it_answers(&farm)?;
    let mut connections = farm.connections()?;
    let _ = connections.open(300)?;
    wait_until("all have been probed", LIMIT, || {
        let lines = lines(&api)?;
        let backends = lines["backends"].as_array().context("no backends")?;
        Ok(backends.iter().all(|backend| backend["health"]["probes"].as_u64() > Some(1)))
    })?;

    farm.stop_http(1)?;
    let seconds = wait_until_health(&api, 1, "down")?;
    experiment.measured(format!("2 failures of a check every 400 ms are seen after {seconds:.1} s"));
    wait_until("it gets no connections", LIMIT, || Ok(lines(&api)?["backends"][1]["slots"] == 0))?;
    let down = lines(&api)?;
    ensure!(down["backends"][1]["health"]["last_failure"]["why"] == "connection refused", "{down}");
    // Its other server goes on: connections that it has are kept, and so are all others.
    broken(experiment, &mut connections, "a backend fails its checks", |_| 0)?;
    let fresh = farm.connections()?.open(200)?;
    ensure!(fresh["servers"]["backend1"].is_null(), "a backend that is down gets connections: {fresh}");

    farm.start_http(1)?;
    let _ = wait_until_health(&api, 1, "up")?;
    let mut shares = Vec::new();
    wait_until("its share has grown to a third", LIMIT, || {
        let share = lines(&api)?["backends"][1]["share"].as_f64().context("no share")?;
        if share > 0.0 && shares.last() != Some(&share) {
            shares.push(share);
        }
        Ok(share > 0.33)
    })?;
    ensure!(shares.len() >= 3 && shares.is_sorted(), "no slow start: {shares:?}");
    broken(experiment, &mut connections, "it comes back slowly", |_| 0)?;

    farm.stop_http(0)?;
    farm.stop_http(2)?;
    wait_until("a third is too few", LIMIT, || Ok(lines(&api)?["panic"] == true))?;
    let fresh = farm.connections()?.open(200)?;
    ensure!(fresh["servers"].as_object().is_some_and(|s| s.len() == 3), "not all are used: {fresh}");
    broken(experiment, &mut connections, "too few backends are up", |_| 0)?;
    let log = api.get("/v1/log")?.body;
    let said = log.lines().filter(|line| line.contains("10.2.0.102:8080 is down")).count();
    ensure!(said == 1, "said {said} times: {log}");
    Ok(())
}

/// So many megabytes in bulk to the service at an address and port; Mbit/s.
fn bulk(farm: &Farm, to: IpAddr, port: u16, megabytes: u64) -> Result<f64> {
    let mut server = farm.host(2).command("iperf3");
    let listens = BULK.to_string();
    let server = server.args(["--server", "--one-off", "--port", &listens]).stdout(Stdio::null());
    let mut server = server.spawn().context("iperf3")?;
    wait_until("iperf3 listens", LIMIT, || {
        let listening = farm.host(2).run(&["ss", "-ltnH", &format!("sport = :{listens}")], LIMIT)?;
        Ok(!listening.stdout.is_empty())
    })?;
    let (to, port, bytes) = (to.to_string(), port.to_string(), format!("{megabytes}M"));
    let words = ["iperf3", "--client", &to, "--port", &port, "--bytes", &bytes, "--json"];
    let report = farm.client.run(&words, LIMIT);
    let _ = server.kill();
    let _ = server.wait();
    let report: Value = serde_json::from_str(&report?.succeeded()?)?;
    let received = &report["end"]["sum_received"];
    let bytes = received["bytes"].as_u64().context("iperf3 reports no bytes")?;
    // iperf3 ends with some megabytes still on their way.
    ensure!(bytes + 4_000_000 >= megabytes * 1_000_000, "only {bytes} of {megabytes},000,000 bytes arrived");
    Ok(received["bits_per_second"].as_f64().unwrap_or_default() / 1e6)
}
