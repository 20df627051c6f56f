//! AES-CBC with HMAC-SHA2-256, which is no AEAD: jobs of another kind. The portable kernel is other people's crates `aes`, `cbc`
//! and `sha2`; `ring` has no CBC.

use super::{Contender, Packets, time};
use crypto::cbc_hmac::{BLOCK_BYTES, CbcHmac, Hash, Job, Kernel, Key};

/// Bytes of the cipher's key; the authentication key follows it.
const CIPHER_KEY_BYTES: usize = 16;
const IV: [u8; BLOCK_BYTES] = [0x3c; BLOCK_BYTES];

struct Own {
    cipher: CbcHmac,
    keys: Vec<Key>,
    opens: bool,
    name: String,
}

impl Own {
    fn jobs<'a>(&'a self, packets: &'a mut Packets) -> Vec<Job<'a>> {
        Packets::parts(&mut packets.frames, packets.stride, packets.text_bytes)
            .zip(&packets.keys)
            .map(|((header, text, icv), &key)| Job::new(&self.keys[key], header, &IV, text, &[], icv))
            .collect::<Option<_>>()
            .expect("whole blocks, and an ICV of 16 bytes")
    }
}

impl Contender for Own {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, packets: &mut Packets) -> u64 {
        let sealing = {
            let mut jobs = self.jobs(packets);
            time(|| self.cipher.seal(&mut jobs))
        };
        if !self.opens {
            return sealing;
        }
        let mut jobs = self.jobs(packets);
        let mut rejected = 0;
        let clocks = time(|| rejected = self.cipher.open(&mut jobs));
        assert_eq!(rejected, 0);
        clocks
    }
}

/// Every kernel of this CPU that `wanted` accepts, with these keys.
pub fn all(keys: &[Vec<u8>], wanted: &impl Fn(&str) -> bool) -> Vec<Box<dyn Contender>> {
    let key = |bytes: &Vec<u8>| {
        let (cipher, authentication) = bytes.split_at(CIPHER_KEY_BYTES);
        Key::new(cipher, Hash::Sha256, authentication).expect("lengths of keys")
    };
    let mut all: Vec<Box<dyn Contender>> = Vec::new();
    for cipher in Kernel::ALL.into_iter().rev().filter_map(CbcHmac::with_kernel) {
        for opens in [false, true] {
            let name = format!("cbc-sha256-{}{}", cipher.kernel(), if opens { "-open" } else { "" });
            if wanted(&name) {
                all.push(Box::new(Own { cipher, keys: keys.iter().map(key).collect(), opens, name }));
            }
        }
    }
    all
}
