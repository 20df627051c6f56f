//! `flows`: what the node tells of flows, and more as it happens.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::client::Node;
use super::view::percent_encode;
use crate::cli::{FlowsArgs, Format};
use crate::failure::{Failure, Result};
use crate::output::{self, Colour, emit, paint};

const PAUSE: Duration = Duration::from_millis(300);
/// Bytes in a binary kibibyte.
const KIB: f64 = 1024.0;

/// Shows flows.
pub fn flows(node: &Node, format: Format, args: &FlowsArgs) -> Result<()> {
    let filters = query(args);
    let mut since = 0;
    let mut uptime = 0.0;
    let mut answers = true;
    loop {
        match node.get(&format!("/v1/flows?since={since}{filters}")) {
            Ok(page) if page["uptime_seconds"].as_f64().unwrap_or_default() < uptime => {
                // The node was restarted, and counts from the start again.
                (since, uptime) = (0, 0.0);
                continue;
            }
            Ok(page) => {
                answers = true;
                show(format, &page, since)?;
                since = page["next"].as_u64().unwrap_or(since);
                uptime = page["uptime_seconds"].as_f64().unwrap_or_default();
            }
            // A node that restarts, or whose cable is pulled, comes back.
            Err(Failure::Unreachable(_)) if args.follow => {
                if core::mem::take(&mut answers) {
                    eprintln!("{} does not answer; waiting for it", node.name());
                }
            }
            Err(failure) => return Err(failure),
        }
        if !args.follow {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}

fn show(format: Format, page: &Value, since: u64) -> Result<()> {
    let lost = page["lost"].as_u64().unwrap_or_default();
    if lost > 0 && since > 0 {
        eprintln!("{lost} records came too fast and are lost");
    }
    let flows = page["flows"].as_array().map(Vec::as_slice).unwrap_or_default();
    emit(&match format {
        Format::Table => flows.iter().map(line).collect::<String>(),
        // A value a line, so that another program can read them as they come.
        Format::Json => flows.iter().map(|flow| format!("{flow}\n")).collect(),
        Format::Yaml => flows.iter().map(output::yaml).collect::<Result<String>>()?,
    })
}

fn query(args: &FlowsArgs) -> String {
    let port = args.port.map(|port| port.to_string());
    let all = [
        ("verdict", args.verdict.as_deref()),
        ("namespace", args.namespace.as_deref()),
        ("endpoint", args.endpoint.as_deref()),
        ("address", args.address.as_deref()),
        ("protocol", args.protocol.as_deref()),
        ("port", port.as_deref()),
        ("policy", args.policy.as_deref()),
    ];
    let given = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| format!("&{name}={}", percent_encode(value))).collect()
}

/// A flow as a line: time, event, ends, what it carried, why.
fn line(flow: &Value) -> String {
    let event = flow["event"].as_str().unwrap_or_default();
    let colour = match event {
        "deny" => Colour::Red,
        "start" | "log" => Colour::Green,
        _ => Colour::Dim,
    };
    let end = |side: &str, name: &str| {
        let address = output::cell(&flow[side]);
        let port = flow[format!("{side}_port")].as_u64();
        let at = match port {
            Some(port) if address.contains(':') => format!("[{address}]:{port}"),
            Some(port) => format!("{address}:{port}"),
            None => address,
        };
        flow[name].as_str().map_or(at.clone(), |name| format!("{name} {at}"))
    };
    let protocol = match flow["protocol"].as_u64() {
        Some(1) => "icmp".to_owned(),
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(58) => "icmpv6".to_owned(),
        Some(132) => "sctp".to_owned(),
        number => format!("protocol {}", number.unwrap_or_default()),
    };
    let mut text = format!(
        "{}  {}  {protocol}  {} -> {}",
        time(flow["end_ms"].as_u64().unwrap_or_default()),
        paint(colour, &format!("{event:<5}")),
        end("source", "from"),
        end("destination", "to"),
    );
    if let Some(translated) = flow["translated"].as_object() {
        let port = translated.get("destination_port").map(|port| format!(":{port}")).unwrap_or_default();
        let to = translated.get("destination").map(output::cell).unwrap_or_default();
        text += &format!(" (by way of {to}{port})");
    }
    let carried = |packets: &str, bytes: &str| {
        let bytes = flow[bytes].as_f64().unwrap_or_default();
        let size = if bytes < KIB { format!("{bytes} B") } else { format!("{:.1} KiB", bytes / KIB) };
        format!("{} packets {size}", output::cell(&flow[packets]))
    };
    if event == "end" {
        text += &format!(
            ", {} there, {} back, {}",
            carried("packets", "bytes"),
            carried("answer_packets", "answer_bytes"),
            output::cell(&flow["end"]),
        );
    } else if flow["packets"].as_u64().is_some_and(|packets| packets > 1) {
        text += &format!(", {} packets", output::cell(&flow["packets"]));
    }
    if let Some(reason) = flow["reason"].as_str() {
        text += &format!("  ({reason})");
    }
    if flow["staged_denies"] == true {
        text += "  [staged policies would deny it]";
    }
    text + "\n"
}

/// Time of day in UTC; or since the node's start, if it does not know the time.
fn time(ms: u64) -> String {
    let seconds = ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_flow_is_a_line() {
        let deny = json!({
            "event": "deny", "end_ms": 86_400_000u64 * 3 + 3_723_004, "protocol": 6, "source": "10.0.0.1",
            "source_port": 4000, "destination": "2001:db8::1", "destination_port": 80, "from": "shop/front", "packets": 3,
            "reason": "no rule matches at the end of tier default", "staged_denies": false,
        });
        assert_eq!(
            super::line(&deny),
            "01:02:03.004  deny   tcp  shop/front 10.0.0.1:4000 -> [2001:db8::1]:80, 3 packets  (no rule matches at the end of tier default)\n"
        );
        let end = json!({
            "event": "end", "end_ms": 0, "protocol": 1, "source": "10.0.0.1", "destination": "10.96.0.1", "end": "idle",
            "translated": {"destination": "10.1.0.1"}, "packets": 2, "bytes": 100, "answer_packets": 2, "answer_bytes": 2048,
        });
        assert_eq!(
            super::line(&end),
            "00:00:00.000  end    icmp  10.0.0.1 -> 10.96.0.1 (by way of 10.1.0.1), 2 packets 100 B there, 2 packets 2.0 KiB back, idle\n"
        );
    }
}
