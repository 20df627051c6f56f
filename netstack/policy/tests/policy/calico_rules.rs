//! Rules, tiers and a host's hooks against the cases of Calico's own dataplane tests.

use std::sync::Arc;

use crate::common::{list, load, number, text};
use ipnet::IpNet;
use policy::Selector;
use policy::model::{
    Action, DefaultAction, Direction, Endpoint, EndpointKind, Hook, Icmp, Match, Model, Order, Packet,
    Policy, PolicyId, Ports, Rule, Set, Side, Tier,
};
use policy::reference::{Stage, judge};
use serde_json::{Value, json};

#[test]
fn every_packet_is_judged_as_calico_does() {
    let truth = load("calico-rules-truth.json.gz");
    let mut checked = 0;
    for case in list(&truth) {
        for (field, wanted) in [("allowed", Some(true)), ("dropped", Some(false)), ("unmatched", None)] {
            for packet in list(&case[field]) {
                assert_eq!(verdict(case, packet), wanted, "{}: {packet}", case["name"]);
                checked += 1;
            }
        }
    }
    assert!(checked > 180, "{checked} packets only");
}

/// What the interface of a case does with a packet; none if nothing matches.
fn verdict(case: &Value, packet: &Value) -> Option<bool> {
    let rules = &case["rules"];
    let after = parse_packet(packet, "dst", "dst_port");
    let tiers = |field: &str, kind, hook, stage, packet: &Packet| {
        let model = model(rules, field, hook, &case["ip_sets"]);
        judge(&model, &Endpoint::new(kind, "interface".into()), Direction::Ingress, stage, packet)
            .map(|verdict| verdict.allow)
    };
    if rules["for_xdp"] == json!(true) {
        return tiers("host_normal_tiers", EndpointKind::Host, Hook::Untracked, Stage::Untracked, &after);
    }
    let before = if packet["pre_nat_dst"].is_null() {
        after
    } else {
        parse_packet(packet, "pre_nat_dst", "pre_nat_dst_port")
    };
    let pre_dnat = tiers("host_pre_dnat_tiers", EndpointKind::Host, Hook::PreDnat, Stage::PreDnat, &before);
    if pre_dnat == Some(false) {
        return pre_dnat;
    }
    if rules["for_host_interface"] != json!(true) {
        return tiers("tiers", EndpointKind::Workload, Hook::Normal, Stage::Normal, &after);
    }
    if pre_dnat.is_some() {
        return pre_dnat;
    }
    let of_host = ["to_host", "from_host"].iter().any(|field| packet[*field] == json!(true));
    if of_host {
        tiers("host_normal_tiers", EndpointKind::Host, Hook::Normal, Stage::Normal, &after)
    } else {
        tiers("host_forward_tiers", EndpointKind::Host, Hook::Forward, Stage::Forward, &after)
    }
}

fn parse_packet(packet: &Value, destination: &str, port: &str) -> Packet {
    Packet {
        source: text(&packet["src"]).parse().unwrap(),
        destination: text(&packet[destination]).parse().unwrap(),
        protocol: number(&packet["protocol"]),
        source_port: number(&packet["src_port"]),
        destination_port: number(&packet[port]),
        icmp: (number(&packet["icmp_type"]), number(&packet["icmp_code"])),
    }
}

fn model(rules: &Value, field: &str, hook: Hook, sets: &Value) -> Model {
    let tier = |(index, tier): (usize, &Value)| Tier {
        name: text(&tier["name"]).into(),
        order: Order(Some(index as f64)),
        default_action: match text(&tier["end_action"]) {
            "pass" => DefaultAction::Pass,
            _ => DefaultAction::Deny,
        },
        policies: list(&tier["policies"]).iter().map(|p| Arc::new(policy(p, hook, sets))).collect(),
    };
    Model { tiers: list(&rules[field]).iter().enumerate().map(tier).collect(), ..Model::default() }
}

fn policy(policy: &Value, hook: Hook, sets: &Value) -> Policy {
    Policy {
        id: PolicyId { name: text(&policy["name"]).into(), namespace: None, kind: "GlobalNetworkPolicy" },
        order: Order(None),
        standing: policy::model::Standing::Enforced,
        subject: Selector::All,
        hook,
        ingress: Some(list(&policy["rules"]).iter().enumerate().map(|(i, r)| rule(i, r, sets)).collect()),
        egress: None,
    }
}

fn rule(index: usize, rule: &Value, sets: &Value) -> Rule {
    const KNOWN: [&str; 19] = [
        "action",
        "protocol",
        "not_protocol",
        "icmp",
        "not_icmp",
        "src_net",
        "dst_net",
        "not_src_net",
        "not_dst_net",
        "src_ports",
        "dst_ports",
        "not_src_ports",
        "not_dst_ports",
        "src_ip_set_ids",
        "dst_ip_set_ids",
        "not_src_ip_set_ids",
        "not_dst_ip_set_ids",
        "src_named_port_ip_set_ids",
        "dst_named_port_ip_set_ids",
    ];
    for field in rule.as_object().unwrap().keys() {
        assert!(KNOWN.contains(&field.as_str()), "field {field}");
    }
    let side = |side: &str| Side {
        nets: nets(&rule[format!("{side}_net")]),
        not_nets: nets(&rule[format!("not_{side}_net")]),
        sets: addresses(&rule[format!("{side}_ip_set_ids")], sets),
        not_sets: addresses(&rule[format!("not_{side}_ip_set_ids")], sets),
        ports: ports(&rule[format!("{side}_ports")], &rule[format!("{side}_named_port_ip_set_ids")], sets),
        not_ports: ports(&rule[format!("not_{side}_ports")], &Value::Null, sets),
    };
    let protocol = |value: &Value| match (&value["name"], &value["number"]) {
        (Value::String(name), _) => Some(crate::common::protocol_number(name)),
        (_, Value::Null) => None,
        (_, value) => Some(number(value)),
    };
    Rule {
        action: match text(&rule["action"]) {
            "Allow" => Action::Allow,
            "Deny" => Action::Deny,
            "Pass" => Action::Pass,
            other => panic!("action {other}"),
        },
        matches: Match {
            ip_version: None,
            protocol: protocol(&rule["protocol"]),
            not_protocol: protocol(&rule["not_protocol"]),
            icmp: icmp(&rule["icmp"]["icmp_type"], &rule["icmp"]["icmp_type_code"]),
            not_icmp: icmp(&rule["not_icmp"]["not_icmp_type"], &rule["not_icmp"]["not_icmp_type_code"]),
            source: side("src"),
            destination: side("dst"),
        },
        index,
        name: None,
    }
}

fn icmp(kind: &Value, both: &Value) -> Option<Icmp> {
    match (kind, both) {
        (Value::Null, Value::Null) => None,
        (Value::Null, both) => Some(Icmp { kind: number(&both["type"]), code: Some(number(&both["code"])) }),
        (kind, _) => Some(Icmp { kind: number(kind), code: None }),
    }
}

fn nets(value: &Value) -> Vec<IpNet> {
    list(value).iter().map(|net| text(net).parse::<IpNet>().unwrap().trunc()).collect()
}

fn addresses(ids: &Value, sets: &Value) -> Vec<Set> {
    list(ids).iter().map(|id| Set::Members(nets(&sets[text(id)]))).collect()
}

fn ports(ranges: &Value, named: &Value, sets: &Value) -> Vec<Ports> {
    let ranges =
        list(ranges).iter().map(|range| Ports::Range(number(&range["first"]), number(&range["last"])));
    let member = |member: &Value| {
        let (net, port) = text(member).split_once(',').unwrap();
        let (protocol, port) = port.split_once(':').unwrap();
        (net.parse().unwrap(), crate::common::protocol_number(protocol), port.parse().unwrap())
    };
    let named =
        list(named).iter().map(|id| Ports::Members(list(&sets[text(id)]).iter().map(member).collect()));
    ranges.chain(named).collect()
}
