//! The interface every AEAD here has: jobs over packet bytes, many per call.

/// Bytes of an authentication tag (the ICV of RFC 4106 and RFC 7634).
pub const TAG_BYTES: usize = 16;

/// Bytes of a nonce: for ESP four bytes of salt and eight bytes of IV.
pub const NONCE_BYTES: usize = 12;

/// One packet to seal or to open: `text` is worked on in place, `tag` is written or compared.
///
/// ESP lends all of them from one packet by `split_at_mut`: SPI and sequence number are `aad`, what follows
/// the IV is `text`, the last 16 bytes are `tag`. With extended sequence numbers `aad` is a 12-byte array
/// of the caller.
pub struct Job<'a, K> {
    /// The first counter block with a counter of zero, so that a kernel loads it as it is.
    pub(crate) nonce: [u8; 16],
    /// Bits of text, bits of AAD: the last GHASH block as a little-endian number.
    pub(crate) bits: [u64; 2],
    pub(crate) key: &'a K,
    pub(crate) aad: &'a [u8],
    pub(crate) text: &'a mut [u8],
    pub(crate) tag: &'a mut [u8; TAG_BYTES],
    pub(crate) authentic: bool,
}

impl<'a, K> Job<'a, K> {
    /// A job. The caller guarantees that `nonce` never sealed another text under `key`, and that the text
    /// is within the algorithm's bound (GCM: 2^36 - 32 bytes, ChaCha20-Poly1305: 2^38 - 64).
    #[inline]
    pub fn new(
        key: &'a K,
        nonce: &[u8; NONCE_BYTES],
        aad: &'a [u8],
        text: &'a mut [u8],
        tag: &'a mut [u8; TAG_BYTES],
    ) -> Self {
        // As two words: kernels load the block as a whole.
        let (mut low, mut high) = ([0; 8], [0; 8]);
        low.copy_from_slice(&nonce[..8]);
        high[..4].copy_from_slice(&nonce[8..]);
        let block = u128::from(u64::from_le_bytes(low)) | u128::from(u64::from_le_bytes(high)) << 64;
        let block = block.to_le_bytes();
        let bits = [text.len() as u64 * 8, aad.len() as u64 * 8];
        Self { nonce: block, bits, key, aad, text, tag, authentic: false }
    }

    /// Whether [`Aead::open`] found the tag to be right. False before, and false for a sealed job.
    #[inline]
    #[must_use]
    pub fn is_authentic(&self) -> bool {
        self.authentic
    }

    /// The nonce as it was given.
    #[inline]
    pub(crate) fn nonce(&self) -> [u8; NONCE_BYTES] {
        core::array::from_fn(|i| self.nonce[i])
    }
}

/// An authenticated cipher that works on many packets in one call.
///
/// The jobs of a call may have different keys, lengths and alignments; they do not influence each other, and
/// they are done in an order that suits the kernel. Calls neither allocate nor fail.
pub trait Aead: Send + Sync {
    /// A key made ready for use: the cipher's schedule and whatever else is computed once.
    type Key;

    /// The name of the implementation that does the work, as in `status`.
    fn kernel_name(&self) -> &'static str;

    /// Encrypts each text in place and writes its tag.
    fn seal(&self, jobs: &mut [Job<'_, Self::Key>]);

    /// Verifies and decrypts each text in place; returns how many were rejected.
    ///
    /// A rejected job has [`Job::is_authentic`] false and its text is all zero: neither the ciphertext nor a
    /// plaintext that nobody vouches for is left behind. The tag is left as it was.
    #[must_use = "rejected packets are to be dropped"]
    fn open(&self, jobs: &mut [Job<'_, Self::Key>]) -> usize;
}

/// Whether two tags are equal, in a time that does not depend on where they differ: all bytes are combined
/// before the one comparison. Only the outcome, which is public, may be branched upon.
#[inline]
#[must_use]
pub fn tags_equal(a: &[u8; TAG_BYTES], b: &[u8; TAG_BYTES]) -> bool {
    let difference = u128::from_ne_bytes(*a) ^ u128::from_ne_bytes(*b);
    core::hint::black_box((difference >> 64) as u64 | difference as u64) == 0
}
