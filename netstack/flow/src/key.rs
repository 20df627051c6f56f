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
    fn is(&self, other: &Self) -> bool;
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
    const FULL_PERCENT: usize = 55;

    #[inline(always)]
    fn hash(&self, secret: [u64; 2]) -> u64 {
        let secret = Secret(secret);
        let addresses = self.addresses();
        let mixed = secret.mix(addresses, tail(self.source_port, self.destination_port, self.protocol));
        secret.mix(mixed, addresses)
    }

    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        let tails = tail(self.source_port, self.destination_port, self.protocol)
            ^ tail(other.source_port, other.destination_port, other.protocol);
        (self.addresses() ^ other.addresses()) | tails == 0
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
    fn is(&self, other: &Self) -> bool {
        let addresses = (u128::from_ne_bytes(self.source) ^ u128::from_ne_bytes(other.source))
            | (u128::from_ne_bytes(self.destination) ^ u128::from_ne_bytes(other.destination));
        let tails = tail(self.source_port, self.destination_port, self.protocol)
            ^ tail(other.source_port, other.destination_port, other.protocol);
        addresses | u128::from(tails) == 0
    }

    #[inline(always)]
    fn goes_to(&self, other: &Self) -> bool {
        (self.destination, self.destination_port) == (other.source, other.source_port)
    }
}

#[inline(always)]
fn tail(source_port: u16, destination_port: u16, protocol: u8) -> u64 {
    u64::from(source_port) | u64::from(destination_port) << 16 | u64::from(protocol) << 32
}
