//! Sets of objects: a change makes another set.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;

use pace::Pace;

use crate::kind::Kind;
use crate::object::{Key, Object};

/// Objects that are copied from set to set for a unit of work.
const COPIES_PER_UNIT: usize = 16;

/// Objects, each key once. It does not change.
#[derive(Debug, Default)]
pub struct Set {
    objects: BTreeMap<Key, Arc<Object>>,
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
        self.objects.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Length of all of them in JSON.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The object of a key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// All objects in the order of kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// Those behind a key.
    pub fn after(&self, key: &Key) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.range((Bound::Excluded(key), Bound::Unbounded)).map(|(_, object)| object)
    }

    /// How many objects of each kind there are; kinds without any are left out.
    pub fn count_by_kind(&self) -> Vec<(Kind, usize)> {
        let mut counts = [0; Kind::COUNT];
        self.objects.keys().for_each(|key| counts[key.kind.index()] += 1);
        Kind::all().zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// Another set, and what is different in it, in order. Of objects with one key the last one counts.
    pub async fn change(&self, edit: &Edit, pace: &Pace) -> (Set, Vec<Change>) {
        let mut next = Set::default();
        let keeps = !matches!(edit, Edit::Replace(_));
        for (index, (key, object)) in self.objects.iter().filter(|_| keeps).enumerate() {
            if index % COPIES_PER_UNIT == 0 {
                pace.spend(1).await;
            }
            let _ = next.objects.insert(key.clone(), object.clone());
        }
        let mut touched = BTreeSet::new();
        match edit {
            Edit::Apply(objects) | Edit::Replace(objects) => {
                for object in objects {
                    pace.spend(1).await;
                    next.put(object);
                    let _ = touched.insert(object.key());
                }
            }
            Edit::Delete(keys) => {
                for key in keys {
                    pace.spend(1).await;
                    let _ = next.objects.remove(key);
                    let _ = touched.insert(key);
                }
            }
        }
        if !keeps {
            touched.extend(self.objects.keys());
        }
        next.bytes = next.objects.values().map(|object| object.text().len()).sum();
        let mut changes = Vec::new();
        for key in touched {
            pace.spend(1).await;
            changes.extend(next.compared(self, key));
        }
        (next, changes)
    }

    /// What says the same keeps its place in memory, so that what was made of it is known to be as it was.
    fn put(&mut self, object: &Arc<Object>) {
        let _ = self.objects.insert(object.key().clone(), object.clone());
    }

    fn compared(&mut self, before: &Set, key: &Key) -> Option<Change> {
        let (old, new) = (before.objects.get(key), self.objects.get_mut(key));
        let op = match (old, &new) {
            (None, None) => return None,
            (None, Some(_)) => ChangeOp::Add,
            (Some(_), None) => ChangeOp::Remove,
            (Some(_), Some(_)) => ChangeOp::Change,
        };
        if let (Some(old), Some(new)) = (old, new)
            && old.text() == new.text()
        {
            *new = old.clone();
            return None;
        }
        let after = self.objects.get(key).cloned();
        Some(Change { key: key.clone(), op, before: old.cloned(), after })
    }
}
