//! Calico's selector language. What is accepted has a canonical form, which selects the same labels and is its own; what is
//! refused says where.

use policy::{Labels, Selector};

/// Labels that are tried at most.
const MAX_LABELS: usize = 8;
/// What selectors over namespaces carry before their keys.
const PREFIX: &str = "pcns.";

/// Reads `data` as a selector.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let selector = match Selector::parse(text) {
        Ok(selector) => selector,
        Err(error) => {
            assert!(text.is_char_boundary(error.at), "what is wrong is at {} of {}", error.at, text.len());
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let canonical = selector.to_string();
    let again = Selector::parse(&canonical)
        .unwrap_or_else(|error| panic!("the canonical form {canonical} is refused: {error}"));
    assert_eq!(again.to_string(), canonical, "the canonical form has another one");
    let both = selector.clone().and(Selector::Not(Box::new(selector.clone())));
    let prefixed = selector.clone().with_prefix(PREFIX);
    for labels in labels(text) {
        let is_selected = selector.matches(&labels);
        assert_eq!(again.matches(&labels), is_selected, "{canonical} selects others: {labels:?}");
        assert!(!both.matches(&labels), "{canonical} both selects and does not: {labels:?}");
        let labels = labels.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect();
        assert_eq!(prefixed.matches(&labels), is_selected, "{canonical} with a prefix: {labels:?}");
    }
}

/// None, and those that the words of a text make, each with the words behind it as values.
fn labels(text: &str) -> Vec<Labels> {
    let is_part = |letter: char| letter.is_alphanumeric() || matches!(letter, '.' | '/' | '-' | '_');
    let words: Vec<&str> = text.split(|letter| !is_part(letter)).filter(|word| !word.is_empty()).collect();
    let pair = |distance: usize| {
        let values = words.iter().skip(distance);
        words.iter().zip(values).map(|(key, value)| ((*key).into(), (*value).into())).collect::<Labels>()
    };
    (0..MAX_LABELS.min(words.len())).map(pair).chain([Labels::new()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_selectors_are_of_both_kinds() {
        for input in crate::corpus::load("selector").unwrap() {
            let text = String::from_utf8(input.data).unwrap();
            let is_wrong = input.name.contains("wrong");
            assert_eq!(Selector::parse(&text).is_err(), is_wrong, "{}", input.name);
        }
    }
}
