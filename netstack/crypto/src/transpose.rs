//! Matrices of words in AVX-512 registers, mirrored at their diagonal.

use core::arch::x86_64::*;

/// Word j of register i becomes word i of register j: within lanes of 128 bits first, then the lanes themselves.
///
/// # Safety
/// The CPU has AVX-512 F, and this is inlined into a function that enables it.
#[inline(always)]
pub(crate) unsafe fn words_32(rows: &[__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: as demanded.
    unsafe {
        let mut quarters = [_mm512_setzero_si512(); 16];
        for group in 0..4 {
            let (a, b) = (rows[4 * group], rows[4 * group + 1]);
            let (c, d) = (rows[4 * group + 2], rows[4 * group + 3]);
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            quarters[4 * group] = _mm512_unpacklo_epi64(ab_low, cd_low);
            quarters[4 * group + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
            quarters[4 * group + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
            quarters[4 * group + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
        }
        let mut columns = [_mm512_setzero_si512(); 16];
        for j in 0..4 {
            let (a, b) = (quarters[j], quarters[4 + j]);
            let (c, d) = (quarters[8 + j], quarters[12 + j]);
            let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
            columns[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
            columns[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
            columns[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
            columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
        }
        columns
    }
}

/// Word j of register i becomes word i of register j.
///
/// # Safety
/// The CPU has AVX-512 F, and this is inlined into a function that enables it.
#[inline(always)]
pub(crate) unsafe fn words_64(rows: &[__m512i; 8]) -> [__m512i; 8] {
    // SAFETY: as demanded.
    unsafe {
        let mut pairs = [_mm512_setzero_si512(); 8];
        for i in 0..4 {
            pairs[2 * i] = _mm512_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi64(rows[2 * i], rows[2 * i + 1]);
        }
        let mut columns = [_mm512_setzero_si512(); 8];
        for j in 0..2 {
            let (a, b, c, d) = (pairs[j], pairs[2 + j], pairs[4 + j], pairs[6 + j]);
            let (ab_even, ab_odd) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_i64x2::<0x88>(c, d), _mm512_shuffle_i64x2::<0xdd>(c, d));
            columns[j] = _mm512_shuffle_i64x2::<0x88>(ab_even, cd_even);
            columns[2 + j] = _mm512_shuffle_i64x2::<0x88>(ab_odd, cd_odd);
            columns[4 + j] = _mm512_shuffle_i64x2::<0xdd>(ab_even, cd_even);
            columns[6 + j] = _mm512_shuffle_i64x2::<0xdd>(ab_odd, cd_odd);
        }
        columns
    }
}
