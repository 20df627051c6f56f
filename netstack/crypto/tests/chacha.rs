//! ChaCha20-Poly1305: published vectors.

mod common;

use common::{Packet, check_vector, field, wycheproof};
use crypto::chacha::{ChaChaPoly, Key};

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
            check_vector(&ChaChaPoly, &key, &field(vector, "msg"), &sealed, valid, &name);
            run += 1;
        }
    }
    assert_eq!((run, of_other_shape), (316, 9));
}
