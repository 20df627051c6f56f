//! Two blocks in a register: VAES over AVX2, with VPCLMULQDQ or, for CPUs and emulators that lack it, two
//! PCLMULQDQ in its place.

use super::lanes::Lanes;
use super::lanes128::{keep, load_partial, store_partial};
use core::arch::asm;
use core::arch::x86_64::*;

/// Needs AVX2, VAES, PCLMULQDQ; and VPCLMULQDQ if `WIDE` says so.
#[derive(Clone, Copy)]
pub(super) struct X2<const WIDE: bool>(__m256i);

impl<const WIDE: bool> X2<WIDE> {
    #[inline(always)]
    unsafe fn join(low: __m128i, high: __m128i) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)) }
    }

    #[inline(always)]
    unsafe fn low(self) -> __m128i {
        // SAFETY: see the trait.
        unsafe { _mm256_castsi256_si128(self.0) }
    }
}

/// A function of its own because it needs the feature enabled to name the register class.
///
/// # Safety
/// The CPU has the feature.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pinned(mut register: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) register, options(nomem, nostack, preserves_flags)) };
    register
}

/// How many bytes of the two lanes `from..to` covers, from the front of each.
#[inline(always)]
fn split(from: usize, to: usize) -> (usize, usize) {
    debug_assert!(from.is_multiple_of(16) && to <= 32);
    (if from == 0 { to.min(16) } else { 0 }, if from <= 16 { to.saturating_sub(16) } else { 0 })
}

impl<const WIDE: bool> Lanes for X2<WIDE> {
    const LANES: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_setzero_si256()) }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: see the trait.
        unsafe { _mm256_storeu_si256(at.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn load_range(at: *const u8, from: usize, to: usize) -> Self {
        let (low, high) = split(from, to);
        // SAFETY: see the trait.
        unsafe { Self::join(load_partial(at, low), load_partial(at.wrapping_add(16), high)) }
    }

    #[inline(always)]
    unsafe fn store_range(self, at: *mut u8, from: usize, to: usize) {
        let (low, high) = split(from, to);
        // SAFETY: see the trait.
        unsafe {
            store_partial(self.low(), at, low);
            store_partial(self.last(), at.wrapping_add(16), high);
        }
    }

    #[inline(always)]
    unsafe fn keep_range(self, from: usize, to: usize) -> Self {
        let (low, high) = split(from, to);
        // SAFETY: see the trait.
        unsafe { Self::join(keep(self.low(), low), keep(self.last(), high)) }
    }

    #[inline(always)]
    unsafe fn broadcast(at: *const u8) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_broadcastsi128_si256(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn in_lane(block: __m128i, lane: usize) -> Self {
        // SAFETY: see the trait.
        unsafe {
            let zero = _mm_setzero_si128();
            if lane == 0 { Self::join(block, zero) } else { Self::join(zero, block) }
        }
    }

    #[inline(always)]
    unsafe fn with_last_of(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_blend_epi32::<0xf0>(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn last(self) -> __m128i {
        // SAFETY: see the trait.
        unsafe { _mm256_extracti128_si256::<1>(self.0) }
    }

    #[inline(always)]
    unsafe fn fold(self) -> __m128i {
        // SAFETY: see the trait.
        unsafe { _mm_xor_si128(self.low(), self.last()) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_xor_si256(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn add32(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn reverse_bytes(self) -> Self {
        // SAFETY: see the trait.
        unsafe {
            let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            Self(_mm256_shuffle_epi8(self.0, _mm256_broadcastsi128_si256(order)))
        }
    }

    #[inline(always)]
    unsafe fn reverse_counter(self) -> Self {
        // SAFETY: see the trait.
        unsafe {
            let order = _mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            Self(_mm256_shuffle_epi8(self.0, _mm256_broadcastsi128_si256(order)))
        }
    }

    #[inline(always)]
    unsafe fn swap_halves(self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_shuffle_epi32::<0x4e>(self.0)) }
    }

    #[inline(always)]
    unsafe fn multiply<const HALVES: i32>(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe {
            if WIDE {
                return Self(_mm256_clmulepi64_epi128::<HALVES>(self.0, other.0));
            }
            Self::join(
                _mm_clmulepi64_si128::<HALVES>(self.low(), other.low()),
                _mm_clmulepi64_si128::<HALVES>(self.last(), other.last()),
            )
        }
    }

    #[inline(always)]
    unsafe fn pinned(self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(pinned(self.0)) }
    }

    #[inline(always)]
    unsafe fn equal_bytes(bytes: &[u8; 64], byte: u8) -> u64 {
        let mut equal = 0;
        for (i, half) in bytes.as_chunks::<32>().0.iter().enumerate() {
            // SAFETY: see the trait.
            let bits = unsafe {
                let half = _mm256_loadu_si256(half.as_ptr().cast());
                _mm256_movemask_epi8(_mm256_cmpeq_epi8(half, _mm256_set1_epi8(byte.cast_signed())))
            };
            equal |= u64::from(bits.cast_unsigned()) << (32 * i);
        }
        equal
    }

    #[inline(always)]
    unsafe fn aes_round(self, round_key: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_aesenc_epi128(self.0, round_key.0)) }
    }

    #[inline(always)]
    unsafe fn aes_last_round(self, round_key: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_aesenclast_epi128(self.0, round_key.0)) }
    }

    #[inline(always)]
    unsafe fn load_block(at: *const u8, bytes: usize) -> __m128i {
        // SAFETY: see the trait.
        unsafe { load_partial(at, bytes) }
    }
}
