//! Edits of objects: the body read object by object as it comes, then the whole carried out in the turns that it takes.

use super::{NDJSON, Reply, dispatch::Request, json, problem::PROBLEM_JSON, problem::problem};
use crate::http::Sink;
use crate::node::Node;
use crate::objects::{Outcome, Pending};
use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use config::{MAX_PROBLEMS, Problem};
use resources::{Change, ChangeOp, Edit, Fault, FieldChange, Identity, Key, Object};
use serde::Serialize;
use serde_json::Value;

/// Longest line, and longest body that is one document.
const MAX_LINE_BYTES: usize = 2 << 20;
const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// Memory that an object takes, as a multiple of its length in JSON: read as a tree, and kept as text and as what it says.
const MEMORY_PER_BYTE: u64 = 24;
/// Objects of one document that are read in one turn.
const OBJECTS_PER_TURN: usize = 32;
/// Changes that are told at most, and those of them that are told field by field.
const MAX_CHANGES: usize = 1000;
const MAX_DETAILED: usize = 50;
const SECOND_NS: u64 = 1_000_000_000;

/// What is done with the objects of a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Apply,
    Replace,
    Delete,
}

/// A body of objects on its way.
pub(super) struct Edits {
    mode: Mode,
    dry_run: bool,
    /// How long the answer may wait for workers to be given what it tells.
    wait_ns: u64,
    /// When it waits no longer, once there is something to wait for.
    until_ns: Option<u64>,
    /// One object a line; otherwise the body is one document.
    by_line: bool,
    input: Vec<u8>,
    /// Objects of a document that are still to be read.
    waiting: VecDeque<(String, Value)>,
    /// Lines or items so far.
    count: usize,
    objects: Vec<Arc<Object>>,
    /// The item and the pointer before those of the object, for each object.
    places: BTreeMap<Key, (usize, String)>,
    faults: Vec<ObjectFault>,
    stage: Stage,
}

enum Stage {
    Reading,
    /// The body is complete, and a document is not yet taken apart.
    Whole,
    Working(Pending),
}

/// What is wrong with an object.
#[derive(Serialize)]
struct ObjectFault {
    /// Which of the body's objects, from 0; none if it is not among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// Who it is, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(flatten)]
    problem: Problem,
}

#[derive(Serialize)]
struct Failed<'a> {
    title: &'a str,
    status: u16,
    errors: &'a [ObjectFault],
}

#[derive(Serialize)]
struct Done {
    generation: u64,
    /// Workers have been given it.
    in_force: bool,
    dry_run: bool,
    added: usize,
    changed: usize,
    removed: usize,
    unchanged: usize,
    changes: Vec<ChangeView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeView {
    op: &'static str,
    api_version: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: String,
    name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<FieldChange>,
}

impl Edits {
    /// Begins to read.
    pub fn open(mode: Mode, request: &Request) -> Box<Self> {
        Box::new(Self {
            mode,
            dry_run: request.query.flag("dry_run"),
            wait_ns: request.query.integer("wait_seconds").unwrap_or_default() * SECOND_NS,
            until_ns: None,
            by_line: request.content_type == NDJSON,
            input: Vec::new(),
            waiting: VecDeque::new(),
            count: 0,
            objects: Vec::new(),
            places: BTreeMap::new(),
            faults: Vec::new(),
            stage: Stage::Reading,
        })
    }

    /// The removal of one object.
    pub fn of_key(key: Key, request: &Request) -> Box<Self> {
        let mut edits = Self::open(Mode::Delete, request);
        let _ = edits.places.insert(key, (0, String::new()));
        (edits.by_line, edits.count) = (true, 1);
        edits
    }

    fn fault(&mut self, index: usize, object: Option<String>, problem: Problem) {
        if self.faults.len() < MAX_PROBLEMS {
            self.faults.push(ObjectFault { index: Some(index), object, problem });
        }
    }

    /// Reads one line. Blank ones are nothing.
    fn take_line(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        match serde_json::from_slice(line) {
            Ok(value) => {
                let index = self.count;
                for (pointer, value) in resources::flatten(value) {
                    self.take(index, &pointer, value);
                }
            }
            Err(error) => self.fault(self.count, None, whole(format!("is not valid JSON: {error}"))),
        }
        self.count += 1;
    }

    fn take(&mut self, index: usize, pointer: &str, value: Value) {
        let at = |problem: Problem| Problem { pointer: format!("{pointer}{}", problem.pointer), ..problem };
        let who = match Identity::of(&value) {
            Ok(Identity::Known(key)) => key,
            Ok(Identity::Other(kind)) => {
                let message = format!("{kind} says nothing about services or policy");
                return self.fault(index, None, at(Problem { pointer: "/kind".into(), message }));
            }
            Err(problem) => return self.fault(index, None, at(problem)),
        };
        if self.places.insert(who.clone(), (index, pointer.into())).is_some() {
            let message = "is there twice".to_string();
            self.fault(
                index,
                Some(who.to_string()),
                at(Problem { pointer: "/metadata/name".into(), message }),
            );
        }
        if self.mode == Mode::Delete {
            return;
        }
        match Object::read(value) {
            Ok(object) => self.objects.push(Arc::new(object)),
            Err(error) => {
                for problem in error.0 {
                    self.fault(index, Some(who.to_string()), at(problem));
                }
            }
        }
    }

    /// Takes a document apart.
    fn take_document(&mut self) {
        let body = core::mem::take(&mut self.input);
        match serde_json::from_slice(&body) {
            Ok(value) => self.waiting = resources::flatten(value).into(),
            Err(error) => self.fault(0, None, whole(format!("is not valid JSON: {error}"))),
        }
    }

    fn edit(&mut self) -> Edit {
        let objects = core::mem::take(&mut self.objects);
        match self.mode {
            Mode::Apply => Edit::Apply(objects),
            Mode::Replace => Edit::Replace(objects),
            Mode::Delete => Edit::Delete(self.places.keys().cloned().collect()),
        }
    }

    /// Works for a turn. True: [`Edits::reply`] can be asked.
    fn work(&mut self, node: &mut Node) -> bool {
        match &self.stage {
            Stage::Reading => {
                let input = core::mem::take(&mut self.input);
                if self.by_line {
                    self.take_line(&input);
                } else {
                    self.input = input;
                    self.take_document();
                }
                self.stage = Stage::Whole;
                false
            }
            Stage::Whole => {
                for _ in 0..OBJECTS_PER_TURN {
                    let Some((pointer, value)) = self.waiting.pop_front() else { break };
                    self.take(self.count, &pointer, value);
                    self.count += 1;
                }
                if !self.waiting.is_empty() {
                    return false;
                }
                if !self.faults.is_empty() {
                    return true;
                }
                if node.objects.is_editing() {
                    return false;
                }
                let edit = self.edit();
                if let Some(pending) = node.objects.begin(edit, self.dry_run) {
                    self.stage = Stage::Working(pending);
                }
                false
            }
            Stage::Working(pending) => match &*pending.borrow() {
                Some(Outcome::Done(generation, _)) if node.objects.published_generation() < *generation => {
                    let until_ns = *self.until_ns.get_or_insert(node.now_ns.saturating_add(self.wait_ns));
                    node.now_ns >= until_ns
                }
                outcome => outcome.is_some(),
            },
        }
    }

    fn reply(mut self, node: &Node) -> Reply {
        let stage = core::mem::replace(&mut self.stage, Stage::Reading);
        match stage {
            Stage::Working(pending) => match pending.take() {
                Some(Outcome::Done(generation, changes)) => {
                    self.done((generation, node.objects.published_generation() >= generation), &changes)
                }
                Some(Outcome::Refused(faults)) => {
                    self.faults = faults.into_iter().map(|fault| self.place(fault)).collect();
                    self.failed()
                }
                Some(Outcome::TooMany(why)) => problem(507, &why),
                None => problem(500, "the work on the objects has no outcome"),
            },
            Stage::Reading | Stage::Whole => self.failed(),
        }
    }

    /// Says where in the body an object is that is impossible together with others.
    fn place(&self, fault: Fault) -> ObjectFault {
        let Fault { key, problem } = fault;
        let place = if self.mode == Mode::Delete { None } else { self.places.get(&key) };
        let before = place.map(|(_, pointer)| pointer.as_str()).unwrap_or_default();
        let problem = Problem { pointer: format!("{before}{}", problem.pointer), ..problem };
        ObjectFault { index: place.map(|(index, _)| *index), object: Some(key.to_string()), problem }
    }

    fn failed(&self) -> Reply {
        let title = "the objects are not taken: some are not valid";
        let body = Failed { title, status: 422, errors: &self.faults };
        Reply::new(422, PROBLEM_JSON, serde_json::to_vec(&body).unwrap_or_default())
    }

    fn done(&self, (generation, in_force): (u64, bool), changes: &[Change]) -> Reply {
        let count = |op: ChangeOp| changes.iter().filter(|change| change.op == op).count();
        let (added, changed, removed) =
            (count(ChangeOp::Add), count(ChangeOp::Change), count(ChangeOp::Remove));
        let touched = if self.mode == Mode::Delete { removed } else { added + changed };
        let mut detailed = if self.dry_run { MAX_DETAILED } else { 0 };
        let view = |change: &Change| ChangeView::new(change, &mut detailed);
        json(
            200,
            &Done {
                generation,
                in_force,
                dry_run: self.dry_run,
                added,
                changed,
                removed,
                unchanged: self.places.len().saturating_sub(touched),
                changes: changes.iter().take(MAX_CHANGES).map(view).collect(),
            },
        )
    }
}

impl ChangeView {
    fn new(change: &Change, detailed: &mut usize) -> Self {
        let Key { kind, namespace, name } = &change.key;
        let mut fields = Vec::new();
        if let (Some(before), Some(after), 1..) = (&change.before, &change.after, *detailed) {
            *detailed -= 1;
            let value = |object: &Object| serde_json::from_str(object.text()).unwrap_or(Value::Null);
            fields = resources::differences(&value(before), &value(after));
        }
        let op = match change.op {
            ChangeOp::Add => "add",
            ChangeOp::Change => "change",
            ChangeOp::Remove => "remove",
        };
        Self {
            op,
            api_version: kind.api_version(),
            kind: kind.name(),
            namespace: namespace.to_string(),
            name: name.to_string(),
            fields,
        }
    }
}

impl Sink<Node> for Edits {
    fn push(&mut self, node: &mut Node, data: &[u8]) -> Result<(), Reply> {
        // Asked as it grows: several bodies may be on their way at a time.
        let bytes = (self.input.len() + data.len()) as u64;
        if !node.can_spare(bytes.saturating_mul(MEMORY_PER_BYTE)) {
            return Err(problem(507, "the node has not enough free memory for more objects"));
        }
        self.input.extend_from_slice(data);
        if self.by_line {
            let input = core::mem::take(&mut self.input);
            let mut rest = input.as_slice();
            while let Some(length) = rest.iter().position(|&byte| byte == b'\n') {
                let (line, after) = rest.split_at(length);
                self.take_line(line);
                rest = after.get(1..).unwrap_or_default();
            }
            self.input = rest.to_vec();
        }
        let (max, what) =
            if self.by_line { (MAX_LINE_BYTES, "a line") } else { (MAX_DOCUMENT_BYTES, "a document") };
        if self.input.len() > max {
            let detail =
                format!("{what} of this has at most {max} bytes; objects one a line may be any number");
            return Err(problem(413, &detail));
        }
        Ok(())
    }

    fn is_done(&mut self, node: &mut Node) -> bool {
        self.work(node)
    }

    fn end(self: Box<Self>, node: &mut Node) -> Reply {
        self.reply(node)
    }
}

fn whole(message: String) -> Problem {
    Problem { pointer: String::new(), message }
}
