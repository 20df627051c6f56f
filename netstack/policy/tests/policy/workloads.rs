//! Workloads that a CNI plugin tells of are what pods are to policies.

use crate::common::{add, namespace, packet};
use policy::{Inventory, flow};
use serde_json::{Value, json};

const CLIENT: &str = "10.0.0.1";
const SERVER: &str = "fd00::2";

fn workload(name: &str, address: &str, account: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": format!("node-k8s-{name}-eth0"), "namespace": "shop", "labels": {"app": name}},
        "spec": {
            "orchestrator": "k8s", "node": "node", "workload": "", "pod": name, "endpoint": "eth0",
            "containerID": "13371337", "interfaceName": "cali0ef24ba", "mac": "ca:fe:1d:52:bb:e9",
            "serviceAccountName": account, "profiles": ["kns.shop", "tall"], "ipNetworks": [address],
            "ports": [{"name": "web", "protocol": "TCP", "port": 8080, "hostPort": 0}],
        },
    })
}

#[test]
fn a_workload_is_selected_by_all_that_it_is() {
    for (subject, rule, wanted) in [
        (json!({"selector": "app == 'server'"}), json!({"source": {"selector": "app == 'client'"}}), true),
        (
            json!({"selector": "height == 'tall'"}),
            json!({"source": {"serviceAccounts": {"names": ["robot"]}}}),
            true,
        ),
        (
            json!({"selector": "app == 'server'"}),
            json!({"source": {"serviceAccounts": {"selector": "role == 'x'"}}}),
            true,
        ),
        (
            json!({"selector": "app == 'server'"}),
            json!({"source": {"namespaceSelector": "kind == 'open'"}}),
            true,
        ),
        (json!({"selector": "app == 'server'"}), json!({"destination": {"ports": ["web"]}}), true),
        (json!({"selector": "app == 'server'"}), json!({"destination": {"ports": ["other"]}}), false),
        (
            json!({"serviceAccountSelector": "role == 'x'"}),
            json!({"source": {"selector": "app == 'none'"}}),
            false,
        ),
        // It is not about the server.
        (json!({"selector": "app == 'none'"}), json!({}), true),
    ] {
        let mut inventory = Inventory::default();
        add(&mut inventory, &namespace("shop", &json!({"kind": "open"})));
        add(
            &mut inventory,
            &json!({"apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"name": "robot", "namespace": "shop", "labels": {"role": "x"}}}),
        );
        add(
            &mut inventory,
            &json!({"apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {"name": "tall"},
                    "spec": {"labelsToApply": {"height": "tall"}}}),
        );
        add(&mut inventory, &workload("client", "fd00::1/128", "robot"));
        add(&mut inventory, &workload("server", SERVER, "robot"));
        let mut spec = subject.clone();
        spec["types"] = json!(["Ingress"]);
        let mut allow = rule.clone();
        (allow["action"], allow["protocol"]) = (json!("Allow"), json!("TCP"));
        spec["ingress"] = json!([allow]);
        add(
            &mut inventory,
            &json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
                    "metadata": {"name": "in", "namespace": "shop"}, "spec": spec}),
        );
        let model = inventory.build().unwrap().model;
        let passes = flow::judge(&model, &packet("fd00::1", SERVER, 6, 8080)).allow();
        assert_eq!(passes, wanted, "{subject} {rule}");
    }
}

#[test]
fn a_workload_has_addresses_and_not_networks() {
    let mut inventory = Inventory::default();
    inventory.add(0, &workload("client", "10.0.0.0/24", "robot")).unwrap();
    let problems = inventory.build().unwrap_err();
    assert_eq!(problems[0].1.pointer, "/spec/ipNetworks/0");
    let mut inventory = Inventory::default();
    inventory.add(0, &workload("client", CLIENT, "robot")).unwrap();
    assert_eq!(inventory.build().unwrap().model.endpoints[0].name, "shop/node-k8s-client-eth0");
}
