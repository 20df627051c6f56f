//! Four blocks in a register: AVX-512 with VAES and VPCLMULQDQ.
//!
//! Partial registers are byte masks: bytes that are masked out are not touched, so that no bounce buffer is
//! needed at either end of a text.

use super::lanes::Lanes;
use core::arch::asm;
use core::arch::x86_64::*;

/// Needs AVX-512 F, BW, VL and DQ, VAES, VPCLMULQDQ and BMI2.
#[derive(Clone, Copy)]
pub(super) struct X4(__m512i);

/// A function of its own because it needs the feature enabled to name the register class.
///
/// # Safety
/// The CPU has the feature.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pinned(mut register: __m512i) -> __m512i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(zmm_reg) register, options(nomem, nostack, preserves_flags)) };
    register
}

/// The mask of the bytes `from..to`.
///
/// # Safety
/// The CPU has BMI2.
#[inline(always)]
unsafe fn mask(from: usize, to: usize) -> u64 {
    debug_assert!(from <= 64 && to <= 64);
    // SAFETY: as demanded. An index of 64 keeps all bits.
    unsafe { _bzhi_u64(u64::MAX, to as u32) & !_bzhi_u64(u64::MAX, from as u32) }
}

impl Lanes for X4 {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_setzero_si512()) }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_loadu_si512(at.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: see the trait.
        unsafe { _mm512_storeu_si512(at.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn load_range(at: *const u8, from: usize, to: usize) -> Self {
        // SAFETY: see the trait; bytes that are masked out are not accessed.
        unsafe { Self(_mm512_maskz_loadu_epi8(mask(from, to), at.cast())) }
    }

    #[inline(always)]
    unsafe fn store_range(self, at: *mut u8, from: usize, to: usize) {
        // SAFETY: see the trait; bytes that are masked out are not accessed.
        unsafe { _mm512_mask_storeu_epi8(at.cast(), mask(from, to), self.0) }
    }

    #[inline(always)]
    unsafe fn keep_range(self, from: usize, to: usize) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_maskz_mov_epi8(mask(from, to), self.0)) }
    }

    #[inline(always)]
    unsafe fn broadcast(at: *const u8) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_broadcast_i32x4(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn in_lane(block: __m128i, lane: usize) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_maskz_broadcast_i32x4(0xf << (4 * lane), block)) }
    }

    #[inline(always)]
    unsafe fn with_last_of(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_mask_mov_epi64(self.0, 0xc0, other.0)) }
    }

    #[inline(always)]
    unsafe fn last(self) -> __m128i {
        // SAFETY: see the trait.
        unsafe { _mm512_extracti32x4_epi32::<3>(self.0) }
    }

    #[inline(always)]
    unsafe fn fold(self) -> __m128i {
        // SAFETY: see the trait.
        unsafe {
            let half =
                _mm256_xor_si256(_mm512_castsi512_si256(self.0), _mm512_extracti64x4_epi64::<1>(self.0));
            _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
        }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_xor_si512(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn add32(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn reverse_bytes(self) -> Self {
        // SAFETY: see the trait.
        unsafe {
            let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            Self(_mm512_shuffle_epi8(self.0, _mm512_broadcast_i32x4(order)))
        }
    }

    #[inline(always)]
    unsafe fn reverse_counter(self) -> Self {
        // SAFETY: see the trait.
        unsafe {
            let order = _mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            Self(_mm512_shuffle_epi8(self.0, _mm512_broadcast_i32x4(order)))
        }
    }

    #[inline(always)]
    unsafe fn swap_halves(self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_shuffle_epi32::<0x4e>(self.0)) }
    }

    #[inline(always)]
    unsafe fn multiply<const HALVES: i32>(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_clmulepi64_epi128::<HALVES>(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn pinned(self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(pinned(self.0)) }
    }

    #[inline(always)]
    unsafe fn equal_bytes(bytes: &[u8; 64], byte: u8) -> u64 {
        // SAFETY: see the trait.
        unsafe {
            let bytes = _mm512_loadu_si512(bytes.as_ptr().cast());
            _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte.cast_signed()))
        }
    }

    #[inline(always)]
    unsafe fn aes_round(self, round_key: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_aesenc_epi128(self.0, round_key.0)) }
    }

    #[inline(always)]
    unsafe fn aes_last_round(self, round_key: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_aesenclast_epi128(self.0, round_key.0)) }
    }

    #[inline(always)]
    unsafe fn load_block(at: *const u8, bytes: usize) -> __m128i {
        debug_assert!(bytes <= 16);
        // SAFETY: see the trait; bytes that are masked out are not accessed.
        unsafe { _mm_maskz_loadu_epi8(((1u32 << bytes) - 1) as u16, at.cast()) }
    }
}
