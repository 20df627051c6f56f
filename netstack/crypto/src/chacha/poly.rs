//! Poly1305 (RFC 8439, 2.5) in general registers, and what its wider relative shares with it.
//!
//! A number modulo p = 2^130 - 5 is three limbs of 44, 44 and 42 bits. What a product has beyond them comes back times
//! 5 * 4, as three limbs hold 132 bits.

use super::{GROUP, Key};
use crate::aead::{Job, TAG_BYTES};

/// Bits of the lower limbs.
pub(super) const LIMB: u64 = (1 << 44) - 1;
/// Bits of the third limb.
pub(super) const TOP: u64 = (1 << 42) - 1;
/// What every whole block has set, above its 16 bytes, in its third limb.
pub(super) const BEYOND: u64 = 1 << 40;

/// The first 32 bytes of a packet's keystream: r, not yet clamped, and s.
#[derive(Clone, Copy, Default)]
pub(super) struct OneTimeKey(pub(super) [u8; 32]);

impl OneTimeKey {
    /// The limbs of r (RFC 8439, 2.5: clamped).
    #[inline(always)]
    pub(super) fn multiplier(&self) -> [u64; 3] {
        const CLAMP: u128 = 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
        let (halves, _) = self.0.as_chunks::<16>();
        limbs(u128::from_le_bytes(halves[0]) & CLAMP)
    }

    /// The tag, of the limbs of the hash: reduced, and s added.
    #[inline(always)]
    pub(super) fn tag(&self, hash: [u64; 3]) -> [u8; TAG_BYTES] {
        let (halves, _) = self.0.as_chunks::<16>();
        let [mut a, mut b, mut c] = hash;
        for _ in 0..2 {
            (b, a) = (b + (a >> 44), a & LIMB);
            (c, b) = (c + (b >> 44), b & LIMB);
            (a, c) = (a + (c >> 42) * 5, c & TOP);
        }
        (b, a) = (b + (a >> 44), a & LIMB);
        // Less p, if that is not negative.
        let less_a = a + 5;
        let less_b = b + (less_a >> 44);
        let less_c = (c + (less_b >> 44)).wrapping_sub(1 << 42);
        let keep = (less_c >> 63).wrapping_neg();
        let choose = |kept: u64, less: u64| kept & keep | less & !keep;
        (a, b, c) = (choose(a, less_a & LIMB), choose(b, less_b & LIMB), choose(c, less_c));
        let number = u128::from(a) | u128::from(b) << 44 | u128::from(c) << 88;
        number.wrapping_add(u128::from_le_bytes(halves[1])).to_le_bytes()
    }
}

/// The limbs of 128 bits.
#[inline(always)]
pub(super) fn limbs(number: u128) -> [u64; 3] {
    [number as u64 & LIMB, (number >> 44) as u64 & LIMB, (number >> 88) as u64]
}

/// The last block that is hashed: how long AAD and text are (RFC 8439, 2.8).
#[inline(always)]
pub(super) fn lengths(job: &Job<'_, Key>) -> [u8; 16] {
    (job.aad.len() as u128 | (job.text.len() as u128) << 64).to_le_bytes()
}

/// Up to 16 bytes with zeroes behind them.
#[inline(always)]
pub(super) fn padded(bytes: &[u8]) -> [u8; 16] {
    let mut block = [0; 16];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

/// The tags of up to [`GROUP`] packets, one after the other.
///
/// # Safety
/// None is needed; other kernels do need some.
#[inline(always)]
pub(super) unsafe fn tags(
    jobs: &[Job<'_, Key>],
    keys: &[OneTimeKey; GROUP],
    tags: &mut [[u8; TAG_BYTES]; GROUP],
) {
    for ((job, key), tag) in jobs.iter().zip(keys).zip(tags) {
        let mut hash = Hash { limbs: [0; 3], multiplier: key.multiplier() };
        hash.update(job.aad);
        hash.update(job.text);
        hash.update(&lengths(job));
        *tag = key.tag(hash.limbs);
    }
}

struct Hash {
    limbs: [u64; 3],
    multiplier: [u64; 3],
}

impl Hash {
    /// Adds bytes, padded to whole blocks.
    #[inline(always)]
    fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<16>();
        for block in blocks {
            self.block(u128::from_le_bytes(*block));
        }
        if !rest.is_empty() {
            self.block(u128::from_le_bytes(padded(rest)));
        }
    }

    #[inline(always)]
    fn block(&mut self, number: u128) {
        let [a, b, c] = limbs(number);
        let [h0, h1, h2] = [self.limbs[0] + a, self.limbs[1] + b, self.limbs[2] + c + BEYOND].map(u128::from);
        let [r0, r1, r2] = self.multiplier.map(u128::from);
        let (s1, s2) = (20 * r1, 20 * r2);
        let d0 = h0 * r0 + h1 * s2 + h2 * s1;
        let d1 = h0 * r1 + h1 * r0 + h2 * s2 + (d0 >> 44);
        let d2 = h0 * r2 + h1 * r1 + h2 * r0 + (d1 >> 44);
        let a = (d0 as u64 & LIMB) + (d2 >> 42) as u64 * 5;
        self.limbs = [a & LIMB, (d1 as u64 & LIMB) + (a >> 44), d2 as u64 & TOP];
    }
}
