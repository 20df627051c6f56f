//! What a schema is: a small tree from which come the structural check, JSON Schema and differences.

use crate::health::MAX_PATH_BYTES;
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use serde_json::{Map, Value, json};

/// The shape of a JSON value.
#[derive(Debug)]
pub enum Schema {
    /// An object with these members and no others.
    Object(&'static [Field]),
    /// An array of at most `max` items. Members named by `key` tell one item from another; without them order matters
    /// only to the reader and the items are compared as values.
    List {
        /// Shape of each item.
        items: &'static Schema,
        /// Members that name an item.
        key: &'static [&'static str],
        /// Most items.
        max: usize,
    },
    /// A string.
    Text(Format),
    /// One of a few strings.
    Choice(&'static [&'static str]),
    /// An integer within bounds, both included.
    Integer(u32, u32),
    /// A number from 1 to 2^53, which every reader of JSON keeps exact (RFC 8259 §6).
    Count,
    /// True or false.
    Boolean,
}

/// Largest [`Schema::Count`].
pub(crate) const MAX_COUNT: u64 = 1 << 53;

/// A member of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its shape.
    pub schema: &'static Schema,
    /// Whether and how it may be left out.
    pub presence: Presence,
    /// What it means, for people; one or two sentences.
    pub doc: &'static str,
}

/// Whether a member must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It must be there.
    Required,
    /// It may be left out, which means something that no value does.
    Optional,
    /// It may be left out, which means this JSON text.
    Default(&'static str),
    /// As `Optional`; accepted but never given back.
    Secret,
}

/// What a string holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 1123 host name.
    Hostname,
    /// Name of an interface.
    InterfaceName,
    /// Bearer token.
    Token,
    /// Free text on one line.
    Description,
    /// MAC address.
    Mac,
    /// Address with prefix length; host bits are the address.
    InterfaceAddress,
    /// Network with prefix length; no host bits.
    Network,
    /// IPv4 or IPv6 address.
    Address,
    /// Name of something that is no interface.
    Label,
    /// Key material in hexadecimal.
    Key,
    /// A port or a range of ports.
    Ports,
    /// Path of an HTTP request.
    Path,
    /// A status code of HTTP or a range of them.
    Statuses,
}

impl Schema {
    /// The JSON Schema (2020-12, as OpenAPI 3.1 uses it) of this shape.
    pub fn to_json_schema(&self) -> Value {
        match self {
            Schema::Object(fields) => object_schema(fields),
            Schema::List { items, max, .. } => {
                json!({"type": "array", "items": items.to_json_schema(), "maxItems": max})
            }
            Schema::Text(format) => format.to_json_schema(),
            Schema::Choice(names) => json!({"type": "string", "enum": names}),
            Schema::Integer(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
            Schema::Count => json!({"type": "integer", "minimum": 1, "maximum": MAX_COUNT}),
            Schema::Boolean => json!({"type": "boolean"}),
        }
    }
}

fn object_schema(fields: &[Field]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields {
        let mut schema = field.schema.to_json_schema();
        schema["description"] = field.doc.into();
        match field.presence {
            Presence::Required => required.push(field.name),
            Presence::Optional => {}
            Presence::Default(text) => {
                schema["default"] = serde_json::from_str(text).unwrap_or(Value::Null);
            }
            Presence::Secret => schema["writeOnly"] = true.into(),
        }
        let _ = properties.insert(field.name.into(), schema);
    }
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

impl Format {
    fn to_json_schema(self) -> Value {
        let text = |min: usize, max: usize, pattern: &str| json!({"type": "string", "minLength": min, "maxLength": max, "pattern": pattern});
        match self {
            Format::Hostname => text(
                1,
                253,
                "^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$",
            ),
            Format::InterfaceName => text(1, 15, "^[A-Za-z][A-Za-z0-9._-]*$"),
            Format::Token => text(16, 128, "^[A-Za-z0-9._~+/-]+=*$"),
            Format::Description => text(0, 128, "^[^\\u0000-\\u001f\\u007f]*$"),
            Format::Mac => text(17, 17, "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"),
            Format::InterfaceAddress => example(["192.0.2.1/24", "2001:db8::1/64"]),
            Format::Network => example(["192.0.2.0/24", "2001:db8::/32"]),
            Format::Address => example(["192.0.2.1", "2001:db8::1"]),
            Format::Label => text(1, 63, "^[A-Za-z][A-Za-z0-9._-]*$"),
            Format::Key => text(2, 256, "^([0-9A-Fa-f]{2})*$"),
            Format::Ports => text(1, 11, "^[0-9]{1,5}(-[0-9]{1,5})?$"),
            Format::Path => text(1, MAX_PATH_BYTES, "^/[!-~]*$"),
            Format::Statuses => text(3, 7, "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$"),
        }
    }
}

fn example(examples: [&str; 2]) -> Value {
    json!({"type": "string", "examples": examples})
}

/// Items of an array by the text of their keys, in that order; items without a complete key are left out.
pub(crate) fn by_key<'a>(items: &'a [Value], key: &[&str]) -> BTreeMap<String, &'a Value> {
    items.iter().filter_map(|item| Some((key_of(item, key)?, item))).collect()
}

/// The text that names `item`: the values of those key members that it has, or itself.
pub(crate) fn key_of(item: &Value, key: &[&str]) -> Option<String> {
    if key.is_empty() {
        return item.as_str().map(String::from);
    }
    let parts: Vec<&str> = key.iter().filter_map(|name| item.get(name)?.as_str()).collect();
    if parts.is_empty() { None } else { Some(parts.join(" ")) }
}
