//! What differs between two configurations, in terms a person uses.

use crate::{
    Config, Tree,
    schema::{Field, Presence, Schema, by_key, key_of},
    table,
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happens to the item or field.
    pub op: ChangeKind,
    /// What it is about, by names rather than by indexes: `interfaces eth0 mtu`, `routes 10.0.0.0/8`.
    pub item: String,
    /// The old value; None for `add`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// The new value; None for `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// What kind of difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Only the new configuration has it.
    Add,
    /// Only the old configuration has it.
    Remove,
    /// Both have it, with different values.
    Change,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| value.as_ref().map(Value::to_string).unwrap_or_default();
        match self.op {
            ChangeKind::Add => write!(f, "+ {} {}", self.item, text(&self.to)),
            ChangeKind::Remove => write!(f, "- {} {}", self.item, text(&self.from)),
            ChangeKind::Change => write!(f, "~ {} {} -> {}", self.item, text(&self.from), text(&self.to)),
        }
    }
}

/// The differences that lead from `old` to `new`, in the order of the schema. Order of interfaces, routes, neighbours,
/// addresses and next hops is no difference. Secrets are shown as `"<secret>"`; a new configuration without one keeps the old.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    let tree = |config: &Config| serde_json::to_value(config).map(Tree);
    if let (Ok(old), Ok(new)) = (tree(old), tree(new)) {
        compare(&table::CONFIG, "", Some(&old.0), Some(&new.0), &mut changes);
    }
    changes
}

fn compare(schema: &Schema, item: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    match (schema, old, new) {
        (_, old, new) if old == new => {}
        (Schema::Object(fields), Some(old), Some(new)) => {
            for field in *fields {
                compare_field(field, item, old, new, changes);
            }
        }
        (Schema::List { items, key, .. }, Some(Value::Array(old)), Some(Value::Array(new))) => {
            compare_lists(items, key, item, old, new, changes);
        }
        _ => {
            changes.push(change(
                item,
                old.map(|old| hidden(schema, old)),
                new.map(|new| hidden(schema, new)),
            ));
        }
    }
}

fn compare_field(field: &Field, item: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    let item = if item.is_empty() { field.name.to_string() } else { format!("{item} {}", field.name) };
    let (old, new) = (old.get(field.name), new.get(field.name));
    if field.presence != Presence::Secret {
        compare(field.schema, &item, old, new, changes);
    } else if new.is_some() && old != new {
        changes.push(change(&item, old.map(|_| SECRET.into()), Some(SECRET.into())));
    }
}

fn compare_lists(
    schema: &Schema,
    key: &[&str],
    item: &str,
    old: &[Value],
    new: &[Value],
    changes: &mut Vec<Change>,
) {
    let (old_items, new_items) = (by_key(old, key), by_key(new, key));
    for (name, old) in &old_items {
        if !new_items.contains_key(name) {
            changes.push(change(&format!("{item} {name}"), Some(hidden(schema, old)), None));
        }
    }
    for new in new {
        let Some(name) = key_of(new, key) else { continue };
        compare(schema, &format!("{item} {name}"), old_items.get(&name).copied(), Some(new), changes);
    }
}

/// What stands for a secret.
const SECRET: &str = "<secret>";

/// The value with every secret in it hidden.
fn hidden(schema: &Schema, value: &Value) -> Value {
    match (schema, value) {
        (Schema::Object(fields), Value::Object(members)) => {
            let shown = members.iter().map(|(name, value)| {
                let field = fields.iter().find(|field| field.name == name);
                let shown = match field {
                    Some(field) if field.presence == Presence::Secret => SECRET.into(),
                    Some(field) => hidden(field.schema, value),
                    None => value.clone(),
                };
                (name.clone(), shown)
            });
            Value::Object(shown.collect())
        }
        (Schema::List { items, .. }, Value::Array(values)) => {
            values.iter().map(|value| hidden(items, value)).collect()
        }
        _ => value.clone(),
    }
}

fn change(item: &str, from: Option<Value>, to: Option<Value>) -> Change {
    let op = match (&from, &to) {
        (None, _) => ChangeKind::Add,
        (_, None) => ChangeKind::Remove,
        _ => ChangeKind::Change,
    };
    Change { op, item: item.to_string(), from, to }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::{string::ToString, vec};

    fn config(value: &Value) -> Config {
        crate::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn equal_but_for_order() {
        let a = config(
            &json!({"interfaces": [{"name": "eth0", "addresses": ["10.0.0.1/24", "10.1.0.1/24"]}, {"name": "eth1"}]}),
        );
        let b = config(
            &json!({"interfaces": [{"name": "eth1"}, {"name": "eth0", "addresses": ["10.1.0.1/24", "10.0.0.1/24"]}]}),
        );
        assert_eq!(diff(&a, &b), vec![]);
    }

    #[test]
    fn names_what_changed() {
        let a = config(
            &json!({"interfaces": [{"name": "eth0", "addresses": ["10.0.0.1/24"]}, {"name": "eth1"}]}),
        );
        let b = config(
            &json!({"hostname": "gw1", "interfaces": [{"name": "eth0", "mtu": 9000, "addresses": ["10.0.0.2/24"]}],
            "routes": [{"prefix": "0.0.0.0/0", "blackhole": true}]}),
        );
        let lines: Vec<String> = diff(&a, &b).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "~ hostname \"fairlead\" -> \"gw1\"",
                "- interfaces eth1 {\"addresses\":[],\"dhcp4\":false,\"enabled\":true,\"mtu\":1500,\"name\":\"eth1\"}",
                "~ interfaces eth0 mtu 1500 -> 9000",
                "- interfaces eth0 addresses 10.0.0.1/24 \"10.0.0.1/24\"",
                "+ interfaces eth0 addresses 10.0.0.2/24 \"10.0.0.2/24\"",
                "+ routes 0.0.0.0/0 {\"blackhole\":true,\"prefix\":\"0.0.0.0/0\"}",
            ]
        );
    }

    #[test]
    fn keys_of_new_and_removed_associations_stay_secret() {
        let association = |spi: u32, key: &str| json!({"name": "a", "tunnel": "t", "direction": "out", "spi": spi, "algorithm": "aes128gcm16", "key": key.repeat(20)});
        let with = |associations: Value| {
            config(&json!({
                "interfaces": [{"name": "eth0", "addresses": ["192.0.2.1/24"]}],
                "ipsec": {"tunnels": [{"name": "t", "local": "192.0.2.1", "remote": "192.0.2.2"}], "associations": associations},
            }))
        };
        let (none, old, new) =
            (with(json!([])), with(json!([association(256, "ab")])), with(json!([association(257, "cd")])));
        for (from, to) in [(&none, &old), (&old, &none), (&old, &new)] {
            let text = serde_json::to_string(&diff(from, to)).unwrap();
            assert!(!text.contains("abab") && !text.contains("cdcd") && text.contains("<secret>"), "{text}");
        }
        let shown = serde_json::to_string(&new.without_secrets()).unwrap();
        assert!(!shown.contains("cdcd"), "{shown}");
        assert_eq!(diff(&old, &old.without_secrets()), vec![]);
    }

    #[test]
    fn next_hops_on_two_interfaces_are_two() {
        let via = |interfaces: &[&str]| {
            let hops: Vec<_> =
                interfaces.iter().map(|name| json!({"address": "fe80::1", "interface": name})).collect();
            config(
                &json!({"interfaces": [{"name": "eth0"}, {"name": "eth1"}], "routes": [{"prefix": "::/0", "via": hops}]}),
            )
        };
        let changes = diff(&via(&["eth0", "eth1"]), &via(&["eth0"]));
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(diff(&via(&["eth0", "eth1"]), &via(&["eth1", "eth0"])), vec![]);
    }

    #[test]
    fn secrets_stay_secret() {
        let a = config(&json!({"api": {"token": "0123456789abcdef"}}));
        let b = config(&json!({"api": {"token": "fedcba9876543210"}}));
        let changes = diff(&a, &b);
        assert_eq!(changes.len(), 1);
        assert!(!serde_json::to_string(&changes).unwrap().contains("fedcba"));
        assert_eq!(diff(&a, &Config::default()), vec![]);
    }
}
