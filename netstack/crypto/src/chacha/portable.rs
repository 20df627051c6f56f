//! ChaCha20-Poly1305 by the crate `chacha20poly1305`: the fallback for any CPU, and what every other kernel is tested
//! against.

use super::Key;
use crate::aead::Job;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};

pub(super) fn seal(job: &mut Job<'_, Key>) {
    let (cipher, nonce) = (ChaCha20Poly1305::new(&job.key.bytes().into()), job.nonce());
    match cipher.encrypt_inout_detached((&nonce).into(), job.aad, (&mut *job.text).into()) {
        Ok(tag) => *job.tag = tag.into(),
        // Beyond the algorithm's bound of 256 GiB: nothing is better than plaintext.
        Err(_) => job.text.fill(0),
    }
}

pub(super) fn open(job: &mut Job<'_, Key>) {
    let (cipher, nonce) = (ChaCha20Poly1305::new(&job.key.bytes().into()), job.nonce());
    let tag = (&*job.tag).into();
    let opened = cipher.decrypt_inout_detached((&nonce).into(), job.aad, (&mut *job.text).into(), tag);
    job.authentic = opened.is_ok();
    if !job.authentic {
        job.text.fill(0);
    }
}
