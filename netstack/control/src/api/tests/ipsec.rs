//! IPsec over the API.

use super::*;
use dataplane::InterfaceId;
use std::collections::BTreeSet;

const JSON: &str = "Content-Type: application/json\r\n";
const PATH: &str = "/v1/ipsec/associations";

/// A security association of the tunnel in [`with_tunnel`].
pub(super) fn association(spi: u32) -> Value {
    json!({"name": "a", "tunnel": "ipsec0", "direction": "in", "spi": spi, "algorithm": "aes128gcm16", "key": "5a".repeat(20)})
}

pub(super) fn with_tunnel() -> Value {
    let mut config = two_ports();
    config["routes"] = json!([{"prefix": "10.9.0.0/16", "via": [{"interface": "ipsec0"}]}]);
    config["ipsec"] = json!({"tunnels": [{"name": "ipsec0", "local": "10.0.0.1", "remote": "10.0.0.2"}]});
    config
}

impl Api {
    /// A tunnel, and an association where one is asked for or changed.
    pub(super) fn prepare_ipsec(&mut self, path: &str, method: Method) {
        if !path.starts_with("/v1/ipsec") {
            return;
        }
        let answer = self.ask_with("PUT", "/v1/config", JSON, &with_tunnel().to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        if method != Method::Post {
            let answer =
                self.ask_with("POST", "/v1/ipsec/associations", JSON, &association(4097).to_string());
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }
}

#[test]
fn a_key_daemon_adds_replaces_and_removes_and_sees_no_key() {
    let mut api = Api::new();
    api.prepare_ipsec(PATH, Method::Get);
    let again = api.ask_with("POST", PATH, JSON, &association(4098).to_string());
    assert_eq!(again.status, 409, "{}", again.body);
    let mut out = association(5000);
    out["name"] = json!("b");
    out["direction"] = json!("out");
    assert_eq!(api.ask_with("POST", PATH, JSON, &out.to_string()).status, 200);
    let verified = api.ask("GET", "/v1/ipsec/verify?prefix=10.9.3.0/24", "").json();
    assert_eq!(
        (&verified["encrypted"], &verified["findings"][0]["spi"]),
        (&json!(true), &json!(5000)),
        "{verified}"
    );
    assert_eq!(api.ask_with("PUT", PATH, JSON, &association(4099).to_string()).status, 200);
    let listed = api.ask("GET", PATH, "");
    assert!(!listed.body.contains("5a5a"), "{}", listed.body);
    let states: Vec<(String, String)> = listed.json()["associations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["spi"].to_string(), one["state"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [("4099", "active"), ("5000", "active"), ("4097", "overlap")];
    assert_eq!(states, expected.map(|(spi, state)| (spi.to_owned(), state.to_owned())));
    assert_eq!(api.ask("DELETE", "/v1/ipsec/associations?name=b", "").status, 200);
    assert_eq!(api.ask("DELETE", "/v1/ipsec/associations?name=b", "").status, 404);
    let verified = api.ask("GET", "/v1/ipsec/verify?prefix=10.9.3.0/24", "").json();
    assert_eq!(
        (&verified["encrypted"], &verified["never_clear"]),
        (&json!(false), &json!(true)),
        "{verified}"
    );
    let names: Vec<Value> = api.ask("GET", "/v1/ipsec/events", "").json()["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["event"].clone())
        .collect();
    assert_eq!(names, ["added", "added", "replaced", "removed"]);
    let mut foreign = association(6000);
    foreign["name"] = json!("c");
    foreign["tunnel"] = json!("ipsec7");
    let refused = api.ask_with("POST", PATH, JSON, &foreign.to_string());
    assert_eq!((refused.status, refused.json()["errors"][0]["pointer"].as_str()), (422, Some("/tunnel")));
}

#[test]
fn keys_of_the_configuration_are_kept_and_never_shown() {
    let mut api = Api::new();
    let mut config = with_tunnel();
    config["ipsec"]["associations"] = json!([association(4096)]);
    let answer = api.ask_with("PUT", "/v1/config", JSON, &config.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(!answer.body.contains("5a5a"), "{}", answer.body);
    let shown = api.ask("GET", "/v1/config", "");
    assert!(!shown.body.contains("5a5a"), "{}", shown.body);
    // What was shown may be put back: the key stays.
    let answer = api.ask_with("PUT", "/v1/config", JSON, &shown.body);
    assert_eq!((answer.status, &answer.json()["changes"]), (200, &json!([])), "{}", answer.body);
    config["ipsec"]["associations"][0]["spi"] = json!(4097);
    let _ = config["ipsec"]["associations"][0].as_object_mut().unwrap().remove("key");
    let refused = api.ask_with("PUT", "/v1/config", JSON, &config.to_string());
    let pointer = "/ipsec/associations/0/key";
    assert_eq!((refused.status, refused.json()["errors"][0]["pointer"].as_str()), (422, Some(pointer)));
}

/// Name and state of all associations.
fn states(api: &mut Api) -> Vec<(String, String)> {
    let all = api.get(PATH)["associations"].as_array().unwrap().clone();
    let text = |one: &Value, member: &str| one[member].as_str().unwrap().to_owned();
    all.iter().map(|one| (text(one, "name"), text(one, "state"))).collect()
}

fn events(api: &mut Api) -> Vec<String> {
    let events = api.get("/v1/ipsec/events")["events"].as_array().unwrap().clone();
    events.iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn expired_associations_of_a_key_daemon_are_told_of_for_five_minutes() {
    let mut api = Api::new();
    let mut config = with_tunnel();
    let mut configured = association(4096);
    configured["name"] = json!("configured");
    configured["lifetime"] = json!({"hard_seconds": 30});
    config["ipsec"]["associations"] = json!([configured]);
    assert_eq!(api.ask_with("PUT", "/v1/config", JSON, &config.to_string()).status, 200);
    let mut daemons = association(5000);
    daemons["lifetime"] = json!({"soft_seconds": 10, "hard_seconds": 20});
    assert_eq!(api.ask_with("POST", PATH, JSON, &daemons.to_string()).status, 200);
    let began_ns = api.node.now_ns;
    let mut at = |seconds: u64| {
        api.node.now_ns = began_ns + seconds * SECOND_NS;
        let now_ns = api.node.now_ns;
        api.node.router.poll(now_ns);
        (states(&mut api), events(&mut api))
    };
    let state = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    let both = |a, configured| vec![state("a", a), state("configured", configured)];
    assert_eq!(at(9), (both("active", "active"), ["added", "added"].map(String::from).into()));
    assert_eq!(at(11).1, ["added", "added", "soft-expired"]);
    let expired = ["added", "added", "soft-expired", "hard-expired"];
    assert_eq!(at(21), (both("expired", "active"), expired.map(String::from).into()));
    assert_eq!(at(319).0, both("expired", "expired"));
    // What the configuration has stays as long as it has it.
    let (left, told) = at(322);
    assert_eq!(left, [state("configured", "expired")]);
    assert_eq!(told.last().map(String::as_str), Some("removed"));
    assert_eq!(at(4000).0, left);
}

/// So many seconds from now, what the tunnel encrypts by, and whether metrics say that it is up.
fn way_out(api: &mut Api, seconds: u64) -> (Value, String) {
    api.node.now_ns += seconds * SECOND_NS;
    let now_ns = api.node.now_ns;
    api.node.router.poll(now_ns);
    let outbound = api.get("/v1/ipsec/tunnels")["tunnels"][0]["outbound"].clone();
    let verified = api.get("/v1/ipsec/verify?prefix=10.9.0.0/16");
    assert_eq!(verified["encrypted"], outbound != Value::Null, "{verified}");
    let metrics = api.ask("GET", "/metrics", "").body;
    let up = metrics.lines().find(|line| line.starts_with("fairlead_ipsec_tunnel_up{"));
    (outbound, up.unwrap().rsplit_once(' ').unwrap().1.to_owned())
}

/// An association that has expired encrypts nothing, and whoever watches the tunnel sees that.
#[test]
fn a_tunnel_is_down_once_its_association_has_expired() {
    let mut api = Api::new();
    assert_eq!(api.ask_with("PUT", "/v1/config", JSON, &with_tunnel().to_string()).status, 200);
    let mut out = association(5000);
    (out["name"], out["direction"]) = (json!("b"), json!("out"));
    out["lifetime"] = json!({"hard_seconds": 20});
    assert_eq!(way_out(&mut api, 0), (Value::Null, "0".into()));
    assert_eq!(api.ask_with("POST", PATH, JSON, &out.to_string()).status, 200);
    assert_eq!(way_out(&mut api, 19), (json!("b"), "1".into()));
    assert_eq!(way_out(&mut api, 2), (Value::Null, "0".into()));
    out["spi"] = json!(5001);
    assert_eq!(api.ask_with("PUT", PATH, JSON, &out.to_string()).status, 200);
    assert_eq!(way_out(&mut api, 1), (json!("b"), "1".into()));
}

/// Number and IV of the next packet of the tunnel.
fn next_number_and_iv(api: &Api) -> (u32, u64) {
    let snapshot = api.node.shared.ipsec();
    let sa = snapshot.outbound(::ipsec::TunnelId(0)).expect("it encrypts");
    let packet = [&[0x45, 0, 0, 20][..], &[1; 16]].concat();
    let mut packets = [buffer::BufferPool::from_heap(4).cache().copy(&packet).unwrap()];
    let mut results = [Ok(())];
    ::ipsec::encapsulate(
        snapshot.suite(),
        &::ipsec::Claimant::NOBODY,
        &mut packets,
        &[Some(sa)],
        0,
        &mut results,
    );
    assert_eq!(results, [Ok(())]);
    let outer = packets[0].data();
    let number = u32::from_be_bytes(outer[24..28].try_into().unwrap());
    (number, u64::from_be_bytes(outer[28..36].try_into().unwrap()))
}

/// A tunnel that changes makes its associations again, under the keys that they have: no number comes twice, and IVs begin elsewhere.
#[test]
fn an_association_that_is_made_again_repeats_neither_numbers_nor_ivs() {
    let mut api = Api::new();
    let mut config = with_tunnel();
    let mut out = association(5000);
    out["direction"] = json!("out");
    config["ipsec"]["associations"] = json!([out]);
    let mut seen = Vec::new();
    for ttl in [64, 63, 62] {
        config["ipsec"]["tunnels"][0]["ttl"] = json!(ttl);
        let answer = api.ask_with("PUT", "/v1/config", JSON, &config.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        seen.extend([next_number_and_iv(&api), next_number_and_iv(&api)]);
    }
    assert!(seen.is_sorted_by_key(|(number, _)| *number), "{seen:x?}");
    // Workers may have taken numbers that control does not know of.
    assert!(seen[2].0 > seen[1].0 + 60_000 && seen[4].0 > seen[3].0 + 60_000, "{seen:x?}");
    let bases: BTreeSet<u64> = seen.iter().map(|(number, iv)| iv.wrapping_sub(u64::from(*number))).collect();
    assert_eq!(bases.len(), 3, "{seen:x?}");
}

/// Padding ends where the path does, with an interface and without.
#[test]
fn padding_makes_no_packet_too_long_for_its_path() {
    for route_based in [true, false] {
        let mut api = Api::new();
        let mut config = with_tunnel();
        let tunnel = &mut config["ipsec"]["tunnels"][0];
        (tunnel["tfc_padding"], tunnel["route_based"]) = (json!(9000), json!(route_based));
        config["routes"] = json!([]);
        let mut out = association(5000);
        out["direction"] = json!("out");
        config["ipsec"]["associations"] = json!([out]);
        let answer = api.ask_with("PUT", "/v1/config", JSON, &config.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        let snapshot = api.node.shared.ipsec();
        let sa = snapshot.outbound(::ipsec::TunnelId(0)).expect("it encrypts");
        assert_eq!(100 + sa.overhead(100), 1500, "{route_based}");
    }
}

/// A NAT moves the peer while it still uses the association from before a rekey: the next one sends to where it is.
#[test]
fn a_peer_that_moves_during_a_rekey_is_followed() {
    use ::ipsec::{Algorithm, Database, Direction, Entropy, EspError, NatT, SaParameters, Tunnel, TunnelId};
    let mut api = Api::new();
    let mut config = with_tunnel();
    config["ipsec"]["tunnels"][0]["nat_traversal"] = json!({});
    assert_eq!(api.ask_with("PUT", "/v1/config", JSON, &config.to_string()).status, 200);
    assert_eq!(api.ask_with("POST", PATH, JSON, &association(4097).to_string()).status, 200);
    assert_eq!(api.ask_with("PUT", PATH, JSON, &association(4098).to_string()).status, 200);
    // The peer, by the first one, from another port.
    let (mut peer, entropy) =
        (Database::new(crypto::gcm::Gcm::best()), Entropy { iv_base: 0, iv_key: [0; 16] });
    let ends = ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap());
    let key = vec![0x5a; 20].into();
    let nat_t = Some(NatT { local_port: 40_000, remote_port: 4500 });
    let outbound = SaParameters::new(4097, Direction::Outbound, ends, Algorithm::Aes128Gcm, key);
    let sa = peer.add(SaParameters { nat_t, ..outbound }, &entropy, 0).unwrap();
    peer.set_tunnel(TunnelId(0), Tunnel { outbound: Some(sa.id()), ..Tunnel::default() }).unwrap();
    let mut inner = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 9, 0, 1, 10, 0, 0, 9];
    inner[11] = 1;
    let mut packets = [buffer::BufferPool::from_heap(4).cache().copy(&inner).unwrap()];
    let (mut sealed, mut opened) = ([Ok(())], [Err(EspError::Malformed)]);
    let suite = peer.snapshot();
    ::ipsec::encapsulate(
        suite.suite(),
        &::ipsec::Claimant::NOBODY,
        &mut packets,
        &[Some(&*sa)],
        0,
        &mut sealed,
    );
    let snapshot = api.node.shared.ipsec();
    ::ipsec::decapsulate(&snapshot, &mut packets, 0, &mut opened);
    assert_eq!((sealed, opened[0].map(|sa| sa.parameters().spi)), ([Ok(())], Ok(4097)));
    api.node.now_ns += SECOND_NS;
    let now_ns = api.node.now_ns;
    api.node.router.poll(now_ns);
    assert_eq!(events(&mut api), ["added", "replaced", "peer-moved"]);
    let mut out = association(5000);
    (out["name"], out["direction"]) = (json!("b"), json!("out"));
    assert_eq!(api.ask_with("POST", PATH, JSON, &out.to_string()).status, 200);
    let listed = api.get(PATH)["associations"].as_array().unwrap().clone();
    let made = listed.iter().find(|one| one["name"] == "b").unwrap();
    assert_eq!((&made["peer_address"], &made["peer_port"]), (&json!("10.0.0.2"), &json!(40_000)));
}

/// 2,500 tunnels with two associations each way: added one by one, rekeyed, listed, told as metrics, removed.
#[test]
fn ten_thousand_associations() {
    const TUNNELS: u32 = 2500;
    let mut api = Api::new();
    let mut config = with_tunnel();
    let names: Vec<String> = (0..TUNNELS).map(|n| format!("t{n}")).collect();
    let tunnels = names.iter().enumerate().map(|(n, name)| {
        let remote = format!("10.7.{}.{}", n / 200, n % 200 + 1);
        json!({"name": name, "local": "10.0.0.1", "remote": remote, "route_based": n < 200})
    });
    config["ipsec"]["tunnels"] = tunnels.collect();
    config["routes"] = json!([]);
    let answer = api.ask_with("PUT", "/v1/config", JSON, &config.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let put = |api: &mut Api, method: &str, n: u32, name: &str, spi: u32| {
        let direction = if name < "o" { "in" } else { "out" };
        let body = json!({
            "name": format!("{name}{n}"), "tunnel": names[n as usize], "direction": direction, "spi": spi + n,
            "algorithm": "aes128gcm16", "key": "5a".repeat(20),
        });
        let text = body.to_string();
        let request = format!(
            "{method} {PATH} HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\n{JSON}Content-Length: {}\r\n\r\n{text}",
            text.len()
        );
        let answer = api.send(request.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    for n in 0..TUNNELS {
        for (name, spi) in [("i", 0x10000), ("j", 0x30000), ("o", 0x10000), ("p", 0x30000)] {
            put(&mut api, "POST", n, name, spi);
        }
    }
    for n in (0..TUNNELS).step_by(50) {
        put(&mut api, "PUT", n, "i", 0x20000);
        put(&mut api, "PUT", n, "o", 0x20000);
    }
    let now_ns = api.node.now_ns + SECOND_NS;
    api.node.now_ns = now_ns;
    api.node.router.poll(now_ns);
    let request =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let listed = api.send(request(PATH).as_bytes()).json();
    let listed = listed["associations"].as_array().unwrap();
    let spis: BTreeSet<(String, u64)> = listed
        .iter()
        .map(|a| (a["direction"].as_str().unwrap().into(), a["spi"].as_u64().unwrap()))
        .collect();
    // The inbound ones that were replaced go on for a while.
    assert_eq!((listed.len(), spis.len()), (10_050, 10_050));
    let tunnels = api.send(request("/v1/ipsec/tunnels").as_bytes()).json();
    for (n, tunnel) in tunnels["tunnels"].as_array().unwrap().iter().enumerate() {
        let number = &tunnel["name"].as_str().unwrap()[1..];
        // The newest encrypts.
        let newest = if number.parse::<u32>().unwrap().is_multiple_of(50) { "o" } else { "p" };
        assert_eq!(tunnel["outbound"], format!("{newest}{number}"), "{n}: {tunnel}");
        assert_eq!(tunnel["inbound"], json!([format!("i{number}"), format!("j{number}")]));
    }
    for n in 0..TUNNELS {
        let snapshot = api.node.shared.ipsec();
        assert!(snapshot.inbound(0x10000 + n).is_some() && snapshot.inbound(0x30000 + n).is_some());
        assert_eq!(snapshot.inbound(0x20000 + n).is_some(), n % 50 == 0);
    }
    let metrics = api.send(request("/metrics").as_bytes());
    assert!(metrics.body.contains("association=\"p2499\""), "{}", metrics.status);
    let answer = api.ask_with("PUT", "/v1/config", JSON, &two_ports().to_string());
    assert_eq!(answer.status, 200);
    assert_eq!(api.get(PATH)["associations"], json!([]));
}

/// Destination, what happens, and by which association or why, of each finding.
fn findings(api: &mut Api, prefix: &str) -> Vec<String> {
    let answer = api.get(&format!("/v1/ipsec/verify?prefix={prefix}"));
    let (mut clear, mut encrypted) = (false, false);
    let text = |finding: &Value, member: &str| finding[member].as_str().unwrap_or_default().to_owned();
    let all = answer["findings"].as_array().unwrap().iter().map(|finding| {
        let verdict = text(finding, "verdict");
        (clear, encrypted) = (clear | (verdict == "clear"), encrypted | (verdict == "encrypted"));
        let how = ["association", "interface", "reason"].map(|member| text(finding, member)).concat();
        format!("{} {verdict} {how}", text(finding, "prefix"))
    });
    let all = all.collect();
    assert_eq!(answer["never_clear"], !clear, "{answer}");
    assert_eq!(answer["encrypted"], encrypted && !clear, "{answer}");
    all
}

#[test]
fn a_network_of_many_fates_is_told_of_part_by_part() {
    let mut api = Api::new();
    let mut config = two_ports();
    let tunnel = |name: &str, remote: &str, route_based: bool| json!({"name": name, "local": "10.0.0.1", "remote": remote, "route_based": route_based});
    let out = |tunnel: &str, spi: u32| {
        let mut association = association(spi);
        association["name"] = json!(format!("out-{tunnel}"));
        association["tunnel"] = json!(tunnel);
        association["direction"] = json!("out");
        association
    };
    config["routes"] = json!([
        {"prefix": "10.9.0.0/16", "via": [{"address": "10.0.0.2"}]},
        {"prefix": "10.9.128.0/17", "via": [{"interface": "t3"}]},
        {"prefix": "10.8.0.0/16", "via": [{"address": "10.0.0.2"}]},
        {"prefix": "10.8.0.0/17", "via": [{"interface": "t3"}]},
        {"prefix": "10.8.128.0/17", "blackhole": true},
    ]);
    let policy = |destination: &str, action: &str, tunnel: Value| {
        let name = format!("{action} {destination}").replace(['.', '/', ' '], "-");
        let mut policy = json!({"name": name, "direction": "out", "action": action, "source": "0.0.0.0/0", "destination": destination});
        if tunnel != Value::Null {
            policy["tunnel"] = tunnel;
        }
        policy
    };
    let mut some = policy("10.9.4.0/24", "protect", json!("t1"));
    some["protocol"] = json!(6);
    config["ipsec"] = json!({
        "tunnels": [tunnel("t1", "10.0.0.3", false), tunnel("t2", "10.0.0.4", false), tunnel("t3", "10.0.0.5", true)],
        "associations": [out("t1", 4097), out("t2", 4098), out("t3", 4099)],
        "policies": [
            policy("10.9.0.0/24", "protect", json!("t1")),
            policy("10.9.1.0/24", "protect", json!("t2")),
            policy("10.9.2.0/24", "discard", Value::Null),
            policy("10.9.3.0/24", "bypass", Value::Null),
            // None of its packets is left by the ones before.
            policy("10.9.0.0/23", "bypass", Value::Null),
            some,
        ],
        "must_encrypt": ["10.9.5.0/24"],
    });
    let answer = api.ask_with("PUT", "/v1/config", JSON, &config.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let now_ns = api.node.now_ns;
    api.node.router.set_link(InterfaceId(0), true, now_ns);
    api.node.router.poll(now_ns);
    let [first, second, discarded, passed] = [
        "10.9.0.0/24 encrypted out-t1",
        "10.9.1.0/24 encrypted out-t2",
        "10.9.2.0/24 dropped policy",
        "10.9.3.0/24 clear eth0",
    ];
    assert_eq!(findings(&mut api, "10.9.0.0/23"), [first, second]);
    assert_eq!(findings(&mut api, "10.9.0.0/22"), [first, second, discarded, passed]);
    let (some, rest) = ("10.9.4.0/24 encrypted out-t1", "10.9.4.0/24 clear eth0");
    assert_eq!(findings(&mut api, "10.9.4.0/24"), [some, rest]);
    assert_eq!(findings(&mut api, "10.9.5.128/25"), ["10.9.5.128/25 dropped must-encrypt"]);
    let marked = "10.9.5.0/24 dropped must-encrypt";
    let (all, longer) = ("10.9.0.0/16 clear eth0", "10.9.128.0/17 encrypted out-t3");
    assert_eq!(
        findings(&mut api, "10.9.0.0/16"),
        [first, second, discarded, passed, some, marked, all, longer]
    );
    // A route of which longer ones leave nothing is nobody's.
    let halves = ["10.8.0.0/17 encrypted out-t3", "10.8.128.0/17 dropped blackhole"];
    assert_eq!(findings(&mut api, "10.8.0.0/16"), halves);
}
