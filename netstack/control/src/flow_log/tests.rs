//! From packets to records and messages, through a worker.

use super::export::datagram;
use crate::testing::{Machine, UNIX_NS};
use crate::tests::World;
use netflow_parser::variable_versions::ipfix::FlowSetBody;
use netflow_parser::{NetflowPacket, NetflowParser};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

const NODE_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0];
const SERVER: [u8; 4] = [10, 0, 1, 9];
const COLLECTOR: [u8; 4] = [10, 0, 0, 2];

fn world() -> World {
    let interface = |name: &str, address: &str| json!({"name": name, "addresses": [address]});
    let config = json!({
        "interfaces": [interface("eth0", "10.0.0.1/24"), interface("eth1", "10.0.1.1/24")],
        "neighbours": [{"interface": "eth1", "address": "10.0.1.9", "mac": "52:54:00:00:02:09"}],
        "flow_log": {"collectors": [{"address": "10.0.0.2", "port": 2055, "observation_domain": 7}]},
    });
    let mut world = World::new(&Machine::with_large_store(), Some(config), "10.0.0.2/24", "10.0.0.1");
    let pod = |name: &str, address: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
               "status": {"podIPs": [{"ip": address}]}})
    };
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "front", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"protocol": "UDP", "port": 53}]}]},
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let list = json!({"apiVersion": "v1", "kind": "List",
        "items": [namespace, pod("web", "10.0.1.9"), pod("client", "10.0.0.3"), policy]});
    let (status, answer) = world.ask("10.0.0.1", "POST", "/v1/resources", &list.to_string());
    assert_eq!(status, 200, "{answer}");
    world.run(50);
    world
}

/// A datagram from a port of 10.0.0.3 to one of the server.
fn send(world: &mut World, from: u16, to: u16) {
    let client: IpAddr = [10, 0, 0, 3].into();
    let packet = datagram((client, from), (SERVER.into(), to), b"hello");
    assert!(world.send_frame(&[&NODE_MAC[..], &[2, 0, 0, 0, 0, 3], &[8, 0], &packet].concat()));
    world.run(1);
}

fn flows(world: &mut World, query: &str) -> Vec<Value> {
    let (status, page) = world.ask("10.0.0.1", "GET", &format!("/v1/flows?protocol=udp&{query}"), "");
    assert_eq!(status, 200, "{page}");
    page["flows"].as_array().unwrap().clone()
}

fn field<'a>(flows: &'a [Value], name: &str) -> Vec<&'a str> {
    flows.iter().map(|flow| flow[name].as_str().unwrap_or_default()).collect()
}

/// The records of messages with their elements by name, as a decoder sees them that is not ours.
fn decode(messages: &[Vec<u8>]) -> Vec<BTreeMap<String, String>> {
    let mut parser = NetflowParser::default();
    let mut records = Vec::new();
    for message in messages {
        let parsed = parser.parse_bytes(message);
        assert!(parsed.error.is_none(), "{:?}", parsed.error);
        for packet in parsed.packets {
            let NetflowPacket::IPFix(message) = packet else { panic!("no IPFIX: {packet:?}") };
            for set in message.flowsets {
                let FlowSetBody::Data(data) = set.body else { continue };
                // Elements are `IANA(Name)`, or of the kind of their enterprise.
                let name =
                    |element: String| element.split('(').nth(1).unwrap().trim_end_matches(')').to_owned();
                let record = |fields: &Vec<(_, _)>| {
                    fields
                        .iter()
                        .map(|(element, value)| (name(format!("{element:?}")), format!("{value:?}")))
                        .collect()
                };
                records.extend(data.fields.iter().map(record));
            }
        }
    }
    records
}

#[test]
fn flows_have_names_and_reasons_and_what_is_denied_again_is_summed_up() {
    let mut world = world();
    send(&mut world, 4000, 53);
    for port in 0..40 {
        send(&mut world, 5000 + port, 54);
    }
    world.run(20);
    let all = flows(&mut world, "namespace=shop");
    assert_eq!(field(&all, "event"), ["start", "deny"]);
    let (start, deny) = (&all[0], &all[1]);
    assert_eq!(
        (&start["from"], &start["to"], &start["destination_port"]),
        (&json!("shop/client"), &json!("shop/web"), &json!(53))
    );
    assert_eq!((&start["policy"], &start["rule"]), (&json!("KubernetesNetworkPolicy shop/front"), &json!(1)));
    // The clock of the test stands still.
    assert!(start["start_ms"].as_u64().unwrap().abs_diff(UNIX_NS / 1_000_000) < 1000);
    assert_eq!(
        (&deny["verdict"], &deny["packets"], &deny["tier"]),
        (&json!("deny"), &json!(1), &json!("default"))
    );
    assert!(deny["reason"].as_str().unwrap().contains("shop/front"), "{deny}");
    world.wait(11);
    let denied = flows(&mut world, "verdict=deny");
    assert_eq!(denied.iter().map(|flow| flow["packets"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 39]);
    for (query, count) in [
        ("port=53", 1),
        ("port=54", 2),
        ("policy=shop/front", 3),
        ("policy=front", 3),
        ("policy=other/front", 0),
        ("endpoint=shop/client", 3),
        ("endpoint=shop/other", 0),
        ("namespace=other", 0),
        ("address=10.0.1.0/24&verdict=allow", 1),
    ] {
        assert_eq!(flows(&mut world, query).len(), count, "{query}");
    }
    // What each rule has decided.
    let (_, rules) = world.ask("10.0.0.1", "GET", "/v1/policy/rules?name=shop/front", "");
    let rules = rules["policies"][0]["rules"].as_array().unwrap().clone();
    assert_eq!(field(&rules, "action"), ["Allow", "EndOfTier"]);
    assert_eq!(rules.iter().map(|rule| rule["hits"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 40]);
}

#[test]
fn an_end_tells_what_was_carried_and_collectors_get_it_behind_the_templates() {
    let mut world = world();
    world.see();
    for _ in 0..3 {
        send(&mut world, 4000, 53);
    }
    // A datagram without answer is forgotten after half a minute.
    world.wait(50);
    let ended = flows(&mut world, "port=4000");
    assert_eq!(field(&ended, "event"), ["start", "end"]);
    assert_eq!(
        (&ended[1]["packets"], &ended[1]["bytes"], &ended[1]["end"]),
        (&json!(3), &json!(99), &json!("idle"))
    );
    assert_eq!(ended[1]["policy"], "KubernetesNetworkPolicy shop/front");
    let messages: Vec<Vec<u8>> = world
        .seen()
        .iter()
        .filter(|frame| frame.get(23) == Some(&17) && frame.get(30..34) == Some(&COLLECTOR[..]))
        .map(|frame| frame[42..].to_vec())
        .collect();
    let at16 = |message: &[u8], at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    for message in &messages {
        assert_eq!((at16(message, 0), usize::from(at16(message, 2))), (10, message.len()));
        assert_eq!(message[12..16], [0, 0, 0, 7]);
    }
    assert_eq!(at16(&messages[0], 16), 2, "templates come first");
    // Sequence numbers count data records, and templates are none.
    assert_eq!(messages[0][8..12], messages[1][8..12]);
    let records = decode(&messages);
    let ends: Vec<_> =
        records.iter().filter(|record| record["DestinationTransportPort"].contains("U16(53)")).collect();
    let [start, end] = ends[..] else { panic!("{records:?}") };
    for (element, value) in [
        ("FirewallEvent", "FlowCreated"),
        ("PacketDeltaCount", "U64(0)"),
        ("FlowStartMilliseconds", "value: 17672255"),
        ("SelectorName", "KubernetesNetworkPolicy shop/front, ingress rule 1, tier default"),
    ] {
        assert!(
            start[element].to_lowercase().contains(&value.to_lowercase()),
            "{element}: {}",
            start[element]
        );
    }
    for (element, value) in [
        ("SourceIpv4address", "10.0.0.3"),
        ("DestinationIpv4address", "10.0.1.9"),
        ("SourceTransportPort", "U16(4000)"),
        ("PostNatsourceIpv4address", "10.0.0.3"),
        ("PostNaptdestinationTransportPort", "U16(53)"),
        ("ProtocolIdentifier", "Udp"),
        ("OctetDeltaCount", "U64(99)"),
        ("PacketDeltaCount", "U64(3)"),
        ("ReverseOctetDeltaCount", "U64(0)"),
        ("FlowEndReason", "IdleTimeout"),
        ("FirewallEvent", "FlowDeleted"),
        ("FlowStartMilliseconds", "value: 17672255"),
        ("SelectorName", "KubernetesNetworkPolicy shop/front, ingress rule 1, tier default"),
    ] {
        assert!(
            end[element].to_lowercase().contains(&value.to_lowercase()),
            "{element}: {} is not {value}",
            end[element]
        );
    }
}
