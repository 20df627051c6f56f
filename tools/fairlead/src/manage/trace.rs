//! `trace`: the way of the next packets through the graph.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::Node;
use super::view::percent_encode;
use crate::cli::{Format, TraceArgs};
use crate::failure::{Failure, Message, Result};
use crate::output::{self, Colour, paint};

const PAUSE: Duration = Duration::from_millis(200);

/// Arms the trace, waits for the packets, shows them.
pub fn trace(node: &Node, format: Format, args: &TraceArgs) -> Result<()> {
    let _ = node.post(&format!("/v1/trace?{}", query(args)))?;
    let start = Instant::now();
    let wanted = args.count as usize;
    let mut answer;
    loop {
        thread::sleep(PAUSE);
        answer = node.get("/v1/trace")?;
        let recorded = packets(&answer).len();
        if recorded >= wanted || start.elapsed().as_secs_f64() > args.timeout {
            break;
        }
    }
    if packets(&answer).is_empty() {
        let message = format!("no packet came within {} s", args.timeout);
        return Err(Failure::Operation(
            Message::new(message).hint("give --timeout a longer time, and see `fairlead top` for traffic"),
        ));
    }
    output::show(format, &answer, table)
}

/// What to trace, as the API takes it.
fn query(args: &TraceArgs) -> String {
    let mut query = format!("packets={}", args.count);
    let mut add = |name, value: Option<&str>| {
        if let Some(value) = value {
            query += &format!("&{name}={}", percent_encode(value));
        }
    };
    add("interface", args.interface.as_deref());
    let (address, length) = match args.prefix.as_deref().map(|prefix| prefix.split_once('/')) {
        Some(Some((address, length))) => (Some(address), Some(length)),
        _ => (args.prefix.as_deref(), None),
    };
    add("address", address);
    add("prefix_len", length);
    add("protocol", args.protocol.map(|number| number.to_string()).as_deref());
    add("port", args.port.map(|number| number.to_string()).as_deref());
    match args.dropped.as_deref() {
        Some("") => add("dropped", Some("true")),
        reason => add("reason", reason),
    }
    query
}

fn packets(answer: &Value) -> &[Value] {
    answer["packets"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn table(answer: &Value) -> String {
    let mut text = String::new();
    for (index, packet) in packets(answer).iter().enumerate() {
        let title = format!("packet {} on worker {}", index + 1, output::cell(&packet["worker"]));
        text += &format!("{}\n", paint(Colour::Bold, &title));
        for step in packet["steps"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let words = step["text"].as_str().unwrap_or_default();
            // The line begins with worker and number, which the title says.
            let words = words
                .split_once(" #")
                .and_then(|(_, rest)| rest.split_once(' '))
                .map_or(words, |(_, rest)| rest);
            let words =
                if step["drop_reason"].is_string() { paint(Colour::Red, words) } else { words.to_owned() };
            text += &format!("  {words}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: crate::cli::TraceArgs,
    }

    #[test]
    fn filters_become_a_query() {
        let query = |line: &[&str]| {
            let line = [&["trace"], line].concat();
            super::query(&<Line as clap::Parser>::try_parse_from(line).unwrap().args)
        };
        assert_eq!(query(&[]), "packets=5");
        assert_eq!(
            query(&["-N", "9", "-i", "eth1.100", "-p", "10.0.0.0/8", "--protocol", "tcp", "--port", "80"]),
            "packets=9&interface=eth1.100&address=10.0.0.0&prefix_len=8&protocol=6&port=80"
        );
        assert_eq!(
            query(&["--dropped", "-p", "2001:db8::1"]),
            "packets=5&address=2001%3Adb8%3A%3A1&dropped=true"
        );
        assert_eq!(query(&["--dropped", "ip4-no-route"]), "packets=5&reason=ip4-no-route");
    }

    #[test]
    fn each_packet_has_its_steps() {
        let answer = json!({"packets": [{"worker": 0, "packet": 3, "steps": [
            {"node": "ip4-input", "next": "ip4-lookup", "text": "w0 #3 ip4-input -> ip4-lookup, 84 bytes"},
            {"node": "ip4-lookup", "next": "drop", "drop_reason": "ip4-no-route", "text": "w0 #3 ip4-lookup -> drop (ip4-no-route)"},
        ]}]});
        let expected = "packet 1 on worker 0\n  ip4-input -> ip4-lookup, 84 bytes\n  ip4-lookup -> drop (ip4-no-route)\n";
        assert_eq!(super::table(&answer), expected);
    }
}
