//! The anti-replay window (RFC 4303 §3.4.3, in the manner of RFC 6479), shared by all workers without a lock.
//!
//! A ring of words, each a block of 32 sequence numbers: the block's number in the high half, a bit for each number in
//! the low half. A number is accepted by the one compare-exchange that sets its bit. A word only ever gains bits or moves
//! on to a later block, so that nothing can be accepted twice, whatever `top` says at the moment. The ring has one
//! block more than the window covers: while a number is in the window, no number that may be accepted shares its word.

use crate::EspError;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// Sequence numbers of a word.
const BLOCK: u64 = 32;

/// Which sequence numbers were received.
#[derive(Debug)]
pub struct Window {
    /// The highest number accepted.
    top: AtomicU64,
    /// A power of two of words.
    ring: Box<[AtomicU64]>,
    size: u64,
}

impl Window {
    /// A window of `size` numbers, all up to `last` received.
    pub fn new(size: u32, last: u64) -> Self {
        let size = u64::from(size.max(1));
        let blocks = (size.div_ceil(BLOCK) + 1).next_power_of_two();
        let newest = last / BLOCK;
        let word = |place: u64| {
            // The block at this place among the `blocks` that end with the newest.
            let back = (newest.wrapping_sub(place)) & (blocks - 1);
            let bits = if back == 0 { u32::MAX >> (BLOCK - 1 - last % BLOCK) } else { u32::MAX };
            AtomicU64::new(pack(newest.wrapping_sub(back), bits))
        };
        Self { top: AtomicU64::new(last), ring: (0..blocks).map(word).collect(), size }
    }

    /// The highest number accepted; 0 if none was.
    pub fn top(&self) -> u64 {
        self.top.load(Ordering::Acquire)
    }

    /// The 64-bit number that the low half on the wire stands for, seen from the window (RFC 4303 appendix A2.2).
    #[inline]
    pub fn infer(&self, low: u32) -> u64 {
        let top = self.top();
        let (top_high, top_low) = (top >> 32, top as u32);
        let bottom = top_low.wrapping_sub(self.size as u32 - 1);
        let high = if u64::from(top_low) >= self.size - 1 {
            // The window lies within one subspace of 2^32 numbers: below it is the next one.
            if low >= bottom { top_high } else { top_high.wrapping_add(1) }
        } else if low >= bottom {
            // It spans two, and this is the part in the earlier one. There is none before the first.
            top_high.saturating_sub(1)
        } else {
            top_high
        };
        high << 32 | u64::from(low)
    }

    /// Whether a number might be accepted, before its packet is verified.
    #[inline]
    pub fn check(&self, number: u64) -> Result<(), EspError> {
        let top = self.top();
        if number > top {
            return Ok(());
        }
        if top - number >= self.size {
            return Err(EspError::Replayed);
        }
        judge(self.word(number).load(Ordering::Relaxed), number).map(drop)
    }

    /// Accepts a number, once its packet is verified. An error: it was accepted before, or has become too old since.
    #[inline]
    pub fn accept(&self, number: u64) -> Result<(), EspError> {
        let top = self.top();
        if number <= top && top - number >= self.size {
            return Err(EspError::Replayed);
        }
        let word = self.word(number);
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let wanted = judge(seen, number)?;
            match word.compare_exchange_weak(seen, wanted, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        if number > top {
            let _ = self.top.fetch_max(number, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Asks for the word of a number of which only the low half is known.
    #[inline]
    pub(crate) fn prefetch(&self, low: u32) {
        buffer::prefetch_write(self.word(u64::from(low)));
    }

    #[inline]
    fn word(&self, number: u64) -> &AtomicU64 {
        let place = (number / BLOCK) as usize & (self.ring.len() - 1);
        // The ring is never empty, and its length is a power of two.
        &self.ring[place]
    }
}

/// The word after `number` was accepted into it.
#[inline]
fn judge(word: u64, number: u64) -> Result<u64, EspError> {
    let (block, bit) = (number / BLOCK, 1u32 << (number % BLOCK));
    // Block numbers are compared within 2^32, so a jump of 2^36 packets is taken for an old one: nothing is accepted
    // twice for it.
    let age = ((word >> 32) as u32).wrapping_sub(block as u32) as i32;
    match age {
        0 if word as u32 & bit != 0 => Err(EspError::Replayed),
        0 => Ok(word | u64::from(bit)),
        1.. => Err(EspError::Replayed),
        _ => Ok(pack(block, bit)),
    }
}

#[inline]
fn pack(block: u64, bits: u32) -> u64 {
    (block & 0xffff_ffff) << 32 | u64::from(bits)
}
