//! Poly1305 of eight packets in the lanes of a register, by AVX-512 IFMA; of two such registers in turn.
//!
//! What is hashed of a packet, padded AAD, padded text and lengths, is cut into rows of four blocks from its end, so that
//! all packets end together and the first row of each has blocks missing in front. A row within the text is read where it
//! lies; the first and the last are put together in memory.

use super::poly::{BEYOND, LIMB, OneTimeKey, TOP, lengths, padded};
use super::{GROUP, Key};
use crate::aead::{Job, TAG_BYTES};
use crate::transpose::words_64;
use core::arch::x86_64::*;

/// Packets in a register.
const LANES: usize = 8;
/// Blocks, and bytes, of a row.
const ROW_BLOCKS: usize = 4;
const ROW_BYTES: usize = 16 * ROW_BLOCKS;

/// A packet as rows.
#[derive(Clone, Copy)]
struct Rows<'a> {
    aad: &'a [u8],
    text: &'a [u8],
    lengths: [u8; 16],
    /// Blocks of AAD, and of everything.
    aad_blocks: usize,
    blocks: usize,
}

impl<'a> Rows<'a> {
    const NONE: Self = Self { aad: &[], text: &[], lengths: [0; 16], aad_blocks: 0, blocks: 0 };

    #[inline(always)]
    fn new(job: &'a Job<'_, Key>) -> Self {
        let aad_blocks = job.aad.len().div_ceil(16);
        let blocks = aad_blocks + job.text.len().div_ceil(16) + 1;
        Self { aad: job.aad, text: job.text, lengths: lengths(job), aad_blocks, blocks }
    }

    /// The row with so many rows from its beginning to the end; how many of its blocks, the last ones, there are.
    #[inline(always)]
    fn row<'b>(&'b self, from_end: usize, place: &'b mut [u8; ROW_BYTES]) -> (&'b [u8; ROW_BYTES], usize) {
        let to_end = ROW_BLOCKS * from_end;
        if let Some(first) = self.blocks.checked_sub(to_end) {
            let at = first.wrapping_sub(self.aad_blocks).wrapping_mul(16);
            if first >= self.aad_blocks
                && let Some(row) = self.text.get(at..).and_then(|text| text.first_chunk())
                && from_end > 1
            {
                return (row, ROW_BLOCKS);
            }
        }
        let present = (self.blocks + ROW_BLOCKS).saturating_sub(to_end).min(ROW_BLOCKS);
        let (blocks, _) = place.as_chunks_mut::<16>();
        for (index, block) in blocks.iter_mut().enumerate() {
            *block = (self.blocks + index).checked_sub(to_end).map_or([0; 16], |number| self.block(number));
        }
        (place, present)
    }

    #[inline(always)]
    fn block(&self, number: usize) -> [u8; 16] {
        if number + 1 == self.blocks {
            return self.lengths;
        }
        let (bytes, at) = match number.checked_sub(self.aad_blocks) {
            Some(number) => (self.text, 16 * number),
            None => (self.aad, 16 * number),
        };
        let bytes = bytes.get(at..).unwrap_or_default();
        bytes.first_chunk().copied().unwrap_or_else(|| padded(bytes))
    }
}

/// The hash and the multiplier of eight packets, a limb in each register.
#[derive(Clone, Copy)]
struct Hash {
    limbs: [__m512i; 3],
    r: [__m512i; 3],
    /// 20 times the upper limbs of r.
    s: [__m512i; 2],
}

/// The tags of up to [`GROUP`] packets.
///
/// # Safety
/// The CPU has AVX-512 F, DQ and IFMA, and this is inlined into a function that enables them.
#[inline(always)]
pub(super) unsafe fn tags(
    jobs: &[Job<'_, Key>],
    keys: &[OneTimeKey; GROUP],
    tags: &mut [[u8; TAG_BYTES]; GROUP],
) {
    let mut rows = [Rows::NONE; GROUP];
    for (rows, job) in rows.iter_mut().zip(jobs) {
        *rows = Rows::new(job);
    }
    // SAFETY: as demanded.
    unsafe {
        if jobs.len() > LANES {
            hash::<2>(&rows, keys, tags);
        } else {
            hash::<1>(&rows, keys, tags);
        }
    }
}

/// The packets of `N` registers.
#[inline(always)]
unsafe fn hash<const N: usize>(
    rows: &[Rows<'_>; GROUP],
    keys: &[OneTimeKey; GROUP],
    tags: &mut [[u8; TAG_BYTES]; GROUP],
) {
    // SAFETY: as demanded of `tags`.
    unsafe {
        let mut hashes = [Hash::new(&keys[..LANES]); N];
        if N == 2 {
            hashes[1] = Hash::new(&keys[LANES..]);
        }
        let most = rows.iter().map(|rows| rows.blocks).max().unwrap_or(0).div_ceil(ROW_BLOCKS);
        for from_end in (1..=most).rev() {
            let mut words = [[_mm512_setzero_si512(); 8]; N];
            let mut beyond = [[_mm512_setzero_si512(); ROW_BLOCKS]; N];
            for n in 0..N {
                (words[n], beyond[n]) = load(&rows[LANES * n..LANES * n + LANES], from_end);
            }
            for block in 0..ROW_BLOCKS {
                for n in 0..N {
                    let (low, high) = (words[n][2 * block], words[n][2 * block + 1]);
                    hashes[n].add(low, high, beyond[n][block]);
                }
                for hash in &mut hashes {
                    hash.multiply();
                }
            }
        }
        for (n, hash) in hashes.iter().enumerate() {
            let limbs = hash.limbs.map(|limb| {
                let mut lanes = [0u64; LANES];
                _mm512_storeu_si512(lanes.as_mut_ptr().cast(), limb);
                lanes
            });
            let tags = keys.iter().zip(&mut *tags).skip(LANES * n).take(LANES);
            for (lane, (key, tag)) in tags.enumerate() {
                *tag = key.tag(limbs.map(|lanes| lanes[lane]));
            }
        }
    }
}

/// A row of eight packets: the 64-bit words of their blocks, and the bit beyond each block that there is.
#[inline(always)]
unsafe fn load(rows: &[Rows<'_>], from_end: usize) -> ([__m512i; 8], [__m512i; ROW_BLOCKS]) {
    // SAFETY: as demanded of `tags`; a row has the size of a register.
    unsafe {
        let mut registers = [_mm512_setzero_si512(); 8];
        let mut missing = [ROW_BLOCKS as u64; LANES];
        let mut place = [0; ROW_BYTES];
        for ((register, rows), missing) in registers.iter_mut().zip(rows).zip(&mut missing) {
            let (row, present) = rows.row(from_end, &mut place);
            *register = _mm512_loadu_si512(row.as_ptr().cast());
            *missing = (ROW_BLOCKS - present) as u64;
        }
        let missing = _mm512_loadu_si512(missing.as_ptr().cast());
        let mut beyond = [_mm512_setzero_si512(); ROW_BLOCKS];
        for (block, beyond) in beyond.iter_mut().enumerate() {
            let there = _mm512_cmple_epu64_mask(missing, _mm512_set1_epi64(block as i64));
            *beyond = _mm512_maskz_set1_epi64(there, BEYOND as i64);
        }
        (words_64(&registers), beyond)
    }
}

impl Hash {
    #[inline(always)]
    unsafe fn new(keys: &[OneTimeKey]) -> Self {
        let mut limbs = [[0u64; LANES]; 3];
        for (lane, key) in keys.iter().enumerate().take(LANES) {
            [limbs[0][lane], limbs[1][lane], limbs[2][lane]] = key.multiplier();
        }
        // SAFETY: as demanded of `tags`.
        unsafe {
            let load = |lanes: &[u64; LANES]| _mm512_loadu_si512(lanes.as_ptr().cast());
            let r = [load(&limbs[0]), load(&limbs[1]), load(&limbs[2])];
            let twenty = _mm512_set1_epi64(20);
            let s = [_mm512_mullo_epi64(r[1], twenty), _mm512_mullo_epi64(r[2], twenty)];
            Self { limbs: [_mm512_setzero_si512(); 3], r, s }
        }
    }

    /// Adds a block of each packet.
    #[inline(always)]
    unsafe fn add(&mut self, low: __m512i, high: __m512i, beyond: __m512i) {
        // SAFETY: as demanded of `tags`.
        unsafe {
            let limb = _mm512_set1_epi64(LIMB as i64);
            let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
            let top = _mm512_or_si512(_mm512_srli_epi64::<24>(high), beyond);
            self.limbs[0] = _mm512_add_epi64(self.limbs[0], _mm512_and_si512(low, limb));
            self.limbs[1] = _mm512_add_epi64(self.limbs[1], _mm512_and_si512(middle, limb));
            self.limbs[2] = _mm512_add_epi64(self.limbs[2], top);
        }
    }

    /// Multiplies by r. Limbs go in with at most 46 bits and come out with at most 45. The lower 52 bits of products of limbs
    /// i and j belong to limb i + j, the upper ones 8 bits up in the next.
    #[inline(always)]
    unsafe fn multiply(&mut self) {
        // SAFETY: as demanded of `tags`.
        unsafe {
            let ([h0, h1, h2], [r0, r1, r2], [s1, s2]) = (self.limbs, self.r, self.s);
            let (low0, high0) = product([(h1, s2), (h2, s1), (h0, r0)]);
            let (low1, high1) = product([(h2, s2), (h1, r0), (h0, r1)]);
            let (low2, high2) = product([(h2, r0), (h1, r1), (h0, r2)]);
            let limb = _mm512_set1_epi64(LIMB as i64);
            let sum = |a, b, c| _mm512_add_epi64(_mm512_add_epi64(a, b), c);
            let d1 = sum(low1, _mm512_slli_epi64::<8>(high0), _mm512_srli_epi64::<44>(low0));
            let d2 = sum(low2, _mm512_slli_epi64::<8>(high1), _mm512_srli_epi64::<44>(d1));
            // Above 130 bits: the third limb's upper half is 52 - 42 = 10 bits above its 42.
            let over = _mm512_add_epi64(_mm512_slli_epi64::<10>(high2), _mm512_srli_epi64::<42>(d2));
            let over = _mm512_add_epi64(over, _mm512_slli_epi64::<2>(over));
            let d0 = _mm512_add_epi64(_mm512_and_si512(low0, limb), over);
            self.limbs = [
                _mm512_and_si512(d0, limb),
                _mm512_add_epi64(_mm512_and_si512(d1, limb), _mm512_srli_epi64::<44>(d0)),
                _mm512_and_si512(d2, _mm512_set1_epi64(TOP as i64)),
            ];
        }
    }
}

/// The sum of three products: of their lower 52 bits, and of what is above.
#[inline(always)]
unsafe fn product(factors: [(__m512i, __m512i); 3]) -> (__m512i, __m512i) {
    // SAFETY: as demanded of `tags`.
    unsafe {
        let (mut low, mut high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for (a, b) in factors {
            low = _mm512_madd52lo_epu64(low, a, b);
            high = _mm512_madd52hi_epu64(high, a, b);
        }
        (low, high)
    }
}
