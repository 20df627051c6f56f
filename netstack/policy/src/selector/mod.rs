//! Calico's selector language: expressions over labels, such as `role == 'db' && has(env)`.

mod parse;

use alloc::{boxed::Box, collections::BTreeMap, string::String, vec::Vec};
use core::fmt;

pub use parse::SelectorError;

/// Labels of an endpoint, a namespace or a set of networks.
pub type Labels = BTreeMap<String, String>;

/// A parsed selector.
///
/// Its `Display` is the canonical form: two selectors that differ in spacing, quotes, or order and repetition
/// within `{...}` have the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `all()`, and the empty selector: everything.
    All,
    /// `global()`: everything; only in a namespace selector it means what has no namespace.
    Global,
    /// `has(key)`.
    Has(String),
    /// `key == 'value'`.
    Equals(String, String),
    /// `key != 'value'`; a missing label is unequal.
    Differs(String, String),
    /// `key in {...}`, sorted.
    In(String, Vec<String>),
    /// `key not in {...}`, sorted; a missing label is in no set.
    NotIn(String, Vec<String>),
    /// `key contains 'text'`.
    Contains(String, String),
    /// `key starts with 'text'`.
    StartsWith(String, String),
    /// `key ends with 'text'`.
    EndsWith(String, String),
    /// `!operand`.
    Not(Box<Selector>),
    /// `a && b`; never empty.
    And(Vec<Selector>),
    /// `a || b`; never empty.
    Or(Vec<Selector>),
}

impl Selector {
    /// Parses a selector; the empty text selects everything.
    ///
    /// # Errors
    /// Where the text ceases to be a selector, and what would have been right there.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        parse::parse(text)
    }

    /// True if labels are selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = |key: &String| labels.get(key).map(String::as_str);
        match self {
            Selector::All | Selector::Global => true,
            Selector::Has(key) => labels.contains_key(key),
            Selector::Equals(key, wanted) => value(key) == Some(wanted),
            Selector::Differs(key, wanted) => value(key) != Some(wanted),
            Selector::In(key, set) => value(key).is_some_and(|v| contains(set, v)),
            Selector::NotIn(key, set) => !value(key).is_some_and(|v| contains(set, v)),
            Selector::Contains(key, part) => value(key).is_some_and(|v| v.contains(part.as_str())),
            Selector::StartsWith(key, part) => value(key).is_some_and(|v| v.starts_with(part.as_str())),
            Selector::EndsWith(key, part) => value(key).is_some_and(|v| v.ends_with(part.as_str())),
            Selector::Not(operand) => !operand.matches(labels),
            Selector::And(operands) => operands.iter().all(|operand| operand.matches(labels)),
            Selector::Or(operands) => operands.iter().any(|operand| operand.matches(labels)),
        }
    }

    /// Both selectors.
    pub fn and(self, other: Selector) -> Selector {
        match (self, other) {
            (Selector::All, one) | (one, Selector::All) => one,
            (Selector::And(mut operands), Selector::And(more)) => {
                operands.extend(more);
                Selector::And(operands)
            }
            (Selector::And(mut operands), one) => {
                operands.push(one);
                Selector::And(operands)
            }
            (one, other) => Selector::And(Vec::from([one, other])),
        }
    }

    /// The same selector over labels whose keys carry a prefix, as namespaces' labels do on their endpoints.
    pub fn with_prefix(self, prefix: &str) -> Selector {
        let key = |key: String| alloc::format!("{prefix}{key}");
        let all = |operands: Vec<Selector>| {
            operands.into_iter().map(|operand| operand.with_prefix(prefix)).collect()
        };
        match self {
            Selector::All => Selector::All,
            Selector::Global => Selector::Global,
            Selector::Has(k) => Selector::Has(key(k)),
            Selector::Equals(k, v) => Selector::Equals(key(k), v),
            Selector::Differs(k, v) => Selector::Differs(key(k), v),
            Selector::In(k, v) => Selector::In(key(k), v),
            Selector::NotIn(k, v) => Selector::NotIn(key(k), v),
            Selector::Contains(k, v) => Selector::Contains(key(k), v),
            Selector::StartsWith(k, v) => Selector::StartsWith(key(k), v),
            Selector::EndsWith(k, v) => Selector::EndsWith(key(k), v),
            Selector::Not(operand) => Selector::Not(Box::new(operand.with_prefix(prefix))),
            Selector::And(operands) => Selector::And(all(operands)),
            Selector::Or(operands) => Selector::Or(all(operands)),
        }
    }

    /// True if `global()` is said somewhere in it.
    pub(crate) fn says_global(&self) -> bool {
        match self {
            Selector::Global => true,
            Selector::Not(operand) => operand.says_global(),
            Selector::And(operands) | Selector::Or(operands) => operands.iter().any(Selector::says_global),
            _ => false,
        }
    }
}

fn contains(sorted: &[String], value: &str) -> bool {
    sorted.binary_search_by(|candidate| candidate.as_str().cmp(value)).is_ok()
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::All => f.write_str("all()"),
            Selector::Global => f.write_str("global()"),
            Selector::Has(key) => write!(f, "has({key})"),
            Selector::Equals(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Selector::Differs(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Selector::In(key, set) => write!(f, "{key} in {}", Set(set)),
            Selector::NotIn(key, set) => write!(f, "{key} not in {}", Set(set)),
            Selector::Contains(key, part) => write!(f, "{key} contains {}", Quoted(part)),
            Selector::StartsWith(key, part) => write!(f, "{key} starts with {}", Quoted(part)),
            Selector::EndsWith(key, part) => write!(f, "{key} ends with {}", Quoted(part)),
            Selector::Not(operand) => write!(f, "!{operand}"),
            Selector::And(operands) => joined(f, operands, " && "),
            Selector::Or(operands) => joined(f, operands, " || "),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, operands: &[Selector], between: &str) -> fmt::Result {
    f.write_str("(")?;
    for (index, operand) in operands.iter().enumerate() {
        let separator = if index == 0 { "" } else { between };
        write!(f, "{separator}{operand}")?;
    }
    f.write_str(")")
}

/// The language has no escapes: a text holds one kind of quote at most.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a [String]);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, value) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", Quoted(value))?;
        }
        f.write_str("}")
    }
}
