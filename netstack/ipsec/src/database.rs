//! The databases of control: security associations, tunnels, policies. What a key daemon drives.
//!
//! A rekey without loss: [`Database::add`] the new inbound SA and publish; [`Database::add`] the new outbound SA,
//! [`Database::switch`] the tunnel to it and publish; [`Database::remove`] the old ones some seconds later. Both inbound SAs
//! work meanwhile, and an SA that stays keeps its sequence numbers and its window, whatever is published around it.

use crate::policy::Spd;
use crate::sa::{HARD_EXPIRED, SOFT_EXPIRED};
use crate::snapshot::TunnelRow;
use crate::{Direction, Entropy, Policy, Sa, SaError, SaId, SaParameters, Snapshot, Tunnel, TunnelId};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use crypto::gcm::Gcm;
use ipnet::IpNet;
use packet::udp::PORT_IPSEC_NAT_T;

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
    /// Authentic packets come from another address or UDP port of the peer; the tunnel's outbound SA follows.
    PeerMoved {
        /// Where the peer is now.
        to: SocketAddr,
    },
}

/// All SAs, tunnels and policies of a node.
#[derive(Debug)]
pub struct Database {
    sas: BTreeMap<SaId, Known>,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    /// Which SA encrypts for which tunnels.
    encrypting: BTreeSet<(SaId, TunnelId)>,
    policies: Vec<Policy>,
    must_encrypt: Vec<IpNet>,
    next_id: u64,
    /// Inbound SAs by their UDP port, other than 4500.
    nat_t_ports: BTreeMap<u16, u32>,
    /// What workers shall use: kept up to date, and handed out as copies that share what stays.
    current: Snapshot,
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
            tunnels: BTreeMap::new(),
            encrypting: BTreeSet::new(),
            policies: Vec::new(),
            must_encrypt: Vec::new(),
            next_id: 1,
            nat_t_ports: BTreeMap::new(),
            current: Snapshot { suite: crypto::Suite::beside(gcm), ..Snapshot::empty() },
        }
    }

    /// Adds an SA. It decrypts with the next snapshot, and encrypts once a tunnel is switched to it.
    ///
    /// # Errors
    /// The parameters are impossible ([`SaParameters::check`]), or an inbound SA has this SPI already.
    pub fn add(
        &mut self,
        parameters: SaParameters,
        entropy: &Entropy,
        now_ns: u64,
    ) -> Result<Arc<Sa>, DatabaseError> {
        let (spi, direction) = (parameters.spi, parameters.direction);
        if direction == Direction::Inbound && self.current.inbound(spi).is_some() {
            return Err(DatabaseError::SpiTaken(spi));
        }
        let id = SaId(self.next_id);
        let sa = Arc::new(Sa::new(id, parameters, entropy, now_ns)?);
        self.next_id += 1;
        match direction {
            Direction::Inbound => {
                self.current.inbound.insert(sa.clone());
                self.listen(&sa);
            }
            Direction::Outbound => self.current.outbound.insert(sa.clone()),
        }
        let _ = self.sas.insert(id, Known { sa: sa.clone(), reported: 0 });
        Ok(sa)
    }

    /// Takes an SA away. A tunnel that it encrypted for drops what is sent to it, until it is switched.
    ///
    /// # Errors
    /// There is no SA of this number.
    pub fn remove(&mut self, id: SaId) -> Result<Arc<Sa>, DatabaseError> {
        let known = self.sas.remove(&id).ok_or(DatabaseError::NoSuchSa(id))?;
        match known.sa.parameters().direction {
            Direction::Inbound => {
                self.current.inbound.remove(&known.sa);
                self.listen_no_more(&known.sa);
            }
            Direction::Outbound => self.current.outbound.remove(&known.sa),
        }
        let served = self.encrypting.range((id, TunnelId(0))..=(id, TunnelId(u32::MAX)));
        let served: Vec<TunnelId> = served.map(|(_, tunnel)| *tunnel).collect();
        for tunnel in served {
            if let Some(description) = self.tunnels.get(&tunnel).copied() {
                self.put_tunnel(tunnel, Tunnel { outbound: None, ..description });
            }
        }
        Ok(known.sa)
    }

    fn listen(&mut self, sa: &Sa) {
        if let Some(port) = other_port(sa) {
            *self.nat_t_ports.entry(port).or_default() += 1;
            self.current.nat_t_ports = Arc::new(self.nat_t_ports.keys().copied().collect());
        }
    }

    fn listen_no_more(&mut self, sa: &Sa) {
        let Some(port) = other_port(sa) else { return };
        let Some(count) = self.nat_t_ports.get_mut(&port) else { return };
        *count -= 1;
        if *count == 0 {
            let _ = self.nat_t_ports.remove(&port);
            self.current.nat_t_ports = Arc::new(self.nat_t_ports.keys().copied().collect());
        }
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

    /// The tunnel with this number.
    pub fn tunnel(&self, id: TunnelId) -> Option<&Tunnel> {
        self.tunnels.get(&id)
    }

    /// The SA that encrypts for a tunnel.
    pub fn outbound(&self, id: TunnelId) -> Option<&Arc<Sa>> {
        self.sa(self.tunnels.get(&id)?.outbound?)
    }

    /// Adds or changes a tunnel.
    ///
    /// # Errors
    /// The number is too high, or the SA that is to encrypt does not exist or is an inbound one.
    pub fn set_tunnel(&mut self, id: TunnelId, tunnel: Tunnel) -> Result<(), DatabaseError> {
        if id.0 >= MAX_TUNNELS {
            return Err(DatabaseError::TooManyTunnels(id));
        }
        if let Some(outbound) = tunnel.outbound {
            self.check_outbound(outbound)?;
        }
        self.put_tunnel(id, tunnel);
        Ok(())
    }

    fn put_tunnel(&mut self, id: TunnelId, tunnel: Tunnel) {
        let before = self.tunnels.insert(id, tunnel);
        if let Some(outbound) = before.and_then(|before| before.outbound) {
            let _ = self.encrypting.remove(&(outbound, id));
        }
        if let Some(outbound) = tunnel.outbound {
            let _ = self.encrypting.insert((outbound, id));
        }
        let row = TunnelRow { outbound: self.outbound(id).cloned(), description: tunnel };
        self.current.tunnels.set(id.0, Some(row));
    }

    /// Takes a tunnel away. Its SAs stay.
    pub fn remove_tunnel(&mut self, id: TunnelId) -> Option<Tunnel> {
        let gone = self.tunnels.remove(&id)?;
        if let Some(outbound) = gone.outbound {
            let _ = self.encrypting.remove(&(outbound, id));
        }
        self.current.tunnels.set(id.0, None);
        Some(gone)
    }

    /// Has a tunnel, which is made if need be, encrypt by another SA.
    ///
    /// # Errors
    /// As [`Database::set_tunnel`].
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
        self.current.spd = Arc::new(Spd::new(&self.policies, &self.must_encrypt));
    }

    /// Replaces the prefixes whose addresses are never sent to in the clear.
    pub fn set_must_encrypt(&mut self, prefixes: Vec<IpNet>) {
        self.must_encrypt = prefixes;
        self.current.spd = Arc::new(Spd::new(&self.policies, &self.must_encrypt));
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
        self.current.clone()
    }

    /// What happened since it was last asked: expiries, each once, and peers that moved, which the tunnels' outbound SAs
    /// follow at once.
    pub fn poll(&mut self, now_ns: u64) -> Vec<Event> {
        let mut events = Vec::new();
        for (id, known) in &mut self.sas {
            known.sa.age_path_mtu(now_ns);
            let messages = known.sa.messages(now_ns);
            let new = messages & !known.reported;
            known.reported |= messages;
            for (flag, kind) in
                [(SOFT_EXPIRED, EventKind::SoftExpired), (HARD_EXPIRED, EventKind::HardExpired)]
            {
                if new & flag != 0 {
                    events.push(Event { sa: *id, kind });
                }
            }
            if let Some(to) = known.sa.take_move() {
                events.push(Event { sa: *id, kind: EventKind::PeerMoved { to } });
            }
        }
        for event in &events {
            if let EventKind::PeerMoved { to } = event.kind {
                self.follow(event.sa, to);
            }
        }
        events
    }

    /// Has the outbound SA of the tunnel of an inbound SA send to where the peer is now.
    fn follow(&self, inbound: SaId, to: SocketAddr) {
        let Some(inbound) = self.sa(inbound) else { return };
        inbound.set_peer(to);
        if let Some(outbound) = self.outbound(inbound.parameters().tunnel) {
            outbound.set_peer(to);
        }
    }
}

/// The UDP port of the node where an SA's packets come in, if that is not the usual one.
fn other_port(sa: &Sa) -> Option<u16> {
    sa.parameters().nat_t.map(|nat_t| nat_t.local_port).filter(|port| *port != PORT_IPSEC_NAT_T)
}
