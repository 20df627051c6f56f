//! What the tests of all AEADs share: vectors, and a way through a cipher.

use crypto::{Aead, Job, NONCE_BYTES, TAG_BYTES};
use serde_json::Value;
use std::io::Read;

/// Bytes written in hexadecimal.
pub fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// A field of a vector, which is hexadecimal.
pub fn field(vector: &Value, name: &str) -> Vec<u8> {
    hex(vector[name].as_str().unwrap_or_else(|| panic!("{name} of {vector}")))
}

/// The test groups of a Wycheproof file in `tests/data`.
pub fn wycheproof(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/data/{name}_test.json.gz", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::File::open(path).unwrap();
    let mut text = String::new();
    let _ = flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    json["testGroups"].as_array().unwrap().clone()
}

/// A packet and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub nonce: [u8; NONCE_BYTES],
    pub aad: Vec<u8>,
    pub text: Vec<u8>,
    pub tag: [u8; TAG_BYTES],
}

/// Seals the packets, each under its key, in one call.
pub fn seal<A: Aead>(aead: &A, keys: &[&A::Key], packets: &mut [Packet]) {
    aead.seal(&mut jobs::<A>(keys, packets));
}

/// Opens the packets, each under its key, in one call; says which were authentic.
pub fn open<A: Aead>(aead: &A, keys: &[&A::Key], packets: &mut [Packet]) -> Vec<bool> {
    let mut jobs = jobs::<A>(keys, packets);
    let rejected = aead.open(&mut jobs);
    let authentic: Vec<_> = jobs.iter().map(Job::is_authentic).collect();
    assert_eq!(rejected, authentic.iter().filter(|authentic| !**authentic).count());
    authentic
}

fn jobs<'a, A: Aead>(keys: &[&'a A::Key], packets: &'a mut [Packet]) -> Vec<Job<'a, A::Key>> {
    let job = |(key, packet): (&&'a A::Key, &'a mut Packet)| {
        Job::new(*key, &packet.nonce, &packet.aad, &mut packet.text, &mut packet.tag)
    };
    keys.iter().zip(packets).map(job).collect()
}

/// Runs one vector both ways. `valid` tells whether the tag is right.
pub fn check_vector<A: Aead>(aead: &A, key: &A::Key, plain: &[u8], sealed: &Packet, valid: bool, name: &str) {
    let name = format!("{} {name}", aead.kernel_name());
    let mut packet = Packet { text: plain.to_vec(), tag: [0; TAG_BYTES], ..sealed.clone() };
    seal(aead, &[key], std::slice::from_mut(&mut packet));
    assert_eq!(packet == *sealed, valid, "{name}: {packet:x?} {sealed:x?}");
    let mut packet = sealed.clone();
    let authentic = open(aead, &[key], std::slice::from_mut(&mut packet));
    assert_eq!(authentic, [valid], "{name}");
    let expected = if valid { plain.to_vec() } else { vec![0; plain.len()] };
    assert_eq!(packet.text, expected, "{name}");
}
