//! Objects over the API.

use super::tests::Api;
use crate::testing::Machine;
use alloc::sync::Arc;
use serde_json::{Value, json};

const LINES: &str = "Content-Type: application/x-ndjson\r\n";

fn pod(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
           "status": {"podIPs": [{"ip": address}]}})
}

fn policy(name: &str, app: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
           "spec": {"podSelector": {"matchLabels": {"app": app}}, "ingress": []}})
}

fn service(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
           "spec": {"clusterIP": address, "ports": [{"port": 80}]}})
}

fn slice(service: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.3"]}],
    })
}

fn lines(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("{object}\n")).collect()
}

fn names(answer: &Value) -> Vec<&str> {
    answer["resources"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
}

#[test]
fn objects_are_applied_listed_and_removed() {
    let mut api = Api::new();
    let answer = api.ask_with(
        "POST",
        "/v1/resources",
        LINES,
        &lines(&[pod("b", "10.0.0.2"), pod("a", "10.0.0.1"), policy("p", "a"), service("s", "10.96.0.1")]),
    );
    let done = answer.json();
    assert_eq!((answer.status, &done["added"], &done["generation"]), (200, &json!(4), &json!(1)));
    assert_eq!(names(&api.get("/v1/resources")), ["a", "b", "s", "p"]);
    assert_eq!(names(&api.get("/v1/resources?kind=pods")), ["a", "b"]);
    assert_eq!(names(&api.get("/v1/resources?kind=Pod&namespace=default&name=b")), ["b"]);
    let page = api.get("/v1/resources?limit=3");
    assert_eq!(names(&page), ["a", "b", "s"]);
    let next = page["next"].as_str().unwrap().replace('/', "%2F");
    assert_eq!(names(&api.get(&format!("/v1/resources?limit=3&after={next}"))), ["p"]);
    let all = api.ask_with("GET", "/v1/resources", "Accept: application/x-ndjson\r\n", "");
    assert_eq!(all.body.lines().count(), 4);
    let status = api.get("/v1/resources/status");
    assert_eq!(
        (&status["generation"], &status["in_force"], &status["objects"]),
        (&json!(1), &json!(1), &json!(4))
    );
    assert!(api.node.shared.services().is_some() && api.node.shared.policy().is_some());

    let again = api.ask_with("POST", "/v1/resources", LINES, &lines(&[pod("a", "10.0.0.1")])).json();
    assert_eq!((&again["unchanged"], &again["generation"]), (&json!(1), &json!(1)));
    let removed = api.ask("DELETE", "/v1/resources?api_version=v1&kind=Pod&name=b", "");
    assert_eq!((removed.status, &removed.json()["removed"]), (200, &json!(1)));
    assert_eq!(api.ask("DELETE", "/v1/resources?api_version=v1&kind=Pod&name=b", "").status, 404);
    let list =
        json!({"apiVersion": "v1", "kind": "List", "items": [policy("p", "x"), pod("nobody", "10.0.0.9")]});
    let removed = api.ask("POST", "/v1/resources/delete", &list.to_string()).json();
    assert_eq!((&removed["removed"], &removed["unchanged"]), (&json!(1), &json!(1)));
    let replaced = api.ask("PUT", "/v1/resources", &pod("c", "10.0.0.3").to_string()).json();
    assert_eq!((&replaced["added"], &replaced["removed"]), (&json!(1), &json!(2)));
    assert_eq!(names(&api.get("/v1/resources")), ["c"]);
    assert!(api.node.shared.services().is_none());
}

#[test]
fn an_answer_waits_until_the_objects_are_in_force() {
    let mut api = Api::new();
    // A table takes several turns.
    let both = lines(&[service("s", "10.96.0.1"), slice("s")]);
    let done = api.ask_with("POST", "/v1/resources", LINES, &both).json();
    assert_eq!((&done["generation"], &done["in_force"]), (&json!(1), &json!(false)));
    for (method, path, body) in [
        ("POST", "/v1/resources?", service("t", "10.96.0.2")),
        ("PUT", "/v1/resources?", service("u", "10.96.0.3")),
        ("POST", "/v1/resources/delete?", service("u", "10.96.0.3")),
        ("POST", "/v1/resources?", service("s", "10.96.0.1")),
        ("POST", "/v1/resources?", slice("s")),
    ] {
        let done = api.ask(method, &format!("{path}wait_seconds=60"), &body.to_string()).json();
        assert_eq!(done["in_force"], true, "{method} {path}: {done}");
    }
    let done =
        api.ask("DELETE", "/v1/resources?api_version=v1&kind=Service&name=s&wait_seconds=1", "").json();
    assert_eq!((&done["generation"], &done["in_force"]), (&json!(7), &json!(true)));
    assert_eq!(api.ask("DELETE", "/v1/resources?wait_seconds=0", "").status, 400);
}

#[test]
fn what_changes_nothing_for_workers_is_in_force_with_what_was_before_it() {
    let mut api = Api::new();
    let first = service("s", "10.96.0.1");
    let mut noted = first.clone();
    noted["metadata"]["annotations"] = json!({"note": "of no matter"});
    // The second is taken while tables are made for the first.
    for (objects, generation) in [(vec![first, slice("s")], 1), (vec![noted], 2)] {
        let read = |value| Arc::new(resources::Object::read(value).unwrap());
        let edit = resources::Edit::Apply(objects.into_iter().map(read).collect());
        let pending = api.node.objects.begin(edit, false).unwrap();
        while pending.borrow().is_none() {
            assert!(api.node.advance_objects());
        }
        let objects = &api.node.objects;
        assert_eq!((objects.generation(), objects.published_generation()), (generation, 0));
    }
    while api.node.advance_objects() {}
    assert_eq!(api.get("/v1/resources/status")["in_force"], 2);
}

#[test]
fn what_is_wrong_refuses_all_of_it() {
    let mut api = Api::new();
    let mut wrong = policy("p", "a");
    wrong["spec"]["ingres"] = json!([]);
    let answer = api.ask_with("POST", "/v1/resources", LINES, &lines(&[pod("a", "10.0.0.1"), wrong.clone()]));
    let errors = &answer.json()["errors"];
    assert_eq!(
        (answer.status, &errors[0]["index"], &errors[0]["pointer"]),
        (422, &json!(1), &json!("/spec/ingres"))
    );
    assert_eq!(errors[0]["object"], "NetworkPolicy default/p");
    assert_eq!(names(&api.get("/v1/resources")), Vec::<&str>::new());
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [pod("a", "10.0.0.1"), wrong]});
    let errors = api.ask("POST", "/v1/resources", &list.to_string()).json()["errors"].clone();
    assert_eq!((&errors[0]["index"], &errors[0]["pointer"]), (&json!(1), &json!("/items/1/spec/ingres")));
    // What is impossible between objects, of which one is in force already.
    let _ = api.ask("POST", "/v1/resources", &service("s", "10.96.0.1").to_string());
    let body = lines(&[pod("a", "10.0.0.1"), service("t", "10.96.0.1")]);
    let answer = api.ask_with("POST", "/v1/resources", LINES, &body);
    assert_eq!((answer.status, &answer.json()["errors"][0]["index"]), (422, &json!(1)));
    assert_eq!(names(&api.get("/v1/resources")), ["s"]);
    for (body, pointer) in [
        (lines(&[pod("a", "10.0.0.1"), pod("a", "10.0.0.2")]), "/metadata/name"),
        (lines(&[json!({"apiVersion": "apps/v1", "kind": "Deployment"})]), "/kind"),
        ("{\n".into(), ""),
        ("[]\n".into(), ""),
    ] {
        let answer = api.ask_with("POST", "/v1/resources", LINES, &body);
        assert_eq!((answer.status, &answer.json()["errors"][0]["pointer"]), (422, &json!(pointer)), "{body}");
    }
    assert_eq!(api.ask_with("POST", "/v1/resources", "Content-Type: text/plain\r\n", "x").status, 415);
    assert_eq!(api.ask("GET", "/v1/resources?kind=deployments", "").status, 400);
    assert_eq!(api.ask("GET", "/v1/resources?after=x", "").status, 400);
}

#[test]
fn a_dry_run_says_what_would_change() {
    let mut api = Api::new();
    let _ = api.ask("POST", "/v1/resources", &pod("a", "10.0.0.1").to_string());
    let answer = api.ask("POST", "/v1/resources?dry_run=true", &pod("a", "10.0.0.2").to_string()).json();
    assert_eq!(
        (&answer["dry_run"], &answer["changed"], &answer["generation"]),
        (&json!(true), &json!(1), &json!(1))
    );
    let field = &answer["changes"][0]["fields"][0];
    assert_eq!((&field["pointer"], &field["to"]), (&json!("/status/podIPs/0/ip"), &json!("10.0.0.2")));
    assert_eq!(api.get("/v1/resources")["resources"][0], pod("a", "10.0.0.1"));
    let answer = api.ask("POST", "/v1/resources?dry_run=true", &service("a", "no address").to_string());
    assert_eq!(answer.status, 422);
}

#[test]
fn memory_is_asked_for_first() {
    let mut api = Api::new();
    api.machine.inside().taken_bytes = 58 << 20;
    let body = lines(&[pod("a", "10.0.0.1")]);
    assert_eq!(api.ask_with("POST", "/v1/resources", LINES, &body).status, 507);
}

#[test]
fn saved_objects_are_in_force_from_the_start() {
    let machine = Machine::with_large_store();
    let mut api = Api::start(&machine);
    let body = lines(&[pod("a", "10.0.0.1"), policy("p", "a"), service("s", "10.96.0.1")]);
    let _ = api.ask_with("POST", "/v1/resources", LINES, &body);
    assert_eq!(api.get("/v1/resources/status")["saved"], false);
    assert_eq!(api.ask("POST", "/v1/store", "").status, 200);
    assert_eq!(api.get("/v1/resources/status")["saved"], true);
    let mut api = Api::start(&machine);
    assert!(api.node.shared.services().is_some() && api.node.shared.policy().is_some());
    let status = api.get("/v1/resources/status");
    assert_eq!(
        (&status["objects"], &status["saved"], &status["generation"]),
        (&json!(3), &json!(true), &json!(1))
    );
    // What comes after it is not kept unless it is asked for.
    let _ = api.ask("PUT", "/v1/resources", &pod("c", "10.0.0.3").to_string());
    assert_eq!(names(&Api::start(&machine).get("/v1/resources")), ["a", "s", "p"]);
}

#[test]
fn a_disk_without_room_for_objects_keeps_none() {
    let mut api = Api::new();
    assert_eq!(api.ask("POST", "/v1/store", "").status, 200);
    let _ = api.ask("POST", "/v1/resources", &pod("a", "10.0.0.1").to_string());
    assert_eq!(api.ask("PUT", "/v1/config", &json!({"hostname": "gw9"}).to_string()).status, 200);
    let answer = api.ask("POST", "/v1/store", "");
    let detail = "the configuration is kept; the objects are not kept: the disk has 0 bytes for it, and 32768 are needed";
    assert_eq!((answer.status, &answer.json()["detail"]), (507, &json!(detail)));
    assert_eq!(api.get("/v1/store")["saved"], true);
    let mut api = Api::start(&api.machine);
    assert_eq!(api.get("/v1/config")["hostname"], "gw9");
    assert_eq!(names(&api.get("/v1/resources")), Vec::<&str>::new());
}

#[test]
fn objects_that_do_not_fit_leave_room_for_the_configuration() {
    let machine = Machine::with_large_store();
    let mut api = Api::start(&machine);
    let mut long = pod("a", "10.0.0.1");
    long["metadata"]["annotations"] = json!({"note": "x".repeat(64 << 10)});
    assert_eq!(api.ask("POST", "/v1/resources", &long.to_string()).status, 200);
    let answer = api.ask("POST", "/v1/store", "");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 507);
    assert!(detail.starts_with("the configuration is kept; the objects are not kept: it has 65"), "{detail}");
    // Something else behind the configuration.
    let _ = api.ask("PUT", "/v1/resources", &pod("a", "10.0.0.1").to_string());
    machine.inside().disk.as_mut().unwrap()[8192 + 9][0] = 1;
    let answer = api.ask("POST", "/v1/store", "");
    let detail = "the configuration is kept; the objects are not kept: the disk holds something else behind its first 4096 KiB: clear the 128 KiB after them, and nothing before";
    assert_eq!((answer.status, &answer.json()["detail"]), (409, &json!(detail)));
    // And in the configuration's part alone.
    machine.inside().disk.as_mut().unwrap().fill([0; 512]);
    machine.inside().disk.as_mut().unwrap()[9][0] = 1;
    let answer = api.ask("POST", "/v1/store", "");
    let detail = "the configuration is not kept: the disk holds something else: clear its first 4096 KiB to give them to the node; the objects are kept";
    assert_eq!((answer.status, &answer.json()["detail"]), (409, &json!(detail)));
}

#[test]
fn services_are_shown_and_explained() {
    let mut api = Api::new();
    let _ = api.ask_with("POST", "/v1/resources", LINES, &lines(&[service("s", "10.96.0.1"), slice("s")]));
    let shown = api.get("/v1/services?name=s");
    assert_eq!((&shown["generation"], &shown["in_force"]), (&json!(1), &json!(1)));
    let service = &shown["services"][0];
    assert_eq!(
        (&service["frontends"][0]["address"], &service["table_slots"]),
        (&json!("10.96.0.1"), &json!(65_537))
    );
    let slots: Vec<u64> =
        service["backends"].as_array().unwrap().iter().map(|b| b["slots"].as_u64().unwrap()).collect();
    assert_eq!((slots.len(), slots.iter().sum::<u64>()), (2, 65_537));
    assert_eq!(api.get("/v1/services?name=t")["services"], json!([]));
    let metrics = api.ask("GET", "/metrics", "").body;
    let backend = "fairlead_backend_flows_total{namespace=\"default\",service=\"s\",port=\"80\",protocol=\"TCP\",scope=\"Cluster\",backend=\"10.0.0.3:8080\"} 0\n";
    assert!(metrics.contains(backend) && metrics.contains("fairlead_resources_in_force 1\n"), "{metrics}");
    let ask = "/v1/services/explain?source=192.0.2.1&source_port=4000&port=80";
    let chosen = api.get(&format!("{ask}&destination=10.96.0.1"));
    let (backend, slot) = (chosen["backend"].as_str().unwrap(), chosen["slot"].as_u64().unwrap());
    assert!(backend.ends_with(":8080") && slot < 65_537, "{chosen}");
    assert_eq!((&chosen["service"], &chosen["balanced"]), (&json!("s"), &json!(true)));
    assert_eq!(api.get(&format!("{ask}&destination=10.96.0.2"))["balanced"], false);
    assert_eq!(api.ask("GET", &format!("{ask}&destination=2001:db8::1"), "").status, 400);
}

#[test]
fn policy_is_shown_and_explained() {
    let mut api = Api::new();
    let body = lines(&[pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), policy("p", "a")]);
    let _ = api.ask_with("POST", "/v1/resources", LINES, &body);
    let shown = api.get("/v1/policy/endpoints");
    let policies = |place: usize| shown["endpoints"][place]["policies"].as_array().unwrap().len();
    assert_eq!((policies(0), policies(1)), (1, 0));
    assert_eq!(shown["endpoints"][0]["policies"][0]["name"], "p");
    let explained = api.get("/v1/policy/explain?from=default%2Fb&to=default%2Fa&port=80");
    assert_eq!((&explained["verdict"], &explained["direction"]), (&json!("deny"), &json!("ingress")));
    assert!(explained["rule"].as_str().unwrap().contains("default/p"), "{explained}");
    let allowed = api.get("/v1/policy/explain?from=10.0.0.1&to=default%2Fb&port=80&protocol=udp");
    assert_eq!(allowed["verdict"], "allow");
    let matrix = api.get("/v1/policy/matrix?protocol=icmp")["matrix"].clone();
    assert_eq!(
        (&matrix["default/b"]["default/a"], &matrix["default/a"]["default/b"]),
        (&json!("deny"), &json!("allow"))
    );
    assert_eq!(api.ask("GET", "/v1/policy/explain?from=default%2Fx&to=default%2Fa&port=80", "").status, 404);
    assert_eq!(api.ask("GET", "/v1/policy/explain?from=default%2Fb&to=default%2Fa", "").status, 400);
}

#[test]
fn a_changed_policy_is_another_verdict() {
    let mut api = Api::new();
    let body = lines(&[pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), policy("p", "a")]);
    let _ = api.ask_with("POST", "/v1/resources", LINES, &body);
    for (app, verdict) in [("b", "allow"), ("a", "deny"), ("b", "allow")] {
        let _ = api.ask("POST", "/v1/resources", &policy("p", app).to_string());
        let explained = api.get("/v1/policy/explain?from=default%2Fb&to=default%2Fa&port=80");
        assert_eq!(explained["verdict"], verdict, "{app}");
    }
    let _ = api.ask("POST", "/v1/resources", &pod("b", "10.0.0.7").to_string());
    let explained = api.get("/v1/policy/explain?from=default%2Fb&to=default%2Fa&port=80");
    assert_eq!(explained["source"], "10.0.0.7");
}
