//! What is wrong with a document, and where.

use alloc::{format, string::String, vec::Vec};

use config::{MAX_PROBLEMS, Problem, member};

/// The problems of one document found so far, and where the check is.
#[derive(Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
    /// Pointer to the value being checked.
    place: String,
}

impl Problems {
    /// Adds a problem with a member of the value being checked; "" is the value itself.
    pub fn add(&mut self, name: &str, message: impl Into<String>) {
        if self.found.len() < MAX_PROBLEMS {
            let pointer = if name.is_empty() { self.place.clone() } else { member(&self.place, name) };
            self.found.push(Problem { pointer, message: message.into() });
        }
    }

    /// Adds what is wrong with a member of the value being checked, or within it.
    pub fn add_below(&mut self, name: &str, Problem { pointer, message }: Problem) {
        self.within(name, |problems| {
            problems.place.push_str(&pointer);
            problems.add("", message);
        });
    }

    /// Runs a check of a member of the value being checked.
    pub fn within<T>(&mut self, name: &str, check: impl FnOnce(&mut Problems) -> T) -> T {
        let outer = self.place.len();
        self.place = member(&self.place, name);
        let result = check(self);
        self.place.truncate(outer);
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
