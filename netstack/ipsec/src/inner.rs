//! What comes out of an authentic packet: trailer, inner packet, what the outer header says of it (RFC 4303 §3.4.4.1).

use crate::outer::{PROTOCOL_IPV4, PROTOCOL_IPV6, Place, combine_ecn, renew_checksum, rewrite_ip};
use crate::sa::{ESP_HEADER_BYTES, TRAILER_BYTES};
use crate::{EspError, PacketFacts, Sa};
use buffer::{Buf, Flags};
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::ops::Range;
use crypto::TAG_BYTES;
use packet::ipv4::Ipv4;
use packet::ipv6::Ipv6;
use packet::protocol;
use zerocopy::FromBytes;

/// Packets of one SA in a row, which are counted together.
pub(crate) struct Unwrapped<'a> {
    sa: &'a Sa,
    is_usual: bool,
    tunnel: u32,
    flags: Flags,
    packets: u64,
    bytes: u64,
}

impl<'a> Unwrapped<'a> {
    #[inline(always)]
    pub(crate) fn new(sa: &'a Sa) -> Self {
        let how = &sa.how;
        Self {
            sa,
            is_usual: how.is_usual && !how.has_selectors,
            tunnel: sa.tunnel.0,
            flags: flags(sa),
            packets: 0,
            bytes: 0,
        }
    }

    /// What is left to do with an authentic packet whose number is new.
    #[inline(always)]
    pub(crate) fn unwrap(&mut self, packet: &mut Buf, place: Place, number: u64) -> Result<(), EspError> {
        if !(self.is_usual && place == Place::PLAIN && self.unwrap_usual(packet)?) {
            let inner = accept(self.sa, number, packet.data_mut(), place)?;
            packet.narrow(inner.start, inner.len()).map_err(|_| EspError::Malformed)?;
        }
        mark(packet, self.flags, self.tunnel);
        self.packets += 1;
        self.bytes += packet.len() as u64;
        Ok(())
    }

    /// What [`accept`] does with an IPv4 packet that has little padding. False: it is none, and stays as it is.
    #[inline(always)]
    fn unwrap_usual(&self, packet: &mut Buf) -> Result<bool, EspError> {
        const BEFORE: usize = size_of::<Ipv4>() + ESP_HEADER_BYTES + 8;
        let bytes = packet.data();
        let outer_class = bytes.get(1).copied().unwrap_or_default();
        let end = bytes.len().saturating_sub(TAG_BYTES);
        let Some(text) = bytes.get(BEFORE..end) else { return Ok(false) };
        let (Some(start), Some(tail)) = (text.first_chunk::<4>(), text.last_chunk::<8>()) else {
            return Ok(false);
        };
        let tail = u64::from_le_bytes(*tail);
        let (next, padding) = ((tail >> 56) as u8, (tail >> 48) as u8);
        let payload = text.len() - TRAILER_BYTES - usize::from(padding & 3);
        let inner = usize::from(u16::from_be_bytes([start[2], start[3]]));
        let is_usual = (padding <= 3)
            & (next == PROTOCOL_IPV4)
            & (start[0] >> 4 == 4)
            & (inner >= size_of::<Ipv4>())
            & (inner <= payload);
        if !is_usual {
            return Ok(false);
        }
        if !has_right_padding(tail, padding) {
            return Err(EspError::BadPadding);
        }
        packet.narrow(BEFORE, inner).map_err(|_| EspError::Malformed)?;
        combine_ecn(packet.data_mut(), outer_class)?;
        Ok(true)
    }

    /// Counts what passed.
    #[inline(always)]
    pub(crate) fn count(&self, now_ns: u64) {
        if self.packets > 0 {
            self.sa.count_received(self.packets, self.bytes, now_ns);
        }
    }
}

/// What is true of packets that an SA decrypts.
#[inline(always)]
pub(crate) fn flags(sa: &Sa) -> Flags {
    if sa.how.tunnel_mode { Flags::DECRYPTED | Flags::INNER } else { Flags::DECRYPTED }
}

/// Notes that a packet came out of a tunnel.
#[inline(always)]
pub(crate) fn mark(packet: &mut Buf, flags: Flags, tunnel: u32) {
    let meta = packet.meta_mut();
    meta.flags = (meta.flags & Flags::TRACED) | flags;
    meta.opaque[1] = u64::from(tunnel);
}

/// What is left to do with an authentic packet whose number is new: trailer, inner packet. Returns where that is.
#[inline(never)]
pub(crate) fn accept(sa: &Sa, number: u64, bytes: &mut [u8], place: Place) -> Result<Range<usize>, EspError> {
    if sa.how.udp {
        follow_peer(sa, bytes, place, number);
    }
    let outer_class = class_of(bytes);
    let end = bytes.len() - usize::from(sa.icv_bytes);
    let start = usize::from(place.esp) + ESP_HEADER_BYTES + usize::from(sa.iv_bytes);
    let text = bytes.get(start..end).ok_or(EspError::Malformed)?;
    let (payload, next) = payload(text)?;
    let bytes = bytes.get_mut(..start + payload).ok_or(EspError::Malformed)?;
    let range = match next {
        protocol::NO_NEXT_HEADER => return Err(EspError::Dummy),
        PROTOCOL_IPV4 | PROTOCOL_IPV6 if sa.how.tunnel_mode => {
            let inner = bytes.get_mut(start..).ok_or(EspError::Malformed)?;
            let length = inner_length(inner, next)?;
            combine_ecn(inner, outer_class)?;
            start..start + length
        }
        _ if !sa.how.tunnel_mode => unwrap_transport(sa, bytes, place, start, next)?,
        _ => return Err(EspError::BadInner),
    };
    if sa.how.has_selectors && !is_selected(sa, bytes.get(range.clone()).unwrap_or_default()) {
        return Err(EspError::SelectorMismatch);
    }
    Ok(range)
}

/// DSCP and ECN of an outer header.
fn class_of(bytes: &[u8]) -> u8 {
    match *bytes {
        [first, second, ..] if first >> 4 == 6 => first << 4 | second >> 4,
        [_, second, ..] => second,
        _ => 0,
    }
}

/// The bytes of payload, and what they are, of a decrypted text; its padding is checked.
fn payload(text: &[u8]) -> Result<(usize, u8), EspError> {
    let &[.., padding, next] = text else { return Err(EspError::BadPadding) };
    let payload = text.len().checked_sub(TRAILER_BYTES + usize::from(padding)).ok_or(EspError::BadPadding)?;
    if padding <= 6
        && let Some(end) = text.last_chunk::<8>()
    {
        let is_right = has_right_padding(u64::from_le_bytes(*end), padding);
        return if is_right { Ok((payload, next)) } else { Err(EspError::BadPadding) };
    }
    let bytes = text.get(payload..payload + usize::from(padding)).ok_or(EspError::BadPadding)?;
    if bytes.iter().zip(1..=padding).any(|(byte, number)| *byte != number) {
        return Err(EspError::BadPadding);
    }
    Ok((payload, next))
}

/// Whether up to six bytes of padding are 1, 2, 3, ... in the last eight bytes of a text, as one number.
#[inline(always)]
fn has_right_padding(tail: u64, padding: u8) -> bool {
    let (end, bits) = (tail << 16 >> 16, 8 * u32::from(padding));
    let expected = 0x06_05_04_03_02_01 & ((1 << bits) - 1);
    end >> (48 - bits) == expected
}

/// Bytes of an inner packet, whose version must be what the trailer says. More may follow it (RFC 4303 §2.7).
fn inner_length(bytes: &[u8], next: u8) -> Result<usize, EspError> {
    let length = if next == PROTOCOL_IPV4 {
        let (header, _) = Ipv4::ref_from_prefix(bytes).map_err(|_| EspError::BadInner)?;
        let length = usize::from(header.total_length.get());
        (header.version() == 4 && length >= size_of::<Ipv4>()).then_some(length)
    } else {
        let (header, _) = Ipv6::ref_from_prefix(bytes).map_err(|_| EspError::BadInner)?;
        (header.version() == 6).then(|| size_of::<Ipv6>() + usize::from(header.payload_length.get()))
    };
    length.filter(|length| *length <= bytes.len()).ok_or(EspError::BadInner)
}

/// Takes ESP out from between a packet's IP headers and its payload, which starts at `start`. Returns where the packet is.
#[inline(never)]
fn unwrap_transport(
    sa: &Sa,
    bytes: &mut [u8],
    place: Place,
    start: usize,
    next: u8,
) -> Result<Range<usize>, EspError> {
    let ip_bytes = usize::from(place.ip_bytes);
    let front = start.checked_sub(ip_bytes).ok_or(EspError::Malformed)?;
    let end = bytes.len();
    if start > end {
        return Err(EspError::Malformed);
    }
    bytes.copy_within(..ip_bytes, front);
    let packet = bytes.get_mut(front..).ok_or(EspError::Malformed)?;
    rewrite_ip(packet, place, next)?;
    if sa.how.udp {
        // None: there is no checksum to renew.
        let _ = renew_checksum(packet, ip_bytes, next);
    }
    Ok(front..end)
}

/// True if an inner packet is one that the SA is for.
#[inline(never)]
fn is_selected(sa: &Sa, bytes: &[u8]) -> bool {
    let facts = PacketFacts::of(bytes);
    facts.is_some_and(|facts| sa.parameters().selectors.iter().any(|selector| selector.matches(&facts)))
}

/// Tells control if the newest authentic packet came from another place than the peer was known to be at. Transport mode
/// has no outer addresses that could follow: there it is another host, unless only the port differs.
fn follow_peer(sa: &Sa, bytes: &[u8], place: Place, number: u64) {
    let Some(seen) = source_of(sa, bytes, place) else { return };
    if sa.peer.is_at(seen) || number != sa.window.top() || seen.port() == 0 {
        return;
    }
    if sa.how.tunnel_mode || seen.ip() == sa.parameters().remote {
        sa.peer.tell(seen);
    }
}

/// The source address and UDP port of an outer packet.
fn source_of(sa: &Sa, bytes: &[u8], place: Place) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*bytes.get(usize::from(place.ip_bytes)..)?.first_chunk::<2>()?);
    let address = if sa.how.outer_v6 {
        Ipv6Addr::from(Ipv6::ref_from_prefix(bytes).ok()?.0.source).into()
    } else {
        Ipv4Addr::from(Ipv4::ref_from_prefix(bytes).ok()?.0.source).into()
    };
    Some(SocketAddr::new(address, port))
}
