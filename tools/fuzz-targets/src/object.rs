//! One object of Kubernetes or Calico. What is accepted says the same when its own text is read again; what is
//! refused names a field that is there or missing.

use std::sync::Arc;

use config::Problem;
use resources::{Identity, Object};
use serde_json::Value;

/// Reads `data`: an object, or a list of them.
pub fn run(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    for (_, item) in resources::flatten(value) {
        drop(self::read(&item));
    }
}

/// An object, if it is one.
pub fn read(value: &Value) -> Option<Arc<Object>> {
    let identity = Identity::of(value);
    match Object::read(value.clone()) {
        Ok(object) => {
            assert_eq!(identity, Ok(Identity::Known(object.key().clone())));
            let Ok(text) = serde_json::from_str(object.text()) else {
                panic!("{} is no JSON", object.text())
            };
            match Object::read(text) {
                Ok(again) => {
                    assert_eq!(again.key(), object.key());
                    // The last digit of a fraction of sixteen is not always read as it was written.
                    assert!(
                        again.text() == object.text() || has_fraction(value),
                        "{} has become {}",
                        object.text(),
                        again.text()
                    );
                }
                Err(error) => panic!("{} is refused when it is read again: {error:?}", object.text()),
            }
            Some(Arc::new(object))
        }
        Err(error) => {
            assert!(!error.0.is_empty(), "refused without a word: {value}");
            error.0.iter().for_each(|problem| assert_names_a_field(problem, value));
            None
        }
    }
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(members) => members.values().any(has_fraction),
        _ => false,
    }
}

/// A pointer is to what is there, or to what would be there if it were not missing.
pub fn assert_names_a_field(problem: &Problem, value: &Value) {
    let Problem { pointer, message } = problem;
    let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
    assert!(value.pointer(parent).is_some(), "{pointer} ({message}) is not in {value}");
    assert!(!message.is_empty(), "{pointer} of {value} is refused for nothing");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_kept_and_accepted() {
        let mut kinds = std::collections::BTreeSet::new();
        for input in crate::corpus::load("object").unwrap() {
            let value: Value = serde_json::from_slice(&input.data).unwrap();
            for (_, item) in resources::flatten(value) {
                kinds.extend(super::read(&item).map(|object| object.key().kind));
            }
        }
        assert_eq!(kinds.len(), resources::Kind::COUNT, "{kinds:?}");
    }
}
