//! ChaCha20-Poly1305: published vectors, and every kernel against the reference.

use crate::common::{Packet, check_vector, field, hex, open, seal, wycheproof};
use crypto::chacha::{ChaChaPoly, Kernel, Key};
use crypto::{Aead, Job};
use proptest::prelude::*;

/// The kernels of this CPU. Names those it lacks, so that nobody takes them for tested.
fn kernels() -> Vec<ChaChaPoly> {
    let (run, lacking): (Vec<_>, Vec<_>) =
        Kernel::ALL.into_iter().partition(|kernel| ChaChaPoly::with_kernel(*kernel).is_some());
    println!("run: {run:?}; not run, for lack of CPU features: {lacking:?}");
    run.into_iter().filter_map(ChaChaPoly::with_kernel).collect()
}

#[test]
fn wycheproof_vectors() {
    let (mut run, mut of_other_shape) = (0, 0);
    for group in wycheproof("chacha20_poly1305") {
        for vector in group["tests"].as_array().unwrap() {
            let Ok(nonce) = field(vector, "iv").try_into() else {
                of_other_shape += 1;
                continue;
            };
            let key = Key::new(&field(vector, "key").try_into().unwrap());
            let tag = field(vector, "tag").try_into().unwrap();
            let sealed = Packet { nonce, aad: field(vector, "aad"), text: field(vector, "ct"), tag };
            let valid = vector["result"] == "valid";
            let name = format!("tcId {}", vector["tcId"]);
            for cipher in kernels() {
                check_vector(&cipher, &key, &field(vector, "msg"), &sealed, valid, &name);
            }
            run += 1;
        }
    }
    assert_eq!((run, of_other_shape), (316, 9));
}

/// RFC 8439, section 2.8.2, and RFC 7634, appendix A.
#[test]
fn vectors_of_the_rfcs() {
    let sunscreen =
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
        sunscreen would be it.";
    let rfc_8439 = (
        "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        "070000004041424344454647",
        "50515253c0c1c2c3c4c5c6c7",
        sunscreen.to_vec(),
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
         1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
         3ff4def08e4b7a9de576d26586cec64b6116",
        "1ae10b594f09e26a7e902ecbd0600691",
    );
    let rfc_7634 = (
        "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        "a0a1a2a31011121314151617",
        "0102030400000005",
        hex("45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f1011\
             12131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363701020204"),
        "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f7\
         2aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0",
        "76aaa8266b7fb0f7b11b369907e1ad43",
    );
    for (key, nonce, aad, plain, text, tag) in [rfc_8439, rfc_7634] {
        let key = Key::new(&hex(key).try_into().unwrap());
        let (nonce, tag) = (hex(nonce).try_into().unwrap(), hex(tag).try_into().unwrap());
        let sealed = Packet { nonce, aad: hex(aad), text: hex(text), tag };
        for cipher in kernels() {
            check_vector(&cipher, &key, &plain, &sealed, true, "of an RFC");
        }
    }
}

/// Hashes at the edges of p and of limbs: bytes that are all ones or nearly so, in every length of a few rows.
#[test]
fn extreme_texts() {
    let reference = ChaChaPoly::with_kernel(Kernel::Portable).unwrap();
    let keys = [[0; 32], [0xff; 32]].map(|key| Key::new(&key));
    for byte in [0, 0xff, 0xfb, 0xfe, 0x80] {
        let plain: Vec<_> = (0..300)
            .map(|len| Packet {
                nonce: [byte; 12],
                aad: vec![byte; len % 21],
                text: vec![byte; len],
                tag: [byte; 16],
            })
            .collect();
        let of: Vec<_> = (0..plain.len()).map(|i| &keys[i % 2]).collect();
        let mut expected = plain.clone();
        // The ciphertext itself is extreme: what is opened is hashed as it is.
        let _ = open(&reference, &of, &mut expected);
        for cipher in kernels() {
            let mut packets = plain.clone();
            let _ = open(&cipher, &of, &mut packets);
            assert_eq!(packets, expected, "{}", cipher.kernel_name());
        }
    }
}

/// Every length up to beyond two registers of the widest kernel, with AAD of all lengths, in one batch.
#[test]
fn every_length() {
    let keys: Vec<_> = (0..7u8).map(|i| Key::new(&[i; 32])).collect();
    let plain: Vec<_> = (0..2_200)
        .map(|len: usize| Packet {
            nonce: std::array::from_fn(|i| (len * 7 + i) as u8),
            aad: (0..len % 37).map(|i| i as u8).collect(),
            text: (0..len).map(|i| (i * len) as u8).collect(),
            tag: [0; 16],
        })
        .collect();
    let of: Vec<_> = (0..plain.len()).map(|i| &keys[i % 7]).collect();
    let mut expected = plain.clone();
    seal(&ChaChaPoly::with_kernel(Kernel::Portable).unwrap(), &of, &mut expected);
    for cipher in kernels() {
        let mut packets = plain.clone();
        seal(&cipher, &of, &mut packets);
        for (len, (packet, expected)) in packets.iter().zip(&expected).enumerate() {
            assert_eq!(packet, expected, "{} seals {len} bytes", cipher.kernel_name());
        }
        assert!(open(&cipher, &of, &mut packets).into_iter().all(|authentic| authentic));
        assert!(packets.iter().zip(&plain).all(|(packet, plain)| packet.text == plain.text));
    }
}

/// Nothing outside of text and tag is touched, wherever they lie.
#[test]
fn neighbours_are_left_alone() {
    let key = Key::new(&[7; 32]);
    for cipher in kernels() {
        for offset in 0..65 {
            for len in (0..70).chain([127, 128, 129, 1_023, 1_025, 1_424]) {
                let original: Vec<_> = (0..65 + len + 16 + 64).map(|i| (i * 31) as u8).collect();
                let mut memory = original.clone();
                for sealing in [true, false] {
                    let (text, rest) = memory[offset..].split_at_mut(len);
                    let tag = rest.first_chunk_mut().unwrap();
                    let mut job = [Job::new(&key, &[9; 12], &[1; 8], text, tag)];
                    if sealing { cipher.seal(&mut job) } else { assert_eq!(cipher.open(&mut job), 0) }
                }
                let end = offset + len;
                assert_eq!(memory[..end], original[..end]);
                assert_eq!(memory[end + 16..], original[end + 16..]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A stream of packets of mixed sizes and keys, some changed on the way: every kernel seals as the reference does,
    /// opens what is intact, and clears what is not.
    #[test]
    fn mixed_streams(
        shapes in prop::collection::vec(
            (any::<u64>(), prop_oneof![3 => 0..300usize, 1 => 300..5_000usize], 0..40usize, 0..7u8, any::<bool>()),
            0..70,
        ),
    ) {
        let keys: Vec<_> = (0..7u8).map(|i| Key::new(&[i ^ 0x5a; 32])).collect();
        let of: Vec<_> = shapes.iter().map(|shape| &keys[usize::from(shape.3)]).collect();
        let plain: Vec<_> = shapes
            .iter()
            .map(|&(seed, text, aad, ..)| Packet {
                nonce: std::array::from_fn(|i| (seed >> (5 * i)) as u8),
                aad: (0..aad as u64).map(|i| (seed >> (i % 57)) as u8).collect(),
                text: (0..text as u64).map(|i| (seed.wrapping_mul(i + 3) >> 29) as u8).collect(),
                tag: [0; 16],
            })
            .collect();
        let mut sealed = plain.clone();
        seal(&ChaChaPoly::with_kernel(Kernel::Portable).unwrap(), &of, &mut sealed);
        let mut received = sealed.clone();
        for (packet, shape) in received.iter_mut().zip(&shapes) {
            if shape.4 {
                let bit = shape.0 as usize % (8 * (packet.text.len() + 16));
                match packet.text.get_mut(bit / 8) {
                    Some(byte) => *byte ^= 1 << (bit % 8),
                    None => packet.tag[bit / 8 - packet.text.len()] ^= 1 << (bit % 8),
                }
            }
        }
        for cipher in kernels() {
            let mut packets = plain.clone();
            seal(&cipher, &of, &mut packets);
            prop_assert!(packets == sealed, "{}", cipher.kernel_name());
            let mut packets = received.clone();
            let authentic = open(&cipher, &of, &mut packets);
            for (((packet, plain), shape), authentic) in packets.iter().zip(&plain).zip(&shapes).zip(authentic) {
                prop_assert_eq!(authentic, !shape.4);
                let expected = if shape.4 { vec![0; plain.text.len()] } else { plain.text.clone() };
                prop_assert_eq!(&packet.text, &expected, "{}", cipher.kernel_name());
            }
        }
    }
}
