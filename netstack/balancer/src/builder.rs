//! Control's side: compiled services become snapshots, and backends keep their numbers.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hashbrown::HashTable;
use ipnet::IpNet;
use maglev::{FlowHasher, Seed, Table, TableSize};
use pace::Pace;
use services::object::IpFamily;
use services::{Compiled, Forwarding, Pool, PoolKey, Protocol, Scope, State};

use crate::quic::ServerIds;
use crate::snapshot::{Backend, End, Frontend, INDEX_BITS, Placing, Service, Snapshot};

/// What is the node's own, besides services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Shared with all nodes that balance the same services.
    pub seed: Seed,
    /// The node's addresses: where node ports are.
    pub node_addresses: Vec<IpAddr>,
    /// All the node's addresses: what it asks a backend from them has gone through no service.
    pub own_addresses: Vec<IpAddr>,
    /// TCP port of the node's own API: at the node's addresses no service gets it.
    pub api_port: Option<u16>,
    /// Source addresses of full NAT.
    pub source_addresses: Vec<IpAddr>,
    /// Source address of tunnels over IPv4.
    pub tunnel4: Option<Ipv4Addr>,
    /// Clients in these networks, but for those in the others, get a source address on their way to backends that are translated
    /// to and of the whole cluster.
    pub masquerade: (Vec<IpNet>, Vec<IpNet>),
    /// Source address of tunnels over IPv6.
    pub tunnel6: Option<Ipv6Addr>,
    /// Destination port of GUE.
    pub gue_port: u16,
}

/// The backends of a pool with their numbers.
type Numbers = BTreeMap<SocketAddr, u32>;

/// Makes snapshots, one after the other.
pub struct Builder {
    settings: Settings,
    numbers: BTreeMap<PoolKey, Numbers>,
    /// Indexes that nobody has, the one longest free first.
    free: VecDeque<u32>,
    /// Of each index, the generation it is or was used with.
    generations: Vec<u16>,
    /// The tables of the snapshot before.
    tables: BTreeMap<PoolKey, Built>,
}

/// A table and what it was built of.
struct Built {
    size: TableSize,
    /// Of each backend its address and its weight among those that get new flows.
    shares: Vec<(SocketAddr, u32)>,
    table: Option<Arc<Table>>,
}

/// Looks for a free slot of a table in a unit of work (crate `pace`), and units of a piece of that work.
const PROBES_PER_UNIT: u32 = 256;
const UNITS_PER_PIECE: u32 = 32;
/// Ends that are looked at for a unit of work.
const ENDS_PER_UNIT: u64 = 16;
/// Frontends that are added for a unit of work.
const FRONTENDS_PER_UNIT: usize = 8;

impl Builder {
    /// A builder that has numbered nobody yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            numbers: BTreeMap::new(),
            free: VecDeque::new(),
            generations: Vec::new(),
            tables: BTreeMap::new(),
        }
    }

    /// Takes other settings for the snapshots to come; backends keep their numbers.
    pub fn configure(&mut self, settings: Settings) {
        if settings.seed != self.settings.seed {
            self.tables.clear();
        }
        self.settings = settings;
    }

    /// The snapshot of some services. Pools too large for numbers or tables have no backends.
    pub fn build(&mut self, compiled: &Compiled) -> Snapshot {
        pace::at_once(|pace| async move { self.build_paced(compiled, &pace).await })
    }

    /// The same in short pieces. The tables of pools that are as they were in the
    /// snapshot before are shared with it.
    pub async fn build_paced(&mut self, compiled: &Compiled, pace: &Pace) -> Snapshot {
        let mut numbers = core::mem::take(&mut self.numbers);
        let settings = &self.settings;
        let of = |v4: bool| move |address: &&IpAddr| address.is_ipv4() == v4;
        let pool = |v4| settings.source_addresses.iter().filter(of(v4)).copied().collect();
        let mut snapshot = Snapshot {
            hasher: FlowHasher::new(&settings.seed),
            placing: Placing::new(&FlowHasher::new(&settings.seed)),
            frontends: HashTable::new(),
            addresses: HashTable::new(),
            masquerade: settings.masquerade.clone(),
            own: [&settings.node_addresses[..], &settings.own_addresses].concat(),
            ends: HashTable::new(),
            backend_addresses: HashTable::new(),
            has_own_frontends: false,
            services: Vec::new(),
            backends: Vec::new(),
            tunnels: Vec::new(),
            pool4: pool(true),
            pool6: pool(false),
            tunnel4: settings.tunnel4.map(|address| address.octets()),
            tunnel6: settings.tunnel6.map(|address| address.octets()),
            gue_port: settings.gue_port,
        };
        let mut tables = BTreeMap::new();
        for pool in &compiled.pools {
            let built = match self.tables.remove(&pool.key).filter(|built| built.is_of(pool)) {
                Some(built) => built,
                None => Built::new(pool, &self.settings.seed, pace).await,
            };
            pace.spend(1 + pool.backends.len() as u64 / ENDS_PER_UNIT).await;
            let known = numbers.remove(&pool.key).unwrap_or_default();
            self.add_service(&mut snapshot, pool, (built.table.clone(), known));
            let _ = tables.insert(pool.key.clone(), built);
        }
        for (_, gone) in numbers {
            pace.spend(1 + gone.len() as u64 / ENDS_PER_UNIT).await;
            self.forget(gone);
        }
        self.tables = tables;
        if snapshot.services.iter().any(|service| service.by_client) {
            pace.spend(snapshot.ends.len() as u64 / ENDS_PER_UNIT).await;
            share_owners(&mut snapshot);
        }
        self.add_frontends(&mut snapshot, compiled, pace).await;
        snapshot
    }

    async fn add_frontends(&self, snapshot: &mut Snapshot, compiled: &Compiled, pace: &Pace) {
        let mut frontends: Vec<&services::Frontend> = compiled.frontends.iter().collect();
        // Answers that no flow is known of are tried with them in this order. What asked an address of this node came here, and
        // its flow is known unless the table was full.
        let is_own = |address: IpAddr| snapshot.own.contains(&address);
        frontends.sort_by_key(|frontend| {
            (frontend.address.is_none_or(is_own), core::cmp::Reverse(frontend.exposure))
        });
        for (number, frontend) in frontends.into_iter().enumerate() {
            if number % FRONTENDS_PER_UNIT == 0 {
                pace.spend(1).await;
            }
            let Some(pool) = compiled.pools.get(frontend.pool) else { continue };
            let is_ours = |address: &&IpAddr| address.is_ipv4() == (pool.key.family == IpFamily::V4);
            let node = self.settings.node_addresses.iter().filter(is_ours).copied();
            let addresses: Vec<IpAddr> =
                frontend.address.map_or_else(|| node.collect(), |address| [address].into());
            for address in addresses {
                let is_own = snapshot.own.contains(&address);
                let is_tcp = pool.key.protocol == Protocol::Tcp;
                if !(is_own && is_tcp && self.settings.api_port == Some(frontend.port)) {
                    add_frontend(snapshot, frontend, pool, (address, is_own));
                }
            }
        }
    }

    /// Frees the numbers of backends that are not there any more.
    fn forget(&mut self, gone: Numbers) {
        self.free.extend(gone.into_values().map(|number| number & ((1 << INDEX_BITS) - 1)));
    }

    fn add_service(
        &mut self,
        snapshot: &mut Snapshot,
        pool: &Pool,
        (table, mut known): (Option<Arc<Table>>, Numbers),
    ) {
        let mut numbers: Numbers =
            pool.backends.iter().filter_map(|backend| known.remove_entry(&backend.address)).collect();
        self.forget(known);
        let by_client = pool.affinity.is_some();
        let seconds = pool.affinity.map_or(0, |affinity| affinity.timeout_seconds);
        let mut service = Service {
            table: None,
            backends: Vec::new(),
            by_client,
            owned_by_client: by_client,
            affinity_ms: seconds.saturating_mul(1000),
            frontends: Vec::new(),
            server_ids: None,
        };
        for backend in &pool.backends {
            let number = numbers.get(&backend.address).copied();
            let Some(number) = number.or_else(|| self.new_number()) else { break };
            let _ = numbers.insert(backend.address, number);
            let index = (number & ((1 << INDEX_BITS) - 1)) as usize;
            if snapshot.backends.len() <= index {
                snapshot.backends.resize(index + 1, None);
            }
            if let Some(place) = snapshot.backends.get_mut(index) {
                let is_active = backend.state == State::Active && backend.weight > 0;
                let (address, forwarding) = (backend.address, pool.forwarding);
                let backend = Backend { number, is_active, address, forwarding };
                *place = Some(backend);
                add_tunnel(snapshot, index, &backend);
            }
            service.backends.push(number);
            add_address(&mut snapshot.backend_addresses, snapshot.placing, backend.address.ip());
            if pool.forwarding == Forwarding::Nat {
                add_end(snapshot, (backend.address, pool.key.protocol.number()), number);
            }
        }
        if service.backends.len() == pool.backends.len() {
            service.table = table;
        }
        let _ = self.numbers.insert(pool.key.clone(), numbers);
        if let Some(bytes) = pool.server_id_bytes {
            let backends = pool
                .backends
                .iter()
                .map(|backend| backend.address.ip())
                .zip(service.backends.iter().copied());
            service.server_ids = Some(ServerIds::new(bytes, backends));
        }
        snapshot.services.push(service);
    }

    /// A number for a backend. An index is used again with another generation, so that a flow's number never means somebody
    /// else.
    fn new_number(&mut self) -> Option<u32> {
        let index = match self.free.pop_front() {
            Some(index) => {
                let generation = self.generations.get_mut(index as usize)?;
                *generation = (*generation + 1) & ((1 << (32 - INDEX_BITS)) - 1);
                index
            }
            None => {
                let index = u32::try_from(self.generations.len())
                    .ok()
                    .filter(|index| *index < (1 << INDEX_BITS) - 1)?;
                self.generations.push(0);
                index
            }
        };
        let generation = *self.generations.get(index as usize)?;
        Some(u32::from(generation) << INDEX_BITS | index)
    }
}

impl Built {
    async fn new(pool: &Pool, seed: &Seed, pace: &Pace) -> Self {
        let mut building = pool.building(seed).ok();
        if let Some(building) = &mut building {
            loop {
                pace.spend(UNITS_PER_PIECE.into()).await;
                if building.advance(UNITS_PER_PIECE * PROBES_PER_UNIT) {
                    break;
                }
            }
        }
        let table = building.map(|building| Arc::new(building.finish()));
        Self { size: pool.table_size, shares: shares(pool).collect(), table }
    }

    /// Whether a table of this pool would be the same.
    fn is_of(&self, pool: &Pool) -> bool {
        self.size == pool.table_size && self.shares.iter().copied().eq(shares(pool))
    }
}

fn shares(pool: &Pool) -> impl Iterator<Item = (SocketAddr, u32)> {
    let weight =
        |backend: &services::Backend| if backend.state == State::Active { backend.weight } else { 0 };
    pool.backends.iter().map(move |backend| (backend.address, weight(backend)))
}

/// Makes the tunnel to the backend of an index ready, if it is reached by one.
fn add_tunnel(snapshot: &mut Snapshot, index: usize, backend: &Backend) {
    let Some(tunnel) = snapshot.tunnel_to(backend) else { return };
    if snapshot.tunnels.len() <= index {
        snapshot.tunnels.resize(index + 1, None);
    }
    if let Some(place) = snapshot.tunnels.get_mut(index) {
        *place = Some(tunnel);
    }
}

/// Notes where a backend of the service that is added next listens.
fn add_end(snapshot: &mut Snapshot, (at, protocol): (SocketAddr, u8), number: u32) {
    let placing = snapshot.placing;
    let place_of = |end: &End| placing.of(end.at, end.protocol);
    let is_this = |end: &End| end.at == at && end.protocol == protocol;
    let end = snapshot.ends.entry(placing.of(at, protocol), is_this, place_of);
    let mut end = end.or_insert_with(|| End { at, protocol, uses: Vec::new() });
    end.get_mut().uses.push((snapshot.services.len(), number));
}

/// What a backend answers does not say by which of its services it was asked. So services that have a backend in common, by
/// others if need be, have their flows' workers found alike.
fn share_owners(snapshot: &mut Snapshot) {
    let mut leaders: Vec<usize> = (0..snapshot.services.len()).collect();
    for end in &snapshot.ends {
        for pair in end.uses.windows(2) {
            let &[(one, _), (other, _)] = pair else { continue };
            let (one, other) = (leader(&mut leaders, one), leader(&mut leaders, other));
            if let Some(place) = leaders.get_mut(one.max(other)) {
                *place = one.min(other);
            }
        }
    }
    let by_client: BTreeSet<usize> = (0..)
        .zip(&snapshot.services)
        .filter(|(_, service)| service.by_client)
        .map(|(number, _)| leader(&mut leaders, number))
        .collect();
    for (number, service) in snapshot.services.iter_mut().enumerate() {
        service.owned_by_client = by_client.contains(&leader(&mut leaders, number));
    }
}

/// The least of those that a service is known to share with, which knows no lesser one. Shortens the way there.
fn leader(leaders: &mut [usize], mut number: usize) -> usize {
    while let Some(next) = leaders.get(number).copied().filter(|next| *next < number) {
        let after = leaders.get(next).copied().unwrap_or(next);
        if let Some(place) = leaders.get_mut(number) {
            *place = after;
        }
        number = after;
    }
    number
}

fn add_frontend(
    snapshot: &mut Snapshot,
    frontend: &services::Frontend,
    pool: &Pool,
    (address, is_own): (IpAddr, bool),
) {
    let at = SocketAddr::new(address, frontend.port);
    let protocol = pool.key.protocol.number();
    let placing = snapshot.placing;
    let (masquerade, source_ranges) = (&snapshot.masquerade.0, frontend.source_ranges.clone());
    let is_masqueraded = pool.key.scope == Scope::Cluster && !masquerade.is_empty();
    let looks_at_clients = is_masqueraded || !source_ranges.is_empty();
    let entry =
        Frontend { at, protocol, service: frontend.pool, source_ranges, is_masqueraded, looks_at_clients };
    let place_of = |frontend: &Frontend| placing.of(frontend.at, frontend.protocol);
    let _ = snapshot.frontends.insert_unique(place_of(&entry), entry, place_of);
    if let Some(service) = snapshot.services.get_mut(frontend.pool) {
        service.frontends.push(at);
    }
    if is_own {
        snapshot.has_own_frontends = true;
        return;
    }
    add_address(&mut snapshot.addresses, placing, address);
}

/// Notes an address.
fn add_address(addresses: &mut HashTable<IpAddr>, placing: Placing, address: IpAddr) {
    let place_of = |address: &IpAddr| placing.of(SocketAddr::new(*address, 0), 0);
    let _ = addresses.entry(place_of(&address), |known| *known == address, place_of).or_insert(address);
}
