//! Whole packets of somebody else's (see `crypto/tests/data`): sealed to the byte, and opened.

use crate::common::seal_all;
use buffer::BufferPool;
use crypto::cbc_hmac::Hash;
use crypto::gcm::Gcm;
use ipsec::{Algorithm, Database, Direction, Entropy, EspError, SaParameters, Tunnel};
use packet::ipv4::Ipv4;
use packet::ipv6::Ipv6;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::FromBytes;

fn bytes(vector: &Value, field: &str) -> Vec<u8> {
    let text = vector[field].as_str().unwrap_or_default();
    (0..text.len() / 2)
        .map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).expect("hexadecimal"))
        .collect()
}

/// The algorithm of a vector, if it is one of ours.
fn algorithm(vector: &Value) -> Option<Algorithm> {
    let names: Vec<_> = vector["algos"].as_array()?.iter().filter_map(Value::as_str).collect();
    let long_key = bytes(vector, "key").len() == 32;
    let hash = match names[..] {
        ["AEAD_AES_GCM"] => {
            return match bytes(vector, "key").len() {
                16 => Some(Algorithm::Aes128Gcm),
                32 => Some(Algorithm::Aes256Gcm),
                _ => None,
            };
        }
        ["CIPHER_AES_CBC", "AUTH_SHA256_HMAC"] => Hash::Sha256,
        ["CIPHER_AES_CBC", "AUTH_SHA384_HMAC"] => Hash::Sha384,
        ["CIPHER_AES_CBC", "AUTH_SHA512_HMAC"] => Hash::Sha512,
        _ => return None,
    };
    Some(if long_key { Algorithm::Aes256CbcHmac(hash) } else { Algorithm::Aes128CbcHmac(hash) })
}

fn ends(outer: &[u8]) -> (IpAddr, IpAddr) {
    if outer[0] >> 4 == 4 {
        let (header, _) = Ipv4::ref_from_prefix(outer).expect("a whole header");
        (Ipv4Addr::from(header.source).into(), Ipv4Addr::from(header.destination).into())
    } else {
        let (header, _) = Ipv6::ref_from_prefix(outer).expect("a whole header");
        (Ipv6Addr::from(header.source).into(), Ipv6Addr::from(header.destination).into())
    }
}

#[test]
fn packets_of_others_are_opened_and_sealed_alike() {
    let file: Value =
        serde_json::from_str(include_str!("../../../crypto/tests/data/dpdk-esp-vectors.json")).expect("JSON");
    let mut names = Vec::new();
    for vector in file["vectors"].as_array().expect("an array") {
        let (name, Some(algorithm)) = (vector["name"].as_str().unwrap_or_default(), algorithm(vector)) else {
            continue;
        };
        let (outer, plain) = (bytes(vector, "esp_ip"), bytes(vector, "plaintext_ip"));
        let at = if outer[0] >> 4 == 4 { 20 } else { 40 };
        let spi = u32::from_be_bytes(outer[at..at + 4].try_into().expect("four bytes"));
        let number = u32::from_be_bytes(outer[at + 4..at + 8].try_into().expect("four bytes"));
        let iv = u64::from_be_bytes(outer[at + 8..at + 16].try_into().expect("eight bytes"));
        let rest = if algorithm.iv_bytes() == 8 { "salt" } else { "auth_key" };
        let key = [bytes(vector, "key"), bytes(vector, rest)].concat();
        let outbound = SaParameters {
            esn: false,
            last_sequence: u64::from(number) - 1,
            ..SaParameters::new(spi, Direction::Outbound, ends(&outer), algorithm, key.into())
        };
        let (remote, local) = (outbound.local, outbound.remote);
        let inbound = SaParameters { direction: Direction::Inbound, local, remote, ..outbound.clone() };
        let entropy = Entropy { iv_base: iv.wrapping_sub(u64::from(number)), iv_key: [0; 16] };
        let mut database = Database::new(Gcm::best());
        let sa = database.add(outbound, &entropy, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
        let _ = database.add(inbound, &entropy, 0).expect(name);
        let tunnel = Tunnel { outbound: Some(sa.id()), ..Tunnel::default() };
        database.set_tunnel(crate::common::TUNNEL, tunnel).expect("a valid tunnel");
        let snapshot = database.snapshot();
        let mut cache = BufferPool::from_heap(2).cache();
        let mut packet = |bytes: &[u8]| {
            let mut packet = cache.allocate().expect("two buffers");
            packet.append(bytes).expect("it fits");
            packet
        };

        let mut opened = [packet(&outer)];
        let mut results = [Err(EspError::Malformed)];
        ipsec::decapsulate(&snapshot, &mut opened, 0, &mut results);
        assert_eq!(results[0].err(), None, "{name}");
        assert_eq!(opened[0].data(), &plain[..], "{name}");

        let mut sealed = [packet(&plain)];
        assert_eq!(seal_all(&snapshot, &mut sealed, &[Some(&sa)]), [Ok(())], "{name}");
        // IVs of CBC are random, so that only AES-GCM can be the same to the byte.
        if algorithm.iv_bytes() == 8 {
            assert_eq!(sealed[0].data()[at..], outer[at..], "{name}");
        }
        names.push(name);
    }
    assert_eq!(names.len(), 8, "{names:?}");
}
