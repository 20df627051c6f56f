//! Edit after edit: what a set says is what it would say if it were compiled from nothing.

use std::sync::Arc;

use policy::model::Model;
use proptest::prelude::*;
use resources::{Compiled, Edit, Object, Set, compile};
use serde_json::{Value, json};
use services::Site;

const KINDS: u8 = 14;

/// Of each kind there are a few objects, each in a few versions.
fn object(kind: u8, which: u8, version: u8) -> Arc<Object> {
    let (namespace, name) = (["a", "b"][usize::from(which % 2)], format!("x{which}"));
    let labels = json!({"app": format!("{}", version % 2)});
    let calico = |kind: &str, spec: Value| json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let order = f64::from(version % 3);
    let tier = if version.is_multiple_of(4) { "x1" } else { "default" };
    let mut value = match kind {
        0 => {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
        }
        1 => {
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x1", "labels": labels}})
        }
        2 => json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
                    "spec": {"serviceAccountName": format!("x{}", version % 2), "hostNetwork": version % 5 == 4},
                    "status": {"podIPs": [{"ip": format!("10.0.{which}.{version}")}]}}),
        3 => json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
                    "status": {"addresses": [{"type": "InternalIP", "address": format!("10.1.0.{which}")}]}}),
        4 => json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "s"}},
                    "endpoints": [{"addresses": [format!("10.0.{which}.{version}")]}], "ports": [{"port": 80}]}),
        5 => {
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
                    "spec": {"podSelector": {"matchLabels": labels}, "ingress": [{"ports": [{"port": 80}]}]}})
        }
        6 => calico("Tier", json!({"order": order})),
        7 => calico("Profile", json!({"labelsToApply": labels, "ingress": [{"action": "Allow"}]})),
        8 => calico(
            "HostEndpoint",
            json!({"interfaceName": "eth0", "node": format!("x{}", version % 2), "profiles": [format!("x{}", version % 3)]}),
        ),
        9 => calico("NetworkSet", json!({"nets": [format!("20.{version}.0.0/16")]})),
        10 => calico("GlobalNetworkSet", json!({"nets": [format!("21.{version}.0.0/16")]})),
        11 => {
            let services = json!({"name": "s", "namespace": "a"});
            calico(
                "NetworkPolicy",
                json!({"tier": tier, "order": order, "selector": "app == '1'",
                "egress": [{"action": "Allow", "destination": {"services": services}}]}),
            )
        }
        13 => {
            let name = ["default", "node.x0", "node.x1", "node.x2"][usize::from(which)];
            let ports = json!([{"protocol": "tcp", "port": version}]);
            let field = ["failsafeInboundHostPorts", "failsafeOutboundHostPorts"][usize::from(version % 2)];
            json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
                   "metadata": {"name": name}, "spec": {field: ports}})
        }
        _ => calico(
            "GlobalNetworkPolicy",
            json!({"tier": tier, "order": order, "ingress": [{"action": "Deny"}]}),
        ),
    };
    if matches!(kind, 1 | 2 | 4 | 5 | 9 | 11) {
        value["metadata"]["namespace"] = json!(namespace);
    }
    Arc::new(Object::read(value).unwrap())
}

/// A set with what it says, and where there are faults, how many.
fn edited(set: &Set, before: &Compiled, edit: &Edit) -> (Set, Result<Compiled, usize>) {
    pace::at_once(|pace| async move {
        let (next, changes) = set.change(edit, &pace).await;
        let compiled = compile(&next, &changes, &Site::default(), before, &pace).await;
        (next, compiled.map_err(|faults| faults.len()))
    })
}

fn anew(set: &Set) -> Result<Compiled, usize> {
    edited(&Set::default(), &Compiled::default(), &Edit::Replace(set.iter().cloned().collect())).1
}

fn shared(before: &Model, after: &Model) -> usize {
    let policies =
        |model: &Model| model.tiers.iter().flat_map(|tier| tier.policies.clone()).collect::<Vec<_>>();
    let known = policies(before);
    policies(after).iter().filter(|policy| known.iter().any(|known| Arc::ptr_eq(known, policy))).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn edits_come_to_what_compiling_from_nothing_comes_to(
        edits in prop::collection::vec(prop::collection::vec((0..KINDS, 0..4_u8, 0..8_u8, 0..4_u8), 1..6), 1..12)
    ) {
        let (mut set, mut compiled) = (Set::default(), Compiled::default());
        for edit in edits {
            let objects: Vec<_> = edit.iter().map(|(kind, which, version, _)| object(*kind, *which, *version)).collect();
            let edit = match edit[0].3 {
                0 => Edit::Delete(objects.iter().map(|object| object.key().clone()).collect()),
                1 if edit[0].1 == 0 => Edit::Replace(objects),
                _ => Edit::Apply(objects),
            };
            let (next, result) = edited(&set, &compiled, &edit);
            match (anew(&next), result) {
                // The model of nothing has no tiers as long as nothing was there.
                (Ok(_), Ok(is)) if next.is_empty() => {
                    prop_assert!(is.model().endpoints.is_empty() && is.model().networks.is_empty());
                    (set, compiled) = (next, is);
                }
                (Ok(wanted), Ok(is)) => {
                    prop_assert_eq!(format!("{:?}", is.model()), format!("{:?}", wanted.model()));
                    prop_assert_eq!(is.host_network_pods(), wanted.host_network_pods());
                    prop_assert_eq!(&is.services, &wanted.services);
                    (set, compiled) = (next, is);
                }
                (Err(_), Err(_)) => {}
                (wanted, is) => prop_assert!(false, "{:?} is not {:?}", is.err(), wanted.err()),
            }
        }
    }
}

#[test]
fn what_is_not_touched_is_the_same() {
    let objects = (0..4).map(|which| object(12, which, 1)).chain([object(2, 0, 1), object(0, 0, 0)]);
    let (set, compiled) = edited(&Set::default(), &Compiled::default(), &Edit::Apply(objects.collect()));
    let compiled = compiled.unwrap();
    let (_, one) = edited(&set, &compiled, &Edit::Apply(vec![object(12, 2, 2)]));
    let one = one.unwrap();
    assert_eq!(shared(compiled.model(), one.model()), 3);
    assert!(Arc::ptr_eq(&compiled.model().endpoints[0], &one.model().endpoints[0]));
    assert!(Arc::ptr_eq(&compiled.services, &one.services));
    // A namespace's labels are its pods'.
    let (_, relabelled) = edited(&set, &compiled, &Edit::Apply(vec![object(0, 0, 1)]));
    let relabelled = relabelled.unwrap();
    assert!(!Arc::ptr_eq(&compiled.model().endpoints[0], &relabelled.model().endpoints[0]));
    assert_eq!(shared(compiled.model(), relabelled.model()), 4);
    // What nothing refers to changes nothing.
    let (_, same) = edited(&set, &compiled, &Edit::Apply(vec![object(4, 0, 1)]));
    assert!(Arc::ptr_eq(same.unwrap().model(), compiled.model()));
}

#[test]
fn many_objects_in_order_and_out_of_it() {
    let pods = |numbers: &mut dyn Iterator<Item = u32>| -> Vec<Arc<Object>> {
        let pod = |number: u32| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{:05}", number * 7919 % 10_000)}});
        numbers.map(|number| Arc::new(Object::read(pod(number)).unwrap())).collect()
    };
    let change = |set: &Set, edit: &Edit| pace::at_once(|pace| async move { set.change(edit, &pace).await });
    let (mut set, _) = change(&Set::default(), &Edit::Apply(pods(&mut (0..1_000))));
    for number in 1_000..2_000 {
        set = change(&set, &Edit::Apply(pods(&mut (number..=number)))).0;
    }
    let names: Vec<_> = set.iter().map(|object| object.key().name.to_string()).collect();
    assert!(names.is_sorted() && names.len() == 2_000 && set.len() == 2_000);
    let middle = set.iter().nth(777).unwrap().key().clone();
    assert_eq!(set.after(&middle).count(), 2_000 - 778);
    let bytes: usize = set.iter().map(|object| object.text().len()).sum();
    assert_eq!(set.bytes(), bytes);
    let keys: Vec<_> = set.iter().skip(10).map(|object| object.key().clone()).collect();
    let (few, changes) = change(&set, &Edit::Delete(keys.clone()));
    assert_eq!((few.len(), changes.len(), few.after(&middle).count()), (10, 1_990, 0));
    assert!(keys.iter().all(|key| few.get(key).is_none() && set.get(key).is_some()));
}
