//! Documents become objects; what is unknown or impossible in them is named by document and field.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use config::Problem;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::object::{EndpointSlice, Service};
use crate::{check_service, check_slice};

/// Faults listed at most: the first ones are what a person mends first.
const MAX_FAULTS: usize = 64;

/// The objects of some documents.
#[derive(Debug, Default)]
pub struct Objects {
    pub(crate) services: Vec<(Source, Arc<Service>)>,
    pub(crate) slices: Vec<(Source, Arc<EndpointSlice>)>,
}

/// An object that was read and is sound in itself.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// A Service.
    Service(Arc<Service>),
    /// An `EndpointSlice`.
    Slice(Arc<EndpointSlice>),
}

impl Parsed {
    /// Reads one object; none if it is of a kind that says nothing about load balancing.
    ///
    /// # Errors
    /// All its faults, up to a limit.
    pub fn read(value: &Value) -> Result<Option<Parsed>, Vec<Problem>> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        if !matches!(
            (text("apiVersion"), text("kind")),
            ("v1", "Service") | ("discovery.k8s.io/v1", "EndpointSlice")
        ) {
            return Ok(None);
        }
        let mut objects = Objects::default();
        objects
            .add(0, value)
            .map_err(|faults| faults.into_iter().map(|fault| fault.problem).collect::<Vec<_>>())?;
        let service = objects.services.pop().map(|(_, service)| Parsed::Service(service));
        Ok(service.or_else(|| objects.slices.pop().map(|(_, slice)| Parsed::Slice(slice))))
    }
}

/// Where an object was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The caller's number of the document.
    pub document: usize,
    /// RFC 6901 pointer to the object in the document: empty, or to an item of a `List`.
    pub pointer: String,
}

/// What is wrong, and in which document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The caller's number of the document.
    pub document: usize,
    /// What is wrong, by a pointer into the document.
    pub problem: Problem,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}: {}", self.document, self.problem)
    }
}

impl Source {
    /// A fault in this object; `path` is a pointer relative to it.
    pub(crate) fn fault(&self, path: &str, message: impl Into<String>) -> Fault {
        let pointer = format!("{}{path}", self.pointer);
        Fault { document: self.document, problem: Problem { pointer, message: message.into() } }
    }
}

/// What every object begins with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

impl Objects {
    /// Takes an object that was read before. `document` is the caller's number for it.
    pub fn insert(&mut self, document: usize, object: &Parsed) {
        let source = Source { document, pointer: String::new() };
        match object {
            Parsed::Service(service) => self.services.push((source, service.clone())),
            Parsed::Slice(slice) => self.slices.push((source, slice.clone())),
        }
    }

    /// Takes the objects of one document: a Service, an `EndpointSlice`, or a `List` of them. `document` is the caller's
    /// number for it.
    ///
    /// # Errors
    /// All faults of the document, up to a limit; its sound objects are taken all the same.
    pub fn add(&mut self, document: usize, value: &Value) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        let source = Source { document, pointer: String::new() };
        let is_list = Head::deserialize(value).is_ok_and(|head| head.kind.ends_with("List"));
        match value.get("items").and_then(Value::as_array) {
            Some(items) if is_list => {
                for (index, item) in items.iter().enumerate() {
                    let source = Source { document, pointer: format!("/items/{index}") };
                    self.add_one(source, item, &mut faults);
                }
            }
            _ => self.add_one(source, value, &mut faults),
        }
        faults.truncate(MAX_FAULTS);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn add_one(&mut self, source: Source, value: &Value, faults: &mut Vec<Fault>) {
        if !value.is_object() {
            return faults.push(source.fault("", "must be an object: a Service or an EndpointSlice"));
        }
        let head = match Head::deserialize(value) {
            Ok(head) => head,
            Err(error) => return faults.push(source.fault("", error.to_string())),
        };
        match (head.api_version.as_str(), head.kind.as_str()) {
            ("v1", "Service") => match read::<Service>(&source, value) {
                Ok(service) => {
                    check_service::check(&source, &service, faults);
                    self.services.push((source, service.into()));
                }
                Err(fault) => faults.push(fault),
            },
            ("discovery.k8s.io/v1", "EndpointSlice") => match read::<EndpointSlice>(&source, value) {
                Ok(slice) => {
                    check_slice::check(&source, &slice, faults);
                    self.slices.push((source, slice.into()));
                }
                Err(fault) => faults.push(fault),
            },
            ("", "") => {
                faults
                    .push(source.fault("", "has no apiVersion and kind; give a Service or an EndpointSlice"));
            }
            (version, kind) => {
                let message = format!(
                    "is {kind} of {version}, which says nothing about load balancing; known are Service of v1 and \
                     EndpointSlice of discovery.k8s.io/v1"
                );
                faults.push(source.fault("/kind", message));
            }
        }
    }
}

fn read<T: DeserializeOwned>(source: &Source, value: &Value) -> Result<T, Fault> {
    config::from_value(value).map_err(|problem| source.fault(&problem.pointer, problem.message))
}

/// Faults of several fields that share a source.
pub(crate) struct Checker<'a> {
    pub(crate) source: &'a Source,
    pub(crate) faults: &'a mut Vec<Fault>,
}

impl Checker<'_> {
    pub(crate) fn add(&mut self, path: &str, message: impl Into<String>) {
        self.faults.push(self.source.fault(path, message));
    }

    /// Adds a fault unless `sound`.
    pub(crate) fn require(&mut self, sound: bool, path: &str, message: &str) {
        if !sound {
            self.add(path, message);
        }
    }

    /// Adds a fault unless all keys differ; `path` gives the place of the later one.
    pub(crate) fn distinct<K: Ord>(
        &mut self,
        keys: impl Iterator<Item = K>,
        path: impl Fn(usize) -> String,
        message: &str,
    ) {
        let mut sorted: Vec<(K, usize)> = keys.zip(0..).collect();
        sorted.sort();
        let twice: Vec<usize> =
            sorted.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1).collect();
        for index in twice {
            self.add(&path(index), message);
        }
    }
}
