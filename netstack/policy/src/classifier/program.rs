//! A program: what endpoints with the same policies do with packets of a direction, as tables.
//!
//! Its rules stand in one order, tier after tier, each tier that denies what it does not match ending in a rule that
//! says so. Those that ask nothing of the peer's address are in tables for all peers. The others are in *rows*: one set of
//! tables for each different answer to "which of the program's sets is this peer in?". A lookup searches one table of
//! each kind and takes the earlier rule.

use alloc::{vec, vec::Vec};

use hashbrown::HashMap;

use super::classes::Classes;
use super::rules::{CompiledRule, Reach, SLOTS, SetId, Sets, slot_and_key};
use super::table::{Candidate, Entry, Pool, Table};
use crate::model::{Action, Direction, Packet};

/// A compiled rule with where it is in each slot's table.
#[derive(Debug)]
pub struct Placed {
    pub rule: CompiledRule,
    pub reach: [Reach; SLOTS],
}

/// A rule's place in a program.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The number of the compiled rule; none matches everything.
    pub rule: Option<u32>,
    pub action: Action,
    /// The first place behind the tier.
    pub tier_end: u32,
    /// An earlier rule of the tier passes packets on to the next.
    pub passable: bool,
}

/// Tables for a direction of endpoints with the same policies.
#[derive(Debug)]
pub struct Program {
    pub lines: Vec<Line>,
    pool: Pool,
    /// For all peers, of IPv4 and of IPv6.
    any: [[Table; SLOTS]; 2],
    rows: Vec<[Table; SLOTS]>,
    row_of_class: HashMap<u32, u32>,
}

/// What every program is made of.
pub struct Parts<'a> {
    pub rules: &'a [Placed],
    pub sets: &'a Sets,
    pub classes: &'a Classes,
}

/// Memory that making one program after another uses again.
pub struct Scratch {
    /// For each class, which of the program's sets it is in.
    of_class: Vec<Vec<u32>>,
    /// For each set, its number in the program.
    local: HashMap<SetId, u32>,
}

impl Scratch {
    pub fn new(classes: &Classes) -> Scratch {
        Scratch { of_class: vec![Vec::new(); classes.len()], local: HashMap::new() }
    }
}

impl Program {
    /// Makes the tables of rules in their order.
    pub fn new(lines: Vec<Line>, direction: Direction, parts: &Parts<'_>, scratch: &mut Scratch) -> Program {
        let mut program = Program {
            lines,
            pool: Pool::default(),
            any: Default::default(),
            rows: Vec::new(),
            row_of_class: HashMap::new(),
        };
        let placed = |line: &Line| line.rule.and_then(|rule| parts.rules.get(rule as usize));
        let (mut for_all, mut by_set): (Vec<u32>, HashMap<SetId, Vec<u32>>) = Default::default();
        for (place, line) in program.lines.iter().enumerate() {
            let peer = placed(line).map(|placed| placed.rule.ends(direction).0);
            match peer.and_then(|peer| peer.within.first()) {
                Some(set) => by_set.entry(*set).or_default().push(place as u32),
                None => for_all.push(place as u32),
            }
        }
        program.any = [true, false].map(|is_ipv4| program.tables(&for_all, is_ipv4, true, direction, parts));
        program.make_rows(&by_set, direction, parts, scratch);
        program
    }

    fn make_rows(
        &mut self,
        by_set: &HashMap<SetId, Vec<u32>>,
        direction: Direction,
        parts: &Parts<'_>,
        scratch: &mut Scratch,
    ) {
        let placed = |line: &Line| line.rule.and_then(|rule| parts.rules.get(rule as usize));
        scratch.local.clear();
        let mut sets: Vec<SetId> = Vec::new();
        for place in by_set.values().flatten() {
            let Some(placed) = self.lines.get(*place as usize).and_then(placed) else { continue };
            let (peer, _) = placed.rule.ends(direction);
            for set in peer.within.iter().chain(&peer.outside) {
                let _ = scratch.local.entry(*set).or_insert_with(|| {
                    sets.push(*set);
                    sets.len() as u32 - 1
                });
            }
        }
        let mut touched: Vec<u32> = Vec::new();
        for (number, set) in sets.iter().enumerate() {
            for class in parts.sets.classes.get(*set as usize).into_iter().flat_map(|classes| classes.iter())
            {
                if let Some(list) = scratch.of_class.get_mut(class as usize) {
                    if list.is_empty() {
                        touched.push(class);
                    }
                    list.push(number as u32);
                }
            }
        }
        let mut known: HashMap<(bool, Vec<u32>), Option<u32>> = HashMap::new();
        for class in touched {
            let signature = scratch.of_class.get_mut(class as usize).map(core::mem::take).unwrap_or_default();
            let is_ipv4 = parts.classes.is_ipv4.get(class as usize) == Some(&true);
            let row = match known.get(&(is_ipv4, signature.clone())) {
                Some(row) => *row,
                None => {
                    let in_sets = signature.iter().filter_map(|number| sets.get(*number as usize));
                    let places = in_sets.filter_map(|set| by_set.get(set)).flatten().copied();
                    let row = self.row(places, class, direction, parts);
                    let _ = known.insert((is_ipv4, signature), row);
                    row
                }
            };
            if let Some(row) = row {
                let _ = self.row_of_class.insert(class, row);
            }
        }
    }

    /// The row of a class of peers; none if no rule is about it.
    fn row(
        &mut self,
        places: impl Iterator<Item = u32>,
        class: u32,
        direction: Direction,
        parts: &Parts<'_>,
    ) -> Option<u32> {
        let admitted = |place: &u32| {
            let line = self.lines.get(*place as usize)?;
            let placed = parts.rules.get(line.rule? as usize)?;
            Some(parts.sets.admits(placed.rule.ends(direction).0, class))
        };
        let mut places: Vec<u32> = places.filter(|place| admitted(place) == Some(true)).collect();
        places.sort_unstable();
        if places.is_empty() {
            return None;
        }
        let is_ipv4 = parts.classes.is_ipv4.get(class as usize) == Some(&true);
        let tables = self.tables(&places, is_ipv4, false, direction, parts);
        self.rows.push(tables);
        Some(self.rows.len() as u32 - 1)
    }

    /// The tables of some places. `for_all` peers, those that a rule excludes are still to be checked.
    fn tables(
        &mut self,
        places: &[u32],
        is_ipv4: bool,
        for_all: bool,
        direction: Direction,
        parts: &Parts<'_>,
    ) -> [Table; SLOTS] {
        const EVERYTHING: &[(u16, u16)] = &[(0, u16::MAX)];
        let mut tables = [Table::default(); SLOTS];
        let mut entries: Vec<Entry<'_>> = Vec::with_capacity(places.len());
        for (slot, table) in tables.iter_mut().enumerate() {
            entries.clear();
            for place in places {
                let Some(Line { rule, action, tier_end, passable }) =
                    self.lines.get(*place as usize).copied()
                else {
                    continue;
                };
                let placed = rule.and_then(|rule| parts.rules.get(rule as usize));
                let (ranges, exact) = match placed {
                    None => (EVERYTHING, true),
                    Some(Placed { rule, .. })
                        if !(if is_ipv4 { rule.versions.0 } else { rule.versions.1 }) =>
                    {
                        continue;
                    }
                    Some(Placed { rule, reach, .. }) => {
                        let excludes = for_all && !rule.ends(direction).0.outside.is_empty();
                        let Some(reach) = reach.get(slot) else { continue };
                        (reach.ranges.as_slice(), reach.exact && !excludes)
                    }
                };
                if !ranges.is_empty() {
                    entries.push(Entry { place: *place, ranges, exact, action, tier_end, passable });
                }
            }
            if !entries.is_empty() {
                *table = self.pool.make(&entries);
            }
        }
        tables
    }

    /// The place of the rule that decides; none if all tiers pass the packet on.
    pub fn decide(
        &self,
        packet: &Packet,
        (source, destination): (u32, u32),
        direction: Direction,
        rules: &[Placed],
        sets: &Sets,
    ) -> Option<u32> {
        let peer = if direction == Direction::Ingress { source } else { destination };
        let (slot, key) = slot_and_key(packet);
        let [any4, any6] = &self.any;
        let any = if packet.source.is_ipv4() { any4 } else { any6 };
        let row = self.row_of_class.get(&peer).and_then(|row| self.rows.get(*row as usize));
        let find =
            |tables: &[Table; SLOTS]| tables.get(slot).map_or(&[][..], |table| self.pool.find(*table, key));
        let mut heads = [find(any), row.map_or(&[][..], find)].map(Cursor);
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
                let placed = rules.get(line.rule? as usize)?;
                if !sets.matches(&placed.rule, packet, source, destination) {
                    continue;
                }
            }
            match line.action {
                Action::Allow | Action::Deny => return Some(candidate.place()),
                Action::Pass => behind = line.tier_end,
                Action::Log => {}
            }
        }
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
