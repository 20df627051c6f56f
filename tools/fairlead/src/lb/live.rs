//! `fairlead lb services` and `fairlead lb explain`: what a node balances.

use std::fmt::Write;
use std::net::SocketAddr;

use serde_json::Value;

use crate::cli::Format;
use crate::failure::Result;
use crate::manage::client::Node;
use crate::output;

/// Shows the services that a node balances.
pub fn services(node: &Node, format: Format, filter: Option<&str>) -> Result<()> {
    let mut answer = node.get("/v1/services")?;
    if let (Some(text), Some(services)) = (filter, answer["services"].as_array_mut()) {
        services.retain(|service| service.to_string().contains(text));
    }
    output::show(format, &answer, |answer| {
        let services = answer["services"].as_array().map(Vec::as_slice).unwrap_or_default();
        match services {
            [] => "the node balances no service\n".into(),
            services => services.iter().map(text).collect(),
        }
    })
}

fn text(service: &Value) -> String {
    let word = |field: &str| output::cell(&service[field]);
    let (namespace, name, port) = (word("namespace"), word("service"), word("port"));
    let (protocol, family, scope) = (word("protocol"), word("family"), word("scope"));
    let mut text = format!("{namespace}/{name} port {port} {protocol} {family} {scope}\n");
    for frontend in service["frontends"].as_array().into_iter().flatten() {
        let address = frontend["address"].as_str().unwrap_or("every address of the node");
        let _ = writeln!(
            text,
            "  at {address} port {} ({})",
            frontend["port"],
            output::cell(&frontend["exposure"])
        );
    }
    let backends = service["backends"].as_array().map(Vec::as_slice).unwrap_or_default();
    if backends.is_empty() {
        text.push_str("  nobody serves\n");
    } else {
        let fields = ["state", "weight", "slots", "flows", "packets", "bytes", "resets"];
        let row = |backend: &Value| {
            let share = backend["share"].as_f64().unwrap_or_default() * 100.0;
            let address = format!("  {}", output::cell(&backend["address"]));
            let rest = fields.iter().map(|field| output::cell(&backend[*field]));
            [address, format!("{share:.3} %")].into_iter().chain(rest).collect()
        };
        let headings = [&["  backend", "share"], &fields[..]].concat();
        let numbers = ["share", "weight", "slots", "flows", "packets", "bytes", "resets"];
        text.push_str(&output::table(&headings, &numbers, backends.iter().map(row).collect()));
    }
    text.push('\n');
    text
}

/// Says which backend a flow gets.
pub fn explain(
    node: &Node,
    format: Format,
    protocol: &str,
    client: SocketAddr,
    service: SocketAddr,
) -> Result<()> {
    let answer = node.get(&format!(
        "/v1/services/explain?protocol={protocol}&source={}&source_port={}&destination={}&port={}",
        client.ip(),
        client.port(),
        service.ip(),
        service.port()
    ))?;
    output::show(format, &answer, |answer| {
        let why = output::cell(&answer["why"]);
        let Some(name) = answer["service"].as_str() else { return format!("not balanced: {why}\n") };
        let backend = answer["backend"].as_str().unwrap_or("nobody");
        let slot = answer["slot"].as_u64().map(|slot| format!(", slot {slot}")).unwrap_or_default();
        let namespace = output::cell(&answer["namespace"]);
        format!("{namespace}/{name} port {}: {backend}{slot}\n  {why}\n", answer["port"])
    })
}
