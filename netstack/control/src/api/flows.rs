//! The flow log, in pages and as a stream.

use super::{NDJSON, Reply, dispatch::Request, json, push_line};
use crate::flow_log::{Filter, Record};
use crate::http::{Pull, Source};
use crate::node::Node;
use alloc::{rc::Rc, string::String, sync::Arc, vec::Vec};
use serde::Serialize;
use serde_json::{Value, json};

/// Records that one piece of a stream is chosen from.
const RECORDS_PER_PIECE: usize = 64;

#[derive(Serialize)]
struct Page {
    flows: Vec<Value>,
    /// What to give as `since` to go on.
    next: u64,
    /// Records from `since` on that are not there any more.
    lost: u64,
    /// Goes back when the node is restarted, and its records are counted from the start again.
    uptime_seconds: f64,
}

/// `GET /v1/flows`.
pub(super) fn get(node: &mut Node, request: &Request) -> Reply {
    let filter = filter(request);
    let since = request.query.integer("since");
    node.flow_log.touch(node.now_ns);
    let follow = request.query.flag("follow");
    if follow || request.wants_lines {
        // Who follows without saying from where wants to see what happens from now on.
        let next = since.unwrap_or(if follow { node.flow_log.next() } else { 0 });
        let watch = node.flow_log.watch();
        return Reply::stream(NDJSON, Follow { next, follow, filter, _watch: watch });
    }
    let since = since.unwrap_or(0);
    let limit = request.query.integer("limit").unwrap_or(1000) as usize;
    let mut taken: Vec<&Arc<Record>> =
        node.flow_log.since(since).filter(|r| filter.takes(r)).take(limit + 1).collect();
    let is_whole = taken.len() <= limit;
    taken.truncate(limit);
    let next = match taken.last() {
        Some(last) if !is_whole => last.sequence + 1,
        _ => node.flow_log.next(),
    };
    let flows = taken.iter().map(|record| serde_json::to_value(record.line()).unwrap_or_default()).collect();
    let lost = node.flow_log.lost_since(since);
    json(200, &Page { flows, next, lost, uptime_seconds: node.uptime_seconds() })
}

fn filter(request: &Request) -> Filter {
    let query = &request.query;
    let text = |name: &str| query.text(name).map(String::from);
    Filter {
        denied: query.text("verdict").map(|verdict| verdict == "deny"),
        namespace: text("namespace"),
        endpoint: text("endpoint"),
        network: query.network("address"),
        protocol: query.text("protocol").and_then(Filter::protocol),
        port: query.integer("port").and_then(|port| u16::try_from(port).ok()),
        policy: text("policy"),
    }
}

/// Records from `next` on, also those to come.
struct Follow {
    next: u64,
    follow: bool,
    filter: Filter,
    _watch: Rc<()>,
}

impl Source<Node> for Follow {
    fn pull(&mut self, node: &mut Node, out: &mut Vec<u8>) -> Pull {
        let lost = node.flow_log.lost_since(self.next);
        if lost > 0 && self.next > 0 {
            push_line(out, &json!({"lost": lost}));
        }
        self.next += lost;
        let mut seen = 0;
        for record in node.flow_log.since(self.next).take(RECORDS_PER_PIECE) {
            if self.filter.takes(record) {
                push_line(out, &record.line());
            }
            (self.next, seen) = (record.sequence + 1, seen + 1);
        }
        match seen {
            RECORDS_PER_PIECE => Pull::More,
            _ if self.follow => Pull::Wait,
            _ => Pull::End,
        }
    }
}
