//! Query parameters: declared with each endpoint, checked before its handler sees them.

use super::{Reply, problem::problem};
use alloc::{format, string::String, vec::Vec};
use config::IpNet;
use core::net::IpAddr;

/// A parameter that an endpoint takes.
pub(super) struct Param {
    pub name: &'static str,
    pub kind: Kind,
    pub is_required: bool,
    pub doc: &'static str,
}

/// What a parameter's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An integer within bounds, both included.
    Integer(u64, u64),
    /// `true` or `false`.
    Boolean,
    /// An IP address.
    Address,
    /// What an earlier answer gave as `next`.
    Cursor,
    /// A name.
    Name,
    /// A network with prefix length, or an address.
    Network,
    /// Any text of up to so many bytes.
    Text(usize),
    /// One of a few words.
    Choice(&'static [&'static str]),
}

/// An optional parameter.
pub(super) const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Param {
    Param { name, kind, is_required: false, doc }
}

/// A required parameter.
pub(super) const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Param {
    Param { name, kind, is_required: true, doc }
}

/// The query of one request; every value is as its parameter wants.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Holds `given` against `params`.
    pub(super) fn check(given: &[(String, String)], params: &[Param]) -> Result<Self, Reply> {
        for (index, (name, value)) in given.iter().enumerate() {
            let Some(param) = params.iter().find(|param| param.name == name) else {
                return Err(unknown(name, params));
            };
            if given.iter().take(index).any(|(other, _)| other == name) {
                return Err(problem(400, &format!("query parameter {name} is given twice")));
            }
            if let Err(wanted) = param.kind.check(value) {
                return Err(problem(400, &format!("query parameter {name} must be {wanted}")));
            }
        }
        let missing =
            params.iter().find(|param| param.is_required && given.iter().all(|(name, _)| name != param.name));
        match missing {
            Some(param) => Err(problem(400, &format!("query parameter {} is missing", param.name))),
            None => Ok(Self(given.to_vec())),
        }
    }

    /// The text of a parameter, if given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// The value of an integer, if given.
    pub fn integer(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The value of an address, if given.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        self.text(name)?.parse().ok()
    }

    /// The value of a network, if given.
    pub fn network(&self, name: &str) -> Option<IpNet> {
        network(self.text(name)?)
    }

    /// The value of a boolean; false if not given.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }
}

/// A network, or the one of a single address.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn unknown(name: &str, params: &[Param]) -> Reply {
    let names: Vec<&str> = params.iter().map(|param| param.name).collect();
    let known =
        if names.is_empty() { "it takes none".into() } else { format!("it takes {}", names.join(", ")) };
    let name: String = name.chars().take(40).collect();
    problem(400, &format!("this path has no query parameter {name}; {known}"))
}

impl Kind {
    fn check(self, value: &str) -> Result<(), String> {
        let is_good = match self {
            Kind::Integer(min, max) => {
                value.bytes().all(|byte| byte.is_ascii_digit())
                    && value.parse().is_ok_and(|number: u64| (min..=max).contains(&number))
            }
            Kind::Boolean => matches!(value, "true" | "false"),
            Kind::Address => value.parse::<IpAddr>().is_ok(),
            Kind::Cursor | Kind::Name => value.len() <= 64,
            Kind::Text(max_bytes) => value.len() <= max_bytes,
            Kind::Network => network(value).is_some(),
            Kind::Choice(words) => words.contains(&value),
        };
        if is_good { Ok(()) } else { Err(self.wanted()) }
    }

    fn wanted(self) -> String {
        match self {
            Kind::Integer(min, max) => format!("an integer from {min} to {max}"),
            Kind::Boolean => "true or false".into(),
            Kind::Address => "an IPv4 or IPv6 address".into(),
            Kind::Cursor => "the next of an earlier answer".into(),
            Kind::Name => "a name".into(),
            Kind::Text(max_bytes) => format!("a text of at most {max_bytes} bytes"),
            Kind::Network => "a network, or an address".into(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }
}
