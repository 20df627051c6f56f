//! `ipsec`: tunnels, associations, events, and whether traffic to a network leaves encrypted.

use serde_json::Value;

use super::client::Node;
use super::view;
use crate::cli::{Format, IpsecCommand};
use crate::failure::{Failure, Result};
use crate::output::{self, cell, table};

/// Carries out one of its commands.
pub fn carry_out(node: &Node, format: Format, command: &IpsecCommand) -> Result<()> {
    match command {
        IpsecCommand::Tunnels => output::show(format, &node.get("/v1/ipsec/tunnels")?, tunnels),
        IpsecCommand::Associations => {
            output::show(format, &node.get("/v1/ipsec/associations")?, associations)
        }
        IpsecCommand::Events => output::show(format, &node.get("/v1/ipsec/events")?, view::describe),
        IpsecCommand::Verify { prefix } => verify(node, format, prefix),
    }
}

fn tunnels(answer: &Value) -> String {
    let headings =
        ["NAME", "LOCAL", "REMOTE", "MTU", "ENCRYPTS BY", "SENT", "RECEIVED", "ERRORS", "LAST ERROR"];
    let fields =
        ["name", "local", "remote", "mtu", "outbound", "tx_packets", "rx_packets", "errors", "last_error"];
    rows(&answer["tunnels"], &headings, &["MTU", "SENT", "RECEIVED", "ERRORS"], &fields)
}

fn associations(answer: &Value) -> String {
    let headings =
        ["NAME", "TUNNEL", "DIRECTION", "SPI", "ALGORITHM", "STATE", "PACKETS", "BYTES", "LAST ERROR"];
    let fields =
        ["name", "tunnel", "direction", "spi", "algorithm", "state", "packets", "bytes", "last_error"];
    rows(&answer["associations"], &headings, &["PACKETS", "BYTES"], &fields)
}

fn rows(items: &Value, headings: &[&str], right: &[&str], fields: &[&str]) -> String {
    let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |item: &Value, field: &str| match (&item[field], field) {
        (Value::Null, _) => "-".into(),
        (Value::Number(spi), "spi") => format!("{:#x}", spi.as_u64().unwrap_or_default()),
        (value, _) => cell(value),
    };
    table(
        headings,
        right,
        items.iter().map(|item| fields.iter().map(|field| text(item, field)).collect()).collect(),
    )
}

/// Fails unless every packet that leaves is encrypted, so that a script can rely on it.
fn verify(node: &Node, format: Format, prefix: &str) -> Result<()> {
    let path = format!("/v1/ipsec/verify?prefix={}", view::percent_encode(prefix));
    let answer = node.get(&path)?;
    output::show(format, &answer, findings)?;
    if answer["encrypted"] == true {
        return Ok(());
    }
    let why = if answer["never_clear"] == true {
        "nothing leaves: it is dropped, not encrypted"
    } else {
        "it may leave in the clear"
    };
    Err(Failure::operation(format!("traffic to {prefix} is not sure to be encrypted: {why}")))
}

fn findings(answer: &Value) -> String {
    let headings = ["DESTINATION", "VERDICT", "BY", "TUNNEL", "ASSOCIATION", "SPI", "INTERFACE", "REASON"];
    let fields = ["prefix", "verdict", "by", "tunnel", "association", "spi", "interface", "reason"];
    rows(&answer["findings"], &headings, &[], &fields)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_encrypts_is_named_with_its_spi() {
        let answer = json!({"findings": [
            {"prefix": "10.9.0.0/16", "by": "static route 10.9.0.0/16", "verdict": "encrypted", "tunnel": "ipsec0", "association": "out", "spi": 4097},
        ]});
        let text = findings(&answer);
        assert!(text.contains("encrypted") && text.contains("0x1001"), "{text}");
    }
}
