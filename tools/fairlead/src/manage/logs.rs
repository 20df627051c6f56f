//! `logs`: the node's log, and its lines as they come.

use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::client::Node;
use crate::cli::LogsArgs;
use crate::failure::{Failure, Result};
use crate::output::{Colour, emit, paint};

/// Lines asked for at a time.
const PAGE: usize = 1000;
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
struct Page {
    lines: Vec<Line>,
    /// The sequence number to go on from.
    next: u64,
    uptime_seconds: f64,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// How far the log was read.
#[derive(Default)]
struct Place {
    next: u64,
    uptime_seconds: f64,
}

/// Shows the log.
pub fn logs(node: &Node, args: &LogsArgs) -> Result<()> {
    let mut place = Place::default();
    let mut lines = read(node, &mut place)?;
    if let Some(tail) = args.tail {
        drop(lines.drain(..lines.len().saturating_sub(tail)));
    }
    let mut answers = true;
    loop {
        emit(&lines.iter().map(|line| colour(&line.text)).collect::<String>())?;
        if !args.follow {
            return Ok(());
        }
        thread::sleep(PAUSE);
        lines = match read(node, &mut place) {
            Ok(lines) => {
                answers = true;
                lines
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

/// All lines from a place on, which is moved behind them.
fn read(node: &Node, place: &mut Place) -> Result<Vec<Line>> {
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
