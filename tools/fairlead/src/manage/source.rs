//! A document that a person wrote, in YAML or JSON (which YAML 1.2 contains), with the place of every value.
//!
//! The node and the `config` crate name a wrong field by a JSON pointer (RFC 6901). [`Document::locate`] turns that
//! into line and column of the file, and [`Document::point_at`] shows the line itself.

use std::fmt::{self, Write};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

use crate::failure::{Failure, Message, Result};
use crate::output::{Colour, paint};

/// Nobody writes more by hand; a file behind the name may be anything.
const MAX_BYTES: u64 = 64 << 20;
/// Directories within directories.
const MAX_DEPTH: usize = 32;

/// One document with the text it was read from.
#[derive(Debug)]
pub struct Document {
    name: String,
    /// Shared by the documents of one file.
    text: Arc<str>,
    root: Spanned<Node>,
}

/// A place in the text, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Document {
    /// Reads a file, or standard input for `-`.
    pub fn read(path: &Path) -> Result<Document> {
        let (name, text) = read_text(path)?;
        Document::parse(name, text)
    }

    /// Reads `text`; `name` is what messages call it.
    pub fn parse(name: String, text: String) -> Result<Document> {
        match serde_saphyr::from_str::<Spanned<Node>>(&text) {
            Ok(root) => Ok(Document { name, text: text.into(), root }),
            Err(error) => Err(not_well_formed(&name, &text, &error)),
        }
    }

    /// Reads a file, or standard input for `-`, that may have several YAML documents.
    pub fn read_all(path: &Path) -> Result<Vec<Document>> {
        let (name, text) = read_text(path)?;
        match serde_saphyr::from_multiple::<Spanned<Node>>(&text) {
            Ok(roots) => {
                let text: Arc<str> = text.into();
                let document = |root| Document { name: name.clone(), text: text.clone(), root };
                Ok(roots.into_iter().map(document).collect())
            }
            Err(error) => Err(not_well_formed(&name, &text, &error)),
        }
    }

    /// The document as JSON.
    pub fn value(&self) -> Value {
        self.root.value.value()
    }

    /// The document as JSON, if it is a valid configuration by the node's own rules.
    pub fn checked(&self) -> Result<Value> {
        let value = self.value();
        let Err(problems) = config::parse(value.to_string().as_bytes()) else { return Ok(value) };
        let details =
            problems.iter().map(|problem| self.point_at(&problem.pointer, &problem.message)).collect();
        let message = Message::new(format!("{} is not a valid configuration", self.name)).details(details);
        Err(Failure::Invalid(message))
    }

    /// What messages call the document.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The place of the value that an RFC 6901 pointer names; of its key where it is in an object, as that is
    /// what an unknown field is about. Where the document has no such value, the place of the nearest one around it.
    pub fn locate(&self, pointer: &str) -> Place {
        let mut place = Place::of(self.root.referenced);
        let mut node = &self.root.value;
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            let next = match node {
                Node::Map(entries) => entries
                    .iter()
                    .find(|(key, _)| key.value == token)
                    .map(|(key, value)| (key.referenced, &value.value)),
                Node::Sequence(items) => token
                    .parse::<usize>()
                    .ok()
                    .and_then(|i| items.get(i))
                    .map(|item| (item.referenced, &item.value)),
                _ => None,
            };
            match next {
                Some((location, inner)) => {
                    place = Place::of(location);
                    node = inner;
                }
                None => break,
            }
        }
        place
    }

    /// `message` about the value that `pointer` names, with file, line and column and the line itself.
    pub fn point_at(&self, pointer: &str, message: &str) -> String {
        let message = if pointer.is_empty() { message.to_owned() } else { format!("{pointer}: {message}") };
        point_at(&self.name, &self.text, Some(self.locate(pointer)), &message)
    }
}

impl Place {
    fn of(location: Location) -> Place {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
        Place { line: number(location.line()), column: number(location.column()) }
    }
}

/// Files, and those below directories whose names say YAML or JSON, in the order of their names.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        collect(path, 0, &mut files)?;
    }
    if files.is_empty() {
        return Err(Failure::operation("there is no file that ends in .yaml, .yml or .json"));
    }
    Ok(files)
}

/// A file; or those below a directory whose names say YAML or JSON, in the order of their names.
fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.as_os_str() == "-" || !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let unreadable =
        |error: std::io::Error| Failure::operation(format!("cannot read {}: {error}", path.display()));
    if depth > MAX_DEPTH {
        return Err(Failure::operation(format!("{} is nested too deep", path.display())));
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        entries.push(entry.map_err(unreadable)?.path());
    }
    entries.sort();
    for entry in entries {
        let says = entry.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if entry.is_dir() || matches!(says, "yaml" | "yml" | "json") {
            collect(&entry, depth + 1, files)?;
        }
    }
    Ok(())
}

/// Reads a file, or standard input for `-`, with the name to call it by.
pub fn read_text(path: &Path) -> Result<(String, String)> {
    let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_BYTES + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
    };
    match read {
        Ok(bytes) if bytes as u64 > MAX_BYTES => {
            Err(Failure::operation(format!("{name} is larger than {} MiB", MAX_BYTES >> 20)))
        }
        Ok(_) => Ok((name, text)),
        Err(error) => Err(Failure::operation(format!("cannot read {name}: {error}"))),
    }
}

fn not_well_formed(name: &str, text: &str, error: &serde_saphyr::Error) -> Failure {
    let place = error.location().map(Place::of);
    let words = error.to_string();
    let reason = words.lines().next().unwrap_or_default();
    // The library's text starts with the place, which is shown in our own form.
    let reason = reason.split_once(": ").map_or(reason, |(_, rest)| rest);
    let reason = reason.strip_prefix("line ").and_then(|r| r.split_once(": ")).map_or(reason, |(_, r)| r);
    let message = Message::new(format!("{name} is neither YAML nor JSON"));
    Failure::Invalid(message.details(vec![point_at(name, text, place, reason)]))
}

fn point_at(name: &str, text: &str, place: Option<Place>, message: &str) -> String {
    let Some(place) = place else {
        return format!("{}: {message}", paint(Colour::Cyan, name));
    };
    let at = format!("{name}:{}:{}", place.line, place.column);
    let mut out = format!("{}: {message}", paint(Colour::Cyan, &at));
    if let Some(line) = text.lines().nth(place.line - 1) {
        let number = place.line.to_string();
        // Tabs are kept, so that the mark stands below its character.
        let before: String =
            line.chars().take(place.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let bar = paint(Colour::Dim, "|");
        let _ = write!(
            out,
            "\n{number} {bar} {line}\n{:width$} {bar} {before}{}",
            "",
            paint(Colour::Red, "^"),
            width = number.len()
        );
    }
    out
}

/// A value of the data model that YAML and JSON share.
#[derive(Debug)]
enum Node {
    Scalar(Value),
    Sequence(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    fn value(&self) -> Value {
        match self {
            Node::Scalar(value) => value.clone(),
            Node::Sequence(items) => Value::Array(items.iter().map(|item| item.value.value()).collect()),
            Node::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, item)| (key.value.clone(), item.value.value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has too")
    }

    fn visit_unit<E: Error>(self) -> std::result::Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E: Error>(self) -> std::result::Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> std::result::Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> std::result::Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> std::result::Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> std::result::Result<Node, E> {
        let number =
            Number::from_f64(value).ok_or_else(|| E::custom("JSON has no infinite numbers and no NaN"))?;
        Ok(Node::Scalar(Value::Number(number)))
    }

    fn visit_str<E: Error>(self, value: &str) -> std::result::Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Node, A::Error> {
        let mut sequence = Vec::new();
        while let Some(item) = items.next_element()? {
            sequence.push(item);
        }
        Ok(Node::Sequence(sequence))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Document {
        Document::parse("gw.yaml".into(), text.into()).expect("the text is well formed")
    }

    #[test]
    fn yaml_and_json_mean_the_same() {
        let yaml = parse(
            "interfaces:\n  - name: eth0\n    mac: 52:54:00:12:34:56\n    mtu: 1500\n    addresses: [10.0.0.1/24]\n    dhcp4: false\n",
        );
        let json_text = "{\n\t\"interfaces\": [{\"name\": \"eth0\", \"mac\": \"52:54:00:12:34:56\", \"mtu\": 1500,\n\t\"addresses\": [\"10.0.0.1\\/24\"], \"dhcp4\": false}]\n}";
        let json = parse(json_text);
        assert_eq!(yaml.value(), json.value());
        assert_eq!(json.value(), serde_json::from_str::<Value>(json_text).unwrap());
        assert_eq!(yaml.value()["interfaces"][0]["mac"], json!("52:54:00:12:34:56"));
    }

    #[test]
    fn a_pointer_leads_to_line_and_column() {
        let yaml = parse("hostname: gw1\nroutes:\n  - prefix: 10.0.0.0/8\n    via:\n      - address: 10.1\n");
        assert_eq!(yaml.locate("/routes/0/via/0/address"), Place { line: 5, column: 9 });
        assert_eq!(yaml.locate("/routes/0"), Place { line: 3, column: 5 });
        assert_eq!(yaml.locate(""), Place { line: 1, column: 1 });
        // A missing field is shown where it is missing.
        assert_eq!(yaml.locate("/routes/0/metric"), Place { line: 3, column: 5 });
        assert_eq!(yaml.locate("/routes/7/prefix"), Place { line: 2, column: 1 });
        let json = parse("{\"a/b\": {\"~\": [1, 2]}}");
        assert_eq!(json.locate("/a~1b/~0/1"), Place { line: 1, column: 19 });
    }

    #[test]
    fn documents_of_one_file_keep_their_places() {
        let path = std::env::temp_dir().join(format!("fairlead-source-{}.yaml", std::process::id()));
        std::fs::write(&path, "a: 1\n---\n# nothing\n---\nb: 2\n").unwrap();
        let documents = Document::read_all(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            documents.iter().map(Document::value).collect::<Vec<_>>(),
            [json!({"a": 1}), json!({"b": 2})]
        );
        assert_eq!(documents[1].locate("/b"), Place { line: 5, column: 1 });
    }

    #[test]
    fn the_line_is_shown_with_a_mark() {
        let yaml = parse("a: 1\n\"é\": {b: x}\n");
        assert_eq!(
            yaml.point_at("/é/b", "not a number"),
            "gw.yaml:2:7: /é/b: not a number\n2 | \"é\": {b: x}\n  |       ^"
        );
    }

    #[test]
    fn a_syntax_error_has_its_place() {
        let Err(Failure::Invalid(message)) =
            Document::parse("gw.json".into(), "{\"a\": 1,\n \"b\": [1,\n".into())
        else {
            panic!("an open bracket is an error");
        };
        assert!(message.details[0].starts_with("gw.json:2:7: "), "{}", message.details[0]);
        let Err(Failure::Invalid(message)) = Document::parse("gw.yaml".into(), "a: 1\na: 2\n".into()) else {
            panic!("a key twice is an error");
        };
        assert!(
            message.details[0].starts_with("gw.yaml:2:1: duplicate mapping key"),
            "{}",
            message.details[0]
        );
    }
}
