//! The key schedule of AES (FIPS 197, 5.2).

use aes::{Block, hazmat};
use zeroize::Zeroize;

/// Round keys of AES-256, the longest schedule.
pub(crate) const ROUND_KEYS: usize = 15;

/// A schedule by itself.
#[repr(C, align(16))]
pub(crate) struct Schedule {
    pub(crate) round_keys: [[u8; 16]; ROUND_KEYS],
    rounds: u32,
}

impl Schedule {
    /// No key's.
    pub(crate) const EMPTY: Self = Self { round_keys: [[0; 16]; ROUND_KEYS], rounds: 0 };

    /// Of a key of 16 or 32 bytes; None for another length.
    pub(crate) fn new(key: &[u8]) -> Option<Self> {
        let rounds = match key.len() {
            16 => 10,
            32 => 14,
            _ => return None,
        };
        let mut schedule = Self::EMPTY;
        schedule.rounds = rounds;
        expand(key, &mut schedule.round_keys);
        Some(schedule)
    }

    /// The key that it was made of: it begins with it.
    pub(crate) fn key(&self) -> &[u8] {
        let bytes = self.round_keys.as_flattened();
        bytes.get(..if self.rounds == 10 { 16 } else { 32 }).unwrap_or_default()
    }

    /// How many rounds the cipher has.
    #[inline(always)]
    pub(crate) fn rounds(&self) -> usize {
        self.rounds as usize
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.round_keys.zeroize();
    }
}

/// The key schedule (FIPS 197, 5.2) for a key of four or eight words.
pub(crate) fn expand(key: &[u8], round_keys: &mut [[u8; 16]; ROUND_KEYS]) {
    let words = round_keys.as_flattened_mut();
    let (key_words, total_words) = (key.len() / 4, 4 * (key.len() / 4 + 7));
    words[..key.len()].copy_from_slice(key);
    let mut round_constant = 1u8;
    for i in key_words..total_words {
        let mut word = [0; 4];
        word.copy_from_slice(&words[4 * i - 4..4 * i]);
        if i % key_words == 0 {
            word = substitute(word);
            word.rotate_left(1);
            word[0] ^= round_constant;
            round_constant = (round_constant << 1) ^ ((round_constant >> 7) * 0x1b);
        } else if key_words == 8 && i % 8 == 4 {
            word = substitute(word);
        }
        for (j, byte) in word.into_iter().enumerate() {
            words[4 * i + j] = words[4 * (i - key_words) + j] ^ byte;
        }
    }
}

/// The AES S-box over four bytes, in constant time: a cipher round over four equal columns, which the shift
/// of rows leaves alone, without its mixing of columns.
fn substitute(word: [u8; 4]) -> [u8; 4] {
    let mut block = Block::from(core::array::from_fn(|i| word[i % 4]));
    hazmat::cipher_round(&mut block, &Block::default());
    hazmat::inv_mix_columns(&mut block);
    [block[0], block[1], block[2], block[3]]
}
