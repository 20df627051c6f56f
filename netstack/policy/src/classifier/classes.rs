//! Address classes: addresses that no rule can tell apart. A lookup by longest prefix gives the class of an address; what
//! rules ask of addresses is then asked of classes, when the classifier is made.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec,
    vec::Vec,
};
use core::net::IpAddr;

use fib::{Fib4, Fib4Writer, Fib6, Fib6Writer, Prefix};
use hashbrown::HashMap;
use ipnet::IpNet;

use super::atoms::Identities;
use super::bits::Bits;
use crate::model::{Match, Model, Ports, Set};

/// The class of IPv6 addresses that nothing is about. That of IPv4 is 0, which the table answers for no prefix.
const NOWHERE6: u32 = 1;

/// What an address can be part of: an identity, or a network that rules speak of.
type Atom = u32;

/// All classes.
pub struct Classes {
    /// True for classes of IPv4 addresses.
    pub is_ipv4: Vec<bool>,
    /// The atoms of each class.
    pub atoms: Vec<Arc<[Atom]>>,
    /// The classes that have an atom.
    of_atom: Vec<Vec<u32>>,
    /// The atom of each network that rules speak of.
    nets: HashMap<IpNet, Atom>,
    table4: Arc<Fib4>,
    table6: Arc<Fib6>,
}

/// No memory for the tables of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl From<fib::Error> for OutOfMemory {
    fn from(_: fib::Error) -> OutOfMemory {
        OutOfMemory
    }
}

impl Classes {
    /// Makes the classes of everything a model speaks of.
    pub fn new<'a>(
        model: &'a Model,
        identities: &Identities,
        rules: impl Iterator<Item = &'a Match>,
    ) -> Result<Classes, OutOfMemory> {
        let mut prefixes: BTreeMap<(bool, u128, u8), Vec<Atom>> = BTreeMap::new();
        let mut attach = |net: IpNet, atom| prefixes.entry(key(net)).or_default().push(atom);
        for (endpoint, identity) in model.endpoints.iter().zip(&identities.of_endpoint) {
            endpoint.addresses.iter().for_each(|address| attach(IpNet::from(*address), *identity));
        }
        for (networks, identity) in model.networks.iter().zip(&identities.of_networks) {
            networks.nets.iter().for_each(|net| attach(net.trunc(), *identity));
        }
        let mut nets = HashMap::new();
        for net in rules.flat_map(nets_of).collect::<BTreeSet<IpNet>>() {
            let atom = (identities.all.len() + nets.len()) as Atom;
            if nets.insert(net, atom).is_none() {
                attach(net, atom);
            }
        }
        let count = identities.all.len() + nets.len();
        let mut classes = Builder::default();
        let _ = (classes.intern(true, Vec::new()), classes.intern(false, Vec::new()));
        let (mut writer4, mut writer6) = (Fib4Writer::new()?, Fib6Writer::new()?);
        // Of prefixes in this order, those around one are the last ones before it that have not ended.
        let mut around: Vec<((bool, u128, u8), Vec<Atom>)> = Vec::new();
        for (prefix, mut atoms) in prefixes {
            while around.last().is_some_and(|(outer, _)| !covers(*outer, prefix)) {
                let _ = around.pop();
            }
            atoms.extend(around.last().into_iter().flat_map(|(_, outer)| outer));
            atoms.sort_unstable();
            atoms.dedup();
            let class = classes.intern(prefix.0, atoms.clone());
            enter(prefix, class, &mut writer4, &mut writer6)?;
            around.push((prefix, atoms));
        }
        let mut of_atom = vec![Vec::new(); count];
        for (class, atoms) in classes.atoms.iter().enumerate() {
            for atom in atoms.iter() {
                if let Some(list) = of_atom.get_mut(*atom as usize) {
                    list.push(class as u32);
                }
            }
        }
        Ok(Classes {
            is_ipv4: classes.is_ipv4,
            atoms: classes.atoms,
            of_atom,
            nets,
            table4: writer4.fib().clone(),
            table6: writer6.fib().clone(),
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.atoms.len()
    }

    /// The class of an address.
    #[inline]
    pub fn of(&self, address: IpAddr) -> u32 {
        match address {
            IpAddr::V4(address) => self.table4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.table6.lookup(address.to_bits()).max(NOWHERE6),
        }
    }

    /// The classes of addresses that are in one of some networks.
    pub fn within(&self, nets: &[IpNet]) -> Bits {
        let mut bits = Bits::none(self.len());
        for atom in nets.iter().filter_map(|net| self.nets.get(&net.trunc())) {
            self.add_atom(*atom, &mut bits);
        }
        bits
    }

    /// The classes of addresses that are in a set.
    pub fn of_set(&self, set: &Set, identities: &Identities) -> Bits {
        let selected = match set {
            Set::Members(nets) => return self.within(nets),
            Set::Nodes(selector) => identities.select(selector, true),
            Set::Selected(selector) => identities.select(selector, false),
        };
        let mut bits = Bits::none(self.len());
        selected.iter().for_each(|identity| self.add_atom(identity, &mut bits));
        bits
    }

    fn add_atom(&self, atom: Atom, bits: &mut Bits) {
        self.of_atom.get(atom as usize).into_iter().flatten().for_each(|class| bits.insert(*class));
    }
}

#[derive(Default)]
struct Builder {
    is_ipv4: Vec<bool>,
    atoms: Vec<Arc<[Atom]>>,
    known: HashMap<(bool, Arc<[Atom]>), u32>,
}

impl Builder {
    fn intern(&mut self, is_ipv4: bool, atoms: Vec<Atom>) -> u32 {
        let atoms: Arc<[Atom]> = atoms.into();
        *self.known.entry((is_ipv4, atoms.clone())).or_insert_with(|| {
            self.is_ipv4.push(is_ipv4);
            self.atoms.push(atoms);
            self.atoms.len() as u32 - 1
        })
    }
}

fn key(net: IpNet) -> (bool, u128, u8) {
    match net {
        IpNet::V4(net) => (true, u128::from(net.network().to_bits()), net.prefix_len()),
        IpNet::V6(net) => (false, net.network().to_bits(), net.prefix_len()),
    }
}

fn covers(outer: (bool, u128, u8), inner: (bool, u128, u8)) -> bool {
    let width: u8 = if outer.0 { 32 } else { 128 };
    let common = outer.1 ^ inner.1;
    outer.0 == inner.0
        && outer.2 <= inner.2
        && common.checked_shr(u32::from(width - outer.2)).is_none_or(|differing| differing == 0)
}

fn enter(
    (is_ipv4, address, len): (bool, u128, u8),
    class: u32,
    table4: &mut Fib4Writer,
    table6: &mut Fib6Writer,
) -> Result<(), OutOfMemory> {
    if is_ipv4 {
        if let Some(prefix) = Prefix::new(address as u32, len) {
            let _ = table4.insert(prefix, class)?;
        }
    } else if let Some(prefix) = Prefix::new(address, len) {
        let _ = table6.insert(prefix, class)?;
    }
    Ok(())
}

/// The networks that a rule speaks of.
fn nets_of(rule: &Match) -> impl Iterator<Item = IpNet> {
    [&rule.source, &rule.destination].into_iter().flat_map(|side| {
        let members = |set: &Set| match set {
            Set::Members(nets) => nets.clone(),
            _ => Vec::new(),
        };
        let ports = |ports: &Ports| match ports {
            Ports::Members(members) => members.iter().map(|(net, ..)| *net).collect(),
            _ => Vec::new(),
        };
        let sets = side.sets.iter().chain(&side.not_sets).flat_map(members);
        let with_ports = side.ports.iter().chain(&side.not_ports).flat_map(ports);
        let nets = side.nets.iter().chain(&side.not_nets).copied();
        nets.chain(sets).chain(with_ports).map(|net| net.trunc())
    })
}
