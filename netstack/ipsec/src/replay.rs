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
    ///
    /// # Errors
    /// [`EspError::Replayed`]: it was accepted before, or is too old for the window.
    #[inline]
    pub fn check(&self, number: u64) -> Result<(), EspError> {
        let top = self.top();
        if number > top {
            return Ok(());
        }
        if top - number >= self.size {
            return Err(EspError::Replayed);
        }
        let word = self.word(number).load(Ordering::Relaxed);
        match judge(word, number / BLOCK, 1 << (number % BLOCK)) {
            (_, 0) => Ok(()),
            _ => Err(EspError::Replayed),
        }
    }

    /// Accepts a number, once its packet is verified.
    ///
    /// # Errors
    /// [`EspError::Replayed`]: it was accepted before, or has become too old since.
    #[inline]
    pub fn accept(&self, number: u64) -> Result<(), EspError> {
        let mut accepting = self.begin();
        accepting.add(0, number);
        if accepting.finish() == 0 { Ok(()) } else { Err(EspError::Replayed) }
    }

    /// Begins to accept the numbers of several verified packets.
    #[inline]
    pub(crate) fn begin(&self) -> Accepting<'_> {
        let top = self.top();
        Accepting {
            window: self,
            top,
            first_top: top,
            block: 0,
            bits: 0,
            places: [0; BLOCK as usize],
            refused: 0,
        }
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

/// Numbers of verified packets in the order in which these came, with one change of each word that they are in. What
/// [`Window::accept`] would do one by one is done to all.
pub(crate) struct Accepting<'w> {
    window: &'w Window,
    /// The highest number so far, and before.
    top: u64,
    first_top: u64,
    /// Numbers that are not yet in the window: their block, a bit for each, and whose they are.
    block: u64,
    bits: u32,
    places: [u8; BLOCK as usize],
    refused: u64,
}

impl Accepting<'_> {
    /// The number of the packet at `place`, below 64.
    #[inline(always)]
    pub(crate) fn add(&mut self, place: usize, number: u64) {
        let (block, bit) = (number / BLOCK, (number % BLOCK) as usize);
        if number <= self.top && self.top - number >= self.window.size {
            self.refused |= 1 << place;
            return;
        }
        if block != self.block {
            self.write();
            self.block = block;
        }
        if self.bits >> bit & 1 == 1 {
            self.refused |= 1 << place;
            return;
        }
        self.bits |= 1 << bit;
        self.places[bit] = place as u8;
        self.top = self.top.max(number);
    }

    /// Sets the bits of the block, and refuses what had them set.
    #[inline]
    fn write(&mut self) {
        let bits = core::mem::take(&mut self.bits);
        if bits == 0 {
            return;
        }
        let word = self.window.word(self.block * BLOCK);
        let mut seen = word.load(Ordering::Relaxed);
        let mut repeated = loop {
            let (wanted, repeated) = judge(seen, self.block, bits);
            if wanted == seen {
                break repeated;
            }
            match word.compare_exchange_weak(seen, wanted, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break repeated,
                Err(now) => seen = now,
            }
        };
        while repeated != 0 {
            self.refused |= 1 << self.places[repeated.trailing_zeros() as usize];
            repeated &= repeated - 1;
        }
    }

    /// Writes what is left. A bit for each packet that is refused.
    #[inline]
    pub(crate) fn finish(mut self) -> u64 {
        self.write();
        if self.top > self.first_top {
            let _ = self.window.top.fetch_max(self.top, Ordering::AcqRel);
        }
        self.refused
    }
}

/// A word after numbers of a block were accepted into it, and which of them it had already.
#[inline]
fn judge(word: u64, block: u64, bits: u32) -> (u64, u32) {
    // Block numbers are compared within 2^32, so a jump of 2^36 packets is taken for an old one: nothing is accepted
    // twice for it.
    let age = ((word >> 32) as u32).wrapping_sub(block as u32) as i32;
    match age {
        0 => (word | u64::from(bits), word as u32 & bits),
        1.. => (word, bits),
        _ => (pack(block, bits), 0),
    }
}

#[inline]
fn pack(block: u64, bits: u32) -> u64 {
    (block & 0xffff_ffff) << 32 | u64::from(bits)
}
