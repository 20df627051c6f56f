//! Where lines of programs come from: policies and profiles, and the numbers under which their decisions are counted.

use alloc::{collections::BTreeMap, collections::VecDeque, string::String, sync::Arc};

use crate::model::{Direction, Policy, PolicyId, Profile};
use crate::verdict::Reason;

/// A number under which decisions are counted: a rule's, the end of a tier's, or one of those that every model has. Below
/// [`COUNTERS_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterId(pub u32);

impl CounterId {
    /// No endpoint, so that nothing has decided.
    pub const NOTHING: CounterId = CounterId(0);
    /// No policy and no profile allows it.
    pub const END_OF_PROFILES: CounterId = CounterId(1);
    /// A host's failsafe port.
    pub const FAILSAFE: CounterId = CounterId(2);
    /// Nothing forbids what a host forwards.
    pub const NOTHING_FORBIDS: CounterId = CounterId(3);
}

/// There are less counters than this.
pub const COUNTERS_MAX: u32 = 1 << 20;

const FIRST: u32 = 16;

/// A policy or a profile with its counters.
#[derive(Debug)]
pub struct Source {
    /// What it is.
    pub what: Written,
    /// The first counter of its rules for ingress and for egress; behind those of its rules comes that of the tier's end.
    counters: [u32; 2],
}

/// What a user wrote.
#[derive(Clone, Debug)]
pub enum Written {
    /// A policy.
    Policy {
        /// Its tier.
        tier: String,
        /// The policy.
        policy: Arc<Policy>,
    },
    /// A profile.
    Profile {
        /// Its name.
        name: String,
        /// The profile.
        profile: Arc<Profile>,
    },
}

impl Written {
    fn lens(&self) -> [u32; 2] {
        [Direction::Ingress, Direction::Egress].map(|direction| {
            let len = match self {
                Written::Policy { policy, .. } => policy.rules(direction).unwrap_or_default().len(),
                Written::Profile { profile, .. } => profile.rules(direction).len(),
            };
            u32::try_from(len).unwrap_or(COUNTERS_MAX)
        })
    }

    /// The policy's name, if it is one.
    pub fn policy(&self) -> Option<(&str, &PolicyId)> {
        match self {
            Written::Policy { tier, policy } => Some((tier, &policy.id)),
            Written::Profile { .. } => None,
        }
    }
}

/// Which part of a source decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A rule of a direction.
    Rule(Direction, u32),
    /// The end of the tier, of which the policy is the last that selects the endpoint.
    End(Direction),
}

/// Where a line comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    Of(Arc<Source>, Part),
    EndOfProfiles,
}

impl Origin {
    pub fn counter(&self) -> u32 {
        match self {
            Origin::Of(source, part) => source.counter(*part).0,
            Origin::EndOfProfiles => CounterId::END_OF_PROFILES.0,
        }
    }

    pub fn reason(&self) -> Option<Reason> {
        match self {
            Origin::Of(source, part) => source.reason(*part),
            Origin::EndOfProfiles => Some(Reason::EndOfProfiles),
        }
    }
}

impl Source {
    /// The counter of a part.
    pub fn counter(&self, part: Part) -> CounterId {
        let [ingress, egress] = self.what.lens();
        let (place, direction) = match part {
            Part::Rule(direction, rule) => (rule, direction),
            Part::End(Direction::Ingress) => (ingress, Direction::Ingress),
            Part::End(Direction::Egress) => (egress, Direction::Egress),
        };
        CounterId(self.first(direction) + place)
    }

    fn first(&self, direction: Direction) -> u32 {
        let [ingress, egress] = self.counters;
        if direction == Direction::Ingress { ingress } else { egress }
    }

    /// The part that a counter is of.
    pub fn part(&self, counter: CounterId) -> Option<Part> {
        let [ingress, egress] = self.what.lens();
        [(Direction::Ingress, ingress), (Direction::Egress, egress)].into_iter().find_map(
            |(direction, len)| {
                let place = counter.0.checked_sub(self.first(direction)).filter(|place| *place <= len)?;
                Some(if place == len { Part::End(direction) } else { Part::Rule(direction, place) })
            },
        )
    }

    /// Why a part decided.
    pub fn reason(&self, part: Part) -> Option<Reason> {
        Some(match (&self.what, part) {
            (Written::Policy { tier, policy }, Part::Rule(direction, rule)) => {
                let rule = policy.rules(direction)?.get(rule as usize)?;
                Reason::Rule {
                    tier: tier.clone(),
                    policy: policy.id.clone(),
                    direction,
                    rule: rule.index,
                    rule_name: rule.name.clone(),
                }
            }
            (Written::Policy { tier, policy }, Part::End(_)) => {
                Reason::EndOfTier { tier: tier.clone(), policy: Some(policy.id.clone()) }
            }
            (Written::Profile { name, profile }, Part::Rule(direction, rule)) => {
                let rule = profile.rules(direction).get(rule as usize)?.index;
                Reason::Profile { profile: name.clone(), direction, rule }
            }
            (Written::Profile { .. }, Part::End(_)) => return None,
        })
    }

    /// Its counters in order, with their parts.
    pub fn counters(&self) -> impl Iterator<Item = (Part, CounterId)> + '_ {
        let [ingress, egress] = self.what.lens();
        let of = move |direction, len| {
            (0..len).map(move |rule| Part::Rule(direction, rule)).chain([Part::End(direction)])
        };
        of(Direction::Ingress, ingress)
            .chain(of(Direction::Egress, egress))
            .map(|part| (part, self.counter(part)))
    }
}

/// Counters whose sources are kept in one part.
const COUNTERS_OF_PART: u32 = 256;

/// Gives out counters.
#[derive(Clone, Default)]
pub struct Counters {
    next: u32,
    /// First counter and how many: used again, the one longest free first, when there are no others.
    free: VecDeque<(u32, u32)>,
    /// By the first counter, in parts, none empty, so that a change copies little of what readers have.
    sources: BTreeMap<u32, Arc<BTreeMap<u32, Arc<Source>>>>,
}

impl Counters {
    /// Gives something written its counters: those of `like` if that had as many rules.
    pub fn give(&mut self, what: Written, like: Option<&Source>) -> Arc<Source> {
        let lens = what.lens();
        let counters = match like.filter(|like| like.what.lens() == lens) {
            Some(like) => like.counters,
            None => {
                let first = self.allocate(lens.iter().sum::<u32>() + 2);
                [first, first + lens.first().copied().unwrap_or_default() + 1]
            }
        };
        let source = Arc::new(Source { what, counters });
        let first = source.first(Direction::Ingress);
        let part = self.sources.entry(first / COUNTERS_OF_PART).or_default();
        let _ = Arc::make_mut(part).insert(first, source.clone());
        source
    }

    fn allocate(&mut self, count: u32) -> u32 {
        let first = self.next.max(FIRST);
        if first + count < COUNTERS_MAX {
            self.next = first + count;
            return first;
        }
        let fits = self.free.iter().position(|(_, free)| *free == count);
        // Without any left, decisions are counted together with those that nothing has made.
        fits.and_then(|at| self.free.remove(at))
            .map_or(COUNTERS_MAX.saturating_sub(count), |(first, _)| first)
    }

    /// Takes the counters of a source back, unless another has them.
    pub fn take(&mut self, source: &Arc<Source>) {
        let first = source.first(Direction::Ingress);
        let number = first / COUNTERS_OF_PART;
        let Some(part) = self.sources.get_mut(&number) else { return };
        if part.get(&first).is_some_and(|known| Arc::ptr_eq(known, source)) {
            let _ = Arc::make_mut(part).remove(&first);
            if part.is_empty() {
                let _ = self.sources.remove(&number);
            }
            self.free.push_back((first, source.what.lens().iter().sum::<u32>() + 2));
        }
    }

    /// Behind the last that was ever given.
    pub fn end(&self) -> u32 {
        self.next.max(FIRST)
    }

    /// What a counter counts.
    pub fn source(&self, counter: CounterId) -> Option<(&Arc<Source>, Part)> {
        let parts = self.sources.range(..=counter.0 / COUNTERS_OF_PART).rev();
        let (_, source) = parts.filter_map(|(_, part)| part.range(..=counter.0).next_back()).next()?;
        Some((source, source.part(counter)?))
    }

    /// All there are.
    pub fn sources(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.sources.values().flat_map(|part| part.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Match, Rule};

    fn profile(rules: usize) -> Written {
        let rule = |index| Rule { action: Action::Allow, matches: Match::default(), index, name: None };
        let profile = Profile { ingress: (0..rules).map(rule).collect(), egress: Vec::new() };
        Written::Profile { name: alloc::format!("p{rules}"), profile: profile.into() }
    }

    #[test]
    fn a_counter_is_found_whichever_part_its_source_begins_in() {
        let mut counters = Counters::default();
        let sources: Vec<_> =
            [1, 600, 200, 3, 255, 1].map(|rules| counters.give(profile(rules), None)).into();
        for source in &sources {
            for (part, counter) in source.counters() {
                let (found, of) = counters.source(counter).expect("it is given");
                assert!(Arc::ptr_eq(found, source) && of == part, "{counter:?}");
            }
        }
        let before = counters.clone();
        counters.take(&sources[1]);
        counters.take(&sources[5]);
        assert_eq!((counters.sources().count(), before.sources().count()), (4, 6));
        assert!(sources[1].counters().all(|(_, counter)| counters.source(counter).is_none()));
        assert!(sources[2].counters().all(|(_, counter)| counters.source(counter).is_some()));
    }
}
