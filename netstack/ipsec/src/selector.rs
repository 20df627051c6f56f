//! Traffic selectors (RFC 4301 §4.4.1.1).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use ipnet::IpNet;
use packet::ipv4::Ipv4;
use packet::ipv6::{Extension, Ipv6};
use packet::protocol;
use zerocopy::FromBytes;

/// Which packets: addresses, protocol, ports, all of which must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Source addresses.
    pub source: IpNet,
    /// Destination addresses, of the same family.
    pub destination: IpNet,
    /// Protocol above IP; None: any.
    pub protocol: Option<u8>,
    /// First and last source port. `(0, u16::MAX)`: any, also where there are no ports.
    pub source_ports: (u16, u16),
    /// First and last destination port.
    pub destination_ports: (u16, u16),
}

/// Any port.
const ANY_PORT: (u16, u16) = (0, u16::MAX);

impl Selector {
    /// Every protocol and port between two prefixes.
    pub fn between(source: IpNet, destination: IpNet) -> Self {
        Self { source, destination, protocol: None, source_ports: ANY_PORT, destination_ports: ANY_PORT }
    }

    /// True if the packet is selected. Where ports matter, a packet without visible ports (a later fragment) is not.
    #[inline]
    pub fn matches(&self, packet: &PacketFacts) -> bool {
        let port = |range: (u16, u16), port: Option<u16>| {
            range == ANY_PORT || port.is_some_and(|port| (range.0..=range.1).contains(&port))
        };
        self.source.contains(&packet.source)
            && self.destination.contains(&packet.destination)
            && self.protocol.is_none_or(|protocol| packet.protocol == Some(protocol))
            && port(self.source_ports, packet.ports.map(|ports| ports.0))
            && port(self.destination_ports, packet.ports.map(|ports| ports.1))
    }
}

/// What of a packet selectors look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketFacts {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol above IP; None where it is not visible.
    pub protocol: Option<u8>,
    /// Source and destination port, where they are visible.
    pub ports: Option<(u16, u16)>,
}

impl PacketFacts {
    /// Of a packet that starts at its IP header; None if that is cut short.
    #[inline]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::of_ipv4(bytes),
            6 => Self::of_ipv6(bytes),
            _ => None,
        }
    }

    #[inline]
    fn of_ipv4(bytes: &[u8]) -> Option<Self> {
        let (header, _) = Ipv4::ref_from_prefix(bytes).ok()?;
        let at = header.header_len();
        let is_first = header.fragment_offset_bytes() == 0;
        Some(Self {
            source: Ipv4Addr::from(header.source).into(),
            destination: Ipv4Addr::from(header.destination).into(),
            protocol: Some(header.protocol),
            ports: if is_first { ports(bytes, header.protocol, at) } else { None },
        })
    }

    fn of_ipv6(bytes: &[u8]) -> Option<Self> {
        let (header, _) = Ipv6::ref_from_prefix(bytes).ok()?;
        let upper = ipv6_upper_layer(bytes);
        Some(Self {
            source: Ipv6Addr::from(header.source).into(),
            destination: Ipv6Addr::from(header.destination).into(),
            protocol: upper.map(|(protocol, _)| protocol),
            ports: upper.and_then(|(protocol, at)| ports(bytes, protocol, at?)),
        })
    }
}

/// The protocol above all extension headers, and where it starts; no place in a fragment that is not the first.
fn ipv6_upper_layer(bytes: &[u8]) -> Option<(u8, Option<usize>)> {
    let (mut next, mut at) = (*bytes.get(6)?, size_of::<Ipv6>());
    loop {
        match next {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                let (extension, _) = Extension::ref_from_prefix(bytes.get(at..)?).ok()?;
                (next, at) = (extension.next_header, at + extension.header_len());
            }
            protocol::FRAGMENT => {
                let fragment = bytes.get(at..)?.first_chunk::<8>()?;
                if u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0 {
                    return Some((fragment[0], None));
                }
                (next, at) = (fragment[0], at + 8);
            }
            _ => return Some((next, Some(at))),
        }
    }
}

#[inline]
fn ports(bytes: &[u8], protocol: u8, at: usize) -> Option<(u16, u16)> {
    if !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return None;
    }
    let &[a, b, c, d] = bytes.get(at..)?.first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}
