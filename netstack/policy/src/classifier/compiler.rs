//! From one model to the next: what has changed is compiled, what has not is shared with the classifier before.
//!
//! What happens in an update, in this order, because each step rests on those before:
//! 1. endpoints and networks that are new or gone: identities, and their addresses;
//! 2. policies and profiles that are new or gone: rules, and the sets and networks that these speak of;
//! 3. classes of addresses, of what has changed;
//! 4. which classes are in which sets, and have which named ports;
//! 5. which policies each identity has, where that has changed, and its programs;
//! 6. rows of the programs that were there, for classes that are new or gone.
//!
//! What is gone is given back after what is new was taken, so that what both have stays.

mod settle;

use alloc::{string::String, sync::Arc, vec::Vec};

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use pace::Pace;

use super::atoms::{Identities, Traits, What};
use super::bits::Bits;
use super::classes::{Addresses, Atom, Classes, OutOfMemory};
use super::origin::{CounterId, Counters, Part, Source, Written};
use super::programs::Programs;
use super::sets::{Ground, Held, Sets};
use super::{Classifier, DIRECTIONS, Host, NONE, PROGRAMS_OF_IDENTITY, program::Placed};
use crate::model::{DefaultAction, Endpoint, EndpointKind, Model, Networks, Order, Policy, Profile, Rule};

/// What is done for a unit of work.
const KNOWN_PER_UNIT: usize = 16;
const NETS_PER_UNIT: usize = 2;
const SELECTORS_PER_UNIT: usize = 16;
/// What these cost.
const UNITS_PER_ENDPOINT: u64 = 2;
const UNITS_PER_POLICY: u64 = 10;

/// A policy or a profile in force.
pub struct InForce {
    pub source: Arc<Source>,
    /// Of ingress and of egress.
    pub rules: [Vec<Arc<Placed>>; 2],
    held: Held,
    /// Its tier, and its place among the policies of that.
    pub rank: (u32, u32),
}

struct KnownNetworks {
    networks: Arc<Networks>,
    identity: u32,
    /// Sorted, each once.
    nets: Vec<IpNet>,
}

/// Compiles one model after the other.
pub struct Compiler {
    classes: Classes,
    identities: Identities,
    sets: Sets,
    counters: Arc<Counters>,
    tiers: Vec<(String, Order, DefaultAction)>,
    in_force: Vec<Option<InForce>>,
    free: Vec<u32>,
    /// By where they are in memory, which they keep.
    policies: HashMap<usize, u32>,
    profiles: HashMap<String, u32>,
    endpoints: HashMap<usize, (Arc<Endpoint>, u32)>,
    networks: HashMap<usize, KnownNetworks>,
    /// The policies of each identity, in no order.
    lists: Vec<Vec<u32>>,
    programs: Programs,
    of_identity: Arc<Vec<[u32; PROGRAMS_OF_IDENTITY]>>,
    /// The identity of the endpoint that has a class, if one has.
    endpoint_of_class: Arc<Vec<u32>>,
    hosts: Arc<[Host]>,
    updates: u64,
}

/// A policy with the name of its tier and its rank.
type NewPolicy<'a> = (&'a String, &'a Arc<Policy>, (u32, u32));

/// What an update has to do with identities.
#[derive(Default)]
struct Affected {
    /// Their programs must be looked at.
    identities: Bits,
    gone: Vec<u32>,
    hosts: bool,
    /// What was in force before the tiers changed: its counters are given on to what is like it, and taken back.
    before: Vec<Arc<Source>>,
}

impl Compiler {
    /// A compiler of nothing yet.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new() -> Result<Compiler, OutOfMemory> {
        Ok(Compiler {
            classes: Classes::new()?,
            identities: Identities::default(),
            sets: Sets::default(),
            counters: Arc::default(),
            tiers: Vec::new(),
            in_force: Vec::new(),
            free: Vec::new(),
            policies: HashMap::new(),
            profiles: HashMap::new(),
            endpoints: HashMap::new(),
            networks: HashMap::new(),
            lists: Vec::new(),
            programs: Programs::default(),
            of_identity: Arc::default(),
            endpoint_of_class: Arc::default(),
            hosts: Arc::default(),
            updates: 0,
        })
    }

    /// Compiles a model. Parts that it shares with the one before cost little; those must be in the same order among
    /// themselves, and policies of a tier in the order in which they are asked.
    ///
    /// Addresses are in the tables as before, until they are moved. Readers of the classifier before do not notice if:
    /// 1. they get it again as [`Classifier::awaiting`] this update;
    /// 2. once none has it as it was, [`Compiler::enter_part`] is called as long as [`Compiler::has_to_enter`];
    /// 3. they get the new one;
    /// 4. once none has the one before, [`Compiler::apply_part`] is called as long as [`Compiler::has_pending`].
    ///
    /// To each reader all addresses move as it takes the new classifier. What is left of this at the next update is done then,
    /// as [`Compiler::apply`] does it. After each part [`Compiler::retire`] and [`Compiler::reclaim`] are due: a table at the end
    /// of its memory goes on with what they give back.
    ///
    /// # Errors
    /// [`OutOfMemory`]; then the compiler is of no use any more.
    pub fn update(&mut self, model: Arc<Model>) -> Result<Classifier, OutOfMemory> {
        pace::at_once(|pace| async move { self.update_paced(model, &pace).await })
    }

    /// [`Compiler::update`] in short pieces.
    ///
    /// # Errors
    /// As [`Compiler::update`].
    pub async fn update_paced(&mut self, model: Arc<Model>, pace: &Pace) -> Result<Classifier, OutOfMemory> {
        self.classes.apply_unread(pace).await?;
        let tiers: Vec<_> =
            model.tiers.iter().map(|tier| (tier.name.clone(), tier.order, tier.default_action)).collect();
        let anew = tiers != self.tiers;
        let mut affected = Affected::default();
        if anew {
            affected.before = self.counters.sources().cloned().collect();
            let counters = core::mem::take(&mut self.counters);
            let updates = self.updates;
            *self = Compiler { counters, tiers, updates, ..Compiler::new()? };
        }
        self.updates += 1;
        self.update_endpoints(&model, &mut affected, pace).await;
        self.update_networks(&model, pace).await;
        self.update_profiles(&model, &mut affected);
        self.update_policies(&model, &mut affected, pace).await;
        self.settle(&model, &mut affected, pace).await;
        for source in &affected.before {
            Arc::make_mut(&mut self.counters).take(source);
        }
        if anew {
            // Nobody reads the new tables of addresses yet.
            self.classes.apply_unread(pace).await?;
        }
        Ok(self.classifier(model))
    }

    /// Puts some addresses on their way from where the classifier before the newest has them. A large change takes less memory
    /// and stops nobody for long if between its parts what they unlink is retired and reclaimed.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn enter_part(&mut self, at_most: usize) -> Result<(), OutOfMemory> {
        self.classes.enter(at_most)
    }

    /// True if [`Compiler::enter_part`] has something to do.
    pub fn has_to_enter(&self) -> bool {
        self.classes.has_to_enter()
    }

    /// Moves all addresses to the classes that the newest classifier knows for them, where nobody looks any up meanwhile.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn apply(&mut self) -> Result<(), OutOfMemory> {
        pace::at_once(|pace| async move { self.classes.apply_unread(&pace).await })
    }

    /// Moves some addresses, where nobody reads an older classifier.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn apply_part(&mut self, at_most: usize) -> Result<(), OutOfMemory> {
        self.classes.apply(at_most)
    }

    /// True if [`Compiler::apply`] has something to do.
    pub fn has_pending(&self) -> bool {
        self.classes.has_pending()
    }

    /// The tables of addresses as the classifier before the newest knows them.
    pub(super) fn addresses_before(&self) -> Addresses {
        self.classes.addresses_before()
    }

    /// Says that what changed in the tables of addresses may be forgotten once readers have reached a generation.
    pub fn retire(&mut self, generation: u64) {
        self.classes.retire(generation);
    }

    /// Forgets what readers that have reached a generation do not read any more.
    pub fn reclaim(&mut self, safe_generation: u64) {
        self.classes.reclaim(safe_generation);
    }

    /// What a counter counts.
    pub fn source(&self, counter: CounterId) -> Option<(&Arc<Source>, Part)> {
        self.counters.source(counter)
    }

    /// All policies and profiles in force.
    pub fn sources(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.counters.sources()
    }

    async fn update_endpoints(&mut self, model: &Model, affected: &mut Affected, pace: &Pace) {
        let mut there: HashSet<usize> = HashSet::with_capacity(model.endpoints.len());
        for (number, endpoint) in model.endpoints.iter().enumerate() {
            if number % KNOWN_PER_UNIT == 0 {
                pace.spend(1).await;
            }
            let place = Arc::as_ptr(endpoint) as usize;
            let is_first = there.insert(place);
            if !is_first || self.endpoints.contains_key(&place) {
                continue;
            }
            pace.spend(UNITS_PER_ENDPOINT).await;
            let identity = self.identities.acquire(Traits::of_endpoint(endpoint));
            for address in &endpoint.addresses {
                self.classes.attach(IpNet::from(*address), Atom::Identity(identity));
            }
            affected.hosts |= endpoint.kind == EndpointKind::Host;
            let _ = self.endpoints.insert(place, (endpoint.clone(), identity));
        }
        if there.len() == self.endpoints.len() {
            return;
        }
        let gone: Vec<_> = self.endpoints.extract_if(|place, _| !there.contains(place)).collect();
        for (_, (endpoint, identity)) in gone {
            pace.spend(UNITS_PER_ENDPOINT).await;
            for address in &endpoint.addresses {
                self.classes.detach(IpNet::from(*address), Atom::Identity(identity));
            }
            affected.hosts |= endpoint.kind == EndpointKind::Host;
            self.identities.release(identity);
        }
    }

    async fn update_networks(&mut self, model: &Model, pace: &Pace) {
        let there: HashSet<usize> = model.networks.iter().map(|n| Arc::as_ptr(n) as usize).collect();
        let mut gone: Vec<KnownNetworks> =
            self.networks.extract_if(|place, _| !there.contains(place)).map(|(_, known)| known).collect();
        for networks in &model.networks {
            let place = Arc::as_ptr(networks) as usize;
            if self.networks.contains_key(&place) {
                continue;
            }
            pace.spend((networks.nets.len() / KNOWN_PER_UNIT) as u64).await;
            let mut nets: Vec<IpNet> = networks.nets.iter().map(IpNet::trunc).collect();
            nets.sort_unstable();
            nets.dedup();
            let identity = self.identities.acquire(Traits::of_networks(networks));
            // The set that it follows, if there is one: only what differs is then touched.
            let same =
                |known: &KnownNetworks| known.identity == identity && known.networks.name == networks.name;
            let before = gone.iter().position(same).map(|at| gone.swap_remove(at));
            let (added, removed) = difference(before.as_ref().map_or(&[], |known| &known.nets), &nets);
            let classes = &mut self.classes;
            each(at(&nets, &added), pace, |net| classes.attach(net, Atom::Identity(identity))).await;
            if let Some(before) = before {
                let removed = at(&before.nets, &removed);
                each(removed, pace, |net| classes.detach(net, Atom::Identity(identity))).await;
                self.identities.release(before.identity);
            }
            let known = KnownNetworks { networks: networks.clone(), identity, nets };
            let _ = self.networks.insert(place, known);
        }
        for known in gone {
            let classes = &mut self.classes;
            each(known.nets.iter(), pace, |net| classes.detach(net, Atom::Identity(known.identity))).await;
            self.identities.release(known.identity);
        }
    }

    /// Puts something written into force.
    fn enforce(&mut self, written: Written, rank: (u32, u32), like: Option<&Arc<Source>>) -> u32 {
        let mut held = Held::default();
        let mut rules = [Vec::new(), Vec::new()];
        for (direction, compiled) in DIRECTIONS.into_iter().zip(&mut rules) {
            let list: &[Rule] = match &written {
                Written::Policy { policy, .. } => policy.rules(direction).unwrap_or_default(),
                Written::Profile { profile, .. } => profile.rules(direction),
            };
            let mut ground =
                Ground { sets: &mut self.sets, identities: &self.identities, classes: &mut self.classes };
            for rule in list {
                let rule = ground.compile(rule, &mut held);
                compiled.push(Placed::new(rule, direction, &ground.sets.names));
            }
        }
        let source = Arc::make_mut(&mut self.counters).give(written, like.map(AsRef::as_ref));
        let entry = Some(InForce { source, rules, held, rank });
        match self.free.pop() {
            Some(number) => {
                if let Some(place) = self.in_force.get_mut(number as usize) {
                    *place = entry;
                }
                number
            }
            None => {
                self.in_force.push(entry);
                self.in_force.len() as u32 - 1
            }
        }
    }

    fn source_of(&self, number: u32) -> Option<&Arc<Source>> {
        Some(&self.in_force.get(number as usize)?.as_ref()?.source)
    }

    fn update_profiles(&mut self, model: &Model, affected: &mut Affected) {
        let mut changed: HashSet<String> = HashSet::new();
        for (name, profile) in &model.profiles {
            let known = self.profiles.get(name).copied();
            let source = known.and_then(|number| self.source_of(number)).cloned();
            let same = |source: &Arc<Source>| matches!(&source.what, Written::Profile { profile: known, .. } if same_profile(known, profile));
            if source.as_ref().is_some_and(same) {
                continue;
            }
            let is_like = |source: &&Arc<Source>| matches!(&source.what, Written::Profile { name: known, .. } if known == name);
            let like = source.as_ref().or_else(|| affected.before.iter().find(is_like));
            let written = Written::Profile { name: name.clone(), profile: profile.clone() };
            let number = self.enforce(written, (u32::MAX, 0), like);
            affected.gone.extend(self.profiles.insert(name.clone(), number));
            let _ = changed.insert(name.clone());
        }
        let gone: Vec<(String, u32)> =
            self.profiles.extract_if(|name, _| !model.profiles.contains_key(name)).collect();
        affected.gone.extend(gone.iter().map(|(_, number)| *number));
        changed.extend(gone.into_iter().map(|(name, _)| name));
        if !changed.is_empty() {
            let has = |traits: &Traits| traits.profiles.iter().any(|name| changed.contains(name));
            for (number, _) in self.identities.iter().filter(|(_, traits)| has(traits)) {
                affected.identities.insert(number);
            }
        }
    }

    async fn update_policies(&mut self, model: &Model, affected: &mut Affected, pace: &Pace) {
        self.lists.resize_with(self.identities.len(), Vec::new);
        let (new, gone) = self.compare_policies(model, pace).await;
        let of_gone = gone.iter().filter_map(|number| self.source_of(*number));
        let before: Vec<Arc<Source>> = of_gone.chain(&affected.before).cloned().collect();
        let known_as: HashMap<_, _> =
            before.iter().filter_map(|source| Some((source.what.policy()?, source))).collect();
        // New identities have what was there before; what is new comes for all of them.
        self.list_for_born(affected, pace).await;
        for (tier, policy, rank) in new {
            pace.spend(UNITS_PER_POLICY).await;
            let like = known_as.get(&(tier.as_str(), &policy.id)).copied();
            let written = Written::Policy { tier: tier.clone(), policy: policy.clone() };
            let number = self.enforce(written, rank, like);
            let _ = self.policies.insert(Arc::as_ptr(policy) as usize, number);
            self.change_lists(policy, affected, |list| list.push(number));
        }
        for number in &gone {
            let written = self.source_of(*number).map(|source| &source.what);
            if let Some(Written::Policy { policy, .. }) = written {
                let policy = policy.clone();
                self.change_lists(&policy, affected, |list| list.retain(|known| known != number));
            }
        }
        affected.gone.extend(gone);
    }

    /// Policies that are new, with the names of their tiers and their ranks, and the numbers of those that are gone. The others
    /// get the ranks that they have now.
    async fn compare_policies<'a>(
        &mut self,
        model: &'a Model,
        pace: &Pace,
    ) -> (Vec<NewPolicy<'a>>, Vec<u32>) {
        let mut there: HashSet<usize> = HashSet::with_capacity(self.policies.len());
        let mut new = Vec::new();
        for (tier, tier_number) in model.tiers.iter().zip(0..) {
            for (policy, place_in_tier) in tier.policies.iter().zip(0..) {
                if place_in_tier % KNOWN_PER_UNIT as u32 == 0 {
                    pace.spend(1).await;
                }
                let place = Arc::as_ptr(policy) as usize;
                let is_first = there.insert(place);
                let rank = (tier_number, place_in_tier);
                let known =
                    self.policies.get(&place).and_then(|number| self.in_force.get_mut(*number as usize));
                match known {
                    Some(Some(known)) if is_first => known.rank = rank,
                    None if is_first => new.push((&tier.name, policy, rank)),
                    _ => {}
                }
            }
        }
        let gone = self.policies.extract_if(|place, _| !there.contains(place)).map(|(_, number)| number);
        (new, gone.collect())
    }

    /// Lists for identities that are new which of the policies in force they have.
    async fn list_for_born(&mut self, affected: &mut Affected, pace: &Pace) {
        for number in self.identities.take_born() {
            pace.spend(1 + (self.in_force.len() / SELECTORS_PER_UNIT) as u64).await;
            let Some(traits) = self.identities.traits(number).cloned() else { continue };
            self.sets.add_identity(number, &traits);
            let grown = self.sets.add_ports(&traits.ports);
            self.follow_names(&grown, affected);
            affected.identities.insert(number);
            let has = |policy: &Policy| traits.what != What::Node && policy.subject.matches(&traits.labels);
            let known =
                (0..).zip(&self.in_force).filter_map(|(number, entry)| Some((number, entry.as_ref()?)));
            let list = known.filter(
                |(_, known)| matches!(&known.source.what, Written::Policy { policy, .. } if has(policy)),
            );
            let list = list.map(|(number, _)| number).collect();
            if let Some(place) = self.lists.get_mut(number as usize) {
                *place = list;
            }
        }
    }

    /// Changes the lists of the identities that a policy is about.
    fn change_lists(&mut self, policy: &Policy, affected: &mut Affected, change: impl Fn(&mut Vec<u32>)) {
        for identity in self.identities.select(&policy.subject, false).iter() {
            affected.identities.insert(identity);
            if let Some(list) = self.lists.get_mut(identity as usize) {
                change(list);
            }
        }
    }

    /// Rules about names that have got ports reach further than they did.
    fn follow_names(&mut self, names: &[u32], affected: &mut Affected) {
        if names.is_empty() {
            return;
        }
        for number in 0..self.in_force.len() as u32 {
            let Some(Some(known)) = self.in_force.get_mut(number as usize) else { continue };
            if !known.held.names.iter().any(|name| names.contains(name)) {
                continue;
            }
            for (direction, rules) in DIRECTIONS.into_iter().zip(&mut known.rules) {
                for placed in rules {
                    *placed = Placed::new(placed.rule.clone(), direction, &self.sets.names);
                }
            }
            self.programs.outdate(number);
        }
        let outdated = self.programs.take_outdated();
        for (identity, programs) in (0..).zip(self.of_identity.iter()) {
            if programs.iter().any(|program| outdated.contains(program)) {
                affected.identities.insert(identity);
            }
        }
    }

    fn classifier(&self, model: Arc<Model>) -> Classifier {
        let identity = |endpoint: &Arc<Endpoint>| {
            self.endpoints.get(&(Arc::as_ptr(endpoint) as usize)).map_or(NONE, |(_, identity)| *identity)
        };
        Classifier {
            of_endpoint: model.endpoints.iter().map(identity).collect(),
            addresses: self.classes.addresses(),
            members: self.sets.members.clone(),
            programs: self.programs.live(),
            of_identity: self.of_identity.clone(),
            endpoint_of_class: self.endpoint_of_class.clone(),
            hosts: self.hosts.clone(),
            updates: self.updates,
            counters: self.counters.clone(),
            model,
        }
    }
}

fn same_profile(known: &Arc<Profile>, profile: &Arc<Profile>) -> bool {
    Arc::ptr_eq(known, profile) || known == profile
}

/// The networks of a list at some of its places.
fn at<'a>(nets: &'a [IpNet], places: &'a [u32]) -> impl Iterator<Item = &'a IpNet> {
    places.iter().filter_map(|place| nets.get(*place as usize))
}

/// Takes networks one by one, in short pieces.
async fn each<'a>(nets: impl Iterator<Item = &'a IpNet>, pace: &Pace, mut take: impl FnMut(IpNet)) {
    for (number, net) in nets.enumerate() {
        if number.is_multiple_of(NETS_PER_UNIT) {
            pace.spend(1).await;
        }
        take(*net);
    }
}

/// What sorted lists do not have in common: places in `after`, and places in `before`.
fn difference(before: &[IpNet], after: &[IpNet]) -> (Vec<u32>, Vec<u32>) {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    let mut old = before.iter().zip(0..).peekable();
    for (net, place) in after.iter().zip(0..) {
        while let Some((_, gone)) = old.next_if(|(known, _)| *known < net) {
            removed.push(gone);
        }
        if old.next_if(|(known, _)| *known == net).is_none() {
            added.push(place);
        }
    }
    removed.extend(old.map(|(_, place)| place));
    (added, removed)
}
