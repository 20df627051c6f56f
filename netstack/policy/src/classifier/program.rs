//! A program: what endpoints with the same policies do with packets of a direction, as tables.
//!
//! Its rules stand in one order, tier after tier, each tier that denies what it does not match ending in a rule that
//! says so. Those that ask nothing of the peer's address are in tables for all peers. The others are in *rows*: one set of
//! tables for each different answer to "which of the program's sets is this peer in?". A lookup searches one table of
//! each kind and takes the earlier rule.
//!
//! When classes of addresses come and go, a program's rows are changed in place ([`Program::add_class`]); when its rules change,
//! it is another program.

use alloc::{sync::Arc, vec::Vec};

use hashbrown::HashMap;

use super::origin::Origin;
use super::rules::{CompiledRule, Members, Reach, SLOTS, SetId, slot_and_key};
use super::sets::PortsOfNames;
use super::table::{Candidate, Entry, Pool, Table};
use crate::model::{Action, Direction, Packet};

/// A compiled rule with where it is in each slot's table.
#[derive(Debug)]
pub struct Placed {
    pub rule: CompiledRule,
    pub reach: [Reach; SLOTS],
}

impl Placed {
    /// Places a rule of a direction, where names have these ports.
    pub fn new(rule: CompiledRule, direction: Direction, names: &PortsOfNames) -> Arc<Placed> {
        let reach = core::array::from_fn(|slot| rule.reach(slot, direction, names));
        Arc::new(Placed { rule, reach })
    }
}

/// A rule's place in a program.
#[derive(Clone, Debug)]
pub struct Line {
    /// None matches everything.
    pub rule: Option<Arc<Placed>>,
    pub action: Action,
    /// The first place behind the tier.
    pub tier_end: u32,
    /// An earlier rule of the tier passes packets on to the next.
    pub passable: bool,
    /// What counts how often it decides.
    pub counter: u32,
    pub origin: Origin,
}

/// Tables for a direction of endpoints with the same policies.
#[derive(Clone, Debug)]
pub struct Program {
    pub lines: Arc<[Line]>,
    pub direction: Direction,
    /// Some policies apply, if only without rules.
    pub has_policies: bool,
    /// Places of rules that only record.
    pub logs: Arc<[u32]>,
    pool: Pool,
    /// For all peers, of IPv4 and of IPv6.
    any: [[Table; SLOTS]; 2],
    rows: Vec<[Table; SLOTS]>,
    row_of_class: HashMap<u32, u32>,
    /// The row of each answer that a class gave.
    known: HashMap<(bool, Vec<SetId>), Option<u32>>,
    /// Places of rules about peers, by the first set that the peer must be in.
    by_set: Arc<HashMap<SetId, Vec<u32>>>,
    /// All sets that these rules ask about, in order.
    pub sets: Arc<[SetId]>,
}

impl Program {
    /// Makes the tables of rules in their order. Rows come by [`Program::add_class`].
    pub fn new(lines: Vec<Line>, direction: Direction, has_policies: bool) -> Program {
        let (mut for_all, mut by_set): (Vec<u32>, HashMap<SetId, Vec<u32>>) = Default::default();
        let mut sets: Vec<SetId> = Vec::new();
        for (place, line) in lines.iter().enumerate() {
            let peer = line.rule.as_ref().map(|placed| placed.rule.ends(direction).0);
            match peer.and_then(|peer| Some((peer, peer.within.first()?))) {
                Some((peer, first)) => {
                    by_set.entry(*first).or_default().push(place as u32);
                    sets.extend(peer.within.iter().chain(&peer.outside));
                }
                None => for_all.push(place as u32),
            }
        }
        sets.sort_unstable();
        sets.dedup();
        let is_log = |(_, line): &(u32, &Line)| line.action == Action::Log;
        let logs = (0..).zip(&lines).filter(is_log).map(|(place, _)| place).collect();
        let mut program = Program {
            lines: lines.into(),
            direction,
            has_policies,
            logs,
            pool: Pool::default(),
            any: Default::default(),
            rows: Vec::new(),
            row_of_class: HashMap::new(),
            known: HashMap::new(),
            by_set: Arc::new(by_set),
            sets: sets.into(),
        };
        program.any = [true, false].map(|is_ipv4| program.tables(&for_all, is_ipv4, true));
        program
    }

    /// Gives a class, which is in `in_sets` (in order), the row that it needs.
    pub fn add_class(&mut self, class: u32, is_ipv4: bool, in_sets: &[SetId], members: &Members) {
        let mut signature: Vec<SetId> = Vec::new();
        if in_sets.len() < self.sets.len() {
            signature.extend(in_sets.iter().filter(|set| self.sets.binary_search(set).is_ok()));
        } else {
            signature.extend(self.sets.iter().filter(|set| in_sets.binary_search(set).is_ok()));
        }
        self.add_signature(class, (is_ipv4, signature), members);
    }

    /// The same of a class that is in just these of the program's sets.
    pub fn add_signature(&mut self, class: u32, key: (bool, Vec<SetId>), members: &Members) {
        if key.1.is_empty() {
            return;
        }
        let is_ipv4 = key.0;
        let row = match self.known.get(&key) {
            Some(row) => *row,
            None => {
                let by_set = self.by_set.clone();
                let places = key.1.iter().filter_map(|set| by_set.get(set)).flatten().copied();
                let row = self.row(places, class, is_ipv4, members);
                let _ = self.known.insert(key, row);
                row
            }
        };
        if let Some(row) = row {
            let _ = self.row_of_class.insert(class, row);
        }
    }

    /// Forgets a class.
    pub fn remove_class(&mut self, class: u32) {
        let _ = self.row_of_class.remove(&class);
    }

    /// True if it has a row for a class.
    pub fn knows(&self, class: u32) -> bool {
        self.row_of_class.contains_key(&class)
    }

    /// The row of a class of peers; none if no rule is about it.
    fn row(
        &mut self,
        places: impl Iterator<Item = u32>,
        class: u32,
        is_ipv4: bool,
        members: &Members,
    ) -> Option<u32> {
        let admitted = |place: &u32| {
            let placed = self.lines.get(*place as usize)?.rule.as_ref()?;
            Some(members.admits(placed.rule.ends(self.direction).0, class))
        };
        let mut places: Vec<u32> = places.filter(|place| admitted(place) == Some(true)).collect();
        places.sort_unstable();
        if places.is_empty() {
            return None;
        }
        let tables = self.tables(&places, is_ipv4, false);
        self.rows.push(tables);
        Some(self.rows.len() as u32 - 1)
    }

    /// The tables of some places. `for_all` peers, those that a rule excludes are still to be checked.
    fn tables(&mut self, places: &[u32], is_ipv4: bool, for_all: bool) -> [Table; SLOTS] {
        const EVERYTHING: &[(u16, u16)] = &[(0, u16::MAX)];
        let lines = self.lines.clone();
        let mut tables = [Table::default(); SLOTS];
        let mut entries: Vec<Entry<'_>> = Vec::with_capacity(places.len());
        for (slot, table) in tables.iter_mut().enumerate() {
            entries.clear();
            for place in places {
                let Some(line) = lines.get(*place as usize) else { continue };
                let (ranges, exact) = match line.rule.as_deref() {
                    None => (EVERYTHING, true),
                    Some(Placed { rule, .. })
                        if !(if is_ipv4 { rule.versions.0 } else { rule.versions.1 }) =>
                    {
                        continue;
                    }
                    Some(Placed { rule, reach }) => {
                        let excludes = for_all && !rule.ends(self.direction).0.outside.is_empty();
                        let Some(reach) = reach.get(slot) else { continue };
                        (reach.ranges.as_slice(), reach.exact && !excludes)
                    }
                };
                if !ranges.is_empty() {
                    let Line { action, tier_end, passable, .. } = *line;
                    entries.push(Entry { place: *place, ranges, exact, action, tier_end, passable });
                }
            }
            if !entries.is_empty() {
                *table = self.pool.make(&entries);
            }
        }
        tables
    }

    /// The place of the rule that decides; none if all tiers pass the packet on. `passed` is told of each rule that leaves
    /// its tier.
    #[inline]
    pub fn decide(
        &self,
        packet: &Packet,
        (source, destination): (u32, u32),
        members: &Members,
        mut passed: impl FnMut(u32, u32),
    ) -> Option<u32> {
        let peer = if self.direction == Direction::Ingress { source } else { destination };
        let (slot, key) = slot_and_key(packet);
        let [any4, any6] = &self.any;
        let any = if packet.source.is_ipv4() { any4 } else { any6 };
        let row = self.row_of_class.get(&peer).and_then(|row| self.rows.get(*row as usize));
        let find =
            |tables: &[Table; SLOTS]| tables.get(slot).map_or(&[][..], |table| self.pool.find(*table, key));
        let mut heads = [Cursor(find(any)), Cursor(row.map_or(&[][..], find))];
        let mut behind = 0;
        loop {
            let [first, second] = &mut heads;
            let nearer = if first.place() <= second.place() { first } else { second };
            let candidate = nearer.next()?;
            if candidate.place() < behind {
                continue;
            }
            let line = self.lines.get(candidate.place() as usize)?;
            if candidate.must_be_checked() {
                let placed = line.rule.as_ref()?;
                if !members.matches(&placed.rule, packet, source, destination) {
                    continue;
                }
            }
            match line.action {
                Action::Allow | Action::Deny => return Some(candidate.place()),
                Action::Pass => {
                    passed(candidate.place(), line.tier_end);
                    behind = line.tier_end;
                }
                Action::Log => {}
            }
        }
    }

    /// True if the rule at a place is about a packet.
    pub fn line_matches(&self, place: u32, packet: &Packet, classes: (u32, u32), members: &Members) -> bool {
        let rule = self.lines.get(place as usize).and_then(|line| line.rule.as_ref());
        rule.is_some_and(|placed| members.matches(&placed.rule, packet, classes.0, classes.1))
    }

    /// True if so much of it is for classes that are gone that it should be made anew.
    pub fn is_bloated(&self) -> bool {
        self.known.len() > 2 * self.row_of_class.len() + 64
    }
}

/// A list of candidates that is being read.
struct Cursor<'a>(&'a [Candidate]);

impl Cursor<'_> {
    fn place(&self) -> u32 {
        self.0.first().map_or(u32::MAX, |candidate| candidate.place())
    }

    fn next(&mut self) -> Option<Candidate> {
        let (first, rest) = self.0.split_first()?;
        self.0 = if first.is_last() { &[] } else { rest };
        Some(*first)
    }
}
