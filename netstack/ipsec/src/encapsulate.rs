//! Encapsulation of a vector of packets (RFC 4303 §3.3).
//!
//! In chunks of a vector: sequence numbers for each run of packets of one SA, headers and trailers packet by packet, one
//! call for all ciphertexts of a kind.

use crate::cipher::Cipher;
use crate::jobs::{AeadParts, CHUNK, ExtendedHeader, Jobs, UsualJob, take};
use crate::outer::{Inner, OuterIpv4, Place, leave_checksum, rewrite_ip};
use crate::sa::{ESP_HEADER_BYTES, HARD_EXPIRED, TRAILER_BYTES};
use crate::{Claimant, EspError, Sa};
use buffer::{Buf, Flags};
use core::ptr;
use crypto::cbc_hmac::BLOCK_BYTES;
use crypto::{Suite, TAG_BYTES};
use packet::ipv4::Ipv4;
use packet::protocol;
use packet::udp::Udp;

/// The longest IP packet.
pub(crate) const MAX_PACKET_BYTES: usize = 65_535;

/// Encrypts each packet, which starts at its IP header, by the SA at its place. A packet of several segments, or without room
/// for a trailer in its buffer, is [`EspError::TooLong`], which no SA counts, and as it was: it is for
/// [`Long`](crate::Long). A packet with another error is to be dropped; a packet without is an outer IP packet, and over IPv6 in UDP one whose checksum is still to be
/// completed ([`Flags::TX_CSUM`]).
///
/// `claimant` is the worker's. `results` and `sas` have a place for each packet.
pub fn encapsulate(
    suite: &Suite,
    claimant: &Claimant,
    packets: &mut [Buf],
    sas: &[Option<&Sa>],
    now_ns: u64,
    results: &mut [Result<(), EspError>],
) {
    let chunks = packets.chunks_mut(CHUNK).zip(sas.chunks(CHUNK)).zip(results.chunks_mut(CHUNK));
    for ((packets, sas), results) in chunks {
        chunk(suite, claimant, packets, sas, now_ns, results);
    }
}

#[inline(always)]
fn chunk(
    suite: &Suite,
    claimant: &Claimant,
    packets: &mut [Buf],
    sas: &[Option<&Sa>],
    now_ns: u64,
    results: &mut [Result<(), EspError>],
) {
    let mut extended = [ExtendedHeader::default(); CHUNK];
    let mut jobs = Jobs::new();
    let (mut packets, mut results, mut extended) = (packets, results, &mut extended[..]);
    let mut place = 0;
    while let Some(sa) = sas.get(place) {
        let length = run_length(&sas[place..]);
        let run = Run {
            place,
            packets: take(&mut packets, length),
            results: take(&mut results, length),
            extended: take(&mut extended, length),
        };
        match sa {
            Some(sa) => wrap_run(sa, claimant, run, &mut jobs, now_ns),
            None => run.results.fill(Err(EspError::NoSa)),
        }
        place += length;
    }
    jobs.seal(suite);
}

/// How many packets in a row are of the first one's SA.
#[inline(always)]
fn run_length(sas: &[Option<&Sa>]) -> usize {
    let first = sas[0].map_or(ptr::null(), ptr::from_ref);
    sas.iter().take_while(|sa| ptr::eq(sa.map_or(ptr::null(), ptr::from_ref), first)).count()
}

/// Packets in a row that are of one SA.
struct Run<'r, 'p> {
    /// Where in its chunk it starts.
    place: usize,
    packets: &'p mut [Buf],
    results: &'r mut [Result<(), EspError>],
    extended: &'p mut [ExtendedHeader],
}

/// Gives numbers, headers and trailers to packets of one SA.
#[inline(always)]
fn wrap_run<'p>(sa: &'p Sa, claimant: &Claimant, run: Run<'_, 'p>, jobs: &mut Jobs<'p>, now_ns: u64) {
    let Run { place, packets, results, extended } = run;
    if !sa.may_send(now_ns) {
        return refuse_all(sa, results, EspError::Expired);
    }
    sa.cipher.prefetch(packets.first().map_or(0, Buf::len));
    let numbers = sa.sequence.take(claimant, packets.len() as u32);
    let granted = (numbers.end - numbers.start) as usize;
    if granted < packets.len() {
        sa.raise(HARD_EXPIRED);
        refuse_all(sa, &mut results[granted..], sa.why_no_number());
    }
    let mut wrapped = Wrapped { bytes: 0 };
    let columns = packets.iter_mut().zip(results).zip(extended).zip(numbers);
    if sa.how.is_usual {
        let usual = Usual::new(sa);
        for (place, (((packet, result), extended), number)) in (place..).zip(columns) {
            let inner_bytes = packet.len();
            let wrapped_one = usual.wrap(packet, number, place, jobs, extended);
            *result = wrapped.note(sa, inner_bytes, wrapped_one);
        }
    } else {
        for (place, (((packet, result), extended), number)) in (place..).zip(columns) {
            let inner_bytes = packet.total_len();
            let pushed = wrap_any(sa, packet, number, place, jobs, extended);
            *result = wrapped.note(sa, inner_bytes, pushed);
        }
    }
    sa.count_sent(claimant, wrapped.bytes, now_ns);
}

/// What was made ready for the cipher.
struct Wrapped {
    bytes: u64,
}

impl Wrapped {
    #[inline(always)]
    fn note(&mut self, sa: &Sa, bytes: usize, result: Result<(), EspError>) -> Result<(), EspError> {
        match result {
            Ok(()) => self.bytes += bytes as u64,
            Err(EspError::TooLong) => sa.leave_number(),
            Err(error) => sa.refuse_numbered(error),
        }
        result
    }
}

#[cold]
fn refuse_all(sa: &Sa, results: &mut [Result<(), EspError>], error: EspError) {
    results.iter().for_each(|_| sa.refuse(error));
    results.fill(Err(error));
}

/// What [`wrap_tunnel`] and [`Jobs::push`] do where the outer header is IPv4 alone and the cipher an AEAD: with a copy of what
/// the SA says, as the compiler has to read the SA itself again for each packet.
struct Usual<'p> {
    sa: &'p Sa,
    outer: OuterIpv4,
    job: UsualJob<'p>,
    spi: u32,
    iv_base: u64,
    pads: bool,
}

impl<'p> Usual<'p> {
    #[inline(always)]
    fn new(sa: &'p Sa) -> Self {
        Self {
            sa,
            outer: OuterIpv4::new(sa),
            job: UsualJob::new(sa),
            spi: u32::from_be_bytes(sa.spi),
            iv_base: sa.iv_base,
            pads: sa.how.pad_to != 0,
        }
    }

    #[inline(always)]
    fn wrap(
        &self,
        packet: &'p mut Buf,
        number: u64,
        place: usize,
        jobs: &mut Jobs<'p>,
        extended: &'p mut ExtendedHeader,
    ) -> Result<(), EspError> {
        const OUTER: usize = size_of::<Ipv4>();
        const BEFORE: usize = OUTER + ESP_HEADER_BYTES + 8;
        const BLOCK: usize = 4;
        let len = packet.len();
        let unusual = packet.is_chained()
            | packet.meta().flags.contains(Flags::TX_CSUM)
            | self.pads
            | (len > MAX_PACKET_BYTES - BEFORE - TAG_BYTES - 2 * BLOCK);
        if unusual {
            return wrap_any(self.sa, packet, number, place, jobs, extended);
        }
        let inner = Inner::of(packet.data()).ok_or(EspError::BadInner)?;
        let end = (len + TRAILER_BYTES + BLOCK - 1) & !(BLOCK - 1);
        let padding = end - len - TRAILER_BYTES;
        if packet.headroom() < BEFORE {
            return Err(EspError::NoHeadroom);
        }
        let enclosed = packet.enclose::<BEFORE, TAG_BYTES>(end - len);
        let (front, text, icv) = enclosed.map_err(|_| EspError::TooLong)?;
        let total = BEFORE + end + TAG_BYTES;
        // The last bytes of the packet are before the trailer in the eight.
        let tail = text.last_chunk_mut::<8>().ok_or(EspError::BadInner)?;
        let shift = 8 * (8 - TRAILER_BYTES - padding % BLOCK) as u32;
        let trailer = SHORT_TRAILERS[padding % BLOCK] << shift | u64::from(inner.protocol) << 56;
        *tail = (u64::from_le_bytes(*tail) & ((1 << shift) - 1) | trailer).to_le_bytes();
        let iv = self.iv_base.wrapping_add(number);
        let (header, esp) = front.split_at_mut(OUTER + 4);
        let header = header.first_chunk_mut().ok_or(EspError::NoHeadroom)?;
        self.outer.write(header, inner, number, total, self.spi);
        esp[..8].copy_from_slice(&(number << 32 | iv >> 32).to_be_bytes());
        esp[8..].copy_from_slice(&(iv as u32).to_be_bytes());
        let header = front.get(OUTER..).and_then(|esp| esp.first_chunk()).ok_or(EspError::NoHeadroom)?;
        let parts = AeadParts { header, iv, text, icv };
        jobs.push_usual(place, &self.job, number, parts, extended).ok_or(EspError::Malformed)
    }
}

/// Wraps a packet in either mode, whatever its SA's cipher, and adds its job.
#[inline(never)]
fn wrap_any<'p>(
    sa: &'p Sa,
    packet: &'p mut Buf,
    number: u64,
    place: usize,
    jobs: &mut Jobs<'p>,
    extended: &'p mut ExtendedHeader,
) -> Result<(), EspError> {
    if packet.is_chained() {
        return Err(EspError::TooLong);
    }
    packet.complete_checksum().map_err(|_| EspError::Malformed)?;
    let wrapping = Wrapping::new(sa, packet.data())?;
    let len = packet.len();
    if packet.headroom() < wrapping.before {
        return Err(EspError::NoHeadroom);
    }
    if wrapping.added > packet.tailroom() {
        return Err(EspError::TooLong);
    }
    packet.set_len(len + wrapping.added).map_err(|_| EspError::TooLong)?;
    let bytes = packet.push_front(wrapping.before).map_err(|_| EspError::NoHeadroom)?;
    let esp = wrapping.write(sa, bytes, number)?;
    if sa.how.udp && sa.how.outer_v6 {
        leave_checksum(packet, esp - size_of::<Udp>()).ok_or(EspError::Malformed)?;
    }
    let esp = packet.data_mut().get_mut(esp..).ok_or(EspError::Malformed)?;
    jobs.push(place, sa, number, esp, extended).ok_or(EspError::Malformed)
}

/// What is put around a packet, or between its headers and its payload.
pub(crate) struct Wrapping {
    /// Bytes before the packet.
    pub(crate) before: usize,
    /// Bytes behind it: padding, trailer, room for the ICV.
    pub(crate) added: usize,
    /// Bytes of the packet that are encrypted, its last ones; of them with zeroes behind; of the padding then.
    text: usize,
    padded: usize,
    padding: usize,
    next: u8,
    way: Way,
}

enum Way {
    Tunnel(Inner),
    Transport(Place),
}

impl Wrapping {
    /// Of a packet in one piece whose checksums are complete.
    pub(crate) fn new(sa: &Sa, packet: &[u8]) -> Result<Self, EspError> {
        let (outer, text, next, way) = if sa.how.tunnel_mode {
            let inner = Inner::of(packet).ok_or(EspError::BadInner)?;
            (usize::from(sa.outer_bytes), packet.len(), inner.protocol, Way::Tunnel(inner))
        } else {
            let (place, next) = payload(packet)?;
            let udp = if sa.how.udp { size_of::<Udp>() } else { 0 };
            (udp, packet.len() - usize::from(place.ip_bytes), next, Way::Transport(place))
        };
        let padded = if sa.how.tunnel_mode { text.max(sa.pad_to()) } else { text };
        let block = usize::from(sa.block_bytes);
        // A block is a power of two of bytes.
        let end = (padded + TRAILER_BYTES + block - 1) & !(block - 1);
        let padding = end - padded - TRAILER_BYTES;
        let added = end - text + usize::from(sa.icv_bytes);
        let longest = MAX_PACKET_BYTES - usize::from(sa.outer_bytes) - ESP_HEADER_BYTES - BLOCK_BYTES;
        if packet.len() + added > longest {
            return Err(EspError::TooLong);
        }
        let before = outer + ESP_HEADER_BYTES + usize::from(sa.iv_bytes);
        Ok(Self { before, added, text, padded, padding, next, way })
    }

    /// Writes it into what is the packet with `before` and `added` bytes around it. Returns where ESP starts.
    pub(crate) fn write(&self, sa: &Sa, bytes: &mut [u8], number: u64) -> Result<usize, EspError> {
        let total = bytes.len();
        let tail = total.checked_sub(self.added).and_then(|at| bytes.get_mut(at..));
        let tail = tail.ok_or(EspError::Malformed)?;
        match (self.padded == self.text, SHORT_TRAILERS.get(self.padding), tail.first_chunk_mut::<8>()) {
            (true, Some(short), Some(place)) => {
                // What follows within the eight bytes is the ICV's place.
                *place = (short | u64::from(self.next) << (8 * (self.padding + 1))).to_le_bytes();
            }
            _ => write_long_trailer(tail, self.padded - self.text, self.padding, self.next),
        }
        let esp = match self.way {
            Way::Tunnel(inner) => {
                sa.write_outer(bytes, inner, number, total).ok_or(EspError::NoHeadroom)?;
                usize::from(sa.outer_bytes)
            }
            Way::Transport(place) => self.write_between(sa, bytes, place)?,
        };
        sa.write_esp(bytes, esp, number).ok_or(EspError::NoHeadroom)?;
        Ok(esp)
    }

    /// Moves the IP headers of a transport-mode packet to the front, and writes what follows them up to ESP.
    #[inline(never)]
    fn write_between(&self, sa: &Sa, bytes: &mut [u8], place: Place) -> Result<usize, EspError> {
        let ip_bytes = usize::from(place.ip_bytes);
        bytes.copy_within(self.before..self.before + ip_bytes, 0);
        let carrier = if sa.how.udp { protocol::UDP } else { protocol::ESP };
        rewrite_ip(bytes, place, carrier)?;
        if !sa.how.udp {
            return Ok(ip_bytes);
        }
        let length = bytes.len() - ip_bytes;
        let port = if sa.how.outer_v6 { sa.peer.ipv6().1 } else { sa.peer.ipv4().1 };
        let rest = bytes.get_mut(ip_bytes..);
        rest.and_then(|rest| sa.write_udp(rest, port, length)).ok_or(EspError::Malformed)?;
        Ok(ip_bytes + size_of::<Udp>())
    }
}

/// Where the payload of a packet of this node starts, and its protocol. Destination options stay outside of ESP.
fn payload(bytes: &[u8]) -> Result<(Place, u8), EspError> {
    let place = Place::of_payload(bytes)?;
    let next = *bytes.get(usize::from(place.protocol_at)).ok_or(EspError::Malformed)?;
    if bytes.len() < usize::from(place.ip_bytes) {
        return Err(EspError::Malformed);
    }
    Ok((place, next))
}

/// Padding bytes, as the end of a longer packet has them, with the padding's length behind: by number of them, the first
/// byte in the lowest place.
const SHORT_TRAILERS: [u64; 4] = [0, 0x01_01, 0x02_02_01, 0x03_03_02_01];

/// Any trailer: zeroes for traffic flow confidentiality, padding 1, 2, 3, ..., its length, next header.
#[inline(never)]
fn write_long_trailer(tail: &mut [u8], zeroes: usize, padding: usize, next: u8) {
    let (zeroed, rest) = tail.split_at_mut(zeroes.min(tail.len()));
    zeroed.fill(0);
    let numbers = (1..=padding as u8).chain([padding as u8, next]);
    rest.iter_mut().zip(numbers).for_each(|(byte, number)| *byte = number);
}

impl Sa {
    /// Writes SPI, sequence number and IV.
    #[inline(always)]
    fn write_esp(&self, bytes: &mut [u8], at: usize, number: u64) -> Option<()> {
        let esp = bytes.get_mut(at..)?;
        let header = esp.first_chunk_mut::<{ ESP_HEADER_BYTES + 8 }>()?;
        header[..4].copy_from_slice(&self.spi);
        header[4..8].copy_from_slice(&(number as u32).to_be_bytes());
        let iv = self.iv_base.wrapping_add(number);
        match &self.cipher {
            Cipher::Gcm(_) | Cipher::ChaCha(_) => header[8..].copy_from_slice(&iv.to_be_bytes()),
            Cipher::Cbc(cbc) => {
                *esp.get_mut(ESP_HEADER_BYTES..)?.first_chunk_mut::<BLOCK_BYTES>()? = cbc.iv(iv);
            }
        }
        Some(())
    }
}
