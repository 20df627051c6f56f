//! SipHash-1-3 of whole words, the length known when it is compiled: what every new flow costs.
//!
//! Aumasson, Bernstein: SipHash, a fast short-input PRF (2012), with one round for each word and three at the end.

/// The first state, before the key.
const CONSTANTS: [u64; 4] =
    [0x736f_6d65_7073_6575, 0x646f_7261_6e64_6f6d, 0x6c79_6765_6e65_7261, 0x7465_6462_7974_6573];

/// SipHash-1-3 under a key.
#[derive(Clone, Copy)]
pub(crate) struct Sip13([u64; 4]);

impl Sip13 {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let words = key.as_chunks::<8>().0;
        let key = |at: usize| words.get(at % 2).map_or(0, |word| u64::from_le_bytes(*word));
        let mut at = 0..;
        Self(CONSTANTS.map(|constant| constant ^ key(at.next().unwrap_or_default())))
    }

    /// The hash of the words' bytes, least significant first.
    #[inline(always)]
    pub(crate) fn words<const WORDS: usize>(&self, words: [u64; WORDS]) -> u64 {
        // The last word has the length in bytes, in its highest byte.
        let mut state = absorb(words.into_iter().fold(self.0, absorb), (WORDS as u64 * 8) << 56);
        state[2] ^= 0xff;
        let [a, b, c, d] = round(round(round(state)));
        a ^ b ^ c ^ d
    }
}

#[inline(always)]
fn absorb(mut state: [u64; 4], word: u64) -> [u64; 4] {
    state[3] ^= word;
    state = round(state);
    state[0] ^= word;
    state
}

#[inline(always)]
fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    c = c.wrapping_add(d);
    b = b.rotate_left(13) ^ a;
    d = d.rotate_left(16) ^ c;
    a = a.rotate_left(32).wrapping_add(d);
    c = c.wrapping_add(b);
    d = d.rotate_left(21) ^ a;
    b = b.rotate_left(17) ^ c;
    [a, b, c.rotate_left(32), d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    proptest! {
        #[test]
        fn it_is_siphash(key in any::<[u8; 16]>(), words in any::<[u64; 5]>()) {
            let oracle = SipHasher13::new_with_key(&key);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let hasher = Sip13::new(key);
            prop_assert_eq!(hasher.words(words), oracle.hash(&bytes));
            prop_assert_eq!(hasher.words([words[0], words[1]]), oracle.hash(&bytes[..16]));
        }
    }
}
