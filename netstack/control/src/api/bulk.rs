//! `POST /v1/routes`: dynamic routes added and removed in bulk, one a line, in bounded memory.

use super::{Reply, dispatch::Request, json, problem::PROBLEM_JSON};
use crate::http::Sink;
use crate::node::Node;
use alloc::{borrow::Cow, boxed::Box, format, string::ToString, vec::Vec};
use config::{IpNet, NextHop, Problem, Route};
use router::RouteError;
use serde::{Deserialize, Serialize};

/// Longest line.
const MAX_LINE_BYTES: usize = 4096;
/// Lines whose faults are told.
const MAX_ERRORS: usize = 64;
/// Lines between two looks at how much memory is free.
const LINES_PER_CHECK: u64 = 256;
/// Memory that so many lines may take: at worst a few table nodes of up to 2 KiB each, and the tables grow by chunks.
const BYTES_PER_CHECK: u64 = 2 << 20;

/// A line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    prefix: IpNet,
    #[serde(default)]
    via: Vec<NextHop>,
    #[serde(default)]
    blackhole: bool,
}

#[derive(Serialize)]
struct BulkError {
    line: u64,
    #[serde(flatten)]
    problem: Problem,
}

/// What came of the lines.
#[derive(Serialize, Default)]
struct Outcome {
    /// Lines that added or replaced a route.
    added: u64,
    /// Lines that removed one.
    removed: u64,
    failed: u64,
    errors: Vec<BulkError>,
}

#[derive(Serialize)]
struct Failed<'a> {
    title: &'a str,
    status: u16,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// Lines as they come in.
#[derive(Default)]
struct Lines {
    /// What has come in and was not handled: whole lines that wait for the router, and the beginning of one.
    input: Vec<u8>,
    /// Of the next line to be handled.
    number: u64,
    /// The beginning of the present line was thrown away, because it is too long.
    is_too_long: bool,
    /// Memory is short: no more routes are added.
    is_memory_short: bool,
    outcome: Outcome,
}

/// What came of one line.
enum Done {
    Added,
    Removed,
    Failed(Problem),
    /// To be tried again when the workers have caught up.
    Later,
}

/// Begins to read lines.
pub(super) fn open(_: &mut Node, _: &Request) -> Result<Box<dyn Sink<Node>>, Reply> {
    Ok(Box::new(Lines::default()))
}

impl Sink<Node> for Lines {
    fn ready(&mut self, node: &mut Node) -> bool {
        // The end may come next, with a last line that cannot wait.
        self.handle_lines(node) && !node.router.is_busy()
    }

    fn push(&mut self, node: &mut Node, data: &[u8]) -> Result<(), Reply> {
        self.input.extend_from_slice(data);
        let _ = self.handle_lines(node);
        Ok(())
    }

    fn end(mut self: Box<Self>, node: &mut Node) -> Reply {
        // The last line may have no line end.
        let last = core::mem::take(&mut self.input);
        match self.handle_line(node, &last) {
            Done::Later => self.count(Done::Failed(whole(&RouteError::Busy.to_string()))),
            done if !last.trim_ascii().is_empty() => self.count(done),
            _ => {}
        }
        let Outcome { added, removed, failed, .. } = self.outcome;
        log::info!(target: "api", "routes: {added} added, {removed} removed, {failed} failed");
        if failed == 0 {
            return json(200, &self.outcome);
        }
        let body = Failed { title: "some lines were not taken", status: 422, outcome: &self.outcome };
        Reply::new(422, PROBLEM_JSON, serde_json::to_vec(&body).unwrap_or_default())
    }
}

impl Lines {
    /// Handles the whole lines of the input. False: the router wants a pause first.
    fn handle_lines(&mut self, node: &mut Node) -> bool {
        let input = core::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        while let Some(length) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = rest.split_at(length);
            match self.handle_line(node, line) {
                Done::Later => {
                    self.input = rest.to_vec();
                    return false;
                }
                done => self.count(done),
            }
            rest = after.get(1..).unwrap_or_default();
        }
        self.is_too_long |= rest.len() > MAX_LINE_BYTES;
        self.input = if self.is_too_long { Vec::new() } else { rest.to_vec() };
        true
    }

    fn handle_line(&mut self, node: &mut Node, line: &[u8]) -> Done {
        if self.is_too_long || line.len() > MAX_LINE_BYTES {
            return Done::Failed(whole(&format!("is longer than {MAX_LINE_BYTES} bytes")));
        }
        if self.number.is_multiple_of(LINES_PER_CHECK) {
            self.is_memory_short = !node.can_spare(BYTES_PER_CHECK);
        }
        match serde_json::from_slice::<Change<'_>>(line) {
            Ok(change) if change.op == "add" && self.is_memory_short => {
                Done::Failed(whole(&RouteError::Memory.to_string()))
            }
            Ok(change) => apply(node, change),
            Err(error) => Done::Failed(explain(line, &error)),
        }
    }

    fn count(&mut self, done: Done) {
        self.number += 1;
        self.is_too_long = false;
        match done {
            Done::Added => self.outcome.added += 1,
            Done::Removed => self.outcome.removed += 1,
            Done::Failed(problem) => {
                self.outcome.failed += 1;
                if self.outcome.errors.len() < MAX_ERRORS {
                    self.outcome.errors.push(BulkError { line: self.number, problem });
                }
            }
            Done::Later => {}
        }
    }
}

fn apply(node: &mut Node, change: Change<'_>) -> Done {
    let Change { op, prefix, via, blackhole } = change;
    let result = match &*op {
        "add" => {
            let route = Route { prefix, via, blackhole };
            if let Some(problem) = config::validate_route(&route).into_iter().next() {
                return Done::Failed(problem);
            }
            node.router.set_route(&route).map(|()| Done::Added)
        }
        "remove" => match node.router.remove_route(prefix) {
            Ok(true) => Ok(Done::Removed),
            Ok(false) => return Done::Failed(at("/prefix", "there is no dynamic route for this prefix")),
            Err(error) => Err(error),
        },
        _ => return Done::Failed(at("/op", "must be one of add, remove")),
    };
    match result {
        Ok(done) => done,
        Err(RouteError::Busy) => Done::Later,
        Err(error @ RouteError::NoInterface(_)) => Done::Failed(at("/via", &error.to_string())),
        Err(error) => Done::Failed(whole(&error.to_string())),
    }
}

/// Why a line is no change: the first fault that the schema of routes finds, or what the JSON reader says.
fn explain(line: &[u8], error: &serde_json::Error) -> Problem {
    let Ok(serde_json::Value::Object(mut members)) = serde_json::from_slice(line) else {
        return whole(&format!("is not a JSON object: {error}"));
    };
    if members.remove("op").is_none_or(|op| !op.is_string()) {
        return at("/op", "must be one of add, remove");
    }
    let route = serde_json::to_vec(&members).unwrap_or_default();
    let faults = config::parse_route(&route).err().unwrap_or_default();
    faults.into_iter().next().unwrap_or_else(|| whole(&error.to_string()))
}

fn at(pointer: &str, message: &str) -> Problem {
    Problem { pointer: pointer.into(), message: message.into() }
}

fn whole(message: &str) -> Problem {
    at("", message)
}
