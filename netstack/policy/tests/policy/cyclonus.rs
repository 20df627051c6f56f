//! Kubernetes' `NetworkPolicy` against cyclonus' table of who reaches whom.

use crate::common::{add, list, load, namespace, packet, pod, protocol_number, text};
use policy::classifier::Classifier;
use policy::{Inventory, flow};

#[test]
fn every_connection_is_judged_as_cyclonus_does() {
    let truth = load("cyclonus-truth.json.gz");
    let mut checked = 0;
    for case in list(&truth["cases"]) {
        for step in list(&case["steps"]) {
            checked += check(text(&case["description"]), step);
        }
    }
    assert!(checked > 40_000, "{checked} connections only");
}

fn check(description: &str, step: &serde_json::Value) -> usize {
    let mut inventory = Inventory::default();
    for (name, labels) in step["namespaces"].as_object().unwrap() {
        add(&mut inventory, &namespace(name, labels));
    }
    for p in list(&step["pods"]) {
        let object = pod(text(&p["ns"]), text(&p["name"]), &p["labels"], text(&p["ip"]), &p["ports"], false);
        add(&mut inventory, &object);
    }
    for policy in list(&step["policies"]) {
        // Some steps have policies as the API's typed clients write them, without their type.
        let mut policy = policy.clone();
        policy["apiVersion"] = "networking.k8s.io/v1".into();
        policy["kind"] = "NetworkPolicy".into();
        add(&mut inventory, &policy);
    }
    let model = inventory.build().unwrap_or_else(|problems| panic!("{description}: {problems:?}")).model;
    let classifier = Classifier::new(model.clone()).unwrap();
    let address = |key: &str| {
        list(&step["pods"]).iter().find(|p| text(&p["key"]) == key).map(|p| text(&p["ip"])).unwrap()
    };
    let mut checked = 0;
    for (service, pairs) in step["truth"].as_object().unwrap() {
        let (protocol, port) = service.split_once('/').unwrap();
        for (pair, wanted) in pairs.as_object().unwrap() {
            let (from, to) = pair.split_once("->").unwrap();
            if from == to {
                continue;
            }
            let packet = packet(address(from), address(to), protocol_number(protocol), port.parse().unwrap());
            let judgement = flow::judge(&model, &packet);
            assert_eq!(flow::classify(&classifier, &packet), judgement);
            let mark = |allow: bool| if allow { '.' } else { 'X' };
            let found: String = [judgement.allow(), judgement.ingress.allow, judgement.egress.allow]
                .map(mark)
                .iter()
                .collect();
            assert_eq!(found, text(wanted), "{description}: {service} {pair}: {judgement:#?}");
            checked += 1;
        }
    }
    checked
}
