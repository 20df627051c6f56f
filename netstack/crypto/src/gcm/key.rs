//! An AES-GCM key made ready: the AES key schedule and powers of the hash key.

use crate::cpu::vaes_is_wrong;
use crate::schedule::{ROUND_KEYS, expand};
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aes::{Aes128Enc, Aes256Enc, Block};
use core::fmt;
use zeroize::Zeroize;

/// How many powers of the hash key a [`Key`] holds, and so how many blocks share one reduction.
pub(super) const POWERS: usize = 16;

/// Those of AES-128 but the last, which is in the same line.
const ROUND_KEYS_128: usize = 10;

/// A key of AES-128-GCM or AES-256-GCM, 512 bytes.
///
/// The order makes short packets cheap when there are thousands of keys: a 64-byte packet under AES-128
/// needs the powers from H^8 down, the number of rounds and eleven round keys, which are five cache lines
/// in a row.
///
/// It clears itself when it is dropped. A move leaves its bytes behind, so make it where it stays.
#[repr(C, align(64))]
pub struct Key {
    /// H^16, H^15, ..., H^1, each divided by x, as little-endian numbers. See [the module](super).
    pub(super) powers: [u128; POWERS],
    /// It takes two values, so that what may be a key or something else needs no word more to say which.
    pub(super) rounds: Rounds,
    unused: [u8; 12],
    pub(super) round_keys: [[u8; 16]; ROUND_KEYS],
}

/// Rounds of AES.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounds {
    /// Of AES-128.
    Ten = 10,
    /// Of AES-256.
    Fourteen = 14,
}

const _: () = assert!(size_of::<Key>() == 512);
const _: () = assert!(core::mem::offset_of!(Key, round_keys) == 272);

/// A key was neither 16 nor 32 bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLengthError {
    /// How many bytes it had.
    pub bytes: usize,
}

impl fmt::Display for KeyLengthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an AES key has 16 or 32 bytes, this one has {}", self.bytes)
    }
}

impl core::error::Error for KeyLengthError {}

impl Key {
    /// Makes a key ready, in microseconds. `bytes` is the cipher key alone: the salt of RFC 4106 is part of
    /// the nonce.
    ///
    /// # Errors
    /// `bytes` is neither 16 nor 32 bytes long. (RFC 8221 says MAY of AES-192; nobody asks for it.)
    pub fn new(bytes: &[u8]) -> Result<Self, KeyLengthError> {
        let rounds = match bytes.len() {
            16 => Rounds::Ten,
            32 => Rounds::Fourteen,
            bytes => return Err(KeyLengthError { bytes }),
        };
        let mut key = Self { powers: [0; 16], rounds, unused: [0; 12], round_keys: [[0; 16]; ROUND_KEYS] };
        expand(bytes, &mut key.round_keys);
        let mut hash_key = key.encrypt_block([0; 16]);
        // Bit 127 of the number is the coefficient of x^0 (SP 800-38D, 6.3).
        let mut h = u128::from_be_bytes(hash_key);
        let mut power = h;
        for slot in key.powers.iter_mut().rev() {
            *slot = divide_by_x(power);
            power = multiply(power, h);
        }
        hash_key.zeroize();
        h.zeroize();
        power.zeroize();
        Ok(key)
    }

    /// Where the number of rounds is, in bytes.
    pub const ROUNDS_AT: usize = core::mem::offset_of!(Key, rounds);

    /// Asks for the lines that a text of `bytes` needs. Kernels ask too, but only a few packets ahead.
    #[inline(always)]
    pub fn prefetch(&self, bytes: usize) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // A line has four powers, and four blocks of text need one more power than that.
        let first = (POWERS / 4).saturating_sub(bytes / 64 + 1);
        let last = (core::mem::offset_of!(Key, round_keys) + 16 * ROUND_KEYS_128) / 64;
        for line in first..=last {
            // SAFETY: prefetching is allowed anywhere, and this is within the key.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(self).cast::<i8>().add(64 * line)) };
        }
    }

    /// The cipher key: a schedule begins with it.
    pub(super) fn cipher(&self) -> Cipher {
        let bytes = self.round_keys.as_flattened();
        if self.rounds == Rounds::Ten {
            Cipher::Aes128(Aes128Enc::new(&Array::from(
                bytes.first_chunk::<16>().copied().unwrap_or_default(),
            )))
        } else {
            Cipher::Aes256(Aes256Enc::new(&Array::from(
                bytes.first_chunk::<32>().copied().unwrap_or_default(),
            )))
        }
    }

    fn encrypt_block(&self, block: [u8; 16]) -> [u8; 16] {
        let mut block = Block::from(block);
        self.cipher().encrypt_blocks(core::slice::from_mut(&mut block));
        block.into()
    }
}

/// The library's AES for a key of either length.
pub(super) enum Cipher {
    /// AES-128.
    Aes128(Aes128Enc),
    /// AES-256.
    Aes256(Aes256Enc),
}

impl Cipher {
    pub(super) fn encrypt_blocks(&self, blocks: &mut [Block]) {
        if blocks.len() > 1 && vaes_is_wrong() {
            return blocks.chunks_mut(1).for_each(|block| self.encrypt_blocks(block));
        }
        match self {
            Self::Aes128(aes) => aes.encrypt_blocks(blocks),
            Self::Aes256(aes) => aes.encrypt_blocks(blocks),
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.powers.zeroize();
        self.round_keys.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

/// The product in GF(2^128) of two numbers whose bit 127 is the coefficient of x^0, in constant time
/// (SP 800-38D, algorithm 1).
fn multiply(a: u128, mut b: u128) -> u128 {
    let mut product = 0;
    for i in (0..128).rev() {
        product ^= b & ((a >> i) & 1).wrapping_neg();
        b = (b >> 1) ^ ((b & 1).wrapping_neg() & (0xe1 << 120));
    }
    product
}

/// `a / x`: one shift towards x^0, and as x * (x^127 + x^6 + x + 1) = 1, that much if x^0 was set.
fn divide_by_x(a: u128) -> u128 {
    (a << 1) ^ ((a >> 127).wrapping_neg() & (0xc2 << 120 | 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197, appendix A.1 and A.3: the last round keys.
    #[test]
    fn schedules_are_those_of_fips_197() {
        let key = Key::new(&0x2b7e1516_28aed2a6_abf71588_09cf4f3c_u128.to_be_bytes()).unwrap();
        assert_eq!(u128::from_be_bytes(key.round_keys[10]), 0xd014f9a8_c9ee2589_e13f0cc8_b6630ca6);
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&0x603deb10_15ca71be_2b73aef0_857d7781_u128.to_be_bytes());
        bytes[16..].copy_from_slice(&0x1f352c07_3b6108d7_2d9810a3_0914dff4_u128.to_be_bytes());
        let key = Key::new(&bytes).unwrap();
        assert_eq!(u128::from_be_bytes(key.round_keys[14]), 0xfe4890d1_e6188d0b_046df344_706c631e);
    }

    #[test]
    fn other_lengths_are_refused() {
        for bytes in [0, 15, 17, 24, 31, 33] {
            assert_eq!(Key::new(&[0; 33][..bytes]).unwrap_err(), KeyLengthError { bytes });
        }
    }

    #[test]
    fn one_is_the_neutral_element_and_x_divides() {
        let (one, x) = (1 << 127, 1 << 126);
        let a = 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978;
        assert_eq!(multiply(a, one), a);
        assert_eq!(divide_by_x(multiply(a, x)), a);
        assert_eq!(multiply(divide_by_x(a), x), a);
    }
}
