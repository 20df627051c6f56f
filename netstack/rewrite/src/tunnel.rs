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

/// What of an inner packet the outer header depends on.
struct Inner {
    is_ipv6: bool,
    traffic_class: u8,
    may_fragment: bool,
}

impl Tunnel {
    /// Bytes in front of the inner packet.
    #[inline]
    pub fn overhead_bytes(&self) -> usize {
        self.ip_bytes() + self.gue_port.map_or(0, |_| size_of::<Udp>())
    }

    #[inline]
    fn ip_bytes(&self) -> usize {
        match self.outer {
            Outer::V4(..) => size_of::<Ipv4>(),
            Outer::V6(..) => size_of::<Ipv6>(),
        }
    }

    /// Writes the outer header into the room for it at the start of `bytes`, behind which is the start of an IP packet of
    /// `inner_bytes` at least; all of it where the header has a UDP checksum. `hash` is its flow's. `identification`
    /// is for the fragments of an IPv4 outer packet, should there be any.
    ///
    /// # Errors
    /// [`Malformed`] if there is no IP packet behind the room, one too long to have an outer header, or not all that is
    /// needed.
    #[inline]
    pub fn put(
        &self,
        bytes: &mut [u8],
        inner_bytes: usize,
        hash: u64,
        identification: u16,
    ) -> Result<(), Malformed> {
        let (room, inner) = bytes.split_at_mut_checked(self.overhead_bytes()).ok_or(Malformed::Truncated)?;
        let (ip, udp) = room.split_at_mut_checked(self.ip_bytes()).ok_or(Malformed::Truncated)?;
        let about = look_at(inner)?;
        let protocol = match (self.gue_port, about.is_ipv6) {
            (Some(_), _) => packet::protocol::UDP,
            (None, false) => IPV4_IN_IP,
            (None, true) => IPV6_IN_IP,
        };
        let payload = inner_bytes + udp.len();
        match self.outer {
            Outer::V4(source, destination) => {
                let total = u16::try_from(payload + size_of::<Ipv4>()).map_err(|_| Malformed::Truncated)?;
                // RFC 2003 §3.1, and what IPv6 expects of a link.
                let flags = if about.may_fragment { 0 } else { DONT_FRAGMENT };
                let class = u16::from(about.traffic_class);
                put_ipv4(ip, [class, total, identification, flags], protocol, [source, destination]);
            }
            Outer::V6(source, destination) => {
                let class = u32::from(about.traffic_class) << 20;
                let outer = Ipv6 {
                    // The flow label is what equal paths go by (RFC 6438).
                    version_class_flow: U32::new(6 << 28 | class | (hash as u32 & 0xf_ffff)),
                    payload_length: U16::new(u16::try_from(payload).map_err(|_| Malformed::Truncated)?),
                    next_header: protocol,
                    hop_limit: packet::DEFAULT_TTL,
                    source,
                    destination,
                };
                let _ = outer.write_to(ip);
            }
        }
        match self.gue_port {
            Some(port) => self.put_udp(udp, port, (inner, inner_bytes), hash),
            None => Ok(()),
        }
    }

    fn put_udp(
        &self,
        room: &mut [u8],
        port: u16,
        (inner, inner_bytes): (&[u8], usize),
        hash: u64,
    ) -> Result<(), Malformed> {
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
        udp.write_to(room).map_err(|_| Malformed::Truncated)
    }
}

/// An IPv4 header without options, summed on its way as words of 32 bits (RFC 1071 §2): `words` are the traffic class, the total
/// length, the identification, flags with offset.
#[inline]
fn put_ipv4(room: &mut [u8], words: [u16; 4], protocol: u8, ends: [[u8; 4]; 2]) {
    let [class, total, identification, flags] = words.map(u32::from);
    let [source, destination] = ends.map(u32::from_be_bytes);
    let start = u32::from(VERSION_IHL) << 24 | class << 16 | total;
    let hops = u32::from(packet::DEFAULT_TTL) << 24 | u32::from(protocol) << 16;
    let mut words = [start, identification << 16 | flags, hops, source, destination];
    let sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    words[2] |= u32::from(!((sum & 0xffff) + (sum >> 16)) as u16);
    if let Some(room) = room.first_chunk_mut::<{ size_of::<Ipv4>() }>() {
        let places = room.as_chunks_mut::<4>().0.iter_mut();
        places.zip(words).for_each(|(place, word)| *place = word.to_be_bytes());
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
