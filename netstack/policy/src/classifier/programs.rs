//! All programs of a moment, each once, and who uses them.

use alloc::{string::String, sync::Arc, vec::Vec};

use hashbrown::{HashMap, HashSet};

use super::classes::Classes;
use super::compiler::InForce;
use super::origin::{Origin, Part, Written};
use super::program::{Line, Program};
use super::rules::{Members, SetId};
use super::{DIRECTIONS, NONE, PROGRAMS_OF_IDENTITY, STAGES, place_of};
use crate::model::{Action, DefaultAction, Direction, EndpointKind, Order, Policy};
use crate::reference::{Stage, is_asked};

/// What has programs: endpoints of a kind with these policies, in order, and profiles.
pub struct Subject<'a> {
    pub kind: EndpointKind,
    pub policies: &'a [u32],
    pub profiles: Vec<u32>,
}

/// What makes a program the one it is.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    stage: Stage,
    direction: Direction,
    policies: Vec<u32>,
    profiles: Vec<u32>,
}

struct Entry {
    key: Key,
    /// Identities that have it, once for each way.
    uses: u32,
}

/// All programs.
#[derive(Default)]
pub struct Programs {
    entries: Vec<Option<Entry>>,
    live: Vec<Option<Arc<Program>>>,
    free: Vec<u32>,
    known: HashMap<Key, u32>,
    /// Programs that ask about a set.
    of_set: HashMap<SetId, Vec<u32>>,
    /// Made in this update, so that their rows are whole.
    fresh: HashSet<u32>,
    /// Those that [`Programs::outdate`] found.
    changed: Vec<u32>,
    /// For each class, which of a program's sets it is in; empty between uses.
    scratch: Vec<Vec<SetId>>,
}

type Tiers = [(String, Order, DefaultAction)];

impl Programs {
    /// A copy of the list for readers.
    pub fn live(&self) -> Vec<Option<Arc<Program>>> {
        self.live.clone()
    }

    /// The programs of a subject, one for each way that it has.
    pub fn acquire_all(
        &mut self,
        subject: &Subject<'_>,
        in_force: &[Option<InForce>],
        tiers: &Tiers,
        ground: (&Members, &Classes),
    ) -> [u32; PROGRAMS_OF_IDENTITY] {
        let mut all = [NONE; PROGRAMS_OF_IDENTITY];
        for stage in STAGES {
            if subject.kind == EndpointKind::Workload && stage != Stage::Normal {
                continue;
            }
            for direction in DIRECTIONS {
                let policy = |number: &u32| match &in_force.get(*number as usize)?.as_ref()?.source.what {
                    Written::Policy { policy, .. } => Some(policy),
                    Written::Profile { .. } => None,
                };
                let asks = |policy: &Policy| {
                    is_asked(policy.hook, stage, subject.kind) && policy.rules(direction).is_some()
                };
                let asked = subject
                    .policies
                    .iter()
                    .filter(|number| policy(number).is_some_and(|policy| asks(policy)));
                let (mut enforced, mut would_be): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
                for number in asked {
                    let Some(standing) = policy(number).map(|policy| policy.standing) else { continue };
                    would_be.extend(standing.would_be_enforced().then_some(*number));
                    enforced.extend(standing.is_enforced().then_some(*number));
                }
                let profiles = if stage == Stage::Normal { subject.profiles.clone() } else { Vec::new() };
                let ways = [(false, enforced != would_be, would_be), (true, true, enforced)];
                for (is_enforced, wanted, policies) in ways {
                    if !wanted {
                        continue;
                    }
                    let key = Key { stage, direction, policies, profiles: profiles.clone() };
                    let number = self.acquire(key, in_force, tiers, ground);
                    if let Some(place) = all.get_mut(place_of(stage, direction, is_enforced)) {
                        *place = number;
                    }
                }
            }
        }
        all
    }

    fn acquire(
        &mut self,
        key: Key,
        in_force: &[Option<InForce>],
        tiers: &Tiers,
        ground: (&Members, &Classes),
    ) -> u32 {
        if let Some(number) = self.known.get(&key) {
            if let Some(Some(entry)) = self.entries.get_mut(*number as usize) {
                entry.uses += 1;
            }
            return *number;
        }
        let mut program = Program::new(lines(&key, in_force, tiers), key.direction, !key.policies.is_empty());
        self.add_rows(&mut program, ground);
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.live.push(None);
            self.entries.len() as u32 - 1
        });
        for set in program.sets.iter() {
            self.of_set.entry(*set).or_default().push(number);
        }
        let _ = self.known.insert(key.clone(), number);
        let _ = self.fresh.insert(number);
        if let (Some(entry), Some(live)) =
            (self.entries.get_mut(number as usize), self.live.get_mut(number as usize))
        {
            *entry = Some(Entry { key, uses: 1 });
            *live = Some(Arc::new(program));
        }
        number
    }

    /// Rows for all classes that the sets have now.
    fn add_rows(&mut self, program: &mut Program, (members, classes): (&Members, &Classes)) {
        self.scratch.resize_with(classes.len(), Vec::new);
        let mut touched: Vec<u32> = Vec::new();
        for set in program.sets.clone().iter() {
            for class in members.classes.get(*set as usize).into_iter().flat_map(|classes| classes.iter()) {
                if let Some(list) = self.scratch.get_mut(class as usize) {
                    if list.is_empty() {
                        touched.push(class);
                    }
                    list.push(*set);
                }
            }
        }
        for class in touched {
            let signature = self.scratch.get_mut(class as usize).map(core::mem::take).unwrap_or_default();
            let is_ipv4 = classes.class(class).is_some_and(|(is_ipv4, _)| is_ipv4);
            program.add_signature(class, (is_ipv4, signature), members);
        }
    }

    /// Says that identities have these no more.
    pub fn release_all(&mut self, released: &[u32]) {
        for number in released {
            let Some(place) = self.entries.get_mut(*number as usize) else { continue };
            let Some(entry) = place else { continue };
            entry.uses = entry.uses.saturating_sub(1);
            if entry.uses > 0 {
                continue;
            }
            if self.known.get(&entry.key) == Some(number) {
                let _ = self.known.remove(&entry.key);
            }
            *place = None;
            self.free.push(*number);
            let _ = self.fresh.remove(number);
            let program = self.live.get_mut(*number as usize).and_then(Option::take);
            for set in program.iter().flat_map(|program| program.sets.iter()) {
                if let Some(list) = self.of_set.get_mut(set) {
                    list.retain(|known| known != number);
                    if list.is_empty() {
                        let _ = self.of_set.remove(set);
                    }
                }
            }
        }
    }

    /// The rules of a policy or profile are other ones: programs with it are made anew for whoever has them.
    pub fn outdate(&mut self, rules: u32) {
        let has = |key: &Key| key.policies.contains(&rules) || key.profiles.contains(&rules);
        self.changed.extend(self.known.extract_if(|key, _| has(key)).map(|(_, number)| number));
    }

    /// The programs that [`Programs::outdate`] was about.
    pub fn take_outdated(&mut self) -> HashSet<u32> {
        core::mem::take(&mut self.changed).into_iter().collect()
    }

    fn touched(&self, sets: &[SetId]) -> Vec<u32> {
        let mut touched: Vec<u32> =
            sets.iter().filter_map(|set| self.of_set.get(set)).flatten().copied().collect();
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// Gives a class, which is in these sets, its row in all programs that were there before.
    pub fn add_class(&mut self, (class, is_ipv4): (u32, bool), sets: &[SetId], members: &Members) {
        for number in self.touched(sets) {
            if self.fresh.contains(&number) {
                continue;
            }
            if let Some(Some(program)) = self.live.get_mut(number as usize) {
                Arc::make_mut(program).add_class(class, is_ipv4, sets, members);
            }
        }
    }

    /// Has all programs forget a class, which was in these sets.
    pub fn remove_class(&mut self, class: u32, sets: &[SetId]) {
        for number in self.touched(sets) {
            if let Some(Some(program)) = self.live.get_mut(number as usize)
                && program.knows(class)
            {
                Arc::make_mut(program).remove_class(class);
            }
        }
    }

    /// Ends an update. Programs that have grown by what is gone again are made anew.
    pub fn tidy(&mut self, members: &Members, classes: &Classes) {
        self.fresh.clear();
        let bloated = |(number, program): (usize, &Option<Arc<Program>>)| {
            program.as_ref().filter(|program| program.is_bloated()).map(|_| number)
        };
        let bloated: Vec<usize> = self.live.iter().enumerate().filter_map(bloated).collect();
        for number in bloated {
            let Some(Some(old)) = self.live.get(number) else { continue };
            let mut program = Program::new(old.lines.to_vec(), old.direction, old.has_policies);
            self.add_rows(&mut program, (members, classes));
            if let Some(place) = self.live.get_mut(number) {
                *place = Some(Arc::new(program));
            }
        }
    }
}

/// The rules of some policies and profiles, one after the other.
fn lines(key: &Key, in_force: &[Option<InForce>], tiers: &Tiers) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let side = usize::from(key.direction == Direction::Egress);
    let of = |number: &u32| in_force.get(*number as usize).and_then(Option::as_ref);
    let add_rules = |known: &InForce, lines: &mut Vec<Line>| {
        let actions: Vec<Action> = match &known.source.what {
            Written::Policy { policy, .. } => policy.rules(key.direction).unwrap_or_default(),
            Written::Profile { profile, .. } => profile.rules(key.direction),
        }
        .iter()
        .map(|rule| rule.action)
        .collect();
        let rules = known.rules.get(side).map(Vec::as_slice).unwrap_or_default();
        for ((rule, action), number) in rules.iter().zip(actions).zip(0..) {
            let origin = Origin::Of(known.source.clone(), Part::Rule(key.direction, number));
            lines.push(line(Some(rule.clone()), action, origin));
        }
    };
    let policies: Vec<&InForce> = key.policies.iter().filter_map(of).collect();
    for of_tier in policies.chunk_by(|a, b| a.rank.0 == b.rank.0) {
        let start = lines.len();
        of_tier.iter().for_each(|known| add_rules(known, &mut lines));
        let implicit_pass = matches!(key.stage, Stage::PreDnat | Stage::Untracked);
        if let Some(last) = of_tier.last()
            && !implicit_pass
            && tiers.get(last.rank.0 as usize).is_some_and(|(_, _, action)| *action == DefaultAction::Deny)
        {
            let origin = Origin::Of(last.source.clone(), Part::End(key.direction));
            lines.push(line(None, Action::Deny, origin));
        }
        let end = lines.len() as u32;
        let mut passable = false;
        for line in lines.get_mut(start..).unwrap_or_default() {
            (line.tier_end, line.passable) = (end, passable);
            passable |= line.action == Action::Pass;
        }
    }
    key.profiles.iter().filter_map(of).for_each(|known| add_rules(known, &mut lines));
    if key.stage == Stage::Normal {
        lines.push(line(None, Action::Deny, Origin::EndOfProfiles));
    }
    lines
}

fn line(rule: Option<Arc<super::program::Placed>>, action: Action, origin: Origin) -> Line {
    Line { rule, action, tier_end: 0, passable: false, counter: origin.counter(), origin }
}
