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
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// Shows the log.
pub fn logs(node: &Node, args: &LogsArgs) -> Result<()> {
    let mut next = 0;
    let mut lines = read(node, &mut next)?;
    if let Some(tail) = args.tail {
        drop(lines.drain(..lines.len().saturating_sub(tail)));
    }
    loop {
        emit(&lines.iter().map(|line| colour(&line.text)).collect::<String>())?;
        if !args.follow {
            return Ok(());
        }
        thread::sleep(PAUSE);
        lines = read(node, &mut next)?;
    }
}

/// All lines from `next` on, which is moved behind them.
fn read(node: &Node, next: &mut u64) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    loop {
        let answer = node.get(&format!("/v1/log?since={next}&limit={PAGE}"))?;
        let page: Page = serde_json::from_value(answer).map_err(|error| {
            Failure::operation(format!("{} sent a log that cannot be read: {error}", node.name()))
        })?;
        // A node that was restarted counts from the start again.
        *next = page.next;
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
