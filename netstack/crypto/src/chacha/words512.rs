//! Sixteen blocks at a time: AVX-512.

use super::words::{Blocks, Words};
use crate::transpose::words_32;
use core::arch::x86_64::*;

/// Needs AVX-512 F.
#[derive(Clone, Copy)]
pub(super) struct X16(__m512i);

impl Words for X16 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_set1_epi32(word.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn count() -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_xor_si512(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        // SAFETY: see the trait.
        unsafe { Self(_mm512_rol_epi32::<LEFT>(self.0)) }
    }

    #[inline(always)]
    unsafe fn load(blocks: &Blocks) -> [Self; 16] {
        // SAFETY: see the trait; a block has the size of a register, and is aligned.
        unsafe {
            let mut rows = [_mm512_setzero_si512(); 16];
            for (row, block) in rows.iter_mut().zip(&blocks.0) {
                *row = _mm512_load_si512(block.as_ptr().cast());
            }
            let mut words = [Self::splat(0); 16];
            for (word, column) in words.iter_mut().zip(words_32(&rows)) {
                word.0 = column;
            }
            words
        }
    }

    #[inline(always)]
    unsafe fn store(words: [Self; 16], blocks: &mut Blocks) {
        // SAFETY: see the trait; a block has the size of a register, and is aligned.
        unsafe {
            let mut rows = [_mm512_setzero_si512(); 16];
            for (row, word) in rows.iter_mut().zip(words) {
                *row = word.0;
            }
            for (column, block) in words_32(&rows).iter().zip(&mut blocks.0) {
                _mm512_store_si512(block.as_mut_ptr().cast(), *column);
            }
        }
    }
}
