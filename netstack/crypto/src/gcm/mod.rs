//! AES-GCM with 96-bit nonces and 128-bit tags (SP 800-38D), as ESP uses it (RFC 4106).
//!
//! # The mathematics, and why the kernels are laid out as they are
//!
//! The ciphertext is the text plus the keystream E(nonce || 2), E(nonce || 3), ...; all those blocks are
//! independent. The tag is E(nonce || 1) plus GHASH, a polynomial in H = E(0) over GF(2^128): of the n blocks X1
//! to Xn that are AAD, ciphertext and lengths,
//!
//! ```text
//! X1 H^n + X2 H^(n-1) + ... + Xn H
//! ```
//!
//! **Aggregation.** Evaluated after Horner, each block waits for a multiplication and its reduction. With
//! H^16 to H^1 kept in the key sixteen products are independent of each other, are summed before they are reduced,
//! and share one reduction. Sixteen are enough to make the reduction 7% of the work; more would make the key
//! larger, and with thousands of security associations keys come out of the outer caches: one is 512 bytes here.
//!
//! **Lanes.** A register holds up to four blocks. Within a packet each lane is a hash of its own, over every
//! fourth block, in powers of H^4; the last group multiplies each lane by the power that belongs to its place,
//! so that the sum of the lanes is the hash. Nothing crosses lanes before the end of a packet.
//!
//! **Reflection.** GCM numbers bits the other way round than the multiplier does: the first bit of a block is
//! the coefficient of x^0. Reversing the bytes of a block turns it into a number whose *top* bit is that
//! coefficient. The product of two such reflected numbers is the reflected product, but has 255 bits, one less than
//! its two registers, so comes out shifted by one: multiplied by x. The powers of H are stored divided by x to
//! make up for it, and no kernel ever shifts.
//!
//! **Reduction.** In that representation the polynomial is x^128 + x^127 + x^126 + x^121 + 1 read from the top
//! (0xc2 || 0... || 1). Each step removes the 64 lowest bits of the product by adding the multiple of the polynomial
//! with those bits: a multiplication by 0xc2 << 56 and an exchange of halves. Two steps leave 128 bits.
//!
//! # Time and secrets
//!
//! Branches and addresses depend on lengths, on the kind of key, and on whether a tag was right; never on a
//! byte of key, text or hash.

mod batch;
mod body;
mod counter;
mod hash;
mod kernels;
mod key;
mod lanes;
mod lanes128;
mod lanes256;
mod lanes512;
mod portable;

pub use key::{Key, KeyLengthError};

use crate::aead::{Aead, Job};
use crate::cpu::Features;
use core::fmt;
use core::str::FromStr;

/// An implementation of AES-GCM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// The crates `aes` and `ghash`, on any CPU.
    Portable,
    /// AES-NI and PCLMULQDQ: one block in a register.
    AesNi,
    /// AVX2 VAES: two blocks in a register for AES, one for GHASH.
    Vaes256Pclmul,
    /// AVX2 VAES and VPCLMULQDQ: two blocks in a register.
    Vaes256,
    /// AVX-512 VAES and VPCLMULQDQ: four blocks in a register.
    Vaes512,
}

impl Kernel {
    /// All of them, the best last.
    pub const ALL: [Self; 5] =
        [Self::Portable, Self::AesNi, Self::Vaes256Pclmul, Self::Vaes256, Self::Vaes512];

    /// Its name in status, metrics and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::AesNi => "aesni",
            Self::Vaes256Pclmul => "vaes256-pclmul",
            Self::Vaes256 => "vaes256",
            Self::Vaes512 => "vaes512",
        }
    }

    /// Whether a CPU with these features runs it.
    #[must_use]
    pub fn runs_on(self, cpu: &Features) -> bool {
        match self {
            Self::Portable => true,
            Self::AesNi => cpu.aes_clmul,
            Self::Vaes256Pclmul => cpu.aes_clmul && cpu.vaes,
            Self::Vaes256 => cpu.aes_clmul && cpu.vaes && cpu.vpclmulqdq,
            Self::Vaes512 => cpu.aes_clmul && cpu.vaes && cpu.vpclmulqdq && cpu.avx512,
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No kernel has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownKernelError;

impl fmt::Display for UnknownKernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such AES-GCM kernel; there are")?;
        Kernel::ALL.iter().try_for_each(|kernel| write!(f, " {kernel}"))
    }
}

impl core::error::Error for UnknownKernelError {}

impl FromStr for Kernel {
    type Err = UnknownKernelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kernel| kernel.name() == name).ok_or(UnknownKernelError)
    }
}

/// AES-128-GCM and AES-256-GCM by a kernel that this CPU runs.
#[derive(Clone, Copy, Debug)]
pub struct Gcm {
    /// Checked against the CPU when it was chosen: what calls kernels rests on it.
    kernel: Kernel,
}

impl Gcm {
    /// The best kernel for this CPU.
    #[must_use]
    pub fn best() -> Self {
        let cpu = Features::detect();
        let kernel = Kernel::ALL.into_iter().rev().find(|kernel| kernel.runs_on(&cpu));
        Self { kernel: kernel.unwrap_or(Kernel::Portable) }
    }

    /// That kernel, if this CPU runs it.
    #[must_use]
    pub fn with_kernel(kernel: Kernel) -> Option<Self> {
        kernel.runs_on(&Features::detect()).then_some(Self { kernel })
    }

    /// The kernel in use.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    fn run<const SEAL: bool>(self, jobs: &mut [Job<'_, Key>]) {
        // SAFETY: a kernel was chosen only if this CPU runs it, and all cores of a machine are alike.
        unsafe {
            match self.kernel {
                Kernel::Portable => {
                    jobs.iter_mut().for_each(if SEAL { portable::seal } else { portable::open });
                }
                Kernel::AesNi => kernels::aesni::run::<SEAL>(jobs),
                Kernel::Vaes256Pclmul => kernels::vaes256_pclmul::run::<SEAL>(jobs),
                Kernel::Vaes256 => kernels::vaes256::run::<SEAL>(jobs),
                Kernel::Vaes512 => kernels::vaes512::run::<SEAL>(jobs),
            }
        }
    }
}

impl Aead for Gcm {
    type Key = Key;

    fn kernel_name(&self) -> &'static str {
        self.kernel.name()
    }

    fn seal(&self, jobs: &mut [Job<'_, Key>]) {
        self.run::<true>(jobs);
    }

    fn open(&self, jobs: &mut [Job<'_, Key>]) -> usize {
        self.run::<false>(jobs);
        jobs.iter().filter(|job| !job.authentic).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_by_name() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.name().parse(), Ok(kernel));
        }
        assert_eq!("sse2".parse::<Kernel>(), Err(UnknownKernelError));
    }

    #[test]
    fn a_cpu_runs_what_its_features_allow() {
        let on = |cpu: Features| Kernel::ALL.into_iter().filter(move |kernel| kernel.runs_on(&cpu)).max();
        let mut cpu = Features::default();
        assert_eq!(on(cpu), Some(Kernel::Portable));
        cpu.aes_clmul = true;
        assert_eq!(on(cpu), Some(Kernel::AesNi));
        (cpu.avx2, cpu.vaes) = (true, true);
        assert_eq!(on(cpu), Some(Kernel::Vaes256Pclmul));
        cpu.vpclmulqdq = true;
        assert_eq!(on(cpu), Some(Kernel::Vaes256));
        cpu.avx512 = true;
        assert_eq!(on(cpu), Some(Kernel::Vaes512));
        cpu.vpclmulqdq = false;
        assert_eq!(on(cpu), Some(Kernel::Vaes256Pclmul));
        assert_eq!(Gcm::best().kernel(), on(Features::detect()).unwrap_or(Kernel::Portable));
    }
}
