//! `status`, `get` and `crash`: what the node says, as tables.

use std::net::IpAddr;

use serde_json::Value;

use super::client::Node;
use super::{logs, objects, view};
use crate::cli::{Format, GetArgs, LogsArgs, Resource, What};
use crate::failure::{Failure, Message, Result};
use crate::output::{self, emit};

/// Routes asked for at a time.
const PAGE: usize = 1000;

/// Shows what the node is and how it fares.
pub fn status(node: &Node, format: Format) -> Result<()> {
    output::show(format, &node.get("/v1/status")?, view::status)
}

/// Shows one kind of thing.
pub fn get(node: &Node, format: Format, args: &GetArgs) -> Result<()> {
    let filter = args.filter.as_deref();
    match args.what {
        What::Objects(ref word) => objects::list(node, format, word, filter),
        What::Of(what) => of_node(node, format, what, filter),
    }
}

fn of_node(node: &Node, format: Format, what: Resource, filter: Option<&str>) -> Result<()> {
    match what {
        Resource::Config => config(node, format, filter),
        Resource::Interfaces => list(node, format, "/v1/interfaces", filter),
        Resource::Neighbours => list(node, format, "/v1/neighbours", filter),
        Resource::Counters => list(node, format, "/v1/counters", filter),
        Resource::Drops => list(node, format, "/v1/drops", filter),
        Resource::Routes => match filter.map(str::parse::<IpAddr>) {
            Some(Ok(address)) => list(node, format, &format!("/v1/routes/lookup?address={address}"), None),
            _ => routes(node, format, filter),
        },
        Resource::Log => logs::logs(
            node,
            format,
            &LogsArgs { follow: false, tail: None, containing: filter.map(Into::into) },
        ),
        Resource::Crash => crash(node, format, filter),
    }
}

/// Shows the record of the last crash, or those of its lines that contain the filter.
pub fn crash(node: &Node, format: Format, filter: Option<&str>) -> Result<()> {
    let mut answer = node.get("/v1/crash")?;
    if let (Some(text), Some(record)) = (filter, answer["crash"].as_str()) {
        let kept: Vec<&str> = record.lines().filter(|line| line.contains(text)).collect();
        answer["crash"] = kept.join("\n").into();
    }
    output::show(format, &answer, |answer| match answer["crash"].as_str() {
        Some("") => String::new(),
        Some(record) => format!("{}\n", record.trim_end()),
        None => "no crash is on record\n".into(),
    })
}

/// A configuration is read to be edited: people get YAML, and all of it.
fn config(node: &Node, format: Format, filter: Option<&str>) -> Result<()> {
    if filter.is_some() {
        return Err(Failure::Usage(Message::new(
            "a configuration is always a whole: `get config` takes no text",
        )));
    }
    let config = node.get("/v1/config")?;
    match format {
        Format::Json => emit(&output::json(&config)),
        Format::Table | Format::Yaml => emit(&output::yaml(&config)?),
    }
}

fn list(node: &Node, format: Format, path: &str, filter: Option<&str>) -> Result<()> {
    let mut answer = node.get(path)?;
    if let Some(text) = filter {
        view::retain(&mut answer, text);
    }
    output::show(format, &answer, view::describe)
}

/// There may be a million: they are shown page by page as they come.
fn routes(node: &Node, format: Format, filter: Option<&str>) -> Result<()> {
    let mut after = None::<String>;
    let mut first = true;
    loop {
        let cursor =
            after.map(|cursor| format!("&after={}", view::percent_encode(&cursor))).unwrap_or_default();
        let mut page = node.get(&format!("/v1/routes?limit={PAGE}{cursor}"))?;
        if let Some(text) = filter {
            view::retain(&mut page, text);
        }
        let routes = page["routes"].as_array().map(Vec::as_slice).unwrap_or_default();
        emit(&route_page(format, routes, first))?;
        first &= routes.is_empty();
        match page.get("next") {
            Some(Value::String(cursor)) => after = Some(cursor.clone()),
            Some(Value::Number(cursor)) => after = Some(cursor.to_string()),
            _ => break,
        }
    }
    match format {
        Format::Json => emit(if first { "[]\n" } else { "\n]\n" }),
        Format::Table | Format::Yaml => Ok(()),
    }
}

fn route_page(format: Format, routes: &[Value], first: bool) -> String {
    match format {
        Format::Table => view::route_table(routes, first),
        Format::Json => {
            let mut lead = if first { "[\n" } else { ",\n" };
            let lines = routes.iter().map(|route| format!("{}{route}", std::mem::replace(&mut lead, ",\n")));
            lines.collect()
        }
        // JSON is YAML: one route a line stays readable.
        Format::Yaml => routes.iter().map(|route| format!("- {route}\n")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_of_json_make_one_array() {
        let (a, b) = (json!({"prefix": "10.0.0.0/8"}), json!({"prefix": "10.1.0.0/16"}));
        let mut text = route_page(Format::Json, &[a.clone(), b.clone()], true);
        text += &route_page(Format::Json, &[], false);
        text += &route_page(Format::Json, std::slice::from_ref(&a), false);
        text += "\n]\n";
        assert_eq!(serde_json::from_str::<Value>(&text).expect("it is JSON"), json!([a, b, a]));
    }
}
