use crate::{Config, Problem, missing_secrets, parse, parse_association};
use serde_json::{Value, json};
use std::{string::ToString, vec, vec::Vec};

/// A node with one tunnel and an association each way; `pointer` is set to `value`.
fn with(pointer: &str, value: Value) -> Value {
    let association = |name: &str, direction: &str, spi: u32| json!({"name": name, "tunnel": "ipsec0", "direction": direction, "spi": spi, "algorithm": "aes128gcm16", "key": "ab".repeat(20)});
    let mut document = json!({
        "interfaces": [{"name": "eth0", "addresses": ["192.0.2.1/24", "2001:db8::1/64"]}],
        "routes": [{"prefix": "10.8.0.0/16", "via": [{"interface": "ipsec0"}]}],
        "ipsec": {
            "tunnels": [{"name": "ipsec0", "local": "192.0.2.1", "remote": "203.0.113.9", "addresses": ["10.255.0.1/30"]}],
            "associations": [association("a", "out", 4096), association("b", "in", 4097)],
            "policies": [{"name": "p", "direction": "out", "action": "protect", "tunnel": "ipsec0", "source": "10.0.0.0/8", "destination": "10.9.0.0/16"}],
            "must_encrypt": ["10.8.0.0/15"],
        },
    });
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Array(items) => match name.parse::<usize>() {
            Ok(index) => items[index] = value,
            Err(_) => items.push(value),
        },
        members => members[name] = value,
    }
    document
}

fn problems(document: &Value) -> Vec<Problem> {
    parse(document.to_string().as_bytes()).err().unwrap_or_default()
}

#[test]
fn every_fault_has_its_pointer() {
    assert_eq!(problems(&with("/hostname", json!("gw"))), vec![]);
    let second = |changes: Value| {
        let mut tunnel = json!({"name": "ipsec1", "local": "192.0.2.1", "remote": "203.0.113.10"});
        changes.as_object().unwrap().iter().for_each(|(name, value)| tunnel[name] = value.clone());
        tunnel
    };
    let rule = |changes: Value| {
        let mut policy = json!({"name": "q", "direction": "out", "action": "bypass", "source": "::/0", "destination": "::/0"});
        changes.as_object().unwrap().iter().for_each(|(name, value)| policy[name] = value.clone());
        policy
    };
    let cases = [
        ("/ipsec/tunnels/-", second(json!({"name": "eth0"})), "/ipsec/tunnels/1/name"),
        ("/ipsec/tunnels/-", second(json!({"name": "all"})), "/ipsec/tunnels/1/name"),
        ("/ipsec/tunnels/-", second(json!({"local": "192.0.2.7"})), "/ipsec/tunnels/1/local"),
        ("/ipsec/tunnels/-", second(json!({"remote": "192.0.2.1"})), "/ipsec/tunnels/1/remote"),
        ("/ipsec/tunnels/-", second(json!({"remote": "2001:db8::9"})), "/ipsec/tunnels/1/remote"),
        ("/ipsec/tunnels/-", second(json!({"remote": "224.0.0.1"})), "/ipsec/tunnels/1/remote"),
        ("/ipsec/tunnels/-", second(json!({"mode": "transport"})), "/ipsec/tunnels/1/route_based"),
        ("/ipsec/tunnels/-", second(json!({"route_based": false, "mtu": 1400})), "/ipsec/tunnels/1/mtu"),
        ("/ipsec/tunnels/-", second(json!({"addresses": ["192.0.2.9/24"]})), "/ipsec/tunnels/1/addresses/0"),
        (
            "/ipsec/tunnels/-",
            second(json!({"addresses": ["2001:db8:9::1/64"], "mtu": 1000})),
            "/ipsec/tunnels/1/mtu",
        ),
        (
            "/ipsec/tunnels/-",
            second(json!({"selectors": [{"local": "::/0", "remote": "0.0.0.0/0"}]})),
            "/ipsec/tunnels/1/selectors/0/remote",
        ),
        ("/ipsec/associations/0/key", json!("ab"), "/ipsec/associations/0/key"),
        ("/ipsec/associations/0/algorithm", json!("aes256-sha512"), "/ipsec/associations/0/key"),
        ("/ipsec/associations/0/tunnel", json!("eth0"), "/ipsec/associations/0/tunnel"),
        ("/ipsec/associations/0/spi", json!(255), "/ipsec/associations/0/spi"),
        ("/ipsec/associations/0/direction", json!("in"), ""),
        ("/ipsec/associations/0/name", json!("b"), "/ipsec/associations/1/name"),
        (
            "/ipsec/associations/0/lifetime",
            json!({"soft_bytes": 2, "hard_bytes": 1}),
            "/ipsec/associations/0/lifetime/soft_bytes",
        ),
        ("/ipsec/policies/0/tunnel", json!("eth0"), "/ipsec/policies/0/tunnel"),
        ("/ipsec/policies/-", rule(json!({"name": "p"})), "/ipsec/policies/1/name"),
        ("/ipsec/policies/-", rule(json!({"tunnel": "ipsec0"})), "/ipsec/policies/1/tunnel"),
        ("/ipsec/policies/-", rule(json!({"action": "protect"})), "/ipsec/policies/1/tunnel"),
        ("/ipsec/policies/-", rule(json!({"source": "10.0.0.0/8"})), "/ipsec/policies/1/destination"),
        ("/ipsec/policies/-", rule(json!({"source_ports": "80"})), "/ipsec/policies/1/source_ports"),
        (
            "/ipsec/policies/-",
            rule(json!({"protocol": 6, "source_ports": "81-80"})),
            "/ipsec/policies/1/source_ports",
        ),
        ("/ipsec/must_encrypt/0", json!("10.8.0.1/16"), "/ipsec/must_encrypt/0"),
        ("/routes/0/via/0/interface", json!("eth0"), "/routes/0/via/0/address"),
        ("/routes/0/via/0", json!({}), "/routes/0/via/0"),
        ("/interfaces/-", json!({"name": "eth0.5", "parent": "ipsec0", "vlan": 5}), "/interfaces/1/parent"),
        (
            "/neighbours",
            json!([{"interface": "ipsec0", "address": "10.255.0.2", "mac": "52:54:00:00:00:02"}]),
            "/neighbours/0/interface",
        ),
    ];
    for (pointer, value, expected) in cases {
        let document = with(pointer, value.clone());
        let found = problems(&document);
        let is_first = found.first().is_some_and(|problem| problem.pointer == expected);
        let is_harmless = expected.is_empty() && found.is_empty();
        assert!(is_first || is_harmless, "{pointer} = {value}: {found:?}");
    }
}

/// What is between other hosts would be encrypted for somebody who has not the key.
#[test]
fn transport_mode_is_between_its_ends_alone() {
    let transport = json!({"name": "ipsec0", "mode": "transport", "route_based": false, "local": "192.0.2.1", "remote": "203.0.113.9"});
    let mut document = with("/ipsec/tunnels/0", transport);
    document["routes"] = json!([]);
    let policy = |direction: &str, source: &str, destination: &str| json!([{"name": "p", "direction": direction, "action": "protect", "tunnel": "ipsec0", "source": source, "destination": destination}]);
    for (direction, source, destination, expected) in [
        ("out", "192.0.2.1/32", "203.0.113.9/32", None),
        ("in", "203.0.113.9/32", "192.0.2.1/32", None),
        ("out", "203.0.113.9/32", "192.0.2.1/32", Some("source")),
        ("out", "0.0.0.0/0", "203.0.113.9/32", Some("source")),
        ("out", "192.0.2.1/32", "203.0.113.0/24", Some("destination")),
        ("out", "2001:db8::1/128", "2001:db8::9/128", Some("source")),
        ("in", "203.0.113.9/32", "192.0.2.0/31", Some("destination")),
    ] {
        document["ipsec"]["policies"] = policy(direction, source, destination);
        let found = problems(&document);
        let pointer = found.first().map(|problem| problem.pointer.clone());
        let expected = expected.map(|field| std::format!("/ipsec/policies/0/{field}"));
        assert_eq!(pointer, expected, "{direction} {source} {destination}: {found:?}");
    }
}

#[test]
fn inbound_spis_are_unique() {
    let mut document = with("/ipsec/associations/0/direction", json!("in"));
    document["ipsec"]["associations"][0]["spi"] = json!(4097);
    assert_eq!(problems(&document)[0].pointer, "/ipsec/associations/1/spi");
}

#[test]
fn keys_stay_where_the_association_is_the_same() {
    let read = |document: &Value| -> Config { parse(document.to_string().as_bytes()).unwrap() };
    let before = read(&with("/hostname", json!("gw")));
    let mut shown = before.without_secrets();
    assert_eq!(missing_secrets(&shown).len(), 2);
    // The store's text has them, and room for them from the start.
    let text = before.to_json();
    assert_eq!(parse(&text).unwrap(), before);
    assert!(text.len() - shown.to_json().len() <= 2 * (40 + 32) && text.capacity() >= text.len());
    shown.keep_secrets(&before);
    assert_eq!((&shown, missing_secrets(&shown)), (&before, vec![]));
    for (field, value) in [("spi", json!(5000)), ("name", json!("c")), ("algorithm", json!("aes256gcm16"))] {
        let mut document = serde_json::to_value(before.without_secrets()).unwrap();
        document["ipsec"]["associations"][0][field] = value;
        let mut other = read(&document);
        other.keep_secrets(&before);
        let missing = missing_secrets(&other);
        assert_eq!(missing.len(), 1, "{field}");
        assert_eq!(missing[0].pointer, "/ipsec/associations/0/key");
    }
}

#[test]
fn one_association_is_read_by_itself() {
    let good = json!({"name": "a", "tunnel": "t", "direction": "out", "spi": 256, "algorithm": "chacha20poly1305", "key": "00".repeat(36)});
    assert!(parse_association(good.to_string().as_bytes()).is_ok());
    let mut short = good;
    short["key"] = json!("00");
    let found = parse_association(short.to_string().as_bytes()).unwrap_err();
    assert_eq!(found[0].pointer, "/key");
    assert!(found[0].to_string().contains("takes 36"), "{found:?}");
}
