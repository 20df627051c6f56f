//! AES-CBC decryption by AES-NI, eight blocks of a packet at a time.

use super::Job;
use crate::schedule::{ROUND_KEYS, Schedule};
use aes::Block;
use core::arch::x86_64::*;

const LANES: usize = 8;

/// Decrypts one job.
///
/// # Safety
/// The CPU has AVX and AES-NI.
#[target_feature(enable = "avx,aes")]
pub(super) unsafe fn one(job: &mut Job<'_>) {
    let schedule = &job.key.cipher;
    // SAFETY: an IV is a block.
    let iv = unsafe { _mm_loadu_si128(job.iv.as_ptr().cast()) };
    match schedule.rounds() {
        10 => of_rounds::<10>(schedule, iv, job.text),
        _ => of_rounds::<14>(schedule, iv, job.text),
    }
}

#[target_feature(enable = "avx,aes")]
fn of_rounds<const ROUNDS: usize>(schedule: &Schedule, iv: __m128i, text: &mut [Block]) {
    let keys = inverse::<ROUNDS>(schedule);
    let mut before = iv;
    let (octets, rest) = text.as_chunks_mut::<LANES>();
    for blocks in octets {
        before = decrypt::<ROUNDS, LANES>(&keys, before, blocks);
    }
    for block in rest {
        before = decrypt::<ROUNDS, 1>(&keys, before, core::array::from_mut(block));
    }
}

/// The round keys of the equivalent inverse cipher (FIPS 197, 5.3.5), in the order in which it takes them.
#[inline]
#[target_feature(enable = "avx,aes")]
fn inverse<const ROUNDS: usize>(schedule: &Schedule) -> [__m128i; ROUND_KEYS] {
    let mut keys = [_mm_setzero_si128(); ROUND_KEYS];
    for (round, key) in keys.iter_mut().enumerate().take(ROUNDS + 1) {
        // SAFETY: a round key is a block.
        let forward = unsafe { _mm_loadu_si128(schedule.round_keys[ROUNDS - round].as_ptr().cast()) };
        *key = if round == 0 || round == ROUNDS { forward } else { _mm_aesimc_si128(forward) };
    }
    keys
}

/// Decrypts blocks, of which the first follows the ciphertext `before`; the last of their ciphertexts.
#[inline]
#[target_feature(enable = "avx,aes")]
fn decrypt<const ROUNDS: usize, const N: usize>(
    keys: &[__m128i; ROUND_KEYS],
    before: __m128i,
    blocks: &mut [Block; N],
) -> __m128i {
    let mut ciphertexts = [before; N];
    let mut states = [before; N];
    for ((block, ciphertext), state) in blocks.iter().zip(&mut ciphertexts).zip(&mut states) {
        // SAFETY: it is a block.
        *ciphertext = unsafe { _mm_loadu_si128(block.as_ptr().cast()) };
        *state = _mm_xor_si128(*ciphertext, keys[0]);
    }
    for key in &keys[1..ROUNDS] {
        for state in &mut states {
            *state = _mm_aesdec_si128(*state, *key);
        }
    }
    let mut before = before;
    for ((block, ciphertext), state) in blocks.iter_mut().zip(ciphertexts).zip(states) {
        let text = _mm_xor_si128(_mm_aesdeclast_si128(state, keys[ROUNDS]), before);
        // SAFETY: it is a block.
        unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), text) };
        before = ciphertext;
    }
    before
}
