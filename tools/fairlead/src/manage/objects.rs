//! Kubernetes and Calico objects: read out of files, applied, deleted, shown.

use std::collections::BTreeMap;
use std::path::PathBuf;

use resources::{Identity, Kind, Object, ReadError};
use serde_json::{Value, json};

use super::client::{Node, Refusal};
use super::source::{Document, files};
use super::view;
use crate::cli::{DeleteArgs, Format};
use crate::failure::{Failure, Message, Result};
use crate::output::{self, Colour, paint};

/// Objects asked for at a time.
const PAGE: usize = 1000;
/// How long the node may wait with its answer to an edit until packets are treated by it.
const WAIT_SECONDS: u32 = 20;
/// Skipped kinds that are named at most.
const MAX_NAMED: usize = 5;

/// What some files have.
pub struct Input {
    documents: Vec<Document>,
    /// Place of the document that is a node's configuration.
    config: Option<usize>,
    items: Vec<Item>,
    /// Objects that say nothing about services and policies, by kind.
    skipped: BTreeMap<String, usize>,
}

/// An object of a document.
struct Item {
    document: usize,
    /// Pointer to it in the document.
    pointer: String,
    value: Value,
}

impl Input {
    /// Reads files, and those of directories whose names say YAML or JSON; checks all that can be checked here.
    pub fn read(paths: &[PathBuf]) -> Result<Input> {
        let mut input =
            Input { documents: Vec::new(), config: None, items: Vec::new(), skipped: BTreeMap::new() };
        for file in files(paths)? {
            input.documents.extend(Document::read_all(&file)?);
        }
        let mut wrong = Vec::new();
        for number in 0..input.documents.len() {
            input.take(number, &mut wrong);
        }
        if wrong.is_empty() {
            return Ok(input);
        }
        let what = match wrong.len() {
            1 => "a document is not valid".to_owned(),
            count => format!("{count} places are not valid"),
        };
        Err(Failure::Invalid(Message::new(what).details(wrong)))
    }

    fn take(&mut self, number: usize, wrong: &mut Vec<String>) {
        let Some(document) = self.documents.get(number) else { return };
        let value = document.value();
        if value.is_null() {
            return;
        }
        if value.get("apiVersion").is_none() && value.get("kind").is_none() {
            if self.config.replace(number).is_some() {
                wrong.push(document.point_at("", "is a second configuration of a node; there can be one"));
            }
            return;
        }
        for (pointer, value) in resources::flatten(value) {
            let mut point_at = |inner: &str, message: &str| {
                wrong.push(document.point_at(&format!("{pointer}{inner}"), message));
            };
            match Identity::of(&value) {
                Ok(Identity::Known(_)) => {
                    if let Err(ReadError(problems)) = Object::read(value.clone()) {
                        problems.iter().for_each(|problem| point_at(&problem.pointer, &problem.message));
                    }
                    self.items.push(Item { document: number, pointer, value });
                }
                Ok(Identity::Other(kind)) => *self.skipped.entry(kind).or_default() += 1,
                Err(problem) => point_at(&problem.pointer, &problem.message),
            }
        }
    }

    /// The document that is a node's configuration.
    pub fn config(&self) -> Option<&Document> {
        self.config.and_then(|number| self.documents.get(number))
    }

    /// True if there are objects.
    pub fn has_objects(&self) -> bool {
        !self.items.is_empty()
    }

    /// True if there is nothing for a node in it.
    pub fn is_empty(&self) -> bool {
        self.config.is_none() && self.items.is_empty()
    }

    /// A sentence about what was skipped; empty if nothing was.
    pub fn skipped(&self) -> String {
        let count: usize = self.skipped.values().sum();
        let kinds: Vec<&str> = self.skipped.keys().take(MAX_NAMED).map(String::as_str).collect();
        let more = if self.skipped.len() > MAX_NAMED { ", ..." } else { "" };
        match count {
            0 => String::new(),
            _ => format!(
                "skipped {count} that say nothing about services and policies: {}{more}\n",
                kinds.join(", ")
            ),
        }
    }

    /// Sends the objects to `path` of the node, and waits until they are in force.
    pub fn send(&self, node: &Node, (method, path): (&str, &str), dry_run: bool) -> Result<Value> {
        let how = if dry_run { "dry_run=true".into() } else { format!("wait_seconds={WAIT_SECONDS}") };
        let path = &format!("{path}?{how}");
        let lines: String = self.items.iter().map(|item| format!("{}\n", item.value)).collect();
        match node.ask(method, path, Some(("application/x-ndjson", lines.as_bytes())))? {
            Ok(answer) => Ok(answer),
            Err(refusal) => Err(self.refused(node, &refusal)),
        }
    }

    fn refused(&self, node: &Node, refusal: &Refusal) -> Failure {
        let errors = refusal.document["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        if errors.is_empty() {
            return refusal.failure(node, "the objects");
        }
        let text = |error: &Value, field: &str| error[field].as_str().unwrap_or_default().to_owned();
        let point_at = |error: &Value| {
            let (pointer, message) = (text(error, "pointer"), text(error, "message"));
            let index = error["index"].as_u64().and_then(|index| usize::try_from(index).ok());
            let item = index.and_then(|index| self.items.get(index));
            match item.and_then(|item| Some((item, self.documents.get(item.document)?))) {
                Some((item, document)) => document.point_at(&format!("{}{pointer}", item.pointer), &message),
                None => format!("{} of the node: {pointer}: {message}", text(error, "object")),
            }
        };
        let what = format!("{} refuses the objects, and nothing was changed", node.name());
        Failure::Invalid(Message::new(what).details(errors.iter().map(point_at).collect()))
    }
}

/// Removes the objects of some files.
pub fn delete(node: &Node, format: Format, args: &DeleteArgs) -> Result<()> {
    let input = Input::read(&args.file)?;
    if input.config().is_some() {
        return Err(Failure::operation("a node's configuration cannot be deleted: apply another one"));
    }
    if !input.has_objects() {
        return Err(Failure::operation(format!("there are no objects to delete; {}", input.skipped())));
    }
    let answer = input.send(node, ("POST", "/v1/resources/delete"), args.dry_run)?;
    output::show(format, &answer, |answer| {
        format!("{}{}{}", input.skipped(), changes(answer), outcome(node, answer))
    })
}

/// What an edit changes, an object a line, and its fields where they are told.
pub fn changes(answer: &Value) -> String {
    let mut text = String::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for change in list(&answer["changes"]) {
        let word = |field: &str| change[field].as_str().unwrap_or_default();
        let (mark, colour) = mark(word("op"));
        let namespace = word("namespace");
        let slash = if namespace.is_empty() { "" } else { "/" };
        let line = format!("{mark} {} {namespace}{slash}{}", word("kind"), word("name"));
        text.push_str(&paint(colour, &line));
        text.push('\n');
        for field in list(&change["fields"]) {
            let (mark, colour) = self::mark(field["op"].as_str().unwrap_or_default());
            let pointer = field["pointer"].as_str().unwrap_or_default();
            let line = match mark {
                '+' => format!("    + {pointer} {}", field["to"]),
                '-' => format!("    - {pointer} {}", field["from"]),
                _ => format!("    ~ {pointer} {} -> {}", field["from"], field["to"]),
            };
            text.push_str(&paint(colour, &line));
            text.push('\n');
        }
    }
    text
}

fn mark(op: &str) -> (char, Colour) {
    match op {
        "add" => ('+', Colour::Green),
        "remove" => ('-', Colour::Red),
        _ => ('~', Colour::Yellow),
    }
}

/// How an edit ended, in a line.
pub fn outcome(node: &Node, answer: &Value) -> String {
    let count = |field: &str| answer[field].as_u64().unwrap_or_default();
    let counts = format!(
        "{} added, {} changed, {} removed, {} unchanged",
        count("added"),
        count("changed"),
        count("removed"),
        count("unchanged")
    );
    match answer["dry_run"].as_bool() {
        Some(true) => format!("{} would take the objects: {counts}; nothing was changed\n", node.name()),
        _ => {
            let soon = if answer["in_force"] == false { ", which is not in force yet" } else { "" };
            format!("objects are at generation {}{soon}: {counts}\n", answer["generation"])
        }
    }
}

/// Shows the objects of the kinds that a word means.
pub fn list(node: &Node, format: Format, word: &str, filter: Option<&str>) -> Result<()> {
    let mut objects: Vec<Value> = Vec::new();
    let mut after = String::new();
    loop {
        let mut page = node.get(&format!("/v1/resources?kind={word}&limit={PAGE}{after}"))?;
        if let Some(Value::Array(found)) = page.get_mut("resources").map(Value::take) {
            objects.extend(found);
        }
        match page.get("next") {
            Some(Value::String(cursor)) => after = format!("&after={}", view::percent_encode(cursor)),
            _ => break,
        }
    }
    if let Some(text) = filter {
        objects.retain(|object| row(object).iter().any(|cell| cell.contains(text)));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    output::show(format, &list, |_| {
        output::table(&["namespace", "name", "kind", "api version"], &[], objects.iter().map(row).collect())
    })
}

fn row(object: &Value) -> Vec<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = Kind::find(text("/apiVersion"), text("/kind"));
    let namespace = match text("/metadata/namespace") {
        "" if kind.is_some_and(Kind::is_namespaced) => "default",
        namespace => namespace,
    };
    [namespace, text("/metadata/name"), text("/kind"), text("/apiVersion")].map(str::to_owned).into()
}
