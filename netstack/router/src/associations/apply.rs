//! From the configuration to the databases.

use alloc::{
    collections::BTreeSet,
    string::{String, ToString},
    vec::Vec,
};

use config::{AssociationDirection, DfHandling, EcnHandling, IpsecAlgorithm, IpsecMode, PolicyAction};
use crypto::cbc_hmac::Hash;
use ipsec::{
    Action, Algorithm, DfPolicy, Direction, DscpPolicy, EcnPolicy, Lifetimes, Limits, Mode, NatT, Policy,
    SaParameters, SecretBytes, Selector, TtlPolicy, Tunnel, TunnelId,
};

use super::{IpsecError, IpsecEventKind, KnownAssociation, Lingering, Random, entropy};
use crate::Router;

/// How far an outbound association that is made again under the same key jumps ahead: workers may have taken so many
/// numbers that it does not know of.
const SEQUENCE_GAP: u64 = 1 << 16;
const NS_PER_SECOND: u64 = 1_000_000_000;

impl Router {
    /// Makes tunnels, associations and policies what a validated configuration says; its interfaces were configured
    /// before. Associations of a key daemon stay while their tunnels do.
    pub fn configure_ipsec(&mut self, config: &config::Ipsec, random: Random<'_>, now_ns: u64) {
        self.forget_tunnels(config);
        let changed = self.take_tunnels(config);
        self.forget_associations(config, now_ns);
        // Inbound ones first: the peer may use a new one as soon as it sees ours.
        for wanted in [AssociationDirection::In, AssociationDirection::Out] {
            for (place, association) in config.associations.iter().enumerate() {
                if association.direction == wanted {
                    self.take_configured(place as u64, association, &changed, random, now_ns);
                }
            }
        }
        self.remake_dynamic(&changed, random, now_ns);
        let names: Vec<String> = self.ipsec.tunnels.keys().cloned().collect();
        names.iter().for_each(|name| self.switch_outbound(name));
        let policies =
            config.policies.iter().filter_map(|policy| Some((self.policy(policy)?, policy.name.clone())));
        let (policies, names): (Vec<Policy>, Vec<String>) = policies.collect();
        self.ipsec.policy_names = names;
        self.ipsec.database.set_policies(policies);
        self.ipsec.database.set_must_encrypt(config.must_encrypt.clone());
        self.refresh_tunnel_mtus();
        self.publish_ipsec();
        self.ipsec.due_ns = now_ns;
    }

    fn forget_tunnels(&mut self, config: &config::Ipsec) {
        let wanted: BTreeSet<&str> = config.tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect();
        let ipsec = &mut self.ipsec;
        let gone: Vec<String> =
            ipsec.tunnels.keys().filter(|name| !wanted.contains(name.as_str())).cloned().collect();
        for name in gone {
            let Some(known) = ipsec.tunnels.remove(&name) else { continue };
            let _ = ipsec.database.remove_tunnel(known.id);
            ipsec.freed.push_back(known.id);
            let names: Vec<String> = ipsec.associations.names_of(&name).cloned().collect();
            let gone = names.iter().filter_map(|name| ipsec.associations.remove(name));
            let mut ids: Vec<_> = gone.map(|known| known.id).collect();
            let of_it = |lingering: &mut Lingering| lingering.known.settings.tunnel == name;
            ids.extend(ipsec.lingering.extract_if(.., of_it).map(|lingering| lingering.known.id));
            for id in ids {
                // It is there as long as it is listed.
                let _ = ipsec.database.remove(id);
            }
        }
    }

    /// Returns the tunnels whose associations have to be made again.
    fn take_tunnels(&mut self, config: &config::Ipsec) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for tunnel in &config.tunnels {
            let _ = self.ipsec.tunnel_id(&tunnel.name);
            let Some(known) = self.ipsec.tunnels.get_mut(&tunnel.name) else { continue };
            if known.settings.as_ref().is_some_and(|before| shapes_differ(before, tunnel)) {
                let _ = changed.insert(tunnel.name.clone());
                known.moved_to = None;
            }
            known.settings = Some(tunnel.clone());
        }
        changed
    }

    fn forget_associations(&mut self, config: &config::Ipsec, now_ns: u64) {
        let wanted: BTreeSet<&str> = config.associations.iter().map(|a| a.name.as_str()).collect();
        let is_gone = |name: &str, known: &KnownAssociation| !known.is_dynamic && !wanted.contains(name);
        let gone: Vec<String> = self
            .ipsec
            .associations
            .iter()
            .filter(|(name, known)| is_gone(name, known))
            .map(|(name, _)| name.clone())
            .collect();
        let inbound = config.associations.iter().filter(|other| other.direction == AssociationDirection::In);
        let with_inbound: BTreeSet<&str> = inbound.map(|other| other.tunnel.as_str()).collect();
        for name in gone {
            let Some(known) = self.ipsec.associations.remove(&name) else { continue };
            let is_succeeded = with_inbound.contains(known.settings.tunnel.as_str());
            self.ipsec.tell(&known.settings, IpsecEventKind::Removed, now_ns);
            self.retire(known, is_succeeded, now_ns);
        }
    }

    fn take_configured(
        &mut self,
        place: u64,
        association: &config::Association,
        changed: &BTreeSet<String>,
        random: Random<'_>,
        now_ns: u64,
    ) {
        if let Some(known) = self.ipsec.associations.get_mut(&association.name)
            && !known.is_dynamic
            && known.settings == *association
            && !changed.contains(&association.tunnel)
        {
            known.order = place;
            return;
        }
        if let Err(error) = self.install(association, false, place, random, now_ns) {
            log::error!(target: "ipsec", "association {} is left out: {error}", association.name);
        }
    }

    /// Associations of a key daemon follow their tunnel.
    fn remake_dynamic(&mut self, changed: &BTreeSet<String>, random: Random<'_>, now_ns: u64) {
        let all = self.ipsec.associations.iter().map(|(_, known)| known);
        let affected = all.filter(|known| known.is_dynamic && changed.contains(&known.settings.tunnel));
        let affected: Vec<_> = affected.map(|known| (known.settings.clone(), known.order)).collect();
        for (settings, order) in affected {
            if let Err(error) = self.install(&settings, true, order, random, now_ns) {
                log::error!(target: "ipsec", "association {} is left out: {error}", settings.name);
            }
        }
    }

    /// Puts an association in the database; one of the same name is replaced. An outbound one encrypts when its tunnel is
    /// switched to it.
    pub(super) fn install(
        &mut self,
        association: &config::Association,
        is_dynamic: bool,
        order: u64,
        random: Random<'_>,
        now_ns: u64,
    ) -> Result<(), IpsecError> {
        let tunnel = self.ipsec.tunnels.get(&association.tunnel);
        let tunnel = tunnel.and_then(|known| Some((known.id, known.settings.as_ref()?, known.moved_to)));
        let Some((id, tunnel, moved_to)) = tunnel else {
            return Err(IpsecError::NoTunnel(association.tunnel.clone()));
        };
        let mut parameters = parameters(tunnel, id, association).ok_or(IpsecError::NoKey)?;
        if let Some(before) = self.ipsec.associations.get(&association.name) {
            let last = self.last_sequence(before, association);
            parameters.last_sequence = parameters.last_sequence.max(last);
        }
        parameters.check().map_err(|error| IpsecError::Refused(error.into()))?;
        let before = self.ipsec.associations.remove(&association.name);
        let mut before_retired = None;
        if association.direction == AssociationDirection::In {
            self.free_spi(association.spi);
            // The one before may have this very SPI.
            match before {
                Some(before) if before.settings.spi == association.spi => {
                    let _ = self.ipsec.database.remove(before.id);
                }
                before => before_retired = before,
            }
        } else {
            before_retired = before;
        }
        let sa = self.ipsec.database.add(parameters, &entropy(random), now_ns).map_err(IpsecError::Refused);
        let sa = match sa {
            Ok(sa) => sa,
            Err(error) => {
                if let Some(before) = before_retired {
                    self.ipsec.associations.insert(before);
                }
                return Err(error);
            }
        };
        let known = KnownAssociation {
            id: sa.id(),
            settings: association.clone(),
            is_dynamic,
            order,
            added_ns: now_ns,
            expired_ns: None,
        };
        if let Some(place) = moved_to {
            sa.set_peer(place);
        }
        self.ipsec.associations.insert(known);
        let kind = if before_retired.is_some() { IpsecEventKind::Replaced } else { IpsecEventKind::Added };
        self.ipsec.tell(association, kind, now_ns);
        if let Some(before) = before_retired {
            self.retire(before, true, now_ns);
        }
        Ok(())
    }

    /// Where the sequence numbers of an association go on that is made again under the same key: none is used twice, and
    /// what was received is not received again.
    fn last_sequence(&self, before: &KnownAssociation, association: &config::Association) -> u64 {
        if before.settings.key != association.key || before.settings.direction != association.direction {
            return 0;
        }
        let last = self.ipsec.database.sa(before.id).map_or(0, |sa| sa.counters().last_sequence);
        let limit = if association.esn { u64::MAX - 1 } else { u64::from(u32::MAX) };
        match association.direction {
            AssociationDirection::In => last.min(limit),
            AssociationDirection::Out => last.saturating_add(SEQUENCE_GAP).min(limit),
        }
    }

    /// An inbound association that lingers gives way to a new one of its SPI.
    fn free_spi(&mut self, spi: u32) {
        let ipsec = &mut self.ipsec;
        let ids: Vec<_> = ipsec
            .lingering
            .extract_if(.., |lingering| lingering.known.settings.spi == spi)
            .map(|l| l.known.id)
            .collect();
        for id in ids {
            let _ = ipsec.database.remove(id);
        }
    }

    /// Takes an association out of use: an inbound one that has a successor goes on decrypting for its tunnel's overlap.
    pub(super) fn retire(&mut self, known: KnownAssociation, is_succeeded: bool, now_ns: u64) {
        let tunnel = self.ipsec.tunnels.get(&known.settings.tunnel);
        let overlap =
            tunnel.and_then(|tunnel| tunnel.settings.as_ref()).map_or(0, |t| t.rekey_overlap_seconds);
        let may_decrypt = is_succeeded && known.expired_ns.is_none();
        if known.settings.direction == AssociationDirection::In && may_decrypt && overlap > 0 {
            let until_ns = now_ns + u64::from(overlap) * NS_PER_SECOND;
            self.ipsec.lingering.push(Lingering { known, until_ns });
            return;
        }
        let _ = self.ipsec.database.remove(known.id);
    }

    /// Has a tunnel encrypt by the outbound association that is to be used.
    pub(super) fn switch_outbound(&mut self, name: &str) {
        let Some(known) = self.ipsec.tunnels.get(name) else { return };
        let Some(settings) = &known.settings else { return };
        let of_it = self.ipsec.associations.of_tunnel(name, AssociationDirection::Out);
        let newest = of_it.max_by_key(|association| association.order).map(|association| association.id);
        let interface = if settings.route_based { self.links.id(name).map(|id| id.0) } else { None };
        let outbound = newest.filter(|_| settings.enabled);
        let tunnel = Tunnel { interface, outbound, clamp_mss: settings.clamp_mss };
        if let Err(error) = self.ipsec.database.set_tunnel(known.id, tunnel) {
            log::error!(target: "ipsec", "tunnel {name}: {error}");
        }
    }

    fn policy(&self, policy: &config::SecurityPolicy) -> Option<Policy> {
        let ports = |text: &Option<String>| match text {
            None => Some((0, u16::MAX)),
            Some(text) => config::ports(text),
        };
        let action = match policy.action {
            PolicyAction::Protect => Action::Protect(self.ipsec.tunnels.get(policy.tunnel.as_ref()?)?.id),
            PolicyAction::Bypass => Action::Bypass,
            PolicyAction::Discard => Action::Discard,
        };
        let selector = Selector {
            protocol: policy.protocol,
            source_ports: ports(&policy.source_ports)?,
            destination_ports: ports(&policy.destination_ports)?,
            ..Selector::between(policy.source, policy.destination)
        };
        Some(Policy { direction: direction(policy.direction), selector, action })
    }
}

/// Whether associations of the one tunnel would not do for the other.
fn shapes_differ(a: &config::Tunnel, b: &config::Tunnel) -> bool {
    let shape = |t: &config::Tunnel| (t.mode, t.local, t.remote, t.dscp, t.ecn, t.df, t.ttl, t.tfc_padding);
    let ports = |t: &config::Tunnel| t.nat_traversal.as_ref().map(|nat| (nat.local_port, nat.remote_port));
    shape(a) != shape(b) || ports(a) != ports(b) || a.selectors != b.selectors
}

/// None: the key is missing.
fn parameters(
    tunnel: &config::Tunnel,
    id: TunnelId,
    association: &config::Association,
) -> Option<SaParameters> {
    let key = association.key.as_ref()?.to_bytes()?;
    let key = SecretBytes::from(key.to_vec());
    let direction = direction(association.direction);
    let ends = (tunnel.local, tunnel.remote);
    let selectors = tunnel.selectors.iter().map(|selector| match direction {
        Direction::Outbound => Selector::between(selector.local, selector.remote),
        Direction::Inbound => Selector::between(selector.remote, selector.local),
    });
    let limits = |seconds, bytes, packets| Limits { seconds, bytes, packets };
    let lifetimes = association.lifetime.as_ref().map(|l| Lifetimes {
        soft: limits(l.soft_seconds, l.soft_bytes, l.soft_packets),
        hard: limits(l.hard_seconds, l.hard_bytes, l.hard_packets),
    });
    Some(SaParameters {
        name: association.name.to_string(),
        mode: match tunnel.mode {
            IpsecMode::Tunnel => Mode::Tunnel,
            IpsecMode::Transport => Mode::Transport,
        },
        esn: association.esn,
        replay_window: association.replay_window,
        last_sequence: association.sequence_after.unwrap_or(0),
        nat_t: tunnel
            .nat_traversal
            .as_ref()
            .map(|nat| NatT { local_port: nat.local_port, remote_port: nat.remote_port }),
        dscp: tunnel.dscp.map_or(DscpPolicy::Copy, DscpPolicy::Set),
        ecn: match tunnel.ecn {
            EcnHandling::Copy => EcnPolicy::Copy,
            EcnHandling::Clear => EcnPolicy::Clear,
        },
        df: match tunnel.df {
            DfHandling::Copy => DfPolicy::Copy,
            DfHandling::Set => DfPolicy::Set,
            DfHandling::Clear => DfPolicy::Clear,
        },
        ttl: if tunnel.ttl == 0 { TtlPolicy::Copy } else { TtlPolicy::Set(tunnel.ttl) },
        tfc_pad_to_bytes: tunnel.tfc_padding,
        lifetimes: lifetimes.unwrap_or_default(),
        selectors: selectors.collect(),
        tunnel: id,
        ..SaParameters::new(association.spi, direction, ends, algorithm(association.algorithm), key)
    })
}

fn direction(direction: AssociationDirection) -> Direction {
    match direction {
        AssociationDirection::In => Direction::Inbound,
        AssociationDirection::Out => Direction::Outbound,
    }
}

fn algorithm(algorithm: IpsecAlgorithm) -> Algorithm {
    match algorithm {
        IpsecAlgorithm::Aes128Gcm16 => Algorithm::Aes128Gcm,
        IpsecAlgorithm::Aes256Gcm16 => Algorithm::Aes256Gcm,
        IpsecAlgorithm::Chacha20Poly1305 => Algorithm::ChaCha20Poly1305,
        IpsecAlgorithm::Aes128Sha256 => Algorithm::Aes128CbcHmac(Hash::Sha256),
        IpsecAlgorithm::Aes128Sha384 => Algorithm::Aes128CbcHmac(Hash::Sha384),
        IpsecAlgorithm::Aes128Sha512 => Algorithm::Aes128CbcHmac(Hash::Sha512),
        IpsecAlgorithm::Aes256Sha256 => Algorithm::Aes256CbcHmac(Hash::Sha256),
        IpsecAlgorithm::Aes256Sha384 => Algorithm::Aes256CbcHmac(Hash::Sha384),
        IpsecAlgorithm::Aes256Sha512 => Algorithm::Aes256CbcHmac(Hash::Sha512),
    }
}
