//! What an authentic packet may end with: padding, next header, and what is behind the inner packet.

use crate::common::*;
use crypto::cbc_hmac::{self, Hash};
use crypto::{Aead, Job};
use ipsec::{Algorithm, EspError, SaParameters};

const CBC: Algorithm = Algorithm::Aes128CbcHmac(Hash::Sha256);

/// A pair without extended numbers, and the numbers given so far.
struct Forger {
    pair: Pair,
    algorithm: Algorithm,
    number: u32,
}

impl Forger {
    fn new(algorithm: Algorithm) -> Self {
        let pair = Pair::new(SaParameters { esn: false, ..parameters(algorithm, false) });
        Self { pair, algorithm, number: 0 }
    }

    /// An outer packet of this text, trailer included, with the next number.
    fn seal(&mut self, text: &[u8]) -> Vec<u8> {
        self.number += 1;
        let key: Vec<u8> = (0..self.algorithm.key_bytes() as u8).collect();
        let header = [SPI.to_be_bytes(), self.number.to_be_bytes()].concat();
        let (iv, mut text) = ([9; 16], text.to_vec());
        let iv = &iv[..self.algorithm.iv_bytes()];
        let mut icv = [0; 16];
        let suite = self.pair.snapshot.suite();
        if let CBC = self.algorithm {
            let (cipher, authentication) = key.split_at(16);
            let key = cbc_hmac::Key::new(cipher, Hash::Sha256, authentication).expect("its length");
            let iv = iv.try_into().expect("a block");
            let job = cbc_hmac::Job::new(&key, &header, iv, &mut text, &[], &mut icv);
            suite.cbc_hmac.seal(&mut [job.expect("whole blocks")]);
        } else {
            let (cipher, salt) = key.split_at(16);
            let key = crypto::gcm::Key::new(cipher).expect("its length");
            let nonce: [u8; 12] = [salt, iv].concat().try_into().expect("twelve bytes");
            suite.gcm.seal(&mut [Job::new(&key, &nonce, &header, &mut text, &mut icv)]);
        }
        let esp = [&header, iv, &text, &icv[..]].concat();
        let total = (20 + esp.len()) as u16;
        let mut packet = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0, 0, 64, 50, 0, 0];
        packet.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        packet.extend(esp);
        packet
    }

    fn open(&mut self, text: &[u8]) -> Result<Vec<u8>, EspError> {
        let outer = self.seal(text);
        self.pair.open(&outer)
    }

    fn errors(&self, error: EspError) -> u64 {
        self.pair.inbound().counters().errors[error as usize]
    }
}

/// A text that ends in so many bytes of padding, in whole blocks; and the packet in it.
fn padded(padding: u8) -> (Vec<u8>, Vec<u8>) {
    let packet = inner(false, (64 - (30 + usize::from(padding)) % 16) % 16);
    let text = [&packet[..], &(1..=padding).collect::<Vec<_>>(), &[padding, 4]].concat();
    (text, packet)
}

#[test]
fn padding_counts_up_and_is_all_there() {
    for algorithm in [Algorithm::Aes128Gcm, CBC] {
        let mut forger = Forger::new(algorithm);
        let mut refused = 0;
        for padding in 0..=255 {
            let (text, packet) = padded(padding);
            assert_eq!(forger.open(&text), Ok(packet.clone()), "{padding} bytes");
            for at in [0, padding / 2, padding.saturating_sub(1)].into_iter().filter(|at| *at < padding) {
                let mut changed = text.clone();
                changed[packet.len() + usize::from(at)] ^= 0x80;
                assert_eq!(forger.open(&changed), Err(EspError::BadPadding), "byte {at} of {padding}");
                refused += 1;
            }
        }
        // Longer than the packet, and as long as it.
        for padding in [15, 16, 255] {
            let mut text = vec![1; 16];
            text[14..].copy_from_slice(&[padding, 4]);
            assert_eq!(forger.open(&text), Err(EspError::BadPadding));
            refused += 1;
        }
        assert_eq!(forger.errors(EspError::BadPadding), refused);
    }
}

/// Dummy packets are authentic packets of nothing: their number is used up, and they are no error.
#[test]
fn dummy_packets_count_as_such() {
    for algorithm in [Algorithm::Aes128Gcm, CBC] {
        let mut forger = Forger::new(algorithm);
        let dummy = forger.seal(&[0; 14].into_iter().chain([0, 59]).collect::<Vec<_>>());
        assert_eq!(forger.pair.open(&dummy), Err(EspError::Dummy));
        let counters = forger.pair.inbound().counters();
        assert_eq!((counters.packets, counters.last_sequence, counters.last_error), (0, 1, None));
        assert_eq!(forger.pair.open(&dummy), Err(EspError::Replayed));
        assert_eq!((forger.errors(EspError::Dummy), forger.errors(EspError::Replayed)), (1, 1));
    }
}

#[test]
fn the_inner_packet_is_what_the_trailer_says_and_may_be_followed_by_zeroes() {
    for algorithm in [Algorithm::Aes128Gcm, CBC] {
        let mut forger = Forger::new(algorithm);
        let (text, packet) = padded(3);
        for next in [0, 6, 17, 41, 50, 58, 255] {
            let mut changed = text.clone();
            *changed.last_mut().expect("not empty") = next;
            assert_eq!(forger.open(&changed), Err(EspError::BadInner), "next header {next}");
        }
        let behind = [&packet[..], &[0; 64], &text[packet.len()..]].concat();
        assert_eq!(forger.open(&behind), Ok(packet.clone()));
        // Longer than what there is of it.
        let mut longer = text;
        longer[3] += 16;
        assert_eq!(forger.open(&longer), Err(EspError::BadInner));
    }
}
