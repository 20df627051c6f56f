//! What workers read: all services of a moment.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use ipnet::IpNet;
use maglev::{FlowHasher, Seed, Table};
use rewrite::{Fragment, Outer, SourcePool, Tunnel, Tuple, View};
use services::Forwarding;

use crate::decide::{Family, is_admitted, subject};
use crate::quic::ServerIds;

/// All services of a moment, immutable.
pub struct Snapshot {
    pub(crate) hasher: FlowHasher,
    pub(crate) placing: Placing,
    pub(crate) frontends: HashTable<Frontend>,
    /// The addresses of all frontends that are not the node's own.
    pub(crate) addresses: HashTable<IpAddr>,
    /// Clients in the first networks, but for those in the second, get a source address of ours where
    /// [`Frontend::is_masqueraded`].
    pub(crate) masquerade: (Vec<IpNet>, Vec<IpNet>),
    /// The node's own addresses.
    pub(crate) own: Vec<IpAddr>,
    /// Where backends listen that have their packets translated.
    pub(crate) ends: HashTable<End>,
    /// The addresses of all backends.
    pub(crate) backend_addresses: HashTable<IpAddr>,
    /// Some frontends are at the node's own addresses.
    pub(crate) has_own_frontends: bool,
    pub(crate) services: Vec<Service>,
    pub(crate) backends: Vec<Option<Backend>>,
    /// By the index of the backend, of those that are reached by one.
    pub(crate) tunnels: Vec<Option<Tunnel>>,
    pub(crate) pool4: Vec<IpAddr>,
    pub(crate) pool6: Vec<IpAddr>,
    pub(crate) tunnel4: Option<[u8; 4]>,
    pub(crate) tunnel6: Option<[u8; 16]>,
    pub(crate) gue_port: u16,
}

/// An address, port and protocol that clients use.
pub(crate) struct Frontend {
    pub(crate) at: SocketAddr,
    pub(crate) protocol: u8,
    /// Index of the service.
    pub(crate) service: usize,
    /// Who may use it; everybody if it is empty.
    pub(crate) source_ranges: Vec<IpNet>,
    /// Some clients get a source address of ours.
    pub(crate) is_masqueraded: bool,
    /// Either is so.
    pub(crate) looks_at_clients: bool,
}

/// A service as a worker needs to know it.
pub(crate) struct Service {
    /// None if nobody serves.
    pub(crate) table: Option<Arc<Table>>,
    /// Numbers of the table's backends.
    pub(crate) backends: Vec<u32>,
    /// A client's address alone chooses the backend.
    pub(crate) by_client: bool,
    /// The client's address alone says which worker has its flows: its own do, or those of another service with a common backend.
    pub(crate) owned_by_client: bool,
    /// How long it keeps it after its last new flow, in milliseconds, if `by_client`.
    pub(crate) affinity_ms: u32,
    /// Where clients reach it.
    pub(crate) frontends: Vec<SocketAddr>,
    /// Backends that QUIC connections name, if they do.
    pub(crate) server_ids: Option<ServerIds>,
}

impl Service {
    /// True if the table of flows says which backend a client has. A QUIC connection's own ID goes before that.
    pub(crate) fn keeps_clients(&self) -> bool {
        self.by_client && self.server_ids.is_none()
    }

    /// The number of the backend that the table has for a hash.
    fn backend_of(&self, hash: u64) -> Option<u32> {
        self.backend_at(self.table.as_ref()?.slot(hash))
    }

    /// The number of the backend that has a slot of the table.
    #[inline(always)]
    pub(crate) fn backend_at(&self, slot: u32) -> Option<u32> {
        let index = self.table.as_ref()?.at(slot);
        self.backends.get(index as usize).copied()
    }
}

/// Where a backend of some services listens.
pub(crate) struct End {
    pub(crate) at: SocketAddr,
    pub(crate) protocol: u8,
    /// The services, by index, and the backend's number in each.
    pub(crate) uses: Vec<(usize, u32)>,
}

/// A backend of a service. Its number stays the same from one snapshot to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its number.
    pub(crate) number: u32,
    /// It gets new flows.
    pub(crate) is_active: bool,
    /// Where its packets go.
    pub address: SocketAddr,
    /// How they get there.
    pub forwarding: Forwarding,
}

/// Where a flow goes that no table of flows knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Place of the pool among those that the snapshot was built of.
    pub pool: usize,
    /// The client is in the service's source ranges.
    pub is_admitted: bool,
    /// The client's address alone chooses.
    pub by_client: bool,
    /// The slot of the pool's table; none if nobody serves.
    pub slot: Option<u32>,
    /// The backend.
    pub backend: Option<SocketAddr>,
}

/// The worker that a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It has the packet's flow.
    Flow(u16),
    /// There all fragments of the packet meet, and [`Balancer::owner_of_fragment`](crate::Balancer::owner_of_fragment) says
    /// who has its flow.
    Fragments(u16),
}

/// Bits of a backend's number that are its index; those above are its generation.
pub(crate) const INDEX_BITS: u32 = 20;

/// The number that no backend has: of flows that are not for services.
pub(crate) const NOBODY: u32 = u32::MAX;

/// Frontends that an answer without a flow is tried with at most.
const MAX_TRIED: usize = 16;

impl Default for Snapshot {
    /// No services.
    fn default() -> Self {
        Self {
            hasher: FlowHasher::new(&Seed::default()),
            placing: Placing::new(&FlowHasher::new(&Seed::default())),
            frontends: HashTable::new(),
            addresses: HashTable::new(),
            masquerade: (Vec::new(), Vec::new()),
            own: Vec::new(),
            ends: HashTable::new(),
            backend_addresses: HashTable::new(),
            has_own_frontends: false,
            services: Vec::new(),
            backends: Vec::new(),
            tunnels: Vec::new(),
            pool4: Vec::new(),
            pool6: Vec::new(),
            tunnel4: None,
            tunnel6: None,
            gue_port: 0,
        }
    }
}

impl Snapshot {
    /// The index of a backend's number: below [`Snapshot::backend_indexes`], and used again for another backend some time
    /// after the first is gone.
    #[inline]
    pub fn index_of(number: u32) -> usize {
        (number & ((1 << INDEX_BITS) - 1)) as usize
    }

    /// One more than the largest index of a backend.
    pub fn backend_indexes(&self) -> usize {
        self.backends.len()
    }

    /// Addresses of services that are not the node's own.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied()
    }

    /// Backends with their numbers.
    pub fn backends(&self) -> impl Iterator<Item = (u32, &Backend)> + '_ {
        self.backends.iter().flatten().map(|backend| (backend.number, backend))
    }

    /// The backend of a number, unless it is gone.
    #[inline]
    pub fn backend(&self, number: u32) -> Option<&Backend> {
        let backend = self.backends.get(Snapshot::index_of(number))?.as_ref()?;
        (backend.number == number).then_some(backend)
    }

    /// The table of a pool, by its place among those that the snapshot was built of; none if nobody serves.
    pub fn table(&self, pool: usize) -> Option<&Arc<Table>> {
        self.services.get(pool)?.table.as_ref()
    }

    /// The number of a backend, by its pool's place and its own among those that the snapshot was built of.
    pub fn number(&self, pool: usize, backend: usize) -> Option<u32> {
        self.services.get(pool)?.backends.get(backend).copied()
    }

    /// Where the first packet of a flow goes, and why; none if it is for no service.
    pub fn choice(&self, protocol: u8, source: SocketAddr, destination: SocketAddr) -> Option<Choice> {
        let frontend = self.frontend(destination, protocol)?;
        let service = self.services.get(frontend.service)?;
        let hash = match (source, destination) {
            (SocketAddr::V4(from), _) if service.by_client => self.hasher.client(&from.ip().octets()),
            (SocketAddr::V6(from), _) if service.by_client => self.hasher.client(&from.ip().octets()),
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                let (addresses, ports) = ((from.ip().octets(), to.ip().octets()), (from.port(), to.port()));
                self.hasher.ipv4(addresses.0, addresses.1, protocol, ports)
            }
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                let (addresses, ports) = ((from.ip().octets(), to.ip().octets()), (from.port(), to.port()));
                self.hasher.ipv6(addresses.0, addresses.1, protocol, ports)
            }
            _ => return None,
        };
        let table = service.table.as_ref();
        let index = table.map(|table| table.backend(hash));
        let number = index.and_then(|index| service.backends.get(index as usize));
        Some(Choice {
            pool: frontend.service,
            is_admitted: is_admitted(frontend, source.ip()),
            by_client: service.by_client,
            slot: table.map(|table| table.slot(hash)),
            backend: number.and_then(|number| self.backend(*number)).map(|backend| backend.address),
        })
    }

    /// Number of frontends.
    pub fn frontends(&self) -> usize {
        self.frontends.len()
    }

    #[inline(always)]
    pub(crate) fn frontend(&self, at: SocketAddr, protocol: u8) -> Option<&Frontend> {
        if self.frontends.is_empty() {
            return None;
        }
        let found = |frontend: &Frontend| frontend.at == at && frontend.protocol == protocol;
        self.frontends.find(self.place(at, protocol), found)
    }

    /// True if some service has this address.
    #[inline]
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        if self.addresses.is_empty() {
            return false;
        }
        self.is_among(&self.addresses, address)
    }

    fn is_among(&self, addresses: &HashTable<IpAddr>, address: IpAddr) -> bool {
        let place = self.place(SocketAddr::new(address, 0), 0);
        addresses.find(place, |known| *known == address).is_some()
    }

    /// True if something at this address may be a service's: it is one's, or the node's own and has node ports.
    pub(crate) fn serves_at(&self, address: IpAddr) -> bool {
        self.has_address(address) || self.has_own_frontends && self.own.contains(&address)
    }

    /// True if a client gets a source address of ours on its way to a backend of this frontend.
    pub(crate) fn masquerades(&self, frontend: &Frontend, client: IpAddr) -> bool {
        let has = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        frontend.is_masqueraded && has(&self.masquerade.0) && !has(&self.masquerade.1)
    }

    /// True if some backend has this address.
    pub(crate) fn has_backend_at(&self, address: IpAddr) -> bool {
        self.is_among(&self.backend_addresses, address)
    }

    #[inline]
    fn end(&self, at: SocketAddr, protocol: u8) -> Option<&End> {
        if self.ends.is_empty() {
            return None;
        }
        self.ends.find(self.place(at, protocol), |end| end.at == at && end.protocol == protocol)
    }

    /// True if a backend listens here.
    #[inline]
    pub(crate) fn is_backend(&self, at: SocketAddr, protocol: u8) -> bool {
        self.end(at, protocol).is_some()
    }

    /// The number of the backend that listens here, in one of its services.
    pub(crate) fn backend_at(&self, at: SocketAddr, protocol: u8) -> Option<u32> {
        self.end(at, protocol)?.uses.first().map(|(_, number)| *number)
    }

    /// The flow that a packet answers which has nothing but its addresses and ports: one to a frontend whose table has
    /// the packet's sender for it, or `is_kept` says that its client keeps that. With the backend's number. Of several, what
    /// outside clients use comes first, and the node's own addresses last. What the node itself asked a backend did not go through a service.
    pub(crate) fn answered(
        &self,
        tuple: &Tuple,
        is_kept: impl Fn(&Tuple, u32) -> bool,
    ) -> Option<(u32, Tuple)> {
        let end = self.end(tuple.source(), tuple.protocol())?;
        if self.own.contains(&tuple.destination().ip()) {
            return None;
        }
        let client = tuple.reversed();
        let tries = end.uses.iter().flat_map(|(service, number)| {
            let service = self.services.get(*service);
            let frontends = service.into_iter().flat_map(|service| &service.frontends);
            frontends.map(move |at| (service, *number, *at))
        });
        tries.take(MAX_TRIED).find_map(|(service, number, at)| {
            let asks = client.with_destination(at)?;
            let frontend = self.frontend(at, tuple.protocol())?;
            let service = service?;
            let is_its = self.choose(service, &asks) == Some(number)
                || service.keeps_clients() && is_kept(&asks, number);
            (is_its && is_admitted(frontend, asks.source().ip())).then_some((number, asks))
        })
    }

    /// Bytes before the inner packet, if this is the start of an outer packet from here to a backend, and there is enough
    /// of the inner one to know its flow: one to a service.
    pub fn tunnelled(&self, packet: &[u8]) -> Option<usize> {
        let outer = View::parse_embedded(packet).ok()?;
        let (source, destination) = (outer.tuple.source().ip(), outer.tuple.destination());
        let is_from_here = match source {
            IpAddr::V4(address) => self.tunnel4 == Some(address.octets()),
            IpAddr::V6(address) => self.tunnel6 == Some(address.octets()),
        };
        if !is_from_here || !self.has_backend_at(destination.ip()) {
            return None;
        }
        let at = match outer.tuple.protocol() {
            rewrite::IPV4_IN_IP | rewrite::IPV6_IN_IP => outer.transport_offset,
            packet::protocol::UDP if destination.port() == self.gue_port => {
                outer.transport_offset + size_of::<packet::udp::Udp>()
            }
            _ => return None,
        };
        let inner = View::parse_embedded(packet.get(at..)?).ok()?.tuple;
        let is_to_service = self.frontend(inner.destination(), inner.protocol()).is_some()
            || self.has_address(inner.destination().ip());
        is_to_service.then_some(at)
    }

    /// Which of some workers a packet is for. Its flow's is the same for both directions: by the address and port of the end
    /// that is not a service's (for clients that keep their backend, by the address alone), or where full NAT has put the worker
    /// into the port, by that.
    pub fn owner(&self, packet: &[u8], workers: u16, ports: (u16, u16)) -> Owner {
        let Ok(view) = View::parse(packet).or_else(|_| View::parse_embedded(packet)) else {
            return Owner::Flow(0);
        };
        let tuple = subject(&view, packet).map_or(view.tuple, |about| about.reversed());
        if view.fragment == Fragment::Whole {
            return Owner::Flow(self.owner_of(&tuple, workers, ports));
        }
        let hash = |end: SocketAddr| self.place(SocketAddr::new(end.ip(), 0), 0);
        let hash = hash(tuple.source()).wrapping_add(hash(tuple.destination()));
        Owner::Fragments(share(hash, workers))
    }

    /// Which worker has a flow.
    pub(crate) fn owner_of(&self, tuple: &Tuple, workers: u16, ports: (u16, u16)) -> u16 {
        let protocol = tuple.protocol();
        let (source, destination) = (tuple.source(), tuple.destination());
        if self.pool(destination.ip()).contains(&destination.ip())
            && let Some(worker) = SourcePool::<IpAddr>::owner(ports.0..=ports.1, destination.port(), workers)
            && self.frontend(destination, protocol).is_none()
        {
            return worker;
        }
        let (end, other, by_client) = if let Some(frontend) = self.frontend(destination, protocol) {
            (source, None, self.is_owned_by_client(frontend.service))
        } else if let Some(end) = self.end(source, protocol) {
            (destination, None, end.uses.iter().any(|(service, _)| self.is_owned_by_client(*service)))
        } else if let Some(frontend) = self.frontend(source, protocol) {
            // A backend answers its client itself, and this node is on its way.
            (destination, None, self.is_owned_by_client(frontend.service))
        } else if let Some(end) = self.end(destination, protocol) {
            (source, None, end.uses.iter().any(|(service, _)| self.is_owned_by_client(*service)))
        } else {
            (source, Some(destination), false)
        };
        let hash = |end: SocketAddr| {
            self.place(SocketAddr::new(end.ip(), if by_client { 0 } else { end.port() }), protocol)
        };
        share(hash(end).wrapping_add(other.map_or(0, hash)), workers)
    }

    fn is_owned_by_client(&self, service: usize) -> bool {
        self.services.get(service).is_some_and(|service| service.owned_by_client)
    }

    #[inline(always)]
    pub(crate) fn place(&self, at: SocketAddr, protocol: u8) -> u64 {
        self.placing.of(at, protocol)
    }

    /// The hash of a flow, the same on all nodes.
    pub(crate) fn hash(&self, tuple: &Tuple) -> u64 {
        match tuple {
            Tuple::V4(key) => key.flow_hash(&self.hasher),
            Tuple::V6(key) => key.flow_hash(&self.hasher),
        }
    }

    /// True if there are no services.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    /// The number of the backend of a flow that begins with this packet: the one that it names, or the one that the
    /// service's table has for it.
    #[inline(always)]
    pub(crate) fn choose_for(&self, service: &Service, tuple: &Tuple, packet: Payload<'_>) -> Option<u32> {
        let named = match &service.server_ids {
            Some(ids) if tuple.protocol() == packet::protocol::UDP => ids.backend(packet.of_udp()),
            _ => None,
        };
        named.or_else(|| self.choose(service, tuple))
    }

    /// The number of the backend that a service's table has for a flow.
    #[inline(always)]
    pub(crate) fn choose(&self, service: &Service, tuple: &Tuple) -> Option<u32> {
        let hash = match (service.by_client, tuple) {
            (false, tuple) => self.hash(tuple),
            (true, Tuple::V4(key)) => self.hasher.client(&key.source),
            (true, Tuple::V6(key)) => self.hasher.client(&key.source),
        };
        service.backend_of(hash)
    }

    /// Sources for full NAT of the family of a backend.
    pub(crate) fn pool(&self, backend: IpAddr) -> &[IpAddr] {
        if backend.is_ipv4() { &self.pool4 } else { &self.pool6 }
    }

    /// The tunnel to the backend of a number, which is not gone, if it is reached by one and we have an address of its family.
    #[inline(always)]
    pub(crate) fn tunnel(&self, number: u32) -> Option<&Tunnel> {
        self.tunnels.get(Snapshot::index_of(number))?.as_ref()
    }

    /// Makes the tunnel to a backend ready, if it is reached by one.
    pub(crate) fn tunnel_to(&self, backend: &Backend) -> Option<Tunnel> {
        let gue_port = match backend.forwarding {
            Forwarding::Gue => Some(self.gue_port),
            Forwarding::Ipip => None,
            Forwarding::Nat | Forwarding::FullNat | Forwarding::Direct => return None,
        };
        let outer = match backend.address.ip() {
            IpAddr::V4(address) => Outer::V4(self.tunnel4?, address.octets()),
            IpAddr::V6(address) => Outer::V6(self.tunnel6?, address.octets()),
        };
        Some(Tunnel::new(outer, gue_port))
    }
}

/// Which of some workers has the part of a hash.
fn share(hash: u64, workers: u16) -> u16 {
    ((u128::from(hash) * u128::from(workers)) >> 64) as u16
}

/// Where things with an address, port and protocol are in the tables of a snapshot: a hash of a few instructions. Nobody but
/// the node needs to know it, and its key is as secret as the nodes' seed.
#[derive(Clone, Copy)]
pub(crate) struct Placing([u64; 2]);

impl Placing {
    pub(crate) fn new(hasher: &FlowHasher) -> Self {
        Self([0, 1].map(|key| hasher.client(&[key; 3])))
    }

    #[inline(always)]
    pub(crate) fn of(&self, at: SocketAddr, protocol: u8) -> u64 {
        let end = u64::from(at.port()) << 8 | u64::from(protocol);
        match at.ip() {
            IpAddr::V4(address) => self.mix(u64::from(address.to_bits()) << 24 | end, 0),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                self.mix(self.mix(bits as u64, (bits >> 64) as u64), end)
            }
        }
    }

    /// Both halves of a 128-bit product, folded.
    #[inline(always)]
    fn mix(&self, a: u64, b: u64) -> u64 {
        let product = u128::from(a ^ self.0[0]) * u128::from(b ^ self.0[1]);
        product as u64 ^ (product >> 64) as u64
    }
}

/// A packet and where its transport header is.
#[derive(Clone, Copy)]
pub(crate) struct Payload<'a> {
    pub(crate) packet: &'a [u8],
    pub(crate) transport_offset: usize,
}

impl<'a> Payload<'a> {
    fn of_udp(self) -> &'a [u8] {
        self.packet.get(self.transport_offset + size_of::<packet::udp::Udp>()..).unwrap_or_default()
    }
}
