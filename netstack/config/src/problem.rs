//! What is wrong with a document, and where.

use alloc::{format, string::String, vec::Vec};
use core::fmt;
use serde::Serialize;

/// No document gets more problems listed than this: the first ones are what a person mends first.
pub const MAX_PROBLEMS: usize = 64;

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// RFC 6901 JSON pointer to the value; empty for the whole document.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() { "document" } else { &self.pointer };
        write!(f, "{place}: {}", self.message)
    }
}

/// The problems found so far, at most [`MAX_PROBLEMS`].
#[derive(Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < MAX_PROBLEMS {
            self.0.push(Problem { pointer: pointer.into(), message: message.into() });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts what was found since there were `before`, with pointers that begin at a value, below the pointer `above` to it.
    pub fn put_below(&mut self, before: usize, above: impl FnOnce() -> String) {
        let found = self.0.get_mut(before..).unwrap_or_default();
        if !found.is_empty() {
            let above = above();
            found.iter_mut().for_each(|problem| problem.pointer.insert_str(0, &above));
        }
    }

    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}

/// The pointer to a member of the value at `parent` (RFC 6901 §3: `~` is `~0`, `/` is `~1`).
pub fn member(parent: &str, name: &str) -> String {
    let mut pointer = String::from(parent);
    pointer.push('/');
    for letter in name.chars() {
        match letter {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            _ => pointer.push(letter),
        }
    }
    pointer
}

/// The pointer to an element of the array at `parent`.
pub fn element(parent: &str, index: usize) -> String {
    format!("{parent}/{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_escaped() {
        assert_eq!(member("/a", "b/c~d"), "/a/b~1c~0d");
        assert_eq!(element("/a", 3), "/a/3");
    }

    #[test]
    fn the_list_is_bounded() {
        let mut problems = Problems::default();
        for _ in 0..1000 {
            problems.add("", "x");
        }
        assert_eq!(problems.into_vec().len(), MAX_PROBLEMS);
    }
}
