//! A router of two ports, built for one workload.

use crate::generator::{Destinations, Generator};
use crate::port::{Feed, Sink};
use crate::routes::{Plan, Random};
use crate::workload::Workload;
use anyhow::{Context, Result, anyhow, ensure};
use buffer::{BufferPool, PortQueue, VECTOR_SIZE};
use dataplane::{
    Adjacency, AdjacencyId, Attachment, Interface, InterfaceId, NextHopGroup, Shared, Sleepless, Tables,
    Worker,
};
use fib::{Fib4Writer, Fib6Writer, Key, Prefix, Writer};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub(crate) const IN: InterfaceId = InterfaceId(0);
pub(crate) const OUT: InterfaceId = InterfaceId(1);
const HOST: [u8; 6] = [2, 0, 0, 0, 1, 0];
const MAC_IN: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const MAC_OUT: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// Neighbours that routes lead to, at the port that frames leave by.
const NEIGHBOURS: u32 = 16;

/// A router under measurement.
pub struct Rig {
    /// What it shares with its worker.
    pub shared: Arc<Shared>,
    /// Its worker.
    pub worker: Worker,
    /// The interface that every packet comes in by.
    pub r#in: InterfaceId,
    /// The interface that every packet must leave by.
    pub out: InterfaceId,
    /// Clocks that the generator has spent so far.
    pub generator_clocks: Arc<AtomicU64>,
    /// Bytes of the route table's nodes.
    pub table_bytes: usize,
}

impl Rig {
    /// Builds the router.
    ///
    /// # Errors
    /// There is no memory for the route tables, or the routes or next hops do not fit.
    pub fn new(workload: &Workload) -> Result<Self> {
        let mut fib4 = Fib4Writer::new().context("IPv4 route table")?;
        let mut fib6 = Fib6Writer::new().context("IPv6 route table")?;
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (destinations, table) = if workload.ipv6 {
            let plan = Plan::new(workload, &mut random);
            fill(&mut fib6, &plan.prefixes)?;
            (Destinations::V6(plan.destinations), fib6.memory())
        } else {
            let plan = Plan::new(workload, &mut random);
            fill(&mut fib4, &plan.prefixes)?;
            (Destinations::V4(plan.destinations), fib4.memory())
        };
        let seed = [random.bits(), random.bits()];
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, seed, Box::new(Sleepless));
        let _ = shared.publish(tables(workload.next_hops)?);
        let pool = BufferPool::from_heap(8 * VECTOR_SIZE + Generator::buffers(workload));
        let generator = Generator::new(workload, HOST, MAC_IN, destinations);
        let generator_clocks = Arc::default();
        let ports: Vec<(InterfaceId, Box<dyn PortQueue>)> =
            vec![(IN, Feed::new(generator, &generator_clocks)), (OUT, Box::new(Sink))];
        let worker = Worker::new(shared.clone(), 0, ports, pool.cache());
        Ok(Self { shared, worker, r#in: IN, out: OUT, generator_clocks, table_bytes: table.used_bytes })
    }
}

/// The interface of a port: of 10.0.`number`.0/24 and `2001:db8:number::/64`.
pub(crate) fn interface(attachment: Attachment, mac: [u8; 6], number: u8) -> Interface {
    Interface {
        attachment,
        mac,
        mtu: 1500,
        up: true,
        dhcp_client: false,
        ipv4: vec![(Ipv4Addr::new(10, 0, number, 1), 24)],
        ipv6: vec![(Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, 1), 64)],
        groups4: Vec::new(),
        groups6: Vec::new(),
    }
}

/// Group n leads to so many neighbours from the n-th on.
pub(crate) fn tables(next_hops: u32) -> Result<Tables> {
    let interfaces =
        [(MAC_IN, 0), (MAC_OUT, 1)].map(|(mac, number)| Some(interface(Attachment::Port, mac, number)));
    let neighbour = |index| Adjacency::Neighbour { interface: OUT, mac: [2, 0, 0, 0, 2, index as u8] };
    let adjacencies: Vec<_> = (0..NEIGHBOURS).map(neighbour).collect();
    let mut groups = vec![NextHopGroup::default()];
    groups.extend((0..NEIGHBOURS).map(|first| {
        let member = |index| (AdjacencyId((first + index) % NEIGHBOURS), 1);
        NextHopGroup { next_hops: (0..next_hops).map(member).collect() }
    }));
    Tables::new(interfaces.into(), &adjacencies, &groups).map_err(|error| anyhow!("tables: {error}"))
}

/// Inserts routes. They lead to the groups in turn.
fn fill<K: Key>(fib: &mut Writer<K>, prefixes: &[Prefix<K>]) -> Result<()> {
    for (index, prefix) in prefixes.iter().enumerate() {
        let _ = fib.insert(*prefix, index as u32 % NEIGHBOURS + 1).context("a route does not fit")?;
    }
    ensure!(fib.len() == prefixes.len(), "the table has {} routes, not {}", fib.len(), prefixes.len());
    Ok(())
}

/// Time from one vector to the next, as of ten million packets a second.
pub(crate) const POLL_NS: u64 = 25_600;
/// How long an unproven flow lives here, and how long it takes to walk round a table of any size.
pub(crate) const OPENING_NS: u64 = 1_000_000_000;
const WALK_NS: u64 = 10_000_000_000;

/// Lets time pass, while nothing comes in, until no unproven flow is left.
pub(crate) fn outlive_unproven(worker: &mut Worker, now_ns: &mut u64) {
    let end_ns = *now_ns + OPENING_NS + WALK_NS;
    while *now_ns < end_ns {
        *now_ns += 1_000_000;
        let _ = worker.poll(*now_ns);
    }
}
