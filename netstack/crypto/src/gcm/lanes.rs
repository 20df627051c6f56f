//! What a kernel asks of a register: one to four 16-byte blocks ("lanes") worked on alike.
//!
//! [`body`](super::body) is written once over [`Lanes`]; a kernel is that body compiled for one implementation
//! with the target features it needs. Nothing here is called through anything but inlining: a method that is
//! not inlined into a function with those features would be correct still, and very slow.

use core::arch::x86_64::__m128i;

/// A register of [`LANES`](Self::LANES) blocks.
///
/// # Safety of all methods
/// The CPU has the features that the implementation names. Pointers are valid for the bytes that the
/// method says it touches; none needs to be aligned.
pub(super) trait Lanes: Copy {
    /// Blocks in one register, and bytes.
    const LANES: usize;
    /// Bytes in one register.
    const BYTES: usize = 16 * Self::LANES;

    unsafe fn zero() -> Self;
    /// All bytes of a register.
    unsafe fn load(at: *const u8) -> Self;
    /// All bytes of a register.
    unsafe fn store(self, at: *mut u8);
    /// The bytes `from..to` of the register at `at`, the others zero; touches those bytes only. Of the two
    /// bounds, `from` is a whole number of blocks, and in a register of several blocks `to` cuts none but the
    /// last block but one.
    unsafe fn load_range(at: *const u8, from: usize, to: usize) -> Self;
    /// Writes what [`load_range`](Self::load_range) reads.
    unsafe fn store_range(self, at: *mut u8, from: usize, to: usize);
    /// The bytes `from..to`, the others zero.
    unsafe fn keep_range(self, from: usize, to: usize) -> Self;
    /// The 16 bytes at `at` in every lane.
    unsafe fn broadcast(at: *const u8) -> Self;
    /// `block` in that lane, zero in the others.
    unsafe fn in_lane(block: __m128i, lane: usize) -> Self;
    /// `self` with the last lane of `other`.
    unsafe fn with_last_of(self, other: Self) -> Self;
    /// The last lane.
    unsafe fn last(self) -> __m128i;
    /// The sum (exclusive or) of all lanes.
    unsafe fn fold(self) -> __m128i;
    unsafe fn xor(self, other: Self) -> Self;
    /// Sums of 32-bit numbers.
    unsafe fn add32(self, other: Self) -> Self;
    /// Reverses the bytes of each lane.
    unsafe fn reverse_bytes(self) -> Self;
    /// Reverses the last four bytes of each lane.
    unsafe fn reverse_counter(self) -> Self;
    /// Exchanges the halves of each lane.
    unsafe fn swap_halves(self) -> Self;
    /// The carry-less product, lane by lane, of the half of `self` that bit 0 of `HALVES` names and the half
    /// of `other` that bit 4 names.
    unsafe fn multiply<const HALVES: i32>(self, other: Self) -> Self;
    /// The same, in a register, here: no instruction, but the compiler keeps the order of those around it. Left to
    /// itself it does interleaved packets one after the other, to save registers.
    unsafe fn pinned(self) -> Self;
    /// Which of the bytes equal `byte`, as bits.
    unsafe fn equal_bytes(bytes: &[u8; 64], byte: u8) -> u64;
    unsafe fn aes_round(self, round_key: Self) -> Self;
    unsafe fn aes_last_round(self, round_key: Self) -> Self;
    /// The first `bytes` (at most 16) bytes at `at` as a block, zero behind; touches those only.
    unsafe fn load_block(at: *const u8, bytes: usize) -> __m128i;
}
