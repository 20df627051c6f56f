//! AES-GCM written once over [`Lanes`]: how a packet lies in registers, the stitched rounds, the hash.
//!
//! # Layout
//!
//! What GHASH reads is one block A of AAD, the t blocks of ciphertext, one block L of lengths. They are laid
//! right-aligned into v registers, with zero blocks (which do not change a hash that begins with them) in
//! front:
//!
//! ```text
//! lane       0    1    2    3       0    1    2    3
//! hash   [   0    A    C1   C2 ] [  C3   C4   C5   L  ]      t = 5, four lanes
//! cipher [   -    -    2    3  ] [  4    5    6    1  ]      counter of each lane
//! ```
//!
//! Counters lie in the same lanes as the blocks they encrypt, so one load and one store per register serve both,
//! and the lane of L, which has no ciphertext, is where counter 1 masks the tag. The power of H by which
//! a lane is multiplied depends on its distance from the end alone, so powers load aligned. Only the first and
//! the last register are partial. AAD of more than a block is hashed into A beforehand.
//!
//! # Groups
//!
//! Up to `G` registers share one reduction. A packet of no more than that is a [`short`] one: AES for several
//! such packets at once, then their hashes. A [`long`] one has its first registers done one, two, four at a time,
//! until whole groups remain. In those the hash of the group before (to seal) or of this very group (to
//! open) is stitched in between the rounds of AES, so that both units are busy.

use super::Key;
use super::counter::Counter;
use super::hash::{Products, Weights};
use super::lanes::Lanes;
use crate::aead::Job;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

// SAFETY (of every unsafe function below): the caller runs them on a CPU that has the features of `L`, with
// everything inlined into a function that enables them; `key` is a valid key, and pointers are those of
// a `Packet`.

/// One packet on its way through the registers.
struct Packet<L, const BIG: bool> {
    key: *const Key,
    nonce: *const [u8; 16],
    bits: *const [u64; 2],
    /// Where register 0 would lie: before the text by the blank lanes and A.
    base: *mut u8,
    /// The next register.
    register: usize,
    /// Where the text starts and ends, in bytes from `base`.
    start: usize,
    end: usize,
    counter: Counter<L, BIG>,
    /// The hash so far, lane by lane; A before the first register.
    hash: L,
}

/// Registers for a text of this many bytes: its blocks, A and L.
#[inline(always)]
pub(super) fn registers(lanes: usize, text_bytes: usize) -> usize {
    (text_bytes.div_ceil(16) + 2).div_ceil(lanes)
}

impl<L: Lanes, const BIG: bool> Packet<L, BIG> {
    /// # Safety
    /// See above; the packet is used while the job is borrowed.
    #[inline(always)]
    unsafe fn new(job: &mut Job<'_, Key>) -> Self {
        let blocks = job.text.len().div_ceil(16) + 2;
        let blank = blocks.wrapping_neg() % L::LANES;
        let start = 16 * (blank + 1);
        // SAFETY: see above.
        unsafe {
            Self {
                key: job.key,
                nonce: &raw const job.nonce,
                bits: &raw const job.bits,
                base: job.text.as_mut_ptr().wrapping_sub(start),
                register: 0,
                start,
                end: start + job.text.len(),
                counter: Counter::new(&raw const job.nonce, blank),
                hash: L::in_lane(authenticated_block::<L>(job.key, job.aad), blank),
            }
        }
    }

    /// Whether register `register` may be partial.
    #[inline(always)]
    fn is_edge(first: bool, from_end: usize) -> bool {
        // With one lane L has a register of its own, and the text ends in the one before.
        first || from_end == 1 || L::LANES == 1 && from_end == 2
    }

    /// The bytes of text in the register, which lies at `offset` bytes.
    #[inline(always)]
    fn range(&self, first: bool, from_end: usize, offset: usize) -> (usize, usize) {
        if L::LANES == 1 {
            // The first has A and no text, the last has L.
            return (if first { 16 } else { 0 }, self.end.saturating_sub(offset).min(16));
        }
        let to = if from_end == 1 { L::BYTES - 16 - (self.end.wrapping_neg() & 15) } else { L::BYTES };
        (if first { self.start } else { 0 }, to)
    }
}

/// Block A: the AAD's last block; what comes before is hashed into it.
///
/// # Safety
/// See above.
#[inline(always)]
unsafe fn authenticated_block<L: Lanes>(key: *const Key, aad: &[u8]) -> __m128i {
    // SAFETY: see above; the bytes read are those of `aad`.
    unsafe {
        if aad.len() <= 16 {
            return super::lanes128::X1(L::load_block(aad.as_ptr(), aad.len())).reverse_bytes().0;
        }
        long_aad(key, aad)
    }
}

/// The same for any length; ESP never needs it.
///
/// # Safety
/// The CPU has AVX, AES-NI and PCLMULQDQ.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx,aes,pclmulqdq")]
unsafe fn long_aad(key: *const Key, aad: &[u8]) -> __m128i {
    use super::lanes128::X1;
    // SAFETY: see above; the bytes read are those of `aad`.
    unsafe {
        let power = Weights::Last.power::<X1>(key, 0, 1);
        let mut hash = X1::zero();
        let mut blocks = aad.chunks(16).peekable();
        while let Some(block) = blocks.next() {
            hash = hash.xor(X1(X1::load_block(block.as_ptr(), block.len())).reverse_bytes());
            if blocks.peek().is_some() {
                let mut products = Products::zero();
                products.add(hash, power);
                hash = products.reduce();
            }
        }
        hash.0
    }
}

/// The same pointer, of which the compiler no longer knows what it has read there: else it reads round keys of
/// several packets well before their use and runs out of registers for them.
#[inline(always)]
fn anew(key: *const Key) -> *const Key {
    let mut offset = 0usize;
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) offset, options(nomem, nostack, preserves_flags)) };
    key.wrapping_byte_add(offset)
}

#[inline(always)]
unsafe fn round_key<L: Lanes>(key: *const Key, round: usize) -> L {
    // SAFETY: `round` is at most the number of rounds, and there are keys for 14.
    unsafe { L::broadcast((&raw const (*key).round_keys).cast::<u8>().add(16 * round)) }
}

/// Runs `$body` with `$k` bound to each round but the first and the last, unrolled.
macro_rules! for_inner_rounds {
    ($rounds:ident, $k:ident => $body:block) => {
        for_inner_rounds!(@ $rounds, $k, $body, 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $rounds:ident, $k:ident, $body:block, $($n:literal)*) => {
        $(if $n < $rounds { const $k: usize = $n; $body })*
    };
}

/// Runs `$body` with `$p` bound to each of up to four packets, unrolled: an index into an array of registers has
/// to be a constant.
macro_rules! for_packets {
    ($packets:ident, $p:ident => $body:block) => {
        for_packets!(@ $packets, $p, $body, 0 1 2 3)
    };
    (@ $packets:ident, $p:ident, $body:block, $($n:literal)*) => {
        $(if $n < $packets { const $p: usize = $n; $body })*
    };
}

/// What is hashed while AES goes on.
#[derive(Clone, Copy)]
struct Stitch<L, const N: usize> {
    /// The blocks, their bytes reversed.
    blocks: [L; N],
    weights: Weights,
}

/// The registers of a group as they were loaded.
#[derive(Clone, Copy)]
struct Group<L, const N: usize> {
    text: [L; N],
}

impl<L: Lanes, const BIG: bool> Packet<L, BIG> {
    /// The next `N` registers through AES, `stitch` through GHASH meanwhile. Returns what is to be hashed of
    /// them (bytes reversed), and the last register's last lane, which is the mask of the tag in a group that
    /// is `LAST`.
    #[inline(always)]
    unsafe fn crypt<
        const N: usize,
        const M: usize,
        const ROUNDS: usize,
        const SEAL: bool,
        const FIRST: bool,
        const LAST: bool,
    >(
        &mut self,
        input: &Group<L, N>,
        stitch: Option<Stitch<L, M>>,
    ) -> ([L; N], L) {
        // SAFETY: see above; registers within the text are loaded and stored whole, those at its edges by range.
        unsafe {
            let mut state = self.counters::<N, LAST>();
            let key = self.key;
            let whitening = round_key::<L>(key, 0);
            for block in &mut state {
                *block = block.xor(whitening);
            }
            let mut products = Products::zero();
            for_inner_rounds!(ROUNDS, ROUND => {
                let round_key = round_key::<L>(key, ROUND);
                for block in &mut state {
                    *block = block.aes_round(round_key).pinned();
                }
                if let Some(stitch) = stitch {
                    for j in 0..M {
                        if ROUND == 1 + j * (ROUNDS - 1) / M {
                            products.add(self.hashed(stitch.blocks[j], j), stitch.weights.power(key, j, M));
                        }
                    }
                }
            });
            if stitch.is_some() {
                self.hash = products.reduce();
            }
            let last_key = round_key::<L>(key, ROUNDS);
            let mut to_hash = [L::zero(); N];
            let mut output = L::zero();
            for j in 0..N {
                output = state[j].aes_last_round(last_key.xor(input.text[j]));
                to_hash[j] = self.emit::<N, SEAL, FIRST, LAST>(j, input.text[j], output);
            }
            self.register += N;
            (to_hash, output)
        }
    }

    /// The block for the hash: the first of a run takes up the hash so far.
    #[inline(always)]
    unsafe fn hashed(&self, block: L, j: usize) -> L {
        // SAFETY: see above.
        unsafe { if j == 0 { block.xor(self.hash) } else { block } }
    }

    #[inline(always)]
    unsafe fn counters<const N: usize, const LAST: bool>(&mut self) -> [L; N] {
        // SAFETY: see above.
        unsafe {
            let mut blocks = [L::zero(); N];
            for block in &mut blocks {
                *block = self.counter.next();
            }
            if LAST {
                blocks[N - 1] = blocks[N - 1].with_last_of(Counter::<L, BIG>::tag_block(self.nonce));
            }
            blocks
        }
    }

    /// The next `N` registers of the text, without moving on.
    #[inline(always)]
    unsafe fn load<const N: usize, const FIRST: bool, const LAST: bool>(&self) -> Group<L, N> {
        // SAFETY: see above.
        unsafe {
            let mut text = [L::zero(); N];
            for (j, text) in text.iter_mut().enumerate() {
                let offset = (self.register + j) * L::BYTES;
                let at = self.base.wrapping_add(offset);
                let first = FIRST && j == 0;
                let from_end = if LAST { N - j } else { usize::MAX };
                *text = if Self::is_edge(first, from_end) {
                    let (from, to) = self.range(first, from_end, offset);
                    L::load_range(at, from, to)
                } else {
                    L::load(at)
                };
            }
            Group { text }
        }
    }

    /// Stores register `j` of the group and returns what is to be hashed of it, bytes reversed.
    #[inline(always)]
    unsafe fn emit<const N: usize, const SEAL: bool, const FIRST: bool, const LAST: bool>(
        &self,
        j: usize,
        input: L,
        output: L,
    ) -> L {
        // SAFETY: see above.
        unsafe {
            let offset = (self.register + j) * L::BYTES;
            let at = self.base.wrapping_add(offset);
            let first = FIRST && j == 0;
            let mut ciphertext = if SEAL { output } else { input };
            let from_end = if LAST { N - j } else { usize::MAX };
            if Self::is_edge(first, from_end) {
                let (from, to) = self.range(first, from_end, offset);
                output.store_range(at, from, to);
                if SEAL {
                    ciphertext = ciphertext.keep_range(from, to);
                }
            } else {
                output.store(at);
            }
            ciphertext.reverse_bytes()
        }
    }

    /// Adds `blocks`, with nothing beside it.
    #[inline(always)]
    unsafe fn absorb<const N: usize>(&mut self, blocks: &[L; N], weights: Weights) {
        // SAFETY: see above.
        unsafe {
            let mut products = Products::zero();
            for (j, block) in blocks.iter().enumerate() {
                products.add(self.hashed(*block, j), weights.power(self.key, j, N));
            }
            self.hash = products.reduce();
        }
    }

    /// Puts L, the block of lengths, where the last register has no text.
    #[inline(always)]
    unsafe fn with_lengths<const N: usize>(&self, mut blocks: [L; N]) -> [L; N] {
        // SAFETY: see above.
        unsafe {
            let lengths = L::in_lane(_mm_loadu_si128(self.bits.cast()), L::LANES - 1);
            blocks[N - 1] = blocks[N - 1].xor(lengths);
            blocks
        }
    }

    /// The tag, of the hash's lanes and the last lane of the last register.
    #[inline(always)]
    unsafe fn tag(&self, last: L) -> __m128i {
        // SAFETY: see above.
        unsafe {
            let hash = super::lanes128::X1(self.hash.fold()).reverse_bytes().0;
            _mm_xor_si128(hash, last.last())
        }
    }

    /// `N` registers of a long packet's head: cipher, then hash.
    #[inline(always)]
    unsafe fn head<const N: usize, const ROUNDS: usize, const SEAL: bool, const FIRST: bool>(&mut self) {
        // SAFETY: see above.
        unsafe {
            let input = self.load::<N, FIRST, false>();
            let (blocks, _) = self.crypt::<N, 0, ROUNDS, SEAL, FIRST, false>(&input, None);
            self.absorb(&blocks, Weights::Within);
        }
    }
}

/// Writes the tag or compares it: without branches upon, or early ends at, what differs.
#[inline(always)]
unsafe fn finish<const SEAL: bool>(job: &mut Job<'_, Key>, tag: __m128i) {
    // SAFETY: see above; `tag` points to 16 bytes.
    unsafe {
        if SEAL {
            _mm_storeu_si128(job.tag.as_mut_ptr().cast(), tag);
            return;
        }
        let difference = _mm_xor_si128(tag, _mm_loadu_si128(job.tag.as_ptr().cast()));
        job.authentic = _mm_testz_si128(difference, difference) == 1;
        if !job.authentic {
            reject(job);
        }
    }
}

/// Clears the text of a packet that is not authentic: not often, and apart from what is.
#[cold]
#[inline(never)]
fn reject(job: &mut Job<'_, Key>) {
    job.text.fill(0);
}

/// `P` packets of exactly `N` registers each, at once.
///
/// # Safety
/// See above; `N` is at most the registers that the powers serve.
#[inline(always)]
pub(super) unsafe fn short<
    L: Lanes,
    const N: usize,
    const P: usize,
    const ROUNDS: usize,
    const SEAL: bool,
>(
    jobs: &mut [&mut Job<'_, Key>; P],
) {
    // SAFETY: see above; each packet is used within the borrow of its job.
    unsafe {
        let mut packets = [const { MaybeUninit::<Packet<L, false>>::uninit() }; P];
        let mut state = [[L::zero(); N]; P];
        for_packets!(P, PACKET => {
            let packet = packets[PACKET].write(Packet::new(jobs[PACKET]));
            state[PACKET] = packet.counters::<N, true>();
            let whitening = round_key::<L>(packet.key, 0);
            for block in &mut state[PACKET] {
                *block = block.xor(whitening);
            }
        });
        for_packets!(P, PACKET => {
            let packet = packets[PACKET].assume_init_mut();
            packet.key = anew(packet.key);
        });
        for_inner_rounds!(ROUNDS, ROUND => {
            for p in 0..P {
                let round_key = round_key::<L>(packets[p].assume_init_ref().key, ROUND);
                for block in &mut state[p] {
                    *block = block.aes_round(round_key).pinned();
                }
            }
        });
        for_packets!(P, PACKET => {
            let packet = packets[PACKET].assume_init_mut();
            let last_key = round_key::<L>(packet.key, ROUNDS);
            let input = packet.load::<N, true, true>();
            let mut blocks = [L::zero(); N];
            let mut output = L::zero();
            for j in 0..N {
                output = state[PACKET][j].aes_last_round(last_key.xor(input.text[j]));
                blocks[j] = packet.emit::<N, SEAL, true, true>(j, input.text[j], output);
            }
            let blocks = packet.with_lengths(blocks);
            packet.absorb(&blocks, Weights::Last);
            let tag = packet.tag(output);
            finish::<SEAL>(jobs[PACKET], tag);
        });
    }
}

/// One packet of more than `G` registers.
///
/// # Safety
/// See above; `G` is at most the registers that the powers serve, and 8; the packet has more than `G`
/// registers, and unless `BIG` no more than 255 lanes in them.
#[inline(always)]
pub(super) unsafe fn long<
    L: Lanes,
    const G: usize,
    const ROUNDS: usize,
    const SEAL: bool,
    const BIG: bool,
>(
    job: &mut Job<'_, Key>,
) {
    // SAFETY: see above.
    unsafe {
        let mut packet = Packet::<L, BIG>::new(job);
        let registers = registers(L::LANES, job.text.len());
        let groups = (registers - 1) / G;
        let head = registers - G * groups;
        packet.head::<1, ROUNDS, SEAL, true>();
        if (head - 1) & 4 != 0 {
            packet.head::<4, ROUNDS, SEAL, false>();
        }
        if (head - 1) & 2 != 0 {
            packet.head::<2, ROUNDS, SEAL, false>();
        }
        if (head - 1) & 1 != 0 {
            packet.head::<1, ROUNDS, SEAL, false>();
        }
        let tag = if SEAL {
            seal_groups::<L, G, ROUNDS, BIG>(&mut packet, groups)
        } else {
            open_groups::<L, G, ROUNDS, BIG>(&mut packet, groups)
        };
        finish::<SEAL>(job, tag);
    }
}

/// The whole groups of a packet to seal, each hashed while the next is encrypted. Returns the tag.
#[inline(always)]
unsafe fn seal_groups<L: Lanes, const G: usize, const ROUNDS: usize, const BIG: bool>(
    packet: &mut Packet<L, BIG>,
    groups: usize,
) -> __m128i {
    let within = |blocks| Some(Stitch::<L, G> { blocks, weights: Weights::Within });
    // SAFETY: see above.
    unsafe {
        let (blocks, output) = if groups == 1 {
            let input = packet.load::<G, false, true>();
            packet.crypt::<G, 0, ROUNDS, true, false, true>(&input, None)
        } else {
            let input = packet.load::<G, false, false>();
            let (mut blocks, _) = packet.crypt::<G, 0, ROUNDS, true, false, false>(&input, None);
            for _ in 2..groups {
                let input = packet.load::<G, false, false>();
                (blocks, _) = packet.crypt::<G, G, ROUNDS, true, false, false>(&input, within(blocks));
            }
            let input = packet.load::<G, false, true>();
            packet.crypt::<G, G, ROUNDS, true, false, true>(&input, within(blocks))
        };
        let blocks = packet.with_lengths(blocks);
        packet.absorb(&blocks, Weights::Last);
        packet.tag(output)
    }
}

/// The whole groups of a packet to open, each hashed while it is decrypted. Returns the tag.
#[inline(always)]
unsafe fn open_groups<L: Lanes, const G: usize, const ROUNDS: usize, const BIG: bool>(
    packet: &mut Packet<L, BIG>,
    groups: usize,
) -> __m128i {
    // SAFETY: see above.
    unsafe {
        for _ in 1..groups {
            let input = packet.load::<G, false, false>();
            let blocks = reversed(&input.text);
            let stitch = Stitch { blocks, weights: Weights::Within };
            let _ = packet.crypt::<G, G, ROUNDS, false, false, false>(&input, Some(stitch));
        }
        let input = packet.load::<G, false, true>();
        let blocks = packet.with_lengths(reversed(&input.text));
        let stitch = Stitch { blocks, weights: Weights::Last };
        let (_, output) = packet.crypt::<G, G, ROUNDS, false, false, true>(&input, Some(stitch));
        packet.tag(output)
    }
}

#[inline(always)]
unsafe fn reversed<L: Lanes, const N: usize>(blocks: &[L; N]) -> [L; N] {
    // SAFETY: see above.
    unsafe {
        let mut reversed = *blocks;
        for block in &mut reversed {
            *block = block.reverse_bytes();
        }
        reversed
    }
}
