//! The parser: recursive descent over the text, without a token list.
//!
//! ```text
//! or      = and { "||" and }
//! and     = not { "&&" not }
//! not     = { "!" } ( "(" or ")" | has(key) | all() | global() | key operator )
//! ```

use alloc::{
    boxed::Box,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use super::Selector;

/// Parentheses within parentheses; people write three.
const MAX_DEPTH: usize = 64;

/// Bytes of a label's key.
const MAX_KEY_BYTES: usize = 512;

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError {
    /// Where, in bytes from the start of the text.
    pub at: usize,
    /// What would have been right there.
    pub expected: &'static str,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a selector: at character {}, {} was expected", self.at + 1, self.expected)
    }
}

type Result<T> = core::result::Result<T, SelectorError>;

pub(super) fn parse(text: &str) -> Result<Selector> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.skip_space();
    if parser.rest().is_empty() {
        return Ok(Selector::All);
    }
    let selector = parser.or()?;
    if parser.rest().is_empty() { Ok(selector) } else { parser.expected("&&, || or the end") }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T> {
        Err(SelectorError { at: self.at, expected })
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    /// Takes `token` and the space behind it, if the text goes on with it.
    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
            self.skip_space();
        }
        found
    }

    fn or(&mut self) -> Result<Selector> {
        let first = self.and()?;
        let mut operands = Vec::from([first]);
        while self.take("||") {
            operands.push(self.and()?);
        }
        Ok(one_or(operands, Selector::Or))
    }

    fn and(&mut self) -> Result<Selector> {
        let first = self.not()?;
        let mut operands = Vec::from([first]);
        while self.take("&&") {
            operands.push(self.not()?);
        }
        Ok(one_or(operands, Selector::And))
    }

    fn not(&mut self) -> Result<Selector> {
        let mut negated = false;
        while self.take("!") {
            negated = !negated;
        }
        Ok(match (negated, self.operand()?) {
            (false, operand) => operand,
            // `!(!a)` is `!!a`.
            (true, Selector::Not(operand)) => *operand,
            (true, operand) => Selector::Not(Box::new(operand)),
        })
    }

    fn operand(&mut self) -> Result<Selector> {
        if self.take("(") {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return self.expected("less nesting");
            }
            let inner = self.or()?;
            self.depth -= 1;
            return if self.take(")") { Ok(inner) } else { self.expected("`)`") };
        }
        for (function, selector) in [("all(", Selector::All), ("global(", Selector::Global)] {
            if self.take(function) {
                return if self.take(")") { Ok(selector) } else { self.expected("`)`") };
            }
        }
        if self.take("has(") {
            let key = self.key()?;
            return if self.take(")") { Ok(Selector::Has(key)) } else { self.expected("`)`") };
        }
        let key = self.key()?;
        self.operator(key)
    }

    fn operator(&mut self, key: String) -> Result<Selector> {
        if self.take("==") {
            return Ok(Selector::Equals(key, self.string()?));
        }
        if self.take("!=") {
            return Ok(Selector::Differs(key, self.string()?));
        }
        if self.take("contains") {
            return Ok(Selector::Contains(key, self.string()?));
        }
        if self.take("starts") && self.take("with") {
            return Ok(Selector::StartsWith(key, self.string()?));
        }
        if self.take("ends") && self.take("with") {
            return Ok(Selector::EndsWith(key, self.string()?));
        }
        let negated = self.take("not");
        if self.take("in") {
            let set = self.set()?;
            return Ok(if negated { Selector::NotIn(key, set) } else { Selector::In(key, set) });
        }
        self.expected("==, !=, in, not in, contains, starts with or ends with")
    }

    fn key(&mut self) -> Result<String> {
        let rest = self.rest();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let key = rest.get(..rest.find(|c| !allowed(c)).unwrap_or(rest.len())).unwrap_or_default();
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return self.expected("a label's key");
        }
        self.at += key.len();
        self.skip_space();
        Ok(key.to_string())
    }

    fn string(&mut self) -> Result<String> {
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
            return self.expected("a text in quotes");
        };
        let inner = rest.get(1..).unwrap_or_default();
        let Some(len) = inner.find(quote) else { return self.expected("a closing quote") };
        self.at += len + 2;
        self.skip_space();
        Ok(inner.get(..len).unwrap_or_default().to_string())
    }

    fn set(&mut self) -> Result<Vec<String>> {
        if !self.take("{") {
            return self.expected("`{`");
        }
        let mut set = Vec::new();
        while self.rest().starts_with(['\'', '"']) {
            set.push(self.string()?);
            if !self.take(",") {
                break;
            }
        }
        if !self.take("}") {
            return self.expected("`,` and a text in quotes, or `}`");
        }
        set.sort();
        set.dedup();
        Ok(set)
    }
}

fn one_or(mut operands: Vec<Selector>, many: fn(Vec<Selector>) -> Selector) -> Selector {
    match operands.pop() {
        Some(only) if operands.is_empty() => only,
        Some(last) => {
            operands.push(last);
            many(operands)
        }
        None => Selector::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn and_binds_closer_than_or() {
        let text = "a == 'x' || b != 'y' && !has(c)";
        let selector = parse(text).unwrap();
        assert_eq!(format!("{selector}"), "(a == \"x\" || (b != \"y\" && !has(c)))");
        assert_eq!(parse(&format!("{selector}")), Ok(selector));
    }

    #[test]
    fn two_negations_are_none() {
        for text in ["!!has(a)", "!(!has(a))", "!((!(has(a))))", "!(!(!(!has(a))))"] {
            assert_eq!(format!("{}", parse(text).unwrap()), "has(a)", "{text}");
        }
        assert_eq!(format!("{}", parse("!(!(!has(a)))").unwrap()), "!has(a)");
    }

    #[test]
    fn an_error_says_where() {
        let error = parse("a == 'x' && b").unwrap_err();
        assert_eq!(error.at, 13);
        let error = parse("role = 'db'").unwrap_err();
        assert!(format!("{error}").contains("at character 6"), "{error}");
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "(".repeat(100_000) + "all()" + &")".repeat(100_000);
        assert_eq!(parse(&deep).unwrap_err().expected, "less nesting");
        assert!(parse(&("!".repeat(100_001) + "all()")).is_ok());
    }
}
