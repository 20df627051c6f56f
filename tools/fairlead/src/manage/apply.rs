//! Configuration: checked here with the node's own rules, sent, compared, confirmed.

use std::path::Path;

use config::{Change, ChangeKind};
use serde_json::Value;

use super::client::{FieldError, Node, Refusal};
use super::objects::{self, Input};
use super::source::Document;
use crate::cli::{ApplyArgs, Format};
use crate::failure::{Failure, Message, Result};
use crate::output::{self, Colour, paint};

/// Gives the node what files have: its configuration, objects, or both.
pub fn apply(node: &Node, format: Format, args: &ApplyArgs) -> Result<()> {
    let input = Input::read(&args.file)?;
    if input.is_empty() {
        return Err(Failure::operation(format!("there is nothing to apply. {}", input.skipped())));
    }
    let has_objects = input.has_objects() || args.prune;
    if has_objects && args.confirm.is_some() {
        return Err(Failure::operation("--confirm is for a configuration alone: objects do not come back"));
    }
    if let Some(document) = input.config() {
        let value = document.checked()?;
        if has_objects && !args.dry_run {
            // What is wrong with the objects is found before the configuration is changed.
            let _ = input.send(node, (method(args), "/v1/resources"), true)?;
        }
        configure(node, format, args, document, &value)?;
    }
    if has_objects {
        let answer = input.send(node, (method(args), "/v1/resources"), args.dry_run)?;
        output::show(format, &answer, |answer| {
            let changes = if args.quiet { String::new() } else { objects::changes(answer) };
            format!("{}{changes}{}", input.skipped(), objects::outcome(node, answer))
        })?;
    }
    if args.save && !args.dry_run {
        let _ = node.post("/v1/store")?;
    }
    Ok(())
}

fn method(args: &ApplyArgs) -> &'static str {
    if args.prune { "PUT" } else { "POST" }
}

fn configure(
    node: &Node,
    format: Format,
    args: &ApplyArgs,
    document: &Document,
    value: &Value,
) -> Result<()> {
    let path = match (args.dry_run, args.confirm) {
        (true, _) => "/v1/config?dry_run=true".to_owned(),
        (false, Some(seconds)) => format!("/v1/config?confirm_seconds={seconds}"),
        (false, None) => "/v1/config".to_owned(),
    };
    let body = value.to_string();
    let answer = match node.ask("PUT", &path, Some(("application/json", body.as_bytes())))? {
        Ok(answer) => answer,
        Err(refusal) => return Err(refused(node, document, &refusal)),
    };
    output::show(format, &answer, |answer| {
        let mut text = String::new();
        if !args.quiet {
            text.push_str(&changes(answer));
        }
        text.push_str(&outcome(node, answer, args));
        text
    })
}

/// Keeps the configuration that waits for confirmation.
pub fn confirm(node: &Node, format: Format) -> Result<()> {
    let answer = node.post("/v1/config/confirm")?;
    output::show(format, &answer, |_| "confirmed: the running configuration stays\n".into())
}

/// Returns to the configuration before the one that waits for confirmation.
pub fn rollback(node: &Node, format: Format) -> Result<()> {
    let answer = node.post("/v1/config/rollback")?;
    output::show(format, &answer, |_| "rolled back to the configuration before\n".into())
}

/// Checks a file without a node.
pub fn validate(path: &Path) -> Result<()> {
    let document = Document::read(path)?;
    let _ = document.checked()?;
    output::emit(&format!("{} is a valid configuration\n", document.name()))
}

/// Prints a file as the JSON a node boots with, or as YAML.
pub fn convert(path: &Path, format: Format) -> Result<()> {
    let document = Document::read(path)?;
    let value = document.checked()?;
    match format {
        Format::Yaml => output::emit(&output::yaml(&value)?),
        Format::Table | Format::Json => output::emit(&output::json(&value)),
    }
}

fn refused(node: &Node, document: &Document, refusal: &Refusal) -> Failure {
    if refusal.problem.errors.is_empty() {
        return refusal.failure(node, "the configuration");
    }
    let errors = refusal.problem.errors.iter();
    let details = errors.map(|FieldError { pointer, message }| document.point_at(pointer, message)).collect();
    Failure::Invalid(
        Message::new(format!("{} refuses the configuration: {}", node.name(), refusal.reason()))
            .details(details),
    )
}

fn changes(answer: &Value) -> String {
    let changes: Vec<Change> =
        answer.get("changes").cloned().and_then(|c| serde_json::from_value(c).ok()).unwrap_or_default();
    let mut text = String::new();
    for change in changes {
        let colour = match change.op {
            ChangeKind::Add => Colour::Green,
            ChangeKind::Remove => Colour::Red,
            ChangeKind::Change => Colour::Yellow,
        };
        text.push_str(&paint(colour, &change.to_string()));
        text.push('\n');
    }
    text
}

fn outcome(node: &Node, answer: &Value, args: &ApplyArgs) -> String {
    let none = answer.get("changes").and_then(Value::as_array).is_some_and(Vec::is_empty);
    match (args.dry_run, args.confirm) {
        (true, _) if none => "nothing would change\n".into(),
        (true, _) => format!("{} would take this; nothing was changed\n", node.name()),
        (false, Some(seconds)) => format!(
            "applied for {seconds} s: `fairlead confirm` keeps it, `fairlead rollback` returns at once\n"
        ),
        (false, None) if none => "nothing changed\n".into(),
        (false, None) => match answer.get("generation") {
            Some(generation) => format!("applied as generation {generation}\n"),
            None => "applied\n".into(),
        },
    }
}
