//! AES-CBC with HMAC-SHA2, encrypt-then-MAC, as ESP combines them (RFC 3602, RFC 4868, RFC 4303 section 3.3.2).
//!
//! Not an [`Aead`](crate::Aead): the MAC covers header, IV, ciphertext and, behind them, the high half of an extended sequence
//! number; the ICV's length depends on the hash; and the text is whole blocks.
//!
//! Both halves are chains in which every block waits for the one before, so that a packet alone leaves most of the machine
//! idle. Kernels work on several packets side by side instead: AES on eight (`encrypt`), the hash on 16 or 8 (`hash`).
//! Decryption is no chain, and works on eight blocks of a packet (`decrypt`).

mod constants;
mod decrypt;
mod encrypt;
mod hash;
mod portable;
mod sha2_512;

use crate::cpu::Features;
use crate::gcm;
use crate::schedule::Schedule;
use aes::Block;
use core::fmt;
use hash::{Authenticator, MAX_DIGEST_BYTES};

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

/// Both keys of a security association. They are cleared when they are dropped.
pub struct Key {
    cipher: Schedule,
    authenticator: Authenticator,
    hash: Hash,
}

impl Key {
    /// Makes the keys ready.
    ///
    /// # Errors
    /// One of them is too short or too long.
    pub fn new(cipher: &[u8], hash: Hash, authentication: &[u8]) -> Result<Self, KeyLengthError> {
        let error = KeyLengthError::Cipher { bytes: cipher.len() };
        let schedule = Schedule::new(cipher).ok_or(error)?;
        if authentication.len() != hash.key_bytes() {
            return Err(KeyLengthError::Authentication { bytes: authentication.len(), hash });
        }
        let authenticator = Authenticator::new(hash, authentication);
        Ok(Self { cipher: schedule, authenticator, hash })
    }

    /// The hash function.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        match &mut self.authenticator {
            Authenticator::Sha256(key) => key.clear(),
            Authenticator::Sha512(key) => key.clear(),
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

    /// Whether [`CbcHmac::open`] found the ICV to be right. False before, and false for a sealed job.
    #[must_use]
    pub fn is_authentic(&self) -> bool {
        self.authentic
    }
}

/// An implementation of AES-CBC with HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// The crates `aes`, `cbc` and `sha2`, on any CPU, packet by packet.
    Portable,
    /// Eight packets encrypted side by side; hashes packet by packet, by SHA-NI where there is any.
    AesNi,
    /// The same with 16 or 8 packets hashed side by side.
    Avx512,
}

impl Kernel {
    /// All of them, the best last.
    pub const ALL: [Self; 3] = [Self::Portable, Self::AesNi, Self::Avx512];

    /// Its name in status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::AesNi => "aesni",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether a CPU with these features runs it.
    #[must_use]
    pub fn runs_on(self, cpu: &Features) -> bool {
        match self {
            Self::Portable => true,
            Self::AesNi => cpu.aes_clmul,
            Self::Avx512 => cpu.aes_clmul && cpu.avx512,
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Jobs below which lanes of a register would be mostly idle: one packet after the other is as quick.
const WORTH_LANES: usize = 4;

/// AES-CBC with HMAC by a kernel that this CPU runs.
#[derive(Clone, Copy, Debug)]
pub struct CbcHmac {
    /// Checked against the CPU when it was chosen: what calls kernels rests on it.
    kernel: Kernel,
}

impl CbcHmac {
    /// The best kernel for this CPU.
    #[must_use]
    pub fn best() -> Self {
        Self::up_to(Kernel::Avx512)
    }

    /// That kernel, if this CPU runs it.
    #[must_use]
    pub fn with_kernel(kernel: Kernel) -> Option<Self> {
        kernel.runs_on(&Features::detect()).then_some(Self { kernel })
    }

    /// The best kernel whose registers are no wider than those of that kernel of AES-GCM.
    #[must_use]
    pub fn beside(gcm: gcm::Kernel) -> Self {
        Self::up_to(match gcm {
            gcm::Kernel::Portable => Kernel::Portable,
            gcm::Kernel::AesNi | gcm::Kernel::Vaes256Pclmul | gcm::Kernel::Vaes256 => Kernel::AesNi,
            gcm::Kernel::Vaes512 => Kernel::Avx512,
        })
    }

    fn up_to(most: Kernel) -> Self {
        let cpu = Features::detect();
        let kernel = Kernel::ALL.into_iter().rev().find(|kernel| *kernel <= most && kernel.runs_on(&cpu));
        Self { kernel: kernel.unwrap_or(Kernel::Portable) }
    }

    /// The kernel in use.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Encrypts each text in place and writes its ICV.
    pub fn seal(&self, jobs: &mut [Job<'_>]) {
        if self.kernel == Kernel::Portable {
            jobs.iter_mut().for_each(portable::encrypt);
        } else {
            // SAFETY: a kernel was chosen only if this CPU runs it, and all cores of a machine are alike.
            unsafe { encrypt::all(jobs) };
        }
        for jobs in jobs.chunks_mut(MAC_JOBS) {
            let digests = self.digests(jobs);
            for (job, digest) in jobs.iter_mut().zip(&digests) {
                job.icv.iter_mut().zip(digest).for_each(|(icv, byte)| *icv = *byte);
            }
        }
    }

    /// Verifies each ICV, then decrypts the text in place; returns how many were rejected. The text of a rejected job
    /// is all zero.
    #[must_use = "rejected packets are to be dropped"]
    pub fn open(&self, jobs: &mut [Job<'_>]) -> usize {
        let mut rejected = 0;
        for jobs in jobs.chunks_mut(MAC_JOBS) {
            let digests = self.digests(jobs);
            for (job, digest) in jobs.iter_mut().zip(&digests) {
                job.authentic = is_prefix(job.icv, digest);
                if job.authentic {
                    self.decrypt(job);
                } else {
                    job.text.fill(Block::default());
                    rejected += 1;
                }
            }
        }
        rejected
    }

    fn decrypt(&self, job: &mut Job<'_>) {
        if self.kernel == Kernel::Portable {
            portable::decrypt(job);
        } else {
            // SAFETY: a kernel was chosen only if this CPU runs it, and all cores of a machine are alike.
            unsafe { decrypt::one(job) };
        }
    }

    fn digests(&self, jobs: &[Job<'_>]) -> [[u8; MAX_DIGEST_BYTES]; MAC_JOBS] {
        let mut digests = [[0; MAX_DIGEST_BYTES]; MAC_JOBS];
        let wide = self.kernel == Kernel::Avx512 && jobs.len() >= WORTH_LANES;
        // SAFETY: a kernel was chosen only if this CPU runs it, and all cores of a machine are alike.
        unsafe { hash::macs(jobs, wide, |place, digest| digests[place] = *digest) };
        digests
    }
}

/// Packets whose digests are kept at a time.
const MAC_JOBS: usize = 64;

/// Whether an ICV is how the digest begins, in a time that does not depend on where they differ.
fn is_prefix(icv: &[u8], digest: &[u8; MAX_DIGEST_BYTES]) -> bool {
    let difference = icv.iter().zip(digest).fold(0, |difference, (a, b)| difference | (a ^ b));
    core::hint::black_box(difference) == 0
}
