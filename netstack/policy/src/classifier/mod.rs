//! The classifier: what decides for packets. It says what [`crate::reference`] says, at a cost that hardly depends on how many
//! rules there are.
//!
//! Made from a model, off the data path, and immutable:
//! 1. `atoms` finds what rules can tell apart, and evaluates selectors for all of it at once;
//! 2. `classes` gives each address a class, by longest prefix match;
//! 3. `rules` turns rules on addresses into rules on classes;
//! 4. `program` makes tables for each direction of each group of endpoints with the same policies.
//!
//! A decision is then: two classes, one or two searches in a sorted list of keys, and as a rule one candidate.

mod atoms;
mod bits;
mod classes;
mod program;
mod rules;
mod table;

use alloc::{string::String, sync::Arc, vec::Vec};

use hashbrown::HashMap;

use crate::model::{Action, DefaultAction, Direction, Endpoint, EndpointKind, Model, Packet, Rule};
use crate::reference::{Stage, is_asked, is_failsafe};
use crate::verdict::{Reason, Verdict};
use atoms::Identities;
use classes::Classes;
pub use classes::OutOfMemory;
use program::{Line, Parts, Placed, Program, Scratch};
use rules::{SLOTS, Sets};

const STAGES: [Stage; 4] = [Stage::Normal, Stage::Forward, Stage::PreDnat, Stage::Untracked];
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Decides for packets of a model's endpoints.
pub struct Classifier {
    model: Arc<Model>,
    classes: Classes,
    sets: Sets,
    rules: Vec<Placed>,
    programs: Vec<Tracked>,
    /// For each endpoint, the program of each stage and direction.
    of_endpoint: Vec<[Option<u32>; STAGES.len() * DIRECTIONS.len()]>,
}

/// A program and where its lines come from.
struct Tracked {
    program: Program,
    origins: Vec<Origin>,
    direction: Direction,
    stage: Stage,
    has_policies: bool,
}

/// Where a line comes from: numbers of tier, policy and rule; of profile and rule.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Rule { tier: u32, policy: u32, rule: u32 },
    EndOfTier { tier: u32, policy: u32 },
    Profile { profile: u32, rule: u32 },
    EndOfProfiles,
}

/// What was decided; [`Classifier::reason`] says by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// True if the packet passes.
    pub allow: bool,
    program: u32,
    /// The place of the line; [`u32::MAX`] is the end, and the place before it a failsafe port.
    place: u32,
}

const END: u32 = u32::MAX;
const FAILSAFE: u32 = u32::MAX - 1;

/// What endpoints with the same policies have: numbers of tier and policy, in order.
type Policies = Vec<(u32, u32)>;

impl Classifier {
    /// Compiles a model.
    pub fn new(model: Arc<Model>) -> Result<Classifier, OutOfMemory> {
        let identities = Identities::new(&model);
        let matches = all_rules(&model).map(|(_, rule)| &rule.matches);
        let classes = Classes::new(&model, &identities, matches)?;
        let mut sets = Sets::new(&identities, &classes);
        let mut rules = Vec::new();
        for (direction, rule) in all_rules(&model) {
            let compiled = sets.compile(rule, &identities, &classes);
            rules.push((direction, compiled));
        }
        let rules: Vec<Placed> = rules
            .into_iter()
            .map(|(direction, rule)| {
                let reach = core::array::from_fn::<_, SLOTS, _>(|slot| rule.reach(slot, direction, &sets));
                Placed { rule, reach }
            })
            .collect();
        let mut maker = Maker {
            model: &model,
            parts: Parts { rules: &rules, sets: &sets, classes: &classes },
            first_rules: first_rules(&model),
            scratch: Scratch::new(&classes),
            known: HashMap::new(),
            programs: Vec::new(),
        };
        let mut policies: Vec<Policies> = alloc::vec![Vec::new(); identities.all.len()];
        for (tier_number, tier) in model.tiers.iter().enumerate() {
            for (number, policy) in tier.policies.iter().enumerate().filter(|(_, policy)| !policy.staged) {
                for identity in identities.select(&policy.subject, false).iter() {
                    if let Some(list) = policies.get_mut(identity as usize) {
                        list.push((tier_number as u32, number as u32));
                    }
                }
            }
        }
        let mut of_identity: HashMap<u32, [Option<u32>; 8]> = HashMap::new();
        let mut of_endpoint = Vec::with_capacity(model.endpoints.len());
        for (endpoint, identity) in model.endpoints.iter().zip(&identities.of_endpoint) {
            let programs = of_identity.entry(*identity).or_insert_with(|| {
                let list = policies.get(*identity as usize).map(Vec::as_slice).unwrap_or_default();
                maker.programs_of(endpoint, list)
            });
            of_endpoint.push(*programs);
        }
        let programs = maker.programs;
        Ok(Classifier { classes, sets, rules, programs, of_endpoint, model })
    }

    /// The model it was made from.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Decides about a packet of the endpoint of a number, which is its place in the model. None as in
    /// [`crate::reference::judge`].
    pub fn decide(
        &self,
        endpoint: usize,
        direction: Direction,
        stage: Stage,
        packet: &Packet,
    ) -> Option<Decision> {
        let number = (*self.of_endpoint.get(endpoint)?.get(slot_of(stage, direction))?)?;
        let Tracked { program, origins: _, direction, stage, .. } = self.programs.get(number as usize)?;
        let kind = self.model.endpoints.get(endpoint)?.kind;
        if kind == EndpointKind::Host && *stage != Stage::Forward && is_failsafe(*direction, packet) {
            return Some(Decision { allow: true, program: number, place: FAILSAFE });
        }
        let classes = (self.classes.of(packet.source), self.classes.of(packet.destination));
        match program.decide(packet, classes, *direction, &self.rules, &self.sets) {
            Some(place) => {
                let allow = program.lines.get(place as usize)?.action == Action::Allow;
                Some(Decision { allow, program: number, place })
            }
            None if *stage == Stage::Forward => Some(Decision { allow: true, program: number, place: END }),
            None => None,
        }
    }

    /// What decided.
    pub fn reason(&self, decision: Decision) -> Option<Reason> {
        let tracked = self.programs.get(decision.program as usize)?;
        let direction = tracked.direction;
        match decision.place {
            FAILSAFE => return Some(Reason::Failsafe),
            END => return Some(Reason::NothingForbids { policies: tracked.has_policies }),
            _ => {}
        }
        let tier_and_policy = |tier: u32, policy: u32| {
            let tier = self.model.tiers.get(tier as usize)?;
            Some((tier, tier.policies.get(policy as usize)?))
        };
        Some(match *tracked.origins.get(decision.place as usize)? {
            Origin::Rule { tier, policy, rule } => {
                let (tier, policy) = tier_and_policy(tier, policy)?;
                let rule = policy.rules(direction)?.get(rule as usize)?;
                Reason::Rule {
                    tier: tier.name.clone(),
                    policy: policy.id.clone(),
                    direction,
                    rule: rule.index,
                    rule_name: rule.name.clone(),
                }
            }
            Origin::EndOfTier { tier, policy } => {
                let (tier, policy) = tier_and_policy(tier, policy)?;
                Reason::EndOfTier { tier: tier.name.clone(), policy: Some(policy.id.clone()) }
            }
            Origin::Profile { profile, rule } => {
                let (name, profile) = self.model.profiles.iter().nth(profile as usize)?;
                let rule = profile.rules(direction).get(rule as usize)?.index;
                Reason::Profile { profile: name.clone(), direction, rule }
            }
            Origin::EndOfProfiles => Reason::EndOfProfiles,
        })
    }

    /// [`Classifier::decide`] and [`Classifier::reason`] in one.
    pub fn judge(
        &self,
        endpoint: usize,
        direction: Direction,
        stage: Stage,
        packet: &Packet,
    ) -> Option<Verdict> {
        let decision = self.decide(endpoint, direction, stage, packet)?;
        Some(Verdict { allow: decision.allow, reason: self.reason(decision)? })
    }

    /// How many programs there are.
    pub fn programs(&self) -> usize {
        self.programs.len()
    }
}

fn slot_of(stage: Stage, direction: Direction) -> usize {
    let stage = STAGES.iter().position(|candidate| *candidate == stage).unwrap_or_default();
    stage * DIRECTIONS.len() + usize::from(direction == Direction::Egress)
}

/// All rules in the order of their numbers: those of policies, then those of profiles.
fn all_rules(model: &Model) -> impl Iterator<Item = (Direction, &Rule)> {
    let of_policies = model.tiers.iter().flat_map(|tier| &tier.policies).flat_map(|policy| {
        DIRECTIONS.into_iter().flat_map(move |direction| {
            policy.rules(direction).unwrap_or_default().iter().map(move |rule| (direction, rule))
        })
    });
    let of_profiles = model.profiles.values().flat_map(|profile| {
        DIRECTIONS
            .into_iter()
            .flat_map(move |direction| profile.rules(direction).iter().map(move |rule| (direction, rule)))
    });
    of_policies.chain(of_profiles)
}

/// The number of the first rule of each policy of each tier, and of each profile, for each direction.
struct FirstRules {
    policies: Vec<Vec<[u32; 2]>>,
    profiles: Vec<[u32; 2]>,
}

fn first_rules(model: &Model) -> FirstRules {
    let mut next = 0;
    let mut take = |lists: [usize; 2]| {
        lists.map(|count| {
            let first = next;
            next += count as u32;
            first
        })
    };
    let policies = model.tiers.iter().map(|tier| {
        let policies = tier.policies.iter();
        policies.map(|policy| take(DIRECTIONS.map(|d| policy.rules(d).unwrap_or_default().len()))).collect()
    });
    let policies = policies.collect();
    let profiles =
        model.profiles.values().map(|profile| take(DIRECTIONS.map(|d| profile.rules(d).len()))).collect();
    FirstRules { policies, profiles }
}

/// Makes programs, each once.
struct Maker<'a> {
    model: &'a Model,
    parts: Parts<'a>,
    first_rules: FirstRules,
    scratch: Scratch,
    known: HashMap<(Stage, Direction, Policies, Vec<String>), u32>,
    programs: Vec<Tracked>,
}

impl Maker<'_> {
    fn programs_of(&mut self, endpoint: &Endpoint, policies: &[(u32, u32)]) -> [Option<u32>; 8] {
        let mut programs = [None; 8];
        for stage in STAGES {
            if endpoint.kind == EndpointKind::Workload && stage != Stage::Normal {
                continue;
            }
            for direction in DIRECTIONS {
                let number = self.program_of(endpoint, policies, stage, direction);
                if let Some(program) = programs.get_mut(slot_of(stage, direction)) {
                    *program = Some(number);
                }
            }
        }
        programs
    }

    fn program_of(
        &mut self,
        endpoint: &Endpoint,
        policies: &[(u32, u32)],
        stage: Stage,
        direction: Direction,
    ) -> u32 {
        let asked = |(tier, policy): &&(u32, u32)| {
            let policy = self.model.tiers.get(*tier as usize).and_then(|t| t.policies.get(*policy as usize));
            policy.is_some_and(|policy| {
                is_asked(policy.hook, stage, endpoint.kind) && policy.rules(direction).is_some()
            })
        };
        let asked: Policies = policies.iter().filter(asked).copied().collect();
        let profiles = if stage == Stage::Normal { endpoint.profiles.clone() } else { Vec::new() };
        let key = (stage, direction, asked, profiles);
        if let Some(number) = self.known.get(&key) {
            return *number;
        }
        let (lines, origins) = self.lines(&key.2, &key.3, stage, direction);
        let program = Program::new(lines, direction, &self.parts, &mut self.scratch);
        let has_policies = !key.2.is_empty();
        self.programs.push(Tracked { program, origins, direction, stage, has_policies });
        let number = self.programs.len() as u32 - 1;
        let _ = self.known.insert(key, number);
        number
    }

    /// The rules of some policies and profiles, one after the other.
    fn lines(
        &self,
        policies: &[(u32, u32)],
        profiles: &[String],
        stage: Stage,
        direction: Direction,
    ) -> (Vec<Line>, Vec<Origin>) {
        let (mut lines, mut origins) = (Vec::new(), Vec::new());
        let side = usize::from(direction == Direction::Egress);
        let mut add = |rule, action, origin| {
            lines.push(Line { rule, action, tier_end: 0, passable: false });
            origins.push(origin);
        };
        let mut ends: Vec<usize> = Vec::new();
        let mut count = 0;
        for of_tier in policies.chunk_by(|a, b| a.0 == b.0) {
            for (tier, policy) in of_tier {
                let first =
                    self.first_rules.policies.get(*tier as usize).and_then(|p| p.get(*policy as usize));
                let first = first.and_then(|first| first.get(side)).copied().unwrap_or_default();
                let model =
                    self.model.tiers.get(*tier as usize).and_then(|t| t.policies.get(*policy as usize));
                for (rule, written) in
                    model.and_then(|p| p.rules(direction)).unwrap_or_default().iter().enumerate()
                {
                    let origin = Origin::Rule { tier: *tier, policy: *policy, rule: rule as u32 };
                    add(Some(first + rule as u32), written.action, origin);
                    count += 1;
                }
            }
            let implicit_pass = matches!(stage, Stage::PreDnat | Stage::Untracked);
            if let Some((tier, policy)) = of_tier.last()
                && !implicit_pass
                && self
                    .model
                    .tiers
                    .get(*tier as usize)
                    .is_some_and(|t| t.default_action == DefaultAction::Deny)
            {
                add(None, Action::Deny, Origin::EndOfTier { tier: *tier, policy: *policy });
                count += 1;
            }
            ends.push(count);
        }
        for name in profiles {
            let Some(number) = self.model.profiles.keys().position(|candidate| candidate == name) else {
                continue;
            };
            let first = self.first_rules.profiles.get(number).and_then(|first| first.get(side));
            let rules =
                self.model.profiles.get(name).map(|profile| profile.rules(direction)).unwrap_or_default();
            for (rule, written) in rules.iter().enumerate() {
                let origin = Origin::Profile { profile: number as u32, rule: rule as u32 };
                add(first.map(|first| first + rule as u32), written.action, origin);
            }
        }
        if stage == Stage::Normal {
            add(None, Action::Deny, Origin::EndOfProfiles);
        }
        let mut start = 0;
        for end in ends {
            let mut passable = false;
            for line in lines.get_mut(start..end).into_iter().flatten() {
                let line: &mut Line = line;
                (line.tier_end, line.passable) = (end as u32, passable);
                passable |= line.action == Action::Pass;
            }
            start = end;
        }
        (lines, origins)
    }
}
