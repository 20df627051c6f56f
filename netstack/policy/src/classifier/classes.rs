//! Address classes: addresses that no rule can tell apart. A lookup by longest prefix gives the class of an address; what
//! rules ask of addresses is then asked of classes, when tables are made.
//!
//! There is one table of addresses, which all classifiers of a compiler read while it changes: a change of one address costs
//! one entry, whatever the size of the sets. An address comes into another class by way of a *passage*: a number that means its
//! old class to the classifier before and its new class to the one after. So all addresses of an update change their classes
//! when a reader changes its classifier:
//! 1. readers get the classifier before, knowing the passages;
//! 2. [`Classes::enter`] puts the addresses into them;
//! 3. readers get the classifier after;
//! 4. [`Classes::apply`] gives the addresses their new classes.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use core::net::IpAddr;
use core::ops::Bound;

use fib::{Fib4, Fib6, NO_ROUTE, Prefix, Writer};
use hashbrown::HashMap;
use ipnet::IpNet;
use pace::Pace;

/// The class of IPv6 addresses that nothing is about. That of IPv4 is 0, which the table answers for no prefix.
const NOWHERE6: u32 = 1;

/// Addresses that are entered into tables that nobody reads before their memory is tidied, and what one costs: each writes an
/// entry for up to 256 addresses anew.
const UNREAD_PART: usize = 32;
const UNITS_PER_ENTRY: usize = 8;

/// Numbers from here on are passages: there are less classes.
const PASSAGE: u32 = 1 << 30;

const _: () = assert!(PASSAGE < fib::VALUE_MAX);

/// What an address can be part of: an identity, or a network that rules speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    Identity(u32),
    Net(u32),
}

/// No memory for the tables of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl core::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no memory for the tables of addresses")
    }
}

impl core::error::Error for OutOfMemory {}

impl From<fib::Error> for OutOfMemory {
    fn from(_: fib::Error) -> OutOfMemory {
        OutOfMemory
    }
}

/// The tables of addresses, for readers.
#[derive(Clone)]
pub struct Addresses {
    table4: Arc<Fib4>,
    table6: Arc<Fib6>,
    /// The class that each passage stands for.
    passages: Arc<[u32]>,
}

impl Addresses {
    /// The class of an address.
    #[inline]
    pub fn class(&self, address: IpAddr) -> u32 {
        self.behind(match address {
            IpAddr::V4(address) => self.table4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.table6.lookup(address.to_bits()).max(NOWHERE6),
        })
    }

    /// The classes of IPv4 addresses; their cache misses overlap.
    pub fn classes_of_ipv4(&self, addresses: &[u32], classes: &mut [u32]) {
        self.table4.lookup_batch(addresses, classes);
        classes.iter_mut().take(addresses.len()).for_each(|class| *class = self.behind(*class));
    }

    /// The class that an entry of a table is or stands for.
    #[inline(always)]
    fn behind(&self, entry: u32) -> u32 {
        if entry < PASSAGE { entry } else { self.of_passage(entry) }
    }

    #[cold]
    fn of_passage(&self, number: u32) -> u32 {
        self.passages.get((number - PASSAGE) as usize).copied().unwrap_or_default()
    }
}

/// A way from one class to another.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Passage {
    from: u32,
    to: u32,
    /// What the table has in the end: `to`, or [`NO_ROUTE`] where the prefix around gives that.
    entry: u32,
}

/// All passages of an update.
#[derive(Default)]
struct Passages {
    all: Vec<Passage>,
    known: HashMap<Passage, u32>,
}

impl Passages {
    fn number(&mut self, passage: Passage) -> u32 {
        *self.known.entry(passage).or_insert_with(|| {
            self.all.push(passage);
            self.all.len() as u32 - 1
        })
    }
}

struct Class {
    is_ipv4: bool,
    atoms: Arc<[Atom]>,
    /// Prefixes that have it.
    uses: u32,
}

/// Classes by number.
#[derive(Default)]
struct Numbers {
    all: Vec<Option<Class>>,
    free: Vec<u32>,
    known: HashMap<(bool, Arc<[Atom]>), u32>,
    of_atom: HashMap<Atom, Vec<u32>>,
    born: Vec<u32>,
    left: Vec<u32>,
}

impl Numbers {
    fn acquire(&mut self, is_ipv4: bool, atoms: Arc<[Atom]>) -> u32 {
        let key = (is_ipv4, atoms);
        if let Some(number) = self.known.get(&key) {
            if let Some(Some(class)) = self.all.get_mut(*number as usize) {
                class.uses += 1;
            }
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() as u32 - 1
        });
        for atom in key.1.iter() {
            self.of_atom.entry(*atom).or_default().push(number);
        }
        if let Some(place) = self.all.get_mut(number as usize) {
            *place = Some(Class { is_ipv4, atoms: key.1.clone(), uses: 1 });
        }
        let _ = self.known.insert(key, number);
        self.born.push(number);
        number
    }

    fn release(&mut self, number: u32) {
        if let Some(Some(class)) = self.all.get_mut(number as usize) {
            class.uses = class.uses.saturating_sub(1);
            if class.uses == 0 {
                self.left.push(number);
            }
        }
    }
}

/// The atoms of a prefix itself, with how often they are there. Nearly always it is one.
#[derive(Default)]
enum Own {
    #[default]
    None,
    One(Atom, u32),
    Many(Vec<(Atom, u32)>),
}

impl Own {
    fn as_slice(&self) -> impl Iterator<Item = Atom> + '_ {
        let (one, many): (Option<Atom>, &[(Atom, u32)]) = match self {
            Own::None => (None, &[]),
            Own::One(atom, _) => (Some(*atom), &[]),
            Own::Many(many) => (None, many),
        };
        one.into_iter().chain(many.iter().map(|(atom, _)| *atom))
    }

    fn is_none(&self) -> bool {
        matches!(self, Own::None)
    }

    /// True if it was not there.
    fn add(&mut self, atom: Atom) -> bool {
        match self {
            Own::None => *self = Own::One(atom, 1),
            Own::One(known, count) if *known == atom => {
                *count += 1;
                return false;
            }
            Own::One(known, count) => *self = Own::Many(Vec::from([(*known, *count), (atom, 1)])),
            Own::Many(many) => match many.iter_mut().find(|(known, _)| *known == atom) {
                Some((_, count)) => {
                    *count += 1;
                    return false;
                }
                None => many.push((atom, 1)),
            },
        }
        true
    }

    /// True if it is not there any more.
    fn take(&mut self, atom: Atom) -> bool {
        match self {
            Own::None => false,
            Own::One(known, count) => {
                let is_it = *known == atom;
                *count -= u32::from(is_it);
                let gone = is_it && *count == 0;
                if gone {
                    *self = Own::None;
                }
                gone
            }
            Own::Many(many) => {
                let Some(at) = many.iter().position(|(known, _)| *known == atom) else { return false };
                if let Some((_, count)) = many.get_mut(at) {
                    *count -= 1;
                    if *count > 0 {
                        return false;
                    }
                }
                let _ = many.swap_remove(at);
                if many.is_empty() {
                    *self = Own::None;
                }
                true
            }
        }
    }
}

#[derive(Default)]
struct Place {
    own: Own,
    /// 0 before it has one.
    class: u32,
}

/// One family's prefixes and its table.
struct Half<K: fib::Key> {
    is_ipv4: bool,
    places: BTreeMap<Prefix<K>, Place>,
    /// How many prefixes there are of each length.
    lens: Vec<u32>,
    /// Prefixes whose atoms have changed.
    dirty: BTreeSet<Prefix<K>>,
    writer: Writer<K>,
    /// What is on its way, by which passage.
    moving: Vec<(Prefix<K>, u32)>,
    /// How many of these are in their passage, and how many have left it or need it no more.
    entered: usize,
    arrived: usize,
}

impl<K: fib::Key> Half<K> {
    fn new(is_ipv4: bool) -> Result<Self, OutOfMemory> {
        Ok(Half {
            is_ipv4,
            places: BTreeMap::new(),
            lens: alloc::vec![0; usize::from(K::BITS) + 1],
            dirty: BTreeSet::new(),
            writer: Writer::new()?,
            moving: Vec::new(),
            entered: 0,
            arrived: 0,
        })
    }

    fn attach(&mut self, prefix: Prefix<K>, atom: Atom) {
        let place = self.places.entry(prefix).or_insert_with(|| {
            if let Some(count) = self.lens.get_mut(usize::from(prefix.len())) {
                *count += 1;
            }
            Place::default()
        });
        if place.own.add(atom) {
            let _ = self.dirty.insert(prefix);
        }
    }

    fn detach(&mut self, prefix: Prefix<K>, atom: Atom) {
        if self.places.get_mut(&prefix).is_some_and(|place| place.own.take(atom)) {
            let _ = self.dirty.insert(prefix);
        }
    }

    /// The class of the longest prefix around one.
    fn around(&self, prefix: Prefix<K>) -> Option<u32> {
        let used = |len: &u8| self.lens.get(usize::from(*len)).is_some_and(|count| *count > 0);
        let longest_first = (0..prefix.len()).rev().filter(used);
        let places = longest_first.filter_map(|len| self.places.get(&Prefix::new(prefix.address(), len)?));
        places.filter(|place| !place.own.is_none()).map(|place| place.class).next()
    }

    /// Gives what has changed, and all within it, its class.
    async fn settle(&mut self, numbers: &mut Numbers, passages: &mut Passages, pace: &Pace) {
        while let Some(root) = self.dirty.pop_first() {
            let Some(end) = Prefix::new(root.last_address(), K::BITS) else { continue };
            let nowhere = if self.is_ipv4 { NO_ROUTE } else { NOWHERE6 };
            // What is around a root has not changed.
            let outer = self.around(root).unwrap_or(nowhere);
            let mut around: Vec<(Prefix<K>, Outer)> = Vec::new();
            let mut next = Some(root);
            while let Some(prefix) = next {
                pace.spend(1).await;
                let _ = self.dirty.remove(&prefix);
                while around.last().is_some_and(|(outer, _)| !outer.contains(prefix.address())) {
                    let _ = around.pop();
                }
                let outer = around.last().map_or(Outer { before: outer, after: outer }, |(_, outer)| *outer);
                let beyond = (Bound::Excluded(prefix), Bound::Included(end));
                next = if prefix == end {
                    None
                } else {
                    self.places.range(beyond).next().map(|(prefix, _)| *prefix)
                };
                around.push((prefix, self.settle_one(prefix, outer, numbers, passages)));
            }
        }
    }

    /// Gives a prefix its class, unless nothing is about it any more. What it now is to those within.
    fn settle_one(
        &mut self,
        prefix: Prefix<K>,
        outer: Outer,
        numbers: &mut Numbers,
        passages: &mut Passages,
    ) -> Outer {
        let Some(place) = self.places.get_mut(&prefix) else { return outer };
        let had = place.class;
        let before = if had == NO_ROUTE { outer.before } else { had };
        if place.own.is_none() {
            let _ = self.places.remove(&prefix);
            if let Some(count) = self.lens.get_mut(usize::from(prefix.len())) {
                *count -= 1;
            }
            if had != NO_ROUTE {
                numbers.release(had);
                let passage = Passage { from: before, to: outer.after, entry: NO_ROUTE };
                self.moving.push((prefix, passages.number(passage)));
            }
            return Outer { before, after: outer.after };
        }
        let of_outer = numbers.all.get(outer.after as usize).and_then(Option::as_ref);
        let of_outer = of_outer.into_iter().flat_map(|class| class.atoms.iter().copied());
        let mut atoms: Vec<Atom> = place.own.as_slice().chain(of_outer).collect();
        atoms.sort_unstable();
        atoms.dedup();
        let class = numbers.acquire(self.is_ipv4, atoms.into());
        place.class = class;
        if had != NO_ROUTE {
            numbers.release(had);
        }
        if had != class {
            let passage = Passage { from: before, to: class, entry: class };
            self.moving.push((prefix, passages.number(passage)));
        }
        Outer { before, after: class }
    }

    /// Puts some of what is moving into its passage; how many.
    fn enter(&mut self, at_most: usize) -> Result<usize, OutOfMemory> {
        let part = self.moving.iter().skip(self.entered).take(at_most);
        let mut done = 0;
        for (prefix, passage) in part {
            if !change(&mut self.writer, *prefix, PASSAGE + passage)? {
                break;
            }
            (self.entered, done) = (self.entered + 1, done + 1);
        }
        Ok(done)
    }

    /// Gives some of what is moving what it has in the end; how many.
    fn apply(&mut self, at_most: usize, passages: &Passages) -> Result<usize, OutOfMemory> {
        let part = self.moving.iter().skip(self.arrived).take(at_most);
        let mut done = 0;
        for (prefix, passage) in part {
            let entry = passages.all.get(*passage as usize).map_or(NO_ROUTE, |passage| passage.entry);
            if !change(&mut self.writer, *prefix, entry)? {
                break;
            }
            (self.arrived, done) = (self.arrived + 1, done + 1);
        }
        if self.arrived == self.moving.len() {
            (self.moving, self.entered, self.arrived) = (Vec::new(), 0, 0);
        }
        Ok(done)
    }
}

/// Changes what a table has for a prefix. False if that has to wait until what is unlinked is reclaimed.
fn change<K: fib::Key>(writer: &mut Writer<K>, prefix: Prefix<K>, entry: u32) -> Result<bool, OutOfMemory> {
    let result = match entry {
        NO_ROUTE => writer.remove(prefix),
        entry => writer.insert(prefix, entry),
    };
    match result {
        Ok(_) => Ok(true),
        Err(fib::Error::Memory) if writer.memory().unlinked_bytes > 0 => Ok(false),
        Err(_) => Err(OutOfMemory),
    }
}

/// The class of what is around a prefix, before an update and after it.
#[derive(Clone, Copy)]
struct Outer {
    before: u32,
    after: u32,
}

/// All classes.
pub struct Classes {
    numbers: Numbers,
    passages: Passages,
    half4: Half<u32>,
    half6: Half<u128>,
}

impl Classes {
    pub fn new() -> Result<Classes, OutOfMemory> {
        let mut numbers = Numbers::default();
        // Of addresses that nothing is about: they have their numbers for good.
        let _ = (numbers.acquire(true, Arc::new([])), numbers.acquire(false, Arc::new([])));
        numbers.born.clear();
        let (half4, half6) = (Half::new(true)?, Half::new(false)?);
        Ok(Classes { numbers, passages: Passages::default(), half4, half6 })
    }

    /// The tables for readers to whom the addresses that are moving have their new classes.
    pub fn addresses(&self) -> Addresses {
        self.addresses_where(|passage| passage.to)
    }

    /// The same for readers to whom they still have their old ones.
    pub fn addresses_before(&self) -> Addresses {
        self.addresses_where(|passage| passage.from)
    }

    fn addresses_where(&self, class: impl Fn(&Passage) -> u32) -> Addresses {
        Addresses {
            table4: self.half4.writer.fib().clone(),
            table6: self.half6.writer.fib().clone(),
            passages: self.passages.all.iter().map(class).collect(),
        }
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.numbers.all.len()
    }

    /// Says that an atom has a network, once more.
    pub fn attach(&mut self, net: IpNet, atom: Atom) {
        match net {
            IpNet::V4(net) => {
                if let Some(prefix) = Prefix::new(net.addr().to_bits(), net.prefix_len()) {
                    self.half4.attach(prefix, atom);
                }
            }
            IpNet::V6(net) => {
                if let Some(prefix) = Prefix::new(net.addr().to_bits(), net.prefix_len()) {
                    self.half6.attach(prefix, atom);
                }
            }
        }
    }

    /// Says that an atom has a network once less.
    pub fn detach(&mut self, net: IpNet, atom: Atom) {
        match net {
            IpNet::V4(net) => {
                if let Some(prefix) = Prefix::new(net.addr().to_bits(), net.prefix_len()) {
                    self.half4.detach(prefix, atom);
                }
            }
            IpNet::V6(net) => {
                if let Some(prefix) = Prefix::new(net.addr().to_bits(), net.prefix_len()) {
                    self.half6.detach(prefix, atom);
                }
            }
        }
    }

    /// Works out the classes of what has changed: those that are new, and those that no prefix has any more, which stay
    /// known until [`Classes::bury`].
    pub async fn settle(&mut self, pace: &Pace) -> (Vec<u32>, Vec<u32>) {
        self.passages = Passages::default();
        self.half4.settle(&mut self.numbers, &mut self.passages, pace).await;
        self.half6.settle(&mut self.numbers, &mut self.passages, pace).await;
        let mut dead = core::mem::take(&mut self.numbers.left);
        dead.sort_unstable();
        dead.dedup();
        let is_dead = |numbers: &Numbers, class: u32| {
            numbers
                .all
                .get(class as usize)
                .is_some_and(|class| class.as_ref().is_some_and(|class| class.uses == 0))
        };
        dead.retain(|class| is_dead(&self.numbers, *class));
        (core::mem::take(&mut self.numbers.born), dead)
    }

    /// Forgets classes, whose numbers may then be used again.
    pub fn bury(&mut self, dead: &[u32]) {
        for number in dead {
            let place = self.numbers.all.get_mut(*number as usize);
            let Some(class) = place.and_then(Option::take) else { continue };
            for atom in class.atoms.iter() {
                if let Some(list) = self.numbers.of_atom.get_mut(atom) {
                    list.retain(|known| known != number);
                    if list.is_empty() {
                        let _ = self.numbers.of_atom.remove(atom);
                    }
                }
            }
            let _ = self.numbers.known.remove(&(class.is_ipv4, class.atoms));
            self.numbers.free.push(*number);
        }
    }

    /// Puts some addresses into their passages; fewer, if memory that is unlinked has to be reclaimed first.
    pub fn enter(&mut self, at_most: usize) -> Result<(), OutOfMemory> {
        let done = self.half4.enter(at_most)?;
        self.half6.enter(at_most - done).map(|_| ())
    }

    /// True if there is something to enter.
    pub fn has_to_enter(&self) -> bool {
        self.half4.entered < self.half4.moving.len() || self.half6.entered < self.half6.moving.len()
    }

    /// Moves some addresses to the classes that were worked out for them; fewer, as in [`Classes::enter`].
    pub fn apply(&mut self, at_most: usize) -> Result<(), OutOfMemory> {
        let done = self.half4.apply(at_most, &self.passages)?;
        self.half6.apply(at_most - done, &self.passages).map(|_| ())
    }

    /// Moves all of them in tables that nobody reads meanwhile, whose memory can be used again at once.
    pub async fn apply_unread(&mut self, pace: &Pace) -> Result<(), OutOfMemory> {
        while self.has_pending() {
            pace.spend((UNREAD_PART * UNITS_PER_ENTRY) as u64).await;
            self.apply(UNREAD_PART)?;
            self.retire(u64::MAX);
            self.reclaim(u64::MAX);
        }
        Ok(())
    }

    /// True if there is something to apply.
    pub fn has_pending(&self) -> bool {
        !self.half4.moving.is_empty() || !self.half6.moving.is_empty()
    }

    /// As of [`Writer::retire`].
    pub fn retire(&mut self, generation: u64) {
        self.half4.writer.retire(generation);
        self.half6.writer.retire(generation);
    }

    /// As of [`Writer::reclaim`].
    pub fn reclaim(&mut self, safe_generation: u64) {
        self.half4.writer.reclaim(safe_generation);
        self.half6.writer.reclaim(safe_generation);
    }

    /// The classes that have an atom.
    pub fn of_atom(&self, atom: Atom) -> &[u32] {
        self.numbers.of_atom.get(&atom).map(Vec::as_slice).unwrap_or_default()
    }

    /// The family and the atoms of a class.
    pub fn class(&self, number: u32) -> Option<(bool, &[Atom])> {
        let class = self.numbers.all.get(number as usize)?.as_ref()?;
        Some((class.is_ipv4, &class.atoms))
    }
}
