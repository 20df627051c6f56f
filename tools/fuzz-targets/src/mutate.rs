//! Changes inputs at random: small errors in what is nearly right, which find more than noise does.

/// Inputs do not grow above this: longer ones cost time and find no more.
const MAX_BYTES: usize = 16 * 1024;

/// Values at which arithmetic and comparisons turn.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX - 7,
    u64::MAX,
];

/// A seeded source of changes.
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// The same seed makes the same changes.
    pub fn new(seed: u64) -> Mutator {
        Mutator { state: seed }
    }

    /// Makes one to eight changes; `other` is an input to take pieces from.
    pub fn change(&mut self, data: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..1 + self.below(8) {
            self.change_once(data, other);
        }
        data.truncate(MAX_BYTES);
    }

    /// A number less than `n`, or 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn change_once(&mut self, data: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(data.len());
        match self.below(9) {
            0 => self.edit(data, at, |byte, random| byte ^ (1 << (random % 8))),
            1 => self.edit(data, at, |_, random| random as u8),
            2 => self.edit(data, at, |byte, random| byte.wrapping_add((random % 9) as u8).wrapping_sub(4)),
            3 => self.write_edge(data, at),
            4 => {
                let end = at + self.below(data.len() - at.min(data.len())).min(64);
                drop(data.drain(at..end));
            }
            5 => {
                let piece = self.piece(other).to_vec();
                drop(data.splice(at..at, piece));
            }
            6 => {
                let piece = self.piece(other).to_vec();
                let end = data.len().min(at + piece.len());
                data[at..end].copy_from_slice(&piece[..end - at]);
            }
            7 => {
                let piece = self.piece(data).to_vec();
                drop(data.splice(at..at, piece));
            }
            _ => data.truncate(at),
        }
    }

    fn edit(&mut self, data: &mut [u8], at: usize, change: fn(u8, u64) -> u8) {
        let random = self.next();
        if let Some(byte) = data.get_mut(at) {
            *byte = change(*byte, random);
        }
    }

    /// Overwrites 1, 2, 4 or 8 bytes, of either byte order.
    fn write_edge(&mut self, data: &mut [u8], at: usize) {
        let value = EDGES[self.below(EDGES.len())];
        let width = [1, 2, 4, 8][self.below(4)];
        let mut bytes = value.to_be_bytes();
        bytes.rotate_left(8 - width);
        if self.below(2) == 0 {
            bytes[..width].reverse();
        }
        for (out, byte) in data.iter_mut().skip(at).zip(&bytes[..width]) {
            *out = *byte;
        }
    }

    fn piece<'a>(&mut self, from: &'a [u8]) -> &'a [u8] {
        let start = self.below(from.len());
        let length = 1 + self.below(64);
        &from[start..from.len().min(start + length)]
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_inputs_stay_bounded() {
        let run = |seed| {
            let mut mutator = Mutator::new(seed);
            let mut data = b"GET / HTTP/1.1".to_vec();
            for _ in 0..20_000 {
                mutator.change(&mut data, b"other input to take pieces from");
                assert!(data.len() <= MAX_BYTES);
                if data.is_empty() {
                    data.extend(b"again");
                }
            }
            data
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn empty_inputs_are_changed_too() {
        let mut mutator = Mutator::new(3);
        for _ in 0..1000 {
            let mut data = Vec::new();
            mutator.change(&mut data, &[]);
        }
    }
}
