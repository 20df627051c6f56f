//! The cipher over the packets of a group: their blocks are dealt to the lanes of registers as they come.

use super::poly::OneTimeKey;
use super::words::{Blocks, Words};
use super::{GROUP, Key};
use crate::aead::Job;
use core::array;

/// Bytes of a block.
const BLOCK_BYTES: usize = 64;

/// A block that is wanted.
#[derive(Clone, Copy, Default)]
struct Lane {
    /// The packet's place in its group.
    job: u8,
    counter: u32,
}

/// Makes the one-time keys of up to [`GROUP`] packets (`KEYS`), and encrypts or decrypts (`TEXTS`) those that are marked as
/// authentic.
///
/// # Safety
/// The CPU has what `W` needs, and everything is inlined into a function that enables it.
#[inline(always)]
pub(super) unsafe fn apply<W: Words, const KEYS: bool, const TEXTS: bool>(
    jobs: &mut [Job<'_, Key>],
    keys: &mut [OneTimeKey; GROUP],
) {
    let mut blocks = Blocks([[0; BLOCK_BYTES]; 16]);
    let mut lanes = [Lane::default(); 16];
    let mut filled = 0;
    for index in 0..jobs.len() {
        let job = &jobs[index];
        // Block 0 is the one-time key (RFC 8439, 2.6), the text begins with block 1 (2.8).
        let mut counter = if KEYS { 0 } else { 1 };
        let texts = if TEXTS && job.authentic { job.text.len().div_ceil(BLOCK_BYTES) as u32 } else { 0 };
        while counter <= texts {
            if texts + 1 - counter >= W::LANES as u32 {
                // SAFETY: as demanded.
                unsafe { of_one_packet::<W>(&jobs[index], counter, &mut blocks) };
                for (counter, block) in (counter..).zip(&blocks.0[..W::LANES]) {
                    use_block(&mut jobs[index], &mut keys[index % GROUP], counter, block);
                }
                counter += W::LANES as u32;
                continue;
            }
            lanes[filled] = Lane { job: index as u8, counter };
            filled += 1;
            counter += 1;
            if filled == W::LANES {
                // SAFETY: as demanded.
                unsafe { of_several::<W>(jobs, keys, &lanes[..W::LANES], &mut blocks) };
                filled = 0;
            }
        }
    }
    if filled > 0 {
        // SAFETY: as demanded.
        unsafe { of_several::<W>(jobs, keys, &lanes[..filled], &mut blocks) };
    }
}

/// `LANES` blocks of one packet.
///
/// # Safety
/// As of [`apply`].
#[inline(always)]
unsafe fn of_one_packet<W: Words>(job: &Job<'_, Key>, counter: u32, blocks: &mut Blocks) {
    let words: [u32; 16] = words_of(&first_block(job, counter));
    // SAFETY: as demanded.
    unsafe {
        let mut start = [W::splat(0); 16];
        for (register, word) in start.iter_mut().zip(words) {
            *register = W::splat(word);
        }
        start[12] = start[12].add(W::count());
        W::store(block_function(&start), blocks);
    }
}

/// A block of each lane, and what is done with them.
///
/// # Safety
/// As of [`apply`].
#[inline(always)]
unsafe fn of_several<W: Words>(
    jobs: &mut [Job<'_, Key>],
    keys: &mut [OneTimeKey; GROUP],
    lanes: &[Lane],
    blocks: &mut Blocks,
) {
    for (lane, block) in lanes.iter().zip(&mut blocks.0) {
        if let Some(job) = jobs.get(usize::from(lane.job)) {
            *block = first_block(job, lane.counter);
        }
    }
    // SAFETY: as demanded.
    unsafe { W::store(block_function(&W::load(blocks)), blocks) };
    for (lane, block) in lanes.iter().zip(&blocks.0) {
        let place = usize::from(lane.job);
        if let Some(job) = jobs.get_mut(place) {
            use_block(job, &mut keys[place % GROUP], lane.counter, block);
        }
    }
}

/// What the block function is applied to (RFC 8439, 2.3).
#[inline(always)]
fn first_block(job: &Job<'_, Key>, counter: u32) -> [u8; BLOCK_BYTES] {
    let mut block = job.key.block;
    let last = u128::from_le_bytes(job.nonce) << 32 | u128::from(counter);
    block[48..].copy_from_slice(&last.to_le_bytes());
    block
}

#[inline(always)]
fn words_of(block: &[u8; BLOCK_BYTES]) -> [u32; 16] {
    let (words, _) = block.as_chunks::<4>();
    array::from_fn(|i| u32::from_le_bytes(words[i]))
}

/// Keeps a block as one-time key, or adds it to the text.
#[inline(always)]
fn use_block(job: &mut Job<'_, Key>, key: &mut OneTimeKey, counter: u32, block: &[u8; BLOCK_BYTES]) {
    let Some(place) = counter.checked_sub(1) else {
        key.0 = array::from_fn(|i| block[i]);
        return;
    };
    let Some(text) = job.text.get_mut(BLOCK_BYTES * place as usize..) else { return };
    if let Some(text) = text.first_chunk_mut::<BLOCK_BYTES>() {
        text.iter_mut().zip(block).for_each(|(byte, key)| *byte ^= key);
        return;
    }
    let (pieces, rest) = text.as_chunks_mut::<16>();
    let (keys, last) = block.split_at(16 * pieces.len());
    for (piece, key) in pieces.iter_mut().zip(keys.as_chunks::<16>().0) {
        *piece = (u128::from_ne_bytes(*piece) ^ u128::from_ne_bytes(*key)).to_ne_bytes();
    }
    rest.iter_mut().zip(last).for_each(|(byte, key)| *byte ^= key);
}

/// 20 rounds, and what they began with added (RFC 8439, 2.3).
#[inline(always)]
unsafe fn block_function<W: Words>(start: &[W; 16]) -> [W; 16] {
    let mut state = *start;
    // SAFETY: as demanded of `apply`.
    unsafe {
        for _ in 0..10 {
            quarters::<W, 4, 8, 12>(&mut state);
            quarters::<W, 5, 10, 15>(&mut state);
        }
        for (word, start) in state.iter_mut().zip(start) {
            *word = word.add(*start);
        }
    }
    state
}

/// Four quarter rounds side by side: on columns or on diagonals, whose second to fourth words begin at `B`, `C` and `D`.
#[inline(always)]
unsafe fn quarters<W: Words, const B: usize, const C: usize, const D: usize>(state: &mut [W; 16]) {
    // SAFETY: as demanded of `apply`.
    unsafe {
        half_quarters::<W, B, C, D, 16, 16, 12, 20>(state);
        half_quarters::<W, B, C, D, 8, 24, 7, 25>(state);
    }
}

#[inline(always)]
unsafe fn half_quarters<
    W: Words,
    const B: usize,
    const C: usize,
    const D: usize,
    const D_LEFT: i32,
    const D_RIGHT: i32,
    const B_LEFT: i32,
    const B_RIGHT: i32,
>(
    state: &mut [W; 16],
) {
    // SAFETY: as demanded of `apply`.
    unsafe {
        for a in 0..4 {
            let (b, d) = (4 + (B - 4 + a) % 4, 12 + (D - 12 + a) % 4);
            state[a] = state[a].add(state[b]);
            state[d] = state[d].xor(state[a]).rotate::<D_LEFT, D_RIGHT>();
        }
        for a in 0..4 {
            let (b, c, d) = (4 + (B - 4 + a) % 4, 8 + (C - 8 + a) % 4, 12 + (D - 12 + a) % 4);
            state[c] = state[c].add(state[d]);
            state[b] = state[b].xor(state[c]).rotate::<B_LEFT, B_RIGHT>();
        }
    }
}
