//! What differs between two versions of an object, field by field.

use alloc::string::String;
use alloc::vec::Vec;

use config::{element, member};
use serde::Serialize;
use serde_json::Value;

/// Fields of one object that are told at most.
pub const MAX_FIELDS: usize = 64;

/// One field.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldChange {
    /// RFC 6901 pointer into the object.
    pub pointer: String,
    /// What happened to it.
    pub op: FieldOp,
    /// What was there; null for nothing.
    pub from: Value,
    /// What is there; null for nothing.
    pub to: Value,
}

/// What can happen to a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldOp {
    /// It is new.
    Add,
    /// It is gone.
    Remove,
    /// It is another.
    Change,
}

/// The differences of two versions, at most [`MAX_FIELDS`]. Elements of lists are compared by their places.
pub fn differences(before: &Value, after: &Value) -> Vec<FieldChange> {
    let mut found = Vec::new();
    compare(before, after, "", &mut found);
    found
}

fn compare(before: &Value, after: &Value, at: &str, found: &mut Vec<FieldChange>) {
    if found.len() >= MAX_FIELDS || before == after {
        return;
    }
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let added = new.keys().filter(|key| !old.contains_key(*key));
            for key in old.keys().chain(added) {
                side_by_side(old.get(key), new.get(key), &member(at, key), found);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for index in 0..old.len().max(new.len()) {
                side_by_side(old.get(index), new.get(index), &element(at, index), found);
            }
        }
        _ => note(FieldOp::Change, before, after, at, found),
    }
}

fn side_by_side(old: Option<&Value>, new: Option<&Value>, at: &str, found: &mut Vec<FieldChange>) {
    match (old, new) {
        (Some(old), Some(new)) => compare(old, new, at, found),
        (Some(old), None) => note(FieldOp::Remove, old, &Value::Null, at, found),
        (None, Some(new)) => note(FieldOp::Add, &Value::Null, new, at, found),
        (None, None) => {}
    }
}

fn note(op: FieldOp, from: &Value, to: &Value, at: &str, found: &mut Vec<FieldChange>) {
    if found.len() < MAX_FIELDS {
        found.push(FieldChange { pointer: at.into(), op, from: from.clone(), to: to.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn fields_are_named() {
        let before = json!({"a": 1, "b/c": [1, 2], "d": {"e": null}});
        let after = json!({"a": 1, "b/c": [1, 3, 4], "f": "x"});
        let told: Vec<_> = differences(&before, &after)
            .into_iter()
            .map(|change| (change.pointer, change.op, change.from, change.to))
            .collect();
        assert_eq!(
            told,
            [
                ("/b~1c/1".into(), FieldOp::Change, json!(2), json!(3)),
                ("/b~1c/2".into(), FieldOp::Add, json!(null), json!(4)),
                ("/d".into(), FieldOp::Remove, json!({"e": null}), json!(null)),
                ("/f".into(), FieldOp::Add, json!(null), json!("x")),
            ]
        );
    }

    #[test]
    fn the_list_is_bounded() {
        let before: Value = (0..1000).collect::<Vec<_>>().into();
        let after: Value = (1..1001).collect::<Vec<_>>().into();
        assert_eq!(differences(&before, &after).len(), MAX_FIELDS);
    }

    proptest! {
        #[test]
        fn none_if_and_only_if_the_same(a in prop::collection::vec(0..3, 0..4), b in prop::collection::vec(0..3, 0..4)) {
            prop_assert_eq!(differences(&json!(a), &json!(b)).is_empty(), a == b);
        }
    }
}
