//! The databases of control: security associations, tunnels, policies. What a key daemon drives.
//!
//! A rekey without loss: [`Database::add`] the new inbound SA and publish; [`Database::add`] the new outbound SA,
//! [`Database::switch`] the tunnel to it and publish; [`Database::remove`] the old ones some seconds later. Both inbound SAs
//! work meanwhile, and an SA that stays keeps its sequence numbers and its window, whatever is published around it.

use crate::policy::Spd;
use crate::sa::{HARD_EXPIRED, PEER_MOVED, SOFT_EXPIRED};
use crate::snapshot::TunnelRow;
use crate::{Direction, Entropy, Policy, Sa, SaError, SaId, SaParameters, Snapshot, Tunnel, TunnelId};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use crypto::gcm::Gcm;
use ipnet::IpNet;

/// Tunnels that there are at most.
const MAX_TUNNELS: u32 = 65_536;

/// Why the databases refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseError {
    /// The SA is not possible.
    Sa(SaError),
    /// An inbound SA with this SPI exists.
    SpiTaken(u32),
    /// No such SA.
    NoSuchSa(SaId),
    /// The SA is not an outbound one.
    NotOutbound(SaId),
    /// A tunnel's number is above what there may be.
    TooManyTunnels(TunnelId),
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sa(error) => error.fmt(f),
            Self::SpiTaken(spi) => write!(f, "spi: an inbound SA has SPI {spi:#x} already"),
            Self::NoSuchSa(id) => write!(f, "there is no SA {}", id.0),
            Self::NotOutbound(id) => write!(f, "SA {} does not encrypt", id.0),
            Self::TooManyTunnels(id) => write!(f, "tunnel {} is above {}", id.0, MAX_TUNNELS - 1),
        }
    }
}

impl core::error::Error for DatabaseError {}

impl From<SaError> for DatabaseError {
    fn from(error: SaError) -> Self {
        Self::Sa(error)
    }
}

/// Something that a key daemon should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The SA.
    pub sa: SaId,
    /// What happened to it.
    pub kind: EventKind,
}

/// What happened to an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It should be replaced soon.
    SoftExpired,
    /// It carries nothing any more.
    HardExpired,
    /// Authentic packets come from another UDP port of the peer; the tunnel's outbound SA follows.
    PeerMoved {
        /// The port.
        port: u16,
    },
}

/// All SAs, tunnels and policies of a node.
#[derive(Debug)]
pub struct Database {
    sas: BTreeMap<SaId, Known>,
    spis: BTreeSet<u32>,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    policies: Vec<Policy>,
    must_encrypt: Vec<IpNet>,
    next_id: u64,
    gcm: Gcm,
}

#[derive(Debug)]
struct Known {
    sa: Arc<Sa>,
    /// Messages that were passed on already.
    reported: u32,
}

impl Database {
    /// An empty one, whose workers use this AES-GCM implementation.
    pub fn new(gcm: Gcm) -> Self {
        Self {
            sas: BTreeMap::new(),
            spis: BTreeSet::new(),
            tunnels: BTreeMap::new(),
            policies: Vec::new(),
            must_encrypt: Vec::new(),
            next_id: 1,
            gcm,
        }
    }

    /// Adds an SA. It decrypts with the next snapshot, and encrypts once a tunnel is switched to it.
    pub fn add(
        &mut self,
        parameters: SaParameters,
        entropy: &Entropy,
        now_ns: u64,
    ) -> Result<Arc<Sa>, DatabaseError> {
        let (spi, direction) = (parameters.spi, parameters.direction);
        if direction == Direction::Inbound && self.spis.contains(&spi) {
            return Err(DatabaseError::SpiTaken(spi));
        }
        let id = SaId(self.next_id);
        let sa = Arc::new(Sa::new(id, parameters, entropy, now_ns)?);
        self.next_id += 1;
        if direction == Direction::Inbound {
            let _ = self.spis.insert(spi);
        }
        let _ = self.sas.insert(id, Known { sa: sa.clone(), reported: 0 });
        Ok(sa)
    }

    /// Takes an SA away. A tunnel that it encrypted for drops what is sent to it, until it is switched.
    pub fn remove(&mut self, id: SaId) -> Result<Arc<Sa>, DatabaseError> {
        let known = self.sas.remove(&id).ok_or(DatabaseError::NoSuchSa(id))?;
        if known.sa.parameters().direction == Direction::Inbound {
            let _ = self.spis.remove(&known.sa.parameters().spi);
        }
        for tunnel in self.tunnels.values_mut().filter(|tunnel| tunnel.outbound == Some(id)) {
            tunnel.outbound = None;
        }
        Ok(known.sa)
    }

    /// The SA with this number.
    pub fn sa(&self, id: SaId) -> Option<&Arc<Sa>> {
        self.sas.get(&id).map(|known| &known.sa)
    }

    /// All SAs, oldest first.
    pub fn sas(&self) -> impl Iterator<Item = &Arc<Sa>> {
        self.sas.values().map(|known| &known.sa)
    }

    /// All tunnels.
    pub fn tunnels(&self) -> impl Iterator<Item = (TunnelId, &Tunnel)> {
        self.tunnels.iter().map(|(id, tunnel)| (*id, tunnel))
    }

    /// Adds or changes a tunnel.
    pub fn set_tunnel(&mut self, id: TunnelId, tunnel: Tunnel) -> Result<(), DatabaseError> {
        if id.0 >= MAX_TUNNELS {
            return Err(DatabaseError::TooManyTunnels(id));
        }
        if let Some(outbound) = tunnel.outbound {
            self.check_outbound(outbound)?;
        }
        let _ = self.tunnels.insert(id, tunnel);
        Ok(())
    }

    /// Takes a tunnel away. Its SAs stay.
    pub fn remove_tunnel(&mut self, id: TunnelId) -> Option<Tunnel> {
        self.tunnels.remove(&id)
    }

    /// Has a tunnel, which is made if need be, encrypt by another SA.
    pub fn switch(&mut self, id: TunnelId, outbound: SaId) -> Result<(), DatabaseError> {
        let tunnel = self.tunnels.get(&id).copied().unwrap_or_default();
        self.set_tunnel(id, Tunnel { outbound: Some(outbound), ..tunnel })
    }

    fn check_outbound(&self, id: SaId) -> Result<(), DatabaseError> {
        let sa = self.sa(id).ok_or(DatabaseError::NoSuchSa(id))?;
        match sa.parameters().direction {
            Direction::Outbound => Ok(()),
            Direction::Inbound => Err(DatabaseError::NotOutbound(id)),
        }
    }

    /// Replaces all policies. The first of a direction that matches decides.
    pub fn set_policies(&mut self, policies: Vec<Policy>) {
        self.policies = policies;
    }

    /// Replaces the prefixes whose addresses are never sent to in the clear.
    pub fn set_must_encrypt(&mut self, prefixes: Vec<IpNet>) {
        self.must_encrypt = prefixes;
    }

    /// The prefixes whose addresses are never sent to in the clear.
    pub fn must_encrypt(&self) -> &[IpNet] {
        &self.must_encrypt
    }

    /// All policies, in order.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// What workers shall use from now on.
    pub fn snapshot(&self) -> Snapshot {
        let of = |direction| move |sa: &&Arc<Sa>| sa.parameters().direction == direction;
        let [inbound, outbound] = [Direction::Inbound, Direction::Outbound]
            .map(|direction| self.sas().filter(of(direction)).cloned().collect());
        let count = self.tunnels.last_key_value().map_or(0, |(id, _)| id.0 + 1);
        let row = |number| {
            let description = *self.tunnels.get(&TunnelId(number))?;
            let outbound = description.outbound.and_then(|id| self.sa(id)).cloned();
            Some(TunnelRow { outbound, description })
        };
        let tunnels: Box<[_]> = (0..count).map(row).collect();
        Snapshot::new(inbound, outbound, tunnels, Spd::new(&self.policies, &self.must_encrypt), self.gcm)
    }

    /// What happened since it was last asked: expiries, each once, and peers that moved, which the tunnels' outbound SAs
    /// follow at once.
    pub fn poll(&mut self, now_ns: u64) -> Vec<Event> {
        let mut events = Vec::new();
        for (id, known) in &mut self.sas {
            known.sa.age_path_mtu(now_ns);
            let messages = known.sa.messages(now_ns);
            let new = messages & !known.reported;
            known.reported |= messages & !PEER_MOVED;
            let mut report = |flag, kind| {
                if new & flag != 0 {
                    events.push(Event { sa: *id, kind });
                }
            };
            report(SOFT_EXPIRED, EventKind::SoftExpired);
            report(HARD_EXPIRED, EventKind::HardExpired);
            if let Some(port) = known.sa.take_moved_port() {
                report(PEER_MOVED, EventKind::PeerMoved { port });
            }
        }
        for event in &events {
            if let EventKind::PeerMoved { port } = event.kind {
                self.follow(event.sa, port);
            }
        }
        events
    }

    /// Has the outbound SA of the tunnel of an inbound SA send to another port.
    fn follow(&self, inbound: SaId, port: u16) {
        let Some(inbound) = self.sa(inbound) else { return };
        inbound.set_peer_port(port);
        let tunnel = self.tunnels.get(&inbound.parameters().tunnel);
        let outbound = tunnel.and_then(|tunnel| tunnel.outbound).and_then(|id| self.sa(id));
        if let Some(outbound) = outbound
            && outbound.parameters().nat_t.is_some()
        {
            outbound.set_peer_port(port);
        }
    }
}
