//! Reads a type from a JSON tree, and says where in the tree it failed.
//!
//! The place is put together while an error travels up, so that what succeeds pays nothing for it, and each type's reader is
//! compiled once. (`serde_path_to_error` around the deserializer of `serde_json` does the same in four times the code, which a
//! small image feels.)

use crate::problem::{Problem, element, member};
use alloc::{
    boxed::Box,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor, value::BorrowedStrDeserializer,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// Reads a value.
///
/// # Errors
/// The first thing that does not fit, by the pointer to it below `value`. An unknown member is pointed at itself, a missing one
/// by what it is missing in.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    T::deserialize(Reader(value)).map_err(|error| error.0.problem())
}

/// One step down to what is wrong.
#[derive(Debug)]
enum Step {
    Member(String),
    Element(usize),
}

#[derive(Debug)]
struct Fault {
    message: String,
    /// The innermost step first.
    steps: Vec<Step>,
}

impl Fault {
    fn problem(self) -> Problem {
        let pointer = self.steps.iter().rev().fold(String::new(), |above, step| match step {
            Step::Member(name) => member(&above, name),
            Step::Element(index) => element(&above, *index),
        });
        Problem { pointer, message: self.message }
    }
}

/// In a box, since every reader returns one.
#[derive(Debug)]
struct Error(Box<Fault>);

impl Error {
    fn below(mut self, step: Step) -> Self {
        self.0.steps.push(step);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl core::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Box::new(Fault { message: message.to_string(), steps: Vec::new() }))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match unexpected {
            Unexpected::Unit => Self::custom(format_args!("invalid type: null, expected {expected}")),
            other => Self::custom(format_args!("invalid type: {other}, expected {expected}")),
        }
    }
}

#[derive(Clone, Copy)]
struct Reader<'a>(&'a Value);

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => {
                let mut rest = Items { items, next: 0 };
                let read = visitor.visit_seq(&mut rest)?;
                let is_read = rest.next == items.len();
                is_read.then_some(read).ok_or_else(|| de::Error::custom("has more elements than expected"))
            }
            Value::Object(members) => visitor.visit_map(Members { rest: members.iter(), current: None }),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (_, Some(number)) => visitor.visit_i64(number),
                _ => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(Variant { name, content: None }),
            Value::Object(members) => match only(members) {
                Some((name, content)) => visitor.visit_enum(Variant { name, content: Some(content) }),
                None => Err(de::Error::custom("must have one member, which says what it is")),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

fn only(members: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (name, content) = members.iter().next()?;
    (members.len() == 1).then_some((name, content))
}

struct Items<'a> {
    items: &'a [Value],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        self.next += 1;
        let read = seed.deserialize(Reader(item));
        read.map(Some).map_err(|error| error.below(Step::Element(self.next - 1)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

struct Members<'a> {
    rest: serde_json::map::Iter<'a>,
    /// The member whose name was read last.
    current: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((name, value)) = self.rest.next() else { return Ok(None) };
        self.current = Some((name, value));
        let read = seed.deserialize(BorrowedStrDeserializer::new(name));
        read.map(Some).map_err(|error: Error| error.below(Step::Member(name.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((name, value)) = self.current.take() else {
            return Err(de::Error::custom("a value was read before its name"));
        };
        seed.deserialize(Reader(value)).map_err(|error| error.below(Step::Member(name.into())))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// An enum: a name alone, or the one member of an object.
struct Variant<'a> {
    name: &'a str,
    content: Option<&'a Value>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let read = seed.deserialize(BorrowedStrDeserializer::new(self.name));
        read.map(|variant| (variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.content {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(de::Error::custom(format_args!("{} takes nothing", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        let content = self.content.unwrap_or(&Value::Null);
        seed.deserialize(Reader(content)).map_err(|error| error.below(Step::Member(self.name.into())))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.struct_variant(&[], visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let content = self.content.unwrap_or(&Value::Null);
        let read = Reader(content).deserialize_any(visitor);
        read.map_err(|error| error.below(Step::Member(self.name.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Spec {
        number: u8,
        #[serde(default)]
        text: Option<String>,
        #[serde(default)]
        list: Vec<Spec>,
        #[serde(default)]
        map: BTreeMap<String, bool>,
        #[serde(default)]
        choice: Option<Choice>,
        #[serde(default)]
        pair: Option<(i64, f64)>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Choice {
        Plain,
        Numbers(Vec<u8>),
        Both { left: bool, right: bool },
    }

    #[test]
    fn what_fits_is_read_as_serde_json_reads_it() {
        let documents = [
            json!({"number": 7}),
            json!({"number": 255, "text": null, "list": [{"number": 0, "text": "a"}], "map": {"a/b": true}}),
            json!({"number": 1, "choice": "Plain", "pair": [-3, 0.5]}),
            json!({"number": 1, "choice": {"Numbers": [1, 2]}}),
            json!({"number": 1, "choice": {"Both": {"left": true, "right": false}}}),
        ];
        for document in documents {
            let read: Spec = from_value(&document).expect("it fits");
            assert_eq!(read, serde_json::from_value(document).expect("it fits"));
        }
    }

    #[test]
    fn what_does_not_fit_is_pointed_at() {
        let nested = |spec: Value| json!({"number": 1, "list": [{"number": 1}, spec]});
        let cases = [
            (json!(5), "", "invalid type: integer `5`, expected struct Spec"),
            (json!({}), "", "missing field `number`"),
            (nested(json!({"number": 256})), "/list/1/number", "invalid value: integer `256`, expected u8"),
            (nested(json!({"number": null})), "/list/1/number", "invalid type: null, expected u8"),
            (nested(json!({})), "/list/1", "missing field `number`"),
            (
                json!({"number": 1, "map": {"a/b": 1}}),
                "/map/a~1b",
                "invalid type: integer `1`, expected a boolean",
            ),
            (
                json!({"number": 1, "choice": {"Numbers": [1, "x"]}}),
                "/choice/Numbers/1",
                "invalid type: string \"x\", expected u8",
            ),
            (
                json!({"number": 1, "choice": {"Both": {"left": 1}}}),
                "/choice/Both/left",
                "invalid type: integer `1`, expected a boolean",
            ),
            (json!({"number": 1, "choice": {"Plain": 1}}), "/choice", "Plain takes nothing"),
            (json!({"number": 1, "choice": {}}), "/choice", "must have one member, which says what it is"),
            (json!({"number": 1, "pair": [1, 1.5, 2]}), "/pair", "has more elements than expected"),
            (json!({"number": 1, "pair": [1]}), "/pair", "invalid length 1, expected a tuple of size 2"),
        ];
        for (document, pointer, message) in cases {
            let problem = from_value::<Spec>(&document).expect_err("it does not fit");
            assert_eq!(
                (problem.pointer.as_str(), problem.message.as_str()),
                (pointer, message),
                "{document}"
            );
        }
        let unknown = from_value::<Spec>(&nested(json!({"nmber": 1}))).expect_err("nobody knows it");
        assert_eq!(unknown.pointer, "/list/1/nmber");
        assert!(unknown.message.starts_with("unknown field `nmber`, expected one of `number`"), "{unknown}");
    }
}
