//! The table of fields and the types say the same; no document makes the checks disagree or panic.

use config::{
    Config, Interface, parse,
    schema::{Field, Presence, Schema},
    table,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A document in which every field of the schema is given, by the given function for texts.
fn sample() -> Value {
    json!({
        "hostname": "gw1",
        "api": {"token": "0123456789abcdef", "port": 80, "interface": "eth0"},
        "log": {"level": "info"},
        "interfaces": [
            {"name": "eth0", "description": "up", "enabled": true, "mac": "52:54:00:00:00:01", "mtu": 1500, "dhcp4": false,
             "addresses": ["10.0.0.1/24", "2001:db8::1/64"],
             "router_advertisements": {"max_interval_seconds": 600, "router_lifetime_seconds": 1800, "managed": false, "other": false,
                "valid_lifetime_seconds": 2592000, "preferred_lifetime_seconds": 604800, "dns_servers": ["2001:db8::53"]}},
            {"name": "eth0.7", "parent": "eth0", "vlan": 7},
        ],
        "routes": [{"prefix": "0.0.0.0/0", "via": [{"address": "10.0.0.254", "interface": "eth0", "weight": 2}]}, {"prefix": "10.9.0.0/16", "blackhole": true}],
        "neighbours": [{"interface": "eth0", "address": "10.0.0.254", "mac": "52:54:00:00:00:02"}],
        "ipsec": {
            "tunnels": [
                {"name": "ipsec0", "description": "to Berlin", "enabled": true, "mode": "tunnel", "local": "10.0.0.1", "remote": "203.0.113.9",
                 "route_based": true, "mtu": 1400, "addresses": ["10.255.0.1/30"], "dscp": 46, "ecn": "copy", "df": "set", "ttl": 64, "clamp_mss": true,
                 "nat_traversal": {"local_port": 4500, "remote_port": 4501, "keepalive_seconds": 20}, "tfc_padding": 1000,
                 "selectors": [{"local": "10.0.0.0/24", "remote": "10.8.0.0/16"}], "rekey_overlap_seconds": 10},
            ],
            "associations": [
                {"name": "berlin-out", "tunnel": "ipsec0", "direction": "out", "spi": 4096, "algorithm": "aes128gcm16", "key": "0123456789abcdef0123456789abcdef01234567",
                 "esn": true, "replay_window": 1024, "sequence_after": 77, "lifetime": {"soft_seconds": 3000, "hard_seconds": 3600, "soft_bytes": 1, "hard_bytes": 9007199254740992u64,
                 "soft_packets": 1, "hard_packets": 2}},
            ],
            "policies": [
                {"name": "p1", "direction": "out", "action": "protect", "tunnel": "ipsec0", "source": "10.0.0.0/24", "destination": "10.7.0.0/16",
                 "protocol": 6, "source_ports": "80", "destination_ports": "1000-2000"},
            ],
            "must_encrypt": ["10.8.0.0/16"],
        },
        "cluster": {
            "node": "node-a", "zone": "zone-1", "node_addresses": ["10.0.0.1"], "source_addresses": ["10.0.0.2"],
            "masquerade": ["0.0.0.0/0", "::/0"], "masquerade_except": ["10.244.0.0/16"],
            "tunnel_addresses": ["10.0.0.1", "2001:db8::1"], "gue_port": 6081, "seed": "000102030405060708090a0b0c0d0e0f",
            "flows_per_worker": 65536, "tcp_window": "strict", "flow_timeouts": {"tcp_opening_ms": 1000, "tcp_closing_ms": 60000, "established_ms": 60000},
            "health_check": {"kind": "http", "port": 8081, "path": "/ready", "fall": 2},
        },
        "flow_log": {
            "always": true, "collectors": [{"address": "10.0.0.9", "port": 2055, "observation_domain": 7}],
        },
    })
}

/// Every field of `schema` with its path.
fn fields(schema: &'static Schema, path: &str, out: &mut Vec<(String, &'static Field)>) {
    match schema {
        Schema::Object(members) => {
            for field in *members {
                let path = format!("{path}/{}", field.name);
                out.push((path.clone(), field));
                fields(field.schema, &path, out);
            }
        }
        Schema::List { items, .. } => fields(items, path, out),
        _ => {}
    }
}

/// The paths of all members in a document, array indexes left out.
fn paths(value: &Value, path: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = format!("{path}/{name}");
                out.push(path.clone());
                paths(value, &path, out);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| paths(item, path, out)),
        _ => {}
    }
}

#[test]
fn types_keep_every_field_of_the_table() {
    let config = parse(sample().to_string().as_bytes()).unwrap();
    let mut kept = Vec::new();
    paths(&serde_json::to_value(&config).unwrap(), "", &mut kept);
    let mut listed = Vec::new();
    fields(&table::CONFIG, "", &mut listed);
    let mut listed: Vec<String> = listed.into_iter().map(|(path, _)| path).collect();
    kept.sort();
    kept.dedup();
    listed.sort();
    assert_eq!(kept, listed);
}

#[test]
fn defaults_of_the_table_are_those_of_the_types() {
    let mut listed = Vec::new();
    fields(&table::CONFIG, "", &mut listed);
    let whole = serde_json::to_value(Config::default()).unwrap();
    let interface = serde_json::to_value(Interface::new("eth0")).unwrap();
    let advertisements = serde_json::to_value(config::RouterAdvertisements::default()).unwrap();
    let route: config::Route =
        serde_json::from_str(r#"{"prefix":"10.0.0.0/8","via":[{"address":"10.0.0.1"}]}"#).unwrap();
    let hop = serde_json::to_value(&route.via[0]).unwrap();
    let tunnel: config::Tunnel =
        serde_json::from_str(r#"{"name":"t","local":"192.0.2.1","remote":"192.0.2.2"}"#).unwrap();
    let tunnel = serde_json::to_value(tunnel).unwrap();
    let nat_traversal = serde_json::to_value(config::NatTraversal::default()).unwrap();
    let association: config::Association = serde_json::from_str(
        r#"{"name":"a","tunnel":"t","direction":"in","spi":256,"algorithm":"aes128gcm16"}"#,
    )
    .unwrap();
    let association = serde_json::to_value(association).unwrap();
    let collector: config::Collector = serde_json::from_str(r#"{"address":"10.0.0.9"}"#).unwrap();
    let collector = serde_json::to_value(collector).unwrap();
    for (path, field) in listed {
        let Presence::Default(text) = field.presence else { continue };
        let expected: Value = serde_json::from_str(text).unwrap();
        let actual = if let Some(rest) = path.strip_prefix("/interfaces/router_advertisements") {
            advertisements.pointer(rest).cloned()
        } else if let Some(rest) = path.strip_prefix("/interfaces/") {
            interface.get(rest).cloned()
        } else if let Some(rest) = path.strip_prefix("/routes/via/") {
            hop.get(rest).cloned()
        } else if let Some(rest) = path.strip_prefix("/ipsec/tunnels/nat_traversal/") {
            nat_traversal.get(rest).cloned()
        } else if let Some(rest) = path.strip_prefix("/ipsec/tunnels/") {
            tunnel.get(rest).cloned()
        } else if let Some(rest) = path.strip_prefix("/ipsec/associations/") {
            association.get(rest).cloned()
        } else if let Some(rest) = path.strip_prefix("/flow_log/collectors/") {
            collector.get(rest).cloned()
        } else if path == "/routes/blackhole" {
            Some(route.blackhole.into())
        } else {
            whole.pointer(&path).cloned()
        };
        assert_eq!(actual, Some(expected), "{path}");
    }
}

#[test]
fn json_schema_describes_every_field() {
    let mut listed = Vec::new();
    fields(&table::CONFIG, "", &mut listed);
    let schema = table::CONFIG.to_json_schema();
    for (path, field) in &listed {
        let mut place = &schema;
        for name in path.split('/').skip(1) {
            place = place.get("items").unwrap_or(place);
            place = &place["properties"][name];
        }
        assert_eq!(place["description"], field.doc, "{path}");
    }
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
        let _ = config::parse_route(&bytes);
    }

    /// Replace any value of a good document by another: the check accepts only what the types take, and a document that
    /// was accepted is written and read back the same.
    #[test]
    fn accepted_documents_round_trip(choice in any::<prop::sample::Index>(), other in replacement()) {
        let mut document = sample();
        let mut pointers = Vec::new();
        pointers_of(&document, String::new(), &mut pointers);
        let pointer: &String = choice.get(&pointers);
        *document.pointer_mut(pointer).unwrap() = other;
        match parse(document.to_string().as_bytes()) {
            Ok(config) => {
                let written = serde_json::to_vec(&config).unwrap();
                prop_assert_eq!(parse(&written).unwrap(), config);
            }
            Err(problems) => {
                for problem in problems {
                    // "is not valid JSON" would mean that the table allowed what the types refuse.
                    prop_assert!(!problem.message.starts_with("is not valid JSON"), "{}", problem);
                    prop_assert!(problem.message.contains("missing") || document.pointer(&problem.pointer).is_some(), "{}", problem);
                }
            }
        }
    }
}

fn pointers_of(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, v)| pointers_of(v, format!("{at}/{name}"), out));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| pointers_of(v, format!("{at}/{i}"), out));
        }
        _ => {}
    }
    out.push(at);
}

fn replacement() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        (0..10_000u32).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        any::<[u8; 4]>().prop_map(|a| json!(std::net::Ipv4Addr::from(a).to_string())),
        (any::<[u8; 4]>(), 0..=32u8).prop_map(|(a, n)| json!(format!("{}/{n}", std::net::Ipv4Addr::from(a)))),
        (any::<[u8; 16]>(), 0..=128u8)
            .prop_map(|(a, n)| json!(format!("{}/{n}", std::net::Ipv6Addr::from(a)))),
        "[a-z]{1,17}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{}])),
    ]
}
