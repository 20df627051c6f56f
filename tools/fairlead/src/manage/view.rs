//! How the API's answers look to people, without knowing every field: single values as a list, objects below a heading,
//! arrays of objects as tables. What a reader looks for first comes first.

use serde_json::{Map, Value};

use crate::output::{self, Colour, paint};

/// Members in the order in which a reader looks for them; all others follow by name.
const FIRST: [&str; 27] = [
    "hostname",
    "version",
    "name",
    "prefix",
    "interface",
    "worker",
    "stage",
    "node",
    "reason",
    "id",
    "role",
    "link_up",
    "enabled",
    "state",
    "source",
    "address",
    "mac",
    "mtu",
    "addresses",
    "link_local",
    "via",
    "packets",
    "bytes",
    "rx_packets",
    "rx_bytes",
    "tx_packets",
    "tx_bytes",
];

/// Any answer.
pub fn describe(answer: &Value) -> String {
    match answer {
        Value::Object(members) => {
            // One list alone needs no heading.
            let lists: Vec<_> = members.values().filter(|value| value.is_array()).collect();
            match lists[..] {
                [Value::Array(items)] if members.len() == 1 => list(items),
                _ => object(members, ""),
            }
        }
        Value::Array(items) => list(items),
        other => format!("{}\n", output::cell(other)),
    }
}

/// `/v1/status`: as [`describe`], with the uptime in words and memory in MiB.
pub fn status(answer: &Value) -> String {
    let mut answer = answer.clone();
    if let Some(members) = answer.as_object_mut()
        && let Some(seconds) = members.remove("uptime_seconds")
    {
        let words = output::duration(seconds.as_f64().unwrap_or(0.0) as u64);
        let _ = members.insert("uptime".into(), words.into());
    }
    if let Some(Value::Object(memory)) = answer.get_mut("memory") {
        for value in memory.values_mut() {
            *value = value
                .as_u64()
                .map_or(Value::Null, |bytes| format!("{:.1} MiB", bytes as f64 / 1_048_576.0).into());
        }
    }
    describe(&answer)
}

/// Removes the items of lists in which `text` does not occur.
pub fn retain(answer: &mut Value, text: &str) {
    let lists = answer.as_object_mut().into_iter().flat_map(Map::values_mut).filter_map(Value::as_array_mut);
    for items in lists {
        items.retain(|item| item.to_string().contains(text));
    }
}

/// A page of routes, with headings if it is the first.
pub fn route_table(routes: &[Value], first: bool) -> String {
    let text = if routes.is_empty() { String::new() } else { list(routes) };
    match text.split_once('\n') {
        Some((_, rest)) if !first => rest.to_owned(),
        _ => text,
    }
}

/// A query parameter's value (RFC 3986 §2.1).
pub fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn object(members: &Map<String, Value>, indent: &str) -> String {
    let is_block = |value: &Value| value.is_object() || is_table(value);
    let mut keys: Vec<&String> = members.keys().collect();
    keys.sort_by_key(|key| rank(key));
    let width = keys.iter().filter(|key| !is_block(&members[**key])).map(|key| key.len()).max().unwrap_or(0);
    let mut text = String::new();
    for key in keys.iter().filter(|key| !is_block(&members[**key])) {
        text += &format!("{indent}{key:width$}  {}\n", output::cell(&members[*key]));
    }
    for key in keys.iter().filter(|key| is_block(&members[**key])) {
        text += &format!("{indent}{}\n", paint(Colour::Bold, &format!("{key}:")));
        let inner = match &members[*key] {
            Value::Object(members) => object(members, "  "),
            Value::Array(items) => list(items).lines().map(|line| format!("  {line}\n")).collect(),
            _ => String::new(),
        };
        text.extend(inner.lines().map(|line| format!("{indent}{line}\n")));
    }
    text
}

fn is_table(value: &Value) -> bool {
    value.as_array().is_some_and(|items| items.first().is_some_and(Value::is_object))
}

fn list(items: &[Value]) -> String {
    if items.is_empty() {
        return "none\n".into();
    }
    if !items.iter().all(Value::is_object) {
        return items.iter().map(|item| format!("{}\n", output::cell(item))).collect();
    }
    let rows: Vec<Map<String, Value>> = items.iter().flat_map(rows).collect();
    let mut columns: Vec<&str> = Vec::new();
    for key in rows.iter().flat_map(Map::keys) {
        if !columns.contains(&key.as_str()) {
            columns.push(key);
        }
    }
    columns.sort_by_key(|key| rank(key));
    let value = |row: &Map<String, Value>, key: &str| row.get(key).cloned().unwrap_or_default();
    let right: Vec<&str> =
        columns.iter().copied().filter(|key| rows.iter().all(|row| value(row, key).is_number())).collect();
    let cells = rows.iter().map(|row| columns.iter().map(|key| output::cell(&value(row, key))).collect());
    output::table(&columns, &right, cells.collect())
}

/// The rows of one item: itself, or, if it has a table inside, that table's rows with the item's own members before
/// them; rows that count nothing are left out.
fn rows(item: &Value) -> Vec<Map<String, Value>> {
    let mut flat = flatten(item);
    let inner = flat.iter().find(|(_, value)| is_table(value) && value[0].get("address").is_none());
    let Some(key) = inner.map(|(key, _)| key.clone()) else { return vec![flat] };
    let Some(Value::Array(inner)) = flat.remove(&key) else { return vec![flat] };
    let counts = |row: &Value| {
        row.as_object().is_some_and(|row| row.values().any(|value| value.as_u64().is_some_and(|n| n > 0)))
    };
    let merge = |row: &Value| flat.clone().into_iter().chain(flatten(row)).collect();
    inner.iter().filter(|row| counts(row)).map(merge).collect()
}

/// Members of inner objects become members; what is null or empty is not worth a column.
fn flatten(item: &Value) -> Map<String, Value> {
    let mut flat = Map::new();
    for (key, value) in item.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) => {
                for (inner, value) in flatten(value) {
                    let name = if flat.contains_key(&inner) { format!("{key}.{inner}") } else { inner };
                    let _ = flat.insert(name, value);
                }
            }
            Value::Null => {}
            _ => drop(flat.insert(key.clone(), value.clone())),
        }
    }
    flat
}

fn rank(key: &str) -> (usize, String) {
    let name = key.rsplit('.').next().unwrap_or(key);
    (FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len()), key.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_becomes_a_table() {
        let answer = json!({"neighbours": [
            {"state": "reachable", "mac": "02:00:00:00:00:09", "interface": "eth0", "address": "10.0.0.9", "age": 3},
            {"state": "incomplete", "mac": null, "interface": "eth1", "address": "10.1.0.9", "age": 11},
        ]});
        assert_eq!(
            describe(&answer),
            "INTERFACE  STATE       ADDRESS   MAC                AGE\n\
             eth0       reachable   10.0.0.9  02:00:00:00:00:09    3\n\
             eth1       incomplete  10.1.0.9  -                   11\n"
        );
    }

    #[test]
    fn tables_inside_become_rows() {
        let answer = json!({"workers": [{"worker": 0, "nodes": [
            {"node": "ip4-input", "packets": 3, "clocks": 70}, {"node": "ip6-input", "packets": 0, "clocks": 0}]}]});
        assert_eq!(
            describe(&answer),
            "WORKER  NODE       PACKETS  CLOCKS\n     0  ip4-input        3      70\n"
        );
        let answer = json!({"interfaces": [{"name": "eth0", "counters": {"rx_packets": 5}}]});
        assert_eq!(describe(&answer), "NAME  RX_PACKETS\neth0           5\n");
    }

    #[test]
    fn an_object_becomes_a_list_with_blocks() {
        let answer = json!({"uptime_seconds": 61, "version": "0.1.0", "memory": {"free_bytes": 3_145_728}, "cores": [{"id": 0, "role": "both"}]});
        assert_eq!(
            status(&answer),
            "version  0.1.0\nuptime   1m 1s\ncores:\n  ID  ROLE\n   0  both\nmemory:\n  free_bytes  3.0 MiB\n"
        );
    }

    #[test]
    fn later_pages_have_no_headings() {
        let routes = [
            json!({"prefix": "10.0.0.0/8", "via": [{"address": "10.0.0.2", "interface": "eth0", "weight": 1}]}),
        ];
        assert_eq!(route_table(&routes, true), "PREFIX      VIA\n10.0.0.0/8  10.0.0.2 eth0\n");
        assert_eq!(route_table(&routes, false), "10.0.0.0/8  10.0.0.2 eth0\n");
        assert_eq!(route_table(&[], true), "");
    }

    #[test]
    fn filters_look_at_every_member() {
        let mut answer =
            json!({"interfaces": [{"name": "eth0"}, {"name": "eth1", "addresses": ["10.0.0.1/24"]}]});
        retain(&mut answer, "10.0.0.1");
        assert_eq!(answer, json!({"interfaces": [{"name": "eth1", "addresses": ["10.0.0.1/24"]}]}));
        assert_eq!(percent_encode("10.0.0.0/8"), "10.0.0.0%2F8");
    }
}
