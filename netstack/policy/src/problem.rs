//! What is wrong with a document, and where.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

/// No document gets more problems listed than this.
const MAX_PROBLEMS: usize = 64;

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The problems of one document found so far, and where the check is.
#[derive(Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
    place: Vec<String>,
}

impl Problems {
    /// Adds a problem with a member of the value being checked; "" is the value itself.
    pub fn add(&mut self, member: &str, message: impl Into<String>) {
        if self.found.len() < MAX_PROBLEMS {
            let mut pointer: String = self.place.iter().map(|part| format!("/{part}")).collect();
            if !member.is_empty() {
                pointer.push('/');
                pointer.push_str(&escape(member));
            }
            self.found.push(Problem { pointer, message: message.into() });
        }
    }

    /// Runs a check of a member of the value being checked.
    pub fn within<T>(&mut self, member: &str, check: impl FnOnce(&mut Problems) -> T) -> T {
        self.place.push(escape(member));
        let result = check(self);
        let _ = self.place.pop();
        result
    }

    /// Runs a check on every element of an array that is a member of the value being checked.
    pub fn each<T, R>(
        &mut self,
        member: &str,
        items: &[T],
        mut check: impl FnMut(&mut Problems, usize, &T) -> R,
    ) -> Vec<R> {
        self.within(member, |problems| {
            let one = |(index, item)| problems.within(&format!("{index}"), |p| check(p, index, item));
            items.iter().enumerate().map(one).collect()
        })
    }

    pub fn into_vec(self) -> Vec<Problem> {
        self.found
    }
}

/// RFC 6901 §3: `~` is `~0`, `/` is `~1`.
pub(crate) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_knows_its_place() {
        let mut problems = Problems::default();
        problems.within("spec", |p| {
            let _ = p.each("a/b", &[1, 2], |p, index, _| {
                if index == 1 {
                    p.add("x~y", "wrong");
                }
            });
            p.add("", "all of it");
        });
        let pointers: Vec<String> = problems.into_vec().into_iter().map(|p| p.pointer).collect();
        assert_eq!(pointers, ["/spec/a~1b/1/x~0y", "/spec"]);
    }

    #[test]
    fn the_list_is_bounded() {
        let mut problems = Problems::default();
        (0..1000).for_each(|_| problems.add("", "x"));
        assert_eq!(problems.into_vec().len(), MAX_PROBLEMS);
    }
}
