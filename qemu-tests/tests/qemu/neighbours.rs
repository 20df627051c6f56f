//! Hosts that come, go and change; cables that are pulled.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::frame::{self, Payload, Seen};
use lab::gateway::{self, LEFT, RIGHT, Stations};
use lab::{Api, Nic, Station};
use qemu_tests::{Experiment, NotRun};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 4000;

/// The major version of QEMU whose packed rings are known to lose count.
const QEMU_THAT_FAILS: u64 = 10;

/// Long enough for reachable time, delay and three probes (RFC 4861 section 10), with room for emulation.
const EXPIRY_LIMIT: Duration = Duration::from_secs(120);

/// Sends one datagram from left to right; whether it arrives.
fn crosses(stations: &Stations, destination: IpAddr, limit: Duration) -> Result<bool> {
    let left = &stations.left;
    let node = if destination.is_ipv4() { LEFT.nodes()[0] } else { LEFT.nodes()[1] };
    let ends = left.ends(left.resolve(node)?, destination, 64);
    left.wire().send(&frame::udp(&ends, 1000, PORT, b"datagram"))?;
    Ok(stations.right.receive_udp(PORT, limit)?.is_some())
}

/// The state of a neighbour as the node tells it; `None` if it does not know it.
fn state_of(api: &Api, address: IpAddr) -> Result<Option<String>> {
    let document = api.json("/v1/neighbours")?;
    let list = document["neighbours"].as_array().with_context(|| format!("no list in {document}"))?;
    let found = list.iter().find(|entry| entry["address"] == address.to_string());
    Ok(found.map(|entry| entry["state"].as_str().unwrap_or_default().to_owned()))
}

pub fn silent_host_expires(experiment: &Experiment) -> Result<()> {
    let (vm, mut stations) = experiment.gateway()?;
    let api = vm.api(gateway::TOKEN)?;
    for destination in RIGHT.hosts() {
        ensure!(crosses(&stations, destination, LIMIT)?, "nothing reaches {destination}");
        let state = state_of(&api, destination)?;
        ensure!(state.is_some(), "{destination} is not among the neighbours");
    }
    stations.right.answers = false;
    let begin = Instant::now();
    for destination in RIGHT.hosts() {
        // As long as the entry lives packets go out; they must stop when nobody answers probes.
        loop {
            let known = state_of(&api, destination)?;
            if known.as_deref().is_none_or(|state| state == "incomplete" || state == "failed") {
                break;
            }
            if begin.elapsed() > EXPIRY_LIMIT {
                bail!("{destination} has been silent for {EXPIRY_LIMIT:?} and is still {known:?}");
            }
            let _ = crosses(&stations, destination, Duration::from_millis(500))?;
        }
        experiment.measured(format!(
            "{destination} expired {:.0} s after it fell silent",
            begin.elapsed().as_secs_f32()
        ));
        ensure!(is_told_unreachable(&stations.left, destination)?, "no host unreachable about {destination}");
    }
    stations.right.answers = true;
    for destination in RIGHT.hosts() {
        // The first packet may be lost to what is left of the failed resolution.
        let _ = crosses(&stations, destination, Duration::from_secs(3))?;
        ensure!(crosses(&stations, destination, LIMIT)?, "{destination} speaks again and gets nothing");
    }
    Ok(())
}

/// Sends to a host that does not answer; whether the node says so (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
fn is_told_unreachable(left: &Station, destination: IpAddr) -> Result<bool> {
    let node = if destination.is_ipv4() { LEFT.nodes()[0] } else { LEFT.nodes()[1] };
    let ends = left.ends(left.resolve(node)?, destination, 64);
    left.wire().send(&frame::udp(&ends, 1000, PORT, b"anybody?"))?;
    let expected = if destination.is_ipv4() { (frame::ICMP4_UNREACHABLE, 1) } else { (1, 3) };
    let told = left.receive(LIMIT, |seen| match seen {
        Seen::Ip(_, Payload::Icmp { kind, code, .. }) if (*kind, *code) == expected => Some(()),
        _ => None,
    })?;
    Ok(told.is_some())
}

pub fn new_address_is_learned(experiment: &Experiment) -> Result<()> {
    let (_vm, mut stations) = experiment.gateway()?;
    for destination in RIGHT.hosts() {
        ensure!(crosses(&stations, destination, LIMIT)?, "nothing reaches {destination}");
    }
    // The host gets another card and asks for its gateway, as hosts do when they come up.
    stations.right.mac = [0x02, 0xfa, 0, 0, 0, 99];
    for node in RIGHT.nodes() {
        let _ = stations.right.resolve(node)?;
    }
    let left = &stations.left;
    for (node, destination) in LEFT.nodes().into_iter().zip(RIGHT.hosts()) {
        let ends = left.ends(left.resolve(node)?, destination, 64);
        left.wire().send(&frame::udp(&ends, 1000, PORT, b"to the new card"))?;
        let (got, _) = stations.right.receive_udp(PORT, LIMIT)?.context("nothing arrives")?;
        ensure!(
            got.destination_mac == stations.right.mac,
            "{destination} is still sent to the old card: {got:?}"
        );
    }
    Ok(())
}

pub fn link_down_and_up(experiment: &Experiment) -> Result<()> {
    let (mut vm, stations) = experiment.gateway()?;
    let api = vm.api(gateway::TOKEN)?;
    for destination in RIGHT.hosts() {
        ensure!(crosses(&stations, destination, LIMIT)?, "nothing crosses to {destination}");
    }
    wait_for_link(&api, RIGHT.interface, true)?;
    vm.qmp().set_link("nic2", false)?;
    wait_for_link(&api, RIGHT.interface, false)?;
    for destination in RIGHT.hosts() {
        let crossed = crosses(&stations, destination, Duration::from_millis(500))?;
        ensure!(!crossed, "a packet to {destination} crosses a pulled cable");
    }
    vm.qmp().set_link("nic2", true)?;
    wait_for_link(&api, RIGHT.interface, true)?;
    for destination in RIGHT.hosts() {
        // A packet that was on its way when the cable was pulled may arrive late and stands for the first.
        let _ = crosses(&stations, destination, LIMIT)?;
        let crossed = crosses(&stations, destination, LIMIT)?;
        ensure!(crossed, "nothing crosses to {destination} after the cable is back");
    }
    Ok(())
}

pub fn link_down_under_load(experiment: &Experiment) -> Result<()> {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (mut vm, stations) = experiment.gateway_with(|machine| machine.smp(1), Nic::without_capture)?;
    let api = vm.api(gateway::TOKEN)?;
    let gateway_mac = stations.left.resolve(LEFT.nodes()[0])?;
    let ends = stations.left.ends(gateway_mac, RIGHT.hosts()[0], 64);
    let (done, left) = (AtomicBool::new(false), &stations.left);
    // The only core never sleeps while this lasts, so that no interrupt comes by itself.
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if left.wire().send(&frame::udp(&ends, 1000, PORT, b"flood")).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let changes = [false, true, false].into_iter().try_for_each(|up| {
            vm.qmp().set_link("nic2", up)?;
            wait_for_link(&api, RIGHT.interface, up)
        });
        done.store(true, Ordering::Relaxed);
        let _ = flood.join();
        changes
    })
}

pub fn a_card_that_fails_is_reset(experiment: &Experiment) -> Result<()> {
    // A packed ring of QEMU's loses count when something is sent over a link that is down: the card asks for a reset.
    let packed = |nic: Nic| nic.option("packed=on");
    let (mut vm, stations) = experiment.gateway_with(|machine| machine.argument("rings=packed"), packed)?;
    let api = vm.api(gateway::TOKEN)?;
    let destination = RIGHT.hosts()[0];
    for _ in 0..2 {
        ensure!(crosses(&stations, destination, LIMIT)?, "nothing crosses");
        vm.qmp().set_link("nic2", false)?;
        // Sent before the node has heard of it.
        for _ in 0..20 {
            let _ = crosses(&stations, destination, Duration::from_millis(5))?;
        }
        wait_for_link(&api, RIGHT.interface, false)?;
        vm.qmp().set_link("nic2", true)?;
        wait_for_link(&api, RIGHT.interface, true)?;
        // What is sent while the card is being reset is lost, and a busy machine may need some attempts at it.
        let begin = Instant::now();
        while !crosses(&stations, destination, Duration::from_millis(500))? {
            ensure!(begin.elapsed() < 3 * LIMIT, "nothing crosses after the reset");
        }
    }
    let counters = api.json("/v1/counters")?;
    let ports = counters["ports"].as_array().context("no ports")?;
    let resets: u64 = ports.iter().filter_map(|port| port["resets"].as_u64()).sum();
    experiment.measured(format!("{resets} resets"));
    let version = vm.qmp().execute("query-version", &json!({}))?["qemu"]["major"].clone();
    if resets == 0 && version != QEMU_THAT_FAILS {
        // Everything crossed, and nothing had to be reset for it.
        return Err(NotRun(format!("no card of QEMU {version} fails over a link that is down")).into());
    }
    ensure!(resets > 0, "no card was reset: {counters}");
    Ok(())
}

fn wait_for_link(api: &Api, interface: &str, up: bool) -> Result<()> {
    let begin = Instant::now();
    loop {
        let document = api.json("/v1/interfaces")?;
        let list = document["interfaces"].as_array().with_context(|| format!("no list in {document}"))?;
        let found =
            list.iter().find(|entry| entry["name"] == interface).context("the interface is not listed")?;
        if found["link_up"] == up {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < LIMIT,
            "{interface} should have its link {}: {found}",
            if up { "up" } else { "down" }
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
