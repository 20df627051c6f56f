//! `ClusterNetworkPolicy` against the probes of network-policy-api's conformance tests.

use crate::common::{add, list, load, namespace, number, packet, pod, protocol_number, text};
use policy::classifier::Classifier;
use policy::{Inventory, flow};
use serde_json::{Value, json};

#[test]
fn every_probe_is_judged_as_the_conformance_tests_expect() {
    let truth = load("cnp-conformance-truth.json.gz");
    let pods = truth["pods"].as_object().unwrap();
    let mut checked = 0;
    for test in list(&truth["tests"]) {
        for poke in list(&test["pokes"]) {
            let state = &test["states"][number::<usize>(&poke["state"])];
            let model = inventory(state, pods).build().unwrap().model;
            let classifier = Classifier::new(model.clone()).unwrap();
            let source = text(&pods[text(&poke["from"])]["ip"]);
            let protocol = protocol_number(text(&poke["protocol"]));
            let packet = packet(source, text(&poke["to_ip"]), protocol, number(&poke["port"]));
            let judgement = flow::judge(&model, &packet);
            assert_eq!(flow::classify(&classifier, &packet), judgement);
            let wanted = poke["expect_connect"].as_bool().unwrap();
            assert_eq!(judgement.allow(), wanted, "{}: {poke}: {judgement:#?}", text(&poke["subtest"]));
            checked += 1;
        }
    }
    assert!(checked >= 60, "{checked} probes only");
}

fn inventory(state: &Value, pods: &serde_json::Map<String, Value>) -> Inventory {
    let mut inventory = Inventory::default();
    for (name, labels) in state["namespaces"].as_object().unwrap() {
        add(&mut inventory, &namespace(name, labels));
    }
    for (key, p) in pods {
        let host_network = p["host_network"] == json!(true);
        let object = pod(
            text(&p["ns"]),
            text(&p["name"]),
            &p["labels"],
            text(&p["ip"]),
            &p["named_ports"],
            host_network,
        );
        add(&mut inventory, &object);
        if host_network {
            // Such a pod has its node's address; the suite's nodes run Linux.
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": key.replace('/', "."), "labels": {"kubernetes.io/os": "linux"}},
                "status": {"addresses": [{"type": "InternalIP", "address": p["ip"]}]},
            });
            add(&mut inventory, &node);
        }
    }
    for kind in ["cluster_network_policies", "network_policies"] {
        for policy in list(&state[kind]) {
            add(&mut inventory, policy);
        }
    }
    inventory
}
