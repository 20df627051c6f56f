//! An implementation of each cipher.

use crate::cbc_hmac::CbcHmac;
use crate::chacha::ChaChaPoly;
use crate::gcm::Gcm;

/// An implementation of each cipher, all of them of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// AES-GCM.
    pub gcm: Gcm,
    /// ChaCha20-Poly1305.
    pub chacha: ChaChaPoly,
    /// AES-CBC with HMAC-SHA2.
    pub cbc_hmac: CbcHmac,
}

impl Suite {
    /// What goes with an implementation of AES-GCM.
    #[must_use]
    pub fn beside(gcm: Gcm) -> Self {
        Self { gcm, chacha: ChaChaPoly::beside(gcm.kernel()), cbc_hmac: CbcHmac::beside(gcm.kernel()) }
    }
}
