//! Identities: endpoints and sets of networks by what rules can tell apart, and which of them a selector selects.
//!
//! Endpoints with the same labels and named ports are one identity, so a thousand replicas cost as much as one. Selectors are
//! evaluated for all identities at once, over an index of their labels.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use hashbrown::HashMap;

use super::bits::Bits;
use crate::model::{Endpoint, EndpointKind, Model, NamedPort};
use crate::selector::{Labels, Selector};

/// What rules can tell apart of an endpoint or of a set of networks.
pub struct Identity {
    pub labels: Labels,
    pub ports: Vec<NamedPort>,
    pub what: What,
}

/// What an identity is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    Endpoint(EndpointKind),
    NetworkSet,
    Node,
}

/// What endpoints of one identity have in common: labels, named ports, kind, profiles.
type Traits<'a> = (&'a Labels, Vec<(&'a str, u8, u16)>, EndpointKind, &'a [String]);

/// All identities, with an index of labels.
pub struct Identities {
    pub all: Vec<Identity>,
    /// The identity of each endpoint of the model.
    pub of_endpoint: Vec<u32>,
    /// The identity of each set of networks of the model.
    pub of_networks: Vec<u32>,
    by_label: HashMap<String, BTreeMap<String, Bits>>,
    nodes: Bits,
}

impl Identities {
    pub fn new(model: &Model) -> Identities {
        let mut all: Vec<Identity> = Vec::new();
        let mut known: HashMap<Traits<'_>, u32> = HashMap::new();
        let mut of_endpoint = Vec::with_capacity(model.endpoints.len());
        for endpoint in &model.endpoints {
            let key = (&endpoint.labels, ports_of(endpoint), endpoint.kind, endpoint.profiles.as_slice());
            of_endpoint.push(*known.entry(key).or_insert_with(|| {
                let what = What::Endpoint(endpoint.kind);
                all.push(Identity { labels: endpoint.labels.clone(), ports: endpoint.ports.clone(), what });
                all.len() as u32 - 1
            }));
        }
        let mut of_networks = Vec::with_capacity(model.networks.len());
        for networks in &model.networks {
            of_networks.push(all.len() as u32);
            let what = if networks.node { What::Node } else { What::NetworkSet };
            all.push(Identity { labels: networks.labels.clone(), ports: Vec::new(), what });
        }
        let mut by_label: HashMap<String, BTreeMap<String, Bits>> = HashMap::new();
        let mut nodes = Bits::none(all.len());
        for (number, identity) in all.iter().enumerate() {
            if identity.what == What::Node {
                nodes.insert(number as u32);
            }
            for (key, value) in &identity.labels {
                let values = by_label.entry_ref(key.as_str()).or_default();
                if !values.contains_key(value) {
                    let _ = values.insert(value.clone(), Bits::none(all.len()));
                }
                if let Some(bits) = values.get_mut(value) {
                    bits.insert(number as u32);
                }
            }
        }
        Identities { all, of_endpoint, of_networks, by_label, nodes }
    }

    /// The identities of endpoints and network sets that are selected, or those of nodes.
    pub fn select(&self, selector: &Selector, nodes: bool) -> Bits {
        let mut selected = self.evaluate(selector);
        let mut wanted = self.nodes.clone();
        if !nodes {
            wanted.invert();
        }
        selected.intersect(&wanted);
        selected
    }

    fn evaluate(&self, selector: &Selector) -> Bits {
        match selector {
            Selector::All | Selector::Global => Bits::all(self.all.len()),
            Selector::Has(key) => self.where_value(key, |_| true),
            Selector::Equals(key, value) => self.where_equal(key, value),
            Selector::Differs(key, value) => inverted(self.where_equal(key, value)),
            Selector::In(key, set) => self.where_in(key, set),
            Selector::NotIn(key, set) => inverted(self.where_in(key, set)),
            Selector::Contains(key, part) => self.where_value(key, |value| value.contains(part.as_str())),
            Selector::StartsWith(key, part) => {
                self.where_value(key, |value| value.starts_with(part.as_str()))
            }
            Selector::EndsWith(key, part) => self.where_value(key, |value| value.ends_with(part.as_str())),
            Selector::Not(operand) => inverted(self.evaluate(operand)),
            Selector::And(operands) => {
                let mut bits = Bits::all(self.all.len());
                operands.iter().for_each(|operand| bits.intersect(&self.evaluate(operand)));
                bits
            }
            Selector::Or(operands) => {
                let mut bits = Bits::none(self.all.len());
                operands.iter().for_each(|operand| bits.union(&self.evaluate(operand)));
                bits
            }
        }
    }

    fn where_equal(&self, key: &str, value: &str) -> Bits {
        let bits = self.by_label.get(key).and_then(|values| values.get(value));
        bits.cloned().unwrap_or_else(|| Bits::none(self.all.len()))
    }

    fn where_in(&self, key: &str, set: &[String]) -> Bits {
        let mut bits = Bits::none(self.all.len());
        let values = self.by_label.get(key);
        set.iter().filter_map(|value| values?.get(value)).for_each(|selected| bits.union(selected));
        bits
    }

    fn where_value(&self, key: &str, holds: impl Fn(&str) -> bool) -> Bits {
        let mut bits = Bits::none(self.all.len());
        let values = self.by_label.get(key).into_iter().flatten();
        values.filter(|(value, _)| holds(value)).for_each(|(_, selected)| bits.union(selected));
        bits
    }
}

fn inverted(mut bits: Bits) -> Bits {
    bits.invert();
    bits
}

fn ports_of(endpoint: &Endpoint) -> Vec<(&str, u8, u16)> {
    endpoint.ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port)).collect()
}
