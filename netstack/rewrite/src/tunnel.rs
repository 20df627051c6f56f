//! Outer headers: the packet reaches its backend as it is, and the backend answers the client itself.
//!
//! * IPIP: RFC 2003 (IPv4 in IPv4), RFC 2473 (in IPv6), RFC 4213 (IPv6 in IPv4)
//! * GUE: variant 1 of draft-ietf-intarea-gue, an IP packet directly after the UDP header, whose version field tells which
//!
//! Congestion bits are copied to the outer header (RFC 6040 §4.1, normal mode).

use packet::checksum::Sum;
use packet::ipv4::{DONT_FRAGMENT, Ipv4, VERSION_IHL};
use packet::ipv6::Ipv6;
use packet::udp::Udp;
use zerocopy::IntoBytes;
use zerocopy::network_endian::{U16, U32};

use crate::view::Malformed;

/// Protocols of an IP packet in an IP packet.
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
/// TTL of outer headers (RFC 1700).
const TTL: u8 = 64;
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

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// From where to where.
    pub outer: Outer,
    /// GUE to this destination port (6080 is IANA's); without one, IPIP.
    pub gue_port: Option<u16>,
    /// GUE over IPv6 without a UDP checksum (RFC 6935), which the receiver must allow. Over IPv4 there is never one.
    pub zero_checksum6: bool,
}

/// An outer header's bytes.
pub type Header = heapless::Vec<u8, 48>;

const _: () = assert!(size_of::<Ipv6>() + size_of::<Udp>() == 48);

/// What of an inner packet the outer header depends on.
struct Inner {
    is_ipv6: bool,
    traffic_class: u8,
    may_fragment: bool,
}

impl Tunnel {
    /// Bytes in front of the inner packet.
    pub fn overhead_bytes(&self) -> usize {
        let ip = match self.outer {
            Outer::V4(..) => size_of::<Ipv4>(),
            Outer::V6(..) => size_of::<Ipv6>(),
        };
        ip + self.gue_port.map_or(0, |_| size_of::<Udp>())
    }

    /// The bytes to put in front of an IP packet of `inner_bytes`, of which `inner` is the start at least; all of it where
    /// [`Tunnel`] has a UDP checksum. `hash` is its flow's. `identification` is for the fragments of an IPv4 outer packet,
    /// should there be any.
    ///
    /// # Errors
    /// [`Malformed`] if `inner` is no IP packet, one too long to have an outer header, or not all that is needed.
    pub fn header(
        &self,
        inner: &[u8],
        inner_bytes: usize,
        hash: u64,
        identification: u16,
    ) -> Result<Header, Malformed> {
        let about = look_at(inner)?;
        let udp = match self.gue_port {
            Some(port) => Some(self.udp(port, (inner, inner_bytes), hash)?),
            None => None,
        };
        let protocol = match (&udp, about.is_ipv6) {
            (Some(_), _) => packet::protocol::UDP,
            (None, false) => IPV4_IN_IP,
            (None, true) => IPV6_IN_IP,
        };
        let payload = inner_bytes + if udp.is_some() { size_of::<Udp>() } else { 0 };
        let mut header = Header::new();
        let written = match self.outer {
            Outer::V4(source, destination) => {
                let total = u16::try_from(payload + size_of::<Ipv4>()).map_err(|_| Malformed::Truncated)?;
                let mut outer = Ipv4 {
                    version_ihl: VERSION_IHL,
                    dscp_ecn: about.traffic_class,
                    total_length: U16::new(total),
                    identification: U16::new(identification),
                    // RFC 2003 §3.1, and what IPv6 expects of a link.
                    flags_fragment: U16::new(if about.may_fragment { 0 } else { DONT_FRAGMENT }),
                    ttl: TTL,
                    protocol,
                    checksum: U16::ZERO,
                    source,
                    destination,
                };
                outer.fill_checksum();
                header.extend_from_slice(outer.as_bytes())
            }
            Outer::V6(source, destination) => {
                let class = u32::from(about.traffic_class) << 20;
                let outer = Ipv6 {
                    // The flow label is what equal paths go by (RFC 6438).
                    version_class_flow: U32::new(6 << 28 | class | (hash as u32 & 0xf_ffff)),
                    payload_length: U16::new(u16::try_from(payload).map_err(|_| Malformed::Truncated)?),
                    next_header: protocol,
                    hop_limit: TTL,
                    source,
                    destination,
                };
                header.extend_from_slice(outer.as_bytes())
            }
        };
        let all = written.and_then(|()| match &udp {
            Some(udp) => header.extend_from_slice(udp.as_bytes()),
            None => Ok(()),
        });
        all.map(|()| header).map_err(|_| Malformed::Truncated)
    }

    fn udp(&self, port: u16, (inner, inner_bytes): (&[u8], usize), hash: u64) -> Result<Udp, Malformed> {
        let length = u16::try_from(inner_bytes + size_of::<Udp>()).map_err(|_| Malformed::Truncated)?;
        let mut udp = Udp {
            source_port: U16::new(FIRST_DYNAMIC_PORT | (hash >> 48) as u16),
            destination_port: U16::new(port),
            length: U16::new(length),
            checksum: U16::ZERO,
        };
        if let Outer::V6(source, destination) = self.outer
            && !self.zero_checksum6
        {
            if inner.len() != inner_bytes {
                return Err(Malformed::Truncated);
            }
            let pseudo =
                Sum::new().pseudo_header(&source, &destination, packet::protocol::UDP, length.into());
            let sum = pseudo.bytes(udp.as_bytes()).bytes(inner).finish();
            udp.checksum = if sum == U16::ZERO { U16::MAX_VALUE } else { sum };
        }
        Ok(udp)
    }
}

fn look_at(inner: &[u8]) -> Result<Inner, Malformed> {
    let byte = |at: usize| inner.get(at).copied().ok_or(Malformed::Truncated);
    match byte(0)? >> 4 {
        4 => {
            let may_fragment = byte(6)? & 0x40 == 0;
            Ok(Inner { is_ipv6: false, traffic_class: byte(1)?, may_fragment })
        }
        6 => Ok(Inner { is_ipv6: true, traffic_class: byte(0)? << 4 | byte(1)? >> 4, may_fragment: false }),
        _ => Err(Malformed::Version),
    }
}
