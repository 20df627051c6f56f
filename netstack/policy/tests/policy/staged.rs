//! Staged policies enforce nothing; what they would do is known, also where they replace or delete a policy.

use crate::common::{add, namespace, packet, pod};
use policy::classifier::{Classifier, Ends, Record, Way};
use policy::{Cluster, Inventory, Parsed};
use serde_json::{Value, json};

const CLIENT: &str = "10.0.0.1";
const SERVER: &str = "10.0.0.2";

fn cluster() -> Cluster {
    let mut inventory = Inventory::default();
    add(&mut inventory, &namespace("shop", &json!({})));
    for (name, ip) in [("client", CLIENT), ("server", SERVER)] {
        add(&mut inventory, &pod("shop", name, &json!({"app": name}), ip, &json!([]), false));
    }
    inventory.build().unwrap()
}

fn change(cluster: &Cluster, gone: &[&Value], come: &[&Value]) -> Cluster {
    let read = |values: &[&Value]| -> Vec<Parsed> {
        values.iter().map(|value| Parsed::read(value).unwrap().unwrap()).collect()
    };
    let (gone, come) = (read(gone), read(come));
    pace::at_once(|pace| async move { cluster.change(&gone, &come, &pace).await }).unwrap()
}

/// Whether a packet to the server's port 80 passes, and whether it would with what is staged, if anything is.
fn verdict(cluster: &Cluster) -> (bool, Option<bool>) {
    let classifier = Classifier::new(cluster.model.clone()).unwrap();
    let ends = Ends { from: None, to: None, way: Way::Forwarded };
    let mut record = Record::default();
    let packet = packet(CLIENT, SERVER, 6, 80);
    let judged = classifier.judge_flow(&packet, classifier.classes(&packet), &ends, &mut record);
    let has_staged = !record.staged.as_slice().is_empty();
    (judged.allow, has_staged.then_some(!record.staged_denies))
}

/// A policy of a kind; `action` is what it is staged for.
fn policy(kind: &str, action: Option<&str>, port: Option<u16>) -> Value {
    let version = if kind == "NetworkPolicy" { "networking.k8s.io/v1" } else { "projectcalico.org/v3" };
    let mut spec = if kind.contains("Global")
        || kind == "StagedNetworkPolicy"
        || kind == "CalicoNetworkPolicy"
    {
        let rules: Vec<Value> = port
            .iter()
            .map(|port| json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": [port]}}))
            .collect();
        json!({"selector": "app == 'server'", "types": ["Ingress"], "ingress": rules})
    } else {
        let rules: Vec<Value> = port.iter().map(|port| json!({"ports": [{"port": port}]})).collect();
        json!({"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"], "ingress": rules})
    };
    if let Some(action) = action {
        spec["stagedAction"] = json!(action);
    }
    let mut metadata = json!({"name": "door", "namespace": "shop"});
    if kind.contains("Global") {
        let _ = metadata.as_object_mut().unwrap().remove("namespace");
    }
    let kind = if kind == "CalicoNetworkPolicy" { "NetworkPolicy" } else { kind };
    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
}

#[test]
fn a_staged_policy_replaces_or_deletes_the_one_of_its_name() {
    for (kind, staged) in [
        ("NetworkPolicy", "StagedKubernetesNetworkPolicy"),
        ("CalicoNetworkPolicy", "StagedNetworkPolicy"),
        ("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"),
    ] {
        // It lets nothing in.
        let closed = change(&cluster(), &[], &[&policy(kind, None, None)]);
        assert_eq!(verdict(&closed), (false, None), "{kind}");
        let mut before: Option<Value> = None;
        let mut now = closed.clone();
        for (action, port, wanted) in [
            ("Delete", None, Some(true)),
            ("Set", Some(80), Some(true)),
            ("Set", Some(81), Some(false)),
            ("Learn", Some(80), Some(true)),
            ("Ignore", Some(80), None),
        ] {
            let next = policy(staged, Some(action), port);
            // What is referred to changes with it, as a set of objects has it.
            let enforced = policy(kind, None, None);
            let gone: Vec<&Value> = before.iter().chain([&enforced]).collect();
            now = change(&now, &gone, &[&next, &enforced]);
            assert_eq!(verdict(&now), (false, wanted), "{staged} {action} {port:?}");
            before = Some(next);
        }
        let enforced = policy(kind, None, None);
        let delete = policy(staged, Some("Delete"), None);
        let deleting = change(&closed, &[&enforced], &[&delete, &enforced]);
        let as_before = change(&deleting, &[&delete, &enforced], &[&enforced]);
        assert_eq!(verdict(&as_before), (false, None), "{staged}");
        assert_eq!(as_before.model.tiers, closed.model.tiers);
    }
}

#[test]
fn a_staged_policy_of_another_name_or_kind_comes_beside_those_there_are() {
    let other = |kind: &str, name: &str, action: &str| {
        let mut value = policy(kind, Some(action), Some(80));
        value["metadata"]["name"] = json!(name);
        value
    };
    let closed = change(&cluster(), &[], &[&policy("NetworkPolicy", None, None)]);
    for (staged, wanted) in [
        (other("StagedKubernetesNetworkPolicy", "another", "Set"), Some(true)),
        (other("StagedKubernetesNetworkPolicy", "another", "Delete"), None),
        (other("StagedNetworkPolicy", "door", "Delete"), None),
        (other("StagedGlobalNetworkPolicy", "door", "Set"), Some(true)),
    ] {
        assert_eq!(verdict(&change(&closed, &[], &[&staged])), (false, wanted), "{staged}");
    }
}

#[test]
fn a_staged_action_that_is_none_is_refused() {
    let mut inventory = Inventory::default();
    let mut value = policy("StagedNetworkPolicy", Some("Remove"), None);
    inventory.add(0, &value).unwrap();
    let problems = inventory.build().unwrap_err();
    assert_eq!(problems[0].1.pointer, "/spec/stagedAction");
    value["spec"] = json!({"stagedAction": "Delete"});
    let mut inventory = Inventory::default();
    inventory.add(0, &value).unwrap();
    assert!(inventory.build().is_ok(), "what is to be deleted need not be said again");
}
