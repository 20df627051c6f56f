//! Tables of 16-bit keys: for each run of keys with the same rules, those rules in their order, as far as they can
//! matter.

use alloc::{collections::BTreeSet, vec::Vec};

use crate::model::Action;

/// A rule as it is in a table.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its place in the program.
    pub place: u32,
    /// The keys it is about, first and last.
    pub ranges: &'a [(u16, u16)],
    /// Nothing else is to be checked.
    pub exact: bool,
    pub action: Action,
    /// The place of the first rule behind its tier.
    pub tier_end: u32,
    /// An earlier rule of the tier, of this table or another, may pass packets on to the next tier.
    pub passable: bool,
}

/// A rule that may decide, in a list of them.
///
/// The place of the rule, whether it must be checked against the packet, and whether the list ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate(u32);

impl Candidate {
    const CHECK: u32 = 1 << 31;
    const LAST: u32 = 1 << 30;

    pub fn place(self) -> u32 {
        self.0 & (Candidate::LAST - 1)
    }

    pub fn must_be_checked(self) -> bool {
        self.0 & Candidate::CHECK != 0
    }

    pub fn is_last(self) -> bool {
        self.0 & Candidate::LAST != 0
    }
}

/// The memory of all tables of a program.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// The first key of each run.
    starts: Vec<u16>,
    /// Where the list of each run begins; [`EMPTY`] if it has none.
    lists: Vec<u32>,
    candidates: Vec<Candidate>,
    /// Of tables of many runs, for each first half of a key, where its page begins.
    tops: Vec<u32>,
    /// Pages: for each second half, where the list begins. Halves of the same runs share one.
    pages: Vec<u32>,
}

const EMPTY: u32 = u32::MAX;
/// From so many runs on a table has pages: some kilobytes, and time to fill them, for two loads in place of a search.
const PAGED_RUNS: usize = 128;
const PAGE: usize = 256;

/// One table: its runs in the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    first: u32,
    len: u32,
    /// Where its tops begin, plus one; 0 if it has none.
    tops: u32,
}

impl Pool {
    /// Makes a table of entries, which are in the order of their places.
    pub fn make(&mut self, entries: &[Entry<'_>]) -> Table {
        let mut events: Vec<(u32, bool, usize)> = Vec::new();
        let mut reachable = Reachable::default();
        for (index, entry) in entries.iter().enumerate() {
            if !reachable.may_reach(entry) {
                continue;
            }
            for (first, last) in entry.ranges {
                events.push((u32::from(*first), true, index));
                events.push((u32::from(*last) + 1, false, index));
            }
            if reachable.ends_with(entry, entry.exact && entry.ranges.contains(&(0, u16::MAX))) {
                break;
            }
        }
        // Of several ranges of one rule that overlap, the rule leaves with the last.
        events.sort_unstable();
        let mut open: Vec<u32> = alloc::vec![0; entries.len()];
        let mut active: BTreeSet<usize> = BTreeSet::new();
        let first = self.starts.len() as u32;
        let mut previous: Vec<Candidate> = Vec::new();
        self.begin(0, &[]);
        let mut events = events.into_iter().peekable();
        while let Some((at, opens, index)) = events.next() {
            if let Some(count) = open.get_mut(index) {
                *count = if opens { *count + 1 } else { count.saturating_sub(1) };
                let _ = if *count > 0 { active.insert(index) } else { active.remove(&index) };
            }
            let is_last_here = events.peek().is_none_or(|(next, ..)| *next != at);
            if is_last_here && let Ok(at) = u16::try_from(at) {
                let list = list(active.iter().filter_map(|index| entries.get(*index)));
                if list != previous || at == 0 {
                    self.begin(at, &list);
                    previous = list;
                }
            }
        }
        let runs = self.starts.len() - first as usize;
        let tops = if runs < PAGED_RUNS { 0 } else { self.page(first as usize) };
        Table { first, len: runs as u32, tops }
    }

    /// Turns the runs from `first` on into pages, and forgets them.
    fn page(&mut self, first: usize) -> u32 {
        let (starts, lists) = (self.starts.split_off(first), self.lists.split_off(first));
        let tops = self.tops.len() as u32 + 1;
        let mut shared: Option<(u32, usize)> = None;
        for top in 0..PAGE {
            let run_of = |low: usize| {
                starts.partition_point(|start| usize::from(*start) <= top * PAGE + low).saturating_sub(1)
            };
            let (run, last) = (run_of(0), run_of(PAGE - 1));
            if let Some((page, of)) = shared
                && (run, last) == (of, of)
            {
                self.tops.push(page);
                continue;
            }
            let page = self.pages.len() as u32;
            let mut at = run;
            for low in 0..PAGE {
                while starts.get(at + 1).is_some_and(|start| usize::from(*start) <= top * PAGE + low) {
                    at += 1;
                }
                self.pages.push(lists.get(at).copied().unwrap_or(EMPTY));
            }
            self.tops.push(page);
            shared = (run == last).then_some((page, run));
        }
        tops
    }

    fn begin(&mut self, at: u16, list: &[Candidate]) {
        let begins = if list.is_empty() { EMPTY } else { self.candidates.len() as u32 };
        self.candidates.extend_from_slice(list);
        self.starts.push(at);
        self.lists.push(begins);
    }

    /// The rules that may decide about a key.
    #[inline]
    pub fn find(&self, table: Table, key: u16) -> &[Candidate] {
        let begins = match table.tops.checked_sub(1) {
            Some(tops) => {
                let page = self.tops.get(tops as usize + usize::from(key >> 8)).copied().unwrap_or_default();
                self.pages.get(page as usize + usize::from(key & 0xff)).copied()
            }
            None => {
                let runs = table.first as usize..(table.first + table.len) as usize;
                let starts = self.starts.get(runs.clone()).unwrap_or_default();
                let run = starts.partition_point(|start| *start <= key).wrapping_sub(1);
                self.lists.get(runs).and_then(|lists| lists.get(run)).copied()
            }
        };
        match begins {
            Some(begins) if begins != EMPTY => self.candidates.get(begins as usize..).unwrap_or_default(),
            _ => &[],
        }
    }
}

/// Which rules a packet can still come to, going from rule to rule.
#[derive(Default)]
struct Reachable {
    /// The first place that it may come to.
    behind: u32,
}

impl Reachable {
    fn may_reach(&self, entry: &Entry<'_>) -> bool {
        entry.place >= self.behind
    }

    /// Goes past a rule, which matches for `certain`. True if no packet comes further.
    fn ends_with(&mut self, entry: &Entry<'_>, certain: bool) -> bool {
        if !certain || entry.action == Action::Log {
            return false;
        }
        self.behind = entry.tier_end;
        entry.action != Action::Pass && !entry.passable
    }
}

/// The candidates of a run: up to the first that decides whatever the packet.
fn list<'a>(active: impl Iterator<Item = &'a Entry<'a>>) -> Vec<Candidate> {
    let mut list: Vec<Candidate> = Vec::new();
    let mut reachable = Reachable::default();
    for entry in active.filter(|entry| entry.action != Action::Log) {
        if !reachable.may_reach(entry) {
            continue;
        }
        list.push(Candidate(entry.place | if entry.exact { 0 } else { Candidate::CHECK }));
        if reachable.ends_with(entry, entry.exact) {
            break;
        }
    }
    if let Some(last) = list.last_mut() {
        last.0 |= Candidate::LAST;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(place: u32, ranges: &[(u16, u16)], action: Action) -> Entry<'_> {
        Entry { place, ranges, exact: true, action, tier_end: 10, passable: place == 2 }
    }

    fn places(pool: &Pool, table: Table, key: u16) -> Vec<u32> {
        let mut places = Vec::new();
        for candidate in pool.find(table, key) {
            places.push(candidate.place());
            if candidate.is_last() {
                break;
            }
        }
        places
    }

    #[test]
    fn the_first_rule_that_decides_ends_the_list() {
        let mut pool = Pool::default();
        let entries = [
            entry(0, &[(80, 90), (85, 100)], Action::Allow),
            entry(1, &[(0, 65535)], Action::Pass),
            entry(2, &[(0, 65535)], Action::Deny),
            entry(11, &[(0, 0), (65535, 65535)], Action::Deny),
        ];
        let other = pool.make(&entries[3..]);
        let table = pool.make(&entries);
        for (key, wanted) in [
            (0, &[1, 11][..]),
            (1, &[1]),
            (79, &[1]),
            (80, &[0]),
            (91, &[0]),
            (100, &[0]),
            (101, &[1]),
            (65535, &[1, 11]),
        ] {
            assert_eq!(places(&pool, table, key), wanted, "key {key}");
        }
        assert!(places(&pool, other, 7).is_empty());
        assert!(places(&pool, Table::default(), 7).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn tables_of_many_runs_say_the_same(
            ranges in proptest::collection::vec((proptest::prelude::any::<u16>(), 0..900_u16), 1..150)
        ) {
            let ranges: Vec<[(u16, u16); 1]> =
                ranges.into_iter().map(|(first, more)| [(first, first.saturating_add(more))]).collect();
            let one = |(ranges, place)| Entry { tier_end: 1000, passable: false, ..entry(place, ranges, Action::Allow) };
            let entries: Vec<Entry<'_>> = ranges.iter().map(<[_; 1]>::as_slice).zip(0..).map(one).collect();
            let mut pool = Pool::default();
            let tables = [pool.make(&entries[..1]), pool.make(&entries)];
            let edges = ranges.iter().flat_map(|[(first, last)]| {
                [first.saturating_sub(1), *first, *last, last.saturating_add(1)]
            });
            for key in edges.chain([0, u16::MAX]) {
                let about = |range: &[(u16, u16); 1]| (range[0].0..=range[0].1).contains(&key);
                let wanted: Vec<u32> = ranges.iter().position(about).map(|place| place as u32).into_iter().collect();
                proptest::prop_assert_eq!(places(&pool, tables[1], key), wanted);
                let alone: Vec<u32> = about(&ranges[0]).then_some(0).into_iter().collect();
                proptest::prop_assert_eq!(places(&pool, tables[0], key), alone);
            }
        }
    }
}
