//! The sets and names that rules speak of, each once, and rules compiled to them.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};

use hashbrown::HashMap;
use ipnet::IpNet;
use pace::Pace;

use super::atoms::{Identities, Traits};
use super::bits::Bits;
use super::classes::{Atom, Classes};
use super::rules::{CompiledPorts, CompiledRule, CompiledSide, Members, SetId};
use crate::model::{IpVersion, Match, NamedPort, Ports, Rule, Set, Side};

/// What it costs to work out a set.
const UNITS_PER_SET: u64 = 4;

/// Names of ports, and the ports that endpoints call so.
#[derive(Default)]
pub struct PortsOfNames {
    numbers: HashMap<String, u32>,
    /// With how many identities have it. Those that none has any more stay: rules may be about them still.
    ports: Vec<BTreeMap<(u8, u16), u32>>,
}

impl PortsOfNames {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.ports.len() as u32;
        self.ports.push(BTreeMap::new());
        let _ = self.numbers.insert(name.into(), number);
        number
    }

    /// The protocols and ports of a name.
    pub fn of(&self, name: u32) -> impl Iterator<Item = (u8, u16)> {
        self.ports.get(name as usize).into_iter().flat_map(|ports| ports.keys().copied())
    }
}

struct Entry {
    set: Set,
    uses: u32,
}

/// A network that rules speak of.
struct Net {
    number: u32,
    uses: u32,
}

/// All sets and names.
#[derive(Default)]
pub struct Sets {
    all: Vec<Option<Entry>>,
    free: Vec<SetId>,
    known: HashMap<Set, SetId>,
    of_atom: HashMap<Atom, Vec<SetId>>,
    born: Vec<SetId>,
    left: Vec<SetId>,
    nets: HashMap<IpNet, Net>,
    free_nets: Vec<u32>,
    net_count: u32,
    dead_nets: Vec<u32>,
    pub names: PortsOfNames,
    /// What tables are made with.
    pub members: Members,
}

/// What a rule holds of [`Sets`], to be given back when it goes.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub sets: Vec<SetId>,
    pub names: Vec<u32>,
}

/// Where rules find what they speak of.
pub struct Ground<'a> {
    pub sets: &'a mut Sets,
    pub identities: &'a Identities,
    pub classes: &'a mut Classes,
}

impl Sets {
    /// The sets that have an atom.
    pub fn of_atom(&self, atom: Atom) -> &[SetId] {
        self.of_atom.get(&atom).map(Vec::as_slice).unwrap_or_default()
    }

    /// The sets that have an atom of some, each once and in order.
    pub fn of_atoms(&self, atoms: &[Atom]) -> Vec<SetId> {
        let mut sets: Vec<SetId> = atoms.iter().flat_map(|atom| self.of_atom(*atom)).copied().collect();
        sets.sort_unstable();
        sets.dedup();
        sets
    }

    /// Puts a new identity into the sets that select it.
    pub fn add_identity(&mut self, number: u32, traits: &Traits) {
        let entries = (0..).zip(&self.all).filter_map(|(id, entry)| Some((id, entry.as_ref()?)));
        let selecting: Vec<SetId> =
            entries.filter(|(_, entry)| traits.is_in(&entry.set)).map(|(id, _)| id).collect();
        if !selecting.is_empty() {
            let _ = self.of_atom.insert(Atom::Identity(number), selecting);
        }
    }

    pub fn remove_identity(&mut self, number: u32) {
        let _ = self.of_atom.remove(&Atom::Identity(number));
    }

    /// Notes the named ports of an identity; the names that have a port which they did not have.
    pub fn add_ports(&mut self, ports: &[NamedPort]) -> Vec<u32> {
        let mut grown = Vec::new();
        for port in ports {
            let name = self.names.number(&port.name);
            if let Some(known) = self.names.ports.get_mut(name as usize) {
                let count = known.entry((port.protocol, port.port)).or_insert_with(|| {
                    grown.push(name);
                    0
                });
                *count += 1;
            }
        }
        grown
    }

    /// The number of the name of each port.
    pub fn named<'a>(&self, ports: &'a [NamedPort]) -> impl Iterator<Item = (u32, u8, u16)> + use<'a, '_> {
        ports.iter().filter_map(|port| Some((*self.names.numbers.get(&port.name)?, port.protocol, port.port)))
    }

    /// Works out which classes are in the sets that are new.
    pub async fn settle(&mut self, identities: &Identities, classes: &Classes, pace: &Pace) {
        for id in core::mem::take(&mut self.born) {
            pace.spend(UNITS_PER_SET).await;
            let Some(Some(entry)) = self.all.get(id as usize) else { continue };
            let mut bits = Bits::default();
            for atom in self.atoms(&entry.set, identities) {
                classes.of_atom(atom).iter().for_each(|class| bits.insert(*class));
            }
            if let Some(place) = self.members.classes.get_mut(id as usize) {
                *place = Arc::new(bits);
            }
        }
    }

    /// Forgets the sets that nobody holds, before classes are settled. Their numbers are used again from [`Sets::reuse`] on.
    pub fn take_dead(&mut self, identities: &Identities, classes: &mut Classes) -> Vec<SetId> {
        let mut dead = core::mem::take(&mut self.left);
        dead.sort_unstable();
        dead.dedup();
        dead.retain(|id| {
            let entry =
                self.all.get_mut(*id as usize).and_then(|entry| entry.take_if(|entry| entry.uses == 0));
            let Some(entry) = entry else { return false };
            let atoms: Vec<Atom> = self.atoms(&entry.set, identities).collect();
            for atom in atoms {
                if let Some(list) = self.of_atom.get_mut(&atom) {
                    list.retain(|known| known != id);
                    if list.is_empty() {
                        let _ = self.of_atom.remove(&atom);
                    }
                }
            }
            if let Set::Members(nets) = &entry.set {
                nets.iter().for_each(|net| self.release_net(net.trunc(), classes));
            }
            let _ = self.known.remove(&entry.set);
            true
        });
        dead
    }

    /// Frees the numbers of what is dead.
    pub fn reuse(&mut self, dead: Vec<SetId>) {
        for id in &dead {
            if let Some(place) = self.members.classes.get_mut(*id as usize) {
                *place = Arc::default();
            }
        }
        self.free.extend(dead);
        self.free_nets.append(&mut self.dead_nets);
    }

    fn atoms(&self, set: &Set, identities: &Identities) -> impl Iterator<Item = Atom> + use<> {
        let (nets, selected) = match set {
            Set::Members(nets) => {
                let number = |net: &IpNet| Some(Atom::Net(self.nets.get(&net.trunc())?.number));
                (nets.iter().filter_map(number).collect(), Bits::default())
            }
            Set::Nodes(selector) => (Vec::new(), identities.select(selector, true)),
            Set::Selected(selector) => (Vec::new(), identities.select(selector, false)),
        };
        let selected: Vec<Atom> = selected.iter().map(Atom::Identity).collect();
        nets.into_iter().chain(selected)
    }

    fn acquire_net(&mut self, net: IpNet, classes: &mut Classes) {
        if let Some(known) = self.nets.get_mut(&net) {
            known.uses += 1;
            return;
        }
        let number = self.free_nets.pop().unwrap_or_else(|| {
            self.net_count += 1;
            self.net_count - 1
        });
        let _ = self.nets.insert(net, Net { number, uses: 1 });
        classes.attach(net, Atom::Net(number));
    }

    fn release_net(&mut self, net: IpNet, classes: &mut Classes) {
        let Some(known) = self.nets.get_mut(&net) else { return };
        known.uses -= 1;
        if known.uses == 0 {
            let number = known.number;
            let _ = self.nets.remove(&net);
            self.dead_nets.push(number);
            classes.detach(net, Atom::Net(number));
        }
    }

    /// Gives back what a rule held.
    pub fn release(&mut self, held: &Held) {
        for id in &held.sets {
            if let Some(Some(entry)) = self.all.get_mut(*id as usize) {
                entry.uses = entry.uses.saturating_sub(1);
                if entry.uses == 0 {
                    self.left.push(*id);
                }
            }
        }
    }
}

impl Ground<'_> {
    fn set(&mut self, set: &Set, held: &mut Held) -> SetId {
        let sets = &mut *self.sets;
        if let Some(id) = sets.known.get(set) {
            if let Some(Some(entry)) = sets.all.get_mut(*id as usize) {
                entry.uses += 1;
            }
            held.sets.push(*id);
            return *id;
        }
        let id = sets.free.pop().unwrap_or_else(|| {
            sets.all.push(None);
            sets.members.classes.push(Arc::default());
            sets.all.len() as SetId - 1
        });
        if let Set::Members(nets) = set {
            nets.iter().for_each(|net| sets.acquire_net(net.trunc(), self.classes));
        }
        for atom in sets.atoms(set, self.identities) {
            let list = sets.of_atom.entry(atom).or_default();
            if list.last() != Some(&id) {
                list.push(id);
            }
        }
        if let Some(place) = sets.all.get_mut(id as usize) {
            *place = Some(Entry { set: set.clone(), uses: 1 });
        }
        let _ = sets.known.insert(set.clone(), id);
        sets.born.push(id);
        held.sets.push(id);
        id
    }

    /// Compiles a rule, which then holds sets and names.
    pub fn compile(&mut self, rule: &Rule, held: &mut Held) -> CompiledRule {
        let Match { source, destination, .. } = &rule.matches;
        let about = |is_ipv4: bool| {
            let version = if is_ipv4 { IpVersion::V4 } else { IpVersion::V6 };
            let nets = [&source.nets, &source.not_nets, &destination.nets, &destination.not_nets];
            rule.matches.ip_version.is_none_or(|wanted| wanted == version)
                && nets
                    .into_iter()
                    .all(|nets| nets.is_empty() || nets.iter().any(|net| net.addr().is_ipv4() == is_ipv4))
        };
        CompiledRule {
            versions: (about(true), about(false)),
            protocol: rule.matches.protocol,
            not_protocol: rule.matches.not_protocol,
            icmp: rule.matches.icmp,
            not_icmp: rule.matches.not_icmp,
            source: self.side(source, held),
            destination: self.side(destination, held),
        }
    }

    fn side(&mut self, side: &Side, held: &mut Held) -> CompiledSide {
        let members = |nets: &[IpNet]| (!nets.is_empty()).then(|| Set::Members(nets.to_vec()));
        let (nets, not_nets) = (members(&side.nets), members(&side.not_nets));
        CompiledSide {
            within: nets.iter().chain(&side.sets).map(|set| self.set(set, held)).collect(),
            outside: not_nets.iter().chain(&side.not_sets).map(|set| self.set(set, held)).collect(),
            ports: side.ports.iter().map(|ports| self.ports(ports, held)).collect(),
            not_ports: side.not_ports.iter().map(|ports| self.ports(ports, held)).collect(),
        }
    }

    fn ports(&mut self, ports: &Ports, held: &mut Held) -> CompiledPorts {
        match ports {
            Ports::Range(first, last) => CompiledPorts::Range(*first, *last),
            Ports::Named(name, protocol) => {
                let number = self.sets.names.number(name);
                held.names.push(number);
                CompiledPorts::Named(number, *protocol)
            }
            Ports::Members(members) => {
                let member = |(net, protocol, port): &(IpNet, u8, u16)| {
                    (self.set(&Set::Members(Vec::from([*net])), held), *protocol, *port)
                };
                CompiledPorts::Members(members.iter().map(member).collect())
            }
        }
    }
}
