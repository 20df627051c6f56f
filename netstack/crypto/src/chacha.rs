//! ChaCha20-Poly1305 (RFC 8439), as ESP uses it (RFC 7634): by the crate `chacha20poly1305`, which picks its
//! own implementation by CPUID.

use crate::aead::{Aead, Job};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use core::fmt;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// A key. The crate clears it when it is dropped.
pub struct Key(ChaCha20Poly1305);

impl Key {
    /// The cipher key alone: the salt of RFC 7634 is part of the nonce.
    #[must_use]
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(ChaCha20Poly1305::new(bytes.into()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// ChaCha20-Poly1305.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChaChaPoly;

impl Aead for ChaChaPoly {
    type Key = Key;

    fn kernel_name(&self) -> &'static str {
        "chacha20poly1305"
    }

    fn seal(&self, jobs: &mut [Job<'_, Key>]) {
        for job in jobs {
            let nonce = job.nonce();
            match job.key.0.encrypt_inout_detached((&nonce).into(), job.aad, (&mut *job.text).into()) {
                Ok(tag) => *job.tag = tag.into(),
                // Beyond the algorithm's bound of 256 GiB: nothing is better than plaintext.
                Err(_) => job.text.fill(0),
            }
        }
    }

    fn open(&self, jobs: &mut [Job<'_, Key>]) -> usize {
        let mut rejected = 0;
        for job in jobs {
            let (nonce, tag) = (job.nonce(), (&*job.tag).into());
            let opened =
                job.key.0.decrypt_inout_detached((&nonce).into(), job.aad, (&mut *job.text).into(), tag);
            job.authentic = opened.is_ok();
            if !job.authentic {
                job.text.fill(0);
                rejected += 1;
            }
        }
        rejected
    }
}
