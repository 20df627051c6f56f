//! ChaCha20-Poly1305 (RFC 8439), as ESP uses it (RFC 7634).
//!
//! # Why the kernels are laid out as they are
//!
//! **Lanes are not bound to a packet.** The cipher is a block function of key, counter and nonce, so a register that holds
//! word i of 16 blocks does not care whose blocks they are: the blocks of a batch of packets are dealt to lanes as they come
//! (`stream`), the first block of each packet, which is its one-time key, among them. Short packets fill registers as well
//! as long ones.
//!
//! **Poly1305 takes eight packets at a time**, one in each lane of a register (`poly512`). A lane waits for its own
//! multiplication only, and no powers of a key are needed, which live for one packet and so would be computed for each.
//! Packets end in the same step: a shorter one begins later, and until then its lane adds and multiplies zero.
//!
//! # Time and secrets
//!
//! Branches and addresses depend on lengths and on whether a tag was right; never on a byte of key, text or hash.

mod poly;
mod poly512;
mod portable;
mod stream;
mod words;
mod words256;
mod words512;

use crate::aead::{Aead, Job, TAG_BYTES, tags_equal};
use crate::cpu::Features;
use crate::gcm;
use core::fmt;
use poly::OneTimeKey;
use zeroize::Zeroize;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Packets that are worked on together: while Poly1305 reads their text it is still in the first-level cache.
const GROUP: usize = 16;

/// A key, as the first block of its cipher begins: 64 bytes. It clears itself when it is dropped. A move leaves its bytes
/// behind, so make it where it stays.
#[repr(C, align(64))]
pub struct Key {
    /// Constants, key, and zeroes where counter and nonce go (RFC 8439, 2.3).
    block: [u8; 64],
}

const _: () = assert!(size_of::<Key>() == 64);

impl Key {
    /// The cipher key alone: the salt of RFC 7634 is part of the nonce.
    #[must_use]
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        let mut block = [0; 64];
        block[..16].copy_from_slice(b"expand 32-byte k");
        block[16..48].copy_from_slice(bytes);
        Self { block }
    }

    fn bytes(&self) -> [u8; KEY_BYTES] {
        core::array::from_fn(|i| self.block[16 + i])
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.block.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// An implementation of ChaCha20-Poly1305.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// The crate `chacha20poly1305`, on any CPU.
    Portable,
    /// AVX2: eight blocks at a time; Poly1305 in general registers.
    Avx2,
    /// AVX-512 with IFMA: sixteen blocks at a time, Poly1305 of sixteen packets at a time.
    Avx512,
}

impl Kernel {
    /// All of them, the best last.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Its name in status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether a CPU with these features runs it.
    #[must_use]
    pub fn runs_on(self, cpu: &Features) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => cpu.avx2,
            Self::Avx512 => cpu.avx512 && cpu.avx512_ifma,
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// ChaCha20-Poly1305 by a kernel that this CPU runs.
#[derive(Clone, Copy, Debug)]
pub struct ChaChaPoly {
    /// Checked against the CPU when it was chosen: what calls kernels rests on it.
    kernel: Kernel,
}

impl ChaChaPoly {
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

    /// The best kernel whose registers are no wider than those of that kernel of AES-GCM: who forces one wants to be rid of
    /// what is wider.
    #[must_use]
    pub fn beside(gcm: gcm::Kernel) -> Self {
        Self::up_to(match gcm {
            gcm::Kernel::Portable | gcm::Kernel::AesNi => Kernel::Portable,
            gcm::Kernel::Vaes256Pclmul | gcm::Kernel::Vaes256 => Kernel::Avx2,
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
}

impl Aead for ChaChaPoly {
    type Key = Key;

    fn kernel_name(&self) -> &'static str {
        self.kernel.name()
    }

    fn seal(&self, jobs: &mut [Job<'_, Key>]) {
        // SAFETY: a kernel was chosen only if this CPU runs it, and all cores of a machine are alike.
        unsafe {
            match self.kernel {
                Kernel::Portable => jobs.iter_mut().for_each(portable::seal),
                Kernel::Avx2 => avx2::run::<true>(jobs),
                Kernel::Avx512 => avx512::run::<true>(jobs),
            }
        }
    }

    fn open(&self, jobs: &mut [Job<'_, Key>]) -> usize {
        // SAFETY: as in `seal`.
        unsafe {
            match self.kernel {
                Kernel::Portable => jobs.iter_mut().for_each(portable::open),
                Kernel::Avx2 => avx2::run::<false>(jobs),
                Kernel::Avx512 => avx512::run::<false>(jobs),
            }
        }
        jobs.iter().filter(|job| !job.authentic).count()
    }
}

/// Defines a kernel: cipher in registers of `$words`, tags by `$tags`.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $words:ty, $features:tt, $tags:path) => {
        $(#[$doc])*
        mod $name {
            use super::*;

            /// Any number of jobs.
            ///
            /// # Safety
            /// The CPU has the features enabled here.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn run<const SEAL: bool>(jobs: &mut [Job<'_, Key>]) {
                for jobs in jobs.chunks_mut(GROUP) {
                    let mut keys = [OneTimeKey::default(); GROUP];
                    let mut tags = [[0; TAG_BYTES]; GROUP];
                    // SAFETY: the features are enabled here; there are places for a group in `keys` and `tags`.
                    unsafe {
                        if SEAL {
                            jobs.iter_mut().for_each(|job| job.authentic = true);
                            stream::apply::<$words, true, true>(jobs, &mut keys);
                            $tags(jobs, &keys, &mut tags);
                            for (job, tag) in jobs.iter_mut().zip(tags) {
                                job.authentic = false;
                                *job.tag = tag;
                            }
                        } else {
                            stream::apply::<$words, true, false>(jobs, &mut keys);
                            $tags(jobs, &keys, &mut tags);
                            for (job, tag) in jobs.iter_mut().zip(&tags) {
                                job.authentic = tags_equal(tag, job.tag);
                                if !job.authentic {
                                    reject(job);
                                }
                            }
                            stream::apply::<$words, false, true>(jobs, &mut keys);
                        }
                    }
                    keys.iter_mut().for_each(|key| key.0.zeroize());
                }
            }
        }
    };
}

kernel! {
    /// AVX-512 with IFMA.
    avx512, words512::X16, "avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,avx2,bmi2", poly512::tags
}

kernel! {
    /// AVX2.
    avx2, words256::X8, "avx2,bmi2", poly::tags
}

/// Clears the text of a packet that is not authentic.
#[cold]
#[inline(never)]
fn reject(job: &mut Job<'_, Key>) {
    job.text.fill(0);
}
