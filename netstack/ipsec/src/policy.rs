//! The security policy database (RFC 4301 §4.4.1): ordered rules for traffic that no route leads into a tunnel.

use crate::rules::Rules;
use crate::{Direction, PacketFacts, Selector, TunnelId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

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
    outbound: Rules<Action>,
    inbound: Rules<Action>,
    must_encrypt: Rules<()>,
}

impl Spd {
    pub(crate) fn new(policies: &[Policy], must_encrypt: &[IpNet]) -> Self {
        let of = |direction| {
            let chosen = policies.iter().filter(move |policy| policy.direction == direction);
            Rules::new(chosen.map(|policy| (policy.selector, policy.action)))
        };
        Self {
            outbound: of(Direction::Outbound),
            inbound: of(Direction::Inbound),
            must_encrypt: Rules::new(must_encrypt.iter().map(|prefix| (to(*prefix), ()))),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.outbound.is_empty() && self.inbound.is_empty() && self.must_encrypt.is_empty()
    }

    pub(crate) fn decide(&self, direction: Direction, packet: &PacketFacts) -> Option<Action> {
        match direction {
            Direction::Outbound => self.outbound.find(packet),
            Direction::Inbound => self.inbound.find(packet),
        }
    }

    pub(crate) fn must_encrypt(&self, packet: &PacketFacts) -> bool {
        self.must_encrypt.find(packet).is_some()
    }
}

/// Everything to a prefix.
fn to(prefix: IpNet) -> Selector {
    let anywhere = match prefix {
        IpNet::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpNet::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    Selector::between(anywhere, prefix)
}
