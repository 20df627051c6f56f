//! Rules over classes: what of a rule the tables decide, and what is left to be checked against a packet.

use alloc::{sync::Arc, vec::Vec};

use hashbrown::HashSet;

use super::bits::Bits;
use super::sets::PortsOfNames;
use crate::model::{Direction, Packet, protocol};

/// The protocols that have tables of their own; the last is all others.
pub const SLOTS: usize = 6;

/// What a table of a slot is searched by, in 16 bits: the destination port; type and code of an ICMP message; the
/// number of any other protocol.
#[inline]
pub fn slot_and_key(packet: &Packet) -> (usize, u16) {
    let icmp = u16::from(packet.icmp.0) << 8 | u16::from(packet.icmp.1);
    match packet.protocol {
        protocol::TCP => (0, packet.destination_port),
        protocol::UDP => (1, packet.destination_port),
        protocol::SCTP => (2, packet.destination_port),
        protocol::ICMP => (3, icmp),
        protocol::ICMPV6 => (4, icmp),
        other => (5, u16::from(other)),
    }
}

const SLOT_PROTOCOLS: [u8; 5] =
    [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP, protocol::ICMPV6];

/// A set that rules speak of.
pub type SetId = u32;

/// One end of a rule.
#[derive(Clone, Debug, Default)]
pub struct CompiledSide {
    /// In all of these.
    pub within: Vec<SetId>,
    /// In none of these.
    pub outside: Vec<SetId>,
    pub ports: Vec<CompiledPorts>,
    pub not_ports: Vec<CompiledPorts>,
}

/// A condition on a port.
#[derive(Clone, Debug)]
pub enum CompiledPorts {
    Range(u16, u16),
    /// Number of the name.
    Named(u32, Option<u8>),
    Members(Vec<(SetId, u8, u16)>),
}

/// A rule over classes.
#[derive(Clone, Debug)]
pub struct CompiledRule {
    /// About packets of IPv4, and of IPv6.
    pub versions: (bool, bool),
    pub protocol: Option<u8>,
    pub not_protocol: Option<u8>,
    pub icmp: Option<crate::model::Icmp>,
    pub not_icmp: Option<crate::model::Icmp>,
    pub source: CompiledSide,
    pub destination: CompiledSide,
}

/// Which classes are in which sets, and which have which named ports: what is to be known of a moment to match rules.
#[derive(Clone, Default)]
pub struct Members {
    /// The classes in each set.
    pub classes: Vec<Arc<Bits>>,
    /// Class, name, protocol and port of every named port.
    pub named: Arc<HashSet<(u32, u32, u8, u16)>>,
}

impl Members {
    #[inline]
    fn contains(&self, set: SetId, class: u32) -> bool {
        self.classes.get(set as usize).is_some_and(|classes| classes.contains(class))
    }

    /// True if a class of addresses is as a side wants it.
    #[inline]
    pub fn admits(&self, side: &CompiledSide, class: u32) -> bool {
        side.within.iter().all(|set| self.contains(*set, class))
            && !side.outside.iter().any(|set| self.contains(*set, class))
    }

    #[inline]
    fn admits_port(&self, ports: &CompiledPorts, class: u32, protocol: u8, port: u16) -> bool {
        match ports {
            CompiledPorts::Range(first, last) => (*first..=*last).contains(&port),
            CompiledPorts::Named(name, wanted) => {
                wanted.is_none_or(|wanted| wanted == protocol)
                    && self.named.contains(&(class, *name, protocol, port))
            }
            CompiledPorts::Members(members) => members
                .iter()
                .any(|(set, of, wanted)| *of == protocol && *wanted == port && self.contains(*set, class)),
        }
    }

    /// True if a rule is about a packet between addresses of these classes. What the tables have decided is asked again.
    #[inline]
    pub fn matches(&self, rule: &CompiledRule, packet: &Packet, source: u32, destination: u32) -> bool {
        let is_icmp = matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6);
        let of_type = |icmp: crate::model::Icmp| {
            is_icmp && icmp.kind == packet.icmp.0 && icmp.code.is_none_or(|code| code == packet.icmp.1)
        };
        let side = |side: &CompiledSide, class: u32, port: u16| {
            let one_of = |ports: &[CompiledPorts]| {
                ports.iter().any(|ports| self.admits_port(ports, class, packet.protocol, port))
            };
            self.admits(side, class)
                && (side.ports.is_empty() || one_of(&side.ports))
                && !one_of(&side.not_ports)
        };
        (if packet.source.is_ipv4() { rule.versions.0 } else { rule.versions.1 })
            && rule.protocol.is_none_or(|number| number == packet.protocol)
            && rule.not_protocol.is_none_or(|number| number != packet.protocol)
            && rule.icmp.is_none_or(of_type)
            && !rule.not_icmp.is_some_and(of_type)
            && side(&rule.source, source, packet.source_port)
            && side(&rule.destination, destination, packet.destination_port)
    }
}

/// Where in a slot's table a rule is, and whether that is all there is to check.
#[derive(Debug)]
pub struct Reach {
    /// First and last keys.
    pub ranges: Vec<(u16, u16)>,
    /// A packet whose key is within and whose peer's class is admitted matches.
    pub exact: bool,
}

impl CompiledRule {
    /// The end that policy calls the peer, and the other one.
    pub fn ends(&self, direction: Direction) -> (&CompiledSide, &CompiledSide) {
        match direction {
            Direction::Ingress => (&self.source, &self.destination),
            Direction::Egress => (&self.destination, &self.source),
        }
    }

    /// Where it is in the table of a slot.
    pub fn reach(&self, slot: usize, direction: Direction, names: &PortsOfNames) -> Reach {
        let nowhere = Reach { ranges: Vec::new(), exact: true };
        let number = SLOT_PROTOCOLS.get(slot).copied();
        let (_, local) = self.ends(direction);
        let (source, destination) = (&self.source, &self.destination);
        let mut exact = local.within.is_empty()
            && local.outside.is_empty()
            && source.ports.is_empty()
            && source.not_ports.is_empty()
            && destination.not_ports.is_empty();
        let Some(number) = number else {
            let (first, last) = match self.protocol {
                Some(protocol) if SLOT_PROTOCOLS.contains(&protocol) => return nowhere,
                Some(protocol) => (u16::from(protocol), u16::from(protocol)),
                None => (0, 255),
            };
            exact &= self.not_protocol.is_none_or(|not| SLOT_PROTOCOLS.contains(&not))
                && destination.ports.is_empty()
                && self.not_icmp.is_none();
            let ranges = if self.icmp.is_some() { Vec::new() } else { Vec::from([(first, last)]) };
            return Reach { ranges, exact };
        };
        if self.protocol.is_some_and(|wanted| wanted != number) || self.not_protocol == Some(number) {
            return nowhere;
        }
        if matches!(number, protocol::ICMP | protocol::ICMPV6) {
            exact &= self.not_icmp.is_none() && destination.ports.is_empty();
            let range = self.icmp.map_or((0, u16::MAX), |icmp| {
                let kind = u16::from(icmp.kind) << 8;
                icmp.code.map_or((kind, kind | 0xff), |code| (kind | u16::from(code), kind | u16::from(code)))
            });
            return Reach { ranges: Vec::from([range]), exact };
        }
        if self.icmp.is_some() {
            return nowhere;
        }
        if destination.ports.is_empty() {
            return Reach { ranges: Vec::from([(0, u16::MAX)]), exact };
        }
        let mut ranges = Vec::new();
        for ports in &destination.ports {
            exact &= matches!(ports, CompiledPorts::Range(..));
            ranges.extend(ranges_of(names, ports, number));
        }
        Reach { ranges, exact }
    }
}

/// The ports of a protocol that a condition may admit.
fn ranges_of(names: &PortsOfNames, ports: &CompiledPorts, protocol: u8) -> Vec<(u16, u16)> {
    let of = |(_, port): (u8, u16)| (port, port);
    match ports {
        CompiledPorts::Range(first, last) => Vec::from([(*first, *last)]),
        CompiledPorts::Members(members) => {
            members.iter().map(|(_, of, port)| (*of, *port)).filter(|(p, _)| *p == protocol).map(of).collect()
        }
        CompiledPorts::Named(name, wanted) => {
            let ports = names.of(*name).filter(|(p, _)| *p == protocol);
            ports.filter(|_| wanted.is_none_or(|wanted| wanted == protocol)).map(of).collect()
        }
    }
}
