//! Eight blocks at a time: AVX2.

use super::words::{Blocks, Words};
use core::arch::x86_64::*;

/// Needs AVX2.
#[derive(Clone, Copy)]
pub(super) struct X8(__m256i);

impl Words for X8 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_set1_epi32(word.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn count() -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm256_xor_si256(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        // SAFETY: see the trait.
        unsafe {
            if LEFT % 8 != 0 {
                let (left, right) = (_mm256_slli_epi32::<LEFT>(self.0), _mm256_srli_epi32::<RIGHT>(self.0));
                return Self(_mm256_or_si256(left, right));
            }
            // Whole bytes, 16 or 8 bits: one shuffle.
            let (by_16, by_8) = (
                _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13),
                _mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14),
            );
            let order = _mm256_broadcastsi128_si256(if LEFT == 16 { by_16 } else { by_8 });
            Self(_mm256_shuffle_epi8(self.0, order))
        }
    }

    #[inline(always)]
    unsafe fn load(blocks: &Blocks) -> [Self; 16] {
        // SAFETY: see the trait; half a block has the size of a register, and is aligned.
        unsafe {
            let mut words = [Self::splat(0); 16];
            for half in 0..2 {
                let mut rows = [Self::splat(0); 8];
                for (row, block) in rows.iter_mut().zip(&blocks.0) {
                    row.0 = _mm256_load_si256(block.as_ptr().add(32 * half).cast());
                }
                words[8 * half..8 * half + 8].copy_from_slice(&transpose(&rows));
            }
            words
        }
    }

    #[inline(always)]
    unsafe fn store(words: [Self; 16], blocks: &mut Blocks) {
        // SAFETY: see the trait; half a block has the size of a register, and is aligned.
        unsafe {
            let (rows, _) = words.as_chunks::<8>();
            for (half, rows) in rows.iter().enumerate() {
                for (register, block) in transpose(rows).iter().zip(&mut blocks.0) {
                    _mm256_store_si256(block.as_mut_ptr().add(32 * half).cast(), register.0);
                }
            }
        }
    }
}

/// Word j of register i becomes word i of register j.
#[inline(always)]
unsafe fn transpose(rows: &[X8; 8]) -> [X8; 8] {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let mut quarters = [X8::splat(0); 8];
        for group in 0..2 {
            let (a, b) = (rows[4 * group].0, rows[4 * group + 1].0);
            let (c, d) = (rows[4 * group + 2].0, rows[4 * group + 3].0);
            let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            quarters[4 * group] = X8(_mm256_unpacklo_epi64(ab_low, cd_low));
            quarters[4 * group + 1] = X8(_mm256_unpackhi_epi64(ab_low, cd_low));
            quarters[4 * group + 2] = X8(_mm256_unpacklo_epi64(ab_high, cd_high));
            quarters[4 * group + 3] = X8(_mm256_unpackhi_epi64(ab_high, cd_high));
        }
        let mut columns = [X8::splat(0); 8];
        for j in 0..4 {
            let (a, b) = (quarters[j].0, quarters[4 + j].0);
            columns[j] = X8(_mm256_permute2x128_si256::<0x20>(a, b));
            columns[4 + j] = X8(_mm256_permute2x128_si256::<0x31>(a, b));
        }
        columns
    }
}
