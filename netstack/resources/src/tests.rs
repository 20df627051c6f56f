//! Sets: what changes, and what is refused.

use std::sync::Arc;

use serde_json::{Value, json};
use services::Site;

use crate::{ChangeOp, Compiled, Edit, Identity, Key, Object, Set, compile};

fn object(value: Value) -> Arc<Object> {
    Arc::new(Object::read(value).unwrap())
}

fn pod(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
           "status": {"podIPs": [{"ip": address}]}})
}

fn policy(name: &str, tier: &str) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": name},
           "spec": {"tier": tier, "ingress": [{"action": "Allow"}]}})
}

fn service(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
           "spec": {"clusterIP": address, "ports": [{"port": 80}]}})
}

fn change(set: &Set, edit: &Edit) -> (Set, Vec<(ChangeOp, String)>) {
    let (next, changes) = pace::at_once(|pace| async move { set.change(edit, &pace).await });
    (next, changes.into_iter().map(|change| (change.op, change.key.to_string())).collect())
}

fn faults(set: &Set) -> Vec<String> {
    let site = Site::default();
    let edit = Edit::Replace(set.iter().cloned().collect());
    let compiled = pace::at_once(|pace| async move {
        let (set, changes) = Set::default().change(&edit, &pace).await;
        compile(&set, &changes, &site, &Compiled::default(), &pace).await
    });
    compiled.err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

fn refusal(value: Value) -> (String, String) {
    let problem = Object::read(value).unwrap_err().0.remove(0);
    (problem.pointer, problem.message)
}

#[test]
fn edits_make_other_sets() {
    let (first, changes) = change(
        &Set::default(),
        &Edit::Apply(vec![object(pod("a", "10.0.0.1")), object(pod("b", "10.0.0.2"))]),
    );
    assert_eq!(changes, [(ChangeOp::Add, "Pod default/a".into()), (ChangeOp::Add, "Pod default/b".into())]);
    let (second, changes) = change(
        &first,
        &Edit::Apply(vec![
            object(pod("a", "10.0.0.1")),
            object(pod("b", "10.0.0.3")),
            object(pod("c", "10.0.0.4")),
        ]),
    );
    assert_eq!(
        changes,
        [(ChangeOp::Change, "Pod default/b".into()), (ChangeOp::Add, "Pod default/c".into())]
    );
    assert!(first.iter().next().unwrap().key() == second.iter().next().unwrap().key());
    // What says the same is the same.
    assert!(Arc::ptr_eq(first.iter().next().unwrap(), second.iter().next().unwrap()));
    let (third, changes) = change(&second, &Edit::Replace(vec![object(pod("c", "10.0.0.4"))]));
    assert_eq!(
        changes,
        [(ChangeOp::Remove, "Pod default/a".into()), (ChangeOp::Remove, "Pod default/b".into())]
    );
    let key = third.iter().next().unwrap().key().clone();
    let (fourth, changes) = change(&third, &Edit::Delete(vec![key]));
    assert_eq!((fourth.len(), fourth.bytes(), changes.len()), (0, 0, 1));
    assert_eq!((first.len(), second.len()), (2, 3));
}

#[test]
fn notes_are_forgotten() {
    let mut noted = pod("a", "10.0.0.1");
    noted["metadata"]["managedFields"] = json!([{"manager": "kubelet"}]);
    noted["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}"});
    assert_eq!(object(noted).text(), object(pod("a", "10.0.0.1")).text());
}

#[test]
fn who_an_object_is() {
    let known = |version: &str, kind: &str| {
        Identity::of(&json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}}))
    };
    assert!(
        matches!(known("v1", "Pod"), Ok(Identity::Known(Key { namespace, .. })) if &*namespace == "default")
    );
    assert!(matches!(known("apps/v1", "Deployment"), Ok(Identity::Other(_))));
    assert!(matches!(known("projectcalico.org/v3", "Node"), Ok(Identity::Other(_))));
    assert!(matches!(known("serving.knative.dev/v1", "Service"), Ok(Identity::Other(_))));
    assert_eq!(known("v2", "Service").unwrap_err().pointer, "/apiVersion");
    assert_eq!(known("projectcalico.org/v3", "NetworkPolice").unwrap_err().pointer, "/kind");
    assert_eq!(refusal(json!([])).0, "");
    assert_eq!(refusal(json!({"apiVersion": "v1", "kind": "Pod"})).1, "metadata is missing");
    assert_eq!(
        refusal(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a/b"}})).0,
        "/metadata/name"
    );
    assert_eq!(
        refusal(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "namespace": "b"}})
        )
        .0,
        "/metadata/namespace"
    );
}

#[test]
fn unknown_and_impossible_fields_are_refused() {
    let mut wrong = service("a", "10.0.0.1");
    wrong["spec"]["ports"][0]["prot"] = json!("TCP");
    assert_eq!(refusal(wrong).0, "/spec/ports/0/prot");
    let mut wrong = policy("a", "default");
    wrong["spec"]["ingres"] = json!([]);
    assert_eq!(refusal(wrong).0, "/spec/ingres");
}

#[test]
fn what_is_impossible_between_objects() {
    let (set, _) = change(&Set::default(), &Edit::Apply(vec![object(policy("a", "nowhere"))]));
    assert_eq!(faults(&set), ["GlobalNetworkPolicy a: /spec/tier: there is no tier nowhere"]);
    let two = vec![object(service("a", "10.0.0.1")), object(service("b", "10.0.0.1"))];
    let (set, _) = change(&Set::default(), &Edit::Apply(two));
    assert_eq!(faults(&set).len(), 1);
    assert_eq!(faults(&Set::default()), Vec::<String>::new());
}
