//! Kubernetes and Calico objects: listed, applied, replaced, removed.

use super::{
    JSON, NDJSON, Reply,
    dispatch::Request,
    edit::{Edits, Mode},
    json,
    problem::problem,
    room,
};
use crate::http::{Pull, Sink, Source};
use crate::node::Node;
use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use resources::{Key, Kind, Object};
use serde_json::{Map, Value, json};

/// Objects of one piece of a stream.
const OBJECTS_PER_PIECE: usize = 50;

/// Which objects are meant.
#[derive(Default)]
struct Filter {
    kind: Option<String>,
    api_version: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
}

impl Filter {
    fn new(request: &Request) -> Self {
        let text = |name: &str| request.query.text(name).map(String::from);
        Self {
            kind: text("kind"),
            api_version: text("api_version"),
            namespace: text("namespace"),
            name: text("name"),
        }
    }

    fn takes(&self, key: &Key) -> bool {
        let same =
            |wanted: &Option<String>, given: &str| wanted.as_deref().is_none_or(|wanted| wanted == given);
        self.kind.as_deref().is_none_or(|word| key.kind.is_called(word))
            && same(&self.api_version, key.kind.api_version())
            && same(&self.namespace, &key.namespace)
            && same(&self.name, &key.name)
    }
}

/// `GET /v1/resources`.
pub(super) fn list(node: &mut Node, request: &Request) -> Reply {
    let filter = Filter::new(request);
    let after = match request.query.text("after").map(read_cursor) {
        Some(None) => return problem(400, "query parameter after must be the next of an earlier answer"),
        Some(cursor) => cursor,
        None => None,
    };
    if filter.kind.as_deref().is_some_and(|word| !Kind::all().any(|kind| kind.is_called(word))) {
        return problem(400, "query parameter kind must be a kind of object that the node knows");
    }
    if request.wants_lines {
        return Reply::stream(NDJSON, All { filter, after });
    }
    let limit = request.query.integer("limit").unwrap_or(100) as usize;
    let found = page(node, &filter, after.as_ref(), limit);
    let text_bytes: usize = found.iter().map(|object| object.text().len()).sum();
    if let Err(refusal) = room::check(node, 2 * text_bytes as u64) {
        return refusal;
    }
    let next = (found.len() == limit).then(|| found.last().map(|object| cursor(object.key()))).flatten();
    let mut body = format!("{{\"generation\":{},\"resources\":[", node.objects.generation()).into_bytes();
    for (index, object) in found.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(object.text().as_bytes());
    }
    body.push(b']');
    if let Some(next) = next {
        body.extend_from_slice(format!(",\"next\":{}", Value::from(next)).as_bytes());
    }
    body.push(b'}');
    Reply::new(200, JSON, body)
}

fn page(node: &Node, filter: &Filter, after: Option<&Key>, limit: usize) -> Vec<Arc<Object>> {
    let set = node.objects.set();
    let takes = |object: &&Arc<Object>| filter.takes(object.key());
    match after {
        Some(key) => set.after(key).filter(takes).take(limit).cloned().collect(),
        None => set.iter().filter(takes).take(limit).cloned().collect(),
    }
}

/// All objects that are meant, one a line.
struct All {
    filter: Filter,
    after: Option<Key>,
}

impl Source<Node> for All {
    fn pull(&mut self, node: &mut Node, out: &mut Vec<u8>) -> Pull {
        let found = page(node, &self.filter, self.after.as_ref(), OBJECTS_PER_PIECE);
        for object in &found {
            out.extend_from_slice(object.text().as_bytes());
            out.push(b'\n');
        }
        match found.last() {
            Some(last) if found.len() == OBJECTS_PER_PIECE => self.after = Some(last.key().clone()),
            _ => return Pull::End,
        }
        Pull::More
    }
}

fn cursor(key: &Key) -> String {
    let Key { kind, namespace, name } = key;
    format!("{}!{}!{namespace}!{name}", kind.api_version(), kind.name())
}

fn read_cursor(text: &str) -> Option<Key> {
    let mut parts = text.splitn(4, '!');
    let kind = Kind::find(parts.next()?, parts.next()?)?;
    Some(Key { kind, namespace: parts.next()?.into(), name: parts.next()?.into() })
}

/// `GET /v1/resources/status`.
pub(super) fn status(node: &mut Node, _: &Request) -> Reply {
    let objects = &node.objects;
    let mut kinds: Map<String, Value> = Map::new();
    for (kind, count) in objects.set().count_by_kind() {
        let _ = kinds.insert(format!("{}/{}", kind.api_version(), kind.name()), count.into());
    }
    json(
        200,
        &json!({
            "generation": objects.generation(),
            "in_force": objects.published_generation(),
            "saved": objects.saved_generation == Some(objects.generation()),
            "objects": objects.set().len(),
            "bytes": objects.set().bytes(),
            "kinds": kinds,
        }),
    )
}

/// `POST /v1/resources`.
pub(super) fn apply(_: &mut Node, request: &Request) -> Result<Box<dyn Sink<Node>>, Reply> {
    Ok(Edits::open(Mode::Apply, request))
}

/// `PUT /v1/resources`.
pub(super) fn replace(_: &mut Node, request: &Request) -> Result<Box<dyn Sink<Node>>, Reply> {
    Ok(Edits::open(Mode::Replace, request))
}

/// `POST /v1/resources/delete`.
pub(super) fn remove(_: &mut Node, request: &Request) -> Result<Box<dyn Sink<Node>>, Reply> {
    Ok(Edits::open(Mode::Delete, request))
}

/// `DELETE /v1/resources`.
pub(super) fn remove_one(node: &mut Node, request: &Request) -> Result<Box<dyn Sink<Node>>, Reply> {
    let text = |name: &str| request.query.text(name).unwrap_or_default();
    let kind = Kind::find(text("api_version"), text("kind"));
    let kind = kind.ok_or_else(|| problem(404, "there is no such kind of object"))?;
    let namespace = match (kind.is_namespaced(), text("namespace")) {
        (true, "") => "default",
        (_, namespace) => namespace,
    };
    let key = Key { kind, namespace: namespace.into(), name: text("name").into() };
    if node.objects.set().get(&key).is_none() {
        return Err(problem(404, &format!("there is no {key}")));
    }
    Ok(Edits::of_key(key, request))
}
