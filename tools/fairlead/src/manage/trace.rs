//! `trace`: the way of the next packets through the graph.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::Node;
use crate::cli::{Format, TraceArgs};
use crate::failure::{Failure, Message, Result};
use crate::output::{self, Colour, paint};

const PAUSE: Duration = Duration::from_millis(200);

/// Arms the trace, waits for the packets, shows them.
pub fn trace(node: &Node, format: Format, args: &TraceArgs) -> Result<()> {
    let _ = node.post(&format!("/v1/trace?packets={}", args.count))?;
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
