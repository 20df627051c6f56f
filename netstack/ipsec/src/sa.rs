//! A security association as workers share it.

use crate::cipher::Cipher;
use crate::inner::{flags, mark};
use crate::params::{DfPolicy, DscpPolicy, EcnPolicy, Limits, TtlPolicy};
use crate::peer::Peer;
use crate::{
    Claimant, Direction, EspError, Lifetimes, Mode, SaError, SaId, SaParameters, Sequence, TunnelId, Window,
};
use buffer::{Buf, prefetch_write};
use core::array;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use packet::ipv4::{DONT_FRAGMENT, Ipv4};
use packet::ipv6::Ipv6;
use packet::protocol;
use packet::udp::Udp;
use zerocopy::IntoBytes;
use zerocopy::network_endian::U16;

/// Bytes of SPI and sequence number.
pub(crate) const ESP_HEADER_BYTES: usize = 8;
/// Bytes of padding length and next header.
pub(crate) const TRAILER_BYTES: usize = 2;
/// Outer IPv6 and UDP headers: the longest before ESP.
const MAX_OUTER_BYTES: usize = size_of::<Ipv6>() + size_of::<Udp>();
const NS_PER_SECOND: u64 = 1_000_000_000;
/// How long a router's word about the path is kept (RFC 1191 §6.3).
const PATH_MTU_NS: u64 = 600 * NS_PER_SECOND;

/// Randomness that an SA needs, from a good source, never the same twice.
#[derive(Clone, Copy)]
pub struct Entropy {
    /// Where the AEADs' IVs begin. They count from here, so that an SA that is made again from the same configuration
    /// (after a restart) does not repeat the nonces of its former life.
    pub iv_base: u64,
    /// Key of the IVs of CBC.
    pub iv_key: [u8; 16],
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

/// What an SA did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaCounters {
    /// Packets encrypted, or decrypted and accepted.
    pub packets: u64,
    /// Bytes of them, without what ESP adds in tunnel mode.
    pub bytes: u64,
    /// The last sequence number sent, or the highest received.
    pub last_sequence: u64,
    /// Packets refused, by the number of their [`EspError`].
    pub errors: [u64; EspError::ALL.len()],
    /// Why the last refused packet was.
    pub last_error: Option<EspError>,
    /// Monotonic time of the worker's poll in which a packet last passed, 0 if none did.
    pub last_used_ns: u64,
}

/// Something happened to an SA that control should know.
pub(crate) const SOFT_EXPIRED: u32 = 1 << 0;
/// It stopped.
pub(crate) const HARD_EXPIRED: u32 = 1 << 1;

/// A security association, shared by all workers and by successive snapshots.
///
/// What every packet needs is in the first lines, in the order of use, and of the key in a row. Lines that are used together are
/// in pairs, which processors fetch together.
#[repr(C, align(128))]
pub struct Sa {
    pub(crate) how: How,
    /// The longest outer packet of the path, as far as routers on the way have told.
    pub(crate) path_mtu: AtomicU16,
    pub(crate) iv_base: u64,
    hard: Threshold,
    pub(crate) sequence: Sequence,
    use_: Use,
    /// Bytes of `template` in use.
    pub(crate) outer_bytes: u8,
    pub(crate) iv_bytes: u8,
    pub(crate) icv_bytes: u8,
    pub(crate) block_bytes: u8,
    /// In network byte order.
    pub(crate) spi: [u8; 4],
    pub(crate) salt: [u8; 4],
    /// Outer IP header and UDP header; lengths and checksum are of an empty packet. Where the peer may move, its IPv4
    /// address is left out.
    pub(crate) template: [u8; MAX_OUTER_BYTES],
    pub(crate) tunnel: TunnelId,
    flags: AtomicU32,
    /// What inner packets are padded to at most.
    pad_limit: AtomicU16,
    /// Less the numbers given: packets that passed. So an outbound SA counts them by giving numbers; what took one and did not
    /// pass is subtracted here.
    packets_less_numbers: AtomicU64,
    hard_packets: u64,
    soft: Threshold,
    soft_packets: u64,
    pub(crate) window: Window,
    pub(crate) cipher: Cipher,
    /// Where the peer of an SA in UDP was last seen.
    pub(crate) peer: Peer,
    /// When a router told about the path; 0 if none did.
    path_mtu_at_ns: AtomicU64,
    audit: Audit,
    id: SaId,
    parameters: SaParameters,
}

// What sends over IPv4 needs the first 128 bytes, and what receives two lines more.
const _: () = assert!(core::mem::offset_of!(Sa, template) + size_of::<Ipv4>() <= 128);
const _: () = assert!(core::mem::offset_of!(Sa, use_) >= 64 && core::mem::offset_of!(Sa, how) == 0);
const _: () = assert!(core::mem::offset_of!(Sa, window) >= 192);
const _: () = assert!(core::mem::offset_of!(Sa, cipher) == 256);

/// How packets are treated: the parameters that the data path asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) tunnel_mode: bool,
    pub(crate) outer_v6: bool,
    pub(crate) udp: bool,
    pub(crate) esn: bool,
    /// True if the outer header is `template` with nothing copied from the inner one but ECN and DSCP.
    pub(crate) dscp: Option<u8>,
    pub(crate) ecn: EcnPolicy,
    pub(crate) df: DfPolicy,
    /// 0: copied.
    pub(crate) ttl: u8,
    pub(crate) has_selectors: bool,
    /// The outer header is IPv4 alone, and the IV eight bytes.
    pub(crate) is_usual: bool,
    pub(crate) pad_to: u16,
}

/// Counters.
#[derive(Default)]
struct Use {
    bytes: AtomicU64,
    /// Those that the owner of the sequence numbers counted, which alone writes this.
    owners_bytes: AtomicU64,
    last_used_ns: AtomicU64,
}

/// What may not be passed; `u64::MAX` where there is no limit. Packets are counted apart.
#[derive(Clone, Copy, Debug)]
struct Threshold {
    bytes: u64,
    at_ns: u64,
}

impl Threshold {
    fn new(limits: Limits, now_ns: u64) -> Self {
        let at_ns =
            limits.seconds.map(|seconds| now_ns.saturating_add(seconds.saturating_mul(NS_PER_SECOND)));
        Self { bytes: limits.bytes.unwrap_or(u64::MAX), at_ns: at_ns.unwrap_or(u64::MAX) }
    }

    #[inline]
    fn is_reached(&self, bytes: u64, now_ns: u64) -> bool {
        bytes >= self.bytes || now_ns >= self.at_ns
    }
}

struct Audit {
    errors: [AtomicU64; EspError::ALL.len()],
    /// Number of the last error, plus 1.
    last: AtomicU8,
}

impl Sa {
    /// Checks an SA and makes it ready. Its key is cleared in the parameters that it keeps.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(
        id: SaId,
        mut parameters: SaParameters,
        entropy: &Entropy,
        now_ns: u64,
    ) -> Result<Self, SaError> {
        parameters.check()?;
        let key = core::mem::take(&mut parameters.key);
        let (cipher, salt) = Cipher::new(parameters.algorithm, key.expose(), &entropy.iv_key)?;
        let last = parameters.last_sequence;
        // So no worker can give more numbers than the lifetime has packets.
        let Lifetimes { soft, hard } = parameters.lifetimes;
        let [soft_packets, hard_packets] = [soft, hard].map(|limits| limits.packets.unwrap_or(u64::MAX));
        let limit = last_number(parameters.esn).min(last.saturating_add(hard_packets));
        let (template, outer_bytes) = template(&parameters);
        let algorithm = parameters.algorithm;
        Ok(Self {
            how: How::new(&parameters),
            path_mtu: AtomicU16::new(u16::MAX),
            iv_base: entropy.iv_base,
            hard: Threshold::new(hard, now_ns),
            sequence: Sequence::new(last, limit),
            use_: Use::default(),
            outer_bytes,
            iv_bytes: algorithm.iv_bytes() as u8,
            icv_bytes: algorithm.icv_bytes() as u8,
            block_bytes: algorithm.block_bytes() as u8,
            spi: parameters.spi.to_be_bytes(),
            salt,
            template,
            tunnel: parameters.tunnel,
            flags: AtomicU32::new(0),
            pad_limit: AtomicU16::new(u16::MAX),
            packets_less_numbers: AtomicU64::new(last.wrapping_neg()),
            hard_packets,
            soft: Threshold::new(soft, now_ns),
            soft_packets,
            window: Window::new(parameters.replay_window, last),
            peer: Peer::new(SocketAddr::new(
                parameters.remote,
                parameters.nat_t.map_or(0, |nat_t| nat_t.remote_port),
            )),
            path_mtu_at_ns: AtomicU64::new(0),
            cipher,
            audit: Audit { errors: array::from_fn(|_| AtomicU64::new(0)), last: AtomicU8::new(0) },
            id,
            parameters,
        })
    }

    /// Its number.
    pub fn id(&self) -> SaId {
        self.id
    }

    /// The tunnel that what it decrypts came by.
    #[inline]
    pub fn tunnel(&self) -> TunnelId {
        self.tunnel
    }

    /// Notes that a packet is what this SA decrypted, as [`decapsulate`](crate::decapsulate()) does: in its flags, and its tunnel
    /// in [`buffer::Meta::opaque`].
    pub fn mark(&self, packet: &mut Buf) {
        mark(packet, flags(self), self.tunnel.0);
    }

    /// What control said of it, without the key.
    pub fn parameters(&self) -> &SaParameters {
        &self.parameters
    }

    /// Bytes that encapsulation adds to a packet of `inner_bytes`, IP header included (tunnel mode: a whole outer packet
    /// around it; transport mode: within it). `inner_bytes` counts TFC padding as if it were absent.
    #[inline]
    pub fn overhead(&self, inner_bytes: usize) -> usize {
        let text = self.text_bytes(inner_bytes);
        self.fixed_bytes() + text - inner_bytes
    }

    /// The longest inner packet whose outer packet is not longer than `outer_mtu`; 0 if none fits. In transport mode of
    /// packets with a header of the least length.
    pub fn max_inner_len(&self, outer_mtu: usize) -> usize {
        let room = outer_mtu.saturating_sub(self.fixed_bytes());
        let block = usize::from(self.block_bytes);
        let header = if self.how.tunnel_mode { 0 } else { self.ip_header_bytes() };
        let text = room.saturating_sub(header) / block * block;
        if text < TRAILER_BYTES { 0 } else { header + text - TRAILER_BYTES }
    }

    /// Bytes of outer headers, ESP header, IV and ICV.
    fn fixed_bytes(&self) -> usize {
        let esp = ESP_HEADER_BYTES + usize::from(self.iv_bytes) + usize::from(self.icv_bytes);
        let udp = if self.how.udp { size_of::<Udp>() } else { 0 };
        esp + if self.how.tunnel_mode { usize::from(self.outer_bytes) } else { udp }
    }

    fn ip_header_bytes(&self) -> usize {
        if self.how.outer_v6 { size_of::<Ipv6>() } else { size_of::<Ipv4>() }
    }

    /// Bytes of an inner packet with padding and trailer; in transport mode its IP header, which is no text, counts in
    /// whole.
    fn text_bytes(&self, inner_bytes: usize) -> usize {
        let block = usize::from(self.block_bytes);
        if self.how.tunnel_mode {
            let inner_bytes = inner_bytes.max(self.pad_to());
            return (inner_bytes + TRAILER_BYTES).next_multiple_of(block);
        }
        let header = self.ip_header_bytes().min(inner_bytes);
        header + (inner_bytes - header + TRAILER_BYTES).next_multiple_of(block)
    }

    /// What it did.
    pub fn counters(&self) -> SaCounters {
        let last_sequence = match self.parameters.direction {
            Direction::Outbound => self.sequence.last(),
            Direction::Inbound => self.window.top(),
        };
        SaCounters {
            packets: self.packets(),
            bytes: self.bytes(),
            last_sequence,
            errors: array::from_fn(|number| self.audit.errors[number].load(Relaxed)),
            last_error: self.audit.last.load(Relaxed).checked_sub(1).and_then(EspError::from_number),
            last_used_ns: self.use_.last_used_ns.load(Relaxed),
        }
    }

    /// Where the peer of an SA in UDP is: as its parameters say, until it is seen to move.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.how.udp.then(|| self.peer.get(self.how.outer_v6))
    }

    /// Has an SA in UDP take this for the peer's address and port. Any other SA stays as it is, and so does one of the
    /// other family.
    pub fn set_peer(&self, place: SocketAddr) {
        if self.how.udp && place.is_ipv6() == self.how.outer_v6 {
            self.peer.set(place);
        }
    }

    /// The peer's outer address.
    pub fn remote(&self) -> IpAddr {
        self.peer().filter(|_| self.how.tunnel_mode).map_or(self.parameters.remote, |peer| peer.ip())
    }

    /// Takes the news of where the peer moved.
    pub(crate) fn take_move(&self) -> Option<SocketAddr> {
        self.peer.take(self.how.outer_v6)
    }

    /// The longest outer packet that the path takes, if a router said so.
    pub fn path_mtu(&self) -> Option<u16> {
        Some(self.path_mtu.load(Relaxed)).filter(|mtu| *mtu != u16::MAX)
    }

    /// Notes what a router on the path said, or forgets it.
    pub fn set_path_mtu(&self, mtu: Option<u16>) {
        self.path_mtu.store(mtu.unwrap_or(u16::MAX), Relaxed);
    }

    /// Has inner packets not be padded beyond this length: no padding makes an outer packet too long for its path.
    pub fn limit_padding(&self, inner_bytes: u16) {
        self.pad_limit.store(inner_bytes, Relaxed);
    }

    /// What inner packets are padded to that are shorter.
    pub(crate) fn pad_to(&self) -> usize {
        self.how.pad_to.min(self.pad_limit.load(Relaxed)).into()
    }

    /// Asks for the cache lines that encapsulation begins with.
    #[inline(always)]
    pub fn prefetch(&self) {
        prefetch_write(&self.how);
        prefetch_write(&self.use_);
        self.cipher.prefetch_kind();
    }

    /// The same for decapsulation.
    #[inline(always)]
    pub(crate) fn prefetch_inbound(&self) {
        self.prefetch();
        prefetch_write(&self.packets_less_numbers);
        prefetch_write(&self.window);
    }

    /// Learns from a router on the path what it takes, if that is less than known so far. Less than every path takes is
    /// not believed (RFC 8201 §4; for IPv4 the 576 bytes that every host takes).
    pub fn learn_path_mtu(&self, mtu: u32, now_ns: u64) {
        let least = if self.how.outer_v6 { packet::ipv6::MIN_MTU } else { 576 };
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).max(least);
        if self.path_mtu.fetch_min(mtu, Relaxed) > mtu {
            self.path_mtu_at_ns.store(now_ns, Relaxed);
        }
    }

    /// Forgets what a router said ten minutes ago: the path may have changed (RFC 1191 §6.3).
    pub(crate) fn age_path_mtu(&self, now_ns: u64) {
        let learnt_ns = self.path_mtu_at_ns.load(Relaxed);
        if learnt_ns != 0 && now_ns.saturating_sub(learnt_ns) >= PATH_MTU_NS {
            self.path_mtu_at_ns.store(0, Relaxed);
            self.set_path_mtu(None);
        }
    }

    /// Counts a refused packet.
    #[cold]
    pub(crate) fn refuse(&self, error: EspError) {
        let _ = self.audit.errors[error as usize].fetch_add(1, Relaxed);
        if error != EspError::Dummy {
            self.audit.last.store(error as u8 + 1, Relaxed);
        }
    }

    /// Packets that passed.
    #[inline]
    fn packets(&self) -> u64 {
        self.sequence.given().wrapping_add(self.packets_less_numbers.load(Relaxed))
    }

    /// Bytes of them.
    #[inline]
    fn bytes(&self) -> u64 {
        self.use_.bytes.load(Relaxed) + self.use_.owners_bytes.load(Relaxed)
    }

    /// Whether it may still send packets. How many, its sequence numbers tell.
    #[inline]
    pub(crate) fn may_send(&self, now_ns: u64) -> bool {
        let expired = self.hard.is_reached(self.bytes(), now_ns);
        if expired {
            self.raise(HARD_EXPIRED);
        }
        !expired
    }

    /// Whether it may still receive packets.
    #[inline]
    pub(crate) fn may_receive(&self, now_ns: u64) -> bool {
        if self.packets() >= self.hard_packets {
            self.raise(HARD_EXPIRED);
            return false;
        }
        self.may_send(now_ns)
    }

    /// Why there is no number for a packet.
    #[cold]
    pub(crate) fn why_no_number(&self) -> EspError {
        let is_last = self.sequence.last() >= last_number(self.parameters.esn);
        if is_last { EspError::SequenceExhausted } else { EspError::Expired }
    }

    /// Counts packets that passed. Their number is counted with their sequence numbers.
    #[inline]
    pub(crate) fn count_sent(&self, claimant: &Claimant, bytes: u64, now_ns: u64) {
        let Use { bytes: all, owners_bytes, last_used_ns } = &self.use_;
        if self.sequence.is_owned_by(claimant) {
            owners_bytes.store(owners_bytes.load(Relaxed) + bytes, Relaxed);
        } else {
            let _ = all.fetch_add(bytes, Relaxed);
        }
        last_used_ns.store(now_ns, Relaxed);
    }

    /// Counts packets that were accepted.
    #[inline]
    pub(crate) fn count_received(&self, packets: u64, bytes: u64, now_ns: u64) {
        let _ = self.packets_less_numbers.fetch_add(packets, Relaxed);
        self.count_sent(&Claimant::NOBODY, bytes, now_ns);
    }

    /// Refuses a packet that has its sequence number already.
    #[cold]
    pub(crate) fn refuse_numbered(&self, error: EspError) {
        self.leave_number();
        self.refuse(error);
    }

    /// Counts no packet with a sequence number that was taken: it will not be used.
    #[cold]
    pub(crate) fn leave_number(&self) {
        let _ = self.packets_less_numbers.fetch_sub(1, Relaxed);
    }

    /// Leaves a message to control.
    #[inline]
    pub(crate) fn raise(&self, flag: u32) {
        if self.flags.load(Relaxed) & flag == 0 {
            let _ = self.flags.fetch_or(flag, Relaxed);
        }
    }

    /// The messages that were left so far, and those that time and use bring.
    pub(crate) fn messages(&self, now_ns: u64) -> u32 {
        let (packets, bytes) = (self.packets(), self.bytes());
        let is_soft = packets >= self.soft_packets || self.soft.is_reached(bytes, now_ns);
        let is_hard = packets >= self.hard_packets || self.hard.is_reached(bytes, now_ns);
        let soft = if is_soft { SOFT_EXPIRED } else { 0 };
        let hard = if is_hard { HARD_EXPIRED } else { 0 };
        self.flags.load(Relaxed) | soft | hard
    }
}

/// The last sequence number that an SA may use. The last one of 64 bits is not used, so that a range of numbers has an end.
const fn last_number(esn: bool) -> u64 {
    if esn { u64::MAX - 1 } else { u32::MAX as u64 }
}

impl fmt::Debug for Sa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sa")
            .field("id", &self.id)
            .field("parameters", &self.parameters)
            .finish_non_exhaustive()
    }
}

impl How {
    fn new(parameters: &SaParameters) -> Self {
        Self {
            tunnel_mode: parameters.mode == Mode::Tunnel,
            outer_v6: parameters.local.is_ipv6(),
            udp: parameters.nat_t.is_some(),
            esn: parameters.esn,
            dscp: match parameters.dscp {
                DscpPolicy::Copy => None,
                DscpPolicy::Set(dscp) => Some(dscp),
            },
            ecn: parameters.ecn,
            df: parameters.df,
            ttl: match parameters.ttl {
                TtlPolicy::Copy => 0,
                TtlPolicy::Set(ttl) => ttl,
            },
            has_selectors: !parameters.selectors.is_empty(),
            is_usual: parameters.mode == Mode::Tunnel
                && parameters.local.is_ipv4()
                && parameters.nat_t.is_none()
                && parameters.algorithm.iv_bytes() == 8,
            pad_to: parameters.tfc_pad_to_bytes.unwrap_or(0),
        }
    }
}

/// The headers before ESP as an empty packet of the SA has them, and how many bytes they are.
fn template(parameters: &SaParameters) -> ([u8; MAX_OUTER_BYTES], u8) {
    let next = if parameters.nat_t.is_some() { protocol::UDP } else { protocol::ESP };
    let mut template = [0; MAX_OUTER_BYTES];
    let ip_bytes = match (parameters.local, parameters.remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            let destination = if parameters.nat_t.is_some() { [0; 4] } else { remote.octets() };
            let header = Ipv4 {
                total_length: U16::ZERO,
                flags_fragment: U16::new(if parameters.df == DfPolicy::Set { DONT_FRAGMENT } else { 0 }),
                ttl: 0,
                ..Ipv4::new(next, local.octets(), destination, 0)
            };
            template[..size_of::<Ipv4>()].copy_from_slice(header.as_bytes());
            size_of::<Ipv4>()
        }
        (local, remote) => {
            let octets = |address| match address {
                IpAddr::V6(address) => core::net::Ipv6Addr::octets(&address),
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            };
            let header = Ipv6 { hop_limit: 0, ..Ipv6::new(next, octets(local), octets(remote), 0) };
            template[..size_of::<Ipv6>()].copy_from_slice(header.as_bytes());
            size_of::<Ipv6>()
        }
    };
    let Some(nat_t) = parameters.nat_t else { return (template, ip_bytes as u8) };
    let udp = Udp {
        source_port: U16::new(nat_t.local_port),
        destination_port: U16::new(nat_t.remote_port),
        length: U16::ZERO,
        checksum: U16::ZERO,
    };
    template[ip_bytes..ip_bytes + size_of::<Udp>()].copy_from_slice(udp.as_bytes());
    (template, (ip_bytes + size_of::<Udp>()) as u8)
}
