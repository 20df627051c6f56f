//! A router with a service.

use super::Workload;
use super::traffic::{ACK, Backends, Clients, Flows, SYN, Script};
use crate::measure::{Clock, clocks_of_nodes, drops, nothing_dropped};
use crate::port::Feed;
use crate::rig::{OPENING_NS, POLL_NS, interface, outlive_unproven};
use anyhow::{Context, Result, anyhow, ensure};
use balancer::{Builder, Settings};
use buffer::{BufferPool, PortQueue, VECTOR_SIZE, clocks};
use dataplane::{
    Adjacency, AdjacencyId, Attachment, InterfaceId, NextHopGroup, Shared, Sleepless, Tables, Worker,
};
use fib::{Fib4Writer, Fib6Writer, Prefix};
use flow::{Config, Timeouts};
use services::object::IpFamily;
use services::{Backend, Compiled, Exposure, Forwarding, Frontend, Pool, PoolKey, Protocol, Scope, State};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const IN: InterfaceId = InterfaceId(0);
const OUT: InterfaceId = InterfaceId(1);
pub(super) const HOST: [u8; 6] = [2, 0, 0, 0, 1, 0];
pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
pub(super) const VIP: [u8; 4] = [10, 96, 0, 10];
pub(super) const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const BACKENDS: u8 = 100;
/// Entries of a table.
const CAPACITY: usize = 1 << 21;
/// Packets of a round.
const ROUND_PACKETS: usize = 1 << 14;
/// Vectors from one change of health to the next, where there are any.
const CHANGE_EVERY: usize = 16;

pub(super) struct Rig {
    workload: Workload,
    shared: Arc<Shared>,
    worker: Worker,
    script: Script,
    generator_clocks: Arc<AtomicU64>,
    builder: Builder,
    changes: usize,
    pub(super) table_bytes: usize,
    now_ns: u64,
    next_new: u32,
}

impl Rig {
    pub(super) fn new(workload: &Workload) -> Result<Self> {
        let mut fib4 = Fib4Writer::new().context("IPv4 route table")?;
        let mut fib6 = Fib6Writer::new().context("IPv6 route table")?;
        // Backends are in 10.1.0.0/16 and 2001:db8:1::/48, clients anywhere else.
        let _ = fib4.insert(Prefix::new(0, 0).context("a prefix")?, 1)?;
        let _ = fib4.insert(Prefix::new(0x0a01_0000, 16).context("a prefix")?, 2)?;
        let _ = fib6.insert(Prefix::new(0, 0).context("a prefix")?, 1)?;
        let backends6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0).to_bits();
        let _ = fib6.insert(Prefix::new(backends6, 48).context("a prefix")?, 2)?;
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, [1, 2], Box::new(Sleepless));
        let _ = shared.publish(tables()?);
        let opening_ms = (OPENING_NS / 1_000_000) as u32;
        let all = Config {
            capacity: CAPACITY,
            secret: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
            timeouts: Timeouts { tcp_opening_ms: opening_ms, ..Timeouts::default() },
        };
        let few = Config { capacity: 1, ..all };
        let (all4, all6) = if workload.ipv6 { (&few, &all) } else { (&all, &few) };
        let flows = dataplane::Flows::new(all4, all6, 0, 1).context("connection tables")?;
        let balancer = flows.balancer();
        let table_bytes = if workload.ipv6 { balancer.flows6().bytes() } else { balancer.flows4().bytes() };
        let _ = shared.give_flows(0, flows);
        let settings = Settings {
            node_addresses: vec![IpAddr::from([10, 0, 0, 1])],
            source_addresses: (1..=40).map(|last| IpAddr::from([10, 0, 0, last])).collect(),
            tunnel4: Some([10, 0, 0, 1].into()),
            tunnel6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            gue_port: 6080,
            ..Settings::default()
        };
        let mut builder = Builder::new(settings);
        let _ = shared.publish_services(Some(builder.build(&service(workload))));
        let script = Script::new();
        let generator_clocks = Arc::default();
        let ports: Vec<(InterfaceId, Box<dyn PortQueue>)> = vec![
            (IN, Feed::new(Clients::new(&script, workload.ipv6), &generator_clocks)),
            (OUT, Box::new(Backends::new(&script))),
        ];
        let worker = Worker::new(shared.clone(), 0, ports, BufferPool::from_heap(8 * VECTOR_SIZE).cache());
        let mut rig = Self {
            workload: *workload,
            shared,
            worker,
            script,
            generator_clocks,
            builder,
            changes: 0,
            table_bytes,
            now_ns: 0,
            next_new: 1 << 31,
        };
        rig.establish();
        Ok(rig)
    }

    /// Each flow's SYN, the backend's answer and an ACK, which is answered too; where answers come back past us, the ACK is
    /// the proof.
    fn establish(&mut self) {
        let answers = self.workload.entries() == 2;
        for first in (0..self.workload.flows).step_by(VECTOR_SIZE) {
            let last = (first + VECTOR_SIZE as u32).min(self.workload.flows);
            for flags in [SYN, ACK] {
                self.script.with(|orders| {
                    (orders.flags, orders.flows, orders.answers) = (flags, Flows::Each(first, last), answers);
                });
                self.poll();
                self.poll();
            }
        }
        self.script.with(|orders| orders.answers = false);
    }

    fn poll(&mut self) {
        self.now_ns += POLL_NS;
        let _ = self.worker.poll(self.now_ns);
    }

    /// Lets time pass until no unproven flow is left, if they are many: each new one is to find room, as it would in a table
    /// that is large enough.
    fn clear(&mut self) {
        let counters = self.shared.flow_counters(0);
        let unproven = counters.ipv4.unproven + counters.ipv6.unproven;
        if self.workload.is_flood() || unproven < CAPACITY / 16 {
            return;
        }
        self.script.with(|orders| orders.flows = Flows::None);
        outlive_unproven(&mut self.worker, &mut self.now_ns);
    }

    /// Clocks per packet, in all and of each node.
    pub(super) fn round(&mut self, clock: &Clock) -> Result<(f64, Vec<(&'static str, f64)>)> {
        self.clear();
        let established = self.workload.is_established();
        let end = self.next_new.checked_add(ROUND_PACKETS as u32).unwrap_or(1 << 31);
        let first = end - ROUND_PACKETS as u32;
        let flows = if established { Flows::Below(self.workload.flows) } else { Flows::Each(first, end) };
        self.next_new = end;
        self.script.with(|orders| {
            (orders.flags, orders.flows) = (if established { ACK } else { SYN }, flows);
        });
        let before = self.shared.node_counters(0).collect();
        let sent = self.shared.interface_counters(OUT).tx.packets;
        let polls = ROUND_PACKETS / VECTOR_SIZE;
        let generator = self.generator_clocks.load(Relaxed);
        let mut all = 0;
        for _ in 0..polls / CHANGE_EVERY {
            if self.workload.unsteady {
                self.change_health();
            }
            let start = clocks();
            (0..CHANGE_EVERY).for_each(|_| self.poll());
            all += clocks() - start;
        }
        let spent = all.saturating_sub(self.generator_clocks.load(Relaxed) - generator) as f64;
        let packets = (self.shared.interface_counters(OUT).tx.packets - sent) as f64;
        ensure!(packets == ROUND_PACKETS as f64, "{packets} packets left: {:?}", drops(&self.shared));
        let nodes = clocks_of_nodes(before, self.shared.node_counters(0), packets);
        Ok(((spent - polls as f64 * clock.read) / packets, nodes))
    }

    /// The next backend takes no new flows, the one before it does again.
    fn change_health(&mut self) {
        let mut services = service(&self.workload);
        let drained = services.pools.first_mut().and_then(|pool| {
            let at = self.changes % pool.backends.len();
            pool.backends.get_mut(at)
        });
        if let Some(backend) = drained {
            backend.state = State::Draining;
        }
        self.changes += 1;
        let _ = self.shared.publish_services(Some(self.builder.build(&services)));
    }

    /// Established flows are all there: a miss would cost something else than a hit.
    pub(super) fn check(&self) -> Result<()> {
        nothing_dropped(&self.shared)?;
        let counters = self.shared.flow_counters(0);
        let counts = if self.workload.ipv6 { counters.ipv6 } else { counters.ipv4 };
        let established = counts.live - counts.unproven;
        let wanted = self.workload.flows as usize * self.workload.entries();
        // At the edge of its capacity a table may refuse one in some ten thousand.
        ensure!(established + wanted / 1000 >= wanted, "flows were lost: {counts:?}");
        ensure!(!self.workload.is_established() || counts.unproven <= wanted / 1000, "{counts:?}");
        ensure!(!self.workload.is_flood() || counts.displaced > 0, "it was no flood: {counts:?}");
        Ok(())
    }
}

/// Group 1 leads back to the clients, group 2 to the backends.
fn tables() -> Result<Tables> {
    let interface = |number| Some(interface(Attachment::Port, MAC, number));
    let adjacencies = [IN, OUT].map(|interface| Adjacency::Neighbour { interface, mac: HOST });
    let groups = [0, 1].map(|id| NextHopGroup::single(AdjacencyId(id)));
    let groups: Vec<_> = [NextHopGroup::default()].into_iter().chain(groups).collect();
    Tables::new(vec![interface(0), interface(1)], &adjacencies, &groups)
        .map_err(|error| anyhow!("tables: {error}"))
}

fn service(workload: &Workload) -> Compiled {
    let (v4, v6) = (IpFamily::V4, IpFamily::V6);
    let port = if matches!(workload.forwarding, Forwarding::Nat | Forwarding::FullNat) { 8080 } else { 80 };
    let backend = |number: u8| Backend {
        address: match workload.ipv6 {
            false => ([10, 1, 0, number], port).into(),
            true => (Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, number.into()), port).into(),
        },
        weight: 1,
        state: State::Active,
        node: None,
    };
    let key = PoolKey {
        namespace: "default".to_owned(),
        service: "bench".to_owned(),
        port: 80,
        protocol: Protocol::Tcp,
        family: if workload.ipv6 { v6 } else { v4 },
        scope: Scope::Cluster,
    };
    let pool = Pool {
        key,
        port_name: String::new(),
        backends: (1..=BACKENDS).map(backend).collect(),
        table_size: Default::default(),
        affinity: None,
        server_id_bytes: None,
        health_check: Default::default(),
        forwarding: workload.forwarding,
    };
    let frontend = Frontend {
        exposure: Exposure::ClusterIp,
        address: Some(if workload.ipv6 { VIP6.into() } else { VIP.into() }),
        port: 80,
        pool: 0,
        source_ranges: Vec::new(),
    };
    Compiled { pools: vec![pool], frontends: vec![frontend] }
}
