//! `logs`: the node's log, and its lines as they come.

use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::client::Node;
use crate::cli::{Format, LogsArgs};
use crate::failure::{Failure, Result};
use crate::output::{Colour, emit, paint};

/// Lines asked for at a time.
const PAGE: usize = 1000;
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
struct Page {
    /// As the API says them, for other programs.
    lines: Vec<Value>,
    /// The sequence number to go on from.
    next: u64,
    uptime_seconds: f64,
}

/// How far the log was read.
#[derive(Default)]
struct Place {
    next: u64,
    uptime_seconds: f64,
}

/// Shows the log.
pub fn logs(node: &Node, format: Format, args: &LogsArgs) -> Result<()> {
    let wanted = |line: &Value| args.containing.as_deref().is_none_or(|part| text(line).contains(part));
    let mut place = Place::default();
    let mut lines = read(node, &mut place)?;
    lines.retain(wanted);
    if let Some(tail) = args.tail {
        drop(lines.drain(..lines.len().saturating_sub(tail)));
    }
    let mut answers = true;
    loop {
        emit(&show(format, &lines)?)?;
        if !args.follow {
            return Ok(());
        }
        thread::sleep(PAUSE);
        lines = match read(node, &mut place) {
            Ok(lines) => {
                answers = true;
                lines.into_iter().filter(wanted).collect()
            }
            // A node that restarts, or whose cable is pulled, comes back.
            Err(Failure::Unreachable(_)) => {
                if answers {
                    eprintln!("{} does not answer; waiting for it", node.name());
                }
                answers = false;
                Vec::new()
            }
            Err(failure) => return Err(failure),
        };
    }
}

fn show(format: Format, lines: &[Value]) -> Result<String> {
    Ok(match format {
        Format::Table => lines.iter().map(|line| colour(text(line))).collect(),
        // A value a line, so that another program can read them as they come.
        Format::Json => lines.iter().map(|line| format!("{line}\n")).collect(),
        // JSON is YAML, and one list however often lines are added to it.
        Format::Yaml => lines.iter().map(|line| format!("- {line}\n")).collect(),
    })
}

fn text(line: &Value) -> &str {
    line["text"].as_str().unwrap_or_default()
}

/// All lines from a place on, which is moved behind them.
fn read(node: &Node, place: &mut Place) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    loop {
        let answer = node.get(&format!("/v1/log?since={}&limit={PAGE}", place.next))?;
        let page: Page = serde_json::from_value(answer).map_err(|error| {
            Failure::operation(format!("{} sent a log that cannot be read: {error}", node.name()))
        })?;
        let restarted = page.uptime_seconds < place.uptime_seconds;
        place.uptime_seconds = page.uptime_seconds;
        if restarted {
            // It counts from the start again; this page may leave lines out.
            place.next = 0;
            continue;
        }
        place.next = page.next;
        let more = page.lines.len() == PAGE;
        lines.extend(page.lines);
        if !more {
            return Ok(lines);
        }
    }
}

/// Lines read `[  0.012345] info  target: message`.
fn colour(line: &str) -> String {
    let level = line.split_once(']').and_then(|(_, rest)| rest.split_whitespace().next());
    let line = match level {
        Some("error") => paint(Colour::Red, line),
        Some("warn") => paint(Colour::Yellow, line),
        Some("debug" | "trace") => paint(Colour::Dim, line),
        _ => line.to_owned(),
    };
    line + "\n"
}
