//! A network policy: one client reaches a server, another does not, and the node says why.
//!
//! Both clients are the left host, by an address each. Without network namespaces the act says that it
//! is not shown.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use lab::Api;
use lab::farm::{apply, wait_until};
use lab::gateway::{Hosts, LEFT, RIGHT};
use serde_json::{Value, json};

use super::Check;
use super::acts::{LIMIT, NEEDS_NAMESPACES, check, not_shown};
use super::stage::{Ends, Stage};

/// The second address of the left host.
const STRANGER: &str = "10.1.0.3";
const PORT: &str = "8080";

/// One request. Arguments: source, address, port.
const REQUEST: &str = r#"
import socket, sys
try:
    s = socket.create_connection((sys.argv[2], int(sys.argv[3])), 2, (sys.argv[1], 0))
    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
    print("answered" if s.recv(100) else "closed")
except OSError:
    print("silent")
"#;

/// Plays it.
pub fn policing(stage: &Stage) -> Result<Vec<Check>> {
    let Ends::Hosts(hosts) = stage.ends() else {
        return Ok(vec![not_shown("a policy that lets one client in and not another", NEEDS_NAMESPACES)]);
    };
    let (api, server) = (stage.api(), RIGHT.host4.to_string());
    let devices = hosts.left.ip(&["-o", "addr", "show", "to", &LEFT.host4.to_string()])?;
    let device = devices.split_ascii_whitespace().nth(1).context("the left host has no address")?;
    let _ = hosts.left.ip(&["addr", "replace", &format!("{STRANGER}/24"), "dev", device])?;
    let mut web = hosts.right.command("python3");
    let web = web.args(["-m", "http.server", PORT, "--bind", &server]);
    let mut web = web.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let played = play(hosts, api, &server);
    let _ = web.kill();
    let _ = web.wait()?;
    apply(api, &json!({"apiVersion": "v1", "kind": "List", "items": []}))?;
    played
}

fn play(hosts: &Hosts, api: &Api, server: &str) -> Result<Vec<Check>> {
    let says = |source: &str| -> Result<String> {
        let words = ["python3", "-c", REQUEST, source, server, PORT];
        Ok(hosts.left.run(&words, LIMIT)?.succeeded()?.trim().to_owned())
    };
    let client = LEFT.host4.to_string();
    wait_until("the server answers", LIMIT, || Ok(says(STRANGER)? == "answered"))?;
    // From the first question on flows are followed.
    let _ = api.json("/v1/flows")?;
    apply(api, &objects(server))?;
    let judged = |source: &str, expected: &str, verdict: &str| -> Result<String> {
        let said = says(source)?;
        ensure!(said == expected, "{source} finds the server {said}");
        let mut reason = None;
        wait_until("the node tells of the flow", LIMIT, || {
            let flows = api.json(&format!("/v1/flows?verdict={verdict}&address={source}&port={PORT}"))?;
            let first = flows["flows"]
                .as_array()
                .and_then(|flows| flows.iter().find(|flow| flow["reason"].is_string()));
            reason = first.map(|flow| format!("{}: {}", flow["from"], flow["reason"]).replace('"', ""));
            Ok(reason.is_some())
        })?;
        Ok(format!("{said}, {}", reason.unwrap_or_default()))
    };
    Ok(vec![
        check("a client that a policy allows", judged(&client, "answered", "allow")),
        check("a client that no policy allows", judged(STRANGER, "silent", "deny")),
    ])
}

/// Two clients, a server, and a policy that lets one of the clients in.
fn objects(server: &str) -> Value {
    let pod = |name: &str, address: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
            "status": { "podIP": address, "podIPs": [{ "ip": address }] },
        })
    };
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        pod("front", &LEFT.host4.to_string()),
        pod("stranger", STRANGER),
        pod("api", server),
        {
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "only-front", "namespace": "shop" },
            "spec": {
                "podSelector": { "matchLabels": { "app": "api" } },
                "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "front" } } }] }],
            },
        },
    ]})
}
