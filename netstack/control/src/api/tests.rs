//! The API over HTTP connections, every answer held against the description.

use super::endpoints::{ENDPOINTS, Handler};
use super::openapi;
use crate::http::head::Method;
use crate::http::testing::TestWire;
use crate::http::{Connection, Next};
use crate::node::Node;
use crate::platform::Boot;
use crate::testing::{Machine, TOKEN};
use serde_json::{Value, json};

mod ipsec;

const SECOND_NS: u64 = 1_000_000_000;

/// An answer.
pub(super) struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(super) struct Api {
    pub machine: Machine,
    pub node: Node,
    description: Value,
}

impl Api {
    pub fn start(machine: &Machine) -> Self {
        let boot = Boot { token: Some(TOKEN.into()), ..Boot::default() };
        Self { machine: machine.clone(), node: machine.start(boot), description: openapi::describe("1") }
    }

    pub fn new() -> Self {
        Self::start(&Machine::with_store())
    }

    /// Sends a request as it is and reads one answer; `steps` polls at most.
    fn send(&mut self, request: &[u8]) -> Answer {
        let mut wire = TestWire { step: usize::MAX, window: usize::MAX, ..TestWire::default() };
        wire.to_node.extend(request);
        let now_ns = self.node.now_ns;
        let mut connection = Connection::new([10, 0, 0, 2].into(), now_ns);
        for _ in 0..200_000 {
            match connection.poll(&mut self.node, &mut wire, now_ns) {
                Next::Now | Next::Finish(_) => {}
                Next::At(_) if !wire.to_node.is_empty() => {}
                Next::At(_) if self.node.advance_objects() || wire.from_node.is_empty() => {}
                Next::At(_) | Next::Gone => break,
            }
        }
        let text = String::from_utf8(wire.from_node).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
        let mut answer =
            Answer { status: head[9..12].parse().unwrap(), head: head.into(), body: body.into() };
        if answer.field("Transfer-Encoding").is_some() {
            answer.body = unchunk(body);
        }
        answer
    }

    /// Asks with the token and these header fields; holds the answer against the description.
    pub fn ask_with(&mut self, method: &str, target: &str, fields: &str, body: &str) -> Answer {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let text = format!(
            "{method} {target} HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\n{length}{fields}\r\n{body}"
        );
        let answer = self.send(text.as_bytes());
        self.conforms(method, target.split('?').next().unwrap(), &answer);
        answer
    }

    pub fn ask(&mut self, method: &str, target: &str, body: &str) -> Answer {
        let fields = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.ask_with(method, target, fields, body)
    }

    pub fn get(&mut self, target: &str) -> Value {
        let answer = self.ask("GET", target, "");
        assert_eq!(answer.status, 200, "{target}: {}", answer.body);
        answer.json()
    }

    /// The description has the status and the content type, and the body is as the schema says.
    fn conforms(&self, method: &str, path: &str, answer: &Answer) {
        let operation = &self.description["paths"][path][method.to_ascii_lowercase()];
        if operation.is_null() {
            assert!(matches!(answer.status, 401 | 404 | 405 | 429), "{method} {path}: {}", answer.status);
            return;
        }
        let response = &operation["responses"][answer.status.to_string()];
        assert!(response.is_object(), "{method} {path}: status {} is not described", answer.status);
        if method == "HEAD" {
            assert_eq!(answer.body, "");
            return;
        }
        let content_type = answer.field("Content-Type").unwrap();
        let schema = &response["content"][content_type]["schema"];
        assert!(schema.is_object(), "{method} {path} {}: {content_type} is not described", answer.status);
        if content_type.ends_with("ndjson") {
            answer.body.lines().for_each(|line| self.validate(schema, &serde_json::from_str(line).unwrap()));
        } else if content_type.ends_with("json") {
            self.validate(schema, &answer.json());
        }
    }

    fn validate(&self, schema: &Value, value: &Value) {
        let mut schema = schema.clone();
        schema["components"] = self.description["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let faults: Vec<String> = validator.iter_errors(value).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{value}: {faults:?}");
    }
}

fn unchunk(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some((piece, rest)) = rest.split_at_checked(size) else { break };
        body.push_str(piece);
        text = rest.get(2..).unwrap_or_default();
    }
    body
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}})
}

fn two_ports() -> Value {
    json!({"hostname": "gw1", "interfaces": [
        {"name": "eth0", "addresses": ["10.0.0.1/24", "2001:db8::1/64"]}, {"name": "eth1", "addresses": ["10.0.1.1/24"]}]})
}

#[test]
fn every_endpoint_wants_the_token_and_answers_as_described() {
    for endpoint in ENDPOINTS {
        let mut api = Api::new();
        api.node.platform.set_log_level(config::LogLevel::Info);
        let (method, path) = (endpoint.method.to_string(), endpoint.path);
        api.prepare_ipsec(endpoint.path, endpoint.method);
        let (fields, body) = match endpoint.handler {
            Handler::Plain(_) | Handler::Work { .. } => ("", String::new()),
            Handler::Document { schema, .. } => {
                let body = if schema == "IpsecAssociation" { ipsec::association(4096) } else { two_ports() };
                ("Content-Type: application/json\r\n", body.to_string())
            }
            Handler::Stream { schema, .. } => {
                let line = match schema {
                    "Resource" => pod(),
                    _ => json!({"op": "add", "prefix": "10.9.0.0/16", "blackhole": true}),
                };
                ("Content-Type: application/x-ndjson\r\n", format!("{line}\n"))
            }
        };
        let bare = format!(
            "{method} {path} HTTP/1.1\r\nHost: n\r\nContent-Length: {}\r\n{fields}\r\n{body}",
            body.len()
        );
        let answer = api.send(bare.as_bytes());
        assert_eq!(answer.status, if endpoint.is_open { 200 } else { 401 }, "{path}");
        assert_eq!(answer.field("WWW-Authenticate").is_some(), !endpoint.is_open);
        let wrong = bare.replace("\r\nHost", "\r\nAuthorization: Bearer wrong\r\nHost");
        assert_eq!(api.send(wrong.as_bytes()).status, if endpoint.is_open { 200 } else { 401 }, "{path}");
        let target = match (path, endpoint.method) {
            ("/v1/routes/lookup", _) => format!("{path}?address=10.9.1.1"),
            ("/v1/services/explain", _) => format!("{path}?source=10.0.0.9&destination=10.96.0.1&port=80"),
            ("/v1/policy/explain", _) => format!("{path}?from=10.0.0.9&to=10.0.0.1&port=80"),
            ("/v1/policy/matrix", _) => format!("{path}?port=80"),
            ("/v1/ipsec/verify", _) => format!("{path}?prefix=10.9.0.0/16"),
            ("/v1/resources", Method::Delete) => {
                let _ = api.ask("POST", path, &pod().to_string());
                format!("{path}?api_version=v1&kind=Pod&name=a")
            }
            (_, Method::Delete) => format!("{path}?name=a"),
            _ => path.into(),
        };
        let answer = api.ask_with(&method, &target, fields, &body);
        let expected = if path.starts_with("/v1/config/") { 409 } else { endpoint.answer.status };
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.body);
        if endpoint.method == Method::Get {
            assert_eq!(api.ask("HEAD", &target, "").status, 200);
        }
    }
}

#[test]
fn the_description_is_whole() {
    let description = openapi::describe("1");
    let mut described = 0;
    for (path, operations) in description["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().filter(|method| *method != "head") {
            let known = |e: &&super::endpoints::Endpoint| {
                e.path == path && e.method.to_string().eq_ignore_ascii_case(method)
            };
            assert_eq!(ENDPOINTS.iter().filter(known).count(), 1, "{method} {path}");
            described += 1;
        }
    }
    assert_eq!(described, ENDPOINTS.len());
    let schemas = description["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        let mut schema = schema.clone();
        schema["components"] = description["components"].clone();
        assert!(jsonschema::meta::is_valid(&schema), "{name}");
        assert!(jsonschema::validator_for(&schema).is_ok(), "{name}");
    }
    let text = description.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
    for name in schemas.keys().filter(|name| *name != "ConfigRoute") {
        assert!(text.contains(&format!("schemas/{name}\"")), "nothing uses {name}");
    }
}

#[test]
fn the_configuration_schema_agrees_with_the_parser() {
    let api = Api::new();
    let schema = json!({"$ref": "#/components/schemas/Config"});
    api.validate(&schema, &two_ports());
    let mut schema = schema;
    schema["components"] = api.description["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for document in [
        json!({"hostname": "-"}),
        json!({"x": 1}),
        json!({"api": {"token": "short"}}),
        json!({"interfaces": [{}]}),
        json!({"interfaces": [{"name": "eth0", "mtu": 100}]}),
        json!({"interfaces": [{"name": "eth0", "mac": "1"}]}),
        json!({"log": {"level": "loud"}}),
    ] {
        assert!(!validator.is_valid(&document), "{document}");
        assert!(config::parse(document.to_string().as_bytes()).is_err(), "{document}");
    }
}

#[test]
fn configuration_is_replaced_as_a_whole() {
    let mut api = Api::new();
    let before = api.ask("GET", "/v1/config", "");
    let etag = before.field("ETag").unwrap().to_owned();
    assert_eq!(before.json()["interfaces"][0]["dhcp4"], true);

    // Not valid: nothing changes, every fault is named.
    let bad = json!({"interfaces": [{"name": "eth0", "mtu": 20}, {"name": "eth0", "vlan": 9}]}).to_string();
    let answer = api.ask("PUT", "/v1/config", &bad);
    assert_eq!((answer.status, answer.field("Content-Type")), (422, Some("application/problem+json")));
    assert_eq!(answer.json()["errors"][0]["pointer"], "/interfaces/0/mtu");
    let answer = api.ask("PUT", "/v1/config", "{\"interfaces\":[{\"name\":\"eth7\"}]}");
    assert_eq!(
        answer.json()["errors"][0]["message"],
        "is not a port of this machine; its ports are: eth0, eth1"
    );
    assert_eq!(api.ask("GET", "/v1/config", "").body, before.body);

    // A dry run: what would change.
    let good = two_ports().to_string();
    let answer = api.ask("PUT", "/v1/config?dry_run=true", &good).json();
    assert_eq!((&answer["dry_run"], &answer["generation"]), (&json!(true), &json!(1)));
    assert_eq!(
        answer["changes"][0],
        json!({"op": "change", "item": "hostname", "from": "fairlead", "to": "gw1"})
    );
    assert_eq!(api.ask("GET", "/v1/config", "").body, before.body);

    // Somebody else was faster.
    let fields = format!("Content-Type: application/json\r\nIf-Match: {etag}\r\n");
    assert_eq!(api.ask_with("PUT", "/v1/config", &fields, &good).status, 200);
    assert_eq!(api.ask_with("PUT", "/v1/config", &fields, &good).status, 412);
    assert_eq!(api.get("/v1/config")["hostname"], "gw1");
    assert_eq!(api.get("/v1/status")["config"]["generation"], 2);
}

#[test]
fn changes_come_back_unless_confirmed() {
    let mut api = Api::new();
    let (one, two) = (two_ports().to_string(), json!({"hostname": "gw2"}).to_string());
    assert_eq!(api.ask("PUT", "/v1/config", &one).status, 200);
    assert_eq!(api.ask("PUT", "/v1/config?confirm_seconds=60", &two).json()["confirm_seconds"], 60);
    assert_eq!(api.get("/v1/status")["config"]["confirm_seconds_left"], 60);
    assert_eq!(api.ask("PUT", "/v1/config", &one).status, 409);
    assert_eq!(api.ask("POST", "/v1/store", "").status, 409);
    api.node.now_ns = 59 * SECOND_NS;
    assert_eq!(api.node.tick(), 60 * SECOND_NS);
    assert_eq!(api.get("/v1/config")["hostname"], "gw2");
    api.node.now_ns = 60 * SECOND_NS;
    let _ = api.node.tick();
    assert_eq!(api.get("/v1/config")["hostname"], "gw1");
    assert_eq!(api.get("/v1/status")["config"]["generation"], 4);

    assert_eq!(api.ask("PUT", "/v1/config?confirm_seconds=60", &two).status, 200);
    assert_eq!(api.ask("POST", "/v1/config/confirm", "").status, 200);
    assert_eq!(api.ask("POST", "/v1/config/confirm", "").status, 409);
    api.node.now_ns = 1000 * SECOND_NS;
    let _ = api.node.tick();
    assert_eq!(api.get("/v1/config")["hostname"], "gw2");

    assert_eq!(api.ask("PUT", "/v1/config?confirm_seconds=60", &one).status, 200);
    assert_eq!(api.ask("POST", "/v1/config/rollback", "").status, 200);
    assert_eq!(api.get("/v1/config")["hostname"], "gw2");
}

#[test]
fn tokens_are_kept_changed_and_never_shown() {
    let machine = Machine::with_store();
    let module = json!({"api": {"token": TOKEN}}).to_string();
    let boot = Boot { module: Some(module.as_bytes().into()), ..Boot::default() };
    let mut api =
        Api { machine: machine.clone(), node: machine.start(boot), description: openapi::describe("1") };
    assert!(!api.ask("GET", "/v1/config", "").body.contains(TOKEN));
    let answer = api.ask("PUT", "/v1/config", "{\"hostname\":\"a\"}");
    assert_eq!(answer.json()["changes"].as_array().unwrap().len(), 1);
    assert_eq!(api.ask("GET", "/v1/config", "").status, 200);
    let other = "ffffffffffffffffffffffffffffffff";
    let change = json!({"api": {"token": other}}).to_string();
    let answer = api.ask("PUT", "/v1/config?confirm_seconds=5", &change);
    assert!(!answer.body.contains(other));
    assert_eq!(api.ask("GET", "/v1/config", "").status, 401);
    api.node.now_ns = 5 * SECOND_NS;
    let _ = api.node.tick();
    assert_eq!(api.ask("GET", "/v1/config", "").status, 200);
}

#[test]
fn what_is_saved_survives_a_restart() {
    let machine = Machine::with_store();
    let mut api = Api::start(&machine);
    assert_eq!(api.get("/v1/store")["slots"][0]["state"], "empty");
    assert_eq!(api.ask("PUT", "/v1/config", &two_ports().to_string()).status, 200);
    assert_eq!(api.get("/v1/status")["config"]["saved"], false);
    assert_eq!(api.ask("POST", "/v1/store", "").json()["saved"], true);
    assert_eq!(api.get("/v1/status")["config"]["saved"], true);
    let mut api = Api::start(&machine);
    assert_eq!(api.get("/v1/config")["hostname"], "gw1");
    assert_eq!(api.get("/v1/status")["config"], json!({"generation": 2, "source": "store", "saved": true}));

    let mut api = Api::start(&Machine::default());
    assert_eq!(api.get("/v1/store")["available"], false);
    assert_eq!(api.ask("POST", "/v1/store", "").status, 409);
}

#[test]
fn a_made_token_is_saved_with_the_configuration() {
    let machine = Machine::with_store();
    let mut node = machine.start(Boot::default());
    assert!(node.save_config().unwrap().config.is_ok());
    let again = machine.start(Boot::default());
    let token = again.running.config().api.token.clone().unwrap();
    assert_eq!(token.len(), 64);
    let mut auth = again.auth;
    assert_eq!(auth.check([10, 0, 0, 1].into(), Some(&format!("Bearer {token}")), 0), Ok(()));
}

#[test]
fn a_token_of_the_command_line_is_held_to_the_rule_of_tokens() {
    for (given, is_taken) in
        [("a", false), ("0123456789abcde", false), ("0123456789 abcdef", false), (TOKEN, true)]
    {
        let boot = Boot { token: Some(given.into()), ..Boot::default() };
        let mut auth = Machine::default().start(boot).auth;
        let entered = auth.check([10, 0, 0, 1].into(), Some(&format!("Bearer {given}")), 0);
        assert_eq!(entered.is_ok(), is_taken, "{given}");
    }
}

#[test]
fn requests_that_are_wrong_are_told_why() {
    let mut api = Api::new();
    let json = "Content-Type: application/json\r\n";
    let lines = "Content-Type: application/x-ndjson\r\n";
    for (method, target, fields, body, status) in [
        ("GET", "/v1/nothing", "", "", 404),
        ("GET", "/", "", "", 404),
        ("DELETE", "/v1/config", "", "", 405),
        ("GET", "/v1/reboot", "", "", 405),
        ("GET", "/v1/status?x=1", "", "", 400),
        ("GET", "/v1/routes?limit=0", "", "", 400),
        ("GET", "/v1/routes?limit=1&limit=2", "", "", 400),
        ("GET", "/v1/routes?limit=+1", "", "", 400),
        ("GET", "/v1/routes?after=x", "", "", 400),
        ("GET", "/v1/routes?family=ipx", "", "", 400),
        ("GET", "/v1/routes/lookup", "", "", 400),
        ("GET", "/v1/routes/lookup?address=10.0.0", "", "", 400),
        ("PUT", "/v1/config?confirm_seconds=4", json, "{}", 400),
        ("PUT", "/v1/config", "", "{}", 415),
        ("PUT", "/v1/config", lines, "{}", 415),
        ("PUT", "/v1/config", json, "", 411),
        ("PUT", "/v1/config", json, "{", 422),
        ("POST", "/v1/routes", json, "{}", 415),
        ("POST", "/v1/reboot", json, "{}", 413),
    ] {
        let answer = api.ask_with(method, target, fields, body);
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.body);
        assert_eq!(answer.field("Content-Type"), Some("application/problem+json"));
    }
    assert_eq!(api.ask("DELETE", "/v1/config", "").field("Allow"), Some("GET, HEAD, PUT"));
    let large = format!(
        "PUT /v1/config HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\n{json}Content-Length: 99999999\r\n\r\n"
    );
    assert_eq!(api.send(large.as_bytes()).status, 413);
    assert_eq!(api.node.platform.log_next(), 0);
}

#[test]
fn requests_do_not_take_the_last_memory() {
    let machine = Machine::default();
    let mut api = Api::start(&machine);
    let config = two_ports().to_string();
    assert_eq!(api.ask("PUT", "/v1/config", &config).status, 200);
    let lines = "Content-Type: application/x-ndjson\r\n";
    let add = "{\"op\":\"add\",\"prefix\":\"198.51.100.0/24\",\"blackhole\":true}\n";
    let remove = "{\"op\":\"remove\",\"prefix\":\"198.51.100.0/24\"}\n";
    assert_eq!(api.ask_with("POST", "/v1/routes", lines, add).status, 200);

    machine.inside().taken_bytes = 57 << 20;
    let answer = api.ask_with("POST", "/v1/routes", lines, &format!("{add}{remove}"));
    assert_eq!(answer.status, 422);
    let expected = json!([{"line": 1, "pointer": "", "message": "no memory for the route"}]);
    assert_eq!((&answer.json()["removed"], &answer.json()["errors"]), (&json!(1), &expected));
    // A small document is read still, a larger one is not.
    assert_eq!(api.ask("PUT", "/v1/config", &config).status, 200);
    let padded = format!("{config}{}", " ".repeat(64 << 10));
    assert_eq!(api.ask("PUT", "/v1/config", &padded).status, 507);
    machine.inside().taken_bytes = 0;
    assert_eq!(api.ask("PUT", "/v1/config", &padded).status, 200);
}

#[test]
fn answers_do_not_take_the_last_memory() {
    let machine = Machine::default();
    let mut api = Api::start(&machine);
    let routes: Vec<Value> = (0..2000)
        .map(|n| json!({"prefix": format!("198.18.{}.{}/32", n / 256, n % 256), "blackhole": true}))
        .collect();
    let mut config = two_ports();
    config["routes"] = routes.into();
    let vlans = (1..=400).map(|n| json!({"name": format!("eth0.{n}"), "parent": "eth0", "vlan": n}));
    config["interfaces"].as_array_mut().unwrap().extend(vlans);
    assert_eq!(api.ask("PUT", "/v1/config", &config.to_string()).status, 200);
    let large = ["/v1/config", "/v1/interfaces", "/v1/counters", "/metrics", "/openapi.json"];
    let little =
        ["/v1/health", "/v1/status", "/v1/store", "/v1/neighbours", "/v1/trace", "/v1/drops", "/v1/log"];
    for (taken_bytes, status) in [(0, 200), (58 << 20, 507), (0, 200)] {
        machine.inside().taken_bytes = taken_bytes;
        for path in large {
            let answer = api.ask("GET", path, "");
            assert_eq!(answer.status, status, "{path}");
            // What was asked for suffices for the text while it grows.
            let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.path == path).unwrap();
            assert!((endpoint.room)(&api.node) >= 2 * answer.body.len() as u64, "{path}");
        }
        for path in little {
            assert_eq!(api.ask("GET", path, "").status, 200, "{path}");
        }
    }
}

#[test]
fn routes_change_in_bulk() {
    let mut api = Api::new();
    assert_eq!(api.ask("PUT", "/v1/config", &two_ports().to_string()).status, 200);
    let lines = "Content-Type: application/x-ndjson\r\n";
    let good = "{\"op\":\"add\",\"prefix\":\"198.51.100.0/24\",\"via\":[{\"address\":\"10.0.0.2\"}]}\n\
                {\"op\":\"add\",\"prefix\":\"203.0.113.0/24\",\"blackhole\":true}\n\
                {\"op\":\"remove\",\"prefix\":\"203.0.113.0/24\"}";
    let answer = api.ask_with("POST", "/v1/routes", lines, good);
    assert_eq!(answer.json(), json!({"added": 2, "removed": 1, "failed": 0, "errors": []}));
    let long = format!("{{\"op\":\"add\",\"prefix\":\"{}\"}}", "1".repeat(40_000));
    let bad = [
        "{\"op\":\"add\",\"prefix\":\"192.0.2.0/24\",\"blackhole\":true}",
        "nonsense",
        "",
        "{\"prefix\":\"192.0.2.0/24\"}",
        "{\"op\":\"move\",\"prefix\":\"192.0.2.0/24\"}",
        "{\"op\":\"add\",\"prefix\":\"192.0.2.1/24\",\"blackhole\":true}",
        "{\"op\":\"add\",\"prefix\":\"192.0.2.0/24\",\"via\":[{\"address\":\"::1\"}]}",
        "{\"op\":\"add\",\"prefix\":\"192.0.2.0/24\",\"via\":[{\"adress\":\"10.0.0.2\"}]}",
        "{\"op\":\"remove\",\"prefix\":\"8.8.8.0/24\"}",
        &long,
        "{\"op\":\"remove\",\"prefix\":\"192.0.2.0/24\"}",
    ]
    .join("\n");
    let answer = api.ask_with("POST", "/v1/routes", lines, &bad);
    assert_eq!(answer.status, 422);
    let answer = answer.json();
    assert_eq!((&answer["added"], &answer["removed"], &answer["failed"]), (&json!(1), &json!(1), &json!(9)));
    let told: Vec<(u64, &str)> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["line"].as_u64().unwrap(), error["pointer"].as_str().unwrap()))
        .collect();
    let pointers = ["", "", "/op", "/op", "/prefix", "/via/0/address", "/via/0/adress", "/prefix", ""];
    assert_eq!(told, (2..).zip(pointers).collect::<Vec<_>>());
}

#[test]
fn the_log_is_paged_and_followed() {
    let machine = Machine::default();
    machine.inside().log = (0..300).map(|n| format!("line {n}")).collect();
    let mut api = Api::start(&machine);
    let page = api.get("/v1/log?since=10&limit=2");
    let lines = json!([{"sequence": 10, "text": "line 10"}, {"sequence": 11, "text": "line 11"}]);
    assert_eq!((&page["lines"], &page["next"]), (&lines, &json!(12)));
    assert_eq!(page["uptime_seconds"], api.get("/v1/status")["uptime_seconds"]);
    let page = api.get("/v1/log?since=300");
    assert_eq!((&page["lines"], &page["next"]), (&json!([]), &json!(300)));
    let all = api.ask_with("GET", "/v1/log", "Accept: application/x-ndjson\r\n", "");
    assert_eq!(all.body.lines().count(), 300);
    let followed = api.ask("GET", "/v1/log?follow=true&since=298", "");
    assert_eq!(followed.body.lines().count(), 2);
}

#[test]
fn metrics_are_as_prometheus_wants() {
    let mut api = Api::new();
    api.prepare_ipsec("/v1/ipsec/associations", Method::Get);
    let text = api.ask("GET", "/metrics", "").body;
    let (mut family, mut series) = (String::new(), std::collections::BTreeSet::new());
    let mut families = std::collections::BTreeSet::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap().into();
            assert!(families.insert(family.clone()), "{family} comes twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(matches!(kind, "counter" | "gauge"));
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(name.split('{').next().unwrap(), family);
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(name.to_owned()), "{name} comes twice");
        }
    }
    assert!(series.contains("fairlead_interface_up{interface=\"eth0\"}"), "{text}");
    assert!(series.contains("fairlead_drops_total{reason=\"ip4-no-route\"}"), "{text}");
    assert!(text.contains("fairlead_ipsec_tunnel_up{tunnel=\"ipsec0\"} 0\n"), "{text}");
    let labels = "{tunnel=\"ipsec0\",association=\"a\",direction=\"in\",spi=\"0x00001001\"}";
    assert!(series.contains(&format!("fairlead_ipsec_association_packets_total{labels}")), "{text}");
}

#[test]
fn reboot_lets_the_answer_out_first() {
    let machine = Machine::default();
    let mut api = Api::start(&machine);
    assert_eq!(api.ask("POST", "/v1/reboot", "").status, 202);
    let _ = api.node.tick();
    assert_eq!(machine.inside().reboots, 0);
    api.node.now_ns += SECOND_NS;
    let _ = api.node.tick();
    let _ = api.node.tick();
    assert_eq!(machine.inside().reboots, 1);
}
