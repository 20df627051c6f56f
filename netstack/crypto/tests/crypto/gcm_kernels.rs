//! AES-GCM: every kernel that this CPU runs against the portable one.

use crate::common::{Packet, open, seal};
use crypto::gcm::{Gcm, Kernel, Key};
use crypto::{Aead, Job};
use proptest::prelude::*;

fn keys() -> Vec<Key> {
    (0..7u8)
        .map(|i| Key::new(&[i.wrapping_mul(91) ^ 0x5a; 32][..16 + usize::from(i % 2) * 16]).unwrap())
        .collect()
}

fn reference() -> Gcm {
    Gcm::with_kernel(Kernel::Portable).unwrap()
}

fn kernels() -> Vec<Gcm> {
    Kernel::ALL.into_iter().skip(1).filter_map(Gcm::with_kernel).collect()
}

/// Bytes that differ from place to place.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn packet(seed: u64, text: usize, aad: usize) -> Packet {
    let nonce = bytes(seed ^ 1, 12).try_into().unwrap();
    Packet { nonce, aad: bytes(seed ^ 2, aad), text: bytes(seed, text), tag: [0; 16] }
}

/// Every length up to beyond two groups of the widest kernel, in one batch: all shapes and remainders.
#[test]
fn every_length() {
    let keys = keys();
    for aad in [8, 12, 0, 16, 20] {
        let plain: Vec<_> = (0..700).map(|len| packet(len as u64, len, aad)).collect();
        let of: Vec<_> = (0..plain.len()).map(|i| &keys[i % keys.len()]).collect();
        let mut expected = plain.clone();
        seal(&reference(), &of, &mut expected);
        for gcm in kernels() {
            let mut packets = plain.clone();
            seal(&gcm, &of, &mut packets);
            for (i, (packet, expected)) in packets.iter().zip(&expected).enumerate() {
                assert_eq!(packet, expected, "{} seals {i} bytes", gcm.kernel_name());
            }
            assert!(open(&gcm, &of, &mut packets).into_iter().all(|authentic| authentic));
            for (i, (packet, plain)) in packets.iter().zip(&plain).enumerate() {
                assert_eq!(packet.text, plain.text, "{} opens {i} bytes", gcm.kernel_name());
            }
        }
    }
}

/// Counters that need a second and a third byte.
#[test]
fn long_texts() {
    let keys = keys();
    for len in [3_900, 4_031, 4_032, 4_048, 4_064, 4_080, 4_096, 4_112, 9_000, 65_535, 1_048_577 + 16] {
        let of = [&keys[0], &keys[1]];
        let plain = [packet(1, len, 8), packet(2, len + 1, 12)];
        let mut expected = plain.clone();
        seal(&reference(), &of, &mut expected);
        for gcm in kernels() {
            let mut packets = plain.clone();
            seal(&gcm, &of, &mut packets);
            assert!(packets == expected, "{} seals {len} bytes", gcm.kernel_name());
            assert_eq!(open(&gcm, &of, &mut packets), [true, true]);
            assert!(packets[0].text == plain[0].text && packets[1].text == plain[1].text);
        }
    }
}

/// Nothing outside of text and tag is touched, wherever they lie.
#[test]
fn neighbours_are_left_alone() {
    let keys = keys();
    for gcm in kernels() {
        for offset in 0..65 {
            for len in (0..80).chain([223, 224, 225, 300, 1_424]) {
                let mut memory = bytes(7, 65 + len + 16 + 64);
                let original = memory.clone();
                let mut run = |seal: bool| {
                    let (text, rest) = memory[offset..].split_at_mut(len);
                    let tag = rest.first_chunk_mut().unwrap();
                    let mut job = [Job::new(&keys[len % 7], &[9; 12], &[1; 8], text, tag)];
                    if seal { gcm.seal(&mut job) } else { assert_eq!(gcm.open(&mut job), 0) }
                };
                run(true);
                run(false);
                let end = offset + len;
                assert_eq!(memory[..end], original[..end]);
                assert_eq!(memory[end + 16..], original[end + 16..]);
            }
        }
    }
}

/// What is changed on the way.
#[derive(Clone, Copy, Debug)]
enum Tamper {
    Nothing,
    Text(usize),
    Aad(usize),
    Tag(usize),
    Nonce(usize),
}

fn tamper() -> impl Strategy<Value = Tamper> {
    prop_oneof![
        3 => Just(Tamper::Nothing),
        1 => any::<usize>().prop_map(Tamper::Text),
        1 => any::<usize>().prop_map(Tamper::Aad),
        1 => any::<usize>().prop_map(Tamper::Tag),
        1 => (0..96usize).prop_map(Tamper::Nonce),
    ]
}

/// Flips bit `bit` of `bytes`, taken modulo their length; says whether there was one.
fn flip(bytes: &mut [u8], bit: usize) -> bool {
    let bits = bytes.len() * 8;
    if bits > 0 {
        bytes[bit % bits / 8] ^= 1 << (bit % 8);
    }
    bits > 0
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..300usize, 2 => 300..1_600usize, 1 => 1_600..10_000usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// A stream of packets of mixed sizes and keys, some changed on the way: every kernel seals as the reference
    /// does, opens what is intact, and clears what is not.
    #[test]
    fn mixed_streams(
        shapes in prop::collection::vec((any::<u64>(), length(), 0..40usize, 0..7usize, tamper()), 0..300),
    ) {
        let keys = keys();
        let of: Vec<_> = shapes.iter().map(|shape| &keys[shape.3]).collect();
        let plain: Vec<_> = shapes.iter().map(|&(seed, text, aad, ..)| packet(seed, text, aad)).collect();
        let mut sealed = plain.clone();
        seal(&reference(), &of, &mut sealed);
        let mut received = sealed.clone();
        let intact: Vec<_> = received
            .iter_mut()
            .zip(&shapes)
            .map(|(packet, shape)| match shape.4 {
                Tamper::Nothing => true,
                Tamper::Text(bit) => !flip(&mut packet.text, bit),
                Tamper::Aad(bit) => !flip(&mut packet.aad, bit),
                Tamper::Tag(bit) => !flip(&mut packet.tag, bit),
                Tamper::Nonce(bit) => !flip(&mut packet.nonce, bit),
            })
            .collect();
        for gcm in kernels().into_iter().chain([reference()]) {
            let mut packets = plain.clone();
            seal(&gcm, &of, &mut packets);
            prop_assert!(packets == sealed, "{}", gcm.kernel_name());
            let mut packets = received.clone();
            prop_assert_eq!(&open(&gcm, &of, &mut packets), &intact, "{}", gcm.kernel_name());
            for ((packet, plain), intact) in packets.iter().zip(&plain).zip(&intact) {
                let expected = if *intact { plain.text.clone() } else { vec![0; plain.text.len()] };
                prop_assert_eq!(&packet.text, &expected, "{}", gcm.kernel_name());
            }
        }
    }
}
