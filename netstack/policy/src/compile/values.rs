//! Values that several kinds of resource have: selectors, networks, protocols, ports.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;

use ipnet::IpNet;

use crate::api::meta::{LabelSelector, NumberOrText};
use crate::model::{Action, protocol};
use crate::problem::Problems;
use crate::selector::Selector;

/// A selector of Calico's language.
pub fn selector(text: &str, member: &str, problems: &mut Problems) -> Selector {
    Selector::parse(text).unwrap_or_else(|error| {
        problems.add(member, error.to_string());
        Selector::All
    })
}

/// A selector of Kubernetes' form.
pub fn label_selector(selector: &LabelSelector, member: &str, problems: &mut Problems) -> Selector {
    let equal = |(key, value): (&String, &String)| Selector::Equals(key.clone(), value.clone());
    let labels = selector.match_labels.iter().flatten().map(equal);
    let requirements = selector.match_expressions.as_deref().unwrap_or_default();
    let mut operands: Vec<Selector> = labels.collect();
    problems.within(member, |problems| {
        operands.extend(problems.each("matchExpressions", requirements, |problems, _, requirement| {
            let mut values = requirement.values.clone().unwrap_or_default();
            values.sort();
            values.dedup();
            let wants_values = matches!(requirement.operator.as_str(), "In" | "NotIn");
            if wants_values == values.is_empty() {
                let message =
                    if wants_values { "at least one value is needed" } else { "no values are possible" };
                problems.add("values", message);
            }
            let key = requirement.key.clone();
            match requirement.operator.as_str() {
                "In" => Selector::In(key, values),
                "NotIn" => Selector::NotIn(key, values),
                "Exists" => Selector::Has(key),
                "DoesNotExist" => Selector::Not(Selector::Has(key).into()),
                _ => {
                    problems.add("operator", "one of In, NotIn, Exists, DoesNotExist is expected");
                    Selector::All
                }
            }
        }));
    });
    operands.into_iter().fold(Selector::All, Selector::and)
}

/// A network such as 10.0.0.0/8, or one address.
pub fn net(text: &str, member: &str, problems: &mut Problems) -> Option<IpNet> {
    let parsed = text
        .parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        .map(|net| net.trunc());
    if parsed.is_none() {
        problems.add(member, format!("{text:?} is not a network such as 10.0.0.0/8 or fd00::/8"));
    }
    parsed
}

/// A list of networks.
pub fn nets(list: Option<&[String]>, member: &str, problems: &mut Problems) -> Vec<IpNet> {
    let list = list.unwrap_or_default();
    problems.each(member, list, |problems, _, text| net(text, "", problems)).into_iter().flatten().collect()
}

/// A protocol that has ports, as Kubernetes writes it.
pub fn port_protocol(name: Option<&str>, member: &str, problems: &mut Problems) -> u8 {
    match name.unwrap_or("TCP") {
        "TCP" => protocol::TCP,
        "UDP" => protocol::UDP,
        "SCTP" => protocol::SCTP,
        other => {
            problems.add(member, format!("{other:?} is none of TCP, UDP, SCTP"));
            protocol::TCP
        }
    }
}

/// A protocol as Calico writes it: a name or a number.
pub fn protocol_number(value: &NumberOrText, member: &str, problems: &mut Problems) -> u8 {
    let known = match value {
        NumberOrText::Number(number) => u8::try_from(*number).ok().filter(|number| *number > 0),
        NumberOrText::Text(name) => match name.to_ascii_lowercase().as_str() {
            "tcp" => Some(protocol::TCP),
            "udp" => Some(protocol::UDP),
            "icmp" => Some(protocol::ICMP),
            "icmpv6" => Some(protocol::ICMPV6),
            "sctp" => Some(protocol::SCTP),
            "udplite" => Some(protocol::UDP_LITE),
            other => other.parse().ok().filter(|number| *number > 0),
        },
    };
    known.unwrap_or_else(|| {
        problems.add(member, "a protocol is TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255");
        protocol::TCP
    })
}

/// An action, of which `pass` and `log` are not possible everywhere.
pub fn action(name: &str, possible: &[(&str, Action)], problems: &mut Problems) -> Action {
    if let Some((_, action)) = possible.iter().find(|(candidate, _)| *candidate == name) {
        return *action;
    }
    let names: Vec<&str> = possible.iter().map(|(name, _)| *name).collect();
    problems.add("action", format!("{name:?} is none of {}", names.join(", ")));
    Action::Deny
}

/// A number from 0 to 255.
pub fn byte(value: i64, member: &str, problems: &mut Problems) -> u8 {
    u8::try_from(value).unwrap_or_else(|_| {
        problems.add(member, "a number from 0 to 255 is expected");
        0
    })
}
