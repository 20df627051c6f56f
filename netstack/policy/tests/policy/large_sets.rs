//! Sets that change by more than the table of addresses has room for at a time.

use std::net::Ipv4Addr;
use std::sync::Arc;

use policy::Inventory;
use policy::classifier::{Classifier, Compiler};
use policy::model::{Direction, Model};
use policy::reference::Stage;
use serde_json::json;

use crate::common::{add, packet, pod};

const MEMBERS: u32 = 1 << 13;

fn member(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((40 << 24) + number)
}

/// A pod that only a set of addresses may reach.
fn model(is_in: impl Fn(u32) -> bool) -> Arc<Model> {
    let mut inventory = Inventory::default();
    add(&mut inventory, &pod("shop", "api", &json!({}), "10.0.0.1", &json!([]), false));
    let nets: Vec<String> =
        (0..MEMBERS).filter(|number| is_in(*number)).map(|n| format!("{}/32", member(n))).collect();
    add(
        &mut inventory,
        &json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
                "metadata": {"name": "set", "labels": {"list": "friends"}}, "spec": {"nets": nets}}),
    );
    add(
        &mut inventory,
        &json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "friends"},
                "spec": {"ingress": [{"action": "Allow", "source": {"selector": "list == 'friends'"}}]}}),
    );
    inventory.build().expect("a possible model").model
}

fn passes(classifier: &Classifier, number: u32) -> bool {
    let packet = packet(&member(number).to_string(), "10.0.0.1", 6, 80);
    classifier.decide(0, Direction::Ingress, Stage::Normal, &packet).is_some_and(|decision| decision.allow)
}

/// Addresses side by side share one small entry; each that leaves takes memory until what it replaces is free.
#[test]
fn a_large_change_waits_for_memory_that_comes_back() {
    let mut compiler = Compiler::new().unwrap();
    let before = compiler.update(model(|_| true)).unwrap();
    assert!(passes(&before, 8));
    let stays = |number: u32| !number.is_multiple_of(8);
    let after = compiler.update(model(stays)).unwrap();
    let before = before.awaiting(&compiler);
    let mut parts = 0;
    while compiler.has_pending() {
        if compiler.has_to_enter() {
            compiler.enter_part(usize::MAX).unwrap();
            assert!(passes(&before, 8) && passes(&before, 9));
        } else {
            compiler.apply_part(usize::MAX).unwrap();
            assert!(!passes(&after, 8) && passes(&after, 9));
        }
        compiler.retire(parts);
        compiler.reclaim(parts);
        parts += 1;
        assert!(parts < u64::from(MEMBERS), "it never ends");
    }
    assert!(parts > 2, "all at once");
    assert!((0..MEMBERS).all(|number| passes(&after, number) == stays(number)));
}
