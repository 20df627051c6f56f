//! HMAC-SHA2 of several packets: a lane of a register is a packet's, and takes the next when it is done.
//!
//! What follows the padded key, whose block the states of a [`HashKey`] have behind them already, is header, IV, text and
//! trailer, then the outer hash, which is one more block of the same lane.

use super::constants::{START_256, START_384, START_512};
use super::{BLOCK_BYTES, Hash, Job, sha2_512};
use aes::Block;
use core::array;
use sha2::block_api::{compress256, compress512};
use zeroize::Zeroize;

/// The states after the inner and the outer padded key.
#[derive(Clone, Copy)]
pub(super) struct HashKey<W> {
    inner: [W; 8],
    outer: [W; 8],
}

impl<W: Zeroize> HashKey<W> {
    pub(super) fn clear(&mut self) {
        self.inner.zeroize();
        self.outer.zeroize();
    }
}

/// An authentication key made ready.
pub(super) enum Authenticator {
    Sha256(HashKey<u32>),
    /// SHA-384 and SHA-512, which differ in what they start from and in their length.
    Sha512(HashKey<u64>),
}

impl Authenticator {
    /// `key` is as long as the hash asks for, which is less than a block (RFC 2104, 2).
    pub(super) fn new(hash: Hash, key: &[u8]) -> Self {
        let pad = |byte: u8, at: usize| byte ^ key.get(at).copied().unwrap_or(0);
        let state_512 = |byte: u8| {
            let mut state = if hash == Hash::Sha384 { START_384 } else { START_512 };
            compress512(&mut state, &[array::from_fn(|at| pad(byte, at))]);
            state
        };
        let state_256 = |byte: u8| {
            let mut state = START_256;
            compress256(&mut state, &[array::from_fn(|at| pad(byte, at))]);
            state
        };
        match hash {
            Hash::Sha256 => Self::Sha256(HashKey { inner: state_256(0x36), outer: state_256(0x5c) }),
            Hash::Sha384 | Hash::Sha512 => {
                Self::Sha512(HashKey { inner: state_512(0x36), outer: state_512(0x5c) })
            }
        }
    }
}

/// Several states of a hash function, worked on at once.
trait Engine {
    /// A word of the state.
    type Word: Copy + Default;
    /// A block.
    type Block: Copy + AsRef<[u8]> + AsMut<[u8]>;
    const LANES: usize;
    const NO_BLOCK: Self::Block;

    fn key<'a>(job: &'a Job<'_>) -> Option<&'a HashKey<Self::Word>>;
    fn block(bytes: &[u8]) -> Option<&Self::Block>;
    fn state(&self, lane: usize) -> [Self::Word; 8];
    fn set_state(&mut self, lane: usize, state: &[Self::Word; 8]);
    fn write(word: Self::Word, place: &mut [u8]);
    /// A block of each lane through the hash function.
    fn compress(&mut self, blocks: &[&Self::Block]);
}

macro_rules! engine {
    ($(#[$doc:meta])* $name:ident, $authenticator:ident, $word:ty, $block:literal, $lanes:literal, $compress:expr) => {
        $(#[$doc])*
        struct $name([[$word; $lanes]; 8]);

        impl $name {
            const NEW: Self = Self([[0; $lanes]; 8]);
        }

        impl Engine for $name {
            type Word = $word;
            type Block = [u8; $block];
            const LANES: usize = $lanes;
            const NO_BLOCK: Self::Block = [0; $block];

            fn key<'a>(job: &'a Job<'_>) -> Option<&'a HashKey<$word>> {
                match &job.key.authenticator {
                    Authenticator::$authenticator(key) => Some(key),
                    _ => None,
                }
            }

            fn block(bytes: &[u8]) -> Option<&Self::Block> {
                bytes.first_chunk()
            }

            fn state(&self, lane: usize) -> [$word; 8] {
                self.0.map(|words| words[lane])
            }

            fn set_state(&mut self, lane: usize, state: &[$word; 8]) {
                for (words, word) in self.0.iter_mut().zip(state) {
                    words[lane] = *word;
                }
            }

            fn write(word: $word, place: &mut [u8]) {
                place.iter_mut().zip(word.to_be_bytes()).for_each(|(place, byte)| *place = byte);
            }

            fn compress(&mut self, blocks: &[&Self::Block]) {
                let Some(blocks) = blocks.first_chunk() else { return };
                $compress(&mut self.0, blocks);
            }
        }
    };
}

engine!(
    /// By the crate `sha2`, which uses SHA-NI where CPUID has it.
    Single256, Sha256, u32, 64, 1, |state: &mut [[u32; 1]; 8], blocks: &[&[u8; 64]; 1]| {
        let mut words = state.map(|[word]| word);
        compress256(&mut words, &[*blocks[0]]);
        *state = words.map(|word| [word]);
    }
);
engine!(
    /// By the crate `sha2`.
    Single512, Sha512, u64, 128, 1, |state: &mut [[u64; 1]; 8], blocks: &[&[u8; 128]; 1]| {
        let mut words = state.map(|[word]| word);
        compress512(&mut words, &[*blocks[0]]);
        *state = words.map(|word| [word]);
    }
);
engine!(
    /// AVX-512; made only where the kernel was chosen.
    Sixteen256, Sha256, u32, 64, 16, |state: &mut [[u32; 16]; 8], blocks: &[&[u8; 64]; 16]| {
        // SAFETY: the kernel was chosen because the CPU has what it needs.
        unsafe { sha2_512::sha256(state, blocks) }
    }
);
engine!(
    /// AVX-512; made only where the kernel was chosen.
    Eight512, Sha512, u64, 128, 8, |state: &mut [[u64; 8]; 8], blocks: &[&[u8; 128]; 8]| {
        // SAFETY: the kernel was chosen because the CPU has what it needs.
        unsafe { sha2_512::sha512(state, blocks) }
    }
);

/// Bytes of the longest digest.
pub(super) const MAX_DIGEST_BYTES: usize = 64;

/// Computes the MAC of each job and hands it over with the job's place. `wide` has AVX-512 do it.
///
/// # Safety
/// With `wide`, the CPU has AVX-512 F and BW.
pub(super) unsafe fn macs(
    jobs: &[Job<'_>],
    wide: bool,
    mut take: impl FnMut(usize, &[u8; MAX_DIGEST_BYTES]),
) {
    if wide {
        run(Sixteen256::NEW, jobs, &mut take);
        run(Eight512::NEW, jobs, &mut take);
    } else {
        run(Single256::NEW, jobs, &mut take);
        run(Single512::NEW, jobs, &mut take);
    }
}

/// What a lane does.
#[derive(Clone, Copy)]
struct Lane {
    job: usize,
    /// The next block: of the message, or the outer hash's behind them.
    next: usize,
    message_blocks: usize,
}

fn run<E: Engine>(mut engine: E, jobs: &[Job<'_>], take: &mut impl FnMut(usize, &[u8; MAX_DIGEST_BYTES])) {
    const MOST: usize = 16;
    let mut queue = jobs.iter().enumerate().filter_map(|(place, job)| Some((place, E::key(job)?)));
    let mut lanes = [None::<Lane>; MOST];
    let mut scratch = [E::NO_BLOCK; MOST];
    loop {
        let mut busy = false;
        for (number, lane) in lanes.iter_mut().enumerate().take(E::LANES) {
            if lane.is_none()
                && let Some((job, key)) = queue.next()
            {
                engine.set_state(number, &key.inner);
                let bytes = message_bytes(&jobs[job]);
                let message_blocks = blocks_with_end(bytes, E::NO_BLOCK.as_ref().len());
                *lane = Some(Lane { job, next: 0, message_blocks });
            }
            busy |= lane.is_some();
        }
        if !busy {
            return;
        }
        let idle = E::NO_BLOCK;
        let mut blocks = [&idle; MOST];
        for (number, ((lane, place), block)) in lanes.iter().zip(&mut scratch).zip(&mut blocks).enumerate() {
            let Some(lane) = lane else { continue };
            let job = &jobs[lane.job];
            *block = if lane.next == lane.message_blocks {
                outer_block::<E>(&engine.state(number), digest_bytes(job), place);
                if let Some(key) = E::key(job) {
                    engine.set_state(number, &key.outer);
                }
                place
            } else {
                message_block::<E>(job, lane.next, lane.message_blocks, place)
            };
        }
        engine.compress(&blocks);
        for (number, lane) in lanes.iter_mut().enumerate() {
            let Some(Lane { job, next, message_blocks }) = lane else { continue };
            *next += 1;
            if *next > *message_blocks {
                let mut digest = [0; MAX_DIGEST_BYTES];
                write_words::<E>(&engine.state(number), &mut digest);
                take(*job, &digest);
                *lane = None;
            }
        }
    }
}

fn digest_bytes(job: &Job<'_>) -> usize {
    job.key.hash.key_bytes()
}

fn message_bytes(job: &Job<'_>) -> usize {
    job.header.len() + BLOCK_BYTES + Block::slice_as_flattened(job.text).len() + job.trailer.len()
}

/// Blocks of a message with what ends it: a bit, and its length in an eighth of a block (FIPS 180-4, 5.1).
fn blocks_with_end(bytes: usize, block_bytes: usize) -> usize {
    (bytes + 1 + block_bytes / 8).div_ceil(block_bytes)
}

fn write_words<E: Engine>(state: &[E::Word; 8], place: &mut [u8]) {
    for (word, place) in state.iter().zip(place.chunks_mut(size_of::<E::Word>())) {
        E::write(*word, place);
    }
}

/// The block of the outer hash: the inner digest and what ends it.
fn outer_block<E: Engine>(state: &[E::Word; 8], digest_bytes: usize, place: &mut E::Block) {
    *place = E::NO_BLOCK;
    let place = place.as_mut();
    write_words::<E>(state, place);
    place[digest_bytes..].fill(0);
    end(place, digest_bytes, digest_bytes + place.len());
}

/// Sets the bit behind a message at `at`, and its length at the end of the last block.
fn end(block: &mut [u8], at: usize, bytes: usize) {
    block[at] = 0x80;
    let bits = (bytes as u64 * 8).to_be_bytes();
    if let Some(place) = block.last_chunk_mut() {
        *place = bits;
    }
}

/// A block of the message: where it lies, or put together at `place`.
fn message_block<'a, E: Engine>(
    job: &'a Job<'_>,
    number: usize,
    message_blocks: usize,
    place: &'a mut E::Block,
) -> &'a E::Block {
    let block_bytes = place.as_ref().len();
    let (from, text) = (number * block_bytes, Block::slice_as_flattened(job.text));
    let before_text = job.header.len() + BLOCK_BYTES;
    let within = from.checked_sub(before_text).and_then(|at| text.get(at..)).and_then(E::block);
    if let Some(block) = within {
        return block;
    }
    *place = E::NO_BLOCK;
    let bytes = place.as_mut();
    let mut at = 0;
    for part in [job.header, job.iv, text, job.trailer] {
        // The part is at `at` of the message, and the block's bytes of it are these.
        let wanted =
            from.saturating_sub(at).min(part.len())..(from + block_bytes).saturating_sub(at).min(part.len());
        let start = (at + wanted.start).saturating_sub(from);
        if let Some(target) = bytes.get_mut(start..start + wanted.len()) {
            target.copy_from_slice(&part[wanted]);
        }
        at += part.len();
    }
    if let Some(place) = at.checked_sub(from).and_then(|at| bytes.get_mut(at)) {
        *place = 0x80;
    }
    if number + 1 == message_blocks
        && let Some(place) = bytes.last_chunk_mut()
    {
        *place = ((at + block_bytes) as u64 * 8).to_be_bytes();
    }
    place
}
