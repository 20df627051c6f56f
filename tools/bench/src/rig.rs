//! A router of two ports, built for one workload.

use crate::generator::Generator;
use crate::workload::{Routes, Workload};
use anyhow::{Context, Result, anyhow};
use buffer::{BufferPool, PortQueue, VECTOR_SIZE};
use dataplane::{
    Adjacency, AdjacencyId, Attachment, Interface, InterfaceId, NextHopGroup, Shared, Tables, Wake, Worker,
};
use fib::{Fib4Writer, Fib6Writer, Key, Prefix, Writer};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

const IN: InterfaceId = InterfaceId(0);
const OUT: InterfaceId = InterfaceId(1);
const HOST: [u8; 6] = [2, 0, 0, 0, 1, 0];
const MAC_IN: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const MAC_OUT: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// Neighbours that routes lead to, at the port that frames leave by.
const NEIGHBOURS: u32 = 16;
/// Destinations that are gone through again and again; more than fit into a branch predictor.
const DESTINATIONS: usize = 1 << 16;
/// Where IPv4 routes begin (16.0.0.0) and IPv6 routes (`2400::`).
const FIRST_IPV4: u32 = 16 << 24;
const FIRST_IPV6: u128 = 0x2400 << 112;

/// A router under measurement.
pub struct Rig {
    /// What it shares with its worker.
    pub shared: Arc<Shared>,
    /// Its worker.
    pub worker: Worker,
    /// The interface that every packet must leave by.
    pub out: InterfaceId,
}

struct NoWake;

impl Wake for NoWake {
    fn wake_worker(&self, _: usize) {}
    fn wake_control(&self) {}
}

impl Rig {
    /// Builds the router.
    pub fn new(workload: &Workload) -> Result<Self> {
        let mut fib4 = Fib4Writer::new().context("IPv4 route table")?;
        let mut fib6 = Fib6Writer::new().context("IPv6 route table")?;
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let destinations: Vec<IpAddr> = if workload.ipv6 {
            let prefixes = routes6(workload.routes, &mut random);
            let addresses = fill(&mut fib6, &prefixes, workload.routes, &mut random)?;
            addresses.into_iter().map(|address| Ipv6Addr::from_bits(address).into()).collect()
        } else {
            let prefixes = routes4(workload.routes, &mut random);
            let addresses = fill(&mut fib4, &prefixes, workload.routes, &mut random)?;
            addresses.into_iter().map(|address| Ipv4Addr::from_bits(address).into()).collect()
        };
        let seed = [random.next(), random.next()];
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, seed, Box::new(NoWake));
        let _ = shared.publish(tables()?);
        let pool = BufferPool::from_heap(8 * VECTOR_SIZE + Generator::buffers(workload));
        let (generator, sink) = Generator::new(workload, HOST, MAC_IN, destinations);
        let ports: Vec<(InterfaceId, Box<dyn PortQueue>)> =
            vec![(IN, Box::new(generator)), (OUT, Box::new(sink))];
        let worker = Worker::new(shared.clone(), 0, ports, pool.cache());
        Ok(Self { shared, worker, out: OUT })
    }
}

fn tables() -> Result<Tables> {
    let interface = |mac, number| Interface {
        attachment: Attachment::Port,
        mac,
        mtu: 1500,
        up: true,
        dhcp_client: false,
        ipv4: vec![(Ipv4Addr::new(10, 0, number, 1), 24)],
        ipv6: vec![(Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, 1), 64)],
        groups4: Vec::new(),
        groups6: Vec::new(),
    };
    let interfaces = vec![Some(interface(MAC_IN, 0)), Some(interface(MAC_OUT, 1))];
    let neighbour = |index| Adjacency::Neighbour { interface: OUT, mac: [2, 0, 0, 0, 2, index as u8] };
    let adjacencies: Vec<_> = (0..NEIGHBOURS).map(neighbour).collect();
    let mut groups = vec![NextHopGroup::default()];
    groups.extend((0..NEIGHBOURS).map(|index| NextHopGroup::single(AdjacencyId(index))));
    Tables::new(interfaces, &adjacencies, &groups).map_err(|error| anyhow!("tables: {error}"))
}

/// Inserts routes, and gives destinations behind random ones of them.
fn fill<K: Key + Destination>(
    fib: &mut Writer<K>,
    prefixes: &[(K, u8)],
    routes: Routes,
    random: &mut Random,
) -> Result<Vec<K>> {
    for (index, &(address, len)) in prefixes.iter().enumerate() {
        let prefix = Prefix::new(address, len).context("a prefix is too long")?;
        let group = index as u32 % NEIGHBOURS + 1;
        let _ = fib.insert(prefix, group).context("a route does not fit")?;
    }
    if routes == Routes::One {
        return Ok(prefixes.iter().map(|(address, _)| *address).collect());
    }
    let destination = |_| {
        let (address, len) = prefixes[random.below(prefixes.len() as u64) as usize];
        address.within(len, random.next())
    };
    Ok((0..DESTINATIONS).map(destination).collect())
}

/// An address with random bits behind a prefix.
trait Destination {
    fn within(self, len: u8, bits: u64) -> Self;
}

impl Destination for u32 {
    fn within(self, len: u8, bits: u64) -> Self {
        self | (bits as u32).checked_shr(len.into()).unwrap_or(0)
    }
}

impl Destination for u128 {
    fn within(self, len: u8, bits: u64) -> Self {
        self | (u128::from(bits) << 64 | u128::from(bits)).checked_shr(len.into()).unwrap_or(0)
    }
}

fn routes4(routes: Routes, random: &mut Random) -> Vec<(u32, u8)> {
    match routes {
        Routes::One => vec![(FIRST_IPV4 | 9, 32)],
        Routes::Uniform { count, len } => {
            (0..count).map(|index| (FIRST_IPV4 + (index << (32 - len)), len)).collect()
        }
        Routes::Random { count } => {
            let prefix = |_| {
                // Six of ten routes in the Internet are /24, most others between /16 and /23.
                let len = if random.below(10) < 6 { 24 } else { 16 + random.below(8) as u8 };
                // Unicast, and not the addresses that are checked one by one: 16.0.0.0 to 111.255.255.255.
                let address = FIRST_IPV4 + random.below(96 << 24) as u32;
                (address & (u32::MAX << (32 - len)), len)
            };
            (0..count).map(prefix).collect()
        }
    }
}

fn routes6(routes: Routes, random: &mut Random) -> Vec<(u128, u8)> {
    match routes {
        Routes::One => vec![(FIRST_IPV6 | 9, 128)],
        Routes::Uniform { count, len } => {
            (0..count).map(|index| (FIRST_IPV6 + (u128::from(index) << (128 - len)), len)).collect()
        }
        Routes::Random { count } => {
            let prefix = |_| {
                // Half of the Internet's routes are /48, most others between /29 and /44.
                let len = if random.below(2) == 0 { 48 } else { 29 + random.below(16) as u8 };
                let address = FIRST_IPV6 + (u128::from(random.next() >> 10) << 64);
                (address & (u128::MAX << (128 - len)), len)
            };
            (0..count).map(prefix).collect()
        }
    }
}

/// Sebastiano Vigna's `SplitMix64`: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}
