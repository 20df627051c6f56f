//! AES-CBC by the crates `aes` and `cbc`: the fallback for any CPU, and what the other kernel is tested against. It expands
//! the key once more for each packet: it is not meant to be fast.

use super::Job;
use crate::cpu::vaes_is_wrong;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};
use aes::{Aes128, Aes256};

pub(super) fn encrypt(job: &mut Job<'_>) {
    let (key, iv) = (job.key.cipher.key(), job.iv.into());
    // Each block waits for the one before: the library takes them one by one.
    match key.len() {
        16 => Aes128::new_from_slice(key)
            .map(|aes| cbc::Encryptor::inner_iv_init(aes, iv).encrypt_blocks(job.text)),
        _ => Aes256::new_from_slice(key)
            .map(|aes| cbc::Encryptor::inner_iv_init(aes, iv).encrypt_blocks(job.text)),
    }
    .unwrap_or_default();
}

pub(super) fn decrypt(job: &mut Job<'_>) {
    let (key, iv) = (job.key.cipher.key(), job.iv.into());
    match key.len() {
        16 => Aes128::new_from_slice(key)
            .map(|aes| decrypt_blocks(cbc::Decryptor::inner_iv_init(aes, iv), job.text)),
        _ => Aes256::new_from_slice(key)
            .map(|aes| decrypt_blocks(cbc::Decryptor::inner_iv_init(aes, iv), job.text)),
    }
    .unwrap_or_default();
}

fn decrypt_blocks(
    mut cipher: impl BlockModeDecrypt<BlockSize = aes::cipher::consts::U16>,
    text: &mut [aes::Block],
) {
    if vaes_is_wrong() {
        text.iter_mut().for_each(|block| cipher.decrypt_block(block));
    } else {
        cipher.decrypt_blocks(text);
    }
}
