//! AES-GCM: published vectors through every kernel that this CPU runs.

use crate::common::{Packet, check_vector, field, hex, open, wycheproof};
use crypto::gcm::{Gcm, Kernel, Key};

/// The kernels of this CPU. Names those it lacks, so that nobody takes them for tested.
fn kernels() -> Vec<Gcm> {
    let (run, lacking): (Vec<_>, Vec<_>) =
        Kernel::ALL.into_iter().partition(|kernel| Gcm::with_kernel(*kernel).is_some());
    println!("run: {run:?}; not run, for lack of CPU features: {lacking:?}");
    run.into_iter().filter_map(Gcm::with_kernel).collect()
}

#[test]
fn wycheproof_vectors() {
    let kernels = kernels();
    let (mut run, mut of_other_shape) = (0, 0);
    for group in wycheproof("aes_gcm") {
        for vector in group["tests"].as_array().unwrap() {
            let (key, nonce) = (field(vector, "key"), field(vector, "iv"));
            // AES-192, and nonces that are not 96 bits long, are not offered.
            let (Ok(key), Ok(nonce)) = (Key::new(&key), nonce.try_into()) else {
                of_other_shape += 1;
                continue;
            };
            let tag = field(vector, "tag").try_into().unwrap();
            let sealed = Packet { nonce, aad: field(vector, "aad"), text: field(vector, "ct"), tag };
            let valid = vector["result"] == "valid";
            for gcm in &kernels {
                let name = format!("tcId {}", vector["tcId"]);
                check_vector(gcm, &key, &field(vector, "msg"), &sealed, valid, &name);
            }
            run += 1;
        }
    }
    assert_eq!((run, of_other_shape), (133, 183));
}

/// Test cases of "The Galois/Counter Mode of Operation", appendix B, that have 96-bit nonces:
/// key, plaintext, AAD, nonce, ciphertext, tag.
const SPECIFICATION: [[&str; 6]; 8] = [
    [K0, "", "", N0, "", "58e2fccefa7e3061367f1d57a4e7455a"],
    [K0, K0, "", N0, "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf"],
    [K1, P1, "", N1, C3, "4d5c2af327cd64a62cf35abd2ba6fab4"],
    [K1, P1, A1, N1, C3, "5bc94fbc3221a5db94fae95ae7121a47"],
    [K0, "", "", N0, "", "530f8afbc74536b9a963b4f1c4cb738b"],
    [K0, K0, "", N0, "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"],
    [K1, P1, "", N1, C15, "b094dac5d93471bdec1a502270e3cc6c"],
    [K1, P1, A1, N1, C15, "76fc6ece0f4e1768cddf8853bb2d551b"],
];
const K0: &str = "00000000000000000000000000000000";
const K1: &str = "feffe9928665731c6d6a8f9467308308";
const N0: &str = "000000000000000000000000";
const N1: &str = "cafebabefacedbaddecaf888";
const A1: &str = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
const P1: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                  1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
const C3: &str = "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
                  21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985";
const C15: &str = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                   8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";

#[test]
fn vectors_of_the_specification() {
    let kernels = kernels();
    for (i, [key, plain, aad, nonce, cipher, tag]) in SPECIFICATION.into_iter().enumerate() {
        // Cases 13 to 16 are 1 to 4 with keys of twice the length; 4 and 16 are four bytes shorter.
        let key = Key::new(&hex(key).repeat(1 + i / 4)).unwrap();
        let cut = if aad.is_empty() { 0 } else { 4 };
        let bytes = |text: &str| hex(&text[..text.len() - 2 * cut]);
        let tag = hex(tag).try_into().unwrap();
        let sealed =
            Packet { nonce: hex(nonce).try_into().unwrap(), aad: hex(aad), text: bytes(cipher), tag };
        for gcm in &kernels {
            check_vector(gcm, &key, &bytes(plain), &sealed, true, &format!("case {i}"));
        }
    }
}

/// ESP packets of another implementation: 20 bytes of IPv4 or 40 of IPv6, SPI and sequence number, IV, text, ICV.
#[test]
fn esp_packets() {
    let kernels = kernels();
    let path = format!("{}/tests/data/dpdk-esp-vectors.json", env!("CARGO_MANIFEST_DIR"));
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut run = 0;
    for vector in json["vectors"].as_array().unwrap() {
        if vector["algos"][0] != "AEAD_AES_GCM" {
            continue;
        }
        let Ok(key) = Key::new(&field(vector, "key")) else { continue };
        let packet = field(vector, "esp_ip");
        let esp = &packet[if packet[0] >> 4 == 4 { 20 } else { 40 }..];
        let nonce = [field(vector, "salt"), esp[8..16].to_vec()].concat().try_into().unwrap();
        let (text, tag) = esp[16..].split_last_chunk().unwrap();
        let sealed = Packet { nonce, aad: esp[..8].to_vec(), text: text.to_vec(), tag: *tag };
        // The text is the inner packet and a trailer, which the vectors do not spell out.
        let mut opened = [sealed.clone()];
        assert_eq!(open(&kernels[0], &[&key], &mut opened), [true], "{vector}");
        let plain = field(vector, "plaintext_ip");
        assert_eq!(opened[0].text[..plain.len()], plain);
        for gcm in &kernels {
            check_vector(gcm, &key, &opened[0].text, &sealed, true, &vector["name"].to_string());
        }
        run += 1;
    }
    assert_eq!(run, 4);
}
