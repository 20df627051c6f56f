//! `fairlead policy test` on files as users write them.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

const CLUSTER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: web}}
---
apiVersion: v1
kind: Pod
metadata: {name: api-0, namespace: shop, labels: {app: api}}
spec:
  nodeName: n1
  containers:
  - name: api
    image: example/api
    ports: [{name: http, containerPort: 8080}]
status: {phase: Running, podIPs: [{ip: 10.1.0.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: front-0, namespace: shop, labels: {app: front}}
spec: {containers: [{name: front}]}
status: {podIPs: [{ip: 10.1.0.3}]}
---
# Comments and empty documents are nothing.
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: whatever}
"#;

const POLICIES: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "api", "namespace": "shop"},
 "spec": {"podSelector": {"matchLabels": {"app": "api"}},
  "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "front"}}}], "ports": [{"port": "http"}]}]}},
{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "no-world"},
 "spec": {"order": 10, "selector": "app == 'front'", "types": ["Egress"],
  "egress": [{"action": "Deny", "destination": {"nets": ["203.0.113.0/24"]}}, {"action": "Allow"}]}}]}"#;

const FLOWS: &str = r#"{"from": "shop/front-0", "to": "shop/api-0", "protocol": "TCP", "port": 8080, "expect": "allow"}
{"from": "shop/front-0", "to": "shop/api-0", "protocol": "TCP", "port": 8081}
{"from": "shop/front-0", "to": "203.0.113.9", "port": 443}

{"from": "198.51.100.1", "to": "fd00::2", "protocol": "icmpv6"}
"#;

fn scratch(name: &str) -> PathBuf {
    let path =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("policy-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn fairlead(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead"));
    let Output { status, stdout, stderr } = command.args(arguments).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn flows_are_answered_line_by_line() {
    let dir = scratch("flows");
    std::fs::create_dir_all(dir.join("deep")).unwrap();
    std::fs::write(dir.join("deep/cluster.yaml"), CLUSTER).unwrap();
    std::fs::write(dir.join("policies.json"), POLICIES).unwrap();
    std::fs::write(dir.join("flows.jsonl"), FLOWS.lines().take(3).collect::<Vec<_>>().join("\n")).unwrap();
    let (dir, flows) = (dir.to_str().unwrap(), dir.join("flows.jsonl"));
    let (code, out, err) =
        fairlead(&["policy", "test", "-f", dir, "--flows", flows.to_str().unwrap(), "--json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let answers: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |field: &str| -> Vec<&str> { answers.iter().map(|a| a[field].as_str().unwrap()).collect() };
    assert_eq!(said("verdict"), ["allow", "deny", "deny"]);
    assert_eq!(said("egress"), ["allow", "allow", "deny"]);
    assert_eq!(said("ingress"), ["allow", "deny", "allow"]);
    let rules = said("rule");
    assert_eq!(rules[0], "receiver: KubernetesNetworkPolicy shop/api, ingress rule 1, tier default");
    assert!(rules[1].contains("end of tier default; KubernetesNetworkPolicy shop/api"), "{}", rules[1]);
    assert_eq!(rules[2], "sender: GlobalNetworkPolicy no-world, egress rule 1, tier default");
}

#[test]
fn a_flow_that_cannot_be_has_its_line() {
    let dir = scratch("lines");
    std::fs::write(dir.join("cluster.yaml"), CLUSTER).unwrap();
    std::fs::write(dir.join("flows.jsonl"), FLOWS).unwrap();
    let flows = dir.join("flows.jsonl");
    let (code, out, err) =
        fairlead(&["policy", "test", "-f", dir.to_str().unwrap(), "--flows", flows.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("flows.jsonl:5: ") && err.contains("same IP version"), "{err}");
}

#[test]
fn what_is_not_expected_fails() {
    let dir = scratch("expect");
    std::fs::write(dir.join("cluster.yaml"), CLUSTER).unwrap();
    let line = r#"{"from": "shop/front-0", "to": "shop/api-0", "port": 1, "expect": "deny"}"#;
    std::fs::write(dir.join("flows.jsonl"), line).unwrap();
    let flows = dir.join("flows.jsonl");
    let (code, out, err) =
        fairlead(&["policy", "test", "-f", dir.to_str().unwrap(), "--flows", flows.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(out.contains(r#""verdict":"allow""#), "{out}");
    assert!(err.contains("flows.jsonl:1: allow by receiver: profile kns.shop"), "{err}");
}

#[test]
fn wrong_fields_are_shown_with_file_line_and_field() {
    let cases = [
        ("spec: {podSelecter: {}}", "4:8: /spec/podSelecter: unknown field"),
        (
            "spec:\n  podSelector: {}\n  ingress:\n  - ports:\n    - port: 70000",
            "8:7: /spec/ingress/0/ports/0/port: a port",
        ),
        (
            "spec:\n  podSelector:\n    matchExpressions:\n    - {key: a, operator: Is}",
            "7:16: /spec/podSelector/matchExpressions/0/operator",
        ),
        (
            "spec:\n  ingress:\n  - from:\n    - ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/24]}",
            "7:44: /spec/ingress/0/from/0/ipBlock/except/0: not within cidr",
        ),
    ];
    let dir = scratch("wrong");
    for (index, (spec, place)) in cases.into_iter().enumerate() {
        let path = dir.join(format!("{index}.yaml"));
        let head =
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n";
        std::fs::write(&path, format!("{head}{spec}\n")).unwrap();
        let (code, out, err) = fairlead(&["policy", "test", "-f", path.to_str().unwrap()]);
        assert_eq!((code, out.as_str()), (3, ""), "{err}");
        assert!(err.contains(&format!("{index}.yaml:{place}")), "{place} is not in {err}");
    }
}

#[test]
fn a_flow_is_explained_from_both_ends() {
    let dir = scratch("explain");
    std::fs::write(dir.join("cluster.yaml"), CLUSTER).unwrap();
    std::fs::write(dir.join("policies.json"), POLICIES).unwrap();
    let files = dir.to_str().unwrap();
    let ask = |port: &str| {
        fairlead(&[
            "policy",
            "explain",
            "-f",
            files,
            "--from",
            "shop/front-0",
            "--to",
            "shop/api-0",
            "--port",
            port,
        ])
    };
    let (code, out, err) = ask("8080/tcp");
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("allow  shop/front-0 -> shop/api-0 tcp/8080"), "{out}");
    assert_eq!(lines[1], "  sender    allow  GlobalNetworkPolicy no-world, egress rule 2, tier default");
    assert_eq!(lines[2], "  receiver  allow  KubernetesNetworkPolicy shop/api, ingress rule 1, tier default");
    assert!(ask("icmp").1.starts_with("deny "));
    let (code, _, err) = ask("http/tcp");
    assert_eq!(code, 1);
    assert!(err.contains("port is missing"), "{err}");
}

#[test]
fn a_matrix_says_who_reaches_whom() {
    let dir = scratch("matrix");
    std::fs::write(dir.join("cluster.yaml"), CLUSTER).unwrap();
    std::fs::write(dir.join("policies.json"), POLICIES).unwrap();
    let ask = |more: &[&str]| fairlead(&[&["policy", "matrix", "-f", dir.to_str().unwrap()], more].concat());
    let (code, out, err) = ask(&["--port", "22/tcp"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let cells: Vec<Vec<&str>> = out.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells, [["shop/api-0", ".", "."], ["shop/front-0", "X", "."]]);
    let json: Value = serde_json::from_str(&ask(&["--port", "8080/tcp", "-o", "json"]).1).unwrap();
    assert_eq!(json["shop/front-0"]["shop/api-0"], "allow");
    assert!(ask(&["--port", "x/y"]).2.contains("protocol"));
}
