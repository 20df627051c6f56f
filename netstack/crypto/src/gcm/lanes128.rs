//! One block in a register: AES-NI and PCLMULQDQ, in their AVX encodings.

use super::lanes::Lanes;
use core::arch::asm;
use core::arch::x86_64::*;

/// Needs AVX, AES-NI and PCLMULQDQ.
#[derive(Clone, Copy)]
pub(super) struct X1(pub(super) __m128i);

/// A function of its own because it needs the feature enabled to name the register class.
///
/// # Safety
/// The CPU has the feature.
#[inline]
#[target_feature(enable = "avx")]
unsafe fn pinned(mut register: __m128i) -> __m128i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(xmm_reg) register, options(nomem, nostack, preserves_flags)) };
    register
}

/// Sixteen bytes kept, sixteen cleared: a load from `16 - n` bytes in keeps the first n.
static KEEP: [u8; 32] = {
    let mut mask = [0; 32];
    let mut i = 0;
    while i < 16 {
        mask[i] = 0xff;
        i += 1;
    }
    mask
};

/// The first `bytes` (at most 16) bytes of a block; the others become zero.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn keep(block: __m128i, bytes: usize) -> __m128i {
    debug_assert!(bytes <= 16);
    // SAFETY: 16 bytes from 16 - bytes on are within KEEP.
    unsafe { _mm_and_si128(block, _mm_loadu_si128(KEEP.as_ptr().add(16 - bytes).cast())) }
}

/// The `bytes` (at most 16) bytes at `at`, zero behind, by loads that overlap each other and touch nothing else.
///
/// # Safety
/// The CPU has AVX; `at` is valid for reads of `bytes` bytes.
#[inline(always)]
pub(super) unsafe fn load_partial(at: *const u8, bytes: usize) -> __m128i {
    // SAFETY: every read is of bytes within the first `bytes`, by the branch it is in.
    unsafe {
        let (low, high) = match bytes {
            16.. => return _mm_loadu_si128(at.cast()),
            8.. => {
                let end = at.add(bytes - 8).cast::<u64>().read_unaligned();
                (at.cast::<u64>().read_unaligned(), (end >> 1) >> (127 - 8 * bytes))
            }
            4.. => {
                let end = u64::from(at.add(bytes - 4).cast::<u32>().read_unaligned());
                (u64::from(at.cast::<u32>().read_unaligned()) | end << (8 * (bytes - 4)), 0)
            }
            1.. => {
                let byte = |i: usize| u64::from(at.add(i).read()) << (8 * i);
                (byte(0) | byte(bytes / 2) | byte(bytes - 1), 0)
            }
            0 => (0, 0),
        };
        _mm_set_epi64x(high.cast_signed(), low.cast_signed())
    }
}

/// Writes what [`load_partial`] reads.
///
/// # Safety
/// The CPU has AVX; `at` is valid for writes of `bytes` bytes.
#[inline(always)]
pub(super) unsafe fn store_partial(block: __m128i, at: *mut u8, bytes: usize) {
    // SAFETY: every write is of bytes within the first `bytes`, by the branch it is in.
    unsafe {
        let low = _mm_cvtsi128_si64(block).cast_unsigned();
        match bytes {
            16.. => _mm_storeu_si128(at.cast(), block),
            8.. => {
                let high = _mm_extract_epi64::<1>(block).cast_unsigned();
                let end = u128::from(high) << 64 | u128::from(low);
                at.cast::<u64>().write_unaligned(low);
                at.add(bytes - 8).cast::<u64>().write_unaligned((end >> (8 * (bytes - 8))) as u64);
            }
            4.. => {
                at.cast::<u32>().write_unaligned(low as u32);
                at.add(bytes - 4).cast::<u32>().write_unaligned((low >> (8 * (bytes - 4))) as u32);
            }
            1.. => {
                for i in [0, bytes / 2, bytes - 1] {
                    at.add(i).write((low >> (8 * i)) as u8);
                }
            }
            0 => {}
        }
    }
}

// SAFETY (of the blocks below): intrinsics that the features named at X1 provide, and the pointers are as
// valid as Lanes demands of its callers.
impl Lanes for X1 {
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm_setzero_si128()) }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: see the trait.
        unsafe { _mm_storeu_si128(at.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn load_range(at: *const u8, from: usize, to: usize) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(load_partial(at, if from == 0 { to } else { 0 })) }
    }

    #[inline(always)]
    unsafe fn store_range(self, at: *mut u8, from: usize, to: usize) {
        // SAFETY: see the trait.
        unsafe { store_partial(self.0, at, if from == 0 { to } else { 0 }) }
    }

    #[inline(always)]
    unsafe fn keep_range(self, from: usize, to: usize) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(keep(self.0, if from == 0 { to } else { 0 })) }
    }

    #[inline(always)]
    unsafe fn broadcast(at: *const u8) -> Self {
        // SAFETY: see the trait.
        unsafe { Self::load(at) }
    }

    #[inline(always)]
    unsafe fn in_lane(block: __m128i, _lane: usize) -> Self {
        Self(block)
    }

    #[inline(always)]
    unsafe fn with_last_of(self, other: Self) -> Self {
        other
    }

    #[inline(always)]
    unsafe fn last(self) -> __m128i {
        self.0
    }

    #[inline(always)]
    unsafe fn fold(self) -> __m128i {
        self.0
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm_xor_si128(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn add32(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn reverse_bytes(self) -> Self {
        // SAFETY: see the trait.
        unsafe {
            Self(_mm_shuffle_epi8(self.0, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)))
        }
    }

    #[inline(always)]
    unsafe fn reverse_counter(self) -> Self {
        // SAFETY: see the trait.
        unsafe {
            Self(_mm_shuffle_epi8(self.0, _mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)))
        }
    }

    #[inline(always)]
    unsafe fn swap_halves(self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm_shuffle_epi32::<0x4e>(self.0)) }
    }

    #[inline(always)]
    unsafe fn multiply<const HALVES: i32>(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm_clmulepi64_si128::<HALVES>(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn pinned(self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(pinned(self.0)) }
    }

    #[inline(always)]
    unsafe fn equal_bytes(bytes: &[u8; 64], byte: u8) -> u64 {
        let mut equal = 0;
        for (i, quarter) in bytes.as_chunks::<16>().0.iter().enumerate() {
            // SAFETY: see the trait.
            let bits = unsafe {
                let quarter = _mm_loadu_si128(quarter.as_ptr().cast());
                _mm_movemask_epi8(_mm_cmpeq_epi8(quarter, _mm_set1_epi8(byte.cast_signed())))
            };
            equal |= u64::from(bits.cast_unsigned()) << (16 * i);
        }
        equal
    }

    #[inline(always)]
    unsafe fn aes_round(self, round_key: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm_aesenc_si128(self.0, round_key.0)) }
    }

    #[inline(always)]
    unsafe fn aes_last_round(self, round_key: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm_aesenclast_si128(self.0, round_key.0)) }
    }

    #[inline(always)]
    unsafe fn load_block(at: *const u8, bytes: usize) -> __m128i {
        // SAFETY: see the trait.
        unsafe { load_partial(at, bytes) }
    }
}
