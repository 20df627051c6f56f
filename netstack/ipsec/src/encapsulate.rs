//! Encapsulation of a vector of packets (RFC 4303 §3.3).
//!
//! In chunks of a vector: sequence numbers for each run of packets of one SA, headers and trailers packet by packet, one
//! call for all ciphertexts.

use crate::cipher::Cipher;
use crate::jobs::{self, CHUNK, Task};
use crate::outer::{Inner, Place, rewrite_ip};
use crate::sa::{ESP_HEADER_BYTES, HARD_EXPIRED, TRAILER_BYTES};
use crate::{EspError, Sa};
use buffer::{Buf, Flags};
use core::ptr;
use crypto::cbc_hmac::BLOCK_BYTES;
use crypto::gcm::Gcm;
use packet::protocol;
use packet::udp::Udp;

/// The longest IP packet.
const MAX_PACKET_BYTES: usize = 65_535;

/// Encrypts each packet, which is in one segment and starts at its IP header, by the SA at its place. A packet with an
/// error is to be dropped; a packet without is an outer IP packet.
///
/// `results` and `sas` have a place for each packet.
pub fn encapsulate(
    gcm: &Gcm,
    packets: &mut [Buf],
    sas: &[Option<&Sa>],
    now_ns: u64,
    results: &mut [Result<(), EspError>],
) {
    let chunks = packets.chunks_mut(CHUNK).zip(sas.chunks(CHUNK)).zip(results.chunks_mut(CHUNK));
    for ((packets, sas), results) in chunks {
        chunk(gcm, packets, sas, now_ns, results);
    }
}

#[inline(always)]
fn chunk(
    gcm: &Gcm,
    packets: &mut [Buf],
    sas: &[Option<&Sa>],
    now_ns: u64,
    results: &mut [Result<(), EspError>],
) {
    for sa in sas.iter().flatten() {
        sa.prefetch();
    }
    let mut tasks = [const { None }; CHUNK];
    let mut at = 0;
    while at < packets.len() {
        let run = run_length(&sas[at..]);
        let (tasks, results) = (&mut tasks[at..at + run], &mut results[at..at + run]);
        match sas[at] {
            Some(sa) => wrap_run(sa, &mut packets[at..at + run], tasks, results, now_ns),
            None => results.fill(Err(EspError::NoSa)),
        }
        at += run;
    }
    let done = jobs::run::<true>(gcm, packets, &tasks[..packets.len()]);
    for (index, (task, result)) in tasks.iter().zip(results).enumerate() {
        // A sealed packet cannot be missing where headers were written; if it were, it must not leave.
        if task.is_some() && done >> index & 1 == 0 {
            *result = Err(EspError::Malformed);
        }
    }
}

/// How many packets in a row are of the first one's SA.
#[inline(always)]
fn run_length(sas: &[Option<&Sa>]) -> usize {
    let first = sas[0].map_or(ptr::null(), ptr::from_ref);
    sas.iter().take_while(|sa| ptr::eq(sa.map_or(ptr::null(), ptr::from_ref), first)).count()
}

/// Gives numbers, headers and trailers to packets of one SA.
#[inline(always)]
fn wrap_run<'a>(
    sa: &'a Sa,
    packets: &mut [Buf],
    tasks: &mut [Option<Task<'a>>],
    results: &mut [Result<(), EspError>],
    now_ns: u64,
) {
    if !sa.is_usable(now_ns) {
        return refuse_all(sa, results, EspError::Expired);
    }
    let mut numbers = sa.sequence.take(packets.len() as u32);
    let (mut passed, mut bytes) = (0, 0);
    for ((packet, task), result) in packets.iter_mut().zip(tasks).zip(results) {
        let Some(number) = numbers.next() else {
            sa.raise(HARD_EXPIRED);
            sa.refuse(EspError::SequenceExhausted);
            *result = Err(EspError::SequenceExhausted);
            continue;
        };
        let inner_bytes = packet.total_len();
        let wrapped = if sa.how.tunnel_mode {
            wrap_tunnel(sa, packet, number)
        } else {
            wrap_transport(sa, packet, number)
        };
        match wrapped {
            Ok(esp) => {
                passed += 1;
                bytes += inner_bytes as u64;
                *task = Some(Task::new(sa, number, esp));
                *result = Ok(());
            }
            Err(error) => {
                sa.refuse(error);
                *result = Err(error);
            }
        }
    }
    sa.count(passed, bytes, now_ns);
}

#[cold]
fn refuse_all(sa: &Sa, results: &mut [Result<(), EspError>], error: EspError) {
    results.iter().for_each(|_| sa.refuse(error));
    results.fill(Err(error));
}

/// Puts a packet between outer headers and trailer; returns where ESP starts.
#[inline(always)]
fn wrap_tunnel(sa: &Sa, packet: &mut Buf, number: u64) -> Result<u16, EspError> {
    if packet.is_chained() || packet.meta().flags.contains(Flags::TX_CSUM) {
        make_plain(packet)?;
    }
    let inner = Inner::of(packet.data()).ok_or(EspError::BadInner)?;
    let len = packet.len();
    let padded = len.max(usize::from(sa.how.pad_to));
    let outer = usize::from(sa.outer_bytes);
    let before = outer + ESP_HEADER_BYTES + usize::from(sa.iv_bytes);
    if packet.headroom() < before {
        return Err(EspError::NoHeadroom);
    }
    append_trailer(sa, packet, len, padded, inner.protocol)?;
    let total = packet.len() + before;
    let bytes = packet.push_front(before).map_err(|_| EspError::NoHeadroom)?;
    sa.write_outer(bytes, inner, number, total).ok_or(EspError::NoHeadroom)?;
    sa.write_esp(bytes, outer, number).ok_or(EspError::NoHeadroom)?;
    Ok(outer as u16)
}

/// Puts ESP between a packet's IP headers and its payload.
#[inline(never)]
fn wrap_transport(sa: &Sa, packet: &mut Buf, number: u64) -> Result<u16, EspError> {
    make_plain(packet)?;
    let (place, next) = payload(packet.data())?;
    let ip_bytes = usize::from(place.ip_bytes);
    let udp = if sa.how.udp { size_of::<Udp>() } else { 0 };
    let before = udp + ESP_HEADER_BYTES + usize::from(sa.iv_bytes);
    if packet.headroom() < before {
        return Err(EspError::NoHeadroom);
    }
    let len = packet.len();
    append_trailer(sa, packet, len - ip_bytes, len - ip_bytes, next)?;
    let bytes = packet.push_front(before).map_err(|_| EspError::NoHeadroom)?;
    bytes.copy_within(before..before + ip_bytes, 0);
    let esp = ip_bytes + udp;
    let carrier = if sa.how.udp { protocol::UDP } else { protocol::ESP };
    rewrite_ip(bytes, place, carrier)?;
    if sa.how.udp {
        let length = bytes.len() - ip_bytes;
        let port = if sa.how.outer_v6 { sa.peer.ipv6().1 } else { sa.peer.ipv4().1 };
        let rest = bytes.get_mut(ip_bytes..);
        rest.and_then(|rest| sa.write_udp(rest, port, length)).ok_or(EspError::Malformed)?;
    }
    sa.write_esp(bytes, esp, number).ok_or(EspError::NoHeadroom)?;
    Ok(esp as u16)
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

/// Completes a packet's checksum. It must be in one segment.
#[cold]
fn make_plain(packet: &mut Buf) -> Result<(), EspError> {
    if packet.is_chained() {
        return Err(EspError::TooLong);
    }
    packet.complete_checksum().map_err(|_| EspError::Malformed)
}

/// Padding bytes, as the end of a longer packet has them, with the padding's length behind: by number of them, the first
/// byte in the lowest place.
const SHORT_TRAILERS: [u64; 4] = [0, 0x01_01, 0x02_02_01, 0x03_03_02_01];

/// Appends padding, trailer, and room for the ICV to a packet whose last `text` bytes are to be encrypted, padded to
/// `padded` first.
#[inline(always)]
fn append_trailer(sa: &Sa, packet: &mut Buf, text: usize, padded: usize, next: u8) -> Result<(), EspError> {
    let block = usize::from(sa.block_bytes);
    // A block is a power of two of bytes.
    let end = (padded + TRAILER_BYTES + block - 1) & !(block - 1);
    let padding = end - padded - TRAILER_BYTES;
    let len = packet.len();
    let added = end - text + usize::from(sa.icv_bytes);
    let longest = MAX_PACKET_BYTES - usize::from(sa.outer_bytes) - ESP_HEADER_BYTES - BLOCK_BYTES;
    if added > packet.tailroom() || len + added > longest {
        return Err(EspError::TooLong);
    }
    packet.set_len(len + added).map_err(|_| EspError::TooLong)?;
    let tail = packet.data_mut().get_mut(len..).ok_or(EspError::TooLong)?;
    match (padded == text, SHORT_TRAILERS.get(padding), tail.first_chunk_mut::<8>()) {
        (true, Some(short), Some(place)) => {
            // What follows within the eight bytes is the ICV's place.
            *place = (short | u64::from(next) << (8 * (padding + 1))).to_le_bytes();
        }
        _ => write_long_trailer(tail, padded - text, padding, next),
    }
    Ok(())
}

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
