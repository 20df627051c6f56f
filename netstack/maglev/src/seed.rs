//! The secret that all nodes share, and the independent keys made of it.

use core::fmt;

use siphasher::sip128::SipHasher24;

/// The secret behind a table and behind the hash of packets. Nodes that share load share it.
///
/// The default is all zeros and known to everybody: nodes agree without being told, and whoever sends packets can
/// aim them at a slot. Where that matters, set one.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Seed([u8; 16]);

/// What a key made of the seed is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Offset,
    Skip,
    Packet,
}

impl Seed {
    /// A seed of 128 bits.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The key for one purpose. SipHash-2-4 as a pseudo-random function: keys say nothing about each other.
    pub(crate) fn key(&self, purpose: Purpose) -> [u8; 16] {
        let text: &[u8] = match purpose {
            Purpose::Offset => b"maglev offset",
            Purpose::Skip => b"maglev skip",
            Purpose::Packet => b"maglev packet",
        };
        SipHasher24::new_with_key(&self.0).hash(text).as_bytes()
    }
}

/// Does not show the secret.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}
