//! AES-CBC encryption of eight packets side by side by AES-NI. Each packet is one chain, every block of which waits for the one
//! before; eight chains keep the units busy.

use super::{BLOCK_BYTES, Job};
use crate::schedule::Schedule;
use core::arch::x86_64::*;

const LANES: usize = 8;

/// Where a chain goes on.
#[derive(Clone, Copy)]
struct Chain {
    key: *const Schedule,
    at: *mut u8,
    /// What is added to `at` for the next block: 0 in a lane without packet.
    step: usize,
    blocks_left: usize,
}

/// Encrypts all jobs.
///
/// # Safety
/// The CPU has AVX and AES-NI.
#[target_feature(enable = "avx,aes")]
pub(super) unsafe fn all(jobs: &mut [Job<'_>]) {
    // SAFETY: the features are enabled here.
    unsafe {
        of_rounds::<10>(jobs);
        of_rounds::<14>(jobs);
    }
}

/// Those whose keys have so many rounds.
///
/// # Safety
/// As of [`all`].
#[inline(always)]
unsafe fn of_rounds<const ROUNDS: usize>(jobs: &mut [Job<'_>]) {
    let mut queue = jobs.iter_mut().filter(|job| job.key.cipher.rounds() == ROUNDS && !job.text.is_empty());
    let idle_key = Schedule::EMPTY;
    let mut idle_block = [0u8; BLOCK_BYTES];
    let idle =
        Chain { key: &raw const idle_key, at: idle_block.as_mut_ptr(), step: 0, blocks_left: usize::MAX };
    let mut chains = [idle; LANES];
    // SAFETY: as demanded; a chain points into the text of a job, which is borrowed, `blocks_left` blocks before its end; that
    // of an idle lane always to its own block.
    unsafe {
        let mut state = [_mm_setzero_si128(); LANES];
        loop {
            let mut busy = false;
            for (chain, state) in chains.iter_mut().zip(&mut state) {
                if chain.blocks_left == 0 || chain.step == 0 {
                    *chain = idle;
                    if let Some(job) = queue.next() {
                        let key = &raw const job.key.cipher;
                        let (at, step, blocks_left) =
                            (job.text.as_mut_ptr().cast(), BLOCK_BYTES, job.text.len());
                        *chain = Chain { key, at, step, blocks_left };
                        *state = _mm_loadu_si128(job.iv.as_ptr().cast());
                    }
                }
                busy |= chain.step != 0;
            }
            if !busy {
                return;
            }
            let blocks = chains.iter().map(|chain| chain.blocks_left).min().unwrap_or(0);
            for _ in 0..blocks {
                for (chain, state) in chains.iter().zip(&mut state) {
                    let whitened = _mm_xor_si128(*state, _mm_loadu_si128(chain.at.cast()));
                    *state = _mm_xor_si128(whitened, round_key(chain.key, 0));
                }
                for round in 1..ROUNDS {
                    for (chain, state) in chains.iter().zip(&mut state) {
                        *state = _mm_aesenc_si128(*state, round_key(chain.key, round));
                    }
                }
                for (chain, state) in chains.iter_mut().zip(&mut state) {
                    *state = _mm_aesenclast_si128(*state, round_key(chain.key, ROUNDS));
                    _mm_storeu_si128(chain.at.cast(), *state);
                    chain.at = chain.at.add(chain.step);
                }
            }
            for chain in &mut chains {
                chain.blocks_left -= if chain.step == 0 { 0 } else { blocks };
            }
        }
    }
}

/// # Safety
/// `key` is a schedule with that round.
#[inline(always)]
unsafe fn round_key(key: *const Schedule, round: usize) -> __m128i {
    // SAFETY: as demanded.
    unsafe { _mm_load_si128((&raw const (*key).round_keys).cast::<__m128i>().add(round)) }
}
