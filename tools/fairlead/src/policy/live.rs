//! What a node's policy says, asked of the node.

use serde_json::Value;

use super::{ExplainArgs, MatrixArgs};
use crate::cli::Format;
use crate::failure::{Failure, Message, Result};
use crate::manage::client::Node;
use crate::manage::view::percent_encode;
use crate::output::{self, Colour, paint};

/// Shows endpoints and what selects them.
pub fn endpoints(node: &Node, format: Format, name: Option<&str>) -> Result<()> {
    let query = name.map(|name| format!("?name={}", percent_encode(name))).unwrap_or_default();
    let answer = node.get(&format!("/v1/policy/endpoints{query}"))?;
    output::show(format, &answer, |answer| {
        let endpoints = answer["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        output::table(&["endpoint", "addresses", "policies"], &[], endpoints.iter().map(row).collect())
    })
}

fn row(endpoint: &Value) -> Vec<String> {
    let list = |field: &str| endpoint[field].as_array().cloned().unwrap_or_default();
    let policy = |policy: &Value| match policy["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{}", output::cell(&policy["name"])),
        None => output::cell(&policy["name"]),
    };
    let join = |items: Vec<String>| items.join(", ");
    vec![
        output::cell(&endpoint["name"]),
        join(list("addresses").iter().map(output::cell).collect()),
        join(list("policies").iter().map(policy).collect()),
    ]
}

/// Shows policies and what their rules have decided.
pub fn rules(node: &Node, format: Format, name: Option<&str>) -> Result<()> {
    let query = name.map(|name| format!("?name={}", percent_encode(name))).unwrap_or_default();
    let answer = node.get(&format!("/v1/policy/rules{query}"))?;
    output::show(format, &answer, |answer| {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut rows = Vec::new();
        for policy in list(&answer["policies"]) {
            let name = match policy["namespace"].as_str() {
                Some(namespace) => format!("{namespace}/{}", output::cell(&policy["name"])),
                None => output::cell(&policy["name"]),
            };
            let staged = if policy["staged"] == true { " (staged)" } else { "" };
            for rule in list(&policy["rules"]) {
                let number =
                    if rule["rule"].is_null() { "end".to_owned() } else { output::cell(&rule["rule"]) };
                let mut row = vec![
                    format!("{name}{staged}"),
                    output::cell(&policy["tier"]),
                    output::cell(&rule["direction"]),
                    number,
                ];
                row.extend(["action", "hits", "staged_hits", "logs"].map(|field| output::cell(&rule[field])));
                rows.push(row);
            }
        }
        let headings = ["policy", "tier", "direction", "rule", "action", "hits", "staged", "logs"];
        output::table(&headings, &["rule", "hits", "staged", "logs"], rows)
    })
}

/// Port and protocol of the command line, as a query.
fn query(port: &str) -> Result<String> {
    let (port, protocol) = match port.split_once('/') {
        Some((port, protocol)) => (port, protocol),
        None if port.parse::<u16>().is_ok() => (port, "tcp"),
        None => ("", port),
    };
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "icmp" | "icmpv6" => "icmp",
        "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        other => {
            let message = Message::new(format!("a node is not asked about protocol {other}"));
            return Err(Failure::Operation(message.hint("give tcp, udp, sctp or icmp, or files with -f")));
        }
    };
    let port = if port.is_empty() { String::new() } else { format!("&port={port}") };
    Ok(format!("protocol={protocol}{port}"))
}

/// Says what happens to a flow, and why.
pub fn explain(node: &Node, format: Format, args: &ExplainArgs) -> Result<()> {
    let (from, to) = (percent_encode(&args.from), percent_encode(&args.to));
    let answer = node.get(&format!("/v1/policy/explain?from={from}&to={to}&{}", query(&args.port)?))?;
    output::show(format, &answer, |answer| {
        let word = |field: &str| output::cell(&answer[field]);
        let verdict = word("verdict");
        let colour = if verdict == "allow" { Colour::Green } else { Colour::Red };
        let verdict = paint(colour, &format!("{verdict:<5}"));
        let line = |end: &str, side: &str| {
            format!("  {end:<8}  {:<5}  {}\n", word(side), word(&format!("{side}_rule")))
        };
        format!(
            "{verdict}  {} -> {} {}  ({})\n{}{}",
            args.from,
            args.to,
            args.port,
            word("rule"),
            line("sender", "egress"),
            line("receiver", "ingress")
        )
    })
}

/// Shows who reaches whom. Rows send, columns receive.
pub fn matrix(node: &Node, format: Format, args: &MatrixArgs) -> Result<()> {
    let answer = node.get(&format!("/v1/policy/matrix?{}", query(&args.port)?))?;
    output::show(format, &answer["matrix"], |matrix| {
        let Some(rows) = matrix.as_object() else { return String::new() };
        let names: Vec<&str> = rows.keys().map(String::as_str).collect();
        let mark = |cell: &Value| match cell.as_str() {
            Some("allow") => ".".to_owned(),
            Some(_) => "X".to_owned(),
            None => "-".to_owned(),
        };
        let row = |(from, row): (&String, &Value)| {
            [from.clone()].into_iter().chain(names.iter().map(|to| mark(&row[*to]))).collect()
        };
        let headings: Vec<&str> = ["from"].into_iter().chain(names.iter().copied()).collect();
        output::table(&headings, &[], rows.iter().map(row).collect())
    })
}
