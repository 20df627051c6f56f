//! Outer headers: what is copied from the inner packet and what comes back into it (RFC 4301 §5.1.2, RFC 6040).

use crate::params::{DfPolicy, EcnPolicy};
use crate::sa::How;
use crate::{EspError, Sa};
use buffer::{Buf, Flags};
use core::array;
use packet::ipv4::{DONT_FRAGMENT, Ipv4, VERSION_IHL};
use packet::ipv6::{Ipv6, MIN_MTU};
use packet::udp::Udp;
use packet::{checksum, protocol};
use zerocopy::FromBytes;
use zerocopy::network_endian::{U16, U32};

const UDP_BYTES: usize = size_of::<Udp>();

/// What of an inner packet the outer header or the trailer shows.
#[derive(Clone, Copy)]
pub(crate) struct Inner {
    /// Next header: 4 or 41.
    pub(crate) protocol: u8,
    ttl: u8,
    /// DSCP, ECN and DF where the first eight bytes of an IPv4 header have them; elsewhere anything.
    fields: u64,
}

/// Where DSCP and ECN end in the first eight bytes of an IPv4 header.
const CLASS_SHIFT: u32 = 48;
/// DF in them.
const DONT_FRAGMENT_FIELD: u64 = DONT_FRAGMENT as u64;

/// IPv4 in IP, as a next header.
pub(crate) const PROTOCOL_IPV4: u8 = 4;
/// IPv6 in IP, as a next header.
pub(crate) const PROTOCOL_IPV6: u8 = 41;

impl Inner {
    /// Of a packet that starts at its IP header; None if it is none.
    #[inline(always)]
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, d, e, f, g, h, ttl, ..] = bytes.first_chunk::<20>()?;
        let fields = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        match a >> 4 {
            4 => Some(Self { protocol: PROTOCOL_IPV4, ttl, fields }),
            6 => {
                // The class follows the version's four bits.
                let class = fields >> 52 & 0xff;
                let payload_bytes = fields >> 16 & 0xffff;
                // Any tunnel has to take the least MTU of IPv6, and over IPv4 routers cut what is too long for a link, unless
                // they are told not to (RFC 4213 §3.2.1).
                let is_longer = payload_bytes > u64::from(MIN_MTU) - size_of::<Ipv6>() as u64;
                let fields = class << CLASS_SHIFT | if is_longer { DONT_FRAGMENT_FIELD } else { 0 };
                Some(Self { protocol: PROTOCOL_IPV6, ttl: h, fields })
            }
            _ => None,
        }
    }

    /// DSCP and ECN.
    #[inline(always)]
    fn class(self) -> u8 {
        (self.fields >> CLASS_SHIFT) as u8
    }
}

impl Sa {
    /// Writes the outer IP header, and the UDP header behind it, of a packet of `total` bytes.
    #[inline(always)]
    pub(crate) fn write_outer(
        &self,
        bytes: &mut [u8],
        inner: Inner,
        number: u64,
        total: usize,
    ) -> Option<()> {
        let how = &self.how;
        if how.outer_v6 {
            let (class, ttl) = how.class_and_ttl(inner);
            self.write_ipv6(bytes, class, ttl, total)
        } else {
            // What is behind the header is written after it.
            OuterIpv4::new(self).write(bytes.first_chunk_mut()?, inner, number, total, 0);
            let rest = bytes.get_mut(size_of::<Ipv4>()..)?;
            if how.udp {
                self.write_udp(rest, self.peer.ipv4().1, total - size_of::<Ipv4>())
            } else {
                Some(())
            }
        }
    }

    #[inline(always)]
    fn write_ipv6(&self, bytes: &mut [u8], class: u8, hop_limit: u8, total: usize) -> Option<()> {
        let (header, rest) = Ipv6::mut_from_prefix(bytes).ok()?;
        let (template, _) = Ipv6::ref_from_prefix(&self.template).ok()?;
        *header = *template;
        header.version_class_flow = U32::new(6 << 28 | u32::from(class) << 20);
        header.payload_length = U16::new((total - size_of::<Ipv6>()) as u16);
        header.hop_limit = hop_limit;
        if !self.how.udp {
            return Some(());
        }
        let (address, port) = self.peer.ipv6();
        header.destination = address;
        self.write_udp(rest, port, total - size_of::<Ipv6>())
    }

    /// The checksum stays 0 (RFC 3948 §2.1); over IPv6 [`leave_checksum`] sees to it.
    pub(crate) fn write_udp(&self, bytes: &mut [u8], port: u16, length: usize) -> Option<()> {
        let template = self.template.get(usize::from(self.outer_bytes).checked_sub(UDP_BYTES)?..)?;
        let (udp, _) = Udp::mut_from_prefix(bytes).ok()?;
        *udp = *Udp::ref_from_prefix(template).ok()?.0;
        udp.destination_port = U16::new(port);
        udp.length = U16::new(length as u16);
        Some(())
    }
}

impl How {
    /// DSCP and ECN, and TTL, of an outer header.
    #[inline(always)]
    fn class_and_ttl(&self, inner: Inner) -> (u8, u8) {
        let class = inner.class() & self.copied_class() | self.set_class();
        (class, if self.ttl == 0 { inner.ttl } else { self.ttl })
    }

    /// The bits of DSCP and ECN that are the inner header's.
    #[inline(always)]
    fn copied_class(&self) -> u8 {
        let ecn = if self.ecn == EcnPolicy::Copy { 3 } else { 0 };
        if self.dscp.is_none() { !3 | ecn } else { ecn }
    }

    /// What the other bits are.
    #[inline(always)]
    fn set_class(&self) -> u8 {
        self.dscp.map_or(0, |dscp| dscp << 2)
    }
}

/// How an SA over IPv4 makes outer headers: an inner header's fields under a mask, beside what is always set.
#[derive(Clone, Copy)]
pub(crate) struct OuterIpv4 {
    /// Of the first eight bytes.
    copied: u64,
    set: u64,
    copied_ttl: u8,
    set_ttl: u8,
    /// The third and fourth word with TTL and checksum 0, and the last.
    protocol_and_source: u64,
    destination: u32,
    /// The sum of the 16-bit numbers of these, and of version and header length.
    known_sum: u32,
}

impl OuterIpv4 {
    #[inline(always)]
    pub(crate) fn new(sa: &Sa) -> Self {
        let how = &sa.how;
        let middle = u64::from_be_bytes(array::from_fn(|at| sa.template[8 + at]));
        let known = u32::from_be_bytes(array::from_fn(|at| sa.template[16 + at]));
        // Where the peer may move, the template has no destination.
        let destination = known | if how.udp { u32::from_be_bytes(sa.peer.ipv4().0) } else { 0 };
        let (copied_flag, set_flag) = match how.df {
            DfPolicy::Copy => (DONT_FRAGMENT_FIELD, 0),
            DfPolicy::Set => (0, DONT_FRAGMENT_FIELD),
            DfPolicy::Clear => (0, 0),
        };
        let words = (u64::from(VERSION_IHL) << 8)
            + (middle >> 48)
            + (middle >> 32 & 0xffff)
            + (middle >> 16 & 0xffff)
            + (middle & 0xffff)
            + u64::from(destination >> 16)
            + u64::from(destination & 0xffff);
        Self {
            copied: u64::from(how.copied_class()) << CLASS_SHIFT | copied_flag,
            set: u64::from(VERSION_IHL) << 56 | u64::from(how.set_class()) << CLASS_SHIFT | set_flag,
            copied_ttl: if how.ttl == 0 { u8::MAX } else { 0 },
            set_ttl: how.ttl,
            protocol_and_source: middle,
            destination,
            known_sum: words as u32,
        }
    }

    /// The header of a packet of `total` bytes, and `after` behind it: as whole words, since what is put together from
    /// bytes and then copied waits for them.
    #[inline(always)]
    pub(crate) fn write(
        &self,
        place: &mut [u8; size_of::<Ipv4>() + 4],
        inner: Inner,
        number: u64,
        total: usize,
        after: u32,
    ) {
        let fields = inner.fields & self.copied | self.set;
        let ttl = u32::from(inner.ttl & self.copied_ttl | self.set_ttl);
        // No identification is needed where fragments are forbidden (RFC 6864 §4.1).
        let forbidden = ((fields & DONT_FRAGMENT_FIELD) >> DONT_FRAGMENT.trailing_zeros()) as u16;
        let identification = u32::from(number as u16 & forbidden.wrapping_sub(1));
        let (flags, total) = (fields as u32 & 0xffff, total as u32 & 0xffff);
        let class = (fields >> CLASS_SHIFT) as u32 & 0xff;
        let sum = self.known_sum + class + total + identification + flags + (ttl << 8);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let first = fields | u64::from(total) << 32 | u64::from(identification) << 16;
        let second = u64::from(ttl) << 56 | self.protocol_and_source | u64::from(!(sum as u16)) << 32;
        let last = u64::from(self.destination) << 32 | u64::from(after);
        for (place, word) in place.as_chunks_mut::<8>().0.iter_mut().zip([first, second, last]) {
            *place = word.to_be_bytes();
        }
    }
}

/// Combines the ECN field that arrived outside into that of the inner packet (RFC 6040 §4.2, figure 4).
#[inline(always)]
pub(crate) fn combine_ecn(packet: &mut [u8], outer: u8) -> Result<(), EspError> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    let outer = outer & 3;
    if outer == NOT_ECT || outer == ECT_0 {
        return Ok(());
    }
    let inner = Inner::of(packet).ok_or(EspError::BadInner)?.class() & 3;
    let result = match (inner, outer) {
        (NOT_ECT, CE) => return Err(EspError::EcnDropped),
        (ECT_0 | ECT_1, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        _ => return Ok(()),
    };
    set_ecn(packet, result);
    Ok(())
}

fn set_ecn(packet: &mut [u8], ecn: u8) {
    if packet.first().is_some_and(|first| first >> 4 == 6) {
        if let Some(byte) = packet.get_mut(1) {
            *byte = *byte & !0x30 | ecn << 4;
        }
    } else if let Ok((header, _)) = Ipv4::mut_from_prefix(packet) {
        let old = u16::from_be_bytes([header.version_ihl, header.dscp_ecn]);
        header.dscp_ecn = header.dscp_ecn & !3 | ecn;
        let new = u16::from_be_bytes([header.version_ihl, header.dscp_ecn]);
        header.checksum = checksum::update(header.checksum, old, new);
    }
}

/// Where ESP starts in a packet, and what precedes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Offset of the SPI.
    pub(crate) esp: u16,
    /// Bytes of IP headers.
    pub(crate) ip_bytes: u16,
    /// Offset of the protocol or next-header field that says ESP or UDP.
    pub(crate) protocol_at: u16,
}

/// Extension headers before ESP that are looked at.
const MAX_EXTENSIONS: usize = 8;

impl Place {
    /// Of ESP behind an IPv4 header without options.
    pub(crate) const PLAIN: Self = Self { esp: 20, ip_bytes: 20, protocol_at: 9 };

    /// In a packet that starts at its IP header and is addressed to this node.
    #[inline(always)]
    pub(crate) fn of(bytes: &[u8]) -> Result<Self, EspError> {
        let (ip_bytes, protocol_at) = Self::ip_headers(bytes)?;
        let esp = match bytes.get(protocol_at) {
            Some(&protocol::ESP) => ip_bytes,
            Some(&protocol::UDP) => ip_bytes + UDP_BYTES,
            _ => return Err(EspError::Malformed),
        };
        Ok(Self { esp: esp as u16, ip_bytes: ip_bytes as u16, protocol_at: protocol_at as u16 })
    }

    /// Where the payload of any packet starts, which is where transport mode puts ESP.
    pub(crate) fn of_payload(bytes: &[u8]) -> Result<Self, EspError> {
        let (ip_bytes, protocol_at) = Self::ip_headers(bytes)?;
        Ok(Self { esp: ip_bytes as u16, ip_bytes: ip_bytes as u16, protocol_at: protocol_at as u16 })
    }

    /// Bytes of IP headers, and the offset of the field that says what follows.
    #[inline(always)]
    fn ip_headers(bytes: &[u8]) -> Result<(usize, usize), EspError> {
        match bytes.first().ok_or(EspError::Malformed)? >> 4 {
            4 => {
                let (header, _) = Ipv4::ref_from_prefix(bytes).map_err(|_| EspError::Malformed)?;
                if header.is_fragment() {
                    return Err(EspError::Fragment);
                }
                Ok((header.header_len(), 9))
            }
            6 => Self::ipv6_headers(bytes),
            _ => Err(EspError::Malformed),
        }
    }

    fn ipv6_headers(bytes: &[u8]) -> Result<(usize, usize), EspError> {
        let (mut at, mut protocol_at) = (size_of::<Ipv6>(), 6);
        for _ in 0..MAX_EXTENSIONS {
            match bytes.get(protocol_at) {
                Some(&(protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS)) => {
                    let length = *bytes.get(at + 1).ok_or(EspError::Malformed)?;
                    (at, protocol_at) = (at + (usize::from(length) + 1) * 8, at);
                }
                Some(&protocol::FRAGMENT) => return Err(EspError::Fragment),
                _ => return Ok((at, protocol_at)),
            }
        }
        Err(EspError::Malformed)
    }

    /// True if ESP is in UDP.
    #[inline(always)]
    pub(crate) fn is_in_udp(self) -> bool {
        self.esp != self.ip_bytes
    }
}

/// Writes the protocol and the length of a transport-mode packet whose IP headers take `ip_bytes`, and the checksum of
/// IPv4.
pub(crate) fn rewrite_ip(packet: &mut [u8], place: Place, protocol: u8) -> Result<(), EspError> {
    let total = packet.len();
    *packet.get_mut(usize::from(place.protocol_at)).ok_or(EspError::Malformed)? = protocol;
    let header = packet.get_mut(..usize::from(place.ip_bytes)).ok_or(EspError::Malformed)?;
    if header.first().is_some_and(|first| first >> 4 == 6) {
        let (header, _) = Ipv6::mut_from_prefix(header).map_err(|_| EspError::Malformed)?;
        let payload = u16::try_from(total - size_of::<Ipv6>()).map_err(|_| EspError::TooLong)?;
        header.payload_length = U16::new(payload);
        return Ok(());
    }
    let (fixed, _) = Ipv4::mut_from_prefix(header).map_err(|_| EspError::Malformed)?;
    fixed.total_length = U16::new(u16::try_from(total).map_err(|_| EspError::TooLong)?);
    fixed.checksum = U16::ZERO;
    let checksum = checksum::of(header);
    let (fixed, _) = Ipv4::mut_from_prefix(header).map_err(|_| EspError::Malformed)?;
    fixed.checksum = checksum;
    Ok(())
}

/// Has whoever sends a packet over IPv6 complete its UDP checksum, when the text is encrypted. IPv6 asks for one (RFC 8200
/// §8.1), and receivers that make no exception for tunnels (RFC 6935 §5) drop what has none: Linux does, unless told.
pub(crate) fn leave_checksum(packet: &mut Buf, ip_bytes: usize) -> Option<()> {
    let start = u16::try_from(packet.start() + ip_bytes).ok()?;
    let (header, datagram) = packet.data_mut().split_at_mut_checked(ip_bytes)?;
    let length = datagram.len() as u32;
    let sum = checksum::Sum::new();
    let sum = sum.pseudo_header(header.get(8..24)?, header.get(24..40)?, protocol::UDP, length);
    let (udp, _) = Udp::mut_from_prefix(datagram).ok()?;
    udp.checksum = sum.partial();
    let meta = packet.meta_mut();
    meta.flags.insert(Flags::TX_CSUM);
    (meta.csum_start, meta.csum_offset) = (start, core::mem::offset_of!(Udp, checksum) as u16);
    Some(())
}

/// Computes the checksum of TCP, UDP or ICMPv6 in an unwrapped transport-mode packet anew: the sender did over addresses
/// that a NAT has changed since (RFC 3948 §3.1.2). The ICV has vouched for the text. A UDP checksum that was left out
/// stays out.
pub(crate) fn renew_checksum(packet: &mut [u8], ip_bytes: usize, next: u8) -> Option<()> {
    const UDP_CHECKSUM: usize = core::mem::offset_of!(Udp, checksum);
    let was_left_out = next == protocol::UDP && packet.get(ip_bytes + UDP_CHECKSUM..)?.starts_with(&[0; 2]);
    if was_left_out { None } else { fill_checksum(packet, ip_bytes, next) }
}

/// Computes it whatever was there.
pub(crate) fn fill_checksum(packet: &mut [u8], ip_bytes: usize, next: u8) -> Option<()> {
    let (header, text) = packet.split_at_mut_checked(ip_bytes)?;
    let place = match next {
        protocol::TCP => 16,
        protocol::UDP => 6,
        protocol::ICMPV6 => 2,
        _ => return None,
    };
    let is_v6 = header.first()? >> 4 == 6;
    let (source, destination) = if is_v6 { (8..24, 24..40) } else { (12..16, 16..20) };
    text.get_mut(place..)?.first_chunk_mut::<2>()?.fill(0);
    let sum = checksum::Sum::new();
    let sum = sum.pseudo_header(header.get(source)?, header.get(destination)?, next, text.len() as u32);
    let renewed = match sum.bytes(text).finish().to_bytes() {
        [0, 0] if next == protocol::UDP => [0xff; 2],
        bytes => bytes,
    };
    *text.get_mut(place..)?.first_chunk_mut::<2>()? = renewed;
    Some(())
}
