//! AES-CBC with HMAC-SHA2, encrypt-then-MAC, as ESP combines them (RFC 3602, RFC 4868, RFC 4303 section 3.3.2).
//!
//! Not an [`Aead`](crate::Aead): the MAC covers header, IV, ciphertext and, behind them, the high half of an extended sequence
//! number; the ICV's length depends on the hash; and the text is whole blocks. The work is done by the crates
//! `aes`, `cbc`, `hmac` and `sha2`, which use AES-NI and SHA-NI where CPUID has them. A packet is sealed in one chain
//! of AES, so this is for peers that offer nothing better.

use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};
use aes::{Aes128, Aes256, Block};
use core::fmt;
use hmac::{Hmac, Mac};
use sha2::{Sha256, Sha384, Sha512};

/// Bytes of an IV, and what a text is a multiple of.
pub const BLOCK_BYTES: usize = 16;

/// The hash function: its key has as many bytes as its output, of which the ICV is half (RFC 4868, 2.1 and 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// HMAC-SHA-256-128.
    Sha256,
    /// HMAC-SHA-384-192.
    Sha384,
    /// HMAC-SHA-512-256.
    Sha512,
}

impl Hash {
    /// Bytes of the authentication key.
    #[must_use]
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Bytes of the ICV.
    #[must_use]
    pub const fn icv_bytes(self) -> usize {
        self.key_bytes() / 2
    }
}

/// A key does not have the length that its algorithm asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyLengthError {
    /// An AES key has 16 or 32 bytes.
    Cipher {
        /// How many it had.
        bytes: usize,
    },
    /// An authentication key has [`Hash::key_bytes`].
    Authentication {
        /// How many it had.
        bytes: usize,
        /// The algorithm.
        hash: Hash,
    },
}

impl fmt::Display for KeyLengthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cipher { bytes } => write!(f, "an AES key has 16 or 32 bytes, this one has {bytes}"),
            Self::Authentication { bytes, hash } => {
                write!(
                    f,
                    "a {hash:?} authentication key has {} bytes, this one has {bytes}",
                    hash.key_bytes()
                )
            }
        }
    }
}

impl core::error::Error for KeyLengthError {}

enum Cipher {
    Aes128(Aes128),
    Aes256(Aes256),
}

/// The states after the inner and the outer padded key.
enum Authenticator {
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
}

/// Both keys of a security association. The crates clear them when they are dropped.
pub struct Key {
    cipher: Cipher,
    authenticator: Authenticator,
}

impl Key {
    /// Makes the keys ready.
    ///
    /// # Errors
    /// One of them is too short or too long.
    pub fn new(cipher: &[u8], hash: Hash, authentication: &[u8]) -> Result<Self, KeyLengthError> {
        let wrong = |_| KeyLengthError::Cipher { bytes: cipher.len() };
        let cipher = match cipher.len() {
            16 => Cipher::Aes128(Aes128::new_from_slice(cipher).map_err(wrong)?),
            _ => Cipher::Aes256(Aes256::new_from_slice(cipher).map_err(wrong)?),
        };
        let error = KeyLengthError::Authentication { bytes: authentication.len(), hash };
        if authentication.len() != hash.key_bytes() {
            return Err(error);
        }
        let authenticator = match hash {
            Hash::Sha256 => {
                Authenticator::Sha256(KeyInit::new_from_slice(authentication).map_err(|_| error)?)
            }
            Hash::Sha384 => {
                Authenticator::Sha384(KeyInit::new_from_slice(authentication).map_err(|_| error)?)
            }
            Hash::Sha512 => {
                Authenticator::Sha512(KeyInit::new_from_slice(authentication).map_err(|_| error)?)
            }
        };
        Ok(Self { cipher, authenticator })
    }

    /// The hash function.
    #[must_use]
    pub fn hash(&self) -> Hash {
        match self.authenticator {
            Authenticator::Sha256(_) => Hash::Sha256,
            Authenticator::Sha384(_) => Hash::Sha384,
            Authenticator::Sha512(_) => Hash::Sha512,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("hash", &self.hash()).finish_non_exhaustive()
    }
}

/// One packet to seal or to open in place.
pub struct Job<'a> {
    key: &'a Key,
    header: &'a [u8],
    iv: &'a [u8; BLOCK_BYTES],
    text: &'a mut [Block],
    trailer: &'a [u8],
    icv: &'a mut [u8],
    authentic: bool,
}

impl<'a> Job<'a> {
    /// A job. `header` is SPI and sequence number, `iv` (unpredictable, RFC 3602 section 2) follows it on the wire;
    /// `trailer` is the high half of an extended sequence number, which is not on the wire, or empty.
    ///
    /// None: the text is not whole blocks, or the ICV has not the length that the hash asks for. Such a packet is
    /// malformed.
    #[must_use]
    pub fn new(
        key: &'a Key,
        header: &'a [u8],
        iv: &'a [u8; BLOCK_BYTES],
        text: &'a mut [u8],
        trailer: &'a [u8],
        icv: &'a mut [u8],
    ) -> Option<Self> {
        let (text, rest) = Block::slice_as_chunks_mut(text);
        let fits = rest.is_empty() && icv.len() == key.hash().icv_bytes();
        fits.then_some(Self { key, header, iv, text, trailer, icv, authentic: false })
    }

    /// Whether [`open`] found the ICV to be right. False before, and false for a sealed job.
    #[must_use]
    pub fn is_authentic(&self) -> bool {
        self.authentic
    }

    /// Hands the MAC of the packet to `take`.
    fn mac<M: Mac + Clone, T>(&mut self, key: &M, take: impl FnOnce(M, &mut [u8]) -> T) -> T {
        let mut mac = key.clone();
        mac.update(self.header);
        mac.update(self.iv);
        mac.update(Block::slice_as_flattened(self.text));
        mac.update(self.trailer);
        take(mac, self.icv)
    }

    fn write_icv(&mut self) {
        fn write(mac: impl Mac, icv: &mut [u8]) {
            let tag = mac.finalize().into_bytes();
            icv.iter_mut().zip(tag).for_each(|(icv, byte)| *icv = byte);
        }
        match &self.key.authenticator {
            Authenticator::Sha256(key) => self.mac(key, write),
            Authenticator::Sha384(key) => self.mac(key, write),
            Authenticator::Sha512(key) => self.mac(key, write),
        }
    }

    /// In constant time: the crate compares all bytes.
    fn verify_icv(&mut self) -> bool {
        fn verify(mac: impl Mac, icv: &mut [u8]) -> bool {
            mac.verify_truncated_left(icv).is_ok()
        }
        match &self.key.authenticator {
            Authenticator::Sha256(key) => self.mac(key, verify),
            Authenticator::Sha384(key) => self.mac(key, verify),
            Authenticator::Sha512(key) => self.mac(key, verify),
        }
    }
}

/// Encrypts each text in place and writes its ICV.
pub fn seal(jobs: &mut [Job<'_>]) {
    for job in jobs {
        let iv = job.iv.into();
        match &job.key.cipher {
            Cipher::Aes128(aes) => cbc::Encryptor::inner_iv_init(aes, iv).encrypt_blocks(job.text),
            Cipher::Aes256(aes) => cbc::Encryptor::inner_iv_init(aes, iv).encrypt_blocks(job.text),
        }
        job.write_icv();
    }
}

/// Verifies each ICV, then decrypts the text in place; returns how many were rejected. The text of a rejected job
/// is all zero.
#[must_use = "rejected packets are to be dropped"]
pub fn open(jobs: &mut [Job<'_>]) -> usize {
    let mut rejected = 0;
    for job in jobs {
        job.authentic = job.verify_icv();
        let iv = job.iv.into();
        match (&job.key.cipher, job.authentic) {
            (Cipher::Aes128(aes), true) => cbc::Decryptor::inner_iv_init(aes, iv).decrypt_blocks(job.text),
            (Cipher::Aes256(aes), true) => cbc::Decryptor::inner_iv_init(aes, iv).decrypt_blocks(job.text),
            (_, false) => {
                job.text.fill(Block::default());
                rejected += 1;
            }
        }
    }
    rejected
}
