//! Failsafe ports: which those of a host are, and what they open.

use crate::common::{add, packet};
use policy::model::{Direction, EndpointKind, Model};
use policy::reference::{Stage, judge};
use policy::{Inventory, Problem};
use serde_json::{Value, json};

fn felix(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": {"name": name}, "spec": spec})
}

/// A host endpoint of node `a` that no policy lets anything in or out, and these configurations.
fn model(configurations: &[Value]) -> Result<Model, Vec<(usize, Problem)>> {
    let mut inventory = Inventory::default();
    add(
        &mut inventory,
        &json!({"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": "a-eth0"},
                "spec": {"node": "a", "interfaceName": "eth0", "expectedIPs": ["192.0.2.1"]}}),
    );
    configurations.iter().for_each(|value| add(&mut inventory, value));
    inventory.build().map(|cluster| cluster.model.as_ref().clone())
}

/// Whether the host is reached on a port from an address, and reaches that address on that port.
fn passes(configurations: &[Value], peer: &str, protocol: u8, port: u16) -> (bool, bool) {
    let model = model(configurations).unwrap();
    let host = model.endpoints.iter().find(|endpoint| endpoint.kind == EndpointKind::Host).unwrap();
    let allows = |direction, packet| {
        judge(&model, host, direction, Stage::Normal, &packet).is_some_and(|verdict| verdict.allow)
    };
    (
        allows(Direction::Ingress, packet(peer, "192.0.2.1", protocol, port)),
        allows(Direction::Egress, packet("192.0.2.1", peer, protocol, port)),
    )
}

#[test]
fn without_configuration_they_are_calicos() {
    for (protocol, port, wanted) in [
        (6, 22, (true, false)),
        (17, 68, (true, false)),
        (17, 53, (false, true)),
        (17, 67, (false, true)),
        (6, 179, (true, true)),
        (6, 2379, (true, true)),
        (6, 2380, (true, true)),
        (6, 5473, (true, true)),
        (6, 6443, (true, true)),
        (6, 6666, (true, true)),
        (6, 6667, (true, true)),
        (17, 22, (false, false)),
        (6, 80, (false, false)),
    ] {
        assert_eq!(passes(&[], "203.0.113.9", protocol, port), wanted, "{protocol} {port}");
    }
}

#[test]
fn a_configuration_replaces_the_list_that_it_has() {
    let own = felix(
        "default",
        &json!({"logSeverityScreen": "Info", "failsafeInboundHostPorts": [
        {"protocol": "tcp", "port": 8022, "net": "198.51.100.0/24"}, {"port": 81}, {"protocol": "SCTP", "port": 9}]}),
    );
    let of_all = [own.clone()];
    assert_eq!(passes(&of_all, "198.51.100.9", 6, 8022), (true, false));
    assert_eq!(passes(&of_all, "203.0.113.9", 6, 8022), (false, false));
    assert_eq!(passes(&of_all, "203.0.113.9", 6, 81), (true, false));
    assert_eq!(passes(&of_all, "203.0.113.9", 132, 9), (true, false));
    assert_eq!(passes(&of_all, "203.0.113.9", 6, 22), (false, false));
    assert_eq!(passes(&of_all, "203.0.113.9", 17, 53), (false, true), "the other list is as it was");
    // That of the node goes before, list by list, and may be empty.
    let closed = json!({"failsafeInboundHostPorts": [], "failsafeOutboundHostPorts": null});
    let both = [own, felix("node.a", &closed)];
    assert_eq!(passes(&both, "198.51.100.9", 6, 8022), (false, false));
    assert_eq!(passes(&both, "203.0.113.9", 17, 53), (false, true));
    assert_eq!(passes(&[felix("node.b", &closed)], "203.0.113.9", 6, 22), (true, false));
    let out = felix("node.a", &json!({"failsafeOutboundHostPorts": [{"port": 443, "net": "198.51.100.9"}]}));
    assert_eq!(passes(core::slice::from_ref(&out), "198.51.100.9", 6, 443), (false, true));
    assert_eq!(passes(&[out], "198.51.100.8", 6, 443), (false, false));
}

#[test]
fn what_is_wrong_is_named() {
    let port = |port: Value| json!({"failsafeInboundHostPorts": [{"port": 1}, port]});
    for (name, spec, pointer) in [
        ("default", port(json!({"port": 70_000})), "/spec/failsafeInboundHostPorts/1/port"),
        (
            "default",
            port(json!({"port": 1, "protocol": "icmp"})),
            "/spec/failsafeInboundHostPorts/1/protocol",
        ),
        ("default", port(json!({"port": 1, "net": "10.0.0.0/33"})), "/spec/failsafeInboundHostPorts/1/net"),
        ("default", port(json!({"port": 1, "nets": []})), "/spec/failsafeInboundHostPorts/1/nets"),
        ("default", json!({"failsafeInboundPorts": []}), "/spec/failsafeInboundPorts"),
        ("defaults", port(json!({"port": 1})), "/metadata/name"),
    ] {
        let problems = model(&[felix(name, &spec)]).unwrap_err();
        assert_eq!(problems[0].1.pointer, pointer, "{spec}: {problems:?}");
    }
    assert!(model(&[felix("else", &json!({"wireguardEnabled": true}))]).is_ok());
}
