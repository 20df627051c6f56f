//! NIST's CAVP vectors through every kernel that this CPU runs: each vector alone, and all of a file in one call, where
//! kernels work on several packets side by side.

use crate::common::{Packet, hex, open, seal};
use crypto::Aead;
use crypto::cbc_hmac::{self, CbcHmac, Hash};
use crypto::gcm::{Gcm, Kernel, Key};
use std::collections::BTreeMap;
use std::io::Read;

/// The fields of a vector by their names, in lower case. FAIL, where there is one, is a field too.
type Vector = BTreeMap<String, String>;

/// The vectors of a file in `tests/data`.
fn vectors(name: &str) -> Vec<Vector> {
    let path = format!("{}/tests/data/{name}.rsp.gz", env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    let file = std::fs::File::open(path).unwrap();
    let _ = flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let mut all: Vec<Vector> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '['])) {
        let (field, value) = line.split_once('=').unwrap_or((line, ""));
        let field = field.trim().to_lowercase();
        if field == "count" {
            all.push(Vector::new());
        } else if let Some(vector) = all.last_mut().filter(|_| !field.is_empty()) {
            let _ = vector.insert(field, value.trim().to_owned());
        }
    }
    all
}

fn field(vector: &Vector, name: &str) -> Vec<u8> {
    hex(vector.get(name).unwrap_or_else(|| panic!("no {name} in {vector:?}")))
}

/// A packet as it is sealed, its key, and its plaintext, if it is authentic.
struct Expected {
    key: Key,
    sealed: Packet,
    plain: Option<Vec<u8>>,
}

impl Expected {
    fn of(vector: &Vector) -> Self {
        let sealed = Packet {
            nonce: field(vector, "iv").try_into().unwrap(),
            aad: field(vector, "aad"),
            text: field(vector, "ct"),
            tag: field(vector, "tag").try_into().unwrap(),
        };
        let plain = (!vector.contains_key("fail")).then(|| field(vector, "pt"));
        Self { key: Key::new(&field(vector, "key")).unwrap(), sealed, plain }
    }
}

/// Opens and seals packets, as many in a call as are given.
fn check(gcm: &Gcm, expected: &[Expected]) {
    let name = gcm.kernel_name();
    let keys: Vec<&Key> = expected.iter().map(|one| &one.key).collect();
    let mut packets: Vec<Packet> = expected.iter().map(|one| one.sealed.clone()).collect();
    let authentic = open(gcm, &keys, &mut packets);
    for ((one, packet), authentic) in expected.iter().zip(&packets).zip(authentic) {
        assert_eq!(authentic, one.plain.is_some(), "{name}: {:x?}", one.sealed);
        let text = one.plain.clone().unwrap_or_else(|| vec![0; one.sealed.text.len()]);
        assert_eq!(packet.text, text, "{name}: {:x?}", one.sealed);
    }
    for packet in &mut packets {
        packet.tag = [0; 16];
    }
    seal(gcm, &keys, &mut packets);
    for (one, packet) in expected.iter().zip(&packets).filter(|(one, _)| one.plain.is_some()) {
        assert_eq!(*packet, one.sealed, "{name}");
    }
}

#[test]
fn gcm() {
    let kernels = Kernel::ALL.into_iter().filter_map(Gcm::with_kernel);
    let kernels: Vec<_> = kernels.collect();
    println!("run: {:?}", kernels.iter().map(Gcm::kernel_name).collect::<Vec<_>>());
    let (mut run, mut forged) = (0, 0);
    for name in ["gcmDecrypt128", "gcmDecrypt256", "gcmEncryptExtIV128", "gcmEncryptExtIV256"] {
        let expected: Vec<_> = vectors(name).iter().map(Expected::of).collect();
        for gcm in &kernels {
            check(gcm, &expected);
            expected.chunks(1).for_each(|one| check(gcm, one));
        }
        run += expected.len();
        forged += expected.iter().filter(|one| one.plain.is_none()).count();
    }
    assert_eq!((run, forged), (1500, 387));
}

/// A text of whole blocks.
struct Blocks {
    key: cbc_hmac::Key,
    iv: [u8; 16],
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

/// Encrypts and decrypts, as many in a call as are given; how the text is authenticated has nothing to do with it.
fn check_cbc(kernel: &CbcHmac, expected: &[Blocks]) {
    let mut texts: Vec<(Vec<u8>, [u8; 16])> =
        expected.iter().map(|one| (one.plain.clone(), [0; 16])).collect();
    for seals in [true, false] {
        let columns = expected.iter().zip(&mut texts);
        let jobs =
            columns.map(|(one, (text, icv))| cbc_hmac::Job::new(&one.key, &[], &one.iv, text, &[], icv));
        let mut jobs: Vec<_> = jobs.map(Option::unwrap).collect();
        if seals {
            kernel.seal(&mut jobs);
        } else {
            assert_eq!(kernel.open(&mut jobs), 0);
        }
        drop(jobs);
        for ((text, _), one) in texts.iter().zip(expected) {
            assert_eq!(text, if seals { &one.sealed } else { &one.plain }, "{kernel:?}");
        }
    }
}

#[test]
fn cbc() {
    let expected: Vec<_> = vectors("cbc")
        .iter()
        .map(|vector| Blocks {
            key: cbc_hmac::Key::new(&field(vector, "key"), Hash::Sha256, &[7; 32]).unwrap(),
            iv: field(vector, "iv").try_into().unwrap(),
            plain: field(vector, "plaintext"),
            sealed: field(vector, "ciphertext"),
        })
        .collect();
    for kernel in cbc_hmac::Kernel::ALL.into_iter().filter_map(CbcHmac::with_kernel) {
        check_cbc(&kernel, &expected);
        expected.chunks(1).for_each(|one| check_cbc(&kernel, one));
    }
    assert_eq!(expected.len(), 1418);
}
