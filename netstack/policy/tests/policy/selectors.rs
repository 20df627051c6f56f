//! The selector language against Calico's own cases.

use crate::common::{list, load, text};
use policy::{Labels, Selector};

#[test]
fn selectors_agree_with_calico() {
    let truth = load("calico-selector-truth.json.gz");
    let mut checked = 0;
    for case in list(&truth["selectors"]) {
        let selector = Selector::parse(text(&case["selector"])).unwrap();
        for (field, wanted) in [("matches", true), ("non_matches", false)] {
            for labels in list(&case[field]) {
                let labels: Labels = serde_json::from_value(labels.clone()).unwrap();
                assert_eq!(selector.matches(&labels), wanted, "{selector} on {labels:?}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 50, "{checked} cases only");
}

#[test]
fn bad_selectors_are_refused() {
    let truth = load("calico-selector-truth.json.gz");
    let bad = list(&truth["bad_selectors"]);
    assert!(bad.len() >= 13);
    for selector in bad {
        assert!(Selector::parse(text(selector)).is_err(), "{selector} was taken");
    }
}

#[test]
fn canonical_forms_agree_with_calico() {
    let truth = load("calico-selector-truth.json.gz");
    let cases = list(&truth["canonicalisation"]);
    assert!(cases.len() >= 9);
    for case in cases {
        let selector = Selector::parse(text(&case["in"])).unwrap();
        assert_eq!(selector.to_string(), text(&case["canonical"]));
        assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
    }
}
