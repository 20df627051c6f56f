//! SHA-2's block function over several messages at once: AVX-512, 16 of SHA-256 or 8 of SHA-512 and SHA-384.

use super::constants::{ROUND_256, ROUND_512};
use core::arch::x86_64::*;

/// A word of several messages (FIPS 180-4, 4.1.2 and 4.1.3 for the functions).
///
/// # Safety of all methods
/// The CPU has AVX-512 F and BW.
trait Words: Copy {
    unsafe fn round_constant(round: usize) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    /// Σ0, of the first word.
    unsafe fn big_0(self) -> Self;
    /// Σ1, of the fifth.
    unsafe fn big_1(self) -> Self;
    /// σ0, of the message.
    unsafe fn small_0(self) -> Self;
    /// σ1, of the message.
    unsafe fn small_1(self) -> Self;
    unsafe fn choose(self, yes: Self, no: Self) -> Self;
    unsafe fn majority(self, b: Self, c: Self) -> Self;
}

macro_rules! words {
    ($name:ident, $constants:ident, $set:ident, $signed:ty, $add:ident, $rotate:ident, $shift:ident, $ternary:ident,
     [$a0:literal $a1:literal $a2:literal, $b0:literal $b1:literal $b2:literal,
      $c0:literal $c1:literal $c2:literal, $d0:literal $d1:literal $d2:literal]) => {
        #[derive(Clone, Copy)]
        struct $name(__m512i);

        impl Words for $name {
            #[inline(always)]
            unsafe fn round_constant(round: usize) -> Self {
                // SAFETY: see the trait.
                unsafe { Self($set($constants[round] as $signed)) }
            }

            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: see the trait.
                unsafe { Self($add(self.0, other.0)) }
            }

            #[inline(always)]
            unsafe fn big_0(self) -> Self {
                // SAFETY: see the trait.
                unsafe {
                    let (a, b, c) = ($rotate::<$a0>(self.0), $rotate::<$a1>(self.0), $rotate::<$a2>(self.0));
                    Self($ternary::<0x96>(a, b, c))
                }
            }

            #[inline(always)]
            unsafe fn big_1(self) -> Self {
                // SAFETY: see the trait.
                unsafe {
                    let (a, b, c) = ($rotate::<$b0>(self.0), $rotate::<$b1>(self.0), $rotate::<$b2>(self.0));
                    Self($ternary::<0x96>(a, b, c))
                }
            }

            #[inline(always)]
            unsafe fn small_0(self) -> Self {
                // SAFETY: see the trait.
                unsafe {
                    let (a, b, c) = ($rotate::<$c0>(self.0), $rotate::<$c1>(self.0), $shift::<$c2>(self.0));
                    Self($ternary::<0x96>(a, b, c))
                }
            }

            #[inline(always)]
            unsafe fn small_1(self) -> Self {
                // SAFETY: see the trait.
                unsafe {
                    let (a, b, c) = ($rotate::<$d0>(self.0), $rotate::<$d1>(self.0), $shift::<$d2>(self.0));
                    Self($ternary::<0x96>(a, b, c))
                }
            }

            #[inline(always)]
            unsafe fn choose(self, yes: Self, no: Self) -> Self {
                // SAFETY: see the trait.
                unsafe { Self($ternary::<0xca>(self.0, yes.0, no.0)) }
            }

            #[inline(always)]
            unsafe fn majority(self, b: Self, c: Self) -> Self {
                // SAFETY: see the trait.
                unsafe { Self($ternary::<0xe8>(self.0, b.0, c.0)) }
            }
        }
    };
}

words!(
    X16, ROUND_256, _mm512_set1_epi32, i32, _mm512_add_epi32, _mm512_ror_epi32, _mm512_srli_epi32,
    _mm512_ternarylogic_epi32, [2 13 22, 6 11 25, 7 18 3, 17 19 10]
);
words!(
    X8, ROUND_512, _mm512_set1_epi64, i64, _mm512_add_epi64, _mm512_ror_epi64, _mm512_srli_epi64,
    _mm512_ternarylogic_epi64, [28 34 39, 14 18 41, 1 8 7, 19 61 6]
);

/// Runs `$body` with `$i` bound to each of 16 rounds, unrolled: state and message then stay in registers.
macro_rules! for_16 {
    ($i:ident => $body:block) => {
        for_16!(@ $i, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $i:ident, $body:block, $($n:literal)*) => {
        $({ const $i: usize = $n; $body })*
    };
}

/// The block function (FIPS 180-4, 6.2.2 and 6.4.2).
#[inline(always)]
unsafe fn rounds<W: Words, const ROUNDS: usize>(state: [W; 8], mut message: [W; 16]) -> [W; 8] {
    let mut s = state;
    let mut first = 0;
    // SAFETY: as demanded of the methods.
    unsafe {
        while first < ROUNDS {
            for_16!(I => {
                // The words change places instead of moving: a is at 0, 7, 6, ...
                let at = |word: usize| (word + 16 - I) % 8;
                let (a, b, c) = (s[at(0)], s[at(1)], s[at(2)]);
                let (e, f, g) = (s[at(4)], s[at(5)], s[at(6)]);
                let t1 = s[at(7)].add(W::round_constant(first + I)).add(message[I]);
                let t1 = t1.add(e.choose(f, g)).add(e.big_1());
                s[at(3)] = s[at(3)].add(t1);
                s[at(7)] = t1.add(a.big_0()).add(a.majority(b, c));
                if first + 16 < ROUNDS {
                    let next = message[I].add(message[(I + 9) % 16]);
                    let sigmas = message[(I + 1) % 16].small_0().add(message[(I + 14) % 16].small_1());
                    message[I] = next.add(sigmas);
                }
            });
            first += 16;
        }
        for (word, before) in s.iter_mut().zip(state) {
            *word = word.add(before);
        }
    }
    s
}

/// One block of each of 16 messages through SHA-256. `state` is word by word.
///
/// # Safety
/// The CPU has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn sha256(state: &mut [[u32; 16]; 8], blocks: &[&[u8; 64]; 16]) {
    // SAFETY: the features are enabled here; each load and store is of a whole array of the size of a register.
    unsafe {
        let order =
            _mm512_broadcast_i32x4(_mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12));
        let mut rows = [_mm512_setzero_si512(); 16];
        for (row, block) in rows.iter_mut().zip(blocks) {
            *row = _mm512_shuffle_epi8(_mm512_loadu_si512(block.as_ptr().cast()), order);
        }
        let columns = crate::transpose::words_32(&rows);
        let mut message = [X16(columns[0]); 16];
        for (word, column) in message.iter_mut().zip(columns) {
            word.0 = column;
        }
        let mut words = [X16(columns[0]); 8];
        for (word, lanes) in words.iter_mut().zip(&*state) {
            word.0 = _mm512_loadu_si512(lanes.as_ptr().cast());
        }
        for (word, lanes) in rounds::<X16, 64>(words, message).iter().zip(state) {
            _mm512_storeu_si512(lanes.as_mut_ptr().cast(), word.0);
        }
    }
}

/// One block of each of 8 messages through SHA-512. `state` is word by word.
///
/// # Safety
/// The CPU has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn sha512(state: &mut [[u64; 8]; 8], blocks: &[&[u8; 128]; 8]) {
    // SAFETY: the features are enabled here; each load and store is of a whole array of the size of a register, or of half a
    // block.
    unsafe {
        let order =
            _mm512_broadcast_i32x4(_mm_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8));
        let mut message = [X8(order); 16];
        for half in 0..2 {
            let mut rows = [_mm512_setzero_si512(); 8];
            for (row, block) in rows.iter_mut().zip(blocks) {
                *row = _mm512_shuffle_epi8(_mm512_loadu_si512(block.as_ptr().add(64 * half).cast()), order);
            }
            let columns = crate::transpose::words_64(&rows);
            for (word, column) in message[8 * half..].iter_mut().zip(columns) {
                word.0 = column;
            }
        }
        let mut words = [X8(order); 8];
        for (word, lanes) in words.iter_mut().zip(&*state) {
            word.0 = _mm512_loadu_si512(lanes.as_ptr().cast());
        }
        for (word, lanes) in rounds::<X8, 80>(words, message).iter().zip(state) {
            _mm512_storeu_si512(lanes.as_mut_ptr().cast(), word.0);
        }
    }
}
