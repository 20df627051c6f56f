//! What users of Kubernetes expect of a Service, from its YAML's fields to the packets.

use super::support::*;
use crate::common::*;
use balancer::Builder;
use dataplane::{DropReason, InterfaceId, Policy};
use policy::Inventory;
use policy::classifier::Classifier;
use serde_json::{Value, json};
use services::{Objects, Site, compile};
use std::collections::BTreeSet;
use std::net::SocketAddr;

const SYN: What = What::Tcp(2);
const ACK: What = What::Tcp(16);
const NODE_PORT: u16 = 30_080;

/// A node with a service, changed as a cluster changes it.
struct Node {
    bed: Testbed,
    builder: Builder,
    places: Places,
    site: Site,
}

impl Node {
    fn new(places: Places) -> Self {
        let bed = Testbed::new();
        give_flows(&bed.shared, 4000);
        let site = Site { node: Some("here".into()), zone: Some("z1".into()), ..Site::default() };
        Self { bed, builder: Builder::new(settings()), places, site }
    }

    /// The service with these fields of its spec over these endpoints, of which each says its address by number.
    fn apply(&mut self, spec: &Value, endpoints: &[Value]) {
        let is_v6 = self.places.ip_bytes == 40;
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {
                "clusterIP": self.places.vip, "ipFamilies": [if is_v6 { "IPv6" } else { "IPv4" }],
                "ports": [{"port": 80, "targetPort": 8080}],
            },
        });
        for (name, value) in spec.as_object().expect("an object") {
            service["spec"][name] = value.clone();
        }
        if spec["type"] == "LoadBalancer" {
            let address = service["spec"]["clusterIP"].take();
            service["status"] = json!({"loadBalancer": {"ingress": [{"ip": address}]}});
            let _ = service["spec"].as_object_mut().expect("an object").remove("clusterIP");
        }
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "addressType": if is_v6 { "IPv6" } else { "IPv4" },
            "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"port": 8080}], "endpoints": endpoints,
        });
        let mut objects = Objects::default();
        objects.add(0, &service).expect("a valid service");
        objects.add(1, &slice).expect("a valid slice");
        let compiled = compile(&objects, &self.site).expect("objects that go together");
        let _ = self.bed.shared.publish_services(Some(self.builder.build(&compiled)));
    }

    fn endpoint(&self, backend: usize, more: &Value) -> Value {
        let mut endpoint = json!({"addresses": [self.places.backends[backend]]});
        for (name, value) in more.as_object().expect("an object") {
            endpoint[name] = value.clone();
        }
        endpoint
    }

    /// Which backend a packet of a client goes to.
    fn ask(&mut self, client_port: u16, to: SocketAddr, what: What) -> String {
        let client = end(self.places.client, client_port);
        self.bed.send(0, &frame(0, client, to, what, 5));
        let (source, backend) = ends(&self.bed.only_sent(1));
        assert_eq!((source, backend.port()), (client, 8080));
        // And its answer comes from where the client asked.
        self.bed.send(1, &frame(1, backend, client, What::Tcp(18), 0));
        assert_eq!(ends(&self.bed.only_sent(0)), (to, client));
        backend.ip().to_string()
    }

    /// Which backends serve a number of clients.
    fn ask_by_many(&mut self, to: SocketAddr) -> BTreeSet<String> {
        (0..40).map(|number| self.ask(5000 + number, to, SYN)).collect()
    }

    fn vip(&self) -> SocketAddr {
        end(self.places.vip, 80)
    }

    fn all(&self) -> BTreeSet<String> {
        let normal = self.places.backends.map(|address| end(address, 0).ip().to_string());
        normal.into_iter().collect()
    }

    fn only(&self, backend: usize) -> BTreeSet<String> {
        [end(self.places.backends[backend], 0).ip().to_string()].into()
    }
}

#[test]
fn node_ports_with_both_policies() {
    for places in [V4, V6] {
        let mut node = Node::new(places);
        let endpoints =
            [node.endpoint(0, &json!({"nodeName": "here"})), node.endpoint(1, &json!({"nodeName": "there"}))];
        let spec = |policy: &str| {
            json!({
                "type": "NodePort", "externalTrafficPolicy": policy,
                "ports": [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}],
            })
        };
        let at = end(node.places.node[0], NODE_PORT);
        node.apply(&spec("Cluster"), &endpoints);
        assert_eq!(node.ask_by_many(at), node.all());
        node.apply(&spec("Local"), &endpoints);
        give_flows(&node.bed.shared, 1000);
        assert_eq!(node.ask_by_many(at), node.only(0));
        // Inside the cluster the policy is another. (A client's port reaches one backend by one of its addresses at a time.)
        give_flows(&node.bed.shared, 1000);
        assert_eq!(node.ask_by_many(node.vip()), node.all());
        // With none here, the node says so to clients from outside.
        node.apply(&spec("Local"), &endpoints[1..]);
        node.bed.send(0, &frame(0, end(node.places.client, 9), at, SYN, 0));
        let _ = node.bed.only_sent(0);
        assert_eq!(node.bed.drops(), [(DropReason::ServiceNoBackend, 1)]);
        node.bed.assert_balanced();
    }
}

#[test]
fn internal_traffic_stays_on_the_node_if_it_is_to() {
    for places in [V4, V6] {
        let mut node = Node::new(places);
        let endpoints =
            [node.endpoint(0, &json!({"nodeName": "there"})), node.endpoint(1, &json!({"nodeName": "here"}))];
        node.apply(&json!({"internalTrafficPolicy": "Local"}), &endpoints);
        assert_eq!(node.ask_by_many(node.vip()), node.only(1));
        node.apply(&json!({"internalTrafficPolicy": "Cluster"}), &endpoints);
        give_flows(&node.bed.shared, 1000);
        assert_eq!(node.ask_by_many(node.vip()), node.all());
        node.bed.assert_balanced();
    }
}

#[test]
fn only_source_ranges_may_use_a_load_balancers_address() {
    for places in [V4, V6] {
        let mut node = Node::new(places);
        let endpoints = [node.endpoint(0, &json!({}))];
        let spec = |ranges: &[&str]| json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges});
        node.apply(&spec(&["10.0.0.0/30", "2001:db8:77::/48"]), &endpoints);
        node.bed.send(0, &frame(0, end(node.places.client, 4000), node.vip(), SYN, 0));
        node.bed.assert_nothing_sent();
        assert_eq!(node.bed.drops(), [(DropReason::ServiceSourceRange, 1)]);
        node.apply(&spec(&["10.0.0.0/29", "2001:db8:0::/48"]), &endpoints);
        assert_eq!(node.ask_by_many(node.vip()), node.only(0));
        node.bed.assert_balanced();
    }
}

#[test]
fn a_backend_reaches_its_own_service() {
    for places in [V4, V6] {
        let mut node = Node::new(places);
        node.apply(&json!({}), &[node.endpoint(0, &json!({}))]);
        let (asks, vip) = (end(node.places.backends[0], 5000), node.vip());
        let backend = end(node.places.backends[0], 8080);
        for flags in [2, 16] {
            node.bed.send(1, &frame(1, asks, vip, What::Tcp(flags), 7));
            let (source, destination) = ends(&node.bed.only_sent(1));
            assert_eq!((source.ip(), destination), (end(node.places.node[1], 0).ip(), backend));
            node.bed.send(1, &frame(1, backend, source, What::Tcp(16), 7));
            let back = node.bed.only_sent(1);
            assert_eq!(back[14..], one_hop_on(&frame(1, vip, asks, What::Tcp(16), 7)));
        }
        node.bed.assert_balanced();
    }
}

#[test]
fn terminating_endpoints_keep_their_flows_and_get_no_others() {
    for places in [V4, V6] {
        let mut node = Node::new(places);
        let ready = |backend| json!({"addresses": [backend], "conditions": {"ready": true}});
        let leaving = |backend| {
            let conditions = json!({"ready": false, "serving": true, "terminating": true});
            json!({"addresses": [backend], "conditions": conditions})
        };
        let [first, second] = node.places.backends;
        node.apply(&json!({}), &[ready(first), ready(second)]);
        let vip = node.vip();
        let before: Vec<String> = (0..40).map(|number| node.ask(5000 + number, vip, SYN)).collect();
        assert_eq!(before.iter().cloned().collect::<BTreeSet<_>>(), node.all());
        node.apply(&json!({}), &[leaving(first), ready(second)]);
        let after: Vec<String> = (0..40).map(|number| node.ask(5000 + number, vip, ACK)).collect();
        assert_eq!(before, after);
        let fresh: BTreeSet<_> = (0..40).map(|number| node.ask(6000 + number, vip, SYN)).collect();
        assert_eq!(fresh, node.only(1));
        // Who is not ready serves what he has too.
        node.apply(
            &json!({}),
            &[json!({"addresses": [first], "conditions": {"ready": false}}), ready(second)],
        );
        let after: Vec<String> = (0..40).map(|number| node.ask(5000 + number, vip, ACK)).collect();
        assert_eq!(before, after);
        let fresh: BTreeSet<_> = (0..40).map(|number| node.ask(6500 + number, vip, SYN)).collect();
        assert_eq!(fresh, node.only(1));
        // When all are leaving, they are better than nothing.
        node.apply(&json!({}), &[leaving(first), leaving(second)]);
        let last: BTreeSet<_> = (0..40).map(|number| node.ask(7000 + number, vip, SYN)).collect();
        assert_eq!(last, node.all());
        node.bed.assert_balanced();
    }
}

#[test]
fn hints_keep_flows_in_the_zone() {
    for places in [V4, V6] {
        let mut node = Node::new(places);
        let hint = |zone: &str| json!({"hints": {"forZones": [{"name": zone}]}});
        let both = [node.endpoint(0, &hint("z2")), node.endpoint(1, &hint("z1"))];
        let vip = node.vip();
        node.apply(&json!({}), &[node.endpoint(0, &json!({})), node.endpoint(1, &json!({}))]);
        let before: Vec<String> = (0..40).map(|number| node.ask(6000 + number, vip, SYN)).collect();
        node.apply(&json!({}), &both);
        let after: Vec<String> = (0..40).map(|number| node.ask(6000 + number, vip, ACK)).collect();
        assert_eq!((&after, after.iter().cloned().collect()), (&before, node.all()));
        assert_eq!(node.ask_by_many(vip), node.only(1));
        node.apply(&json!({}), &[both[0].clone(), node.endpoint(1, &json!({}))]);
        give_flows(&node.bed.shared, 1000);
        assert_eq!(node.ask_by_many(node.vip()), node.all());
        node.bed.assert_balanced();
    }
}

#[test]
fn a_client_keeps_its_backend_with_affinity() {
    for places in [V4, V6] {
        let mut node = Node::new(places);
        let endpoints = [node.endpoint(0, &json!({})), node.endpoint(1, &json!({}))];
        node.apply(&json!({"sessionAffinity": "ClientIP"}), &endpoints);
        assert_eq!(node.ask_by_many(node.vip()).len(), 1);
        node.bed.assert_balanced();
    }
}

/// A policy about all host endpoints, asked as `hook` says, that denies a port.
fn denies(hook: &str, port: u16) -> Value {
    let mut spec = json!({
        "selector": "all()", "applyOnForward": true, "types": ["Ingress"],
        "ingress": [{"action": "Deny", "protocol": "TCP", "destination": {"ports": [port]}}, {"action": "Allow"}],
    });
    spec[hook] = json!(true);
    json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn policy_is_asked_about_backends_and_before_translation_about_the_service() {
    let host = json!({"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": "h"},
                      "spec": {"node": "here", "interfaceName": "eth0"}});
    for (hook, port, passes) in [
        ("preDNAT", 80, false),
        ("preDNAT", 8080, true),
        ("applyOnForward", 80, true),
        ("applyOnForward", 8080, false),
    ] {
        for places in [V4, V6] {
            let client = places.client;
            let mut node = Node::new(places);
            let endpoints = [node.endpoint(0, &json!({}))];
            node.apply(&json!({}), &endpoints);
            let mut inventory = Inventory::default();
            for value in [&host, &denies(hook, port)] {
                inventory.add(0, value).expect("a valid object");
            }
            let model = inventory.build().expect("objects that go together").model;
            let classifier = Classifier::new(model).expect("a small model");
            let at = classifier.host("here", "eth0", &[]).expect("a host endpoint");
            let policy = Policy::new(classifier, [(InterfaceId(0), at)]);
            let _ = node.bed.shared.publish_policy(Some(policy));
            let vip = node.vip();
            if passes {
                let backend = node.ask(5000, vip, SYN);
                assert!(node.only(0).contains(&backend), "{hook} {port}");
            } else {
                node.bed.send(0, &frame(0, end(client, 5000), vip, SYN, 0));
                assert_eq!(node.bed.drops(), [(DropReason::PolicyDenied, 1)], "{hook} {port}");
            }
            node.bed.assert_balanced();
        }
    }
}
