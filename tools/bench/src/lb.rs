//! Workloads `maglev-*`: the load balancer alone, [`Balancer::process`] on vectors of 64-byte frames, without the graph
//! around it.

use balancer::{Balancer, Builder, Settings, Snapshot, Verdict};
use flow::{Config, Timeouts};
use packet::checksum;
use serde::Serialize;
use services::object::IpFamily;
use services::{Backend, Compiled, Exposure, Forwarding, Frontend, Pool, PoolKey, Protocol, Scope, State};

/// Bytes of a packet from its IP header on, in a frame of 64.
const PACKET_BYTES: usize = 46;
const VECTOR: usize = buffer::VECTOR_SIZE;
const CAPACITY: usize = 1 << 21;
const BACKENDS: u8 = 100;
const VIP: [u8; 4] = [10, 96, 0, 10];
const SYN: u8 = 2;
const ACK: u8 = 16;

/// One row of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    group: &'static str,
    variant: &'static str,
    forwarding: Forwarding,
    /// Established flows.
    flows: u32,
    /// Flags of the packets that are measured: ACK of established flows, SYN of new ones.
    flags: u8,
    aim: u32,
}

/// What a workload costs.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// In the best round.
    pub clocks_per_packet: f64,
    /// In the median round.
    pub clocks_per_packet_median: f64,
    /// Bytes of the connection table.
    pub table_bytes: usize,
}

const NAT: Workload = Workload {
    group: "maglev-established",
    variant: "nat-1000",
    forwarding: Forwarding::Nat,
    flows: 1000,
    flags: ACK,
    aim: 65,
};

/// Everything that can be measured.
pub fn all() -> [Workload; 7] {
    let (direct, ipip) = (Forwarding::Direct, Forwarding::Ipip);
    [
        NAT,
        Workload { variant: "nat-100000", flows: 100_000, aim: 120, ..NAT },
        // A pair has two entries.
        Workload { variant: "nat-1000000", flows: 1_000_000, aim: 0, ..NAT },
        Workload { variant: "direct-1000", forwarding: direct, aim: 60, ..NAT },
        Workload { variant: "ipip-1000", forwarding: ipip, aim: 60, ..NAT },
        Workload { group: "maglev-new", variant: "nat", flags: SYN, aim: 160, ..NAT },
        Workload { group: "maglev-syn-flood", variant: "nat", flows: 500_000, flags: SYN, aim: 0, ..NAT },
    ]
}

impl Workload {
    /// Its name.
    pub fn name(&self) -> String {
        format!("{}/{}", self.group, self.variant)
    }

    /// True if a name or the name of a group means it.
    pub fn is_meant_by(&self, wanted: &str) -> bool {
        wanted == self.group || wanted == self.name()
    }

    fn is_flood(&self) -> bool {
        self.group == "maglev-syn-flood"
    }
}

/// Measures the workloads that some name means, all if there are no names, and prints what they cost.
pub fn run(wanted: &[String], rounds: usize) -> Vec<Row> {
    let meant =
        |workload: &Workload| wanted.is_empty() || wanted.iter().any(|name| workload.is_meant_by(name));
    all().into_iter().filter(meant).map(|workload| measure(&workload, rounds)).collect()
}

fn measure(workload: &Workload, rounds: usize) -> Row {
    let mut rig = Rig::new(workload);
    let mut clocks: Vec<f64> = (0..rounds).map(|_| rig.round()).collect();
    rig.check();
    clocks.sort_by(f64::total_cmp);
    let row = Row {
        name: workload.name(),
        clocks_per_packet: clocks[0],
        clocks_per_packet_median: clocks[rounds / 2],
        table_bytes: rig.balancer.flows4().bytes(),
    };
    let aim =
        if workload.aim > 0 { format!(", aim for the whole path {}", workload.aim) } else { String::new() };
    println!(
        "{:30} {:7.1} clocks a packet, median {:.1}{aim}; {} established flows, table {} MiB",
        row.name,
        row.clocks_per_packet,
        row.clocks_per_packet_median,
        workload.flows,
        row.table_bytes >> 20
    );
    row
}

/// A balancer with established flows, and packets for it.
struct Rig {
    workload: Workload,
    balancer: Balancer,
    snapshot: Snapshot,
    frames: Vec<[u8; PACKET_BYTES]>,
    verdicts: Vec<Verdict>,
    random: u64,
    next_new: u32,
}

impl Rig {
    fn new(workload: &Workload) -> Self {
        let tunnel4 = Some("192.0.2.1".parse().expect("an address"));
        let snapshot =
            Builder::new(Settings { tunnel4, ..Settings::default() }).build(&service(workload.forwarding));
        let flows = Config {
            capacity: CAPACITY,
            secret: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
            timeouts: Timeouts::default(),
        };
        let few = Config { capacity: 1, ..flows };
        let balancer = Balancer::new((&flows, &few), (0, 1), (1024, 65_535)).expect("memory");
        let mut rig = Rig {
            workload: *workload,
            balancer,
            snapshot,
            frames: vec![[0; PACKET_BYTES]; VECTOR],
            verdicts: vec![Verdict::NotOurs; VECTOR],
            random: 88_172_645_463_325_252,
            next_new: 1 << 31,
        };
        rig.establish();
        rig
    }

    /// Each flow's SYN, an ACK, and the backend's ACK, which proves it where answers come back.
    fn establish(&mut self) {
        for first in (0..self.workload.flows).step_by(VECTOR) {
            let last = (first + VECTOR as u32).min(self.workload.flows);
            for flags in [SYN, ACK] {
                self.frames = (first..last).map(|flow| frame(flow, flags)).collect();
                let _ = self.process();
                if self.workload.forwarding == Forwarding::Nat {
                    self.frames.iter_mut().for_each(answer);
                    let _ = self.process();
                }
            }
        }
        self.frames = vec![[0; PACKET_BYTES]; VECTOR];
    }

    /// Clocks of one vector.
    fn process(&mut self) -> u64 {
        let mut packets: Vec<&mut [u8]> = self.frames.iter_mut().map(|frame| &mut frame[..]).collect();
        let start = buffer::clocks();
        self.balancer.process(&self.snapshot, &mut packets, 0, &mut self.verdicts);
        for (verdict, packet) in self.verdicts.iter().zip(&packets) {
            if let Verdict::Encapsulate(tunnel) = verdict {
                let header = tunnel.header(packet, packet.len()).expect("a header");
                let _ = std::hint::black_box(&header);
            }
        }
        buffer::clocks() - start
    }

    /// Clocks per packet of 64 vectors.
    fn round(&mut self) -> f64 {
        let mut clocks = 0;
        for _ in 0..64 {
            for index in 0..VECTOR {
                let flow = self.next_flow();
                self.frames[index] = frame(flow, self.workload.flags);
            }
            clocks += self.process();
            assert!(
                self.verdicts.iter().all(|verdict| !matches!(verdict, Verdict::NotOurs | Verdict::Drop(_)))
            );
        }
        let is_crowded = self.balancer.flows4().counts().unproven > CAPACITY / 16;
        if self.workload.group == "maglev-new" && is_crowded {
            // So that every new flow finds room, as it would in a table that is large enough.
            self.balancer.expire(3_600_000_000_000, usize::MAX);
        }
        clocks as f64 / (64 * VECTOR) as f64
    }

    fn next_flow(&mut self) -> u32 {
        if self.workload.flags == SYN {
            self.next_new = self.next_new.wrapping_add(1) | 1 << 31;
            return self.next_new;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % u64::from(self.workload.flows)) as u32
    }

    /// Established flows are all there: a miss would cost something else than a hit.
    fn check(&mut self) {
        if self.workload.group == "maglev-new" {
            return;
        }
        let entries = if self.workload.forwarding == Forwarding::Nat { 2 } else { 1 };
        let counts = self.balancer.flows4().counts();
        let established = counts.live - counts.unproven;
        let wanted = self.workload.flows as usize * entries;
        // At the edge of its capacity a table may refuse one in some ten thousand.
        assert!(established + wanted / 1000 >= wanted, "{counts:?}");
        assert!(self.workload.is_flood() || counts.unproven <= wanted / 1000, "{counts:?}");
    }
}

/// A TCP packet of a flow to the service.
fn frame(flow: u32, flags: u8) -> [u8; PACKET_BYTES] {
    let mut bytes = [0; PACKET_BYTES];
    bytes[..4].copy_from_slice(&[0x45, 0, 0, PACKET_BYTES as u8]);
    bytes[8..10].copy_from_slice(&[64, 6]);
    // Spread: neighbours in number are not neighbours in any table.
    bytes[12..16].copy_from_slice(&flow.wrapping_mul(0x9e37_79b1).to_be_bytes());
    bytes[16..20].copy_from_slice(&VIP);
    bytes[20..24].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    bytes[32..34].copy_from_slice(&[0x50, flags]);
    let checksum = checksum::of(&bytes[..20]);
    bytes[10..12].copy_from_slice(&checksum.to_bytes());
    bytes
}

/// A translated packet becomes its answer.
fn answer(bytes: &mut [u8; PACKET_BYTES]) {
    let (source, destination) = bytes[12..20].split_at_mut(4);
    source.swap_with_slice(destination);
    bytes[20..24].rotate_left(2);
}

fn service(forwarding: Forwarding) -> Compiled {
    let backend = |number| Backend {
        address: ([10, 1, 0, number], 8080).into(),
        weight: 1,
        state: State::Active,
        node: None,
    };
    let key = PoolKey {
        namespace: "default".to_owned(),
        service: "bench".to_owned(),
        port: 80,
        protocol: Protocol::Tcp,
        family: IpFamily::V4,
        scope: Scope::Cluster,
    };
    let pool = Pool {
        key,
        port_name: String::new(),
        backends: (1..=BACKENDS).map(backend).collect(),
        table_size: Default::default(),
        affinity: None,
        server_id_bytes: None,
        forwarding,
    };
    let frontend = Frontend {
        exposure: Exposure::ClusterIp,
        address: Some(VIP.into()),
        port: 80,
        pool: 0,
        source_ranges: Vec::new(),
    };
    Compiled { pools: vec![pool], frontends: vec![frontend] }
}
