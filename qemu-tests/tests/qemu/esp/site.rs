//! The node between a plain host on the left and scapy's ESP on the right, and what they send each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::frame::{self, Ends, Mac, Payload, Seen};
use lab::gateway::{self, LEFT, RIGHT, Stations};
use lab::{Api, Nic, Vm};
use qemu_tests::Experiment;
use serde_json::{Value, json};

use super::scapy::Scapy;

pub const LIMIT: Duration = Duration::from_secs(10);
/// Where packets for the left host go.
const PORT: u16 = 7000;
const MARKER_PORT: u16 = 9;
const ETHERNET_BYTES: usize = 14;

/// A pair of SAs, and what is around it.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub algorithm: &'static str,
    pub key_bytes: usize,
    pub esn: bool,
    pub tunnel: bool,
    pub outer6: bool,
    /// The node's UDP port.
    pub port: Option<u16>,
    /// Makes names, addresses and SPIs of its own.
    pub number: u8,
}

impl Variant {
    pub fn name(&self) -> String {
        format!("t{}", self.number)
    }

    pub fn association_name(&self, out: bool) -> String {
        format!("{}{}", if out { "out" } else { "in" }, self.number)
    }

    /// The node's end and the peer's.
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        match (self.outer6, self.tunnel) {
            (false, true) => (RIGHT.node4.into(), RIGHT.host4.into()),
            (true, true) => (RIGHT.node6.into(), RIGHT.host6.into()),
            // In transport mode a policy tells the SAs apart by the node's address.
            (false, false) => ([10, 2, 0, 100 + self.number].into(), RIGHT.host4.into()),
            (true, false) => {
                let [head @ .., _] = RIGHT.node6.segments();
                let [a, b, c, d, e, f, g] = head;
                let own = [a, b, c, d, e, f, g, 0x100 + u16::from(self.number)];
                (IpAddr::from(own), RIGHT.host6.into())
            }
        }
    }

    /// A host behind the peer.
    pub fn behind(&self) -> IpAddr {
        [10, 9, self.number, 1].into()
    }

    fn spi(&self, out: bool) -> u32 {
        if out { 0x3000 + u32::from(self.number) } else { 0x2000 + u32::from(self.number) }
    }

    fn key(&self, out: bool) -> String {
        let byte = |at: usize| at as u32 * 11 + u32::from(self.number) * 17 + u32::from(out) * 89;
        (0..self.key_bytes).map(|at| format!("{:02x}", byte(at) & 0xff)).collect()
    }

    /// The SA as scapy is told.
    pub fn sa(&self, out: bool) -> Value {
        let (node, peer) = self.ends();
        let (source, destination) = if out { (node, peer) } else { (peer, node) };
        let ports = self.port.map(|port| if out { [port, 4500] } else { [4500, port] });
        json!({
            "algorithm": self.algorithm, "key": self.key(out), "spi": self.spi(out), "esn": self.esn,
            "tunnel": self.tunnel, "source": source, "destination": destination, "ports": ports,
        })
    }

    /// The SA as the node is told.
    pub fn association(&self, out: bool) -> Value {
        json!({
            "name": self.association_name(out), "tunnel": self.name(), "direction": if out { "out" } else { "in" },
            "spi": self.spi(out), "algorithm": self.algorithm, "key": self.key(out), "esn": self.esn, "replay_window": 64,
        })
    }

    fn tunnel(&self) -> Value {
        let (node, peer) = self.ends();
        let mut tunnel = json!({
            "name": self.name(), "local": node, "remote": peer, "route_based": self.tunnel,
            "mode": if self.tunnel { "tunnel" } else { "transport" },
        });
        if let Some(port) = self.port {
            tunnel["nat_traversal"] = json!({"local_port": port, "keepalive_seconds": 0});
        }
        tunnel
    }
}

/// The node's configuration with all of them.
fn config(variants: &[Variant]) -> Value {
    let mut config = gateway::config();
    let mut routes = vec![json!({"prefix": "198.51.100.0/24", "via": [{"address": RIGHT.host4}]})];
    let mut policies = Vec::new();
    for variant in variants {
        if variant.tunnel {
            let prefix = format!("{}/32", variant.behind());
            routes.push(json!({"prefix": prefix, "via": [{"interface": variant.name()}]}));
            continue;
        }
        let (node, peer) = variant.ends();
        let length = if variant.outer6 { 128 } else { 32 };
        policies.push(json!({
            "name": variant.name(), "direction": "out", "action": "protect", "tunnel": variant.name(),
            "source": format!("{node}/{length}"), "destination": format!("{peer}/{length}"),
        }));
        let addresses = config["interfaces"][2]["addresses"].as_array_mut();
        addresses.expect("eth2 has addresses").push(json!(format!("{node}/{length}")));
    }
    config["routes"] = json!(routes);
    let associations = variants.iter().flat_map(|v| [v.association(false), v.association(true)]);
    config["ipsec"] = json!({
        "tunnels": variants.iter().map(Variant::tunnel).collect::<Vec<_>>(),
        "associations": associations.collect::<Vec<_>>(), "policies": policies,
    });
    config
}

/// The machines.
pub struct Site {
    pub api: Api,
    pub stations: Stations,
    pub scapy: Scapy,
    pub vm: Vm,
    /// The node's Ethernet addresses on both sides.
    macs: [Mac; 2],
    drops: BTreeMap<String, u64>,
    markers: u16,
}

impl Site {
    pub fn new(experiment: &Experiment, variants: &[Variant]) -> Result<Self> {
        Self::with(experiment, variants, "gateway", "")
    }

    /// One whose machine has this name and gets these words on its command line.
    pub fn with(experiment: &Experiment, variants: &[Variant], name: &str, words: &str) -> Result<Self> {
        let scapy = Scapy::start()?;
        let stations = Stations::new()?;
        let mut machine = experiment.machine(name).config(config(variants));
        if !words.is_empty() {
            machine = machine.argument(words);
        }
        let machine = stations.plug(machine, |nic: Nic| nic);
        let vm = experiment.start(machine)?;
        let api = vm.api(gateway::TOKEN)?;
        let macs = [stations.left.resolve(LEFT.node4.into())?, stations.right.resolve(RIGHT.node4.into())?];
        let _ = stations.right.resolve(RIGHT.node6.into())?;
        let mut site = Self { api, stations, scapy, vm, macs, drops: BTreeMap::new(), markers: 0 };
        // Neighbours are known from here on.
        site.wait_for_marker()?;
        let _ = site.new_drops()?;
        Ok(site)
    }

    /// Puts packets on the right wire.
    pub fn send(&self, packets: &[Vec<u8>]) -> Result<()> {
        let station = &self.stations.right;
        for packet in packets {
            let ethertype: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
            let frame = [&self.macs[1][..], &station.mac, &ethertype.to_be_bytes(), packet].concat();
            station.wire().send(&frame)?;
        }
        Ok(())
    }

    /// Sends a packet that is forwarded in the clear and waits for it: what was sent before has been decided on.
    pub fn wait_for_marker(&mut self) -> Result<()> {
        self.markers += 1;
        let data = self.markers.to_be_bytes();
        let ends = self.stations.right.ends(self.macs[1], LEFT.host4.into(), 64);
        for _ in 0..5 {
            self.stations.right.wire().send(&frame::udp(&ends, 1, MARKER_PORT, &data))?;
            let limit = Instant::now() + Duration::from_secs(2);
            while let Some((_, seen)) = self.stations.left.receive_udp(MARKER_PORT, Duration::from_secs(1))? {
                if seen == data {
                    return Ok(());
                }
                ensure!(Instant::now() < limit, "markers come twice");
            }
        }
        anyhow::bail!("the node forwards nothing any more")
    }

    /// Packets that ESP dropped since the last time, by reason.
    pub fn new_drops(&mut self) -> Result<BTreeMap<String, u64>> {
        let all = self.api.json("/v1/drops")?;
        let mut new = BTreeMap::new();
        for row in all["drops"].as_array().context("no drops")? {
            let (Some(reason), Some(packets)) = (row["reason"].as_str(), row["packets"].as_u64()) else {
                continue;
            };
            let before = self.drops.insert(reason.to_owned(), packets).unwrap_or(0);
            if packets > before && (reason.starts_with("esp-") || reason.starts_with("ipsec-")) {
                let _ = new.insert(reason.to_owned(), packets - before);
            }
        }
        Ok(new)
    }

    /// An inner packet of the peer's side, and how the node is to show that it had it.
    pub fn inner(&mut self, variant: &Variant, bytes: usize) -> Inner {
        self.markers += 1;
        let number = self.markers;
        let data: Vec<u8> = (0..bytes).map(|at| (at * 3) as u8 ^ number as u8).collect();
        let (node, peer) = variant.ends();
        let ends = |source, destination, hop_limit| Ends {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            source,
            destination,
            hop_limit,
        };
        if !variant.tunnel {
            let packet = frame::echo_request(&ends(peer, node, 64), 77, number, &data);
            return Inner { packet: packet[ETHERNET_BYTES..].into(), shown: Shown::Reply { number, data } };
        }
        let at = |hop_limit| {
            let ends = ends(variant.behind(), LEFT.host4.into(), hop_limit);
            frame::udp(&ends, number, PORT, &data)[ETHERNET_BYTES..].to_vec()
        };
        Inner { packet: at(64), shown: Shown::Forwarded(at(63)) }
    }

    /// Waits until the node shows that it decrypted this.
    pub fn expect(&mut self, variant: &Variant, inner: &Inner) -> Result<()> {
        match &inner.shown {
            Shown::Forwarded(packet) => {
                let is_it =
                    |frame: &[u8]| (frame.get(ETHERNET_BYTES..) == Some(packet.as_slice())).then_some(());
                let seen = self.stations.left.receive_frame(LIMIT, is_it)?;
                seen.with_context(|| format!("the inner packet is not forwarded: {packet:02x?}"))
            }
            Shown::Reply { number, data } => {
                let outer = self.next_esp(variant)?;
                let opened = self.scapy.open(&variant.sa(true), &outer, 0)?;
                let ethertype: [u8; 2] = if opened[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
                let seen = frame::parse(&[&[0; 12][..], &ethertype, &opened].concat());
                let Some(Seen::Ip(
                    _,
                    Payload::Icmp { kind: 0 | frame::ICMP6_ECHO_REPLY, rest, data: back, .. },
                )) = seen
                else {
                    anyhow::bail!("the answer is no echo reply: {opened:02x?}")
                };
                let [_, _, high, low] = rest;
                ensure!(
                    u16::from_be_bytes([high, low]) == *number && back == *data,
                    "another echo: {back:02x?}"
                );
                Ok(())
            }
        }
    }

    /// Waits until the left host has all of these tunnel-mode packets, in whatever order they come.
    pub fn expect_all(&self, inners: &[Inner]) -> Result<()> {
        let forwarded = inners.iter().filter_map(|inner| match &inner.shown {
            Shown::Forwarded(packet) => Some(packet.as_slice()),
            Shown::Reply { .. } => None,
        });
        let mut missing: BTreeSet<&[u8]> = forwarded.collect();
        let seen = self.stations.left.receive_frame(LIMIT, |frame| {
            let _ = frame.get(ETHERNET_BYTES..).map(|packet| missing.remove(packet));
            missing.is_empty().then_some(())
        })?;
        seen.with_context(|| format!("{} of {} do not come", missing.len(), inners.len()))
    }

    /// Has the left host send datagrams of these lengths to behind the peer, one right after the other; what scapy makes of
    /// the outer packets is what was sent.
    pub fn outbound_at_once(&mut self, variant: &Variant, lengths: &[usize]) -> Result<()> {
        let ends = self.towards(variant);
        let mut expected = BTreeSet::new();
        for &length in lengths {
            self.markers += 1;
            let data = vec![self.markers as u8; length];
            self.stations.left.wire().send(&frame::udp(&ends, self.markers, PORT, &data))?;
            let inner = frame::udp(&Ends { hop_limit: 63, ..ends }, self.markers, PORT, &data);
            let _ = expected.insert(inner[ETHERNET_BYTES..].to_vec());
        }
        for left in (0..lengths.len()).rev() {
            let outer = self.next_esp(variant).with_context(|| format!("{left} and one more are missing"))?;
            let opened = self.scapy.open(&variant.sa(true), &outer, 0)?;
            ensure!(expected.remove(&opened), "an inner packet of nobody: {opened:02x?}");
        }
        Ok(())
    }

    /// The next ESP packet of a variant on the right wire, without its Ethernet header.
    pub fn next_esp(&self, variant: &Variant) -> Result<Vec<u8>> {
        let spi = variant.spi(true).to_be_bytes();
        let ip_bytes = if variant.outer6 { 40 } else { 20 };
        let at = ETHERNET_BYTES + ip_bytes + if variant.port.is_some() { 8 } else { 0 };
        let seen = self.stations.right.receive_frame(LIMIT, |frame| {
            (frame.get(at..at + 4) == Some(&spi)).then(|| frame[ETHERNET_BYTES..].to_vec())
        })?;
        seen.context("the node sends no ESP")
    }

    /// Has the left host send to behind the peer: the outer packet, and the packet that is to be in it.
    pub fn outbound(&mut self, variant: &Variant, bytes: usize) -> Result<(Vec<u8>, Vec<u8>)> {
        self.markers += 1;
        let data = vec![self.markers as u8; bytes];
        let ends = self.towards(variant);
        self.stations.left.wire().send(&frame::udp(&ends, self.markers, PORT, &data))?;
        let outer = self.next_esp(variant)?;
        let inner = frame::udp(&Ends { hop_limit: 63, ..ends }, self.markers, PORT, &data);
        Ok((outer, inner[ETHERNET_BYTES..].to_vec()))
    }

    /// Both ends of a packet of the left host to behind the peer.
    pub fn towards(&self, variant: &Variant) -> Ends {
        self.stations.left.ends(self.macs[0], variant.behind(), 64)
    }
}

/// An inner packet.
pub struct Inner {
    pub packet: Vec<u8>,
    shown: Shown,
}

/// How the node shows that it decrypted a packet.
enum Shown {
    /// These bytes reach the left host.
    Forwarded(Vec<u8>),
    /// An echo reply comes back, encrypted.
    Reply { number: u16, data: Vec<u8> },
}

/// The Internet checksum (RFC 1071) over these, each of an even length but the last.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
