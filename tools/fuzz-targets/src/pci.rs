//! PCI configuration space: functions and bridges that say anything, found and given addresses as a node does it.
//!
//! The input is functions, each its place, the bits of its BARs that can be written, and bytes of its configuration space.
//! BARs that are used lie apart from one another and from what is taken.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use boot::RangeSet;
use kernel::pci::{self, Address, ConfigSpace, Width};

use crate::input::Input;

const MAX_FUNCTIONS: usize = 12;
/// Of the first bytes of configuration space, in which everything is that is read.
const SPACE_BYTES: usize = 256;
const HEADER_TYPE: usize = 0x0e;
const BARS: Range<usize> = 0x10..0x28;
/// What no BAR may overlap: memory, and where interrupts are sent to.
const TAKEN: [Range<u64>; 2] = [0..0x8000_0000, 0xfee0_0000..0xfef0_0000];
/// Addresses end here.
const LIMIT: u64 = 1 << 46;
const FREE: [Range<u64>; 2] = [0xc000_0000..0xd000_0000, 1 << 40..1 << 41];

/// One function.
struct Function {
    bytes: [u8; SPACE_BYTES],
    /// Which bits of its BARs can be written.
    writable: [u32; 6],
}

/// A segment's configuration space.
#[derive(Default)]
struct Space(RefCell<BTreeMap<Address, Function>>);

impl ConfigSpace for Space {
    fn read(&self, at: Address, offset: u16, width: Width) -> u32 {
        let (map, offset, bytes) = (self.0.borrow(), usize::from(offset), width as usize);
        assert!(offset.is_multiple_of(bytes), "{bytes} bytes at {offset}");
        let mut value = [0xff; 4];
        if let Some(from) = map.get(&at).and_then(|function| function.bytes.get(offset..offset + bytes)) {
            value[..bytes].copy_from_slice(from);
        }
        u32::from_le_bytes(value)
    }

    fn write(&self, at: Address, offset: u16, width: Width, value: u32) {
        let (mut map, offset, bytes) = (self.0.borrow_mut(), usize::from(offset), width as usize);
        assert!(offset.is_multiple_of(bytes), "{bytes} bytes at {offset}");
        let Some(function) = map.get_mut(&at) else { return };
        let is_bridge = function.bytes[HEADER_TYPE] & 0x7f != 0;
        for (place, new) in (offset..).zip(value.to_le_bytes()).take(bytes) {
            let bar = place.checked_sub(BARS.start).filter(|_| BARS.contains(&place) && !is_bridge);
            let mask = bar.map_or(!0, |at| function.writable[at / 4].to_le_bytes()[at % 4]);
            let Some(old) = function.bytes.get_mut(place) else { continue };
            *old = new & mask | *old & !mask;
        }
    }
}

/// Finds what `data` says there is.
pub fn run(data: &[u8]) {
    let _ = used(data);
}

/// The ranges of the BARs that are used in the end.
fn used(data: &[u8]) -> Vec<Range<u64>> {
    let space = space(&mut Input::new(data));
    let mut tree = pci::scan(&space, 0, 0..=255);
    assert!(tree.functions.len() + tree.bridges.len() <= MAX_FUNCTIONS, "more is found than there is");
    assert!(tree.functions.is_sorted_by(|a, b| a.at < b.at), "a function is found twice");
    pci::measure(&space, &mut tree.functions);
    for bar in tree.functions.iter().flat_map(|function| function.bars).flatten() {
        assert!(bar.bytes.is_power_of_two() && bar.bytes >= 16, "{bar:?}");
    }
    let mut free = RangeSet::<512>::new();
    for range in FREE {
        assert!(free.insert(range).is_ok(), "there is room for two");
    }
    for range in pci::assigned(&tree.functions) {
        let _ = free.remove_at_least(range);
    }
    let failed = pci::assign(&space, &mut tree, &mut free);
    let bars = || tree.functions.iter().flat_map(|function| function.bars).flatten();
    assert_eq!(bars().filter(|bar| bar.address == 0).count(), failed);
    let _ = pci::refuse_conflicts(&mut tree.functions, &TAKEN, LIMIT);
    let mut used: Vec<Range<u64>> = pci::assigned(&tree.functions).collect();
    used.sort_by_key(|range| range.start);
    assert!(used.is_sorted_by(|a, b| a.end <= b.start), "BARs overlap: {used:x?}");
    for range in &used {
        let taken = TAKEN.iter().any(|taken| taken.start < range.end && range.start < taken.end);
        assert!(!taken && range.end <= LIMIT, "{range:x?} is something else's");
    }
    for function in &tree.functions {
        let Some(msix) = function.msix else { continue };
        assert!((1..=2048).contains(&msix.entries) && usize::from(msix.bar) < function.bars.len());
    }
    used
}

fn space(input: &mut Input<'_>) -> Space {
    let space = Space::default();
    for _ in 0..MAX_FUNCTIONS {
        if input.is_empty() {
            break;
        }
        let (bus, place, kind) = (input.byte(), input.byte(), input.byte());
        let at = Address { segment: 0, bus, device: place >> 3, function: place & 7 };
        let mut bytes = [0; SPACE_BYTES];
        bytes[..4].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
        bytes[HEADER_TYPE] = kind;
        // A size as a power of two; the upper half of a wide BAR may be all of it.
        let writable = std::array::from_fn(|_| u32::MAX.checked_shl(input.byte().into()).unwrap_or(0));
        for _ in 0..input.byte() {
            let offset = usize::from(input.byte());
            let written = input.bytes(4);
            bytes.iter_mut().skip(offset).zip(written).for_each(|(to, from)| *to = *from);
        }
        let _ = space.0.borrow_mut().insert(at, Function { bytes, writable });
    }
    space
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kept_machines_have_devices() {
        for input in crate::corpus::load("pci").unwrap() {
            let used = super::used(&input.data);
            assert_eq!(used.is_empty(), input.name.contains("wrong"), "{}", input.name);
        }
    }
}
