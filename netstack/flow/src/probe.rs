//! Where a flow is, and where it may be put.

use crate::entry::{Entry, Line};
use crate::key::{Home, Key};

/// Slots from the first of a flow's home line on in which it can live.
const WINDOW_SLOTS: usize = 32;

/// Lines from a flow's home on in which it can live.
pub(crate) const fn window_lines<K: Key>() -> usize {
    WINDOW_SLOTS / K::WAYS
}

/// The line of a hash: all are equally likely.
#[inline(always)]
pub(crate) fn home(hash: u64, homes: usize) -> usize {
    ((u128::from(hash) * homes as u128) >> 64) as usize
}

/// A slot with the line it is in and the place in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) way: usize,
}

/// Finds a flow's slot. Expired flows are found too.
#[inline(always)]
pub(crate) fn find<K: Key>(lines: &[Line<K>], home: usize, sought: &Home<K>) -> Option<Place> {
    let line = lines.get(home)?;
    match line.way_of(sought) {
        Some(way) => Some(Place { line: home, way }),
        None if line.passed() == 0 => None,
        None => find_beyond(lines, home, sought),
    }
}

/// The same in the lines after the flow's home.
#[inline(never)]
fn find_beyond<K: Key>(lines: &[Line<K>], home: usize, sought: &Home<K>) -> Option<Place> {
    let window = lines.get(home + 1..)?;
    for (line, index) in window.iter().zip(home + 1..).take(window_lines::<K>() - 1) {
        if let Some(way) = line.way_of(sought) {
            return Some(Place { line: index, way });
        }
        if line.passed() == 0 {
            return None;
        }
    }
    None
}

/// A free place in the line that is a flow's home, if that is enough to know that neither direction of the flow is in the table.
#[inline(always)]
pub(crate) fn free_at_home<K: Key>(lines: &[Line<K>], line: usize, sought: &Home<K>) -> Option<Place> {
    let home = lines.get(line)?;
    // Without a branch for each: which of them is free would be guessed wrong. It is the first: windows and tallies are asked for
    // beside that.
    let ways = home.ways().iter().zip(0..K::WAYS).rev();
    let (is_there, way) = ways.fold((false, K::WAYS), |(is_there, free), (entry, way)| {
        (is_there | entry.key.is(&sought.key), if entry.is_free() { way } else { free })
    });
    (!is_there & (way < K::WAYS) & (home.passed() == 0)).then_some(Place { line, way })
}

/// A free place in a line, another one than `taken`.
#[inline(always)]
pub(crate) fn free_at<K: Key>(lines: &[Line<K>], line: usize, taken: Option<Place>) -> Option<Place> {
    let places = lines.get(line)?.ways().iter().zip(0..).map(|(entry, way)| (entry, Place { line, way }));
    let mut free = places.filter(|(entry, place)| entry.is_free() && taken != Some(*place));
    free.next().map(|(_, place)| place)
}

/// Where a new flow can go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Here nobody lives.
    Free(Place),
    /// Here lives a flow that has gone quiet.
    Expired(Place),
    /// Here lives an unproven flow.
    Unproven(Place),
    /// All live here, and are established.
    None,
}

/// Finds room for a flow with this home: the first place that is free or quiet, or else the first unproven flow's. `taken` is
/// where the flow's other direction goes.
pub(crate) fn room<K: Key>(lines: &[Line<K>], home: usize, now: u32, taken: Option<Place>) -> Space {
    let mut unproven = None;
    let window = lines.get(home..).unwrap_or_default();
    for (line, index) in window.iter().zip(home..).take(window_lines::<K>()) {
        for (entry, way) in line.ways().iter().zip(0..) {
            let place = Place { line: index, way };
            if taken == Some(place) {
                continue;
            }
            if entry.is_free() {
                return Space::Free(place);
            } else if entry.has_expired(now) && entry.link.peer().is_none() {
                return Space::Expired(place);
            } else if entry.state.is_unproven() {
                // Whether the peer of a quiet one lives is for `FlowTable::expire` to find out.
                let _ = unproven.get_or_insert(place);
            }
        }
    }
    unproven.map_or(Space::None, Space::Unproven)
}

/// The entry at a place.
#[inline(always)]
pub(crate) fn at<K: Key>(lines: &[Line<K>], place: Place) -> Option<&Entry<K>> {
    lines.get(place.line)?.ways().get(place.way)
}

/// The same, to change it.
#[inline(always)]
pub(crate) fn at_mut<K: Key>(lines: &mut [Line<K>], place: Place) -> Option<&mut Entry<K>> {
    lines.get_mut(place.line)?.ways_mut().get_mut(place.way)
}

/// Counts a flow in or out of the lines between its home and the one it lives in.
pub(crate) fn count_passed<K: Key>(lines: &mut [Line<K>], home: usize, line: usize, change: i8) {
    if let Some(between) = lines.get_mut(home..line) {
        between.iter_mut().for_each(|line| line.count_passed(change));
    }
}
