//! `routes`: dynamic routes, one by one or a million from a file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Node;
use crate::cli::{Format, RouteArgs, RoutesCommand};
use crate::failure::{Failure, Message, Result};
use crate::output::{self, Colour, paint};

/// Lines go to the node in requests of about this size, so that neither side holds a whole file.
const REQUEST_BYTES: usize = 1 << 20;
/// A line that is longer is no route.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Faults shown; with more of them, something is wrong with the whole file.
const MAX_FAULTS: usize = 20;

/// Carries out `fairlead routes`.
pub fn carry_out(node: &Node, format: Format, command: &RoutesCommand) -> Result<()> {
    match command {
        RoutesCommand::Add(args) => change(node, format, &add(args)),
        RoutesCommand::Del { prefix } => change(node, format, &json!({"op": "remove", "prefix": prefix})),
        RoutesCommand::Load { file } => load(node, format, file),
    }
}

fn add(args: &RouteArgs) -> Value {
    if args.blackhole {
        return json!({"op": "add", "prefix": args.prefix, "blackhole": true});
    }
    let via = args.via.iter().map(|hop| match hop.split_once('%') {
        Some((address, interface)) => json!({"address": address, "interface": interface}),
        None => json!({"address": hop}),
    });
    json!({"op": "add", "prefix": args.prefix, "via": via.collect::<Vec<_>>()})
}

fn change(node: &Node, format: Format, line: &Value) -> Result<()> {
    let mut total = Totals::default();
    send(node, format!("{line}\n").as_bytes(), 0, &mut total)?;
    if let Some(fault) = total.faults.first() {
        return Err(Failure::Invalid(Message::new(format!(
            "{} refuses the route: {}",
            node.name(),
            fault.words()
        ))));
    }
    let prefix = line["prefix"].as_str().unwrap_or_default();
    match (total.added, total.removed) {
        (0, 0) => Err(Failure::operation(format!("{} has no dynamic route {prefix}", node.name()))),
        (0, _) => output::show(format, &total.counts(), |_| format!("removed {prefix}\n")),
        _ => output::show(format, &total.counts(), |_| format!("added {prefix}\n")),
    }
}

fn load(node: &Node, format: Format, path: &Path) -> Result<()> {
    let name = path.display().to_string();
    let reader: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(
            File::open(path).map_err(|error| Failure::operation(format!("cannot read {name}: {error}")))?,
        )
    };
    let start = Instant::now();
    let total = send_all(node, BufReader::new(reader), &name)?;
    let seconds = start.elapsed().as_secs_f64();
    let lines = total.added + total.removed + total.failed;
    output::show(format, &total.counts(), |_| {
        let Totals { added, removed, failed, .. } = total;
        let rate = lines as f64 / seconds.max(1e-3);
        format!("{added} added, {removed} removed, {failed} failed in {seconds:.1} s ({rate:.0}/s)\n")
    })?;
    if total.failed == 0 {
        return Ok(());
    }
    let mut details: Vec<String> = total.faults.iter().map(|fault| fault.at(&name)).collect();
    if total.failed > total.faults.len() as u64 {
        details.push(format!("... and {} more", total.failed - total.faults.len() as u64));
    }
    Err(Failure::Invalid(
        Message::new(format!("{} lines of {name} were refused", total.failed)).details(details),
    ))
}

fn send_all(node: &Node, mut reader: impl BufRead, name: &str) -> Result<Totals> {
    let mut total = Totals::default();
    let mut body = Vec::with_capacity(REQUEST_BYTES + 1024);
    let (mut first_line, mut line) = (0, 0);
    loop {
        let read = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut body);
        let read = read.map_err(|error| Failure::operation(format!("cannot read {name}: {error}")))?;
        if read as u64 == MAX_LINE_BYTES && body.last() != Some(&b'\n') {
            return Err(Failure::Invalid(Message::new(format!(
                "{name}:{}: the line is too long to be a route",
                line + 1
            ))));
        }
        line += u64::from(read > 0);
        if (read == 0 || body.len() >= REQUEST_BYTES) && !body.is_empty() {
            send(node, &body, first_line, &mut total)?;
            body.clear();
            first_line = line;
        }
        if read == 0 {
            return Ok(total);
        }
    }
}

/// Sends whole lines, of which the first has `lines_before` before it in its file, and adds up what came of them.
fn send(node: &Node, body: &[u8], lines_before: u64, total: &mut Totals) -> Result<()> {
    let counts = match node.ask("POST", "/v1/routes", Some(("application/x-ndjson", body)))? {
        Ok(answer) => serde_json::from_value(answer).unwrap_or_default(),
        Err(refusal) => match serde_json::from_value::<Counts>(refusal.document.clone()) {
            // A refusal with counts is about some lines; one without is about the request.
            Ok(counts) if counts.failed > 0 => counts,
            _ => return Err(refusal.failure(node, "the routes")),
        },
    };
    total.added += counts.added;
    total.removed += counts.removed;
    total.failed += counts.failed;
    let room = MAX_FAULTS.saturating_sub(total.faults.len());
    total.faults.extend(
        counts.errors.into_iter().take(room).map(|fault| Fault { line: fault.line + lines_before, ..fault }),
    );
    Ok(())
}

#[derive(Debug, Default)]
struct Totals {
    added: u64,
    removed: u64,
    failed: u64,
    faults: Vec<Fault>,
}

impl Totals {
    /// What the node said, of all requests together.
    fn counts(&self) -> Value {
        let errors = self.faults.iter().map(
            |Fault { line, pointer, message }| json!({"line": line, "pointer": pointer, "message": message}),
        );
        let errors: Vec<Value> = errors.collect();
        json!({"added": self.added, "removed": self.removed, "failed": self.failed, "errors": errors})
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Counts {
    added: u64,
    removed: u64,
    failed: u64,
    errors: Vec<Fault>,
}

#[derive(Debug, Default, Deserialize)]
struct Fault {
    /// From 1.
    #[serde(default)]
    line: u64,
    #[serde(default)]
    pointer: String,
    message: String,
}

impl Fault {
    fn words(&self) -> String {
        if self.pointer.is_empty() {
            self.message.clone()
        } else {
            format!("{}: {}", self.pointer, self.message)
        }
    }

    fn at(&self, file: &str) -> String {
        format!("{}: {}", paint(Colour::Cyan, &format!("{file}:{}", self.line)), self.words())
    }
}
