//! The structural check: a JSON value against a [`Schema`], every fault with its pointer.

use crate::{
    MacAddress,
    problem::{Problems, element, member},
    schema::{Field, Format, MAX_COUNT, Presence, Schema},
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;
use ipnet::IpNet;
use serde_json::{Map, Value};

/// Adds to `problems` whatever in `value` is not as `schema` says. Pointers begin at `value`: they are put together on the
/// way up, so that what is right pays nothing for them.
pub(crate) fn check(value: &Value, schema: &Schema, problems: &mut Problems) {
    match (schema, value) {
        (Schema::Object(fields), Value::Object(members)) => check_object(members, fields, problems),
        (Schema::List { items, max, .. }, Value::Array(values)) => {
            if values.len() > *max {
                problems.add("", format!("has {} items; at most {max} are allowed", values.len()));
                return;
            }
            for (index, item) in values.iter().enumerate() {
                let before = problems.len();
                check(item, items, problems);
                problems.put_below(before, || element("", index));
            }
        }
        (Schema::Text(format), Value::String(text)) => {
            if let Err(message) = check_text(text, *format) {
                problems.add("", message);
            }
        }
        (Schema::Choice(names), Value::String(text)) if names.contains(&text.as_str()) => {}
        (Schema::Integer(min, max), Value::Number(number))
            if number.as_u64().is_some_and(|n| (u64::from(*min)..=u64::from(*max)).contains(&n)) => {}
        (Schema::Count, Value::Number(number))
            if number.as_u64().is_some_and(|n| (1..=MAX_COUNT).contains(&n)) => {}
        (Schema::Boolean, Value::Bool(_)) => {}
        _ => problems.add("", format!("must be {}, not {}", expectation(schema), kind(value))),
    }
}

fn check_object(members: &Map<String, Value>, fields: &[Field], problems: &mut Problems) {
    for name in members.keys().filter(|name| fields.iter().all(|field| field.name != name.as_str())) {
        let known: Vec<&str> = fields.iter().map(|field| field.name).collect();
        let message = format!("is not a known field; known here are {}", known.join(", "));
        problems.add(member("", name), message);
    }
    for field in fields {
        match members.get(field.name) {
            Some(value) => {
                let before = problems.len();
                check(value, field.schema, problems);
                problems.put_below(before, || member("", field.name));
            }
            None if field.presence == Presence::Required => {
                problems.add(member("", field.name), "is required and missing");
            }
            None => {}
        }
    }
}

fn expectation(schema: &Schema) -> String {
    match schema {
        Schema::Object(_) => "an object".into(),
        Schema::List { .. } => "an array".into(),
        Schema::Text(_) => "a string".into(),
        Schema::Choice(names) => format!("one of {}", names.join(", ")),
        Schema::Integer(min, max) => format!("an integer from {min} to {max}"),
        Schema::Count => format!("an integer from 1 to {MAX_COUNT}"),
        Schema::Boolean => "true or false".into(),
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null; leave the field out instead".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => format!("\"{}\"", text.chars().take(40).collect::<String>()),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

fn check_text(text: &str, format: Format) -> Result<(), String> {
    match format {
        Format::Hostname => check_hostname(text),
        Format::InterfaceName => check_interface_name(text),
        Format::Token => check_token(text),
        Format::Description => check_description(text),
        Format::Mac => check_mac(text),
        Format::InterfaceAddress => text.parse::<IpNet>().map(drop).map_err(|_| {
            "is not an address with a prefix length; write for example 192.0.2.1/24 or 2001:db8::1/64".into()
        }),
        Format::Network => check_network(text),
        Format::Address => text
            .parse::<IpAddr>()
            .map(drop)
            .map_err(|_| "is not an address; write for example 192.0.2.1 or 2001:db8::1".into()),
        Format::Label => check_label(text),
        Format::Key => check_key(text),
        Format::Ports => crate::ports(text)
            .map(drop)
            .ok_or_else(|| "is not a port or a range of ports; write for example 80 or 1000-2000".into()),
        Format::Path => crate::check_path(text),
        Format::Statuses => crate::statuses(text).map(drop).ok_or_else(|| {
            "is not a status code or a range of them; write for example 200 or 200-399".into()
        }),
    }
}

fn check_label(text: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let ok = (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    ok.then_some(()).ok_or_else(|| {
        "is not a name: 1 to 63 letters, digits, dots, underscores and hyphens, a letter first".into()
    })
}

/// The message shows nothing of the key.
fn check_key(text: &str) -> Result<(), String> {
    let ok = (2..=256).contains(&text.len())
        && text.len().is_multiple_of(2)
        && text.bytes().all(|b| b.is_ascii_hexdigit());
    ok.then_some(()).ok_or_else(|| "is not key material: an even number of hexadecimal digits".into())
}

fn check_hostname(text: &str) -> Result<(), String> {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label_ok) {
        return Ok(());
    }
    Err("is not a host name: labels of 1 to 63 letters, digits and inner hyphens, joined by dots, at most 253 in all".into())
}

fn check_interface_name(text: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let ok = (1..=15).contains(&text.len())
        && text.bytes().all(allowed)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    ok.then_some(()).ok_or_else(|| {
        "is not an interface name: 1 to 15 letters, digits, dots, underscores and hyphens, a letter first"
            .into()
    })
}

/// RFC 6750 §2.1 `b64token`, with a length that makes guessing hopeless and copying bearable.
/// Whether `text` can be the token of the API.
///
/// # Errors
/// What it has that a token cannot have: `has a character ...`.
pub fn check_token(text: &str) -> Result<(), String> {
    if !(16..=128).contains(&text.len()) {
        return Err(format!("has {} characters; a token has 16 to 128", text.len()));
    }
    let body = text.trim_end_matches('=');
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
    if body.is_empty() || !body.bytes().all(allowed) {
        return Err("has a character a token cannot have; letters, digits and - . _ ~ + / are allowed, = only at the end".into());
    }
    Ok(())
}

fn check_description(text: &str) -> Result<(), String> {
    if text.chars().count() > 128 {
        return Err("is longer than 128 characters".into());
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err("has a control character; a description is one line of text".into());
    }
    Ok(())
}

fn check_mac(text: &str) -> Result<(), String> {
    let mac: MacAddress = text.parse().map_err(|_| {
        String::from("is not a MAC address; write six pairs of hexadecimal digits, such as 52:54:00:12:34:56")
    })?;
    if mac.is_unicast() {
        Ok(())
    } else {
        Err("is a group address or zero; an interface has a unicast address".into())
    }
}

fn check_network(text: &str) -> Result<(), String> {
    let network: IpNet = text
        .parse()
        .map_err(|_| String::from("is not a network; write for example 192.0.2.0/24 or 2001:db8::/32"))?;
    if network.addr() == network.network() {
        return Ok(());
    }
    Err(format!("has host bits set; did you mean {}?", network.trunc()))
}
