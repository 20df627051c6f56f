//! Identities: endpoints and sets of networks by what rules can tell apart, and which of them a selector selects.
//!
//! Endpoints with the same labels and named ports are one identity, so a thousand replicas cost as much as one. Selectors are
//! evaluated for all identities at once, over an index of their labels. An identity keeps its number as long as anybody has it.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};

use hashbrown::HashMap;

use super::bits::Bits;
use crate::model::{Endpoint, EndpointKind, NamedPort, Networks, Set};
use crate::selector::{Labels, Selector};

/// What rules can tell apart of an endpoint or of a set of networks.
#[derive(PartialEq, Eq, Hash)]
pub struct Traits {
    pub labels: Labels,
    pub ports: Vec<NamedPort>,
    pub what: What,
    /// Names, in the order in which they are asked.
    pub profiles: Vec<String>,
}

/// What an identity is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    Endpoint(EndpointKind),
    NetworkSet,
    Node,
}

impl Traits {
    pub fn of_endpoint(endpoint: &Endpoint) -> Traits {
        Traits {
            labels: endpoint.labels.clone(),
            ports: endpoint.ports.clone(),
            what: What::Endpoint(endpoint.kind),
            profiles: endpoint.profiles.clone(),
        }
    }

    pub fn of_networks(networks: &Networks) -> Traits {
        let what = if networks.node { What::Node } else { What::NetworkSet };
        Traits { labels: networks.labels.clone(), ports: Vec::new(), what, profiles: Vec::new() }
    }

    /// True if a set that rules speak of has the addresses of this identity.
    pub fn is_in(&self, set: &Set) -> bool {
        match set {
            Set::Members(_) => false,
            Set::Nodes(selector) => self.what == What::Node && selector.matches(&self.labels),
            Set::Selected(selector) => self.what != What::Node && selector.matches(&self.labels),
        }
    }
}

struct Identity {
    traits: Arc<Traits>,
    uses: u32,
}

/// All identities, with an index of labels.
#[derive(Default)]
pub struct Identities {
    all: Vec<Option<Identity>>,
    free: Vec<u32>,
    known: HashMap<Arc<Traits>, u32>,
    by_label: HashMap<String, BTreeMap<String, Bits>>,
    /// Those of nodes, and those of all else.
    nodes: Bits,
    others: Bits,
    born: Vec<u32>,
    left: Vec<u32>,
}

impl Identities {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn traits(&self, number: u32) -> Option<&Arc<Traits>> {
        self.all.get(number as usize)?.as_ref().map(|identity| &identity.traits)
    }

    /// Those that somebody has.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Traits>)> {
        (0..).zip(&self.all).filter_map(|(number, identity)| Some((number, &identity.as_ref()?.traits)))
    }

    /// The number of an identity that one more has.
    pub fn acquire(&mut self, traits: Traits) -> u32 {
        if let Some(number) = self.known.get(&traits) {
            if let Some(Some(identity)) = self.all.get_mut(*number as usize) {
                identity.uses += 1;
            }
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() as u32 - 1
        });
        let traits = Arc::new(traits);
        for (key, value) in &traits.labels {
            let values = self.by_label.entry_ref(key.as_str()).or_default();
            values.entry(value.clone()).or_default().insert(number);
        }
        let kind = if traits.what == What::Node { &mut self.nodes } else { &mut self.others };
        kind.insert(number);
        let _ = self.known.insert(traits.clone(), number);
        if let Some(place) = self.all.get_mut(number as usize) {
            *place = Some(Identity { traits, uses: 1 });
        }
        self.born.push(number);
        number
    }

    /// One has it no more.
    pub fn release(&mut self, number: u32) {
        if let Some(Some(identity)) = self.all.get_mut(number as usize) {
            identity.uses = identity.uses.saturating_sub(1);
            if identity.uses == 0 {
                self.left.push(number);
            }
        }
    }

    /// The identities that are new since this was asked.
    pub fn take_born(&mut self) -> Vec<u32> {
        core::mem::take(&mut self.born)
    }

    /// Forgets identities that nobody has, and names them. Their numbers are used again from [`Identities::reuse`] on.
    pub fn take_dead(&mut self) -> Vec<u32> {
        let mut dead = core::mem::take(&mut self.left);
        dead.sort_unstable();
        dead.dedup();
        dead.retain(|number| {
            let place = self.all.get_mut(*number as usize);
            let Some(identity) = place.and_then(|place| place.take_if(|identity| identity.uses == 0)) else {
                return false;
            };
            self.nodes.remove(*number);
            self.others.remove(*number);
            for (key, value) in &identity.traits.labels {
                if let Some(values) = self.by_label.get_mut(key)
                    && let Some(bits) = values.get_mut(value)
                {
                    bits.remove(*number);
                    if bits.is_empty() {
                        let _ = values.remove(value);
                    }
                }
            }
            let _ = self.known.remove(&identity.traits);
            true
        });
        dead
    }

    pub fn reuse(&mut self, numbers: Vec<u32>) {
        self.free.extend(numbers);
    }

    /// The identities of endpoints and network sets that are selected, or those of nodes.
    pub fn select(&self, selector: &Selector, nodes: bool) -> Bits {
        let mut selected = self.evaluate(selector);
        selected.intersect(if nodes { &self.nodes } else { &self.others });
        selected
    }

    fn evaluate(&self, selector: &Selector) -> Bits {
        let inverted = |mut bits: Bits| {
            bits.invert(self.all.len());
            bits
        };
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
                let mut bits = Bits::default();
                operands.iter().for_each(|operand| bits.union(&self.evaluate(operand)));
                bits
            }
        }
    }

    fn where_equal(&self, key: &str, value: &str) -> Bits {
        self.by_label.get(key).and_then(|values| values.get(value)).cloned().unwrap_or_default()
    }

    fn where_in(&self, key: &str, set: &[String]) -> Bits {
        let mut bits = Bits::default();
        let values = self.by_label.get(key);
        set.iter().filter_map(|value| values?.get(value)).for_each(|selected| bits.union(selected));
        bits
    }

    fn where_value(&self, key: &str, holds: impl Fn(&str) -> bool) -> Bits {
        let mut bits = Bits::default();
        let values = self.by_label.get(key).into_iter().flatten();
        values.filter(|(value, _)| holds(value)).for_each(|(_, selected)| bits.union(selected));
        bits
    }
}
