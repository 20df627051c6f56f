//! ESP through the whole dataplane: a packet comes in, is routed into a tunnel, encrypted, routed and sent; or the other
//! way round.

use crate::measure::{Clock, clocks_of_nodes, nothing_dropped};
use crate::port::{Feed, Sink, Source};
use crate::report::line_of_nodes;
use crate::rig::interface;
use crate::routes::Random;
use anyhow::{Context, Result, anyhow, ensure};
use buffer::{Buf, BufferCache, BufferPool, PortQueue, VECTOR_SIZE, Vector, clocks};
use crypto::cbc_hmac::Hash;
use crypto::gcm::Gcm;
use dataplane::{
    Adjacency, AdjacencyId, Attachment, InterfaceId, NextHopGroup, Node, NodeCounters, Shared, Sleepless,
    Tables, Worker,
};
use fib::{Fib4Writer, Fib6Writer, Prefix};
use ipnet::IpNet;
use ipsec::{
    Action, Algorithm, Database, Direction, Entropy, EspError, Policy, SaParameters, Selector, Snapshot,
    Tunnel, TunnelId,
};
use packet::ethernet::{ETHERTYPE_IPV4, Ethernet};
use packet::ipv4::Ipv4;
use packet::protocol;
use serde::Serialize;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use zerocopy::IntoBytes;
use zerocopy::network_endian::U16;

const IN: InterfaceId = InterfaceId(0);
const OUT: InterfaceId = InterfaceId(1);
const IPSEC: InterfaceId = InterfaceId(2);
const HOST: [u8; 6] = [2, 0, 0, 0, 1, 0];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// Our end of all tunnels, and the peer's.
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 9);
/// What is behind tunnel n is 16.0.0.0 + n; what is behind the other port is 64.0.0.0/8.
const BEHIND_TUNNELS: u32 = 16 << 24;
const BEHIND_OUT: u32 = 64 << 24;
const FIRST_SPI: u32 = 0x1_0000;
/// Packets of a round.
const ROUND_PACKETS: usize = 1 << 14;
const WARM_UP_ROUNDS: usize = 4;

/// What a packet goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// In the clear to encrypted.
    Encrypt,
    /// Encrypted to in the clear.
    Decrypt,
    /// In the clear to encrypted in one router, and to in the clear in the next.
    Loop,
}

/// One row of the report.
#[derive(Clone, Copy, Debug)]
struct Workload {
    way: Way,
    cipher: &'static str,
    algorithm: Algorithm,
    /// Bytes of an inner packet.
    bytes: usize,
    sas: usize,
    /// Policies with a destination each, of which a random one leads into the tunnel; 0: a route does.
    policies: usize,
}

/// What one workload costs.
#[derive(Debug, Serialize)]
pub struct Row {
    name: String,
    inner_bytes: usize,
    security_associations: usize,
    clocks_per_packet: f64,
    clocks_per_packet_median: f64,
    /// Clocks per packet of each node in the best round.
    nodes: Vec<(&'static str, f64)>,
    /// Clocks per packet to beat, where there is a published or measured figure.
    to_beat: Option<f64>,
    /// What we aim at.
    aim: Option<f64>,
}

/// All names.
pub fn names() -> Vec<String> {
    all().iter().map(Workload::name).collect()
}

/// Measures the workloads that are meant, and prints what they cost.
///
/// # Errors
/// Routers cannot be built, or not all packets left them.
pub fn run(meant: impl Fn(&str) -> bool, rounds: usize, clock: &Clock) -> Result<Vec<Row>> {
    let workloads = all().into_iter().filter(|workload| meant(&workload.name()));
    workloads
        .map(|workload| {
            let row = workload.measure(rounds, clock).with_context(|| workload.name())?;
            print!("{row}");
            Ok(row)
        })
        .collect()
}

fn all() -> Vec<Workload> {
    let ciphers = [
        ("aes-128-gcm", Algorithm::Aes128Gcm),
        ("aes-256-gcm", Algorithm::Aes256Gcm),
        ("chacha20-poly1305", Algorithm::ChaCha20Poly1305),
        ("aes-128-cbc-sha256", Algorithm::Aes128CbcHmac(Hash::Sha256)),
    ];
    let mut all = Vec::new();
    for way in [Way::Encrypt, Way::Decrypt] {
        for (cipher, algorithm) in ciphers {
            all.extend([64, 512, 1400].map(|bytes| Workload {
                way,
                cipher,
                algorithm,
                bytes,
                sas: 1,
                policies: 0,
            }));
        }
        let (cipher, algorithm) = ciphers[0];
        all.extend([64, 1400].map(|bytes| Workload {
            way,
            cipher,
            algorithm,
            bytes,
            sas: 10_000,
            policies: 0,
        }));
    }
    let (cipher, algorithm) = ciphers[0];
    let base = Workload { way: Way::Encrypt, cipher, algorithm, bytes: 64, sas: 1, policies: 0 };
    all.extend([1, 1_000].map(|policies| Workload { policies, ..base }));
    all.extend([64, 512, 1400].map(|bytes| Workload { way: Way::Loop, bytes, ..base }));
    all
}

impl Workload {
    fn group(&self) -> &'static str {
        match self.way {
            Way::Encrypt => "esp-encrypt",
            Way::Decrypt => "esp-decrypt",
            Way::Loop => "esp-loop",
        }
    }

    /// Its full name.
    fn name(&self) -> String {
        let many = match (self.sas, self.policies) {
            (1, 0) => String::new(),
            (1, policies) => format!("-{policies}-policies"),
            (sas, _) => format!("-{sas}-sas"),
        };
        format!("{}/{}-{}{many}", self.group(), self.cipher, self.bytes)
    }

    /// What FD.io VPP 26.06 takes on a machine of this kind, and about half of it.
    fn figures(&self) -> (Option<f64>, Option<f64>) {
        if self.policies > 0 {
            return (None, None);
        }
        let (to_beat, aim) = match (self.way, self.algorithm, self.bytes, self.sas) {
            (Way::Encrypt, Algorithm::Aes128Gcm, 64, 1) => (215.0, 110.0),
            (Way::Encrypt, Algorithm::Aes128Gcm, 512, 1) => (323.0, 190.0),
            (Way::Encrypt, Algorithm::Aes128Gcm, 1400, 1) => (473.0, 330.0),
            (Way::Encrypt, Algorithm::Aes256Gcm, 64, 1) => (224.0, 115.0),
            (Way::Encrypt, Algorithm::Aes256Gcm, 512, 1) => (351.0, 215.0),
            (Way::Encrypt, Algorithm::Aes256Gcm, 1400, 1) => (531.0, 390.0),
            (Way::Loop, Algorithm::Aes128Gcm, 64, 1) => (474.0, 240.0),
            (Way::Loop, Algorithm::Aes128Gcm, 512, 1) => (678.0, 420.0),
            (Way::Loop, Algorithm::Aes128Gcm, 1400, 1) => (1012.0, 720.0),
            _ => return (None, None),
        };
        (Some(to_beat), Some(aim))
    }

    fn measure(&self, rounds: usize, clock: &Clock) -> Result<Row> {
        let mut rig = Rig::new(self)?;
        // Slow ciphers and many SAs are measured as long, in fewer rounds.
        let rounds = rounds.div_ceil(4);
        for _ in 0..WARM_UP_ROUNDS {
            let _ = rig.round(clock)?;
        }
        let mut results = (0..rounds).map(|_| rig.round(clock)).collect::<Result<Vec<_>>>()?;
        results.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (to_beat, aim) = self.figures();
        Ok(Row {
            name: self.name(),
            inner_bytes: self.bytes,
            security_associations: self.sas,
            clocks_per_packet: results[0].0,
            clocks_per_packet_median: results[results.len() / 2].0,
            nodes: results.swap_remove(0).1,
            to_beat,
            aim,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, clocks_per_packet, clocks_per_packet_median, .. } = self;
        write!(
            f,
            "{name:<40} {clocks_per_packet:7.1} clocks per packet (median {clocks_per_packet_median:.1}"
        )?;
        if let (Some(to_beat), Some(aim)) = (self.to_beat, self.aim) {
            write!(f, "; to beat {to_beat}, aim {aim}")?;
        }
        writeln!(f, "){}", line_of_nodes(self.nodes.iter().copied()))
    }
}

/// A router with tunnels.
struct Rig {
    shared: Arc<Shared>,
    worker: Worker,
    generator_clocks: Arc<AtomicU64>,
    /// The router that decrypts what this one encrypted.
    next: Option<Box<Rig>>,
}

impl Rig {
    fn new(workload: &Workload) -> Result<Self> {
        let (ours, peers) = databases(workload)?;
        // Two routers share it, so that buffers come back as warm as they do in one.
        let pool = BufferPool::from_heap(8 * VECTOR_SIZE);
        let generator = Generator::new(workload, peers);
        let clocks = Arc::default();
        let generator = Feed::new(generator, &clocks);
        if workload.way != Way::Loop {
            let out = Box::new(Sink);
            return Self::with(workload, LOCAL, ours, pool, (generator, out), clocks);
        }
        let wire = Wire::default();
        let (theirs, _) = databases(workload)?;
        let out = Box::new(Sink);
        let next =
            Self::with(workload, PEER, theirs, pool, (Box::new(wire.clone()), out), wire.clocks.clone())?;
        let near = Self::with(workload, LOCAL, ours, pool, (generator, Box::new(wire)), clocks)?;
        Ok(Self { next: Some(Box::new(next)), ..near })
    }

    /// The router with that address, between two ports.
    fn with(
        workload: &Workload,
        own: Ipv4Addr,
        database: Snapshot,
        pool: &'static BufferPool,
        (r#in, out): (Box<dyn PortQueue>, Box<dyn PortQueue>),
        generator_clocks: Arc<AtomicU64>,
    ) -> Result<Self> {
        let mut fib4 = Fib4Writer::new().context("IPv4 route table")?;
        let fib6 = Fib6Writer::new().context("IPv6 route table")?;
        let mut insert = |address: u32, len, group| -> Result<()> {
            let prefix = Prefix::new(address, len).context("a prefix is too long")?;
            let _ = fib4.insert(prefix, group).context("a route does not fit")?;
            Ok(())
        };
        for address in [LOCAL, PEER] {
            insert(address.to_bits(), 32, if address == own { 1 } else { 2 })?;
        }
        insert(BEHIND_OUT, 8, 2)?;
        for n in 0..workload.sas as u32 {
            // For the peer, what is behind the tunnel is behind its other port.
            insert(BEHIND_TUNNELS + n, 32, if own == LOCAL { 3 + n } else { 2 })?;
        }
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, [1, 2], Box::new(Sleepless));
        let _ = shared.publish(tables(workload.sas)?);
        let _ = shared.publish_ipsec(database);
        let worker = Worker::new(shared.clone(), 0, vec![(IN, r#in), (OUT, out)], pool.cache());
        Ok(Self { shared, worker, generator_clocks, next: None })
    }

    /// This router, and the one after it.
    fn all(&self) -> impl Iterator<Item = &Self> {
        [Some(self), self.next.as_deref()].into_iter().flatten()
    }

    fn counters(&self) -> Vec<(Node, NodeCounters)> {
        self.all().flat_map(|rig| rig.shared.node_counters(0)).collect()
    }

    /// Clocks per packet, in all and of each node.
    fn round(&mut self, clock: &Clock) -> Result<(f64, Vec<(&'static str, f64)>)> {
        let before = self.counters();
        let sent =
            |rig: &Self| rig.all().last().map_or(0, |rig| rig.shared.interface_counters(OUT).tx.packets);
        let generators = |rig: &Self| rig.all().map(|rig| rig.generator_clocks.load(Relaxed)).sum::<u64>();
        let (sent_before, generator) = (sent(self), generators(self));
        let polls = ROUND_PACKETS / VECTOR_SIZE;
        let start = clocks();
        for poll in 0..polls {
            let _ = self.worker.poll(poll as u64);
            if let Some(next) = &mut self.next {
                let _ = next.worker.poll(poll as u64);
            }
        }
        let spent = clocks() - start - (generators(self) - generator);
        let packets = (sent(self) - sent_before) as f64;
        for rig in self.all() {
            nothing_dropped(&rig.shared)?;
        }
        ensure!(packets == (polls * VECTOR_SIZE) as f64, "{packets} packets left");
        let nodes = clocks_of_nodes(before, self.counters().into_iter(), packets);
        let readings = (polls * self.all().count()) as f64;
        Ok(((spent as f64 - readings * clock.read) / packets, nodes))
    }
}

/// A wire between two routers of one thread. What it takes counts as the generator's.
#[derive(Clone, Default)]
struct Wire {
    frames: Arc<Mutex<Vec<Buf>>>,
    clocks: Arc<AtomicU64>,
}

impl PortQueue for Wire {
    fn receive(&mut self, _: &mut BufferCache, out: &mut Vector) -> usize {
        let start = clocks();
        let before = out.len();
        if let Ok(mut frames) = self.frames.lock() {
            for mut frame in frames.drain(..) {
                // To the next router.
                if let Some(destination) = frame.data_mut().first_chunk_mut() {
                    *destination = MAC;
                }
                let _ = out.push(frame);
            }
        }
        let spent = clocks().wrapping_sub(start);
        self.clocks.store(self.clocks.load(Relaxed).wrapping_add(spent), Relaxed);
        out.len() - before
    }

    fn transmit(&mut self, _: &mut BufferCache, packets: &mut Vector) {
        if let Ok(mut frames) = self.frames.lock() {
            frames.extend(packets.drain(..));
        }
    }

    fn arm(&mut self) -> bool {
        true
    }

    fn disarm(&mut self) {}
}

/// Group 1 is the node itself, group 2 the neighbour, those from 3 on are the tunnels.
fn tables(tunnels: usize) -> Result<Tables> {
    let tunnel = Attachment::Ipsec { tunnel: TunnelId(0) };
    let interfaces = [(Attachment::Port, 0), (Attachment::Port, 1), (tunnel, 2)];
    let interfaces = interfaces.map(|(attachment, number)| Some(interface(attachment, MAC, number)));
    let mut adjacencies = vec![Adjacency::Local, Adjacency::Neighbour { interface: OUT, mac: HOST }];
    let peer = |n| Adjacency::IpsecPeer { interface: IPSEC, tunnel: TunnelId(n) };
    adjacencies.extend((0..tunnels as u32).map(peer));
    let mut groups = vec![NextHopGroup::default()];
    groups.extend((0..adjacencies.len()).map(|index| NextHopGroup::single(AdjacencyId(index as u32))));
    Tables::new(interfaces.into(), &adjacencies, &groups).map_err(|error| anyhow!("tables: {error}"))
}

/// The router's database, and that of whoever encrypts for it.
fn databases(workload: &Workload) -> Result<(Snapshot, Snapshot)> {
    let near = if workload.way == Way::Decrypt { (PEER, LOCAL) } else { (LOCAL, PEER) };
    let (mut ours, mut peers) = (Database::new(Gcm::best()), Database::new(Gcm::best()));
    let entropy = Entropy { iv_base: 1, iv_key: [7; 16] };
    for n in 0..workload.sas as u32 {
        let key: Vec<u8> = (0..workload.algorithm.key_bytes()).map(|at| at as u8 ^ n as u8).collect();
        let ends = (near.0.into(), near.1.into());
        let algorithm = workload.algorithm;
        let outbound = SaParameters::new(FIRST_SPI + n, Direction::Outbound, ends, algorithm, key.into());
        let inbound = SaParameters {
            direction: Direction::Inbound,
            local: outbound.remote,
            remote: outbound.local,
            tunnel: TunnelId(n),
            ..outbound.clone()
        };
        let sender = if workload.way == Way::Decrypt { &mut peers } else { &mut ours };
        let sa = sender.add(outbound, &entropy, 0)?.id();
        let tunnel = Tunnel { outbound: Some(sa), ..Tunnel::default() };
        sender.set_tunnel(TunnelId(n), tunnel)?;
        let _ = ours.add(inbound, &entropy, 0)?;
        let outbound = if workload.way == Way::Decrypt { None } else { Some(sa) };
        ours.set_tunnel(TunnelId(n), Tunnel { interface: Some(IPSEC.0), outbound, clamp_mss: false })?;
    }
    let net = |address: u32, len| IpNet::new(Ipv4Addr::from(address).into(), len);
    let policy = |n: u32| {
        let selector = Selector::between(net(LOCAL.to_bits(), 24)?.trunc(), net(BEHIND_OUT + n, 32)?);
        Ok(Policy { direction: Direction::Outbound, selector, action: Action::Protect(TunnelId(0)) })
    };
    ours.set_policies((0..workload.policies as u32).map(policy).collect::<Result<_>>()?);
    Ok((ours.snapshot(), peers.snapshot()))
}

/// Makes frames: in the clear, or encrypted by the peers.
struct Generator {
    way: Way,
    has_policies: bool,
    packet: Vec<u8>,
    /// Tunnels, or policies, in random order.
    order: Vec<u32>,
    next: usize,
    peers: Snapshot,
}

impl Generator {
    fn new(workload: &Workload, peers: Snapshot) -> Self {
        let header = Ipv4::new(protocol::UDP, [10, 0, 0, 5], [0; 4], workload.bytes - size_of::<Ipv4>());
        let ethernet = Ethernet { destination: MAC, source: HOST, ethertype: U16::new(ETHERTYPE_IPV4) };
        let mut packet = [ethernet.as_bytes(), header.as_bytes()].concat();
        packet.resize(size_of::<Ethernet>() + workload.bytes, 0x55);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut order: Vec<u32> = (0..workload.sas.max(workload.policies) as u32).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, random.bits() as usize % (at + 1));
        }
        Self { way: workload.way, has_policies: workload.policies > 0, packet, order, next: 0, peers }
    }

    fn frame(&mut self, cache: &mut BufferCache, tunnel: u32) -> Option<Buf> {
        let destination = match self.way {
            Way::Encrypt | Way::Loop if !self.has_policies => BEHIND_TUNNELS + tunnel,
            _ => BEHIND_OUT + tunnel,
        };
        let ip = self.packet.get_mut(size_of::<Ethernet>()..)?;
        let header = ip.first_chunk_mut::<20>()?;
        header[16..].copy_from_slice(&destination.to_be_bytes());
        header[10..12].fill(0);
        let checksum = packet::checksum::of(header);
        header[10..12].copy_from_slice(checksum.as_bytes());
        let mut packet = cache.allocate()?;
        packet.append(&self.packet).ok()?;
        Some(packet)
    }

    /// Has the peers encrypt a vector of frames.
    fn encrypt(&self, packets: &mut [Buf], tunnels: &[u32]) -> Option<()> {
        for packet in packets.iter_mut() {
            packet.pull_front(size_of::<Ethernet>()).ok()?;
        }
        let sas: Vec<_> = tunnels.iter().map(|tunnel| self.peers.outbound(TunnelId(*tunnel))).collect();
        let mut results: [Result<(), EspError>; VECTOR_SIZE] = [Ok(()); VECTOR_SIZE];
        let results = &mut results[..packets.len()];
        ipsec::encapsulate(self.peers.suite(), &ipsec::Claimant::NOBODY, packets, &sas, 0, results);
        for packet in packets.iter_mut() {
            let header = self.packet.first_chunk::<{ size_of::<Ethernet>() }>()?;
            *packet.push_array().ok()? = *header;
        }
        Some(())
    }
}

impl Source for Generator {
    fn fill(&mut self, cache: &mut BufferCache, out: &mut Vector) {
        let before = out.len();
        let mut tunnels = [0; VECTOR_SIZE];
        for tunnel in &mut tunnels {
            *tunnel = self.order[self.next];
            self.next = (self.next + 1) % self.order.len();
            let Some(packet) = self.frame(cache, *tunnel) else { break };
            let _ = out.push(packet);
        }
        if self.way == Way::Decrypt {
            let _ = self.encrypt(&mut out[before..], &tunnels[..]);
        }
    }
}
