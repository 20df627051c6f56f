//! What tells flows apart.

use crate::entry::Entry;

/// Secret of a table's hash.
#[derive(Clone, Copy)]
pub(crate) struct Secret(pub(crate) [u64; 2]);

impl Secret {
    /// Both halves of a 128-bit product, folded: every input bit reaches every output bit.
    #[inline(always)]
    fn mix(self, a: u64, b: u64) -> u64 {
        let product = u128::from(a ^ self.0[0]) * u128::from(b ^ self.0[1]);
        product as u64 ^ (product >> 64) as u64
    }
}

/// A flow's addresses, ports and protocol: [`V4`] or [`V6`].
pub trait Key: Copy + Eq + Default + core::fmt::Debug + sealed::Sealed {
    /// The entries of a cache line.
    #[doc(hidden)]
    type Ways: AsRef<[Entry<Self>]> + AsMut<[Entry<Self>]> + Clone + Default;
    /// Entries in a cache line.
    #[doc(hidden)]
    const WAYS: usize;
    /// How full a table gets, in per cent of its slots.
    #[doc(hidden)]
    const FULL_PERCENT: usize;
    /// Hash under a secret. The low and the high bits are equally good.
    #[doc(hidden)]
    fn hash(&self, secret: [u64; 2]) -> u64;
    /// True if the keys are equal, found out in few steps.
    #[doc(hidden)]
    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        self.has_ends_of(other) & self.has_protocol_of(other)
    }
    /// True if their addresses and ports are equal.
    #[doc(hidden)]
    fn has_ends_of(&self, other: &Self) -> bool;
    /// True if their protocols are equal.
    #[doc(hidden)]
    fn has_protocol_of(&self, other: &Self) -> bool;
    /// The key of answers that come from where this one's packets go to.
    #[must_use]
    fn reversed(&self) -> Self;
    /// Of it and its reversed key that whose source is the lower end, and whether that is the reversed one.
    #[doc(hidden)]
    fn upward(&self) -> (Self, bool);
    /// True if its destination is the other's source, address and port.
    #[doc(hidden)]
    fn goes_to(&self, other: &Self) -> bool;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::V4 {}
    impl Sealed for super::V6 {}
}

/// An IPv4 flow, as its packets say: addresses in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct V4 {
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// Source port; 0 where there is none, the identifier of an ICMP echo.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Protocol.
    pub protocol: u8,
}

/// An IPv6 flow, as its packets say: addresses in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct V6 {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port; 0 where there is none, the identifier of an ICMPv6 echo.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Protocol: the next header after extensions.
    pub protocol: u8,
}

impl Key for V4 {
    type Ways = [Entry<V4>; 2];
    const WAYS: usize = 2;
    const FULL_PERCENT: usize = 62;

    #[inline(always)]
    fn hash(&self, secret: [u64; 2]) -> u64 {
        let secret = Secret(secret);
        let addresses = self.addresses();
        let mixed = secret.mix(addresses, tail(self.source_port, self.destination_port, self.protocol));
        secret.mix(mixed, addresses)
    }

    #[inline(always)]
    fn has_ends_of(&self, other: &Self) -> bool {
        (self.addresses() ^ other.addresses()) | u64::from(self.ports() ^ other.ports()) == 0
    }

    #[inline(always)]
    fn has_protocol_of(&self, other: &Self) -> bool {
        self.protocol == other.protocol
    }

    #[inline(always)]
    fn reversed(&self) -> Self {
        V4 {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    #[inline(always)]
    fn upward(&self) -> (Self, bool) {
        // In words, without a branch: which end is the lower one would be guessed wrong.
        let (addresses, ports) = (self.addresses(), self.ports());
        let (other_addresses, other_ports) = (addresses.rotate_left(32), ports.rotate_left(16));
        let is_down =
            (addresses > other_addresses) | ((addresses == other_addresses) & (ports > other_ports));
        let addresses = if is_down { other_addresses } else { addresses };
        let ports = if is_down { other_ports } else { ports };
        let key = V4 {
            source: (addresses as u32).to_ne_bytes(),
            destination: ((addresses >> 32) as u32).to_ne_bytes(),
            source_port: ports as u16,
            destination_port: (ports >> 16) as u16,
            protocol: self.protocol,
        };
        (key, is_down)
    }

    #[inline(always)]
    fn goes_to(&self, other: &Self) -> bool {
        (self.destination, self.destination_port) == (other.source, other.source_port)
    }
}

impl V4 {
    #[inline(always)]
    fn addresses(&self) -> u64 {
        u64::from(u32::from_ne_bytes(self.source)) | u64::from(u32::from_ne_bytes(self.destination)) << 32
    }

    #[inline(always)]
    fn ports(&self) -> u32 {
        u32::from(self.source_port) | u32::from(self.destination_port) << 16
    }
}

impl Key for V6 {
    type Ways = [Entry<V6>; 1];
    const WAYS: usize = 1;
    const FULL_PERCENT: usize = 70;

    #[inline(always)]
    fn hash(&self, secret: [u64; 2]) -> u64 {
        let secret = Secret(secret);
        let halves = |address: [u8; 16]| {
            let bits = u128::from_ne_bytes(address);
            (bits as u64, (bits >> 64) as u64)
        };
        let ((a, b), (c, d)) = (halves(self.source), halves(self.destination));
        let addresses = secret.mix(a, b).rotate_left(32) ^ secret.mix(c, d);
        let mixed = secret.mix(addresses, tail(self.source_port, self.destination_port, self.protocol));
        secret.mix(mixed, addresses)
    }

    #[inline(always)]
    fn has_ends_of(&self, other: &Self) -> bool {
        let addresses = (u128::from_ne_bytes(self.source) ^ u128::from_ne_bytes(other.source))
            | (u128::from_ne_bytes(self.destination) ^ u128::from_ne_bytes(other.destination));
        let ports = (self.source_port ^ other.source_port) | (self.destination_port ^ other.destination_port);
        addresses | u128::from(ports) == 0
    }

    #[inline(always)]
    fn has_protocol_of(&self, other: &Self) -> bool {
        self.protocol == other.protocol
    }

    #[inline(always)]
    fn reversed(&self) -> Self {
        V6 {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    #[inline(always)]
    fn upward(&self) -> (Self, bool) {
        let (from, to) = (u128::from_ne_bytes(self.source), u128::from_ne_bytes(self.destination));
        let is_down = (from > to) | ((from == to) & (self.source_port > self.destination_port));
        let addresses = (from ^ to) & u128::from(is_down).wrapping_neg();
        let ports = (self.source_port ^ self.destination_port) & u16::from(is_down).wrapping_neg();
        let key = V6 {
            source: (from ^ addresses).to_ne_bytes(),
            destination: (to ^ addresses).to_ne_bytes(),
            source_port: self.source_port ^ ports,
            destination_port: self.destination_port ^ ports,
            protocol: self.protocol,
        };
        (key, is_down)
    }

    #[inline(always)]
    fn goes_to(&self, other: &Self) -> bool {
        (self.destination, self.destination_port) == (other.source, other.source_port)
    }
}

/// What is searched for in a table, and where that begins: the same for both directions of a flow, save for which it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Home<K> {
    pub(crate) hash: u64,
    /// From the lower end to the upper one.
    pub(crate) key: K,
    /// The packets come from the upper end.
    pub(crate) is_down: bool,
}

impl<K: Key> Home<K> {
    #[inline(always)]
    pub(crate) fn new(key: &K, secret: [u64; 2]) -> Self {
        let (key, is_down) = key.upward();
        Home { hash: key.hash(secret), key, is_down }
    }

    /// The hash of the key, which is this table's own.
    #[inline(always)]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The key of the packets.
    #[inline(always)]
    pub fn key(&self) -> K {
        if self.is_down { self.key.reversed() } else { self.key }
    }

    /// The same of packets that come from where these go to; the very same if that is where these come from.
    #[inline(always)]
    pub(crate) fn turned(&self) -> Self {
        Home { is_down: !self.is_down & !self.key.goes_to(&self.key), ..*self }
    }

    #[inline(always)]
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.key.is(&other.key) & (self.is_down == other.is_down)
    }
}

#[inline(always)]
fn tail(source_port: u16, destination_port: u16, protocol: u8) -> u64 {
    u64::from(source_port) | u64::from(destination_port) << 16 | u64::from(protocol) << 32
}
