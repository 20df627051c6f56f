//! Outer headers: the packet reaches its backend as it is, and the backend answers the client itself.
//!
//! * IPIP: RFC 2003 (IPv4 in IPv4), RFC 2473 (in IPv6), RFC 4213 (IPv6 in IPv4)
//! * GUE: variant 1 of draft-ietf-intarea-gue, an IP packet directly after the UDP header, whose version field tells which
//!
//! Congestion bits are copied to the outer header (RFC 6040 §4.1, normal mode).

use packet::checksum::fold;
use packet::ipv4::{DONT_FRAGMENT, Ipv4};
use packet::ipv6::Ipv6;
use packet::udp::Udp;
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use crate::view::Malformed;

/// The protocol of an IPv4 packet in an IP packet.
pub const IPV4_IN_IP: u8 = 4;
/// The protocol of an IPv6 packet in an IP packet.
pub const IPV6_IN_IP: u8 = 41;
/// Source ports of GUE: the flow's hash chooses among the dynamic ones (RFC 6335).
const FIRST_DYNAMIC_PORT: u16 = 49_152;

/// The ends of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// Over IPv4: source and destination.
    V4([u8; 4], [u8; 4]),
    /// Over IPv6.
    V6([u8; 16], [u8; 16]),
}

/// How packets reach a backend: an outer header that is ready, but for what it says about the packet inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    header: Header,
    gue_port: Option<U16>,
}

/// An outer IP header before nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    /// With its checksum.
    V4(Ipv4),
    V6(Ipv6),
}

/// What of an inner packet the outer header depends on.
struct Inner {
    /// Its own, in an outer packet without UDP.
    protocol: u8,
    traffic_class: u8,
    may_fragment: bool,
}

impl Tunnel {
    /// From one end to the other by GUE to this destination port (6080 is IANA's); without one, by IPIP.
    pub fn new(outer: Outer, gue_port: Option<u16>) -> Self {
        let header = match outer {
            Outer::V4(source, destination) => {
                let mut header = Ipv4::new(0, source, destination, 0);
                header.fill_checksum();
                Header::V4(header)
            }
            Outer::V6(source, destination) => Header::V6(Ipv6::new(0, source, destination, 0)),
        };
        Self { header, gue_port: gue_port.map(U16::new) }
    }

    /// Bytes in front of the inner packet.
    #[inline]
    pub fn overhead_bytes(&self) -> usize {
        let ip_bytes = match self.header {
            Header::V4(_) => size_of::<Ipv4>(),
            Header::V6(_) => size_of::<Ipv6>(),
        };
        ip_bytes + self.gue_port.map_or(0, |_| size_of::<Udp>())
    }

    /// Writes the outer header into the room for it at the start of `bytes`, behind which is the start of an IP packet of
    /// `inner_bytes`; all of it where the header has a UDP checksum, which it has over IPv6. `hash` is its flow's.
    ///
    /// # Errors
    /// [`Malformed`] if there is no IP packet behind the room, one too long to have an outer header, or not all that is
    /// needed.
    #[inline]
    pub fn put(&self, bytes: &mut [u8], inner_bytes: usize, hash: u64) -> Result<(), Malformed> {
        match &self.header {
            Header::V4(ready) => {
                let (place, rest) = Ipv4::mut_from_prefix(bytes).map_err(|_| Malformed::Truncated)?;
                *place = *ready;
                let Some(port) = self.gue_port else {
                    let inner = Inner::of(rest)?;
                    return complete_ipv4(place, &inner, (inner.protocol, inner_bytes, hash));
                };
                let (udp, rest) = Udp::mut_from_prefix(rest).map_err(|_| Malformed::Truncated)?;
                let udp_bytes = inner_bytes + size_of::<Udp>();
                complete_ipv4(place, &Inner::of(rest)?, (packet::protocol::UDP, udp_bytes, hash))?;
                *udp = udp_header(port, udp_bytes, hash);
            }
            Header::V6(ready) => {
                let (place, rest) = Ipv6::mut_from_prefix(bytes).map_err(|_| Malformed::Truncated)?;
                *place = *ready;
                let Some(port) = self.gue_port else {
                    let inner = Inner::of(rest)?;
                    return complete_ipv6(place, &inner, (inner.protocol, inner_bytes, hash));
                };
                let (udp, rest) = Udp::mut_from_prefix(rest).map_err(|_| Malformed::Truncated)?;
                let udp_bytes = inner_bytes + size_of::<Udp>();
                complete_ipv6(place, &Inner::of(rest)?, (packet::protocol::UDP, udp_bytes, hash))?;
                if rest.len() != inner_bytes {
                    return Err(Malformed::Truncated);
                }
                *udp = udp_header(port, udp_bytes, hash);
                let sum = place.pseudo_header(packet::protocol::UDP, udp_bytes as u32);
                let sum = sum.bytes(udp.as_bytes()).bytes(rest).finish();
                udp.checksum = if sum == U16::ZERO { U16::MAX_VALUE } else { sum };
            }
        }
        Ok(())
    }
}

impl Inner {
    #[inline(always)]
    fn of(packet: &[u8]) -> Result<Self, Malformed> {
        let head: &[u8; 7] = packet.first_chunk().ok_or(Malformed::Truncated)?;
        match head[0] >> 4 {
            4 => {
                let may_fragment = u16::from(head[6]) << 8 & DONT_FRAGMENT == 0;
                Ok(Self { protocol: IPV4_IN_IP, traffic_class: head[1], may_fragment })
            }
            6 => {
                let traffic_class = head[0] << 4 | head[1] >> 4;
                Ok(Self { protocol: IPV6_IN_IP, traffic_class, may_fragment: false })
            }
            _ => Err(Malformed::Version),
        }
    }
}

/// Writes into a ready header what it says about the packet inside, and updates its checksum, which is one without all that
/// (RFC 1624).
#[inline(always)]
fn complete_ipv4(
    header: &mut Ipv4,
    inner: &Inner,
    (protocol, payload_bytes, hash): (u8, usize, u64),
) -> Result<(), Malformed> {
    let total = u16::try_from(payload_bytes + size_of::<Ipv4>()).map_err(|_| Malformed::Truncated)?;
    // RFC 2003 §3.1, and what IPv6 expects of a link.
    let flags = if inner.may_fragment { 0 } else { DONT_FRAGMENT };
    // Of use if the outer packet is fragmented on its way; any number that changes will do.
    let identification = hash as u16;
    let changes = payload_bytes as u64
        + u64::from(inner.traffic_class)
        + u64::from(identification)
        + u64::from(flags)
        + u64::from(protocol);
    let sum = fold(changes + u64::from(!header.checksum.get()));
    header.dscp_ecn = inner.traffic_class;
    header.total_length = U16::new(total);
    header.identification = U16::new(identification);
    header.flags_fragment = U16::new(flags);
    header.protocol = protocol;
    header.checksum = U16::new(!sum);
    Ok(())
}

#[inline(always)]
fn complete_ipv6(
    header: &mut Ipv6,
    inner: &Inner,
    (protocol, payload_bytes, hash): (u8, usize, u64),
) -> Result<(), Malformed> {
    let class = u32::from(inner.traffic_class) << 20;
    // The flow label is what equal paths go by (RFC 6438).
    header.version_class_flow = U32::new(6 << 28 | class | (hash as u32 & 0xf_ffff));
    let length = u16::try_from(payload_bytes).map_err(|_| Malformed::Truncated)?;
    header.payload_length = U16::new(length);
    header.next_header = protocol;
    Ok(())
}

/// Without checksum: over IPv4 the packet inside has its own (RFC 768). So many bytes an outer packet has.
#[inline(always)]
fn udp_header(port: U16, bytes: usize, hash: u64) -> Udp {
    Udp {
        source_port: U16::new(FIRST_DYNAMIC_PORT | (hash >> 48) as u16),
        destination_port: port,
        length: U16::new(bytes as u16),
        checksum: U16::ZERO,
    }
}
