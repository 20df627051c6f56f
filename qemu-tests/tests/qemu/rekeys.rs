//! Rekeys under traffic, between two nodes: no packet is lost.
//!
//! ```text
//!   left 10.1.0.2 ---- eth1 first eth2 ==== eth2 second eth1 ---- 10.3.0.2 right
//!                             10.2.0.1      10.2.0.2
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::frame::Mac;
use lab::gateway::{self, LEFT, RIGHT};
use lab::{Api, Cable, FrameSocket, Nic, Station, Vm, frame};
use qemu_tests::Experiment;
use serde_json::{Value, json};

const REKEYS: u32 = 1000;
const PORT: u16 = 7100;
const FAR_NODE: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 1);
const FAR_HOST: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);
/// Between two packets of a direction.
const PAUSE: Duration = Duration::from_millis(4);
/// How long the last packets may take.
const TAIL: Duration = Duration::from_secs(3);

/// The configuration of one node, whose outer address is `local`.
fn config(local: Ipv4Addr, remote: Ipv4Addr, inside: Ipv4Addr, behind: &str) -> Value {
    let mut config = gateway::config();
    config["interfaces"][1]["addresses"] = json!([format!("{inside}/24")]);
    config["interfaces"][2]["addresses"] = json!([format!("{local}/24")]);
    config["routes"] = json!([{"prefix": behind, "via": [{"interface": "ipsec0"}]}]);
    let tunnel = json!({"name": "ipsec0", "local": local, "remote": remote, "rekey_overlap_seconds": 2});
    config["ipsec"] = json!({"tunnels": [tunnel], "must_encrypt": [behind]});
    config
}

/// The SA of a generation, from the first node to the second or back, as the node at that end has it.
fn association(generation: u32, forth: bool, out: bool) -> Value {
    let byte = |at: u32| (at * 7 + generation * 31 + u32::from(forth) * 3) & 0xff;
    let key: String = (0..20).map(|at| format!("{:02x}", byte(at))).collect();
    json!({
        "name": if out { "out" } else { "in" }, "tunnel": "ipsec0", "direction": if out { "out" } else { "in" },
        "spi": 0x10000 + generation * 2 + u32::from(forth), "algorithm": "aes128gcm16", "key": key,
    })
}

/// Asks both nodes at a time; the direction that decrypts or encrypts of each.
fn install(nodes: [&Api; 2], generation: u32, out: bool) -> Result<()> {
    let one = |api: &Api, is_first: bool| -> Result<()> {
        // What the first encrypts goes forth, and what the second decrypts came forth.
        let association = association(generation, is_first == out, out);
        let reply = match generation {
            0 => {
                api.post("/v1/ipsec/associations", "application/json", association.to_string().as_bytes())?
            }
            _ => api.put("/v1/ipsec/associations", &association)?,
        };
        reply.accepted().map(drop)
    };
    std::thread::scope(|scope| {
        let second = scope.spawn(|| one(nodes[1], false));
        one(nodes[0], true)?;
        second.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })
}

/// Sends numbered datagrams and takes what comes, until told to stop; how many were sent, and which came.
fn talk(station: &Station, gateway: Mac, to: Ipv4Addr, stop: &AtomicBool) -> Result<(u32, Vec<u32>)> {
    let ends = station.ends(gateway, IpAddr::V4(to), 64);
    let (mut sent, mut came, mut until) = (0, Vec::new(), None::<Instant>);
    loop {
        if !stop.load(Ordering::Relaxed) {
            station.wire().send(&frame::udp(&ends, PORT, PORT, &u32::to_be_bytes(sent)))?;
            sent += 1;
        } else if *until.get_or_insert_with(|| Instant::now() + TAIL) < Instant::now() {
            return Ok((sent, came));
        }
        let pause = Instant::now() + PAUSE;
        while let Some(left) = pause.checked_duration_since(Instant::now()) {
            let Some((_, data)) = station.receive_udp(PORT, left)? else { break };
            came.push(u32::from_be_bytes(data.try_into().ok().context("a datagram of another length")?));
        }
    }
}

/// The nodes, with their first SAs.
struct Sites {
    nodes: [Api; 2],
    stations: [Station; 2],
    macs: [Mac; 2],
    _vms: [Vm; 2],
    _cable: Cable,
}

impl Sites {
    fn new(experiment: &Experiment) -> Result<Self> {
        let cable = Cable::new()?;
        let [near_end, far_end] = cable.ends();
        let stations = [
            Station::new(FrameSocket::new()?, 1, LEFT.host4, LEFT.host6),
            Station::new(FrameSocket::new()?, 3, FAR_HOST, "2001:db8:3::2".parse()?),
        ];
        let start = |name: &str, config: Value, wire: Nic, end: Nic| {
            let machine = experiment.machine(name).config(config).nic(Nic::user(0).without_capture());
            experiment.start(machine.nic(wire.without_capture()).nic(end.without_capture()))
        };
        let first = config(RIGHT.node4, RIGHT.host4, LEFT.node4, "10.3.0.0/24");
        let second = config(RIGHT.host4, RIGHT.node4, FAR_NODE, "10.1.0.0/24");
        let far_end = far_end.option("mac=52:54:00:fa:1f:02");
        let vms = [
            start("first", first, stations[0].wire().nic(), near_end)?,
            start("second", second, stations[1].wire().nic(), far_end)?,
        ];
        let nodes = [vms[0].api(gateway::TOKEN)?, vms[1].api(gateway::TOKEN)?];
        let macs = [stations[0].resolve(LEFT.node4.into())?, stations[1].resolve(FAR_NODE.into())?];
        let sites = Self { nodes, stations, macs, _vms: vms, _cable: cable };
        install(sites.apis(), 0, false)?;
        install(sites.apis(), 0, true)?;
        sites.warm_up()?;
        Ok(sites)
    }

    fn apis(&self) -> [&Api; 2] {
        [&self.nodes[0], &self.nodes[1]]
    }

    /// Packets until one arrives on either side: the neighbours on the way are known then.
    fn warm_up(&self) -> Result<()> {
        for (from, to) in [(0, 1), (1, 0)] {
            let destination = self.stations[to].ipv4.into();
            let ends = self.stations[from].ends(self.macs[from], destination, 64);
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                self.stations[from].wire().send(&frame::udp(&ends, 1, 1, b"warm"))?;
                if self.stations[to].receive_udp(1, Duration::from_millis(300))?.is_some() {
                    break;
                }
                ensure!(Instant::now() < deadline, "nothing passes from station {from} to {to}");
            }
        }
        Ok(())
    }
}

/// A thousand generations of SAs while packets go both ways.
pub fn a_thousand_rekeys_lose_no_packet(experiment: &Experiment) -> Result<()> {
    let sites = Sites::new(experiment)?;
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (took, talks) = std::thread::scope(|scope| -> Result<_> {
        let talks = [(0, FAR_HOST), (1, LEFT.host4)].map(|(place, to)| {
            let (station, mac, stop) = (&sites.stations[place], sites.macs[place], &stop);
            scope.spawn(move || talk(station, mac, to, stop))
        });
        let rekeyed = (1..=REKEYS).try_for_each(|generation| {
            install(sites.apis(), generation, false)?;
            install(sites.apis(), generation, true).with_context(|| format!("generation {generation}"))
        });
        let took = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        let talks = talks.map(|talk| talk.join().map_err(|_| anyhow::anyhow!("a panic")));
        rekeyed.map(|()| (took, talks))
    })?;
    let [left, right] = talks;
    let (left, right) = (left??, right??);
    for (what, sent, came) in [("left to right", left.0, &right.1), ("right to left", right.0, &left.1)] {
        let seen: BTreeSet<u32> = came.iter().copied().collect();
        let lost: Vec<u32> = (0..sent).filter(|number| !seen.contains(number)).collect();
        ensure!(
            lost.is_empty() && came.len() == seen.len(),
            "{what}: of {sent} lost {lost:?}, came {}",
            came.len()
        );
    }
    for node in sites.apis() {
        let drops = node.get("/v1/drops")?.body;
        ensure!(!drops.contains("\"esp-") && !drops.contains("\"ipsec-"), "{drops}");
        let all = node.json("/v1/ipsec/associations")?;
        let spis: BTreeSet<u64> = all["associations"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["spi"].as_u64())
            .collect();
        let last = u64::from(0x10000 + REKEYS * 2);
        ensure!(spis.contains(&last) && spis.contains(&(last + 1)), "{spis:x?}");
    }
    experiment.measured(format!(
        "{REKEYS} rekeys of both directions in {:.1} s under {} packets",
        took.as_secs_f64(),
        left.0 + right.0
    ));
    Ok(())
}
