//! Outer headers: the packet reaches its backend as it is, and the backend answers the client itself.
//!
//! * IPIP: RFC 2003 (IPv4 in IPv4), RFC 2473 (in IPv6), RFC 4213 (IPv6 in IPv4)
//! * GUE: variant 1 of draft-ietf-intarea-gue, an IP packet directly after the UDP header, whose version field tells which
//!
//! Congestion bits are copied to the outer header (RFC 6040 §4.1, normal mode).

use packet::checksum::fold;
use packet::ipv4::{DONT_FRAGMENT, Ipv4, VERSION_IHL};
use packet::ipv6::Ipv6;
use packet::udp::Udp;
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

/// The protocol of an IPv4 packet in an IP packet.
pub const IPV4_IN_IP: u8 = 4;
/// The protocol of an IPv6 packet in an IP packet.
pub const IPV6_IN_IP: u8 = 41;
/// Source ports of GUE: the flow's hash chooses among the dynamic ones (RFC 6335).
const FIRST_DYNAMIC_PORT: u16 = 49_152;

/// Bytes of an IPv4 header up to its hops: what a packet changes of a ready one but for the protocol and the checksum.
const START_BYTES: usize = 8;

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
    overhead_bytes: u8,
}

/// Why a packet does not go into a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEntry {
    /// It may not go one hop further.
    Expired,
    /// It is no IP packet, too long to have an outer header, or not all there that is needed.
    Malformed,
}

/// An outer IP header before nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    /// With the sum, in the machine's byte order, of what is after its first eight bytes, of which all packets have the same.
    V4(Ipv4, u16),
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
                let header = Ipv4::new(0, source, destination, 0);
                let sum = packet::checksum::of(&header.as_bytes()[START_BYTES..]);
                Header::V4(header, !u16::from_ne_bytes(sum.to_bytes()))
            }
            Outer::V6(source, destination) => Header::V6(Ipv6::new(0, source, destination, 0)),
        };
        let ip_bytes = match header {
            Header::V4(..) => size_of::<Ipv4>(),
            Header::V6(_) => size_of::<Ipv6>(),
        };
        let overhead_bytes = (ip_bytes + gue_port.map_or(0, |_| size_of::<Udp>())) as u8;
        Self { header, gue_port: gue_port.map(U16::new), overhead_bytes }
    }

    /// True if the outer packet is of IPv6.
    #[inline]
    pub fn is_ipv6(&self) -> bool {
        matches!(self.header, Header::V6(_))
    }

    /// Bytes in front of the inner packet.
    #[inline]
    pub fn overhead_bytes(&self) -> usize {
        usize::from(self.overhead_bytes)
    }

    /// Writes the outer header into the room for it at the start of `bytes`, behind which is the start of an IP packet of
    /// `inner_bytes`; all of it where the header has a UDP checksum, which it has over IPv6. The packet inside is one hop
    /// further then (RFC 2003 §3.1). `hash` is its flow's.
    ///
    /// # Errors
    /// [`NoEntry`]; then the packet behind the room is as it was, but for a hop if it is malformed.
    #[inline]
    pub fn put(&self, bytes: &mut [u8], inner_bytes: usize, hash: u64) -> Result<(), NoEntry> {
        match &self.header {
            Header::V4(ready, sum) => self.put_ipv4((ready, *sum), bytes, inner_bytes, hash),
            Header::V6(ready) => self.put_ipv6(ready, bytes, inner_bytes, hash),
        }
    }

    #[inline(always)]
    fn put_ipv4(
        &self,
        (ready, sum): (&Ipv4, u16),
        bytes: &mut [u8],
        inner_bytes: usize,
        hash: u64,
    ) -> Result<(), NoEntry> {
        let (place, rest) = Ipv4::mut_from_prefix(bytes).map_err(|_| NoEntry::Malformed)?;
        *place = *ready;
        let Some(port) = self.gue_port else {
            let inner = Inner::take_hop(rest)?;
            return complete_ipv4(place, sum, &inner, (inner.protocol, inner_bytes, hash));
        };
        let (udp, rest) = Udp::mut_from_prefix(rest).map_err(|_| NoEntry::Malformed)?;
        let udp_bytes = inner_bytes + size_of::<Udp>();
        let inner = Inner::take_hop(rest)?;
        complete_ipv4(place, sum, &inner, (packet::protocol::UDP, udp_bytes, hash))?;
        *udp = udp_header(port, udp_bytes, hash);
        Ok(())
    }

    /// Apart, so that the more frequent way has registers for all it needs.
    #[inline(never)]
    fn put_ipv6(&self, ready: &Ipv6, bytes: &mut [u8], inner_bytes: usize, hash: u64) -> Result<(), NoEntry> {
        let (place, rest) = Ipv6::mut_from_prefix(bytes).map_err(|_| NoEntry::Malformed)?;
        *place = *ready;
        let Some(port) = self.gue_port else {
            let inner = Inner::take_hop(rest)?;
            return complete_ipv6(place, &inner, (inner.protocol, inner_bytes, hash));
        };
        let (udp, rest) = Udp::mut_from_prefix(rest).map_err(|_| NoEntry::Malformed)?;
        let udp_bytes = inner_bytes + size_of::<Udp>();
        complete_ipv6(place, &Inner::take_hop(rest)?, (packet::protocol::UDP, udp_bytes, hash))?;
        if rest.len() != inner_bytes {
            return Err(NoEntry::Malformed);
        }
        *udp = udp_header(port, udp_bytes, hash);
        let sum = place.pseudo_header(packet::protocol::UDP, udp_bytes as u32);
        let sum = sum.bytes(udp.as_bytes()).bytes(rest).finish();
        udp.checksum = if sum == U16::ZERO { U16::MAX_VALUE } else { sum };
        Ok(())
    }
}

impl Inner {
    /// Takes a hop from a packet.
    #[inline(always)]
    fn take_hop(packet: &mut [u8]) -> Result<Self, NoEntry> {
        let (header, _) = Ipv4::mut_from_prefix(packet).map_err(|_| NoEntry::Malformed)?;
        if header.version() == 4 {
            if header.ttl <= 1 {
                return Err(NoEntry::Expired);
            }
            header.decrement_ttl();
            let may_fragment = header.flags_fragment.get() & DONT_FRAGMENT == 0;
            return Ok(Self { protocol: IPV4_IN_IP, traffic_class: header.dscp_ecn, may_fragment });
        }
        if header.version() != 6 {
            return Err(NoEntry::Malformed);
        }
        let (header, _) = Ipv6::mut_from_prefix(packet).map_err(|_| NoEntry::Malformed)?;
        if header.hop_limit <= 1 {
            return Err(NoEntry::Expired);
        }
        header.hop_limit -= 1;
        let traffic_class = (header.version_class_flow.get() >> 20) as u8;
        Ok(Self { protocol: IPV6_IN_IP, traffic_class, may_fragment: false })
    }
}

/// Writes into a ready header what it says about the packet inside, and its checksum, of which `sum` is the part that all packets
/// have the same. What is written together is summed together (RFC 1071 §2).
#[inline(always)]
fn complete_ipv4(
    header: &mut Ipv4,
    sum: u16,
    inner: &Inner,
    (protocol, payload_bytes, hash): (u8, usize, u64),
) -> Result<(), NoEntry> {
    let total = u16::try_from(payload_bytes + size_of::<Ipv4>()).map_err(|_| NoEntry::Malformed)?;
    // RFC 2003 §3.1, and what IPv6 expects of a link.
    let flags = if inner.may_fragment { 0 } else { DONT_FRAGMENT };
    // Of use if the outer packet is fragmented on its way; any number that changes will do.
    let identification = hash as u16;
    let start = u64::from(VERSION_IHL) << 56
        | u64::from(inner.traffic_class) << 48
        | u64::from(total) << 32
        | u64::from(identification) << 16
        | u64::from(flags);
    let start = start.to_be_bytes();
    let rest = u16::from_ne_bytes([0, protocol]);
    let sum = fold(u64::from_ne_bytes(start) + u64::from(rest) + u64::from(sum));
    if let Some(place) = header.as_mut_bytes().first_chunk_mut() {
        *place = start;
    }
    header.protocol = protocol;
    header.checksum = U16::from_bytes((!sum).to_ne_bytes());
    Ok(())
}

#[inline(always)]
fn complete_ipv6(
    header: &mut Ipv6,
    inner: &Inner,
    (protocol, payload_bytes, hash): (u8, usize, u64),
) -> Result<(), NoEntry> {
    let class = u32::from(inner.traffic_class) << 20;
    // The flow label is what equal paths go by (RFC 6438).
    header.version_class_flow = U32::new(6 << 28 | class | (hash as u32 & 0xf_ffff));
    let length = u16::try_from(payload_bytes).map_err(|_| NoEntry::Malformed)?;
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
