//! Other people's AES-GCM and ChaCha20-Poly1305.

use super::{Cipher, Contender};

/// A contender of a crate with the interface of `ring`.
macro_rules! peer {
    ($name:ident, $shown:literal) => {
        pub mod $name {
            use super::super::{Cipher, Contender, Packets, time};
            use ::$name::aead::{
                AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
            };

            /// Its keys.
            pub struct Peer(Vec<LessSafeKey>);

            impl Peer {
                /// Makes the keys ready.
                pub fn new(cipher: Cipher, keys: &[Vec<u8>]) -> Self {
                    let algorithm = match cipher {
                        Cipher::Aes128Gcm => &AES_128_GCM,
                        Cipher::Aes256Gcm => &AES_256_GCM,
                        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
                        Cipher::Aes128CbcSha256 => unreachable!("it is no AEAD"),
                    };
                    let key =
                        |key: &Vec<u8>| LessSafeKey::new(UnboundKey::new(algorithm, key).expect("length"));
                    Self(keys.iter().map(key).collect())
                }
            }

            impl Contender for Peer {
                fn name(&self) -> String {
                    $shown.to_owned()
                }

                fn run(&self, packets: &mut Packets) -> u64 {
                    time(|| {
                        let parts = Packets::parts(&mut packets.frames, packets.stride, packets.text_bytes);
                        for ((aad, text, tag), (nonce, &key)) in
                            parts.zip(packets.nonces.iter().zip(&packets.keys))
                        {
                            let nonce = Nonce::assume_unique_for_key(*nonce);
                            let sealed = self.0[key].seal_in_place_separate_tag(nonce, Aad::from(aad), text);
                            tag.copy_from_slice(sealed.expect("sealed").as_ref());
                        }
                    })
                }
            }
        }
    };
}

peer!(ring, "ring");
peer!(aws_lc_rs, "aws-lc-rs");

/// All of them, with these keys.
pub fn all(cipher: Cipher, keys: &[Vec<u8>]) -> Vec<Box<dyn Contender>> {
    vec![Box::new(ring::Peer::new(cipher, keys)), Box::new(aws_lc_rs::Peer::new(cipher, keys))]
}
