//! One object: who it is, what it says.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use config::Problem;
use serde_json::{Map, Value};

use crate::kind::Kind;

/// Longest name of an object or namespace, by Kubernetes' own rule for most of them.
const MAX_NAME_BYTES: usize = 253;
/// The annotation in which `kubectl apply` keeps what it was given. It says nothing that the object does not.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What tells objects apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for kinds that have none.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{} {}", self.kind.name(), self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind.name(), self.name),
        }
    }
}

/// What an object calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// An object of a kind that a node knows.
    Known(Key),
    /// An object of a kind that says nothing about services or policy: `kind` and `apiVersion`.
    Other(String),
}

/// Why an object cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError(pub Vec<Problem>);

/// One object.
#[derive(Debug)]
pub struct Object {
    key: Key,
    /// As it was given, in one line, without what `kubectl` and the API server note for themselves.
    text: Box<str>,
    pub(crate) policy: Option<policy::Parsed>,
    pub(crate) services: Option<services::Parsed>,
}

impl Identity {
    /// Who an object is. Nothing else of it is looked at.
    ///
    /// # Errors
    /// What is missing or impossible in its `apiVersion`, `kind`, and `metadata`.
    pub fn of(value: &Value) -> Result<Identity, Problem> {
        if !value.is_object() {
            return Err(problem("", "must be an object of Kubernetes or Calico"));
        }
        let (version, kind) = (text(value, "", "apiVersion")?, text(value, "", "kind")?);
        let Some(known) = Kind::find(version, kind) else { return unknown(version, kind) };
        let metadata = value.get("metadata").ok_or_else(|| problem("", "metadata is missing"))?;
        let name = checked_name(text(metadata, "/metadata", "name")?, "/metadata/name")?;
        let namespace = match metadata.get("namespace") {
            None | Some(Value::Null) => "",
            Some(Value::String(namespace)) => namespace,
            Some(_) => return Err(problem("/metadata/namespace", "must be a text")),
        };
        let namespace = match (known.is_namespaced(), namespace) {
            (true, "") => "default",
            (false, "") => "",
            (true, namespace) => checked_name(namespace, "/metadata/namespace")?,
            (false, _) => return Err(problem("/metadata/namespace", "this kind has no namespace")),
        };
        Ok(Identity::Known(Key { kind: known, namespace: namespace.into(), name: name.into() }))
    }
}

impl Object {
    /// Reads one object.
    ///
    /// # Errors
    /// Everything that is unknown or impossible in it, as far as it can be told without other objects.
    pub fn read(mut value: Value) -> Result<Object, ReadError> {
        let one = |problem| ReadError(Vec::from([problem]));
        let key = match Identity::of(&value).map_err(one)? {
            Identity::Known(key) => key,
            Identity::Other(kind) => {
                let message = format!("{kind} says nothing about services or policy");
                return Err(one(problem("/kind", message)));
            }
        };
        forget_notes(&mut value);
        let services = services::Parsed::read(&value).map_err(ReadError)?;
        let policy = policy::Parsed::read(&value).map_err(one)?;
        // Serializing what was read as JSON cannot fail.
        let text = serde_json::to_string(&value).unwrap_or_default().into_boxed_str();
        Ok(Object { key, text, policy, services })
    }

    /// Who it is.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// It in JSON, on one line.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The elements of a `List` of whatever kind, each with its pointer; or the one object itself.
pub fn flatten(value: Value) -> Vec<(String, Value)> {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match value {
        Value::Object(mut members) if is_list && members.get("items").is_some_and(Value::is_array) => {
            let Some(Value::Array(items)) = members.remove("items") else { return Vec::new() };
            items.into_iter().enumerate().map(|(index, item)| (format!("/items/{index}"), item)).collect()
        }
        value => Vec::from([(String::new(), value)]),
    }
}

/// What is not known: nothing that matters, or something misspelt.
fn unknown(version: &str, kind: &str) -> Result<Identity, Problem> {
    let group = |version: &str| version.split_once('/').map_or(String::new(), |(group, _)| group.into());
    let similar =
        Kind::all().find(|known| known.name() == kind && group(known.api_version()) == group(version));
    match similar {
        Some(similar) => Err(problem("/apiVersion", format!("of {kind} must be {}", similar.api_version()))),
        None if policy::is_foreign(version, kind) => Ok(Identity::Other(format!("{kind} of {version}"))),
        None => Err(problem("/kind", format!("{version} {kind} is not a kind that is known here"))),
    }
}

/// Takes out what others note in an object for themselves, which can be longer than the object.
fn forget_notes(value: &mut Value) {
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let _ = metadata.remove("managedFields");
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        let _ = annotations.remove(LAST_APPLIED);
        if annotations.is_empty() {
            let _ = metadata.remove("annotations");
        }
    }
}

fn text<'a>(value: &'a Value, at: &str, field: &str) -> Result<&'a str, Problem> {
    match value.as_object().map(|members: &Map<String, Value>| members.get(field)) {
        Some(Some(Value::String(text))) if !text.is_empty() => Ok(text),
        Some(None) => Err(problem(at, format!("{field} is missing"))),
        Some(Some(_)) => Err(problem(&format!("{at}/{field}"), "must be a text that is not empty")),
        None => Err(problem(at, "must be an object")),
    }
}

/// A name that can be part of a path, as Kubernetes wants it.
fn checked_name<'a>(name: &'a str, at: &str) -> Result<&'a str, Problem> {
    let is_good = name.len() <= MAX_NAME_BYTES
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'%');
    if is_good { Ok(name) } else { Err(problem(at, "is not a name")) }
}

fn problem(pointer: &str, message: impl Into<String>) -> Problem {
    Problem { pointer: pointer.into(), message: message.into() }
}
