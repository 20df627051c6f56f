//! Decapsulation of a vector of packets (RFC 4303 §3.4).
//!
//! In chunks of a vector: the SAs of all packets, so that cache misses overlap; checks before any key is used; one call
//! for all ciphertexts; then, of what is authentic, window, padding, inner packet.

use crate::jobs::{CHUNK, ExtendedHeader, Jobs};
use crate::outer::{PROTOCOL_IPV4, PROTOCOL_IPV6, Place, combine_ecn, renew_checksum, rewrite_ip};
use crate::params::EcnPolicy;
use crate::replay::Accepting;
use crate::sa::{ESP_HEADER_BYTES, TRAILER_BYTES};
use crate::{EspError, PacketFacts, Sa, Snapshot};
use buffer::{Buf, Flags};
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::ptr;
use packet::ipv4::Ipv4;
use packet::ipv6::Ipv6;
use packet::protocol;
use zerocopy::FromBytes;

/// Decrypts each packet, which is in one segment and starts at the IP header of an ESP packet to this node, by the SA of its SPI. A packet
/// with a result is the inner packet, in one segment, its lengths checked as far as the selectors need them; it has
/// [`Flags::DECRYPTED`] and its tunnel in [`buffer::Meta::opaque`]. A packet with an error is to be dropped.
///
/// `results` has a place for each packet.
pub fn decapsulate<'s>(
    snapshot: &'s Snapshot,
    packets: &mut [Buf],
    now_ns: u64,
    results: &mut [Result<&'s Sa, EspError>],
) {
    for (packets, results) in packets.chunks_mut(CHUNK).zip(results.chunks_mut(CHUNK)) {
        chunk(snapshot, packets, now_ns, results);
    }
}

#[inline(always)]
fn chunk<'s>(
    snapshot: &'s Snapshot,
    packets: &mut [Buf],
    now_ns: u64,
    results: &mut [Result<&'s Sa, EspError>],
) {
    let mut places = [Err(EspError::Malformed); CHUNK];
    find(snapshot, packets, &mut places, results);
    let mut numbers = [0; CHUNK];
    let (tasks, authentic) = open(snapshot, packets, &places, &mut numbers, now_ns, results);
    let replayed = accept_numbers(authentic, &numbers, results);
    let opened = Opened { tasks, authentic, replayed };
    finish(packets, &places, &numbers, opened, now_ns, results);
}

/// Has packets decrypted whose SA takes them. A bit for each of these, and for each that is authentic.
#[inline(always)]
fn open<'s>(
    snapshot: &'s Snapshot,
    packets: &mut [Buf],
    places: &[Result<(Place, u32), EspError>; CHUNK],
    numbers: &mut [u64; CHUNK],
    now_ns: u64,
    results: &mut [Result<&'s Sa, EspError>],
) -> (u64, u64) {
    let mut extended = [ExtendedHeader::default(); CHUNK];
    let mut jobs = Jobs::new();
    let mut tasks = 0u64;
    let mut run = UsableRun { sa: None, is_usable: false };
    let columns = packets.iter_mut().zip(places).zip(&mut *results).zip(numbers).zip(&mut extended);
    for (index, ((((packet, place), result), number), extended)) in columns.enumerate() {
        let (Ok(sa), Ok((place, _))) = (*result, *place) else { continue };
        let examined = examine(sa, packet, place, run.is_usable(sa, now_ns)).and_then(|found| {
            *number = found;
            let esp = packet.data_mut().get_mut(usize::from(place.esp)..).ok_or(EspError::Malformed)?;
            jobs.push(index, sa, found, esp, extended).ok_or(EspError::Malformed)
        });
        match examined {
            Ok(()) => tasks |= 1 << index,
            Err(error) => {
                sa.refuse(error);
                *result = Err(error);
            }
        }
    }
    (tasks, jobs.open(snapshot.suite()))
}

/// Where ESP is in each packet, and its SA.
#[inline(always)]
fn find<'s>(
    snapshot: &'s Snapshot,
    packets: &[Buf],
    places: &mut [Result<(Place, u32), EspError>; CHUNK],
    results: &mut [Result<&'s Sa, EspError>],
) {
    let mut last = None;
    for (packet, place) in packets.iter().zip(&mut *places) {
        *place = locate(packet);
        if let Ok((_, spi)) = place
            && last != Some(*spi)
        {
            snapshot.prefetch_inbound(*spi);
            last = Some(*spi);
        }
    }
    let mut last: Option<(u32, &Sa)> = None;
    for (place, result) in places.iter().zip(&mut *results) {
        *result = place.and_then(|(_, spi)| match last {
            Some((known, sa)) if known == spi => Ok(sa),
            _ => {
                let sa = snapshot.inbound(spi).ok_or(EspError::UnknownSpi)?;
                sa.prefetch_inbound();
                last = Some((spi, sa));
                Ok(sa)
            }
        });
    }
    let mut last = ptr::null();
    for (result, (packet, place)) in results.iter().zip(packets.iter().zip(places)) {
        if let (Ok(sa), Ok((place, _))) = (*result, place)
            && !ptr::eq(sa, last)
        {
            let number =
                packet.data().get(usize::from(place.esp) + 4..).and_then(|bytes| bytes.first_chunk());
            sa.window.prefetch(u32::from_be_bytes(number.copied().unwrap_or_default()));
            sa.cipher.prefetch(packet.len());
            last = sa;
        }
    }
}

/// Whether an SA may be used, asked once for packets in a row.
struct UsableRun<'a> {
    sa: Option<&'a Sa>,
    is_usable: bool,
}

impl<'a> UsableRun<'a> {
    #[inline(always)]
    fn is_usable(&mut self, sa: &'a Sa, now_ns: u64) -> bool {
        if !self.sa.is_some_and(|known| ptr::eq(known, sa)) {
            *self = Self { sa: Some(sa), is_usable: sa.is_usable(now_ns) };
        }
        self.is_usable
    }
}

/// Enters the numbers of authentic packets into the windows. A bit for each that is there already, or too old.
#[inline(always)]
fn accept_numbers(authentic: u64, numbers: &[u64; CHUNK], results: &[Result<&Sa, EspError>]) -> u64 {
    let mut replayed = 0;
    let mut accepting: Option<(&Sa, Accepting<'_>)> = None;
    for (index, result) in results.iter().enumerate() {
        let Ok(sa) = *result else { continue };
        if authentic >> index & 1 == 0 {
            continue;
        }
        match &mut accepting {
            Some((known, accepting)) if ptr::eq(*known, sa) => accepting.add(index, numbers[index]),
            _ => {
                replayed |= accepting.take().map_or(0, |(_, accepting)| accepting.finish());
                let (_, accepting) = accepting.insert((sa, sa.window.begin()));
                accepting.add(index, numbers[index]);
            }
        }
    }
    replayed | accepting.map_or(0, |(_, accepting)| accepting.finish())
}

/// Packets of a chunk, a bit for each.
#[derive(Clone, Copy)]
struct Opened {
    /// Went to the cipher.
    tasks: u64,
    authentic: u64,
    replayed: u64,
}

/// What follows the cipher.
#[inline(always)]
fn finish(
    packets: &mut [Buf],
    places: &[Result<(Place, u32), EspError>; CHUNK],
    numbers: &[u64; CHUNK],
    opened: Opened,
    now_ns: u64,
    results: &mut [Result<&Sa, EspError>],
) {
    let mut counted = Counted::default();
    let columns = packets.iter_mut().zip(results).zip(places).zip(numbers);
    for (index, (((packet, result), place), number)) in columns.enumerate() {
        let (Ok(sa), Ok((place, _))) = (*result, *place) else { continue };
        let is = |bits: u64| bits >> index & 1 == 1;
        let checked = if !is(opened.tasks & opened.authentic) {
            Err(EspError::AuthenticationFailed)
        } else if is(opened.replayed) {
            Err(EspError::Replayed)
        } else {
            accept(sa, *number, packet, place)
        };
        match checked {
            Ok(()) => counted.add(sa, packet.len(), now_ns),
            Err(error) => {
                sa.refuse(error);
                *result = Err(error);
            }
        }
    }
    counted.flush(now_ns);
}

/// Packets of one SA in a row, to be counted together.
#[derive(Default)]
struct Counted<'a> {
    sa: Option<&'a Sa>,
    packets: u64,
    bytes: u64,
}

impl<'a> Counted<'a> {
    #[inline(always)]
    fn add(&mut self, sa: &'a Sa, bytes: usize, now_ns: u64) {
        if !self.sa.is_some_and(|counted| ptr::eq(counted, sa)) {
            self.flush(now_ns);
            *self = Self { sa: Some(sa), packets: 0, bytes: 0 };
        }
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    #[inline(always)]
    fn flush(&self, now_ns: u64) {
        if let Some(sa) = self.sa {
            sa.count_received(self.packets, self.bytes, now_ns);
        }
    }
}

/// Where ESP starts, and the SPI.
#[inline(always)]
fn locate(packet: &Buf) -> Result<(Place, u32), EspError> {
    if packet.is_chained() {
        return Err(EspError::TooLong);
    }
    let bytes = packet.data();
    let place = Place::of(bytes)?;
    let esp = bytes.get(usize::from(place.esp)..).unwrap_or_default();
    match esp.first_chunk::<4>() {
        Some(spi) => Ok((place, u32::from_be_bytes(*spi))),
        // A NAT keepalive (RFC 3948 §2.3).
        None if place.is_in_udp() && *esp == [0xff] => Err(EspError::Keepalive),
        None => Err(EspError::Malformed),
    }
}

/// What can be refused before a key is used; the extended sequence number.
#[inline(always)]
fn examine(sa: &Sa, packet: &Buf, place: Place, is_usable: bool) -> Result<u64, EspError> {
    let bytes = packet.data();
    let esp = bytes.get(usize::from(place.esp)..).ok_or(EspError::Malformed)?;
    let fixed = ESP_HEADER_BYTES + usize::from(sa.iv_bytes) + usize::from(sa.icv_bytes);
    let text = esp.len().checked_sub(fixed).ok_or(EspError::Malformed)?;
    let block = usize::from(sa.block_bytes);
    if text == 0 || text & (block - 1) != 0 {
        return Err(EspError::Malformed);
    }
    if place.is_in_udp() != sa.how.udp || !is_addressed_to(sa, bytes) {
        return Err(EspError::WrongEncapsulation);
    }
    if !is_usable {
        return Err(EspError::Expired);
    }
    let low = esp.get(4..8).and_then(|bytes| bytes.first_chunk()).ok_or(EspError::Malformed)?;
    let low = u32::from_be_bytes(*low);
    let number = if sa.how.esn { sa.window.infer(low) } else { u64::from(low) };
    sa.window.check(number)?;
    Ok(number)
}

/// True if the outer destination is the SA's own address.
#[inline(always)]
fn is_addressed_to(sa: &Sa, bytes: &[u8]) -> bool {
    // Inbound: the template's source is our address.
    if sa.how.outer_v6 {
        bytes.get(24..40) == sa.template.get(8..24)
    } else {
        bytes.get(16..20) == sa.template.get(12..16)
    }
}

/// What is left to do with an authentic packet whose number is new: trailer, inner packet.
#[inline(always)]
fn accept(sa: &Sa, number: u64, packet: &mut Buf, place: Place) -> Result<(), EspError> {
    if sa.how.udp {
        follow_peer(sa, packet.data(), place, number);
    }
    let outer_class = class_of(packet.data());
    let end = packet.len() - usize::from(sa.icv_bytes);
    let start = usize::from(place.esp) + ESP_HEADER_BYTES + usize::from(sa.iv_bytes);
    let text = packet.data().get(start..end).ok_or(EspError::Malformed)?;
    let (payload, next) = payload(text)?;
    packet.shorten(start + payload);
    match next {
        protocol::NO_NEXT_HEADER => return Err(EspError::Dummy),
        PROTOCOL_IPV4 | PROTOCOL_IPV6 if sa.how.tunnel_mode => {
            packet.pull_front(start).map_err(|_| EspError::Malformed)?;
            cut_to_inner(packet, next)?;
            if sa.how.ecn == EcnPolicy::Copy {
                combine_ecn(packet.data_mut(), outer_class)?;
            }
        }
        _ if !sa.how.tunnel_mode => unwrap_transport(sa, packet, place, start, next)?,
        _ => return Err(EspError::BadInner),
    }
    if sa.how.has_selectors && !is_selected(sa, packet.data()) {
        return Err(EspError::SelectorMismatch);
    }
    let meta = packet.meta_mut();
    meta.flags = (meta.flags & Flags::TRACED) | Flags::DECRYPTED;
    meta.opaque[1] = u64::from(sa.tunnel.0);
    Ok(())
}

/// DSCP and ECN of an outer header.
#[inline(always)]
fn class_of(bytes: &[u8]) -> u8 {
    match *bytes {
        [first, second, ..] if first >> 4 == 6 => first << 4 | second >> 4,
        [_, second, ..] => second,
        _ => 0,
    }
}

/// The bytes of payload, and what they are, of a decrypted text; its padding is checked.
#[inline(always)]
fn payload(text: &[u8]) -> Result<(usize, u8), EspError> {
    let &[.., padding, next] = text else { return Err(EspError::BadPadding) };
    let payload = text.len().checked_sub(TRAILER_BYTES + usize::from(padding)).ok_or(EspError::BadPadding)?;
    // Of what almost every packet has, up to six bytes of padding with the trailer behind, as one number.
    if padding <= 6
        && let Some(end) = text.last_chunk::<8>()
    {
        let (end, bits) = (u64::from_le_bytes(*end) << 16 >> 16, 8 * u32::from(padding));
        let expected = 0x06_05_04_03_02_01 & ((1 << bits) - 1);
        return if end >> (48 - bits) == expected { Ok((payload, next)) } else { Err(EspError::BadPadding) };
    }
    let bytes = text.get(payload..payload + usize::from(padding)).ok_or(EspError::BadPadding)?;
    if bytes.iter().zip(1u8..).any(|(byte, number)| *byte != number) {
        return Err(EspError::BadPadding);
    }
    Ok((payload, next))
}

/// Cuts what follows the inner packet (RFC 4303 §2.7), whose version must be what the trailer says.
#[inline(always)]
fn cut_to_inner(packet: &mut Buf, next: u8) -> Result<(), EspError> {
    let bytes = packet.data();
    let length = if next == PROTOCOL_IPV4 {
        let (header, _) = Ipv4::ref_from_prefix(bytes).map_err(|_| EspError::BadInner)?;
        let length = usize::from(header.total_length.get());
        (header.version() == 4 && length >= size_of::<Ipv4>()).then_some(length)
    } else {
        let (header, _) = Ipv6::ref_from_prefix(bytes).map_err(|_| EspError::BadInner)?;
        (header.version() == 6).then(|| size_of::<Ipv6>() + usize::from(header.payload_length.get()))
    };
    let length = length.filter(|length| *length <= packet.len()).ok_or(EspError::BadInner)?;
    packet.shorten(length);
    Ok(())
}

/// Takes ESP out from between a packet's IP headers and its payload, which starts at `start`.
#[inline(never)]
fn unwrap_transport(sa: &Sa, packet: &mut Buf, place: Place, start: usize, next: u8) -> Result<(), EspError> {
    let ip_bytes = usize::from(place.ip_bytes);
    let bytes = packet.data_mut();
    if start > bytes.len() || ip_bytes > start {
        return Err(EspError::Malformed);
    }
    bytes.copy_within(..ip_bytes, start - ip_bytes);
    packet.pull_front(start - ip_bytes).map_err(|_| EspError::Malformed)?;
    rewrite_ip(packet.data_mut(), place, next)?;
    if sa.how.udp {
        // None: there is no checksum to renew.
        let _ = renew_checksum(packet.data_mut(), ip_bytes, next);
    }
    Ok(())
}

/// True if an inner packet is one that the SA is for.
#[inline(never)]
fn is_selected(sa: &Sa, bytes: &[u8]) -> bool {
    let facts = PacketFacts::of(bytes);
    facts.is_some_and(|facts| sa.parameters().selectors.iter().any(|selector| selector.matches(&facts)))
}

/// Tells control if the newest authentic packet came from another place than the peer was known to be at. Transport mode
/// has no outer addresses that could follow: there it is another host, unless only the port differs.
#[inline(always)]
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
#[inline(always)]
fn source_of(sa: &Sa, bytes: &[u8], place: Place) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*bytes.get(usize::from(place.ip_bytes)..)?.first_chunk::<2>()?);
    let address = if sa.how.outer_v6 {
        Ipv6Addr::from(Ipv6::ref_from_prefix(bytes).ok()?.0.source).into()
    } else {
        Ipv4Addr::from(Ipv4::ref_from_prefix(bytes).ok()?.0.source).into()
    };
    Some(SocketAddr::new(address, port))
}
