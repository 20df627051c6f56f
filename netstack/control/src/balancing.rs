//! The services in force: what of the node they depend on, and what workers and router are told of them.

use crate::node::Node;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;
use balancer::{Builder, Settings, Snapshot};
use config::TcpWindow;
use core::net::IpAddr;
use dataplane::Flows;
use flow::{Config as FlowConfig, Timeouts};
use maglev::Seed;
use services::{Compiled, Forwarding};

/// The part of the free memory that all workers' flows take, when the first service is there.
const MEMORY_PART: u64 = 8;
/// The part of it that they take at most, whatever the configuration says.
const MOST_PART: u64 = 2;
/// Bytes of an IPv4 flow in its table, and of an IPv6 flow (`flow::FlowTable::new`).
const FLOW_BYTES: (u64, u64) = (53, 92);
/// What windows of TCP add to them (`flow::FlowTable::follow_windows`).
const WINDOW_BYTES: (u64, u64) = (52, 46);
/// Flows of a worker for which there is room at least, and at most.
const FLOWS4: (u64, u64) = (1 << 10, 1 << 20);
const FLOWS6: (u64, u64) = (1 << 9, 1 << 18);

/// How services are balanced.
pub(crate) struct Balancing {
    /// Backends with their numbers; None while a snapshot is being made.
    builder: Option<Builder>,
    /// How the memory for flows was made that workers have.
    flows: Option<(FlowConfig, FlowConfig)>,
    is_published: bool,
}

impl Balancing {
    /// No services.
    pub fn new() -> Self {
        Self { builder: Some(Builder::new(Settings::default())), flows: None, is_published: false }
    }

    /// How the flow tables of workers were made, without their secrets; None while there are none.
    pub fn flow_configs(&self) -> Option<(FlowConfig, FlowConfig)> {
        self.flows
    }

    /// What makes the next snapshot; [`Node::balance`] gives it back.
    pub fn take_builder(&mut self) -> Option<Builder> {
        self.builder.take()
    }
}

impl Node {
    /// Puts these services in force in place of all others: `snapshot` was made of `compiled`.
    pub fn balance(&mut self, builder: Builder, snapshot: Option<Snapshot>, compiled: &Compiled) {
        self.balancing.builder = Some(builder);
        let Some(snapshot) = snapshot else {
            if core::mem::take(&mut self.balancing.is_published) {
                let _ = self.shared.publish_services(None);
                self.router.set_services(BTreeSet::new(), BTreeSet::new(), self.now_ns);
            }
            return;
        };
        self.ensure_flows();
        let direct = compiled.pools.iter().filter(|pool| pool.forwarding == Forwarding::Direct);
        let neighbours = direct.flat_map(|pool| &pool.backends).map(|backend| backend.address.ip());
        self.router.set_services(snapshot.addresses().collect(), neighbours.collect(), self.now_ns);
        let _ = self.shared.publish_services(Some(snapshot));
        self.balancing.is_published = true;
    }

    /// What balancing depends on besides services.
    pub fn settings(&self) -> Settings {
        let cluster = &self.running.config().cluster;
        let networks: Vec<_> = self.router.interfaces().into_iter().flat_map(|i| i.addresses).collect();
        let backends = || self.objects.compiled().services.pools.iter().flat_map(|pool| &pool.backends);
        let is_near =
            |network: &&config::IpNet| backends().any(|backend| network.contains(&backend.address.ip()));
        // Where a backend is a neighbour its answers surely come back to.
        let near: Vec<IpAddr> = networks.iter().filter(is_near).map(config::IpNet::addr).collect();
        let all = || networks.iter().map(config::IpNet::addr);
        let sources = |v4: bool| -> Vec<IpAddr> {
            let near: Vec<IpAddr> = near.iter().copied().filter(|address| address.is_ipv4() == v4).collect();
            if near.is_empty() { all().filter(|address| address.is_ipv4() == v4).collect() } else { near }
        };
        let (sources4, sources6) = (sources(true), sources(false));
        let first4 = |address: &IpAddr| if let IpAddr::V4(address) = address { Some(*address) } else { None };
        let first6 = |address: &IpAddr| if let IpAddr::V6(address) = address { Some(*address) } else { None };
        let or = |given: &[IpAddr], else_: Vec<IpAddr>| if given.is_empty() { else_ } else { given.to_vec() };
        let tunnels = || cluster.tunnel_addresses.iter();
        let seed = cluster.seed.as_ref().and_then(config::Secret::to_bytes);
        let seed = seed.and_then(|bytes| <[u8; 16]>::try_from(&bytes[..]).ok());
        Settings {
            seed: seed.map_or_else(Seed::default, Seed::new),
            node_addresses: or(&cluster.node_addresses, all().collect()),
            own_addresses: all().collect(),
            api_port: Some(self.running.config().api.port),
            tunnel4: tunnels().find_map(first4).or(sources4.first().and_then(first4)),
            tunnel6: tunnels().find_map(first6).or(sources6.first().and_then(first6)),
            masquerade: (cluster.masquerade.clone(), cluster.masquerade_except.clone()),
            source_addresses: or(&cluster.source_addresses, [sources4, sources6].concat()),
            gue_port: cluster.gue_port,
        }
    }

    /// Sees to it that every worker has memory for flows.
    pub fn ensure_flows(&mut self) {
        if self.balancing.flows.is_none() {
            self.give_flows();
        }
    }

    /// How long flows may be silent.
    fn flow_timeouts(&self) -> Timeouts {
        let config = &self.running.config().cluster.flow_timeouts;
        Timeouts {
            tcp_opening_ms: config.tcp_opening_ms,
            tcp_established_ms: config.tcp_established_ms,
            tcp_closing_ms: config.tcp_closing_ms,
            tcp_closed_ms: config.tcp_closed_ms,
            opening_ms: config.opening_ms,
            established_ms: config.established_ms,
        }
    }

    /// Has workers' flows be silent as long as the configuration says.
    pub fn follow_flow_timeouts(&mut self) {
        let timeouts = self.flow_timeouts();
        if let Some((v4, v6)) = &mut self.balancing.flows
            && v4.timeouts != timeouts
        {
            (v4.timeouts, v6.timeouts) = (timeouts, timeouts);
            let _ = self.shared.set_flow_timeouts(timeouts);
        }
    }

    /// Gives every worker memory for flows: as the configuration says if there is so much, and if not by what is free.
    fn give_flows(&mut self) {
        let free_bytes = self.platform.memory().free_bytes;
        let mut wanted = capacities(free_bytes, self.shared.workers() as u64);
        match (self.check_flows(self.running.config()), self.running.config().cluster.flows_per_worker) {
            (Some(fault), _) => log::error!(target: "services", "{fault}; it is not in force"),
            (None, Some(flows)) => wanted = (flows as usize, flows as usize),
            (None, None) => {}
        }
        let (made, (flows4, flows6)) = loop {
            match self.make_flows(wanted) {
                Ok(made) => break (made, wanted),
                Err(error) if wanted.0 > FLOWS4.0 as usize => {
                    log::error!(target: "services", "{error}: half as many flows are tried");
                    wanted = (wanted.0 / 2, (wanted.1 / 2).max(FLOWS6.0 as usize));
                }
                Err(error) => {
                    log::error!(target: "services", "workers have no memory for flows: {error}");
                    return;
                }
            }
        };
        for (worker, flows) in made.into_iter().enumerate() {
            let _ = self.shared.give_flows(worker, flows);
        }
        let timeouts = self.flow_timeouts();
        let config = |capacity| FlowConfig { capacity, secret: [0; 2], timeouts };
        self.balancing.flows = Some((config(flows4), config(flows6)));
        log::info!(target: "services", "each worker has room for {flows4} IPv4 and {flows6} IPv6 flows");
    }

    /// Tables for so many IPv4 and IPv6 flows, for each worker.
    #[expect(clippy::vec_box, reason = "workers are given boxes")]
    fn make_flows(&mut self, (flows4, flows6): (usize, usize)) -> Result<Vec<Box<Flows>>, flow::Error> {
        let workers = self.shared.workers();
        let is_strict = self.running.config().cluster.tcp_window == TcpWindow::Strict;
        let timeouts = self.flow_timeouts();
        let config = |capacity, secret| FlowConfig { capacity, secret, timeouts };
        let make = |worker| {
            let mut secret = [0; 16];
            self.platform.random(&mut secret);
            let secret = u128::from_le_bytes(secret);
            let secret = [secret as u64, (secret >> 64) as u64];
            let mut flows = Flows::new(&config(flows4, secret), &config(flows6, secret), worker, workers)?;
            if is_strict {
                flows.follow_windows()?;
            }
            Ok(flows)
        };
        (0..workers).map(make).collect()
    }

    /// What is wrong with a configuration that wants more flows followed than there is memory for.
    pub fn check_flows(&self, config: &config::Config) -> Option<config::Problem> {
        let flows = u64::from(config.cluster.flows_per_worker?);
        let workers = self.shared.workers() as u64;
        let (wanted, taken) = (flow_bytes(&config.cluster), flow_bytes(&self.running.config().cluster));
        let of_pair = wanted.0 + wanted.1;
        let taken_bytes = self
            .balancing
            .flows
            .map_or(0, |(v4, v6)| workers * (v4.capacity as u64 * taken.0 + v6.capacity as u64 * taken.1));
        let bytes = (self.platform.memory().free_bytes + taken_bytes) / MOST_PART;
        let most = (bytes / of_pair / workers.max(1)).max(FLOWS4.0);
        (flows > most).then(|| config::Problem {
            pointer: "/cluster/flows_per_worker".into(),
            message: format!(
                "{flows} flows of each family for each of {workers} workers take {} MiB, more than half of the memory that is \
                 free; {most} fit",
                (flows * of_pair * workers) >> 20
            ),
        })
    }
}

/// Bytes of an IPv4 and of an IPv6 flow.
fn flow_bytes(cluster: &config::Cluster) -> (u64, u64) {
    let windows = if cluster.tcp_window == TcpWindow::Strict { WINDOW_BYTES } else { (0, 0) };
    (FLOW_BYTES.0 + windows.0, FLOW_BYTES.1 + windows.1)
}

/// IPv4 and IPv6 flows of each worker where so much memory is free.
fn capacities(free_bytes: u64, workers: u64) -> (usize, usize) {
    let bytes = free_bytes / MEMORY_PART / workers.max(1);
    let (flows4, flows6) = (bytes * 2 / 3 / FLOW_BYTES.0, bytes / 3 / FLOW_BYTES.1);
    (flows4.clamp(FLOWS4.0, FLOWS4.1) as usize, flows6.clamp(FLOWS6.0, FLOWS6.1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use resources::Object;
    use serde_json::json;
    use std::sync::Arc;

    /// A service at this address over backends on eth1's network.
    fn objects(address: &str) -> Vec<Arc<Object>> {
        let metadata = json!({"name": "web", "annotations": {"fairlead.dev/forwarding": "direct"}});
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"clusterIP": address, "ports": [{"port": 80}]},
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.1.9"]}],
        });
        [service, slice].map(|value| Arc::new(Object::read(value).unwrap())).into()
    }

    #[test]
    fn workers_get_services_with_memory_for_flows_and_lose_them_again() {
        let mut node = crate::testing::Machine::default().start(crate::Boot::default());
        assert!(node.shared.services().is_none());
        node.objects.restore(objects("10.96.0.1"), 1).unwrap();
        node.finish_objects();
        let snapshot = node.shared.services();
        let addresses: Vec<IpAddr> =
            snapshot.as_ref().iter().flat_map(balancer::Snapshot::addresses).collect();
        assert_eq!(addresses, ["10.96.0.1".parse::<IpAddr>().unwrap()]);
        assert!(node.shared.flow_counters(0).capacity4 >= 1 << 10);
        node.objects.restore(Vec::new(), 2).unwrap();
        node.finish_objects();
        assert!(node.shared.services().is_none());
    }

    #[test]
    fn flows_have_the_timeouts_of_the_configuration_at_once() {
        let mut node = crate::testing::Machine::default().start(crate::Boot::default());
        assert_eq!(node.flow_timeouts(), Timeouts::default());
        node.objects.restore(objects("10.96.0.1"), 1).unwrap();
        node.finish_objects();
        let generation = node.shared.advance();
        node.follow_flow_timeouts();
        assert_eq!(node.shared.advance(), generation + 1, "nothing has changed");
        let mut config = node.running.config().clone();
        config.cluster.flow_timeouts.established_ms = 5000;
        node.running.replace(config, None);
        node.follow_flow_timeouts();
        assert_eq!(node.shared.advance(), generation + 3);
        let (v4, v6) = node.balancing.flow_configs().unwrap();
        assert_eq!((v4.timeouts.established_ms, v6.timeouts.established_ms), (5000, 5000));
    }

    #[test]
    fn the_configuration_says_how_many_flows_a_worker_knows() {
        let module = json!({"cluster": {"flows_per_worker": 2048}}).to_string();
        let boot = crate::Boot { module: Some(module.as_bytes().into()), ..crate::Boot::default() };
        let mut node = crate::testing::Machine::default().start(boot);
        node.objects.restore(objects("10.96.0.1"), 1).unwrap();
        node.finish_objects();
        let counters = node.shared.flow_counters(0);
        assert_eq!((counters.capacity4, counters.capacity6), (2048, 2048));
    }

    #[test]
    fn more_flows_than_there_is_memory_for_are_not_in_force() {
        let module = json!({"cluster": {"flows_per_worker": 1 << 26}}).to_string();
        let boot = crate::Boot { module: Some(module.as_bytes().into()), ..crate::Boot::default() };
        let mut node = crate::testing::Machine::default().start(boot);
        let fault = node.check_flows(node.running.config()).expect("a machine of 64 MiB");
        assert_eq!(fault.pointer, "/cluster/flows_per_worker");
        let most: u64 = fault.message.split(' ').rev().nth(1).and_then(|most| most.parse().ok()).unwrap();
        assert!((1 << 17..1 << 18).contains(&most), "{fault}");
        node.objects.restore(objects("10.96.0.1"), 1).unwrap();
        node.finish_objects();
        let counters = node.shared.flow_counters(0);
        let by_memory = capacities(node.platform.memory().free_bytes, 1);
        assert_eq!((counters.capacity4, counters.capacity6), by_memory);
        // What fits is taken, whether or not tables are there already.
        let mut config = node.running.config().clone();
        for (flows, fits) in [(most, true), (most + by_memory.0 as u64, false)] {
            config.cluster.flows_per_worker = Some(flows as u32);
            assert_eq!(node.check(&config).is_ok(), fits, "{flows}");
        }
    }

    #[test]
    fn small_nodes_have_room_for_some_flows_and_large_ones_for_a_million() {
        const MIB: u64 = 1 << 20;
        let (flows4, flows6) = capacities(24 * MIB, 1);
        assert!(
            (30_000..60_000).contains(&flows4) && (9_000..20_000).contains(&flows6),
            "{flows4}, {flows6}"
        );
        assert_eq!(capacities(64 << 30, 8), (1 << 20, 1 << 18));
        assert_eq!(capacities(0, 4), (1 << 10, 1 << 9));
    }
}
