//! The node's random numbers: `ChaCha20`, keyed from every source of entropy that the machine has.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Bytes of a key.
pub const SEED_BYTES: usize = 32;

/// A generator that forgets its key after every use, so that who reads its memory learns nothing of the past.
#[derive(Debug)]
pub struct Generator {
    key: [u8; SEED_BYTES],
}

impl Generator {
    /// A generator that nobody has given entropy yet.
    pub const fn new() -> Self {
        Self { key: [0; SEED_BYTES] }
    }

    /// Adds entropy. What the generator knew before stays in it: a source that is known to an attacker takes nothing.
    pub fn mix(&mut self, entropy: &[u8; SEED_BYTES]) {
        for (byte, new) in self.key.iter_mut().zip(entropy) {
            *byte ^= new;
        }
        self.fill(&mut []);
    }

    /// Fills `out` with bytes fit for keys.
    pub fn fill(&mut self, out: &mut [u8]) {
        let mut stream = ChaCha20Rng::from_seed(self.key);
        stream.fill_bytes(&mut self.key);
        stream.fill_bytes(out);
    }
}

impl Default for Generator {
    fn default() -> Self {
        Self::new()
    }
}

/// Condenses readings of a fast counter, taken around work whose duration varies, into a key.
#[derive(Debug, Default)]
pub struct Jitter {
    words: [u64; 4],
    last: u64,
    readings: usize,
}

impl Jitter {
    /// Takes one reading in.
    pub fn add(&mut self, counter: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let delta = counter.wrapping_sub(self.last);
        self.last = counter;
        let word = &mut self.words[self.readings % 4];
        *word = (word.rotate_left(13) ^ delta).wrapping_mul(ODD);
        self.readings += 1;
    }

    /// The key.
    pub fn seed(&self) -> [u8; SEED_BYTES] {
        let mut seed = [0; SEED_BYTES];
        for (bytes, word) in seed.chunks_exact_mut(8).zip(self.words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        seed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(generator: &mut Generator) -> [u8; 64] {
        let mut out = [0; 64];
        generator.fill(&mut out);
        out
    }

    #[test]
    fn never_repeats_and_depends_on_all_entropy() {
        let mut a = Generator::new();
        let mut b = Generator::new();
        assert_eq!(take(&mut a), take(&mut b));
        assert_ne!(take(&mut a), take(&mut a));
        a.mix(&[1; 32]);
        b.mix(&[2; 32]);
        assert_ne!(take(&mut a), take(&mut b));
        // The same entropy again takes nothing away.
        a.mix(&[3; 32]);
        b.mix(&[3; 32]);
        assert_ne!(take(&mut a), take(&mut b));
    }

    #[test]
    fn the_key_is_gone_after_use() {
        let mut generator = Generator::new();
        generator.mix(&[7; 32]);
        let before = generator.key;
        let out = take(&mut generator);
        assert_ne!(generator.key, before);
        assert!(!out.windows(32).any(|window| window == generator.key));
    }

    #[test]
    fn each_reading_counts() {
        let readings = [5u64, 19, 28, 44, 61, 70];
        let mut all = Jitter::default();
        readings.iter().for_each(|r| all.add(*r));
        for changed in 0..readings.len() {
            let mut other = Jitter::default();
            for (index, reading) in readings.iter().enumerate() {
                other.add(reading + u64::from(index == changed));
            }
            assert_ne!(all.seed(), other.seed());
        }
    }
}
