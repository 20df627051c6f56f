//! Keys and prefixes: addresses as integers in host byte order.

use core::{fmt, ops::RangeInclusive};

pub(crate) mod sealed {
    /// How the trie of a family is laid out; known to this crate only.
    pub trait Layout: Sized {
        /// Whether nodes may skip bits that all routes below share.
        const SKIPS: bool;
        /// The first 16 bits.
        fn top(self) -> usize;
        /// The 64 bits of the address that bit `level` lies in; IPv4 fills the upper half of it.
        fn half(self, level: u8) -> u64;
        /// The 8 bits from bit `level`, a multiple of 8.
        fn byte(self, level: u8) -> usize;
        /// The address with all bits after the first `len` set.
        fn last(self, len: u8) -> Self;
    }

    impl Layout for u32 {
        const SKIPS: bool = false;

        #[inline(always)]
        fn top(self) -> usize {
            (self >> 16) as usize
        }

        #[inline(always)]
        fn half(self, _level: u8) -> u64 {
            u64::from(self) << 32
        }

        #[inline(always)]
        fn byte(self, level: u8) -> usize {
            (self >> (24 - u32::from(level)) & 0xff) as usize
        }

        fn last(self, len: u8) -> Self {
            self | u32::MAX.checked_shr(u32::from(len)).unwrap_or(0)
        }
    }

    impl Layout for u128 {
        const SKIPS: bool = true;

        #[inline(always)]
        fn top(self) -> usize {
            (self >> 112) as usize
        }

        #[inline(always)]
        fn half(self, level: u8) -> u64 {
            if level < 64 { (self >> 64) as u64 } else { self as u64 }
        }

        #[inline(always)]
        fn byte(self, level: u8) -> usize {
            (self.half(level) >> (56 - u32::from(level % 64)) & 0xff) as usize
        }

        fn last(self, len: u8) -> Self {
            self | u128::MAX.checked_shr(u32::from(len)).unwrap_or(0)
        }
    }
}

/// An address: `u32` for IPv4 and `u128` for IPv6, in host byte order (the first octet is the most significant).
pub trait Key: sealed::Layout + Copy + Ord + fmt::Debug + Send + Sync + 'static {
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

    /// All prefixes, of whatever length, whose network address shares the first `len` bits with `address`.
    pub(crate) fn range(address: K, len: u8) -> RangeInclusive<Self> {
        Self { address: address.network(len), len: 0 }..=Self { address: address.last(len), len: K::BITS }
    }

    /// The network address.
    #[must_use]
    pub fn address(self) -> K {
        self.address
    }

    /// The last address that lies in this prefix.
    #[must_use]
    pub fn last_address(self) -> K {
        self.address.last(self.len)
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
        assert_eq!(prefix.last_address(), 0x0a01_02ff);
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
