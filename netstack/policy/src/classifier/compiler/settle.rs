//! What follows once it is known which parts are new or gone: steps 3 to 6 of an update.

use alloc::{sync::Arc, vec::Vec};

use pace::Pace;

use super::{Affected, Compiler};
use crate::classifier::atoms::What;
use crate::classifier::classes::Atom;
use crate::classifier::programs::Subject;
use crate::classifier::{Host, NONE, PROGRAMS_OF_IDENTITY};
use crate::model::{Endpoint, EndpointKind, Model};

/// What is done for a unit of work.
const LISTED_PER_UNIT: usize = 8;
/// What one costs.
const UNITS_PER_ROW: u64 = 2;

impl Compiler {
    pub(super) async fn settle(&mut self, model: &Model, affected: &mut Affected, pace: &Pace) {
        affected.gone.sort_unstable();
        for number in &affected.gone {
            if let Some(Some(known)) = self.in_force.get(*number as usize) {
                self.sets.release(&known.held);
            }
        }
        let dead_sets = self.sets.take_dead(&self.identities, &mut self.classes);
        let (mut born, dead) = self.classes.settle(pace).await;
        born.retain(|class| dead.binary_search(class).is_err());
        self.sets.settle(&self.identities, &self.classes, pace).await;
        self.settle_members(&born, &dead, pace).await;
        let dead_identities = self.identities.take_dead();
        self.settle_programs(affected, &dead_identities, pace).await;
        self.settle_rows(&born, &dead, pace).await;
        for identity in &dead_identities {
            self.sets.remove_identity(*identity);
        }
        self.classes.bury(&dead);
        self.sets.reuse(dead_sets);
        self.identities.reuse(dead_identities);
        for number in core::mem::take(&mut affected.gone) {
            if let Some(known) = self.in_force.get_mut(number as usize).and_then(Option::take) {
                Arc::make_mut(&mut self.counters).take(&known.source);
                self.free.push(number);
            }
        }
        if affected.hosts {
            let hosts = model.endpoints.iter().filter(|endpoint| endpoint.kind == EndpointKind::Host);
            let host = |endpoint: &Arc<Endpoint>| {
                let (_, identity) = self.endpoints.get(&(Arc::as_ptr(endpoint) as usize))?;
                Some(Host { endpoint: endpoint.clone(), identity: *identity })
            };
            self.hosts = hosts.filter_map(host).collect();
        }
    }

    /// Which classes are in which sets, whose they are, and which named ports they have.
    async fn settle_members(&mut self, born: &[u32], dead: &[u32], pace: &Pace) {
        if born.is_empty() && dead.is_empty() {
            return;
        }
        let endpoint_of_class = Arc::make_mut(&mut self.endpoint_of_class);
        endpoint_of_class.resize(self.classes.len(), NONE);
        let mut with_ports: Vec<(bool, (u32, u32, u8, u16))> = Vec::new();
        let changes = dead.iter().map(|class| (false, *class)).chain(born.iter().map(|class| (true, *class)));
        for (is_born, class) in changes {
            pace.spend(1).await;
            let Some((_, atoms)) = self.classes.class(class) else { continue };
            for set in self.sets.of_atoms(atoms) {
                let Some(bits) = self.sets.members.classes.get_mut(set as usize) else { continue };
                if bits.contains(class) != is_born {
                    let bits = Arc::make_mut(bits);
                    if is_born { bits.insert(class) } else { bits.remove(class) }
                }
            }
            let mut endpoint = NONE;
            for atom in atoms {
                let Atom::Identity(identity) = atom else { continue };
                let Some(traits) = self.identities.traits(*identity) else { continue };
                if endpoint == NONE && matches!(traits.what, What::Endpoint(_)) {
                    endpoint = *identity;
                }
                for (name, protocol, port) in self.sets.named(&traits.ports) {
                    with_ports.push((is_born, (class, name, protocol, port)));
                }
            }
            if let Some(place) = endpoint_of_class.get_mut(class as usize) {
                *place = if is_born { endpoint } else { NONE };
            }
        }
        if !with_ports.is_empty() {
            let named = Arc::make_mut(&mut self.sets.members.named);
            for (is_born, port) in with_ports {
                let _ = if is_born { named.insert(port) } else { named.remove(&port) };
            }
        }
    }

    /// The programs of identities that are affected.
    async fn settle_programs(&mut self, affected: &Affected, dead: &[u32], pace: &Pace) {
        if affected.identities.is_empty() && dead.is_empty() {
            return;
        }
        let of_identity = Arc::make_mut(&mut self.of_identity);
        of_identity.resize(self.identities.len(), [NONE; PROGRAMS_OF_IDENTITY]);
        let mut released: Vec<u32> = Vec::new();
        let ground = (&self.sets.members, &self.classes);
        for identity in affected.identities.iter().chain(dead.iter().copied()) {
            let policies = self.lists.get(identity as usize).map_or(0, Vec::len);
            pace.spend(1 + (policies / LISTED_PER_UNIT) as u64).await;
            let Some(place) = of_identity.get_mut(identity as usize) else { continue };
            let before = *place;
            let traits = self.identities.traits(identity).filter(|_| dead.binary_search(&identity).is_err());
            *place = [NONE; PROGRAMS_OF_IDENTITY];
            if let Some(traits) = traits
                && let What::Endpoint(kind) = traits.what
                && let Some(list) = self.lists.get_mut(identity as usize)
            {
                list.sort_unstable_by_key(|number| {
                    self.in_force.get(*number as usize).and_then(Option::as_ref).map(|known| known.rank)
                });
                let profiles = traits.profiles.iter().filter_map(|name| self.profiles.get(name)).copied();
                let subject = Subject { kind, policies: list, profiles: profiles.collect() };
                *place = self.programs.acquire_all(&subject, &self.in_force, &self.tiers, ground);
            }
            released.extend(before.into_iter().filter(|program| *program != NONE));
            if traits.is_none()
                && let Some(list) = self.lists.get_mut(identity as usize)
            {
                list.clear();
            }
        }
        self.programs.release_all(&released);
    }

    /// Rows of programs that were there before.
    async fn settle_rows(&mut self, born: &[u32], dead: &[u32], pace: &Pace) {
        for class in dead {
            pace.spend(UNITS_PER_ROW).await;
            let Some((_, atoms)) = self.classes.class(*class) else { continue };
            self.programs.remove_class(*class, &self.sets.of_atoms(atoms));
        }
        for class in born {
            pace.spend(UNITS_PER_ROW).await;
            let Some((is_ipv4, atoms)) = self.classes.class(*class) else { continue };
            self.programs.add_class((*class, is_ipv4), &self.sets.of_atoms(atoms), &self.sets.members);
        }
        self.programs.tidy(&self.sets.members, &self.classes);
    }
}
