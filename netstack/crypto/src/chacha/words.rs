//! What the cipher asks of a register: a word of each of several blocks.

/// Keystream blocks, as they lie in memory.
#[repr(C, align(64))]
pub(super) struct Blocks(pub(super) [[u8; 64]; 16]);

/// A register of 32-bit words, one of each of [`LANES`](Self::LANES) blocks.
///
/// # Safety of all methods
/// The CPU has the features that the implementation names.
pub(super) trait Words: Copy {
    /// Blocks worked on at once, at most 16.
    const LANES: usize;

    unsafe fn splat(word: u32) -> Self;
    /// 0, 1, 2, ...
    unsafe fn count() -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn xor(self, other: Self) -> Self;
    /// Rotates each word to the left; `RIGHT` is 32 less `LEFT`.
    unsafe fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self;
    /// Of each of 16 words the register that has it of the first `LANES` blocks.
    unsafe fn load(blocks: &Blocks) -> [Self; 16];
    /// The reverse of [`load`](Self::load).
    unsafe fn store(words: [Self; 16], blocks: &mut Blocks);
}
