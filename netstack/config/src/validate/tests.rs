use crate::{MAX_PROBLEMS, PortFacts, Problem, parse, parse_route, validate_ports, validate_route};
use serde_json::{Value, json};
use std::{
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};

fn problems(document: &Value) -> Vec<Problem> {
    parse(document.to_string().as_bytes()).err().unwrap_or_default()
}

/// Two ports, one on 10.0.0.0/24, one by DHCP; `extra` is merged over it.
fn with(extra: &Value) -> Value {
    let mut document = json!({"interfaces": [
        {"name": "eth0", "addresses": ["10.0.0.1/24", "2001:db8::1/64", "fe80::1/64"]},
        {"name": "eth1", "dhcp4": true},
    ]});
    for (name, value) in extra.as_object().unwrap() {
        document[name] = value.clone();
    }
    document
}

/// The one problem of `document`, as text.
fn the_problem(document: &Value) -> String {
    let found = problems(document);
    assert_eq!(found.len(), 1, "{document}: {found:?}");
    found[0].to_string()
}

fn interface(value: &Value) -> String {
    the_problem(&json!({"interfaces": [{"name": "eth9", "addresses": ["10.9.0.1/24"]}, value]}))
}

#[test]
fn accepts_a_full_document() {
    let document = json!({
        "hostname": "gw1.example.net",
        "api": {"token": "0123456789abcdef", "port": 8080, "interface": "eth0"},
        "log": {"level": "debug"},
        "interfaces": [
            {"name": "eth0", "mac": "52:54:00:00:00:01", "mtu": 9000, "addresses": ["10.0.0.1/24", "2001:db8::1/64"],
             "description": "uplink", "router_advertisements": {"max_interval_seconds": 10, "router_lifetime_seconds": 30}},
            {"name": "eth0.100", "parent": "eth0", "vlan": 100, "addresses": ["10.0.1.0/31", "fe80::1/64"]},
            {"name": "eth1", "dhcp4": true, "enabled": false},
        ],
        "routes": [
            {"prefix": "0.0.0.0/0", "via": [{"address": "10.0.0.254"}, {"address": "192.0.2.1", "interface": "eth1", "weight": 3}]},
            {"prefix": "2001:db8:f::/48", "via": [{"address": "fe80::2", "interface": "eth0.100"}]},
            {"prefix": "10.99.0.0/16", "blackhole": true},
        ],
        "neighbours": [{"interface": "eth0", "address": "10.0.0.254", "mac": "52:54:00:00:00:02"}],
    });
    assert_eq!(problems(&document), vec![]);
    assert_eq!(problems(&json!({})), vec![]);
}

#[test]
fn reports_structure() {
    for (document, expected) in [
        (json!([]), "document: must be an object, not an array"),
        (
            json!({"host": "a"}),
            "/host: is not a known field; known here are hostname, api, log, interfaces, routes, neighbours",
        ),
        (json!({"hostname": "-a"}), "/hostname: is not a host name"),
        (json!({"hostname": null}), "/hostname: must be a string, not null; leave the field out instead"),
        (json!({"api": {"token": "short"}}), "/api/token: has 5 characters; a token has 16 to 128"),
        (json!({"api": {"token": "0123456789abcde\""}}), "/api/token: has a character a token cannot have"),
        (json!({"api": {"port": 65536}}), "/api/port: must be an integer from 1 to 65535, not 65536"),
        (
            json!({"log": {"level": "loud"}}),
            "/log/level: must be one of error, warn, info, debug, trace, not \"loud\"",
        ),
        (json!({"interfaces": [{}]}), "/interfaces/0/name: is required and missing"),
        (json!({"interfaces": [{"name": "0th"}]}), "/interfaces/0/name: is not an interface name"),
        (
            json!({"interfaces": [{"name": "a", "mtu": 575}]}),
            "/interfaces/0/mtu: must be an integer from 576 to 9216, not 575",
        ),
        (json!({"interfaces": [{"name": "a", "mtu": 1500.5}]}), "/interfaces/0/mtu: must be an integer"),
        (
            json!({"interfaces": [{"name": "a", "enabled": "yes"}]}),
            "/interfaces/0/enabled: must be true or false, not \"yes\"",
        ),
        (
            json!({"interfaces": [{"name": "a", "mac": "33:33:00:00:00:01"}]}),
            "/interfaces/0/mac: is a group address",
        ),
        (
            json!({"interfaces": [{"name": "a", "addresses": ["10.0.0.1"]}]}),
            "/interfaces/0/addresses/0: is not an address with a prefix",
        ),
        (
            json!({"interfaces": [{"name": "a", "description": "a\nb"}]}),
            "/interfaces/0/description: has a control character",
        ),
        (
            json!({"interfaces": [{"name": "a", "parent": "b", "vlan": 4095}]}),
            "/interfaces/0/vlan: must be an integer from 1 to 4094",
        ),
        (
            json!({"routes": [{"prefix": "10.0.0.1/8", "blackhole": true}]}),
            "/routes/0/prefix: has host bits set; did you mean 10.0.0.0/8?",
        ),
        (json!({"a/b~c": 1}), "/a~1b~0c: is not a known field"),
    ] {
        let found = the_problem(&document);
        assert!(found.starts_with(expected), "{found}");
    }
    assert!(parse(b"{").unwrap_err()[0].message.starts_with("is not valid JSON: EOF"));
    assert!(
        parse(b"{\"hostname\":\"a\",\"hostname\":\"b\"}").unwrap_err()[0]
            .message
            .contains("duplicate field `hostname`")
    );
}

#[test]
fn reports_all_faults_at_once_but_boundedly() {
    let found = problems(&json!({"hostname": "", "api": {"port": 0, "x": 1}, "interfaces": [{"mtu": 1}]}));
    let pointers: Vec<&str> = found.iter().map(|p| p.pointer.as_str()).collect();
    assert_eq!(pointers, ["/hostname", "/api/x", "/api/port", "/interfaces/0/name", "/interfaces/0/mtu"]);
    let many: Vec<Value> = (0..1000).map(|_| json!({"name": "lo"})).collect();
    assert_eq!(problems(&json!({"interfaces": many})).len(), MAX_PROBLEMS);
}

#[test]
fn reports_interfaces() {
    for (value, expected) in [
        (json!({"name": "eth9"}), "/interfaces/1/name: eth9 is the name of /interfaces/0 already"),
        (json!({"name": "lo"}), "/interfaces/1/name: lo is a reserved name"),
        (json!({"name": "v", "vlan": 1}), "/interfaces/1/parent: is missing"),
        (json!({"name": "v", "parent": "eth9"}), "/interfaces/1/vlan: is missing"),
        (
            json!({"name": "v", "parent": "eth8", "vlan": 1}),
            "/interfaces/1/parent: there is no interface eth8",
        ),
        (json!({"name": "v", "parent": "v", "vlan": 1}), "/interfaces/1/parent: v is a sub-interface itself"),
        (
            json!({"name": "v", "parent": "eth9", "vlan": 1, "mtu": 1501}),
            "/interfaces/1/mtu: is more than the 1500 bytes of its parent eth9",
        ),
        (
            json!({"name": "a", "addresses": ["10.0.0.0/24"]}),
            "/interfaces/1/addresses/0: 10.0.0.0/24 is the network's own address",
        ),
        (
            json!({"name": "a", "addresses": ["10.0.0.255/24"]}),
            "/interfaces/1/addresses/0: 10.0.0.255/24 is the network's broadcast",
        ),
        (
            json!({"name": "a", "addresses": ["224.0.0.1/24"]}),
            "/interfaces/1/addresses/0: 224.0.0.1/24 is a multicast address",
        ),
        (
            json!({"name": "a", "addresses": ["127.0.0.1/8"]}),
            "/interfaces/1/addresses/0: 127.0.0.1/8 is a loopback address",
        ),
        (
            json!({"name": "a", "addresses": ["2001:db8::/64"]}),
            "/interfaces/1/addresses/0: 2001:db8::/64 is the subnet-router anycast",
        ),
        (
            json!({"name": "a", "addresses": ["10.9.0.1/32"]}),
            "/interfaces/1/addresses/0: 10.9.0.1 is given already at /interfaces/0/addresses/0",
        ),
        (
            json!({"name": "a", "addresses": ["10.9.0.129/25"]}),
            "/interfaces/1/addresses/0: network 10.9.0.128/25 overlaps 10.9.0.0/24 of interface eth9",
        ),
        (
            json!({"name": "a", "addresses": ["10.8.0.1/15"]}),
            "/interfaces/1/addresses/0: network 10.8.0.0/15 overlaps 10.9.0.0/24 of interface eth9",
        ),
        (
            json!({"name": "a", "dhcp4": true, "addresses": ["10.1.0.1/24"]}),
            "/interfaces/1/dhcp4: an interface has IPv4 addresses either",
        ),
        (
            json!({"name": "a", "mtu": 1279, "addresses": ["2001:db8::1/64"]}),
            "/interfaces/1/mtu: must be at least 1280",
        ),
        (
            json!({"name": "a", "router_advertisements": {}}),
            "/interfaces/1/router_advertisements: needs an IPv6 address",
        ),
        (
            json!({"name": "a", "addresses": ["2001:db8::1/64"], "router_advertisements": {"router_lifetime_seconds": 599}}),
            "/interfaces/1/router_advertisements/router_lifetime_seconds: must be 0 or at least",
        ),
        (
            json!({"name": "a", "addresses": ["2001:db8::1/64"], "router_advertisements": {"valid_lifetime_seconds": 1}}),
            "/interfaces/1/router_advertisements/preferred_lifetime_seconds: must not be more",
        ),
    ] {
        let found = interface(&value);
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn a_vlan_belongs_to_one_sub_interface() {
    let found = the_problem(
        &json!({"interfaces": [{"name": "eth0"}, {"name": "a", "parent": "eth0", "vlan": 7}, {"name": "b", "parent": "eth0", "vlan": 7}]}),
    );
    assert_eq!(found, "/interfaces/2/vlan: VLAN 7 of eth0 belongs to /interfaces/1 already");
}

#[test]
fn reports_routes() {
    for (route, expected) in [
        (json!({"prefix": "10.1.0.0/16"}), "/routes/0: needs either next hops in via or blackhole"),
        (
            json!({"prefix": "10.1.0.0/16", "blackhole": true, "via": [{"address": "10.0.0.2"}]}),
            "/routes/0: needs either",
        ),
        (json!({"prefix": "224.0.0.0/4", "blackhole": true}), "/routes/0/prefix: 224.0.0.0/4 is multicast"),
        (
            json!({"prefix": "10.0.0.0/24", "blackhole": true}),
            "/routes/0/prefix: 10.0.0.0/24 is the network of interface eth0",
        ),
        (
            json!({"prefix": "10.1.0.0/16", "via": [{"address": "10.0.1.2"}]}),
            "/routes/0/via/0/address: 10.0.1.2 is not on the network of any",
        ),
        (
            json!({"prefix": "10.1.0.0/16", "via": [{"address": "10.0.1.2", "interface": "eth0"}]}),
            "/routes/0/via/0/address: 10.0.1.2 is not on a network of interface eth0",
        ),
        (
            json!({"prefix": "10.1.0.0/16", "via": [{"address": "10.0.0.2", "interface": "eth1"}]}),
            "/routes/0/via/0/address: 10.0.0.2 is on the network of interface eth0, not of eth1",
        ),
        (
            json!({"prefix": "10.1.0.0/16", "via": [{"address": "10.0.0.2", "interface": "eth7"}]}),
            "/routes/0/via/0/interface: there is no interface eth7",
        ),
        (
            json!({"prefix": "10.1.0.0/16", "via": [{"address": "10.0.0.1"}]}),
            "/routes/0/via/0/address: 10.0.0.1 is this node's own",
        ),
        (
            json!({"prefix": "10.1.0.0/16", "via": [{"address": "10.0.0.2"}, {"address": "10.0.0.2"}]}),
            "/routes/0/via/1/address: 10.0.0.2 is given twice",
        ),
        (
            json!({"prefix": "::/0", "via": [{"address": "10.0.0.2"}]}),
            "/routes/0/via/0/address: 10.0.0.2 is not of the address family of ::/0",
        ),
        (
            json!({"prefix": "::/0", "via": [{"address": "fe80::2"}]}),
            "/routes/0/via/0/address: fe80::2 is link-local; name its interface",
        ),
        (
            json!({"prefix": "::/0", "via": [{"address": "2001:db9::2", "interface": "eth1"}]}),
            "/routes/0/via/0/address: 2001:db9::2 is not on a network of interface eth1",
        ),
    ] {
        let found = the_problem(&with(&json!({"routes": [route]})));
        assert!(found.starts_with(expected), "{found}");
    }
    let found = the_problem(&with(
        &json!({"routes": [{"prefix": "10.2.0.0/16", "blackhole": true}, {"prefix": "10.2.0.0/16", "blackhole": true}]}),
    ));
    assert_eq!(found, "/routes/1/prefix: 10.2.0.0/16 is the prefix of /routes/0 already");
}

#[test]
fn reports_neighbours_and_api() {
    let mac = "52:54:00:00:00:02";
    for (extra, expected) in [
        (
            json!({"neighbours": [{"interface": "eth5", "address": "10.0.0.2", "mac": mac}]}),
            "/neighbours/0/interface: there is no interface eth5",
        ),
        (
            json!({"neighbours": [{"interface": "eth0", "address": "10.0.1.2", "mac": mac}]}),
            "/neighbours/0/address: 10.0.1.2 is not on a network",
        ),
        (
            json!({"neighbours": [{"interface": "eth0", "address": "10.0.0.1", "mac": mac}]}),
            "/neighbours/0/address: 10.0.0.1 is this node's own",
        ),
        (
            json!({"neighbours": [{"interface": "eth0", "address": "ff02::1", "mac": mac}]}),
            "/neighbours/0/address: ff02::1 is a multicast",
        ),
        (json!({"api": {"interface": "eth5"}}), "/api/interface: there is no interface eth5"),
        (
            json!({"interfaces": [{"name": "eth0"}], "api": {"interface": "eth0"}}),
            "/api/interface: eth0 has no address",
        ),
    ] {
        let found = the_problem(&with(&extra));
        assert!(found.starts_with(expected), "{found}");
    }
    let twice = json!({"interface": "eth0", "address": "10.0.0.2", "mac": mac});
    assert_eq!(
        the_problem(&with(&json!({"neighbours": [twice, twice]}))),
        "/neighbours/1: is given already at /neighbours/0"
    );
}

#[test]
fn holds_against_the_machine() {
    let config = parse(
        json!({"interfaces": [
        {"name": "eth0", "mtu": 9000}, {"name": "eth2"}, {"name": "eth0.5", "parent": "eth0", "vlan": 5}]})
        .to_string()
        .as_bytes(),
    )
    .unwrap();
    let ports = [PortFacts { name: "eth0", max_mtu: 1500 }, PortFacts { name: "eth1", max_mtu: 1500 }];
    let found: Vec<String> = validate_ports(&config, &ports).iter().map(|p| format!("{p}")).collect();
    assert_eq!(
        found,
        [
            "/interfaces/0/mtu: is more than the 1500 bytes the device can carry",
            "/interfaces/1/name: is not a port of this machine; its ports are: eth0, eth1"
        ]
    );
}

#[test]
fn reads_single_routes() {
    let route = parse_route(br#"{"prefix":"10.0.0.0/8","via":[{"address":"10.0.0.1"}]}"#).unwrap();
    assert_eq!((route.prefix.to_string().as_str(), route.via[0].weight), ("10.0.0.0/8", 1));
    let mut odd = route.clone();
    odd.prefix = "10.0.0.1/8".parse().unwrap();
    odd.via[0].weight = 17;
    let pointers: Vec<String> = validate_route(&odd).into_iter().map(|problem| problem.pointer).collect();
    assert_eq!(pointers, ["/prefix", "/via/0/weight"]);
    assert_eq!(parse_route(br#"{"prefix":"10.0.0.0/8"}"#).unwrap_err()[0].pointer, "");
    assert_eq!(
        parse_route(br#"{"prefix":"10.0.0.0/8","via":[{"address":"::1"}]}"#).unwrap_err()[0].pointer,
        "/via/0/address"
    );
}
