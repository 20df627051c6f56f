//! Two sites joined by an IPsec tunnel between two nodes, over a wire that is captured.
//!
//! ```text
//!   left host           west                        east           right host
//!   10.1.0.2 ---- eth1 10.1.0.1  eth2 ==ESP== eth1  eth2 10.2.0.1 ---- 10.2.0.2
//!                           192.0.2.1       192.0.2.2
//! ```
//!
//! Both nodes are machines of this act alone. They boot without a tunnel, take it over the API, and the capture says
//! what went over the wire. The same search finds the payload on the left host's own wire, which is captured too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::frame::{self, Payload, Seen};
use lab::gateway::{Hosts, LEFT, RIGHT, Side, Stations, TOKEN};
use lab::{Api, Cable, Netns, Nic, Station, Vm, pcap};
use serde_json::{Value, json};

use super::Check;
use super::acts::{LIMIT, check};
use super::stage::{Ends, Stage};
use crate::cargo;

/// Packets there and back, in each family.
const PACKETS: u8 = 100;
const DATA_BYTES: usize = 1000;
/// What all payload is made of: as long as a pattern of `ping`.
const MARK: &[u8; 16] = b"readable payload";
/// Packets sent when the tunnel is gone.
const REFUSED: u64 = 5;
/// UDP port of the stations.
const PORT: u16 = 4000;
const ALGORITHM: &str = "aes256gcm16";
const KEY_BYTES: usize = 36;

/// One node and the site behind it.
struct Site {
    name: &'static str,
    inside: Side,
    /// The interface and the address at the wire.
    wire: (&'static str, &'static str),
    /// Of what comes in here.
    spi: u32,
}

const WEST: Site = Site { name: "west", inside: LEFT, wire: ("eth2", "192.0.2.1"), spi: 0x1001 };
const EAST: Site = Site { name: "east", inside: RIGHT, wire: ("eth1", "192.0.2.2"), spi: 0x1002 };

impl Site {
    fn peer(&self) -> &'static Self {
        if self.name == WEST.name { &EAST } else { &WEST }
    }

    /// Without a tunnel.
    fn config(&self) -> Value {
        let (wire, address) = self.wire;
        json!({
            "hostname": self.name,
            "api": { "token": TOKEN },
            "interfaces": [
                { "name": "eth0", "addresses": ["10.0.2.15/24"] },
                self.inside.interface_config(),
                { "name": wire, "addresses": [format!("{address}/30")] },
            ],
        })
    }

    /// With the tunnel as the way to the other site.
    fn with_tunnel(&self, keys: &Keys) -> Value {
        let far = self.peer().inside.networks();
        let association = |name: &str, direction: &str, spi: u32| {
            json!({
                "name": name, "tunnel": "ipsec0", "direction": direction, "spi": spi,
                "algorithm": ALGORITHM, "key": keys[&spi],
            })
        };
        let mut config = self.config();
        config["routes"] =
            far.each_ref().map(|far| json!({ "prefix": far, "via": [{ "interface": "ipsec0" }] })).into();
        config["ipsec"] = json!({
            "tunnels": [{ "name": "ipsec0", "local": self.wire.1, "remote": self.peer().wire.1 }],
            "associations": [
                association("in", "in", self.spi),
                association("out", "out", self.peer().spi),
            ],
            "must_encrypt": far,
        });
        config
    }

    /// With a route past the tunnel that is gone, and networks that must be encrypted still.
    fn past_the_tunnel(&self) -> Value {
        let far = self.peer().inside.networks();
        let mut config = self.config();
        config["routes"] = json!([{ "prefix": far[0], "via": [{ "address": self.peer().wire.1 }] }]);
        config["ipsec"] = json!({ "must_encrypt": far });
        config
    }
}

/// Key in hexadecimal by SPI.
type Keys = BTreeMap<u32, String>;

fn new_keys() -> Result<Keys> {
    let mut random = File::open("/dev/urandom")?;
    let mut key = |spi| {
        let mut bytes = [0; KEY_BYTES];
        random.read_exact(&mut bytes)?;
        Ok((spi, bytes.map(|byte| format!("{byte:02x}")).concat()))
    };
    [WEST.spi, EAST.spi].into_iter().map(&mut key).collect()
}

/// Both nodes at work, and a host behind each.
struct Sites {
    west: Api,
    east: Api,
    ends: Ends,
    logs: PathBuf,
    _machines: [Vm; 2],
    _cable: Cable,
}

impl Sites {
    /// Boots both nodes with hosts of the kind that `stage` has.
    fn boot(stage: &Stage) -> Result<Self> {
        let ends = match stage.ends() {
            Ends::Hosts(_) => Ends::Hosts(Hosts::new()?),
            Ends::Stations(_) => Ends::Stations(Stations::new()?),
        };
        let [left, right] = match &ends {
            Ends::Hosts(hosts) => hosts.nics(),
            Ends::Stations(stations) => stations.nics(),
        };
        let target = cargo::target_directory();
        let logs = target.join("demo");
        let cable = Cable::new()?;
        let [west_end, east_end] = cable.ends();
        let start = |site: &Site, nics: [Nic; 2]| {
            let machine = Vm::builder(site.name, &logs).image(&target.join("image/fairlead.elf"));
            let machine = machine.config(site.config()).smp(2).nic(Nic::user(0).without_capture());
            nics.into_iter().fold(machine, lab::VmBuilder::nic).start()
        };
        let west = start(&WEST, [left, west_end])?;
        let east = start(&EAST, [east_end.without_capture(), right.without_capture()])?;
        if let Ends::Hosts(hosts) = &ends {
            hosts.join()?;
        }
        let api = |vm: &Vm| {
            let api = vm.api(TOKEN)?;
            let healthy = api.wait_until_healthy(LIMIT);
            healthy.with_context(|| format!("a node does not come up:\n{}", vm.console().tail()))?;
            anyhow::Ok(api)
        };
        let (west_api, east_api) = (api(&west)?, api(&east)?);
        Ok(Self { west: west_api, east: east_api, ends, logs, _machines: [west, east], _cable: cable })
    }

    fn both(&self) -> [(&'static Site, &Api); 2] {
        [(&WEST, &self.west), (&EAST, &self.east)]
    }

    /// What has gone over the wire between the nodes.
    fn wire(&self) -> Result<Tally> {
        Tally::of(&pcap::read(&self.logs.join("west.nic2.pcap"))?)
    }

    /// What has gone over the left host's wire.
    fn left_wire(&self) -> Result<Tally> {
        Tally::of(&pcap::read(&self.logs.join("west.nic1.pcap"))?)
    }
}

/// What is on a wire, by kind, in frames.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// ESP by SPI.
    esp: BTreeMap<u32, u64>,
    /// ARP, neighbour discovery, and reports of the groups that neighbour discovery needs.
    resolution: u64,
    other: u64,
    /// Of whatever kind, with payload that can be read.
    readable: u64,
}

impl Tally {
    fn of(frames: &[Vec<u8>]) -> Result<Self> {
        ensure!(!frames.is_empty(), "nothing was captured");
        let mut tally = Self::default();
        for frame in frames {
            match frame::parse(frame) {
                Some(Seen::Ip(_, Payload::Esp { spi, .. })) => *tally.esp.entry(spi).or_default() += 1,
                Some(Seen::Arp { .. }) => tally.resolution += 1,
                // RFC 4861 section 4: from router solicitation to redirect.
                Some(Seen::Ip(ends, Payload::Icmp { kind: 133..=137, .. })) if ends.source.is_ipv6() => {
                    tally.resolution += 1;
                }
                _ if is_listener_report(frame) => tally.resolution += 1,
                _ => tally.other += 1,
            }
            tally.readable += u64::from(frame.windows(MARK.len()).any(|window| window == MARK));
        }
        Ok(tally)
    }

    fn esp_frames(&self) -> u64 {
        self.esp.values().sum()
    }
}

/// A listener report (RFC 3810 section 5.2): `ICMPv6` behind the hop-by-hop options, which are a router alert.
fn is_listener_report(frame: &[u8]) -> bool {
    const IPV6: [u8; 2] = [0x86, 0xdd];
    const HOP_BY_HOP_OPTIONS: usize = 14 + 40;
    const ROUTER_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];
    frame.get(12..14) == Some(&IPV6)
        && frame.get(20) == Some(&0)
        && frame
            .get(HOP_BY_HOP_OPTIONS..)
            .is_some_and(|options| options.strip_prefix(&ROUTER_ALERT).and_then(<[u8]>::first) == Some(&143))
}

/// The act.
pub(super) fn encrypting(stage: &Stage) -> Result<Vec<Check>> {
    let began = Instant::now();
    let sites = Sites::boot(stage)?;
    let booted = began.elapsed();
    let mut checks = vec![check("two nodes take an IPsec tunnel over the API", configure(&sites, booted))];
    for (near, far) in LEFT.nodes().into_iter().zip(RIGHT.hosts()) {
        let family = if far.is_ipv4() { "IPv4" } else { "IPv6" };
        let what = format!("{family} through the tunnel, {PACKETS} packets of {DATA_BYTES} bytes each way");
        checks.push(check(what, cross(&sites.ends, near, far)));
    }
    checks.push(check("the captured wire between the nodes shows ESP only", only_esp(&sites)));
    checks.push(check("the nodes count what the wire shows", counted(&sites)));
    checks.push(check("ipsec verify says so", verified(&sites)));
    checks.push(check("without the tunnel nothing leaves in the clear", closed(&sites)));
    Ok(checks)
}

fn configure(sites: &Sites, booted: Duration) -> Result<String> {
    let keys = new_keys()?;
    for (site, api) in sites.both() {
        let _ = api.put("/v1/config", &site.with_tunnel(&keys))?.accepted()?;
    }
    let tunnels = sites.west.json("/v1/ipsec/tunnels")?;
    let mtu = tunnels["tunnels"][0]["mtu"].as_u64().with_context(|| format!("no MTU: {tunnels}"))?;
    let status = sites.west.json("/v1/status")?;
    let kernel = status["crypto"].as_str().context("no AES-GCM kernel reported")?;
    Ok(format!("{ALGORITHM} by {kernel}, tunnel MTU {mtu}, both booted in {} ms", booted.as_millis()))
}

/// Sends packets to the far host and back.
fn cross(ends: &Ends, near: IpAddr, far: IpAddr) -> Result<String> {
    match ends {
        Ends::Hosts(hosts) => between_hosts(&hosts.left, far),
        Ends::Stations(stations) => between_stations(stations, near, far),
    }
}

fn between_hosts(left: &Netns, far: IpAddr) -> Result<String> {
    let (far, pattern) = (far.to_string(), MARK.map(|byte| format!("{byte:02x}")).concat());
    let deadline = Instant::now() + LIMIT;
    while !left.run(&["ping", "-c1", "-W1", &far], LIMIT)?.status.success() {
        ensure!(Instant::now() < deadline, "{far} is not reached");
    }
    let (packets, bytes) = (format!("-c{PACKETS}"), format!("-s{DATA_BYTES}"));
    let words = ["ping", &packets, "-i0.01", &bytes, "-p", &pattern, "-W2", &far];
    let report = left.run(&words, LIMIT)?.succeeded()?;
    ensure!(report.contains(" 0% packet loss"), "packets are lost: {report}");
    let times = report.lines().find_map(|line| line.split_once(" = ")).context("ping reports no times")?;
    Ok(format!("0% lost, min/avg/max/mdev {}", times.1))
}

fn between_stations(stations: &Stations, near: IpAddr, far: IpAddr) -> Result<String> {
    let Stations { left, right } = stations;
    let (left_host, right_node) = match far {
        IpAddr::V4(_) => (IpAddr::from(LEFT.host4), RIGHT.node4.into()),
        IpAddr::V6(_) => (IpAddr::from(LEFT.host6), RIGHT.node6.into()),
    };
    let there = left.ends(left.resolve(near)?, far, 64);
    let back = right.ends(right.resolve(right_node)?, left_host, 64);
    let data: Vec<u8> = MARK.iter().copied().cycle().take(DATA_BYTES).collect();
    // The first ones wait for the nodes to find each other.
    let deadline = Instant::now() + LIMIT;
    while carry(left, &there, right, b"first", Duration::from_millis(100))?.is_none() {
        ensure!(Instant::now() < deadline, "{far} is not reached");
    }
    for _ in 0..PACKETS {
        for (from, ends, to) in [(left, &there, right), (right, &back, left)] {
            let hops = carry(from, ends, to, &data, Duration::from_secs(5))?.context("a datagram is lost")?;
            ensure!(hops == 62, "hop limit 64 became {hops}");
        }
    }
    Ok("0 lost, hop limit 64 became 62".to_owned())
}

/// Sends one datagram and waits for it; the hop limit that it arrives with.
fn carry(
    from: &Station,
    ends: &frame::Ends,
    to: &Station,
    data: &[u8],
    limit: Duration,
) -> Result<Option<u8>> {
    from.wire().send(&frame::udp(ends, 1000, PORT, data))?;
    let arrived = to.receive(limit, |seen| match seen {
        Seen::Ip(ends, Payload::Udp { destination_port: PORT, data: got, .. }) if got == data => {
            Some(ends.hop_limit)
        }
        _ => None,
    })?;
    Ok(arrived)
}

fn only_esp(sites: &Sites) -> Result<String> {
    let (wire, left) = (sites.wire()?, sites.left_wire()?);
    // Both families, both ways.
    let sent = 4 * u64::from(PACKETS);
    ensure!(left.readable >= sent, "only {} payloads are found on the host's wire: {left:?}", left.readable);
    ensure!(wire.esp_frames() >= sent && wire.other == 0 && wire.readable == 0, "{wire:?}");
    let (esp, resolution) = (wire.esp_frames(), wire.resolution);
    Ok(format!(
        "{esp} ESP, {resolution} ARP/ND/MLD, 0 other; payload readable in 0, on the host's wire in {}",
        left.readable
    ))
}

fn counted(sites: &Sites) -> Result<String> {
    let wire = sites.wire()?;
    let mut told = Vec::new();
    for (site, api) in sites.both() {
        let all = api.json("/v1/ipsec/associations")?;
        for association in all["associations"].as_array().context("no associations")? {
            let spi =
                association["spi"].as_u64().and_then(|spi| u32::try_from(spi).ok()).context("no SPI")?;
            let (packets, seen) = (association["packets"].as_u64(), wire.esp.get(&spi).copied());
            ensure!(
                packets.is_some() && packets == seen,
                "{}: {association}, on the wire {seen:?}",
                site.name
            );
            ensure!(association["errors"] == json!({}), "{}: {association}", site.name);
            told.push(format!(
                "{} {} {}",
                site.name,
                association["name"].as_str().unwrap_or("?"),
                packets.unwrap_or(0)
            ));
        }
    }
    ensure!(told.len() == 4, "not four associations: {told:?}");
    Ok(format!("{}, 0 errors", told.join(", ")))
}

fn verified(sites: &Sites) -> Result<String> {
    let verify = |api: &Api, network: &str| api.json(&format!("/v1/ipsec/verify?prefix={network}"));
    let mut told = Vec::new();
    for (site, api) in sites.both() {
        for network in site.peer().inside.networks() {
            let answer = verify(api, &network)?;
            ensure!(answer["encrypted"] == true, "{}: {answer}", site.name);
            told.push(network);
        }
        // What it says is worth something only if it does not say so of everything.
        let clear = verify(api, "192.0.2.0/30")?;
        ensure!(clear["encrypted"] == false, "{}: {clear}", site.name);
    }
    Ok(format!("encrypted: {}; clear: 192.0.2.0/30", told.join(", ")))
}

fn closed(sites: &Sites) -> Result<String> {
    let before = sites.wire()?;
    let _ = sites.west.put("/v1/config", &WEST.past_the_tunnel())?.accepted()?;
    match &sites.ends {
        Ends::Hosts(hosts) => {
            let (packets, far) = (format!("-c{REFUSED}"), RIGHT.host4.to_string());
            let finished = hosts.left.run(&["ping", &packets, "-i0.05", "-W1", &far], LIMIT)?;
            ensure!(!finished.status.success(), "something arrives");
        }
        Ends::Stations(stations) => {
            let left = &stations.left;
            let ends = left.ends(left.resolve(LEFT.node4.into())?, RIGHT.host4.into(), 64);
            for _ in 0..REFUSED {
                let limit = Duration::from_millis(100);
                ensure!(carry(left, &ends, &stations.right, MARK, limit)?.is_none(), "something arrives");
            }
        }
    }
    let answer = sites.west.json("/v1/drops")?;
    let drops = answer["drops"].as_array().context("no drops")?;
    let reason = drops.iter().find(|drop| drop["reason"] == "ipsec-must-encrypt");
    let dropped = reason.and_then(|drop| drop["packets"].as_u64()).unwrap_or(0);
    ensure!(dropped >= REFUSED, "{answer}");
    let after = sites.wire()?;
    ensure!(
        after.esp == before.esp && after.other == 0 && after.readable == 0,
        "{before:?} became {after:?}"
    );
    Ok(format!("{dropped} dropped as ipsec-must-encrypt, 0 on the wire"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_reports_are_known_by_their_router_alert() {
        let mut frame = [vec![0; 12], vec![0x86, 0xdd], vec![0; 40]].concat();
        frame.extend([58, 0, 5, 2, 0, 0, 1, 0, 143, 0]);
        assert!(is_listener_report(&frame));
        for (at, byte) in [(13, 0), (20, 58), (54, 6), (62, 58)] {
            let mut other = frame.clone();
            other[at] = byte;
            assert!(!is_listener_report(&other), "byte {at}");
        }
        assert!(!is_listener_report(&frame[..62]));
    }
}
