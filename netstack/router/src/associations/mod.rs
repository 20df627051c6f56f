//! IPsec: tunnels, security associations and policies, from the configuration and from a key daemon, kept in the databases
//! of crate `ipsec` and published to the workers.
//!
//! 1. [`Router::configure_ipsec`] (`apply`) makes the databases what the configuration says. An association that stays the
//!    same stays in use; one that changed is a new one, and the inbound one before goes on decrypting for a while.
//! 2. [`Router::add_association`], [`Router::remove_association`] (`daemon`) are for a key daemon.
//! 3. [`Router::poll`] has expiries told, replaced associations removed, keepalives sent, MTUs kept right (`poll`).
//! 4. [`Router::associations`], [`Router::tunnels`] (`status`) and [`Router::verify`] (`verify`) tell what is.

mod apply;
mod daemon;
mod known;
mod poll;
mod status;
mod verify;

use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    vec::Vec,
};
use core::fmt;
use core::net::SocketAddr;

use ipsec::{Database, Entropy, SaId, TunnelId};
use known::Associations;

pub use status::{AssociationState, AssociationStatus, TunnelStatus};
pub use verify::{Finding, Verdict, Verification};

use crate::Router;

/// Events that are kept for whoever asks.
const MAX_EVENTS: usize = 1024;

/// Where random bytes come from, a good source.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// What the node keeps of IPsec.
pub(crate) struct Ipsec {
    pub(crate) database: Database,
    pub(crate) tunnels: BTreeMap<String, KnownTunnel>,
    pub(crate) associations: Associations,
    /// Inbound associations that were replaced.
    lingering: Vec<Lingering>,
    events: VecDeque<IpsecEvent>,
    next_event: u64,
    /// Order of associations that a key daemon added.
    next_order: u64,
    next_tunnel: u32,
    freed: VecDeque<TunnelId>,
    /// Names of the policies of the database.
    policy_names: Vec<String>,
    /// When [`Router::poll_ipsec`] has something to do.
    pub(crate) due_ns: u64,
}

/// A tunnel.
pub(crate) struct KnownTunnel {
    pub(crate) id: TunnelId,
    /// None: only its number was given yet.
    settings: Option<config::Tunnel>,
    /// When the last keepalive was sent.
    keepalive_ns: Option<u64>,
    /// Where the peer was seen to be, if not where the settings say. Associations that follow begin there.
    moved_to: Option<SocketAddr>,
}

/// An association.
pub(crate) struct KnownAssociation {
    id: SaId,
    settings: config::Association,
    is_dynamic: bool,
    /// Of several outbound ones of a tunnel the highest encrypts.
    order: u64,
    added_ns: u64,
    /// When it was found to carry nothing any more.
    expired_ns: Option<u64>,
}

struct Lingering {
    known: KnownAssociation,
    until_ns: u64,
}

/// Something that a key daemon should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsecEvent {
    /// Counts events; no number is given twice.
    pub sequence: u64,
    /// Monotonic time.
    pub at_ns: u64,
    /// The association's name.
    pub association: String,
    /// Its tunnel's name.
    pub tunnel: String,
    /// Its SPI.
    pub spi: u32,
    /// What happened to it.
    pub kind: IpsecEventKind,
}

/// What happened to an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpsecEventKind {
    /// It was added.
    Added,
    /// It was replaced by another of its name.
    Replaced,
    /// It was removed.
    Removed,
    /// It should be replaced soon.
    SoftExpired,
    /// It carries nothing any more.
    HardExpired,
    /// The peer's address or UDP port changed, and is followed.
    PeerMoved {
        /// Where it is now.
        to: SocketAddr,
    },
}

impl IpsecEventKind {
    /// Its name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Replaced => "replaced",
            Self::Removed => "removed",
            Self::SoftExpired => "soft-expired",
            Self::HardExpired => "hard-expired",
            Self::PeerMoved { .. } => "peer-moved",
        }
    }
}

/// Why a key daemon's wish was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpsecError {
    /// There is no such association.
    NoAssociation(String),
    /// There is no such tunnel.
    NoTunnel(String),
    /// The association is part of the configuration.
    Configured(String),
    /// There is one of this name.
    Exists(String),
    /// It has no key.
    NoKey,
    /// The databases refuse it.
    Refused(ipsec::DatabaseError),
}

impl fmt::Display for IpsecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAssociation(name) => write!(f, "there is no association {name}"),
            Self::NoTunnel(name) => write!(f, "there is no tunnel {name}"),
            Self::Configured(name) => {
                write!(f, "association {name} is part of the configuration: change it there")
            }
            Self::Exists(name) => write!(f, "there is an association {name} already: PUT replaces it"),
            Self::NoKey => f.write_str("a key is missing"),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for IpsecError {}

impl Ipsec {
    pub(crate) fn new() -> Self {
        Self {
            database: Database::new(crypto::gcm::Gcm::best()),
            tunnels: BTreeMap::new(),
            associations: Associations::default(),
            lingering: Vec::new(),
            events: VecDeque::new(),
            next_event: 1,
            // Above the places of associations in a configuration.
            next_order: 1 << 32,
            next_tunnel: 0,
            freed: VecDeque::new(),
            policy_names: Vec::new(),
            due_ns: u64::MAX,
        }
    }

    /// The number of a tunnel, given once. Numbers are used again as late as possible: a worker may still hold tables
    /// that name one.
    pub(crate) fn tunnel_id(&mut self, name: &str) -> TunnelId {
        if let Some(known) = self.tunnels.get(name) {
            return known.id;
        }
        const MANY: u32 = 8192;
        let id = match self.freed.pop_front() {
            Some(id) if self.next_tunnel >= MANY => id,
            freed => {
                self.freed.extend(freed);
                self.next_tunnel += 1;
                TunnelId(self.next_tunnel - 1)
            }
        };
        let known = KnownTunnel { id, settings: None, keepalive_ns: None, moved_to: None };
        let _ = self.tunnels.insert(name.into(), known);
        id
    }

    fn tell(&mut self, settings: &config::Association, kind: IpsecEventKind, at_ns: u64) {
        let config::Association { name, tunnel, spi, .. } = settings;
        log::info!(target: "ipsec", "{name} (tunnel {tunnel}, SPI {spi:#x}): {}", kind.name());
        if self.events.len() == MAX_EVENTS {
            let _ = self.events.pop_front();
        }
        self.events.push_back(IpsecEvent {
            sequence: self.next_event,
            at_ns,
            association: name.clone(),
            tunnel: tunnel.clone(),
            spi: *spi,
            kind,
        });
        self.next_event += 1;
    }
}

impl Router {
    /// Has AES-GCM done by this implementation. To be called before anything is configured.
    pub fn set_crypto(&mut self, gcm: crypto::gcm::Gcm) {
        self.ipsec.database = Database::new(gcm);
        self.publish_ipsec();
    }

    /// The implementation of AES-GCM in use.
    #[must_use]
    pub fn crypto(&self) -> crypto::gcm::Gcm {
        *self.shared.ipsec().gcm()
    }

    /// The implementations of all ciphers in use.
    #[must_use]
    pub fn ciphers(&self) -> crypto::Suite {
        *self.shared.ipsec().suite()
    }

    /// Events from this number on, oldest first.
    pub fn ipsec_events(&self, since: u64) -> impl Iterator<Item = &IpsecEvent> {
        self.ipsec.events.iter().filter(move |event| event.sequence >= since)
    }

    fn publish_ipsec(&mut self) {
        let _ = self.shared.publish_ipsec(self.ipsec.database.snapshot());
    }
}

fn entropy(random: Random<'_>) -> Entropy {
    let (mut iv_base, mut iv_key) = ([0; 8], [0; 16]);
    random(&mut iv_base);
    random(&mut iv_key);
    Entropy { iv_base: u64::from_le_bytes(iv_base), iv_key }
}
