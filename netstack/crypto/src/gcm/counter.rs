//! The counter blocks of a packet, a register at a time.

use super::lanes::Lanes;

/// Counter blocks, a register at a time.
///
/// Their first twelve bytes are the nonce, the last four a big-endian number. Below 256 only its last byte
/// changes, which a 32-bit addition of n << 24 does without a carry into another byte: `BIG` counters, of packets
/// beyond 4 KB, are kept little-endian instead and have their bytes reversed each time.
#[derive(Clone, Copy)]
pub(super) struct Counter<L, const BIG: bool>(L);

/// Counters from -2 to 4, in the last four bytes of a block.
struct Start([[u32; 4]; 7]);

impl Start {
    const fn new(big: bool) -> Self {
        let mut blocks = [[0; 4]; 7];
        let mut i = 0;
        while i < 7 {
            let counter = (i as u32).wrapping_sub(2);
            blocks[i][3] = if big { counter } else { counter << 24 };
            i += 1;
        }
        Self(blocks)
    }
}

/// What each step adds to every lane, by the number of lanes.
const fn step(lanes: usize, big: bool) -> [u32; 4] {
    [0, 0, 0, if big { lanes as u32 } else { (lanes as u32) << 24 }]
}

impl<L: Lanes, const BIG: bool> Counter<L, BIG> {
    const START: Start = Start::new(BIG);
    const STEP: [u32; 4] = step(L::LANES, BIG);

    /// The first text block, whose counter is 2, is in lane `blank + 1`.
    #[inline(always)]
    pub(super) unsafe fn new(nonce: *const [u8; 16], blank: usize) -> Self {
        // SAFETY: the CPU has the features of `L`. `blank` is below LANES, at most 3; lane 0 has the counter 1 - blank, that is entry 3 - blank,
        // and the LANES entries from there on are within the seven.
        unsafe {
            let start: &'static Start = &Self::START;
            let start = start.0.as_ptr().cast::<u8>().add(16 * (3 - blank));
            Self(L::broadcast(nonce.cast()).add32(L::load(start)))
        }
    }

    #[inline(always)]
    pub(super) unsafe fn next(&mut self) -> L {
        // SAFETY: the CPU has the features of `L`.
        unsafe {
            let (now, step): (_, &'static [u32; 4]) = (self.0, &Self::STEP);
            self.0 = now.add32(L::broadcast(step.as_ptr().cast()));
            if BIG { now.reverse_counter() } else { now }
        }
    }

    /// The block that masks the tag, in all lanes.
    #[inline(always)]
    pub(super) unsafe fn tag_block(nonce: *const [u8; 16]) -> L {
        static ONE: [u32; 4] = [0, 0, 0, 1 << 24];
        // SAFETY: the CPU has the features of `L`.
        unsafe { L::broadcast(nonce.cast()).add32(L::broadcast(ONE.as_ptr().cast())) }
    }
}
