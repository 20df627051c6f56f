//! A security association as control describes it, and what is wrong with one.

use crate::{SecretBytes, Selector};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use crypto::cbc_hmac::Hash;

/// Smallest anti-replay window, in packets.
pub const MIN_REPLAY_WINDOW: u32 = 64;
/// Largest anti-replay window, in packets.
pub const MAX_REPLAY_WINDOW: u32 = 8192;

/// Names an SA; [`crate::Database`] gives the numbers and uses none twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaId(pub u64);

/// Names a tunnel: the place that packets are sent to, whichever SA is in use there at the time. Small numbers, chosen
/// by control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u32);

/// Which way an SA works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Decrypts what comes in.
    Inbound,
    /// Encrypts what goes out.
    Outbound,
}

/// What an SA wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Whole IPv4 and IPv6 packets, in an outer header between `local` and `remote`.
    Tunnel,
    /// The payload of packets between `local` and `remote` themselves.
    Transport,
}

/// Cipher and integrity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// AES-128-GCM with a 16-byte ICV (RFC 4106): 20 bytes of key material, key and salt.
    Aes128Gcm,
    /// AES-256-GCM with a 16-byte ICV (RFC 4106): 36 bytes of key material, key and salt.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 7634): 36 bytes of key material, key and salt.
    ChaCha20Poly1305,
    /// AES-128-CBC with HMAC-SHA2 (RFC 3602, RFC 4868): 16 bytes of cipher key and the authentication key of the hash.
    Aes128CbcHmac(Hash),
    /// AES-256-CBC with HMAC-SHA2 (RFC 3602, RFC 4868): 32 bytes of cipher key and the authentication key of the hash.
    Aes256CbcHmac(Hash),
}

impl Algorithm {
    /// Bytes of key material: cipher key, then salt or authentication key (the order of RFC 7296 §2.17).
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 20,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 36,
            Self::Aes128CbcHmac(hash) => 16 + hash.key_bytes(),
            Self::Aes256CbcHmac(hash) => 32 + hash.key_bytes(),
        }
    }

    /// Bytes of IV on the wire.
    pub const fn iv_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305 => 8,
            Self::Aes128CbcHmac(_) | Self::Aes256CbcHmac(_) => 16,
        }
    }

    /// Bytes of integrity check value.
    pub const fn icv_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305 => 16,
            Self::Aes128CbcHmac(hash) | Self::Aes256CbcHmac(hash) => hash.icv_bytes(),
        }
    }

    /// What text and trailer are padded to a multiple of, in bytes.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305 => 4,
            Self::Aes128CbcHmac(_) | Self::Aes256CbcHmac(_) => 16,
        }
    }
}

/// UDP encapsulation (RFC 3948).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatT {
    /// Our port, 4500 as a rule.
    pub local_port: u16,
    /// The peer's port as we see it. An SA follows it when an authentic packet comes from another.
    pub remote_port: u16,
}

/// Where the outer DSCP comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DscpPolicy {
    /// The inner packet (RFC 4301 §5.1.2.1).
    #[default]
    Copy,
    /// This one, 0 to 63.
    Set(u8),
}

/// What the outer ECN field is. What arrives is combined with the inner one whatever this says (RFC 6040 §4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EcnPolicy {
    /// The inner packet's (RFC 6040 §4.1, normal mode).
    #[default]
    Copy,
    /// Not-ECT (RFC 6040 §4.1, compatibility mode).
    Clear,
}

/// Where the outer don't-fragment bit comes from, if the outer header is IPv4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DfPolicy {
    /// The inner packet; set for IPv6.
    #[default]
    Copy,
    /// Always set.
    Set,
    /// Never set: routers on the way may fragment.
    Clear,
}

/// Where the outer TTL or hop limit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlPolicy {
    /// The inner packet.
    Copy,
    /// This one, not 0.
    Set(u8),
}

impl Default for TtlPolicy {
    fn default() -> Self {
        Self::Set(64)
    }
}

/// How long an SA may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Seconds since it was made.
    pub seconds: Option<u64>,
    /// Bytes of packets before encapsulation. Looked at once for the packets that are worked on together, 64 at most: these
    /// may go beyond. So it is with packets inbound; outbound their number is exact.
    pub bytes: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
}

/// When an SA asks to be replaced, and when it stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// A soft expiry event is due.
    pub soft: Limits,
    /// It carries nothing any more.
    pub hard: Limits,
}

/// An SA as control describes it.
#[derive(Clone, Debug)]
pub struct SaParameters {
    /// What people call it.
    pub name: String,
    /// Security parameters index, not 0. Inbound ones are unique in a node.
    pub spi: u32,
    /// Which way it works.
    pub direction: Direction,
    /// What it wraps.
    pub mode: Mode,
    /// Our outer address (source outbound, destination inbound).
    pub local: IpAddr,
    /// The peer's outer address, of the same family.
    pub remote: IpAddr,
    /// Cipher and integrity.
    pub algorithm: Algorithm,
    /// [`Algorithm::key_bytes`] of key material. Cleared once the SA is made.
    pub key: SecretBytes,
    /// Extended, 64-bit sequence numbers (RFC 4303 §2.2.1).
    pub esn: bool,
    /// Anti-replay window in packets, [`MIN_REPLAY_WINDOW`] to [`MAX_REPLAY_WINDOW`]; inbound.
    pub replay_window: u32,
    /// The last sequence number in use before: sent, or received. 0 for a new SA.
    pub last_sequence: u64,
    /// In UDP.
    pub nat_t: Option<NatT>,
    /// Outer DSCP; tunnel mode, outbound.
    pub dscp: DscpPolicy,
    /// Outer ECN; tunnel mode, outbound.
    pub ecn: EcnPolicy,
    /// Outer don't-fragment bit; tunnel mode, outbound.
    pub df: DfPolicy,
    /// Outer TTL; tunnel mode, outbound.
    pub ttl: TtlPolicy,
    /// Pads inner packets with zeroes to this length, if they are shorter (RFC 4303 §2.7), but not beyond
    /// [`Sa::limit_padding`](crate::Sa::limit_padding); tunnel mode, outbound.
    pub tfc_pad_to_bytes: Option<u16>,
    /// When it expires.
    pub lifetimes: Lifetimes,
    /// What inner packets must match, from the sender's point of view (an inbound selector's source is the peer's side).
    /// None given: any.
    pub selectors: Vec<Selector>,
    /// Inbound: the tunnel that decrypted packets come out of. Outbound: see [`crate::Tunnel::outbound`].
    pub tunnel: TunnelId,
}

impl SaParameters {
    /// An SA with the defaults of everything that has one: tunnel mode, ESN, a window of 1,024.
    pub fn new(
        spi: u32,
        direction: Direction,
        ends: (IpAddr, IpAddr),
        algorithm: Algorithm,
        key: SecretBytes,
    ) -> Self {
        Self {
            name: String::new(),
            spi,
            direction,
            mode: Mode::Tunnel,
            local: ends.0,
            remote: ends.1,
            algorithm,
            key,
            esn: true,
            replay_window: 1024,
            last_sequence: 0,
            nat_t: None,
            dscp: DscpPolicy::default(),
            ecn: EcnPolicy::default(),
            df: DfPolicy::default(),
            ttl: TtlPolicy::default(),
            tfc_pad_to_bytes: None,
            lifetimes: Lifetimes::default(),
            selectors: Vec::new(),
            tunnel: TunnelId(0),
        }
    }

    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// The first field found that cannot be so, alone or with the others.
    pub fn check(&self) -> Result<(), SaError> {
        let refuse = |field, problem| Err(SaError { field, problem });
        // Those from 1 to 255 are reserved for the IANA (RFC 4303 §2.1), but are met with keys that people enter.
        if self.spi == 0 {
            return refuse("spi", "is 0, which is never on a wire");
        }
        if self.local.is_ipv4() != self.remote.is_ipv4() {
            return refuse("remote", "is not of the family of local");
        }
        for (field, address) in [("local", self.local), ("remote", self.remote)] {
            if address.is_unspecified() || address.is_multicast() {
                return refuse(field, "is not the address of a host");
            }
        }
        if self.key.len() != self.algorithm.key_bytes() {
            return refuse("key", "has not the length that the algorithm asks for");
        }
        if !(MIN_REPLAY_WINDOW..=MAX_REPLAY_WINDOW).contains(&self.replay_window) {
            return refuse("replay_window", "is not between 64 and 8192");
        }
        if !self.esn && self.last_sequence > u64::from(u32::MAX) {
            return refuse("last_sequence", "needs extended sequence numbers");
        }
        if self.nat_t.is_some_and(|nat_t| nat_t.local_port == 0 || nat_t.remote_port == 0) {
            return refuse("nat_t", "a port is 0");
        }
        if matches!(self.dscp, DscpPolicy::Set(64..)) {
            return refuse("dscp", "is not between 0 and 63");
        }
        if matches!(self.ttl, TtlPolicy::Set(0)) {
            return refuse("ttl", "is 0");
        }
        self.check_lifetimes()
    }

    fn check_lifetimes(&self) -> Result<(), SaError> {
        let Lifetimes { soft, hard } = self.lifetimes;
        let pairs = [
            ("lifetimes.seconds", soft.seconds, hard.seconds),
            ("lifetimes.bytes", soft.bytes, hard.bytes),
            ("lifetimes.packets", soft.packets, hard.packets),
        ];
        for (field, soft, hard) in pairs {
            if soft == Some(0) || hard == Some(0) {
                return Err(SaError { field, problem: "is 0" });
            }
            if let (Some(soft), Some(hard)) = (soft, hard)
                && soft > hard
            {
                return Err(SaError { field, problem: "the soft one is above the hard one" });
            }
        }
        Ok(())
    }
}

/// An SA is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaError {
    /// The field of [`SaParameters`].
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl fmt::Display for SaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl core::error::Error for SaError {}
