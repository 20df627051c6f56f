//! AES-CBC with HMAC-SHA2: published vectors, and what is not authentic.

use crate::common::{field, hex, wycheproof};
use crypto::cbc_hmac::{CbcHmac, Hash, Job, Kernel, Key, KeyLengthError};
use proptest::prelude::*;

const HASHES: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

/// The kernels of this CPU. Names those it lacks, so that nobody takes them for tested.
fn kernels() -> Vec<CbcHmac> {
    let (run, lacking): (Vec<_>, Vec<_>) =
        Kernel::ALL.into_iter().partition(|kernel| CbcHmac::with_kernel(*kernel).is_some());
    println!("run: {run:?}; not run, for lack of CPU features: {lacking:?}");
    run.into_iter().filter_map(CbcHmac::with_kernel).collect()
}

fn key(cipher: &[u8], hash: Hash) -> Key {
    Key::new(cipher, hash, &[7; 64][..hash.key_bytes()]).unwrap()
}

/// Wycheproof's vectors have PKCS #5 padding, which is not ESP's: those with a padding that is right.
#[test]
fn wycheproof_cipher_vectors() {
    let (mut run, mut of_other_shape) = (0, 0);
    for group in wycheproof("aes_cbc_pkcs5") {
        for vector in group["tests"].as_array().unwrap() {
            let cipher_key = field(vector, "key");
            if vector["result"] != "valid" || cipher_key.len() == 24 {
                of_other_shape += 1;
                continue;
            }
            let key = key(&cipher_key, Hash::Sha256);
            let (mut plain, iv) = (field(vector, "msg"), field(vector, "iv").try_into().unwrap());
            let padding = 16 - plain.len() % 16;
            plain.resize(plain.len() + padding, padding as u8);
            let (mut text, mut icv) = (plain.clone(), [0; 16]);
            for kernel in kernels() {
                kernel.seal(&mut [Job::new(&key, &[], &iv, &mut text, &[], &mut icv).unwrap()]);
                assert_eq!(text, field(vector, "ct"), "{vector}");
                assert_eq!(
                    kernel.open(&mut [Job::new(&key, &[], &iv, &mut text, &[], &mut icv).unwrap()]),
                    0
                );
                assert_eq!(text, plain, "{vector}");
            }
            run += 1;
        }
    }
    assert_eq!((run, of_other_shape), (48, 168));
}

/// A message of at least a block is authenticated as header, IV and trailer of an empty text.
#[test]
fn wycheproof_authentication_vectors() {
    let (mut run, mut of_other_shape) = (0, 0);
    for (hash, name) in HASHES.into_iter().zip(["hmac_sha256", "hmac_sha384", "hmac_sha512"]) {
        for group in wycheproof(name) {
            for vector in group["tests"].as_array().unwrap() {
                let (authentication, message) = (field(vector, "key"), field(vector, "msg"));
                let icv = field(vector, "tag");
                let key = Key::new(&[0; 16], hash, &authentication);
                let (Ok(key), Some((iv, rest)), true) =
                    (key, message.split_first_chunk(), icv.len() == hash.icv_bytes())
                else {
                    of_other_shape += 1;
                    continue;
                };
                let valid = vector["result"] == "valid";
                // Enough of them that they are hashed side by side.
                for (kernel, copies) in kernels().into_iter().flat_map(|kernel| [(kernel, 1), (kernel, 5)]) {
                    let mut icvs = vec![icv.clone(); copies];
                    let job = |icv| Job::new(&key, &[], iv, &mut [], rest, icv).unwrap();
                    let mut jobs: Vec<_> = icvs.iter_mut().map(Vec::as_mut_slice).map(job).collect();
                    assert_eq!(kernel.open(&mut jobs), if valid { 0 } else { copies }, "{kernel:?} {vector}");
                }
                run += 1;
            }
        }
    }
    assert_eq!((run, of_other_shape), (114, 408));
}

/// ESP packets of another implementation, with 20 bytes of IPv4 or 40 of IPv6 before them.
#[test]
fn esp_packets() {
    let path = format!("{}/tests/data/dpdk-esp-vectors.json", env!("CARGO_MANIFEST_DIR"));
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut run = 0;
    for vector in json["vectors"].as_array().unwrap() {
        let hash = match vector["algos"][1].as_str() {
            Some("AUTH_SHA256_HMAC") => Hash::Sha256,
            Some("AUTH_SHA384_HMAC") => Hash::Sha384,
            Some("AUTH_SHA512_HMAC") => Hash::Sha512,
            _ => continue,
        };
        if vector["algos"][0] != "CIPHER_AES_CBC" {
            continue;
        }
        let key = Key::new(&field(vector, "key"), hash, &field(vector, "auth_key")).unwrap();
        let packet = field(vector, "esp_ip");
        for (kernel, mut esp) in kernels()
            .into_iter()
            .map(|kernel| (kernel, packet[if packet[0] >> 4 == 4 { 20 } else { 40 }..].to_vec()))
        {
            let (header, rest) = esp.split_at_mut(8);
            let (iv, rest) = rest.split_first_chunk_mut::<16>().unwrap();
            let (text, icv) = rest.split_at_mut(rest.len() - hash.icv_bytes());
            let (sealed, sealed_icv) = (text.to_vec(), icv.to_vec());
            assert_eq!(
                kernel.open(&mut [Job::new(&key, header, iv, text, &[], icv).unwrap()]),
                0,
                "{vector}"
            );
            let plain = field(vector, "plaintext_ip");
            assert_eq!(text[..plain.len()], plain, "{vector}");
            icv.fill(0);
            kernel.seal(&mut [Job::new(&key, header, iv, text, &[], icv).unwrap()]);
            assert_eq!((&*text, &*icv), (&*sealed, &*sealed_icv), "{vector}");
        }
        run += 1;
    }
    assert_eq!(run, 4);
}

/// RFC 3602, section 4, case 3.
#[test]
fn rfc_3602() {
    let key = key(&hex("6c3ea0477630ce21a2ce334aa746c2cd"), Hash::Sha256);
    let iv = hex("c782dc4c098c66cbd9cd27d825682c81").try_into().unwrap();
    let expected = "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5\
                    021c19216bad525c8579695d83ba2684";
    for kernel in kernels() {
        let mut text = *b"This is a 48-byte message (exactly 3 AES blocks)";
        kernel.seal(&mut [Job::new(&key, &[], &iv, &mut text, &[], &mut [0; 16]).unwrap()]);
        assert_eq!(text.to_vec(), hex(expected));
    }
}

#[test]
fn other_lengths_are_refused() {
    assert_eq!(Key::new(&[0; 24], Hash::Sha256, &[0; 32]).unwrap_err(), KeyLengthError::Cipher { bytes: 24 });
    for hash in HASHES {
        let bytes = hash.key_bytes() + 1;
        let error = Key::new(&[0; 16], hash, &[0; 65][..bytes]).unwrap_err();
        assert_eq!(error, KeyLengthError::Authentication { bytes, hash });
        let key = key(&[0; 32], hash);
        let (iv, icv) = ([0; 16], hash.icv_bytes());
        assert!(Job::new(&key, &[], &iv, &mut [0; 17], &[], &mut [0; 32][..icv]).is_none());
        assert!(Job::new(&key, &[], &iv, &mut [0; 16], &[], &mut [0; 33][..icv + 1]).is_none());
    }
}

/// By the crates `cbc` and `hmac`, one packet after the other.
fn reference(
    cipher: &[u8],
    hash: Hash,
    header: &[u8],
    iv: &[u8; 16],
    text: &mut [u8],
    trailer: &[u8],
) -> Vec<u8> {
    use aes::cipher::{BlockModeEncrypt, KeyIvInit};
    use hmac::{KeyInit, Mac};
    let (blocks, _) = aes::Block::slice_as_chunks_mut(text);
    match cipher.len() {
        16 => cbc::Encryptor::<aes::Aes128>::new_from_slices(cipher, iv).unwrap().encrypt_blocks(blocks),
        _ => cbc::Encryptor::<aes::Aes256>::new_from_slices(cipher, iv).unwrap().encrypt_blocks(blocks),
    }
    let key = &[7; 64][..hash.key_bytes()];
    let message = [header, iv, text, trailer].concat();
    let mac = match hash {
        Hash::Sha256 => hmac::Hmac::<sha2::Sha256>::new_from_slice(key)
            .unwrap()
            .chain_update(message)
            .finalize()
            .into_bytes()
            .to_vec(),
        Hash::Sha384 => hmac::Hmac::<sha2::Sha384>::new_from_slice(key)
            .unwrap()
            .chain_update(message)
            .finalize()
            .into_bytes()
            .to_vec(),
        Hash::Sha512 => hmac::Hmac::<sha2::Sha512>::new_from_slice(key)
            .unwrap()
            .chain_update(message)
            .finalize()
            .into_bytes()
            .to_vec(),
    };
    mac[..hash.icv_bytes()].to_vec()
}

/// A packet as it lies in memory: header, IV, text, trailer, ICV.
#[derive(Clone, Debug, PartialEq)]
struct Packet {
    header: Vec<u8>,
    iv: [u8; 16],
    text: Vec<u8>,
    trailer: Vec<u8>,
    icv: Vec<u8>,
}

fn jobs<'a>(keys: &'a [Key], of: &[usize], packets: &'a mut [Packet]) -> Vec<Job<'a>> {
    let job = |(of, packet): (&usize, &'a mut Packet)| {
        let Packet { header, iv, text, trailer, icv } = packet;
        Job::new(&keys[*of], header, iv, text, trailer, icv).unwrap()
    };
    of.iter().zip(packets).map(job).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A stream of packets of mixed sizes, keys and hashes: every kernel seals as the reference does, opens what is intact,
    /// and clears what is not.
    #[test]
    fn mixed_streams(
        shapes in prop::collection::vec((0..6usize, 0..120usize, any::<bool>(), any::<u8>(), 0..40usize), 0..150),
    ) {
        let ciphers = [&[1; 16][..], &[2; 32]];
        let keys: Vec<_> = (0..6).map(|i| key(ciphers[i % 2], HASHES[i / 2])).collect();
        let of: Vec<_> = shapes.iter().map(|shape| shape.0).collect();
        let packet = |&(which, blocks, trailer, seed, header): &(usize, usize, bool, u8, usize)| Packet {
            header: vec![seed; header],
            iv: std::array::from_fn(|i| seed ^ i as u8),
            text: (0..16 * blocks).map(|i| seed.wrapping_mul(i as u8)).collect(),
            trailer: vec![seed; if trailer { 4 } else { 0 }],
            icv: vec![0; HASHES[which / 2].icv_bytes()],
        };
        let plain: Vec<_> = shapes.iter().map(packet).collect();
        let mut sealed = plain.clone();
        for (packet, which) in sealed.iter_mut().zip(&of) {
            let Packet { header, iv, text, trailer, icv } = packet;
            *icv = reference(ciphers[which % 2], HASHES[which / 2], header, iv, text, trailer);
        }
        let mut received = sealed.clone();
        let broken: Vec<_> = shapes.iter().map(|shape| shape.3 % 5 == 0).collect();
        for (packet, broken) in received.iter_mut().zip(&broken) {
            packet.icv[3] ^= u8::from(*broken) << 3;
        }
        for kernel in kernels() {
            let mut packets = plain.clone();
            kernel.seal(&mut jobs(&keys, &of, &mut packets));
            prop_assert_eq!(&packets, &sealed, "{:?}", kernel);
            let mut packets = received.clone();
            let mut opened = jobs(&keys, &of, &mut packets);
            prop_assert_eq!(kernel.open(&mut opened), broken.iter().filter(|broken| **broken).count());
            let authentic: Vec<_> = opened.iter().map(Job::is_authentic).collect();
            drop(opened);
            for (((packet, plain), broken), authentic) in packets.iter().zip(&plain).zip(&broken).zip(authentic) {
                prop_assert_eq!(authentic, !broken);
                let expected = if *broken { vec![0; plain.text.len()] } else { plain.text.clone() };
                prop_assert_eq!(&packet.text, &expected, "{:?}", kernel);
            }
        }
    }
}

proptest! {
    /// Whatever bit of header, IV, text, trailer or ICV changes, the packet is rejected and cleared, and its
    /// neighbours are not.
    #[test]
    fn changes_are_rejected(blocks in 0..100usize, which in 0..3usize, bit in any::<prop::sample::Index>()) {
        let hash = HASHES[which];
        let key = key(&[3; 32], hash);
        let parts = [8, 16, 16 * blocks, 4, hash.icv_bytes()];
        let mut packets = [vec![1u8; parts.iter().sum()], vec![2; parts.iter().sum()]];
        let run = |packets: &mut [Vec<u8>; 2], run: &mut dyn FnMut(&mut [Job<'_>])| {
            let mut jobs: Vec<_> = packets
                .iter_mut()
                .map(|packet| {
                    let (header, rest) = packet.split_at_mut(8);
                    let (iv, rest) = rest.split_first_chunk_mut().unwrap();
                    let (text, rest) = rest.split_at_mut(16 * blocks);
                    let (trailer, icv) = rest.split_at_mut(4);
                    Job::new(&key, header, iv, text, trailer, icv).unwrap()
                })
                .collect();
            run(&mut jobs);
        };
        let plain = packets.clone();
        run(&mut packets, &mut |jobs| CbcHmac::best().seal(jobs));
        let bit = bit.index(packets[0].len() * 8);
        packets[0][bit / 8] ^= 1 << (bit % 8);
        run(&mut packets, &mut |jobs| {
            assert_eq!(CbcHmac::best().open(jobs), 1);
            assert!(!jobs[0].is_authentic() && jobs[1].is_authentic());
        });
        let text = 24..24 + 16 * blocks;
        prop_assert!(packets[0][text.clone()].iter().all(|byte| *byte == 0));
        prop_assert_eq!(&packets[1][text.clone()], &plain[1][text]);
    }
}
