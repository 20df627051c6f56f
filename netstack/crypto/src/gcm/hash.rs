//! GHASH over registers: products, their sum and its reduction. [The module](super) has the mathematics.

use super::Key;
use super::key::POWERS;
use super::lanes::Lanes;

/// The partial products of a GHASH, not reduced: low halves, high halves, and both ways across.
#[derive(Clone, Copy)]
pub(super) struct Products<L> {
    low: L,
    middle: L,
    high: L,
}

// SAFETY (of every unsafe function below): the caller runs them on a CPU that has the features of `L`, with
// everything inlined into a function that enables them, and `key` is a valid key.
impl<L: Lanes> Products<L> {
    #[inline(always)]
    pub(super) unsafe fn zero() -> Self {
        // SAFETY: see above.
        unsafe { Self { low: L::zero(), middle: L::zero(), high: L::zero() } }
    }

    /// Adds `block * power`.
    #[inline(always)]
    pub(super) unsafe fn add(&mut self, block: L, power: L) {
        // SAFETY: see above.
        unsafe {
            self.low = self.low.xor(block.multiply::<0x00>(power));
            self.high = self.high.xor(block.multiply::<0x11>(power));
            self.middle = self.middle.xor(block.multiply::<0x01>(power).xor(block.multiply::<0x10>(power)));
        }
    }

    /// The sum modulo the polynomial, lane by lane: two steps, each of which takes the lowest 64 bits away by
    /// adding the multiple of the polynomial that has the same.
    #[inline(always)]
    pub(super) unsafe fn reduce(self) -> L {
        /// x^127 + x^126 + x^121 of the reflected polynomial, in the upper half.
        static POLYNOMIAL: [u64; 2] = [1, 0xc2 << 56];
        // SAFETY: see above.
        unsafe {
            let polynomial = L::broadcast(POLYNOMIAL.as_ptr().cast());
            let middle = self.middle.xor(self.low.swap_halves()).xor(polynomial.multiply::<0x01>(self.low));
            self.high.xor(middle.swap_halves()).xor(polynomial.multiply::<0x01>(middle))
        }
    }
}

/// By which powers of H the registers of a group are multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weights {
    /// All lanes alike, by the distance to the register after the group: each lane goes on as a hash of its own.
    Within,
    /// Each lane by its distance to the end of the packet: the lanes' sum is the hash.
    Last,
}

impl Weights {
    /// The power for register `j` of the last `n`.
    #[inline(always)]
    pub(super) unsafe fn power<L: Lanes>(self, key: *const Key, j: usize, n: usize) -> L {
        let exponent = L::LANES * (n - j);
        debug_assert!(exponent <= POWERS);
        // SAFETY: `powers` descends from H^16 to H^1, so that LANES of them follow from H^exponent on.
        unsafe {
            let at = (&raw const (*key).powers).cast::<u8>().add(16 * (POWERS - exponent));
            match self {
                Self::Within => L::broadcast(at),
                Self::Last => L::load(at),
            }
        }
    }
}
