//! What this CPU and its operating system let a kernel use.

use core::arch::x86_64::{
    __cpuid, __cpuid_count, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_cvtsi128_si64, _mm_unpackhi_epi64,
    _mm_xor_si128, _mm256_aesenc_epi128, _mm256_aesenclast_epi128, _mm256_extracti128_si256,
    _mm256_set_epi64x, _xgetbv,
};
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, Ordering};

/// The instruction set extensions that kernels here are written for.
///
/// Read with raw CPUID and XGETBV, so it works before there is an operating system. The image has to set
/// CR4.OSXSAVE and XCR0 on every core before it asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// AES-NI and PCLMULQDQ, with AVX encodings of them.
    pub aes_clmul: bool,
    /// AVX2.
    pub avx2: bool,
    /// VAES over 256-bit registers, and it is right.
    pub vaes: bool,
    /// VPCLMULQDQ over 256-bit registers.
    pub vpclmulqdq: bool,
    /// AVX-512 F, BW, VL and DQ, BMI2.
    pub avx512: bool,
    /// AVX-512 IFMA: products of 52-bit numbers.
    pub avx512_ifma: bool,
}

/// XCR0: SSE and AVX state is saved (SDM volume 1, 13.3).
const XCR0_AVX: u64 = 0x06;
/// XCR0: opmask, upper halves of ZMM0-15 and ZMM16-31 as well.
const XCR0_AVX512: u64 = 0xe6;

impl Features {
    /// Asks the CPU. CPUID is slow in a guest (it traps): ask once and keep the answer.
    #[must_use]
    pub fn detect() -> Self {
        let highest = __cpuid(0).eax;
        let basic = __cpuid(1);
        let bit = |register: u32, n: u32| register >> n & 1 == 1;
        let (pclmulqdq, aes, osxsave, avx) =
            (bit(basic.ecx, 1), bit(basic.ecx, 25), bit(basic.ecx, 27), bit(basic.ecx, 28));
        if !osxsave || !avx || highest < 7 {
            return Self::default();
        }
        // SAFETY: CPUID says OSXSAVE, so that XGETBV is there and enabled.
        let xcr0 = unsafe { xcr0() };
        if xcr0 & XCR0_AVX != XCR0_AVX {
            return Self::default();
        }
        let extended = __cpuid_count(7, 0);
        let avx2 = bit(extended.ebx, 5);
        let claims_vaes = avx2 && aes && bit(extended.ecx, 9);
        // SAFETY: CPUID says AVX2, AES and VAES, and the operating system saves their registers.
        let vaes = claims_vaes && unsafe { vaes_is_right() };
        VAES_IS_WRONG.store(claims_vaes && !vaes, Ordering::Relaxed);
        // BMI2, AVX-512 F, DQ, BW, VL.
        let avx512 = [8, 16, 17, 30, 31].into_iter().all(|n| bit(extended.ebx, n));
        Self {
            aes_clmul: aes && pclmulqdq,
            avx2,
            vaes,
            vpclmulqdq: avx2 && bit(extended.ecx, 10),
            avx512: avx2 && avx512 && xcr0 & XCR0_AVX512 == XCR0_AVX512,
            avx512_ifma: avx2 && avx512 && xcr0 & XCR0_AVX512 == XCR0_AVX512 && bit(extended.ebx, 21),
        }
    }
}

/// Reads XCR0.
///
/// # Safety
/// CPUID.1:ECX.OSXSAVE is set.
#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: as demanded from the caller.
    unsafe { _xgetbv(0) }
}

/// What [`Features::detect`] found.
static VAES_IS_WRONG: AtomicBool = AtomicBool::new(false);

/// Whether the library `aes`, which believes CPUID, must be given one block at a time: for a single one it takes AES-NI. Known
/// once [`Features::detect`] was called, as it is to choose a kernel.
pub(crate) fn vaes_is_wrong() -> bool {
    VAES_IS_WRONG.load(Ordering::Relaxed)
}

/// Whether VAES makes of the upper block of a register what AES-NI makes of it. QEMU 7.2, which is Debian 12's, gives it the
/// lower block's result when it emulates: peers could not read what such a CPU encrypts.
#[target_feature(enable = "avx2,aes,vaes")]
fn vaes_is_right() -> bool {
    let text = black_box(_mm256_set_epi64x(1, 2, 3, 4));
    let key = black_box(_mm256_set_epi64x(5, 6, 7, 8));
    let upper = |register| _mm256_extracti128_si256::<1>(register);
    let round = upper(_mm256_aesenc_epi128(text, key));
    let last = upper(_mm256_aesenclast_epi128(text, key));
    let round = _mm_xor_si128(round, _mm_aesenc_si128(upper(text), upper(key)));
    let last = _mm_xor_si128(last, _mm_aesenclast_si128(upper(text), upper(key)));
    let is_zero = |register| {
        _mm_cvtsi128_si64(register) | _mm_cvtsi128_si64(_mm_unpackhi_epi64(register, register)) == 0
    };
    is_zero(round) && is_zero(last)
}
