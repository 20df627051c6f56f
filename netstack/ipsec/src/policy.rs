//! The security policy database (RFC 4301 §4.4.1): ordered rules for traffic that no route leads into a tunnel.

use crate::{Direction, PacketFacts, Selector, TunnelId};
use alloc::vec::Vec;
use ipnet::IpNet;

/// What a policy demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Outbound: encrypt by this tunnel. Inbound: accept only what came decrypted out of it.
    Protect(TunnelId),
    /// Let it pass in the clear.
    Bypass,
    /// Drop it.
    Discard,
}

/// A rule; the first that matches decides. A packet that no rule matches passes in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Of packets that leave, or of packets that come in.
    pub direction: Direction,
    /// Which packets.
    pub selector: Selector,
    /// What happens to them.
    pub action: Action,
}

/// The rules of a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Spd {
    outbound: Vec<(Selector, Action)>,
    inbound: Vec<(Selector, Action)>,
    must_encrypt: Vec<IpNet>,
}

impl Spd {
    pub(crate) fn new(policies: &[Policy], must_encrypt: &[IpNet]) -> Self {
        let of = |direction| {
            let chosen = policies.iter().filter(move |policy| policy.direction == direction);
            chosen.map(|policy| (policy.selector, policy.action)).collect()
        };
        Self {
            outbound: of(Direction::Outbound),
            inbound: of(Direction::Inbound),
            must_encrypt: must_encrypt.to_vec(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.outbound.is_empty() && self.inbound.is_empty() && self.must_encrypt.is_empty()
    }

    pub(crate) fn decide(&self, direction: Direction, packet: &PacketFacts) -> Option<Action> {
        let rules = match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        };
        rules.iter().find(|(selector, _)| selector.matches(packet)).map(|(_, action)| *action)
    }

    pub(crate) fn must_encrypt(&self, packet: &PacketFacts) -> bool {
        self.must_encrypt.iter().any(|prefix| prefix.contains(&packet.destination))
    }
}
