//! Decapsulation of a vector of packets (RFC 4303 §3.4).
//!
//! In chunks of a vector, by runs of packets of one SPI: the SAs of all runs, so that cache misses overlap; checks before any
//! key is used; one call for all ciphertexts; then, of what is authentic, window, padding, inner packet ([`crate::inner`]).

use crate::inner::Unwrapped;
use crate::jobs::{AeadParts, CHUNK, ExtendedHeader, Jobs, UsualJob, take};
use crate::outer::Place;
use crate::sa::ESP_HEADER_BYTES;
use crate::{EspError, Sa, Snapshot};
use buffer::Buf;
use core::net::IpAddr;
use crypto::TAG_BYTES;
use packet::ipv4::{Ipv4, VERSION_IHL};
use packet::protocol;

/// Decrypts each packet, which starts at the IP header of an ESP packet to this node, by the SA of its SPI. A packet of
/// several segments is [`EspError::TooLong`], which no SA counts: it is for [`Long`](crate::Long). A packet with a result is the inner packet, in one segment, its lengths checked as far as the selectors need them; it has
/// [`buffer::Flags::DECRYPTED`] and its tunnel in [`buffer::Meta::opaque`]. A packet with an error is to be dropped.
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
    let mut heads = [Head::NONE; CHUNK];
    let mut runs = Runs::new();
    locate_all(snapshot, packets, &mut heads, &mut runs, results);
    find(snapshot, packets, &heads, &mut runs, results);
    let mut numbers = [0; CHUNK];
    let opened = open(snapshot, packets, &heads, &runs, &mut numbers, now_ns, results);
    for run in &runs {
        let Some(sa) = run.sa else { continue };
        let range = run.start..run.end;
        let replayed = accept_numbers(sa, run.start, opened, &numbers[range.clone()]);
        let mut unwrapped = Unwrapped::new(sa);
        let packets = packets[range.clone()].iter_mut().zip(&mut results[range.clone()]);
        let columns = packets.zip(&heads[range.clone()]).zip(&numbers[range]);
        for (index, (((packet, result), head), number)) in (run.start..).zip(columns) {
            // What did not go to the cipher has its error.
            if opened.tasks >> index & 1 == 0 {
                continue;
            }
            let checked = if opened.authentic >> index & 1 == 0 {
                Err(EspError::AuthenticationFailed)
            } else if replayed >> index & 1 == 1 {
                Err(EspError::Replayed)
            } else {
                unwrapped.unwrap(packet, head.place, *number)
            };
            *result = checked.map(|()| sa).inspect_err(|error| sa.refuse(*error));
        }
        unwrapped.count(now_ns);
    }
}

/// What is known of a packet before its SA is.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) place: Place,
    /// The sequence number on the wire; 0 of what is too short to have one.
    low: u32,
}

impl Head {
    const NONE: Self = Self { place: Place::PLAIN, low: 0 };
}

/// Packets in a row that have one SPI.
struct Run<'s> {
    start: usize,
    end: usize,
    spi: u32,
    sa: Option<&'s Sa>,
}

type Runs<'s> = heapless::Vec<Run<'s>, CHUNK>;

/// Packets of a chunk, a bit for each.
#[derive(Clone, Copy)]
struct Opened {
    /// Went to the cipher.
    tasks: u64,
    authentic: u64,
}

/// Where ESP is in each packet.
#[inline(always)]
fn locate_all<'s>(
    snapshot: &'s Snapshot,
    packets: &[Buf],
    heads: &mut [Head; CHUNK],
    runs: &mut Runs<'s>,
    results: &mut [Result<&'s Sa, EspError>],
) {
    for (index, ((packet, head), result)) in packets.iter().zip(heads).zip(results).enumerate() {
        let spi = if let Some((spi, low)) = locate_plain(packet) {
            // The place is that of a plain packet already.
            head.low = low;
            spi
        } else {
            match locate(packet) {
                Ok((spi, found)) => {
                    *head = found;
                    spi
                }
                Err(error) => {
                    *result = Err(error);
                    continue;
                }
            }
        };
        match runs.last_mut() {
            Some(run) if run.spi == spi && run.end == index => run.end += 1,
            _ => {
                snapshot.prefetch_inbound(spi);
                // There are no more runs than packets.
                let _ = runs.push(Run { start: index, end: index + 1, spi, sa: None });
            }
        }
    }
}

/// The SA of each run.
#[inline(always)]
fn find<'s>(
    snapshot: &'s Snapshot,
    packets: &[Buf],
    heads: &[Head; CHUNK],
    runs: &mut Runs<'s>,
    results: &mut [Result<&'s Sa, EspError>],
) {
    for run in &mut *runs {
        run.sa = snapshot.inbound(run.spi);
        match run.sa {
            Some(sa) => sa.prefetch_inbound(),
            None => results[run.start..run.end].fill(Err(EspError::UnknownSpi)),
        }
    }
    for run in runs {
        if let Some(sa) = run.sa {
            sa.window.prefetch(heads[run.start].low);
            sa.cipher.prefetch(packets[run.start].len());
            snapshot.prefetch_tunnel(sa.tunnel);
        }
    }
}

/// Has packets decrypted whose SA takes them.
#[inline(always)]
fn open<'s>(
    snapshot: &'s Snapshot,
    packets: &mut [Buf],
    heads: &[Head; CHUNK],
    runs: &Runs<'s>,
    numbers: &mut [u64; CHUNK],
    now_ns: u64,
    results: &mut [Result<&'s Sa, EspError>],
) -> Opened {
    let mut extended = [ExtendedHeader::default(); CHUNK];
    let mut jobs = Jobs::new();
    let mut tasks = 0u64;
    // Jobs borrow their packets: each run takes its own off these.
    let (mut packets, mut extended, mut next) = (packets, &mut extended[..], 0);
    for run in runs {
        let (skipped, range) = (run.start - next, run.start..run.end);
        next = run.end;
        let _ = (take(&mut packets, skipped), take(&mut extended, skipped));
        let (packets, extended) = (take(&mut packets, range.len()), take(&mut extended, range.len()));
        let Some(sa) = run.sa else { continue };
        let is_usable = sa.may_receive(now_ns);
        let usual = (is_usable && sa.how.is_usual).then(|| Usual::new(sa));
        let columns = packets.iter_mut().zip(&heads[range.clone()]).zip(&mut results[range.clone()]);
        let columns = columns.zip(&mut numbers[range]).zip(extended);
        for (index, ((((packet, head), result), number), extended)) in (run.start..).zip(columns) {
            let pushed = match &usual {
                Some(usual) if head.place == Place::PLAIN => {
                    usual.push(index, packet, head.low, &mut jobs, extended)
                }
                _ => push_any(sa, index, packet, *head, is_usable, &mut jobs, extended),
            };
            match pushed {
                Ok(found) => {
                    *number = found;
                    tasks |= 1 << index;
                }
                Err(error) => {
                    sa.refuse(error);
                    *result = Err(error);
                }
            }
        }
    }
    Opened { tasks, authentic: jobs.open(snapshot.suite()) }
}

/// Enters the numbers of a run's authentic packets into the window. A bit for each that is there already, or too old.
#[inline(always)]
fn accept_numbers(sa: &Sa, start: usize, opened: Opened, numbers: &[u64]) -> u64 {
    let mut accepting = sa.window.begin();
    for (index, number) in (start..).zip(numbers) {
        if opened.authentic >> index & 1 == 1 {
            accepting.add(index, *number);
        }
    }
    accepting.finish()
}

/// SPI and sequence number of a [plain](Place::PLAIN) packet.
#[inline(always)]
fn locate_plain(packet: &Buf) -> Option<(u32, u32)> {
    const BYTES: usize = size_of::<Ipv4>() + ESP_HEADER_BYTES;
    /// Version, header length, what makes a fragment.
    const MASK: u64 = 0xff << 56 | 0x3fff;
    let start = packet.data().first_chunk::<BYTES>()?;
    let fields = u64::from_be_bytes(*start.first_chunk()?);
    let is_plain =
        (fields & MASK == u64::from(VERSION_IHL) << 56) & (start[9] == protocol::ESP) & !packet.is_chained();
    let esp = u64::from_be_bytes(*start.last_chunk()?);
    is_plain.then_some(((esp >> 32) as u32, esp as u32))
}

/// The SPI of any packet, and where ESP starts.
#[inline(never)]
fn locate(packet: &Buf) -> Result<(u32, Head), EspError> {
    if packet.is_chained() { Err(EspError::TooLong) } else { locate_in(packet.data()) }
}

/// The same of bytes.
pub(crate) fn locate_in(bytes: &[u8]) -> Result<(u32, Head), EspError> {
    let place = Place::of(bytes)?;
    let esp = bytes.get(usize::from(place.esp)..).unwrap_or_default();
    let word = |at: usize| Some(u32::from_be_bytes(*esp.get(at..)?.first_chunk()?));
    match word(0) {
        Some(spi) => Ok((spi, Head { place, low: word(4).unwrap_or_default() })),
        // A NAT keepalive (RFC 3948 §2.3).
        None if place.is_in_udp() && *esp == [0xff] => Err(EspError::Keepalive),
        None => Err(EspError::Malformed),
    }
}

/// What [`examine`] and [`Jobs::push`] do for a [plain](Place::PLAIN) packet of an SA over IPv4 alone with an AEAD, with a copy of
/// what the SA says.
struct Usual<'s> {
    sa: &'s Sa,
    /// Our address.
    own: [u8; 4],
    job: UsualJob<'s>,
    /// The highest number accepted; what is above is new.
    top: u64,
    esn: bool,
}

impl<'s> Usual<'s> {
    #[inline(always)]
    fn new(sa: &'s Sa) -> Self {
        // Inbound: the template's source is our address.
        let [.., a, b, c, d] = *sa.template.first_chunk::<16>().unwrap_or(&[0; 16]);
        Self { sa, own: [a, b, c, d], job: UsualJob::new(sa), top: sa.window.top(), esn: sa.how.esn }
    }

    /// Adds a packet to the jobs; its extended sequence number.
    #[inline(always)]
    fn push<'p>(
        &self,
        index: usize,
        packet: &'p mut Buf,
        low: u32,
        jobs: &mut Jobs<'p>,
        extended: &'p mut ExtendedHeader,
    ) -> Result<u64, EspError>
    where
        's: 'p,
    {
        const BEFORE: usize = size_of::<Ipv4>() + ESP_HEADER_BYTES + 8;
        let bytes = packet.data_mut();
        let (front, rest) = bytes.split_first_chunk_mut::<BEFORE>().ok_or(EspError::Malformed)?;
        let (text, icv) = rest.split_last_chunk_mut::<TAG_BYTES>().ok_or(EspError::Malformed)?;
        if text.is_empty() | !text.len().is_multiple_of(4) {
            return Err(EspError::Malformed);
        }
        if front[16..20] != self.own {
            return Err(EspError::WrongEncapsulation);
        }
        let number = if self.esn { self.sa.window.infer(low) } else { u64::from(low) };
        if number <= self.top {
            self.sa.window.check(number)?;
        }
        let [.., a, b, c, d, e, f, g, h] = *front;
        let iv = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let header = front[size_of::<Ipv4>()..].first_chunk().ok_or(EspError::Malformed)?;
        let parts = AeadParts { header, iv, text, icv };
        jobs.push_usual(index, &self.job, number, parts, extended).ok_or(EspError::Malformed)?;
        Ok(number)
    }
}

/// Adds any packet to the jobs if it is one for the SA; its extended sequence number.
#[inline(never)]
fn push_any<'p>(
    sa: &'p Sa,
    index: usize,
    packet: &'p mut Buf,
    head: Head,
    is_usable: bool,
    jobs: &mut Jobs<'p>,
    extended: &'p mut ExtendedHeader,
) -> Result<u64, EspError> {
    let number = examine(sa, packet.data(), head, is_usable)?;
    let esp = packet.data_mut().get_mut(usize::from(head.place.esp)..).ok_or(EspError::Malformed)?;
    jobs.push(index, sa, number, esp, extended).ok_or(EspError::Malformed)?;
    Ok(number)
}

/// What can be refused before a key is used; the extended sequence number.
pub(crate) fn examine(sa: &Sa, bytes: &[u8], head: Head, is_usable: bool) -> Result<u64, EspError> {
    let place = head.place;
    let esp = bytes.get(usize::from(place.esp)..).ok_or(EspError::Malformed)?;
    let fixed = ESP_HEADER_BYTES + usize::from(sa.iv_bytes) + usize::from(sa.icv_bytes);
    let text = esp.len().checked_sub(fixed).ok_or(EspError::Malformed)?;
    let block = usize::from(sa.block_bytes);
    if text == 0 || text & (block - 1) != 0 {
        return Err(EspError::Malformed);
    }
    let is_its = is_addressed_to(sa, bytes) && (sa.how.tunnel_mode || is_from_peer(sa, bytes));
    if place.is_in_udp() != sa.how.udp || !is_its {
        return Err(EspError::WrongEncapsulation);
    }
    if !is_usable {
        return Err(EspError::Expired);
    }
    let number = if sa.how.esn { sa.window.infer(head.low) } else { u64::from(head.low) };
    sa.window.check(number)?;
    Ok(number)
}

/// True if the source is the peer. In transport mode it is the source of the packet within as well, for which the peer's key vouches
/// no more than for its own address (RFC 4301 §5.2).
fn is_from_peer(sa: &Sa, bytes: &[u8]) -> bool {
    match sa.parameters().remote {
        IpAddr::V4(peer) => bytes.get(12..16) == Some(&peer.octets()),
        IpAddr::V6(peer) => bytes.get(8..24) == Some(&peer.octets()),
    }
}

/// True if the outer destination is the SA's own address.
fn is_addressed_to(sa: &Sa, bytes: &[u8]) -> bool {
    // Inbound: the template's source is our address.
    if sa.how.outer_v6 {
        bytes.get(24..40) == sa.template.get(8..24)
    } else {
        bytes.get(16..20) == sa.template.get(12..16)
    }
}
