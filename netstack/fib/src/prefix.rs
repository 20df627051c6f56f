//! Keys and prefixes: addresses as integers in host byte order.

use core::fmt;

mod sealed {
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u128 {}
}

/// An address: `u32` for IPv4 and `u128` for IPv6, in host byte order (the first octet is the most significant).
pub trait Key: sealed::Sealed + Copy + Ord + fmt::Debug + Send + Sync + 'static {
    /// Number of bits of an address.
    const BITS: u8;

    /// The address with all bits after the first `len` cleared; `len` above [`Key::BITS`] counts as `BITS`.
    #[must_use]
    fn network(self, len: u8) -> Self;
}

impl Key for u32 {
    const BITS: u8 = 32;

    fn network(self, len: u8) -> Self {
        self & u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0)
    }
}

impl Key for u128 {
    const BITS: u8 = 128;

    fn network(self, len: u8) -> Self {
        self & u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
    }
}

/// An address prefix whose host bits are zero. Ordered by address, then by length: a prefix precedes what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix<K> {
    address: K,
    len: u8,
}

impl<K: Key> Prefix<K> {
    /// The prefix of the first `len` bits of `address`; `None` if an address has fewer bits. Host bits are cleared.
    #[must_use]
    pub fn new(address: K, len: u8) -> Option<Self> {
        (len <= K::BITS).then(|| Self { address: address.network(len), len })
    }

    /// The network address.
    #[must_use]
    pub fn address(self) -> K {
        self.address
    }

    /// Length in bits.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "the length of a prefix is not a number of elements")]
    pub fn len(self) -> u8 {
        self.len
    }

    /// Whether `address` lies in this prefix.
    #[must_use]
    pub fn contains(self, address: K) -> bool {
        address.network(self.len) == self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared_and_lengths_checked() {
        let prefix = Prefix::new(0x0a01_0203u32, 24).unwrap();
        assert_eq!((prefix.address(), prefix.len()), (0x0a01_0200, 24));
        assert!(prefix.contains(0x0a01_02ff) && !prefix.contains(0x0a01_0300));
        assert_eq!(Prefix::new(u32::MAX, 0).unwrap().address(), 0);
        assert_eq!(Prefix::new(u128::MAX, 0).unwrap().address(), 0);
        assert_eq!(Prefix::new(7u128, 128).unwrap().address(), 7);
        assert!(Prefix::new(0u32, 33).is_none() && Prefix::new(0u128, 129).is_none());
    }

    #[test]
    fn a_prefix_precedes_what_it_covers() {
        let wide = Prefix::new(0x0a00_0000u32, 8).unwrap();
        let narrow = Prefix::new(0x0a00_0000u32, 24).unwrap();
        assert!(wide < narrow && narrow < Prefix::new(0x0b00_0000u32, 8).unwrap());
    }
}
