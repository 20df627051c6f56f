//! Whether traffic to a network leaves encrypted, from the routes and policies that packets follow.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use config::IpNet;
use ipsec::{Action, Direction, Policy, TunnelId};

use super::status::is_expired;
use crate::{NextHopStatus, RouteStatus, Router, TargetStatus, routes::AnyPrefix};

/// Routes inside the network that are looked at.
const MAX_ROUTES: usize = 1024;

/// What happens to packets to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Everything that can happen, each with its part of the network.
    pub findings: Vec<Finding>,
    /// There are more routes inside the network than were looked at.
    pub is_incomplete: bool,
}

/// One thing that can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// To which destinations.
    pub prefix: IpNet,
    /// Because of what: a route, a policy, a must-encrypt network.
    pub by: String,
    /// What happens.
    pub verdict: Verdict,
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves encrypted.
    Encrypted {
        /// By this tunnel.
        tunnel: String,
        /// By this association.
        association: String,
        /// With this SPI.
        spi: u32,
    },
    /// It leaves in the clear.
    Clear {
        /// By this interface.
        interface: String,
    },
    /// It does not leave.
    Dropped {
        /// Why.
        reason: String,
    },
}

impl Verification {
    /// Every packet that leaves is encrypted, and some can.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        !self.is_incomplete
            && self.never_clear()
            && self.findings.iter().any(|finding| matches!(finding.verdict, Verdict::Encrypted { .. }))
    }

    /// No packet leaves in the clear.
    #[must_use]
    pub fn never_clear(&self) -> bool {
        !self.is_incomplete
            && !self.findings.iter().any(|finding| matches!(finding.verdict, Verdict::Clear { .. }))
    }
}

impl Router {
    /// What happens to forwarded packets to `network`: every route that covers it or is inside of it, and every policy that
    /// any of them may meet. Policies that look at more than destinations count as if some packets met them and others
    /// did not.
    #[must_use]
    pub fn verify(&self, network: IpNet, now_ns: u64) -> Verification {
        let network = network.trunc();
        let routes = self.routes(network, None, MAX_ROUTES);
        let is_incomplete = routes.len() == MAX_ROUTES;
        let mut findings = Vec::new();
        let inside = routes.into_iter().filter(|route| route.active);
        let inside: Vec<RouteStatus> = inside.collect();
        let prefixes: Vec<IpNet> = inside.iter().map(|route| route.prefix).collect();
        if !is_covered(network, &prefixes) {
            match self.covering(network) {
                Some(route) => self.judge_route(network, &route, now_ns, &mut findings),
                None => findings.push(dropped(network, "no route", "no route")),
            }
        }
        for route in &inside {
            // Longer routes take what is theirs.
            let is_longer = |prefix: &&IpNet| **prefix != route.prefix && route.prefix.contains(*prefix);
            let longer: Vec<IpNet> = prefixes.iter().filter(is_longer).copied().collect();
            if !is_covered(route.prefix, &longer) {
                self.judge_route(route.prefix, route, now_ns, &mut findings);
            }
        }
        Verification { findings, is_incomplete }
    }

    /// The longest route that all of a network follows.
    fn covering(&self, network: IpNet) -> Option<RouteStatus> {
        match AnyPrefix::of(network)? {
            AnyPrefix::V4(prefix) => self.covering_route(prefix),
            AnyPrefix::V6(prefix) => self.covering_route(prefix),
        }
    }

    fn judge_route(&self, part: IpNet, route: &RouteStatus, now_ns: u64, findings: &mut Vec<Finding>) {
        let by = format!("{} route {}", route.source.name(), route.prefix);
        match &route.target {
            TargetStatus::Local => findings.push(dropped(part, &by, "for the node itself")),
            TargetStatus::Blackhole => findings.push(dropped(part, &by, "blackhole")),
            TargetStatus::Connected { interface } => self.judge_way(part, &by, interface, now_ns, findings),
            TargetStatus::Via(hops) => {
                let interface = |hop: &NextHopStatus| hop.interface.clone();
                let mut ways: Vec<String> = hops.iter().filter_map(interface).collect();
                ways.sort_unstable();
                ways.dedup();
                if ways.is_empty() {
                    findings.push(dropped(part, &by, "no next hop is on a link that is up"));
                }
                ways.iter().for_each(|way| self.judge_way(part, &by, way, now_ns, findings));
            }
        }
    }

    /// What happens to packets that the routes lead to an interface: a tunnel's encrypts, before others the policies are
    /// asked.
    fn judge_way(&self, part: IpNet, by: &str, interface: &str, now_ns: u64, findings: &mut Vec<Finding>) {
        if let Some(tunnel) = self.ipsec.tunnels.get(interface) {
            let verdict = self.judge_tunnel(tunnel.id, now_ns);
            return findings.push(Finding { prefix: part, by: by.into(), verdict });
        }
        // What earlier policies leave nothing of for later ones.
        let mut decided = Vec::new();
        for (place, policy) in self.ipsec.database.policies().iter().enumerate() {
            let to = policy.selector.destination;
            if policy.direction != Direction::Outbound || !overlap(to, part) {
                continue;
            }
            let meet = if part.contains(&to) { to } else { part };
            if is_covered(meet, &decided) {
                continue;
            }
            let by = format!("outbound policy {}", self.name_of_policy(place));
            match policy.action {
                Action::Protect(tunnel) => {
                    findings.push(Finding { prefix: meet, by, verdict: self.judge_tunnel(tunnel, now_ns) });
                }
                Action::Discard => findings.push(dropped(meet, &by, "policy")),
                Action::Bypass => self.judge_clear(meet, &by, interface, findings),
            }
            if is_for_all(policy) {
                decided.push(meet);
            }
        }
        if !is_covered(part, &decided) {
            self.judge_clear(part, by, interface, findings);
        }
    }

    /// What would leave in the clear must not be for a must-encrypt network.
    fn judge_clear(&self, part: IpNet, by: &str, interface: &str, findings: &mut Vec<Finding>) {
        let marked = self.ipsec.database.must_encrypt();
        if is_covered(part, marked) {
            return findings.push(dropped(part, by, "must-encrypt"));
        }
        for inner in marked.iter().filter(|marked| part.contains(*marked)) {
            findings.push(dropped(*inner, by, "must-encrypt"));
        }
        let verdict = Verdict::Clear { interface: interface.into() };
        findings.push(Finding { prefix: part, by: by.into(), verdict });
    }

    fn judge_tunnel(&self, id: TunnelId, now_ns: u64) -> Verdict {
        let named = self.ipsec.tunnels.iter().find(|(_, known)| known.id == id);
        let tunnel = named.map_or_else(String::new, |(name, _)| name.clone());
        let outbound = self.ipsec.database.tunnel(id).and_then(|tunnel| tunnel.outbound);
        let known = outbound.and_then(|id| self.ipsec.associations.find(id));
        let sa = known.and_then(|known| self.ipsec.database.sa(known.id));
        match (known, sa) {
            (Some(known), Some(sa)) if !is_expired(known, &sa.counters(), now_ns) => Verdict::Encrypted {
                tunnel,
                association: known.settings.name.clone(),
                spi: known.settings.spi,
            },
            (Some(known), _) => Verdict::Dropped {
                reason: format!("association {} of tunnel {tunnel} has expired", known.settings.name),
            },
            (None, _) => {
                Verdict::Dropped { reason: format!("tunnel {tunnel} has no association that encrypts") }
            }
        }
    }

    fn name_of_policy(&self, place: usize) -> String {
        self.ipsec.policy_names.get(place).cloned().unwrap_or_else(|| place.to_string())
    }
}

fn dropped(prefix: IpNet, by: &str, reason: &str) -> Finding {
    Finding { prefix, by: by.into(), verdict: Verdict::Dropped { reason: reason.into() } }
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Whether every packet to the policy's destinations meets it.
fn is_for_all(policy: &Policy) -> bool {
    const ANY: (u16, u16) = (0, u16::MAX);
    let selector = &policy.selector;
    selector.source.prefix_len() == 0
        && selector.protocol.is_none()
        && selector.source_ports == ANY
        && selector.destination_ports == ANY
}

/// Whether every address of a network is in some of the others.
fn is_covered(network: IpNet, by: &[IpNet]) -> bool {
    let (mut next, last) = bounds(network);
    loop {
        let reaching = by.iter().filter(|other| overlap(**other, network)).map(|other| bounds(*other));
        match reaching.filter(|(first, _)| *first <= next).map(|(_, end)| end).max() {
            Some(end) if end >= last => return true,
            Some(end) if end >= next => next = end + 1,
            _ => return false,
        }
    }
}

/// First and last address, as numbers of their family.
fn bounds(network: IpNet) -> (u128, u128) {
    match network {
        IpNet::V4(net) => (u32::from(net.network()).into(), u32::from(net.broadcast()).into()),
        IpNet::V6(net) => (net.network().into(), net.broadcast().into()),
    }
}
