//! What is: associations and tunnels, as told.

use alloc::{collections::BTreeSet, string::String, vec::Vec};
use core::net::SocketAddr;

use config::AssociationDirection;
use ipsec::{SaCounters, SaId};

use super::{KnownAssociation, KnownTunnel};
use crate::Router;

/// A security association, as told; never its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssociationStatus {
    /// What was asked for, without the key.
    pub settings: config::Association,
    /// A key daemon added it.
    pub is_dynamic: bool,
    /// What it does.
    pub state: AssociationState,
    /// Since it was added, in nanoseconds.
    pub age_ns: u64,
    /// What it did.
    pub counters: SaCounters,
    /// Where the peer is, if it is in UDP.
    pub peer: Option<SocketAddr>,
    /// The longest outer packet of the path, if a router said so.
    pub path_mtu: Option<u16>,
}

/// What an association does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssociationState {
    /// It encrypts or decrypts.
    Active,
    /// It could encrypt; a newer one does.
    Standby,
    /// It was replaced and still decrypts for a while.
    Overlap,
    /// Its hard lifetime is over, or its sequence numbers are used up.
    Expired,
}

impl AssociationState {
    /// Its name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Overlap => "overlap",
            Self::Expired => "expired",
        }
    }
}

/// A tunnel, as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelStatus {
    /// What was asked for.
    pub settings: config::Tunnel,
    /// Longest inner packet in bytes, of an interface.
    pub mtu: Option<u16>,
    /// The association that encrypts; none if the one that was to has expired.
    pub outbound: Option<String>,
    /// The associations that decrypt.
    pub inbound: Vec<String>,
}

impl Router {
    /// How many associations there are, with those that were replaced.
    #[must_use]
    pub fn association_count(&self) -> usize {
        self.ipsec.associations.len() + self.ipsec.lingering.len()
    }

    /// All associations, in order of their names, then those that were replaced.
    #[must_use]
    pub fn associations(&self, now_ns: u64) -> Vec<AssociationStatus> {
        let outbound: BTreeSet<SaId> =
            self.ipsec.database.tunnels().filter_map(|(_, tunnel)| tunnel.outbound).collect();
        let present = self.ipsec.associations.iter().filter_map(|(_, known)| {
            let is_used =
                known.settings.direction == AssociationDirection::In || outbound.contains(&known.id);
            let state = if is_used { AssociationState::Active } else { AssociationState::Standby };
            self.association_status(known, state, now_ns)
        });
        let replaced = self.ipsec.lingering.iter().filter_map(|lingering| {
            self.association_status(&lingering.known, AssociationState::Overlap, now_ns)
        });
        present.chain(replaced).collect()
    }

    fn association_status(
        &self,
        known: &KnownAssociation,
        state: AssociationState,
        now_ns: u64,
    ) -> Option<AssociationStatus> {
        let sa = self.ipsec.database.sa(known.id)?;
        let counters = sa.counters();
        Some(AssociationStatus {
            settings: config::Association { key: None, ..known.settings.clone() },
            is_dynamic: known.is_dynamic,
            state: if is_expired(known, &counters, now_ns) { AssociationState::Expired } else { state },
            age_ns: now_ns.saturating_sub(known.added_ns),
            counters,
            peer: sa.peer(),
            path_mtu: sa.path_mtu(),
        })
    }

    /// All tunnels, in order of their names.
    #[must_use]
    pub fn tunnels(&self, now_ns: u64) -> Vec<TunnelStatus> {
        let all = self.ipsec.tunnels.iter();
        all.filter_map(|(name, known)| self.tunnel_status(name, known, now_ns)).collect()
    }

    fn tunnel_status(&self, name: &str, known: &KnownTunnel, now_ns: u64) -> Option<TunnelStatus> {
        let settings = known.settings.clone()?;
        let sa = self.ipsec.database.outbound(known.id);
        let outbound = sa.and_then(|sa| {
            let association = self.ipsec.associations.find(sa.id())?;
            (!is_expired(association, &sa.counters(), now_ns)).then_some(association)
        });
        let inbound = self.ipsec.associations.of_tunnel(name, AssociationDirection::In);
        Some(TunnelStatus {
            mtu: self.links.id(name).and_then(|id| self.links.get(id)).map(crate::links::Link::mtu),
            outbound: outbound.map(|known| known.settings.name.clone()),
            inbound: inbound.map(|known| known.settings.name.clone()).collect(),
            settings,
        })
    }
}

/// Whether an association carries nothing any more.
pub(super) fn is_expired(known: &KnownAssociation, counters: &SaCounters, now_ns: u64) -> bool {
    let exhausted = !known.settings.esn && counters.last_sequence >= u64::from(u32::MAX);
    let over = known.settings.lifetime.as_ref().is_some_and(|lifetime| {
        let age_seconds = now_ns.saturating_sub(known.added_ns) / 1_000_000_000;
        let reached = |limit: Option<u64>, value: u64| limit.is_some_and(|limit| value >= limit);
        reached(lifetime.hard_seconds, age_seconds)
            || reached(lifetime.hard_bytes, counters.bytes)
            || reached(lifetime.hard_packets, counters.packets)
    });
    let stops_sending = exhausted && known.settings.direction == AssociationDirection::Out;
    stops_sending || over
}
