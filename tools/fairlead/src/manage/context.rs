//! Which node a command talks to: `--node` and `--token`, the environment, or a named node of the contexts file.
//!
//! The file is `$XDG_CONFIG_HOME/fairlead/contexts.json` (`~/.config` without the variable), readable by its owner
//! only, as it holds tokens.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::{ContextCommand, Global};
use crate::failure::{Failure, Message, Result};
use crate::output;

/// Where a node is and what it wants to see.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Target {
    /// `http://HOST:PORT`, without a path.
    pub node: String,
    /// The API token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    nodes: BTreeMap<String, Target>,
}

/// The node that the flags, the environment or the contexts file name; an error says how to name one.
pub fn target(global: &Global) -> Result<Target> {
    find(global)?.ok_or_else(|| {
        Failure::Operation(Message::new("no node is named").hint(
            "give --node ADDRESS --token TOKEN, set FAIRLEAD_NODE and FAIRLEAD_TOKEN, or name a node once with `fairlead context set NAME --node ADDRESS --token TOKEN`",
        ))
    })
}

/// As [`target`], but none is no error. What the command line says goes before what the environment says: a context that is
/// asked for there is not overridden by a node, or a token, of another one.
pub fn find(global: &Global) -> Result<Option<Target>> {
    choose(global, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()), &load()?)
}

/// The token of the command line, or of the environment.
pub fn token(global: &Global) -> Option<String> {
    global.token.clone().or_else(|| std::env::var("FAIRLEAD_TOKEN").ok().filter(|value| !value.is_empty()))
}

fn choose(
    global: &Global,
    environment: &dyn Fn(&str) -> Option<String>,
    contexts: &Contexts,
) -> Result<Option<Target>> {
    let named = |name: &String| {
        contexts.nodes.get(name).ok_or_else(|| {
            let known = contexts.nodes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let message = Message::new(format!("there is no context named {name}"));
            Failure::Operation(message.hint(format!("known are: {known}")))
        })
    };
    if let (None, Some(name)) = (&global.node, &global.context) {
        let Target { node, token } = named(name)?.clone();
        return Ok(Some(Target { node, token: global.token.clone().or(token) }));
    }
    let token = global.token.clone().or_else(|| environment("FAIRLEAD_TOKEN"));
    if let Some(node) = global.node.clone().or_else(|| environment("FAIRLEAD_NODE")) {
        return Ok(Some(Target { node: base_url(&node)?, token }));
    }
    let Some(name) = environment("FAIRLEAD_CONTEXT").or_else(|| contexts.current.clone()) else {
        return Ok(None);
    };
    let target = named(&name)?;
    Ok(Some(Target { node: target.node.clone(), token: token.or_else(|| target.token.clone()) }))
}

/// Carries out `fairlead context`.
pub fn carry_out(global: &Global, command: ContextCommand) -> Result<()> {
    let mut contexts = load()?;
    match command {
        ContextCommand::List => return list(global, &contexts),
        ContextCommand::Set { name } => {
            let Some(node) = global.node.clone().or_else(|| std::env::var("FAIRLEAD_NODE").ok()) else {
                return Err(Failure::operation("give the address of the node with --node"));
            };
            let target = Target { node: base_url(&node)?, token: token(global) };
            let _ = contexts.nodes.insert(name.clone(), target);
            let _ = contexts.current.get_or_insert(name);
        }
        ContextCommand::Use { name } => {
            if !contexts.nodes.contains_key(&name) {
                return Err(Failure::operation(format!("there is no context named {name}")));
            }
            contexts.current = Some(name);
        }
        ContextCommand::Remove { name } => {
            if contexts.nodes.remove(&name).is_none() {
                return Err(Failure::operation(format!("there is no context named {name}")));
            }
            if contexts.current.as_ref() == Some(&name) {
                contexts.current = None;
            }
        }
    }
    save(&contexts)
}

fn list(global: &Global, contexts: &Contexts) -> Result<()> {
    // Tokens stay in the file.
    let nodes: Vec<_> = contexts
        .nodes
        .iter()
        .map(|(name, target)| json!({"name": name, "node": target.node, "token": target.token.is_some(), "current": contexts.current.as_ref() == Some(name)}))
        .collect();
    output::show(global.output, &nodes.into(), |_| {
        let rows = contexts.nodes.iter().map(|(name, target)| {
            let mark = if contexts.current.as_ref() == Some(name) { "*" } else { "" };
            let token = if target.token.is_some() { "yes" } else { "no" };
            vec![mark.into(), name.clone(), target.node.clone(), token.into()]
        });
        output::table(&["", "name", "node", "token"], &[], rows.collect())
    })
}

/// `http://HOST:PORT` of what a person writes.
fn base_url(node: &str) -> Result<String> {
    let wrong = |why: &str| {
        Failure::Operation(
            Message::new(format!("{node} is no address of a node: {why}"))
                .hint("give HOST, HOST:PORT or [IPV6]:PORT"),
        )
    };
    if node.starts_with("https://") {
        return Err(wrong(
            "the node speaks plain HTTP; put TLS before it with a proxy that this machine reaches by HTTP",
        ));
    }
    let host = node.strip_prefix("http://").unwrap_or(node).trim_end_matches('/');
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(format!("http://[{host}]"));
    }
    match host {
        "" => Err(wrong("it is empty")),
        _ if host.contains(['/', '@', '?', '#', ' ']) => {
            Err(wrong("it has a path or characters that no host has"))
        }
        _ => Ok(format!("http://{host}")),
    }
}

fn path() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let base = base.ok_or_else(|| {
        Failure::operation("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for contexts")
    })?;
    Ok(base.join("fairlead").join("contexts.json"))
}

fn load() -> Result<Contexts> {
    let Ok(path) = path() else {
        return Ok(Contexts::default());
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(error) => return Err(Failure::operation(format!("cannot read {}: {error}", path.display()))),
    };
    serde_json::from_str(&text)
        .map_err(|error| Failure::Invalid(Message::new(format!("{}: {error}", path.display()))))
}

fn save(contexts: &Contexts) -> Result<()> {
    let path = path()?;
    let write = || -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let new = path.with_extension("new");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(contexts)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(|error| Failure::operation(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_goes_before_the_environment() {
        let node =
            |name: &str| Target { node: format!("http://{name}"), token: Some(format!("{name}-token")) };
        let nodes = ["one", "two"].map(|name| (name.to_owned(), node(name)));
        let contexts = Contexts { current: Some("one".into()), nodes: nodes.into() };
        let global = |node: Option<&str>, token: Option<&str>, context: Option<&str>| Global {
            node: node.map(str::to_owned),
            token: token.map(str::to_owned),
            context: context.map(str::to_owned),
            output: crate::cli::Format::Table,
        };
        let full = |name: &str| match name {
            "FAIRLEAD_NODE" => Some("three".to_owned()),
            "FAIRLEAD_TOKEN" => Some("three-token".to_owned()),
            _ => None,
        };
        let chosen = |global: Global, environment: &dyn Fn(&str) -> Option<String>| {
            choose(&global, environment, &contexts).unwrap().unwrap()
        };
        assert_eq!(chosen(global(None, None, Some("two")), &full), node("two"));
        assert_eq!(chosen(global(None, None, None), &full), node("three"));
        assert_eq!(chosen(global(None, None, None), &|_| None), node("one"));
        assert_eq!(chosen(global(Some("four"), Some("four-token"), None), &full), node("four"));
        let context = |name: &str| (name == "FAIRLEAD_CONTEXT").then(|| "two".to_owned());
        assert_eq!(chosen(global(None, None, None), &context), node("two"));
        let token = chosen(global(None, Some("other"), Some("two")), &full).token;
        assert_eq!(token.as_deref(), Some("other"));
    }

    #[test]
    fn an_address_becomes_a_url() {
        assert_eq!(base_url("gw1").unwrap(), "http://gw1");
        assert_eq!(base_url("10.0.0.1:8080").unwrap(), "http://10.0.0.1:8080");
        assert_eq!(base_url("2001:db8::1").unwrap(), "http://[2001:db8::1]");
        assert_eq!(base_url("[::1]:80").unwrap(), "http://[::1]:80");
        assert_eq!(base_url("http://gw1:81/").unwrap(), "http://gw1:81");
        for wrong in ["", "https://gw1", "gw1/v1", "user@gw1", "http://"] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
    }
}
