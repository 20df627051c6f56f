//! Two nodes with the balancer that real ones run, and connections through them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use balancer::{Balancer, Builder, Snapshot, Verdict};
use flow::{Config, Timeouts};
use maglev::TableSize;
use services::object::IpFamily;
use services::{Backend, Compiled, Exposure, Forwarding, Frontend, Pool, PoolKey, Protocol, Scope, State};

use super::Settings;
use super::choice::mix;

/// The service's address and port.
pub const VIP: [u8; 4] = [203, 0, 113, 80];
pub const PORT: u16 = 443;
/// The node that dies, if one does; the other one is 0.
pub const DYING: usize = 1;

const VECTOR: usize = buffer::VECTOR_SIZE;
const PACKET_BYTES: usize = 40;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// Address and port of a connection's client.
pub fn client(flow: u32) -> ([u8; 4], u16) {
    ((flow / 50_000).wrapping_mul(0x9e37_79b1).to_be_bytes(), 1024 + (flow % 50_000) as u16)
}

/// The node that a connection goes through, as a router in front of them chose.
pub fn home(flow: u32) -> usize {
    (mix(u64::from(flow), 1) & 1) as usize
}

/// Where a backend is.
pub fn backend(number: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(0x0a01_0000 + u32::from(number)), PORT))
}

pub struct Nodes {
    builder: Builder,
    snapshot: Snapshot,
    nodes: [Balancer; 2],
    table_size: TableSize,
}

impl Nodes {
    /// Two nodes, each with room for three quarters of the connections.
    pub fn new(settings: &Settings, backends: &[u16]) -> Self {
        let config = |capacity| Config {
            capacity,
            secret: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
            timeouts: Timeouts::default(),
        };
        let capacity = settings.flows as usize / 4 * 3 + 1000;
        let node = || {
            let tables = (&config(capacity), &config(1));
            Balancer::new(tables, (0, 1), (1024, 65_535)).expect("memory for the connection tables")
        };
        let mut builder = Builder::new(balancer::Settings::default());
        let snapshot = builder.build(&service(backends, settings.table_size));
        Self { builder, snapshot, nodes: [node(), node()], table_size: settings.table_size }
    }

    /// The backends are now these.
    pub fn change(&mut self, backends: &[u16]) {
        self.snapshot = self.builder.build(&service(backends, self.table_size));
    }

    /// Opens all connections, and sees that each reaches the backend that was `expected`.
    pub fn establish(&mut self, flows: u32, expected: impl Fn(u32) -> u16) {
        // A connection's second packet comes before too many others' first ones, which would be a flood.
        self.send(flows, &[SYN, ACK], home, |flow, reached| {
            assert_eq!(reached, backend(expected(flow)).ip());
        });
    }

    /// Connections that do not reach the backend that they were opened with, `None` for those whose backend is gone.
    pub fn broken(&mut self, flows: u32, node_dies: bool, was: impl Fn(u32) -> Option<u16>) -> u64 {
        let mut broken = 0;
        let via = |flow| if node_dies { 0 } else { home(flow) };
        self.send(flows, &[ACK], via, |flow, reached| {
            broken += u64::from(was(flow).is_some_and(|was| backend(was).ip() != reached));
        });
        broken
    }

    /// Sends packets of every connection to the node that `via` says, and tells where they went.
    fn send(
        &mut self,
        flows: u32,
        packets: &[u8],
        via: impl Fn(u32) -> usize,
        mut seen: impl FnMut(u32, IpAddr),
    ) {
        let mut verdicts = [Verdict::NotOurs; VECTOR];
        for node in 0..2 {
            let mut own = (0..flows).filter(|flow| via(*flow) == node);
            loop {
                let vector: Vec<u32> = own.by_ref().take(VECTOR).collect();
                if vector.is_empty() {
                    break;
                }
                for flags in packets {
                    let mut frames: Vec<_> = vector.iter().map(|flow| packet(*flow, *flags)).collect();
                    let mut packets: Vec<&mut [u8]> = frames.iter_mut().map(|frame| &mut frame[..]).collect();
                    self.nodes[node].process(&self.snapshot, &mut packets, 0, &mut verdicts);
                    for (flow, verdict) in vector.iter().zip(&verdicts) {
                        match verdict {
                            Verdict::SendTo(reached) => seen(*flow, *reached),
                            verdict => panic!("a packet of connection {flow} was not sent: {verdict:?}"),
                        }
                    }
                }
            }
        }
    }
}

fn packet(flow: u32, flags: u8) -> [u8; PACKET_BYTES] {
    let (source, port) = client(flow);
    let mut bytes = [0; PACKET_BYTES];
    bytes[..4].copy_from_slice(&[0x45, 0, 0, PACKET_BYTES as u8]);
    bytes[8..10].copy_from_slice(&[64, 6]);
    bytes[12..16].copy_from_slice(&source);
    bytes[16..20].copy_from_slice(&VIP);
    bytes[20..22].copy_from_slice(&port.to_be_bytes());
    bytes[22..24].copy_from_slice(&PORT.to_be_bytes());
    bytes[32..34].copy_from_slice(&[0x50, flags]);
    bytes
}

/// A service whose backends get packets as they are, so that a connection has one entry in a table.
fn service(backends: &[u16], table_size: TableSize) -> Compiled {
    let key = PoolKey {
        namespace: "default".to_owned(),
        service: "simulated".to_owned(),
        port: PORT,
        protocol: Protocol::Tcp,
        family: IpFamily::V4,
        scope: Scope::Cluster,
    };
    let backends = backends
        .iter()
        .map(|number| Backend { address: backend(*number), weight: 1, state: State::Active, node: None })
        .collect();
    let pool = Pool {
        key,
        port_name: String::new(),
        backends,
        table_size,
        affinity: None,
        server_id_bytes: None,
        health_check: Default::default(),
        forwarding: Forwarding::Direct,
    };
    let frontend = Frontend {
        exposure: Exposure::LoadBalancer,
        address: Some(VIP.into()),
        port: PORT,
        pool: 0,
        source_ranges: Vec::new(),
    };
    Compiled { pools: vec![pool], frontends: vec![frontend] }
}
