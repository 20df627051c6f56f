//! What a change touches, and in how short pieces it is done.

use crate::common::{add, pod};
use pace::Task;
use policy::classifier::Compiler;
use policy::{Inventory, Parsed, Referred};
use serde_json::{Value, json};

fn read(value: &Value) -> Parsed {
    Parsed::read(value).unwrap().unwrap()
}

fn slice(namespace: &str, service: &str) -> Parsed {
    read(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": namespace,
                     "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"addresses": ["10.0.0.9"]}], "ports": [{"port": 80}],
    }))
}

#[test]
fn a_service_touches_the_policies_whose_rules_speak_of_it() {
    let policy = |kind: &str, services: Value| {
        let mut metadata = json!({"name": "out"});
        if !kind.contains("Global") {
            metadata["namespace"] = json!("shop");
        }
        read(&json!({
            "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata,
            "spec": {"egress": [{"action": "Allow"}, {"action": "Deny", "destination": {"services": services}}]},
        }))
    };
    let changed = [slice("shop", "api"), slice("base", "dns")];
    let referred = Referred::to(&changed);
    for (kind, services, wanted) in [
        ("NetworkPolicy", json!({"name": "api"}), true),
        ("StagedNetworkPolicy", json!({"name": "api"}), true),
        ("NetworkPolicy", json!({"name": "dns"}), false),
        ("NetworkPolicy", json!({"name": "dns", "namespace": "base"}), true),
        ("NetworkPolicy", json!({"name": "api", "namespace": "base"}), false),
        ("GlobalNetworkPolicy", json!({"name": "api", "namespace": "shop"}), true),
        ("StagedGlobalNetworkPolicy", json!({"name": "api", "namespace": "base"}), false),
    ] {
        assert_eq!(referred.is_by(&policy(kind, services.clone())), wanted, "{kind} {services}");
    }
    assert!(Referred::to(&[]).is_empty() && !referred.is_empty());
}

#[test]
fn a_large_set_is_compiled_in_short_pieces() {
    const NETS: u32 = 20_000;
    let nets: Vec<String> =
        (0..NETS).map(|n| format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255)).collect();
    let mut inventory = Inventory::default();
    add(&mut inventory, &pod("shop", "client", &json!({}), "10.9.0.1", &json!([]), false));
    add(
        &mut inventory,
        &json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
                "metadata": {"name": "all"}, "spec": {"nets": nets}}),
    );
    let model = inventory.build().unwrap().model;
    let mut compiler = Compiler::new().unwrap();
    let mut task = Task::new(|pace| async move { compiler.update_paced(model, &pace).await.is_ok() });
    let mut turns = 1;
    let compiled = loop {
        match task.advance(200) {
            Some(compiled) => break compiled,
            None => turns += 1,
        }
    };
    assert!(compiled);
    assert!(turns > NETS / 200, "{turns} turns");
}
