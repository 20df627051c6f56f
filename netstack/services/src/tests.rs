use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Value, json};

use crate::object::IpFamily;
use crate::*;

fn service(spec: Value) -> Value {
    let mut service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}});
    service["spec"] = spec;
    service
}

fn slice(endpoints: Value) -> Value {
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 8080}],
    });
    slice["endpoints"] = endpoints;
    slice
}

fn compiled(documents: &[Value], site: &Site) -> Compiled {
    let mut objects = Objects::default();
    for (number, document) in documents.iter().enumerate() {
        objects.add(number, document).unwrap();
    }
    compile(&objects, site).unwrap()
}

/// Addresses of those that get new flows, and of those that keep what they have for a while.
fn states(pool: &Pool) -> (Vec<String>, Vec<String>) {
    (of_state(pool, State::Active), of_state(pool, State::Draining))
}

fn of_state(pool: &Pool, state: State) -> Vec<String> {
    let backends = pool.backends.iter().filter(|backend| backend.state == state);
    backends.map(|backend| backend.address.ip().to_string()).collect()
}

fn faults(document: &Value) -> Vec<(String, String)> {
    let faults = Objects::default().add(7, document).unwrap_err();
    assert!(faults.iter().all(|fault| fault.document == 7));
    faults.into_iter().map(|fault| (fault.problem.pointer, fault.problem.message)).collect()
}

fn fault(document: &Value) -> (String, String) {
    let faults = faults(document);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.into_iter().next().unwrap()
}

fn here() -> Site {
    Site { node: Some("n1".into()), zone: Some("z1".into()), ..Site::default() }
}

#[test]
fn every_way_to_a_service_becomes_a_frontend() {
    let mut document = service(json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::10"],
        "ipFamilies": ["IPv4", "IPv6"], "externalIPs": ["192.0.2.7"],
        "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["198.51.100.0/24"],
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "ports": [{"port": 80, "targetPort": "http", "nodePort": 30080}],
    }));
    document["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}, {"ip": "203.0.113.6", "ipMode": "Proxy"}]}});
    let endpoints = slice(
        json!([{"addresses": ["10.1.0.1"], "nodeName": "n1"}, {"addresses": ["10.1.0.2"], "nodeName": "n2"}]),
    );
    let compiled = compiled(&[document, endpoints], &here());
    let frontends: Vec<_> = compiled
        .frontends
        .iter()
        .map(|f| {
            let pool = &compiled.pools[f.pool];
            let address = f.address.map(|address| address.to_string()).unwrap_or_default();
            (
                f.exposure,
                address,
                f.port,
                pool.key.scope,
                pool.key.family,
                pool.backends.len(),
                f.source_ranges.len(),
            )
        })
        .collect();
    use {Exposure::*, IpFamily::*, Scope::*};
    assert_eq!(
        frontends,
        [
            (ClusterIp, "10.96.0.10".into(), 80, Cluster, V4, 2, 0),
            (ExternalIp, "192.0.2.7".into(), 80, Local, V4, 1, 0),
            (LoadBalancer, "203.0.113.5".into(), 80, Local, V4, 1, 1),
            (NodePort, "".into(), 30080, Local, V4, 1, 0),
            (ClusterIp, "fd00::10".into(), 80, Cluster, V6, 0, 0),
            (NodePort, "".into(), 30080, Local, V6, 0, 0),
        ]
    );
    assert!(compiled.pools.iter().all(|pool| pool.affinity == Some(Affinity { timeout_seconds: 60 })));
    assert_eq!(compiled.pools[0].backends[1].name(), "10.1.0.2:8080");
}

#[test]
fn ready_endpoints_serve_and_terminating_ones_drain() {
    let web = service(json!({"ports": [{"port": 80}]}));
    let ready = json!({"addresses": ["10.1.0.1"], "conditions": {"ready": true}});
    let said_nothing = json!({"addresses": ["10.1.0.2"]});
    let unready = json!({"addresses": ["10.1.0.3"], "conditions": {"ready": false}});
    let leaving = json!({"addresses": ["10.1.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}});
    let gone = json!({"addresses": ["10.1.0.5"], "conditions": {"ready": false, "serving": false, "terminating": true}});
    let all = compiled(&[web.clone(), slice(json!([ready, said_nothing, unready, leaving, gone]))], &here());
    let hosts = |hosts: &[u8]| -> Vec<String> { hosts.iter().map(|host| format!("10.1.0.{host}")).collect() };
    assert_eq!(states(&all.pools[0]), (hosts(&[1, 2]), hosts(&[4, 5])));
    assert_eq!(of_state(&all.pools[0], State::Standby), hosts(&[3]));
    let table = all.pools[0].table(&maglev::Seed::default()).unwrap();
    assert!(table.iter().all(|backend| backend < 2));
    // Nobody is ready: what still serves is better than nothing.
    let last = compiled(&[web.clone(), slice(json!([unready, leaving, gone]))], &here());
    assert_eq!(states(&last.pools[0]), (hosts(&[4]), hosts(&[5])));
    // Of two slices that have it the better one counts, whichever comes first.
    let mut other = slice(json!([leaving]));
    other["metadata"]["name"] = json!("web-2");
    for order in [[0, 1], [1, 0]] {
        let both =
            [slice(json!([{"addresses": ["10.1.0.4"], "conditions": {"ready": false}}])), other.clone()];
        let all = compiled(&[web.clone(), both[order[0]].clone(), both[order[1]].clone()], &here());
        assert_eq!(states(&all.pools[0]), (hosts(&[4]), vec![]));
    }
    // Of UDP nobody waits for an answer of who does not serve; QUIC has connections.
    for (annotations, kept) in [(json!({}), 1), (json!({"fairlead.dev/quic-server-id-bytes": "2"}), 3)] {
        let mut dns = service(json!({"ports": [{"port": 53, "protocol": "UDP"}]}));
        dns["metadata"]["annotations"] = annotations;
        let mut endpoints = slice(json!([ready, unready, leaving, gone]));
        endpoints["ports"] = json!([{"port": 53, "protocol": "UDP"}]);
        let all = compiled(&[dns, endpoints], &here());
        assert_eq!((states(&all.pools[0]).0, all.pools[0].backends.len()), (hosts(&[1]), 1 + kept));
    }
    let none = compiled(&[web, slice(json!([unready, gone]))], &here());
    assert_eq!(none.pools[0].table(&maglev::Seed::default()), Err(maglev::Error::NoBackend));
}

#[test]
fn local_policy_falls_back_to_local_terminating_endpoints_only() {
    let web =
        service(json!({"internalTrafficPolicy": "Local", "clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
    let leaving = json!({"addresses": ["10.1.0.1"], "nodeName": "n1", "conditions": {"ready": false, "serving": true, "terminating": true}});
    let other = json!({"addresses": ["10.1.0.2"], "nodeName": "n2"});
    let documents = [web, slice(json!([leaving, other]))];
    assert_eq!(states(&compiled(&documents, &here()).pools[0]), (vec!["10.1.0.1".into()], vec![]));
    let elsewhere = compiled(&documents, &Site { node: Some("n3".into()), ..Site::default() });
    assert_eq!(elsewhere.pools[0].backends, []);
    assert_eq!(compiled(&documents, &Site::default()).pools[0].backends, []);
}

#[test]
fn hints_keep_traffic_near_if_all_have_them() {
    let endpoint = |address: &str, zone: Option<&str>| {
        let mut endpoint = json!({"addresses": [address]});
        if let Some(zone) = zone {
            endpoint["hints"] = json!({"forZones": [{"name": zone}], "forNodes": [{"name": address}]});
        }
        endpoint
    };
    let web = service(json!({"ports": [{"port": 80}]}));
    let active = |web: &Value, endpoints: Value, site: &Site| {
        let compiled = compiled(&[web.clone(), slice(endpoints)], site);
        states(&compiled.pools[0]).0
    };
    let hinted = json!([endpoint("10.1.0.1", Some("z1")), endpoint("10.1.0.2", Some("z2"))]);
    assert_eq!(active(&web, hinted.clone(), &here()), ["10.1.0.1"]);
    // Who serves others still serves the flows that it has.
    let all = compiled(&[web.clone(), slice(hinted.clone())], &here());
    assert_eq!(of_state(&all.pools[0], State::Standby), ["10.1.0.2"]);
    // Who is not ready needs no hint, and nobody is far when only those are left that are leaving.
    let mut unhinted = hinted.clone();
    let unready = json!({"addresses": ["10.1.0.3"], "conditions": {"ready": false}});
    unhinted.as_array_mut().unwrap().push(unready);
    assert_eq!(active(&web, unhinted, &here()), ["10.1.0.1"]);
    let mut leaving = hinted.clone();
    for endpoint in leaving.as_array_mut().unwrap() {
        endpoint["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
    }
    assert_eq!(active(&web, leaving, &here()).len(), 2);
    let elsewhere = Site { node: None, zone: Some("z3".into()), ..Site::default() };
    assert_eq!(active(&web, hinted.clone(), &elsewhere).len(), 2);
    assert_eq!(active(&web, hinted.clone(), &Site::default()).len(), 2);
    let incomplete = json!([endpoint("10.1.0.1", Some("z1")), endpoint("10.1.0.2", None)]);
    assert_eq!(active(&web, incomplete, &here()).len(), 2);
    let same_node = service(json!({"trafficDistribution": "PreferSameNode", "ports": [{"port": 80}]}));
    let on_second = Site { node: Some("10.1.0.2".into()), zone: Some("z1".into()), ..Site::default() };
    assert_eq!(active(&same_node, hinted.clone(), &on_second), ["10.1.0.2"]);
    assert_eq!(active(&web, hinted, &on_second), ["10.1.0.1"]);
}

#[test]
fn a_slice_of_names_is_passed_over() {
    let mut names = slice(json!([{"addresses": ["web.example.org"]}]));
    names["metadata"]["name"] = json!("web-names");
    names["addressType"] = json!("FQDN");
    let web = service(json!({"ports": [{"port": 80}]}));
    let all = compiled(&[web, names, slice(json!([{"addresses": ["10.1.0.1"]}]))], &here());
    assert_eq!(states(&all.pools[0]).0, ["10.1.0.1"]);
}

#[test]
fn a_table_too_small_for_its_backends_is_not_used() {
    let mut web = service(json!({"ports": [{"port": 80}]}));
    web["metadata"]["annotations"] = json!({"fairlead.dev/table-size": "3"});
    let endpoints = |count: u8| -> Value {
        (0..count).map(|host| json!({"addresses": [format!("10.1.0.{host}")]})).collect()
    };
    for (count, slots) in [(3, 3), (4, 65_537)] {
        let all = compiled(&[web.clone(), slice(endpoints(count))], &here());
        assert_eq!(all.pools[0].table(&maglev::Seed::default()).map(|table| table.slots()), Ok(slots));
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let web = service(
        json!({"ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
    );
    let mut endpoints = slice(json!([{"addresses": ["10.1.0.1"]}]));
    endpoints["ports"] = json!([{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "http", "port": 8080, "protocol": "TCP"}]);
    let mut twice = endpoints.clone();
    twice["metadata"]["annotations"] = json!({"fairlead.dev/weight": "3"});
    twice["endpoints"] = json!([{"addresses": ["10.1.0.2"]}]);
    let compiled = compiled(&[web, endpoints, twice], &here());
    let ports: Vec<_> = compiled.pools.iter().map(|pool| pool.backends[0].address.port()).collect();
    assert_eq!(ports, [8080, 5353]);
    let weights: Vec<_> = compiled.pools[0].backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(weights, [1, 3]);
}

#[test]
fn services_without_an_address_have_pools_and_headless_ones_nothing() {
    let endpoints = slice(json!([{"addresses": ["10.1.0.1"]}]));
    let pending = compiled(&[service(json!({"ports": [{"port": 80}]})), endpoints.clone()], &here());
    assert_eq!((pending.pools.len(), pending.frontends.len()), (1, 0));
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "a.example"}),
    ] {
        assert_eq!(compiled(&[service(spec), endpoints.clone()], &here()), Compiled::default());
    }
}

#[test]
fn lists_are_taken_apart() {
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [service(json!({"ports": [{"port": 80}]})), slice(json!([{"addresses": ["10.1.0.1"]}]))]});
    assert_eq!(compiled(core::slice::from_ref(&list), &here()).pools[0].backends.len(), 1);
    let mut wrong = list;
    wrong["items"][1]["endpoints"][0]["addresses"][0] = json!("10.1");
    assert_eq!(fault(&wrong), ("/items/1/endpoints/0/addresses/0".into(), "is not an IP address".into()));
}

#[test]
fn unknown_fields_are_named() {
    let (pointer, message) = fault(&service(json!({"ports": [{"port": 80, "tagretPort": 8080}]})));
    assert_eq!(pointer, "/spec/ports/0/tagretPort");
    assert!(message.starts_with("unknown field `tagretPort`, expected one of `name`"), "{message}");
    let (pointer, _) = fault(&service(json!({"ports": [{"port": 70_000}]})));
    assert_eq!(pointer, "/spec/ports/0/port");
    let (pointer, message) = fault(&json!({"apiVersion": "v1", "kind": "Pod"}));
    assert_eq!(pointer, "/kind");
    assert!(message.starts_with("is Pod of v1, which says nothing about load balancing"), "{message}");
    assert_eq!(fault(&json!(["x"])).0, "");
    let mut annotated = slice(json!([]));
    annotated["metadata"]["annotations"] = json!({"fairlead.dev/wieght": "2", "other.example/x": "y"});
    assert_eq!(fault(&annotated).0, "/metadata/annotations/fairlead.dev~1wieght");
}

#[test]
fn what_kubectl_prints_is_known() {
    let mut document = service(json!({
        "allocateLoadBalancerNodePorts": true, "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
        "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "ports": [{"appProtocol": "http", "name": "http", "nodePort": 0, "port": 80, "protocol": "TCP", "targetPort": 8080}],
        "selector": {"app": "web"}, "sessionAffinity": "None", "type": "ClusterIP", "publishNotReadyAddresses": false,
    }));
    document["metadata"] = json!({
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}, "creationTimestamp": "2026-01-01T00:00:00Z",
        "finalizers": ["x"], "generation": 1, "labels": {"app": "web"}, "managedFields": [{"manager": "kubectl"}], "name": "web",
        "ownerReferences": [], "resourceVersion": "12", "uid": "4c1d",
    });
    document["status"] = json!({"loadBalancer": {}, "conditions": []});
    assert_eq!(compiled(&[document], &here()).frontends.len(), 1);
}

#[test]
fn what_cannot_be_is_refused_by_field() {
    let ports = json!([{"port": 80}]);
    let cases = [
        (json!({}), "/spec/ports"),
        (json!({"ports": [{"port": 0}]}), "/spec/ports/0/port"),
        (json!({"ports": [{"port": 80, "nodePort": 30080}]}), "/spec/ports/0/nodePort"),
        (json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}), "/spec/ports/1"),
        (json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}), "/spec/ports/1/name"),
        (json!({"ports": [{"name": "a", "port": 80}, {"port": 81}]}), "/spec/ports/1/name"),
        (json!({"ports": ports, "clusterIP": "10.96.0"}), "/spec/clusterIP"),
        (json!({"ports": ports, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}), "/spec/clusterIPs/0"),
        (json!({"ports": ports, "clusterIPs": ["10.0.0.1", "10.0.0.2"]}), "/spec/clusterIPs/1"),
        (json!({"ports": ports, "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv4"]}), "/spec/clusterIPs/0"),
        (
            json!({"ports": ports, "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"}),
            "/spec/ipFamilyPolicy",
        ),
        (json!({"ports": ports, "externalIPs": ["127.0.0.1"]}), "/spec/externalIPs/0"),
        (json!({"ports": ports, "externalTrafficPolicy": "Local"}), "/spec/externalTrafficPolicy"),
        (
            json!({"ports": ports, "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            "/spec/loadBalancerSourceRanges",
        ),
        (
            json!({"ports": ports, "type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0"]}),
            "/spec/loadBalancerSourceRanges/0",
        ),
        (
            json!({"ports": ports, "type": "LoadBalancer", "healthCheckNodePort": 31000}),
            "/spec/healthCheckNodePort",
        ),
        (
            json!({"ports": ports, "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
            "/spec/sessionAffinityConfig",
        ),
        (
            json!({"ports": ports, "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            "/spec/sessionAffinityConfig/clientIP/timeoutSeconds",
        ),
        (json!({"ports": ports, "sessionAffinity": "Cookie"}), "/spec/sessionAffinity"),
        (json!({"type": "ExternalName"}), "/spec/externalName"),
    ];
    for (spec, pointer) in cases {
        assert_eq!(fault(&service(spec.clone())).0, pointer, "{spec}");
    }
    for (address, message) in
        [("fe80::1", "addressType"), ("127.0.0.1", "cannot be"), ("169.254.0.1", "link-local")]
    {
        let (pointer, said) = fault(&slice(json!([{"addresses": [address]}])));
        assert_eq!(pointer, "/endpoints/0/addresses/0");
        assert!(said.contains(message), "{said}");
    }
}

#[test]
fn two_services_cannot_share_an_address_and_port() {
    let one = service(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
    let mut other = one.clone();
    other["metadata"]["name"] = json!("other");
    let mut objects = Objects::default();
    for (number, document) in [&one, &other, &one].into_iter().enumerate() {
        objects.add(number, document).unwrap();
    }
    let faults = compile(&objects, &here()).unwrap_err();
    let places: Vec<_> =
        faults.iter().map(|fault| (fault.document, fault.problem.pointer.as_str())).collect();
    assert_eq!(places, [(1, "/spec"), (2, "/metadata/name")]);
    assert_eq!(faults[0].problem.message, "10.96.0.1 port 80 TCP is another service's too");
}

#[test]
fn annotations_say_table_size_and_forwarding() {
    let mut web = service(json!({"ports": [{"port": 80}], "ipFamilies": ["IPv4"]}));
    web["metadata"]["annotations"] =
        json!({"fairlead.dev/table-size": "251", "fairlead.dev/forwarding": "gue"});
    let pool = compiled(core::slice::from_ref(&web), &here()).pools.remove(0);
    assert_eq!((pool.table_size.slots(), pool.forwarding), (251, Forwarding::Gue));
    for (name, value) in [("table-size", "250"), ("forwarding", "pigeon"), ("weight", "3")] {
        let mut wrong = web.clone();
        wrong["metadata"]["annotations"] = json!({});
        wrong["metadata"]["annotations"][alloc::format!("fairlead.dev/{name}")] = json!(value);
        assert_eq!(fault(&wrong).0, alloc::format!("/metadata/annotations/fairlead.dev~1{name}"));
    }
}

#[test]
fn who_answers_clients_itself_has_the_services_port() {
    for (forwarding, is_possible) in
        [("nat", true), ("full-nat", true), ("direct", false), ("ipip", false), ("gue", false)]
    {
        let mut web = service(json!({"ports": [{"port": 80, "targetPort": 8080}]}));
        web["metadata"]["annotations"] = json!({"fairlead.dev/forwarding": forwarding});
        for (port, is_possible) in [(80, true), (8080, is_possible)] {
            let mut endpoints = slice(json!([{"addresses": ["10.1.0.1"]}]));
            endpoints["ports"] = json!([{"port": port}]);
            let mut objects = Objects::default();
            objects.add(0, &web).unwrap();
            objects.add(1, &endpoints).unwrap();
            let places = compile(&objects, &here()).err().map(|faults| {
                faults.iter().map(|fault| (fault.document, fault.problem.pointer.clone())).collect::<Vec<_>>()
            });
            let annotation = (0, "/metadata/annotations/fairlead.dev~1forwarding".into());
            assert_eq!(places, (!is_possible).then(|| vec![annotation]), "{forwarding} to {port}");
        }
    }
}

#[test]
fn annotations_say_how_backends_are_checked_and_the_site_says_the_rest() {
    let mut web = service(json!({"ports": [{"port": 80}], "ipFamilies": ["IPv4"]}));
    let mut site = here();
    site.health_check = config::HealthCheck { fall: 7, ..Default::default() }.into();
    assert_eq!(*compiled(core::slice::from_ref(&web), &site).pools[0].health_check, *site.health_check);
    web["metadata"]["annotations"] = json!({
        "fairlead.dev/health-check": "http", "fairlead.dev/health-check-path": "/ready",
        "fairlead.dev/health-check-status": "204", "fairlead.dev/health-check-port": "9000",
        "fairlead.dev/health-check-interval": "500ms", "fairlead.dev/health-check-drain": "2m",
        "fairlead.dev/health-check-panic-percent": "0", "fairlead.dev/health-check-rise": "1",
    });
    let expected = config::HealthCheck {
        kind: config::HealthKind::Http,
        path: "/ready".into(),
        status: "204".into(),
        port: Some(9000),
        interval_ms: 500,
        drain_ms: 120_000,
        panic_percent: 0,
        rise: 1,
        ..(*site.health_check).clone()
    };
    assert_eq!(*compiled(core::slice::from_ref(&web), &site).pools[0].health_check, expected);
    let wrong = [
        ("", "udp"),
        ("-path", "ready"),
        ("-status", "99"),
        ("-port", "0"),
        ("-interval", "5"),
        ("-timeout", "99h"),
        ("-drain", "99999999999s"),
        ("-fall", "0"),
        ("-rises", "1"),
    ];
    for (aspect, value) in wrong {
        let name = alloc::format!("fairlead.dev/health-check{aspect}");
        let mut wrong = web.clone();
        wrong["metadata"]["annotations"] = json!({ name.as_str(): value });
        assert_eq!(fault(&wrong).0, config::member("/metadata/annotations", &name));
    }
}
