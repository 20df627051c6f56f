//! Who has which addresses: BARs that lie where something else is, and addresses for BARs and bridges that firmware
//! left without.
//!
//! Source: PCI-to-PCI Bridge Architecture 1.2, section 3.2.5.6 (memory windows).

use super::{Address, Bridge, ConfigSpace, Function, Tree, assigned, bar_register};
use alloc::vec::Vec;
use boot::RangeSet;
use core::fmt;
use core::ops::Range;

/// Windows begin and end at multiples of this.
const WINDOW_BYTES: u64 = 1 << 20;

/// Pieces of free addresses behind a bridge.
const PIECES: usize = 64;

/// Bridges one behind the other, as far as addresses are given out: each takes some KiB of stack.
const MAX_DEPTH: usize = 10;

/// A BAR that is not used because of its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Whose it is.
    pub at: Address,
    /// Which one.
    pub bar: usize,
    /// Where it lies.
    pub range: Range<u64>,
    /// What else is there; `None` for an address that no memory access reaches.
    pub other: Option<Range<u64>>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, bar, range, other } = self;
        write!(f, "{at}: BAR {bar} at {:#x} to {:#x} is not used: ", range.start, range.end)?;
        match other {
            Some(other) => write!(f, "{:#x} to {:#x} is something else's", other.start, other.end),
            None => f.write_str("no address of this machine"),
        }
    }
}

/// Takes away from `functions` every BAR that overlaps one of `taken` or another BAR, or ends above `limit`. Of two
/// BARs at one place neither is used: nobody knows which of them answers.
pub fn refuse_conflicts(functions: &mut [Function], taken: &[Range<u64>], limit: u64) -> Vec<Refused> {
    let mut bars: Vec<(Range<u64>, usize, usize)> = Vec::new();
    for (index, function) in functions.iter().enumerate() {
        for (number, bar) in function.bars.iter().enumerate() {
            if let Some(bar) = bar.filter(|bar| bar.address != 0) {
                bars.push((bar.address..bar.address.saturating_add(bar.bytes), index, number));
            }
        }
    }
    bars.sort_by_key(|(range, ..)| (range.start, range.end));
    let mut conflicts: Vec<Option<Option<Range<u64>>>> = alloc::vec![None; bars.len()];
    let mut farthest: Option<usize> = None;
    for (index, (range, ..)) in bars.iter().enumerate() {
        let overlap = |other: &&Range<u64>| other.start < range.end && range.start < other.end;
        if range.end > limit {
            conflicts[index] = Some(None);
        } else if let Some(other) = taken.iter().find(overlap) {
            conflicts[index] = Some(Some(other.clone()));
        }
        if let Some(before) = farthest.filter(|&before| range.start < bars[before].0.end) {
            let _ = conflicts[index].get_or_insert_with(|| Some(bars[before].0.clone()));
            let _ = conflicts[before].get_or_insert_with(|| Some(range.clone()));
        }
        if farthest.is_none_or(|before| range.end > bars[before].0.end) {
            farthest = Some(index);
        }
    }
    let mut refused = Vec::new();
    for ((range, index, bar), conflict) in bars.into_iter().zip(conflicts) {
        if let Some(other) = conflict {
            functions[index].bars[bar] = None;
            refused.push(Refused { at: functions[index].at, bar, range, other });
        }
    }
    refused
}

/// Gives an address out of `free` to every BAR of `tree` that has none, and a window to every bridge before such a BAR
/// that has none. Only what belongs to the first root can be helped this way: which addresses reach another one is not
/// known. Returns how many BARs got no address.
pub fn assign<const N: usize>(space: &impl ConfigSpace, tree: &mut Tree, free: &mut RangeSet<N>) -> usize {
    if let Some(&root) = tree.roots.first() {
        place(space, tree, root, free, 0);
    }
    missing(&tree.functions, |_| true).count()
}

/// BARs without an address on buses that `is_meant` names: size, index of the function, number.
fn missing<'a>(
    functions: &'a [Function],
    is_meant: impl Fn(u8) -> bool + 'a,
) -> impl Iterator<Item = (Kind, u64, usize, usize)> + 'a {
    let functions = functions.iter().enumerate().filter(move |(_, function)| is_meant(function.at.bus));
    functions.flat_map(|(index, function)| {
        let bars = function.bars.iter().enumerate().filter_map(|(number, bar)| Some((number, (*bar)?)));
        bars.filter(|(_, bar)| bar.address == 0).map(move |(number, bar)| {
            let ahead = bar.prefetchable && bar.wide;
            (if ahead { Kind::Ahead } else { Kind::Plain }, bar.bytes, index, number)
        })
    })
}

/// The two windows of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Below 4 GiB.
    Plain,
    /// Read ahead, anywhere.
    Ahead,
}

/// Where addresses come from.
trait Source {
    fn take(&mut self, kind: Kind, bytes: u64, align: u64, limit: u64) -> Option<u64>;
}

impl<const N: usize> Source for RangeSet<N> {
    fn take(&mut self, _: Kind, bytes: u64, align: u64, limit: u64) -> Option<u64> {
        RangeSet::take(self, bytes, align, limit)
    }
}

/// What is free behind a bridge.
struct Behind {
    plain: RangeSet<PIECES>,
    ahead: RangeSet<PIECES>,
}

impl Source for Behind {
    fn take(&mut self, kind: Kind, bytes: u64, align: u64, limit: u64) -> Option<u64> {
        let ahead = if kind == Kind::Ahead { self.ahead.take(bytes, align, limit) } else { None };
        ahead.or_else(|| self.plain.take(bytes, align, limit))
    }
}

/// Places what has no address on `bus`, so many bridges away, and behind its bridges, largest first.
fn place(space: &impl ConfigSpace, tree: &mut Tree, bus: u8, source: &mut dyn Source, depth: usize) {
    enum Want {
        Bar(usize, usize),
        Window(usize),
    }
    let bars = missing(&tree.functions, |other| other == bus);
    let mut wants: Vec<_> =
        bars.map(|(kind, bytes, index, number)| (bytes, bytes, kind, Want::Bar(index, number))).collect();
    let bridges: Vec<usize> =
        (0..tree.bridges.len()).filter(|&index| tree.bridges[index].at.bus == bus).collect();
    for &index in &bridges {
        for kind in [Kind::Plain, Kind::Ahead] {
            let (bytes, align) = needed(tree, &tree.bridges[index], kind);
            if bytes > 0 && window(space, tree.bridges[index].at, kind).is_none() {
                wants.push((bytes, align, kind, Want::Window(index)));
            }
        }
    }
    wants.sort_by_key(|(bytes, align, ..)| core::cmp::Reverse((*align, *bytes)));
    for (bytes, align, kind, want) in wants {
        match want {
            Want::Bar(index, number) => place_bar(space, &mut tree.functions[index], number, kind, source),
            Want::Window(index) => {
                let at = tree.bridges[index].at;
                let limit = if kind == Kind::Ahead && is_wide(space, at) { u64::MAX } else { 1 << 32 };
                if let Some(start) = source.take(kind, bytes, align, limit) {
                    open_window(space, at, kind, start..start + bytes);
                }
            }
        }
    }
    for index in bridges {
        let bridge = tree.bridges[index].clone();
        let is_wanted = missing(&tree.functions, |bus| bridge.buses.contains(&bus)).next().is_some();
        if is_wanted && depth < MAX_DEPTH {
            let mut behind = behind(space, tree, &bridge);
            place(space, tree, *bridge.buses.start(), &mut behind, depth + 1);
        }
    }
}

fn place_bar(
    space: &impl ConfigSpace,
    function: &mut Function,
    number: usize,
    kind: Kind,
    source: &mut dyn Source,
) {
    let Some(bar) = &mut function.bars[number] else { return };
    let limit = if bar.wide { u64::MAX } else { 1 << 32 };
    let Some(address) = source.take(kind, bar.bytes, bar.bytes, limit) else { return };
    bar.address = address;
    let register = bar_register(number);
    space.write32(function.at, register, address as u32);
    if bar.wide {
        space.write32(function.at, register + 4, (address >> 32) as u32);
    }
}

/// How large a window must be for all that has no address behind a bridge, and its alignment.
fn needed(tree: &Tree, bridge: &Bridge, kind: Kind) -> (u64, u64) {
    let bars = missing(&tree.functions, |bus| bridge.buses.contains(&bus));
    let (mut sum, mut largest) = (0u64, 0);
    for (_, bytes, ..) in bars.filter(|(other, ..)| *other == kind) {
        sum = sum.saturating_add(bytes);
        largest = largest.max(bytes);
    }
    if sum == 0 {
        return (0, 0);
    }
    // Each bridge further down rounds up once more.
    let further = tree.bridges.iter().filter(|other| bridge.buses.contains(&other.at.bus)).count() as u64;
    let bytes = sum.saturating_add(further * WINDOW_BYTES).checked_next_multiple_of(WINDOW_BYTES);
    (bytes.unwrap_or(u64::MAX), largest.max(WINDOW_BYTES))
}

/// What is free in the windows of a bridge.
fn behind(space: &impl ConfigSpace, tree: &Tree, bridge: &Bridge) -> Behind {
    let further = tree.bridges.iter().filter(|other| bridge.buses.contains(&other.at.bus));
    let further: Vec<Address> = further.map(|bridge| bridge.at).collect();
    let free = |kind| {
        let mut free = RangeSet::new();
        let _ = window(space, bridge.at, kind).map(|window| free.insert_largest(window));
        let windows =
            further.iter().flat_map(|&at| [Kind::Plain, Kind::Ahead].map(|kind| window(space, at, kind)));
        for taken in assigned(&tree.functions).chain(windows.flatten()) {
            let _ = free.remove_at_least(taken);
        }
        free
    };
    Behind { plain: free(Kind::Plain), ahead: free(Kind::Ahead) }
}

/// Offsets of base and limit of the windows, and of their upper halves.
fn registers(kind: Kind) -> (u16, u16, Option<(u16, u16)>) {
    match kind {
        Kind::Plain => (0x20, 0x22, None),
        Kind::Ahead => (0x24, 0x26, Some((0x28, 0x2c))),
    }
}

/// Whether the window that is read ahead may lie above 4 GiB.
fn is_wide(space: &impl ConfigSpace, bridge: Address) -> bool {
    space.read16(bridge, registers(Kind::Ahead).0) & 0xf == 1
}

/// The window of a bridge, if it is open. At address zero none is: that is how bridges come out of a reset.
fn window(space: &impl ConfigSpace, bridge: Address, kind: Kind) -> Option<Range<u64>> {
    let (base, limit, upper) = registers(kind);
    let part = |register| u64::from(space.read16(bridge, register) & 0xfff0) << 16;
    let high = |register| u64::from(space.read32(bridge, register)) << 32;
    let (high_base, high_limit) = match upper.filter(|_| is_wide(space, bridge)) {
        Some((base, limit)) => (high(base), high(limit)),
        None => (0, 0),
    };
    let (start, last) = (high_base | part(base), high_limit | part(limit) | (WINDOW_BYTES - 1));
    (start != 0 && start <= last).then(|| start..last.saturating_add(1))
}

fn open_window(space: &impl ConfigSpace, bridge: Address, kind: Kind, window: Range<u64>) {
    let (base, limit, upper) = registers(kind);
    let last = window.end - 1;
    space.write16(bridge, base, (window.start >> 16) as u16 & 0xfff0);
    space.write16(bridge, limit, (last >> 16) as u16 & 0xfff0);
    if let Some((base, limit)) = upper.filter(|_| is_wide(space, bridge)) {
        space.write32(bridge, base, (window.start >> 32) as u32);
        space.write32(bridge, limit, (last >> 32) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bar, Width};
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Registers that keep what is written to them; the low nibble of a wide window says so.
    #[derive(Default)]
    struct Space(RefCell<BTreeMap<(Address, u16), u8>>);

    impl ConfigSpace for Space {
        fn read(&self, at: Address, offset: u16, width: Width) -> u32 {
            let registers = self.0.borrow();
            let byte = |offset| {
                let wide = u8::from(offset == 0x24 || offset == 0x26);
                registers.get(&(at, offset)).copied().unwrap_or(0) | wide
            };
            (0..width as u16).fold(0, |value, place| value | u32::from(byte(offset + place)) << (8 * place))
        }

        fn write(&self, at: Address, offset: u16, width: Width, value: u32) {
            let registers = (offset..).map(|offset| (at, offset));
            self.0.borrow_mut().extend(registers.zip(value.to_le_bytes()).take(width as usize));
        }
    }

    fn at(bus: u8, device: u8) -> Address {
        Address { segment: 0, bus, device, function: 0 }
    }

    fn function(at: Address, bars: &[(u64, u64, bool)]) -> Function {
        let mut all = [None; 6];
        let mut number = 0;
        for &(address, bytes, wide) in bars {
            all[number] = Some(Bar { address, bytes, wide, prefetchable: wide });
            number += 1 + usize::from(wide);
        }
        Function { at, id: (0x1af4, 0x1041), bars: all, msix: None }
    }

    fn ranges(functions: &[Function]) -> Vec<Range<u64>> {
        assigned(functions).collect()
    }

    #[test]
    fn bars_without_address_get_one() {
        let space = Space::default();
        let bars = [(0, 0x1000, false), (0, 0x10_0000, false), (0, 0x4000, true)];
        let functions = vec![function(at(0, 1), &bars)];
        let mut tree = Tree { functions, bridges: Vec::new(), roots: vec![0] };
        let mut free = RangeSet::<8>::new();
        free.insert(0xc000_1000..0xc020_1000).unwrap();
        assert_eq!(assign(&space, &mut tree, &mut free), 0);
        assert_eq!(
            ranges(&tree.functions),
            [0xc000_1000..0xc000_2000, 0xc010_0000..0xc020_0000, 0xc000_4000..0xc000_8000]
        );
        assert_eq!(space.read32(at(0, 1), 0x10), 0xc000_1000);
        assert_eq!((space.read32(at(0, 1), 0x18), space.read32(at(0, 1), 0x1c)), (0xc000_4000, 0));
    }

    #[test]
    fn bars_that_find_no_room_stay_without() {
        let functions = vec![function(at(0, 1), &[(0, 0x1000, false)])];
        let mut tree = Tree { functions, bridges: Vec::new(), roots: vec![0] };
        assert_eq!(assign(&Space::default(), &mut tree, &mut RangeSet::<8>::new()), 1);
        assert_eq!(ranges(&tree.functions), []);
        tree.roots = vec![1];
        let mut free = RangeSet::<8>::new();
        free.insert(0xc000_0000..0xd000_0000).unwrap();
        assert_eq!(assign(&Space::default(), &mut tree, &mut free), 1, "not the first root");
    }

    #[test]
    fn bridges_get_windows_down_to_the_last_bus() {
        let space = Space::default();
        let functions = vec![
            function(at(0, 1), &[(0, 0x1000, false)]),
            function(at(1, 0), &[(0, 0x1000, false)]),
            function(at(2, 0), &[(0, 0x4000, false), (0, 0x4000_0000, true)]),
            function(at(2, 1), &[(0, 0x1000, true)]),
        ];
        let bridges = vec![Bridge { at: at(0, 2), buses: 1..=2 }, Bridge { at: at(1, 1), buses: 2..=2 }];
        let mut tree = Tree { functions, bridges, roots: vec![0] };
        let mut free = RangeSet::<8>::new();
        free.insert(0xc000_0000..0xc100_0000).unwrap();
        free.insert(1 << 36..1 << 37).unwrap();
        assert_eq!(assign(&space, &mut tree, &mut free), 0);
        let ranges = ranges(&tree.functions);
        for (index, range) in ranges.iter().enumerate() {
            assert!(range.start.is_multiple_of(range.end - range.start));
            assert!(
                ranges[index + 1..].iter().all(|other| other.start >= range.end || range.start >= other.end)
            );
        }
        let outer = [Kind::Plain, Kind::Ahead].map(|kind| window(&space, at(0, 2), kind).unwrap());
        let inner = [Kind::Plain, Kind::Ahead].map(|kind| window(&space, at(1, 1), kind).unwrap());
        let inside =
            |inner: &Range<u64>, outer: &Range<u64>| outer.start <= inner.start && inner.end <= outer.end;
        assert!(inside(&inner[0], &outer[0]) && inside(&inner[1], &outer[1]));
        assert!(inside(&ranges[1], &outer[0]) && !inside(&ranges[1], &inner[0]));
        assert!(
            inside(&ranges[2], &inner[0]) && inside(&ranges[3], &inner[1]) && inside(&ranges[4], &inner[1])
        );
        assert!(!inside(&ranges[0], &outer[0]), "a neighbour of the bridge is not behind it");
    }

    #[test]
    fn bridges_without_end_do_not_take_the_stack() {
        let space = Space::default();
        let bridges: Vec<_> = (0..255).map(|bus| Bridge { at: at(bus, 2), buses: bus + 1..=255 }).collect();
        let function = |bus| function(at(bus, 0), &[(0, 0x1000, false)]);
        let functions = vec![function(2), function(255)];
        let mut tree = Tree { functions, bridges, roots: vec![0] };
        let mut free = RangeSet::<8>::new();
        free.insert(0xc000_0000..0xf000_0000).unwrap();
        assert_eq!(assign(&space, &mut tree, &mut free), 1);
        assert_eq!(ranges(&tree.functions).len(), 1, "{tree:?}");
    }

    #[test]
    fn an_open_window_is_used_as_it_is() {
        let space = Space::default();
        let bridge = Bridge { at: at(0, 2), buses: 1..=1 };
        open_window(&space, bridge.at, Kind::Plain, 0xc000_0000..0xc010_0000);
        let functions = vec![
            function(at(1, 0), &[(0xc000_0000, 0x1000, false)]),
            function(at(1, 1), &[(0, 0x1000, false)]),
        ];
        let mut tree = Tree { functions, bridges: vec![bridge], roots: vec![0] };
        assert_eq!(assign(&space, &mut tree, &mut RangeSet::<8>::new()), 0);
        assert_eq!(ranges(&tree.functions)[1], 0xc000_1000..0xc000_2000);
    }

    #[test]
    fn conflicting_bars_are_not_used() {
        let mut functions = vec![
            function(at(0, 1), &[(0x10_0000, 0x1000, false), (0xc000_0000, 0x1000, false)]),
            function(at(0, 2), &[(0xfee0_0000, 0x1000, false), (0xc000_1000, 0x1000, false)]),
            function(at(0, 3), &[(0xd000_0000, 0x1_0000, false)]),
            function(at(0, 4), &[(0xd000_f000, 0x1000, false), (1 << 47, 0x1000, true)]),
            function(at(0, 5), &[(0xd000_2000, 0x1000, false), (0, 0x1000, false)]),
            function(at(0, 6), &[(u64::MAX << 12, 0x1000, true)]),
        ];
        let taken = [0..0x8000_0000, 0xfee0_0000..0xfef0_0000];
        let refused = refuse_conflicts(&mut functions, &taken, 1 << 47);
        let mut names: Vec<_> = refused.iter().map(|refused| (refused.at.device, refused.bar)).collect();
        names.sort();
        assert_eq!(names, [(1, 0), (2, 0), (3, 0), (4, 0), (4, 1), (5, 0), (6, 0)]);
        assert_eq!(ranges(&functions), [0xc000_0000..0xc000_1000, 0xc000_1000..0xc000_2000]);
        let said: Vec<String> = refused.iter().map(ToString::to_string).collect();
        assert_eq!(
            said[0],
            "0000:00:01.0: BAR 0 at 0x100000 to 0x101000 is not used: 0x0 to 0x80000000 is something else's"
        );
        assert!(said.iter().any(|said| said.ends_with("no address of this machine")));
        assert_eq!(refuse_conflicts(&mut functions, &taken, 1 << 47), []);
    }
}
