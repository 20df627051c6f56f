//! The key of an SA, made ready for its algorithm.

use crate::{Algorithm, SaError};
use aes::Aes128Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use alloc::boxed::Box;
use buffer::prefetch_read_at;
use crypto::{cbc_hmac, chacha, gcm};

/// Bytes of salt in the keying material of an AEAD (RFC 4106 §8.1, RFC 7634 §2).
const SALT_BYTES: usize = 4;

/// A key made ready. AES-GCM's is in place, as its packets are what must be fast.
#[expect(clippy::large_enum_variant, reason = "an SA is never moved once it is shared")]
pub(crate) enum Cipher {
    /// AES-GCM.
    Gcm(gcm::Key),
    /// ChaCha20-Poly1305.
    ChaCha(Box<chacha::Key>),
    /// AES-CBC with HMAC.
    Cbc(Box<Cbc>),
}

// Which one it is, is told by the number of rounds, a line that packets need anyway.
const _: () = assert!(size_of::<Cipher>() == size_of::<gcm::Key>());

/// AES-CBC with HMAC, and what makes its IVs.
pub(crate) struct Cbc {
    pub(crate) key: cbc_hmac::Key,
    iv_key: Aes128Enc,
}

impl Cbc {
    /// An IV that nobody can predict, as RFC 3602 §2 asks: a number that is used once, encrypted under a key of its own.
    pub(crate) fn iv(&self, number: u64) -> [u8; cbc_hmac::BLOCK_BYTES] {
        let mut block = aes::Block::from(u128::from(number).to_be_bytes());
        self.iv_key.encrypt_block(&mut block);
        block.into()
    }
}

impl Cipher {
    /// Asks for the line that says which one it is.
    #[inline(always)]
    pub(crate) fn prefetch_kind(&self) {
        prefetch_read_at(self, gcm::Key::ROUNDS_AT);
    }

    /// Asks for what of the key a packet of `bytes` needs.
    #[inline(always)]
    pub(crate) fn prefetch(&self, bytes: usize) {
        if let Self::Gcm(key) = self {
            key.prefetch(bytes);
        }
    }

    /// Makes keying material ready; returns the salt as well.
    pub(crate) fn new(
        algorithm: Algorithm,
        material: &[u8],
        iv_key: &[u8; 16],
    ) -> Result<(Self, [u8; SALT_BYTES]), SaError> {
        const REFUSED: SaError =
            SaError { field: "key", problem: "has not the length that the algorithm asks for" };
        if material.len() != algorithm.key_bytes() {
            return Err(REFUSED);
        }
        let (key, salt) = material.split_last_chunk::<SALT_BYTES>().ok_or(REFUSED)?;
        let cbc = |cipher_bytes: usize, hash| {
            let (cipher, authentication) = material.split_at_checked(cipher_bytes).ok_or(REFUSED)?;
            let key = cbc_hmac::Key::new(cipher, hash, authentication).map_err(|_| REFUSED)?;
            let cbc = Cbc { key, iv_key: Aes128Enc::new(iv_key.into()) };
            Ok((Self::Cbc(Box::new(cbc)), [0; SALT_BYTES]))
        };
        match algorithm {
            Algorithm::Aes128Gcm | Algorithm::Aes256Gcm => {
                Ok((Self::Gcm(gcm::Key::new(key).map_err(|_| REFUSED)?), *salt))
            }
            Algorithm::ChaCha20Poly1305 => {
                let key = key.first_chunk().ok_or(REFUSED)?;
                Ok((Self::ChaCha(Box::new(chacha::Key::new(key))), *salt))
            }
            Algorithm::Aes128CbcHmac(hash) => cbc(16, hash),
            Algorithm::Aes256CbcHmac(hash) => cbc(32, hash),
        }
    }
}
