//! Sets of objects: a change makes another set, which shares with the one before what it does not touch.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use pace::Pace;

use crate::kind::Kind;
use crate::object::{Key, Object};

/// Objects of a chunk at most: what a change of one object copies, and a hundredth of that for each other chunk.
const CHUNK: usize = 128;

/// Objects, each key once. It does not change.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// In order, none empty.
    chunks: Vec<Arc<Vec<Arc<Object>>>>,
    len: usize,
    bytes: usize,
}

/// What is to be done to a set.
#[derive(Clone, Debug)]
pub enum Edit {
    /// These are added, or take the place of those with the same keys.
    Apply(Vec<Arc<Object>>),
    /// These are all there are.
    Replace(Vec<Arc<Object>>),
    /// These go.
    Delete(Vec<Key>),
}

/// What happened to one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which.
    pub key: Key,
    /// What.
    pub op: ChangeOp,
    /// It before, if there was one.
    pub before: Option<Arc<Object>>,
    /// It after, if there is one.
    pub after: Option<Arc<Object>>,
}

/// What can happen to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeOp {
    /// It is new.
    Add,
    /// It says something else.
    Change,
    /// It is gone.
    Remove,
}

impl Set {
    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Length of all of them in JSON.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The object of a key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        chunk.get(find(chunk, key).ok()?)
    }

    /// All objects in the order of kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// Those behind a key.
    pub fn after(&self, key: &Key) -> impl Iterator<Item = &Arc<Object>> {
        let at = self.chunk_of(key);
        let rest = self.chunks.get(at + 1..).unwrap_or_default();
        let here = self.chunks.get(at).map(|chunk| {
            let first = find(chunk, key).map_or_else(|place| place, |place| place + 1);
            chunk.get(first..).unwrap_or_default()
        });
        here.into_iter().flatten().chain(rest.iter().flat_map(|chunk| chunk.iter()))
    }

    /// How many objects of each kind there are; kinds without any are left out.
    pub fn count_by_kind(&self) -> Vec<(Kind, usize)> {
        let mut counts = [0; Kind::COUNT];
        self.iter().for_each(|object| counts[object.key().kind.index()] += 1);
        Kind::all().zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// Another set, and what is different in it, in order. Of objects with one key the last one counts.
    pub async fn change(&self, edit: &Edit, pace: &Pace) -> (Set, Vec<Change>) {
        let mut wanted: BTreeMap<&Key, Option<&Arc<Object>>> = BTreeMap::new();
        match edit {
            Edit::Apply(objects) | Edit::Replace(objects) => {
                wanted.extend(objects.iter().map(|object| (object.key(), Some(object))));
            }
            Edit::Delete(keys) => wanted.extend(keys.iter().map(|key| (key, None))),
        }
        if matches!(edit, Edit::Replace(_)) {
            let said: BTreeSet<&Key> = wanted.keys().copied().collect();
            let others = self.iter().map(|object| object.key()).filter(|key| !said.contains(key));
            wanted.extend(others.map(|key| (key, None)));
        }
        let (mut next, mut changes) = (self.clone(), Vec::new());
        for (key, object) in wanted {
            pace.spend(1).await;
            let before = next.get(key).cloned();
            let op = match (&before, object) {
                (None, None) => continue,
                // What says the same keeps its place in memory, so that what was made of it is known to be as it was.
                (Some(before), Some(object)) if before.text() == object.text() => continue,
                (Some(_), Some(_)) => ChangeOp::Change,
                (None, Some(_)) => ChangeOp::Add,
                (Some(_), None) => ChangeOp::Remove,
            };
            match object {
                Some(object) => next.put(object.clone()),
                None => next.remove(key),
            }
            changes.push(Change { key: key.clone(), op, before, after: object.cloned() });
        }
        (next, changes)
    }

    /// The chunk that a key is in, if it is in one.
    fn chunk_of(&self, key: &Key) -> usize {
        let begins_behind = |chunk: &Arc<Vec<Arc<Object>>>| chunk.first().is_none_or(|o| o.key() > key);
        self.chunks.partition_point(|chunk| !begins_behind(chunk)).saturating_sub(1)
    }

    fn put(&mut self, object: Arc<Object>) {
        self.bytes += object.text().len();
        let at = self.chunk_of(object.key());
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.len += 1;
            return self.chunks.push(Arc::new(Vec::from([object])));
        };
        let chunk = Arc::make_mut(chunk);
        match find(chunk, object.key()) {
            Ok(place) => {
                if let Some(place) = chunk.get_mut(place) {
                    self.bytes -= core::mem::replace(place, object).text().len();
                }
            }
            Err(place) => {
                self.len += 1;
                chunk.insert(place, object);
                if chunk.len() > CHUNK {
                    // Objects mostly come in order: the full half stays full.
                    let half = if place + 1 == chunk.len() { CHUNK } else { CHUNK / 2 };
                    let rest = chunk.split_off(half);
                    self.chunks.insert(at + 1, Arc::new(rest));
                }
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        let at = self.chunk_of(key);
        let Some(shared) = self.chunks.get_mut(at) else { return };
        let Ok(place) = find(shared, key) else { return };
        let chunk = Arc::make_mut(shared);
        self.bytes -= chunk.remove(place).text().len();
        self.len -= 1;
        if chunk.is_empty() {
            drop(self.chunks.remove(at));
        }
    }
}

fn find(chunk: &[Arc<Object>], key: &Key) -> Result<usize, usize> {
    chunk.binary_search_by(|object| object.key().cmp(key))
}
