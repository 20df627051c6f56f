//! AES-GCM by the crates `aes` and `ghash`: the fallback for any CPU, and what every other kernel
//! is tested against. It expands the key once more for each packet: it is not meant to be fast.

use super::Key;
use super::key::Cipher;
use crate::aead::{Job, TAG_BYTES, tags_equal};
use aes::Block;
use ghash::GHash;
use ghash::universal_hash::UniversalHash;

/// Blocks handed to the cipher at once.
const BATCH_BLOCKS: usize = 8;

pub(super) fn seal(job: &mut Job<'_, Key>) {
    let cipher = job.key.cipher();
    apply_keystream(&cipher, &job.nonce, job.text);
    *job.tag = tag(&cipher, job);
}

pub(super) fn open(job: &mut Job<'_, Key>) {
    let cipher = job.key.cipher();
    job.authentic = tags_equal(&tag(&cipher, job), job.tag);
    if job.authentic {
        apply_keystream(&cipher, &job.nonce, job.text);
    } else {
        job.text.fill(0);
    }
}

/// The counter block with this counter (SP 800-38D, 7.1: the nonce has 96 bits).
fn counter_block(nonce: &[u8; 16], counter: u32) -> Block {
    let mut block = *nonce;
    block[12..].copy_from_slice(&counter.to_be_bytes());
    block.into()
}

/// Counter mode from counter 2 on: counter 1 is the tag's.
fn apply_keystream(cipher: &Cipher, nonce: &[u8; 16], text: &mut [u8]) {
    let mut counter = 2u32;
    for chunk in text.chunks_mut(16 * BATCH_BLOCKS) {
        let mut keystream = [Block::default(); BATCH_BLOCKS];
        for block in &mut keystream {
            *block = counter_block(nonce, counter);
            counter = counter.wrapping_add(1);
        }
        cipher.encrypt_blocks(&mut keystream);
        for (byte, key) in chunk.iter_mut().zip(keystream.iter().flatten()) {
            *byte ^= key;
        }
    }
}

/// The tag over the AAD and the text, which is ciphertext now.
fn tag(cipher: &Cipher, job: &Job<'_, Key>) -> [u8; TAG_BYTES] {
    let mut blocks = [Block::default(), counter_block(&job.nonce, 1)];
    cipher.encrypt_blocks(&mut blocks);
    let [hash_key, mask] = blocks;
    let mut ghash = GHash::new(&hash_key);
    ghash.update_padded(job.aad);
    ghash.update_padded(job.text);
    let [text_bits, aad_bits] = job.bits;
    ghash.update(&[Block::from((u128::from(aad_bits) << 64 | u128::from(text_bits)).to_be_bytes())]);
    let hash: [u8; TAG_BYTES] = ghash.finalize().into();
    core::array::from_fn(|i| hash[i] ^ mask[i])
}
