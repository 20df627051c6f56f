//! What workers read: all services of a moment.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use ipnet::IpNet;
use maglev::{FlowHasher, Table};
use rewrite::{Outer, Tuple};
use services::Forwarding;

/// All services of a moment, immutable.
pub struct Snapshot {
    pub(crate) hasher: FlowHasher,
    pub(crate) frontends: HashTable<Frontend>,
    /// The addresses of all frontends.
    pub(crate) addresses: HashTable<IpAddr>,
    pub(crate) services: Vec<Service>,
    pub(crate) backends: Vec<Option<Backend>>,
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
}

/// A service as a worker needs to know it.
pub(crate) struct Service {
    /// None if nobody serves.
    pub(crate) table: Option<Table>,
    /// Numbers of the table's backends.
    pub(crate) backends: Vec<u32>,
    /// A client's address alone chooses the backend.
    pub(crate) by_client: bool,
}

/// A backend of a service. Its number stays the same from one snapshot to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Tells those apart that have a number one after the other.
    pub(crate) generation: u16,
    /// Where its packets go.
    pub address: SocketAddr,
    /// How they get there.
    pub forwarding: Forwarding,
}

/// Bits of a backend's number that are its index; those above are its generation.
pub(crate) const INDEX_BITS: u32 = 20;

impl Snapshot {
    /// The backend of a number, unless it is gone.
    #[inline]
    pub fn backend(&self, number: u32) -> Option<&Backend> {
        let index = number & ((1 << INDEX_BITS) - 1);
        let backend = self.backends.get(index as usize)?.as_ref()?;
        (u32::from(backend.generation) == number >> INDEX_BITS).then_some(backend)
    }

    /// Number of frontends.
    pub fn frontends(&self) -> usize {
        self.frontends.len()
    }

    pub(crate) fn frontend(&self, at: SocketAddr, protocol: u8) -> Option<&Frontend> {
        let found = |frontend: &Frontend| frontend.at == at && frontend.protocol == protocol;
        self.frontends.find(self.place(at, protocol), found)
    }

    /// True if some service has this address.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        let place = self.place(SocketAddr::new(address, 0), 0);
        self.addresses.find(place, |known| *known == address).is_some()
    }

    pub(crate) fn place(&self, at: SocketAddr, protocol: u8) -> u64 {
        place(&self.hasher, at, protocol)
    }

    /// The hash of a flow, the same on all nodes.
    pub(crate) fn hash(&self, tuple: &Tuple) -> u64 {
        match tuple {
            Tuple::V4(key) => {
                let ports = (key.source_port, key.destination_port);
                self.hasher.ipv4(key.source, key.destination, key.protocol, ports)
            }
            Tuple::V6(key) => {
                let ports = (key.source_port, key.destination_port);
                self.hasher.ipv6(key.source, key.destination, key.protocol, ports)
            }
        }
    }

    /// The number of the backend that a service's table has for a flow.
    pub(crate) fn choose(&self, service: &Service, tuple: &Tuple) -> Option<u32> {
        let hash = match (service.by_client, tuple) {
            (false, tuple) => self.hash(tuple),
            (true, Tuple::V4(key)) => self.hasher.client(&key.source),
            (true, Tuple::V6(key)) => self.hasher.client(&key.source),
        };
        let index = service.table.as_ref()?.backend(hash);
        service.backends.get(index as usize).copied()
    }

    /// Sources for full NAT of the family of a backend.
    pub(crate) fn pool(&self, backend: IpAddr) -> &[IpAddr] {
        if backend.is_ipv4() { &self.pool4 } else { &self.pool6 }
    }

    /// The ends of a tunnel to a backend, if we have an address of its family.
    pub(crate) fn outer(&self, backend: IpAddr) -> Option<Outer> {
        match backend {
            IpAddr::V4(address) => Some(Outer::V4(self.tunnel4?, address.octets())),
            IpAddr::V6(address) => Some(Outer::V6(self.tunnel6?, address.octets())),
        }
    }
}

pub(crate) fn place(hasher: &FlowHasher, at: SocketAddr, protocol: u8) -> u64 {
    match at {
        SocketAddr::V4(at) => hasher.ipv4([0; 4], at.ip().octets(), protocol, (0, at.port())),
        SocketAddr::V6(at) => hasher.ipv6([0; 16], at.ip().octets(), protocol, (0, at.port())),
    }
}
