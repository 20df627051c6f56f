//! The log, in pages and as a stream.

use super::{NDJSON, Reply, dispatch::Request, json, push_line};
use crate::http::{Pull, Source};
use crate::node::Node;
use alloc::{string::String, vec::Vec};
use serde::Serialize;

/// Lines of one piece of a stream.
const LINES_PER_PIECE: usize = 64;

#[derive(Serialize)]
struct Line {
    sequence: u64,
    text: String,
}

#[derive(Serialize)]
struct Page {
    lines: Vec<Line>,
    /// What to give as `since` to go on.
    next: u64,
    /// Goes back when the node is restarted, and its lines are counted from the start again.
    uptime_seconds: f64,
}

/// `GET /v1/log`.
pub(super) fn get(node: &mut Node, request: &Request) -> Reply {
    let since = request.query.integer("since").unwrap_or(0);
    if request.query.flag("follow") || request.wants_lines {
        let follow = request.query.flag("follow");
        return Reply::stream(NDJSON, Follow { next: since, follow });
    }
    let limit = request.query.integer("limit").unwrap_or(1000) as usize;
    let lines = lines(node, since, limit);
    let next = lines.last().map_or_else(|| since.max(node.platform.log_next()), |line| line.sequence + 1);
    json(200, &Page { lines, next, uptime_seconds: node.uptime_seconds() })
}

fn lines(node: &Node, since: u64, limit: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    node.platform.log_since(since, &mut |sequence, text| {
        lines.push(Line { sequence, text: text.into() });
        lines.len() < limit
    });
    lines
}

/// Lines from `next` on, also those to come.
struct Follow {
    next: u64,
    follow: bool,
}

impl Source<Node> for Follow {
    fn pull(&mut self, node: &mut Node, out: &mut Vec<u8>) -> Pull {
        let lines = lines(node, self.next, LINES_PER_PIECE);
        for line in &lines {
            push_line(out, line);
            self.next = line.sequence + 1;
        }
        match lines.len() {
            LINES_PER_PIECE => Pull::More,
            _ if self.follow => Pull::Wait,
            _ => Pull::End,
        }
    }
}
