//! PCI configuration space: which functions there are, their BARs, their MSI-X capability.
//!
//! What a function answers is hostile: lists are bounded, sizes checked.
//!
//! Source: PCI Local Bus 3.0, chapter 6; PCI Express Base 6.0, section 7.5 and 7.7.2 (MSI-X).

mod described;
mod windows;

use alloc::vec::Vec;
use core::fmt;
use core::ops::{Range, RangeInclusive};

pub use windows::{Refused, assign, refuse_conflicts};

/// Offsets of registers of every function.
mod register {
    pub const VENDOR: u16 = 0x00;
    pub const DEVICE: u16 = 0x02;
    pub const COMMAND: u16 = 0x04;
    pub const STATUS: u16 = 0x06;
    pub const HEADER_TYPE: u16 = 0x0e;
    pub const BARS: u16 = 0x10;
    pub const SECONDARY_BUS: u16 = 0x19;
    pub const SUBORDINATE_BUS: u16 = 0x1a;
    pub const CAPABILITIES: u16 = 0x34;
}

/// Where a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Segment group.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device, below 32.
    pub device: u8,
    /// Function, below 8.
    pub function: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, bus, device, function } = self;
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

/// How many bytes of configuration space are read or written at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Doubleword = 4,
}

/// Configuration space. Offsets are multiples of the width; what is not there reads as all ones.
pub trait ConfigSpace {
    /// Reads a register; bits beyond its width mean nothing.
    fn read(&self, at: Address, offset: u16, width: Width) -> u32;
    /// Writes the lower bits of a value to a register of that width.
    fn write(&self, at: Address, offset: u16, width: Width, value: u32);

    /// Reads 8 bits.
    fn read8(&self, at: Address, offset: u16) -> u8 {
        self.read(at, offset, Width::Byte) as u8
    }
    /// Reads 16 bits.
    fn read16(&self, at: Address, offset: u16) -> u16 {
        self.read(at, offset, Width::Word) as u16
    }
    /// Reads 32 bits.
    fn read32(&self, at: Address, offset: u16) -> u32 {
        self.read(at, offset, Width::Doubleword)
    }
    /// Writes 8 bits.
    fn write8(&self, at: Address, offset: u16, value: u8) {
        self.write(at, offset, Width::Byte, value.into());
    }
    /// Writes 16 bits.
    fn write16(&self, at: Address, offset: u16, value: u16) {
        self.write(at, offset, Width::Word, value.into());
    }
    /// Writes 32 bits.
    fn write32(&self, at: Address, offset: u16, value: u32) {
        self.write(at, offset, Width::Doubleword, value);
    }
}

/// A function that is not a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub at: Address,
    /// Vendor and device identifiers.
    pub id: (u16, u16),
    /// Memory BARs by number; a 64-bit one stands at its lower number.
    pub bars: [Option<Bar>; 6],
    /// The MSI-X capability.
    pub msix: Option<Msix>,
}

/// A memory BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Physical address; 0 if none was assigned.
    pub address: u64,
    /// Size in bytes: a power of two.
    pub bytes: u64,
    /// Whether it may lie above 4 GiB.
    pub wide: bool,
    /// Whether reading has no side effects, so that a bridge may read ahead.
    pub prefetchable: bool,
}

impl Bar {
    const PREFETCHABLE: u32 = 1 << 3;
}

/// A bridge from one bus to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Where it is.
    pub at: Address,
    /// The bus behind it, and those behind bridges there.
    pub buses: RangeInclusive<u8>,
}

/// What there is on the buses of a segment.
#[derive(Debug, Default)]
pub struct Tree {
    /// Everything but bridges.
    pub functions: Vec<Function>,
    /// Bridges that lead somewhere, each after those that lead to it.
    pub bridges: Vec<Bridge>,
    /// Buses that no bridge leads to.
    pub roots: Vec<u8>,
}

/// An MSI-X capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msix {
    /// Offset of the capability in configuration space.
    pub capability: u16,
    /// Entries of the table.
    pub entries: u16,
    /// BAR that holds the table.
    pub bar: u8,
    /// Offset of the table in that BAR, in bytes.
    pub offset: u32,
}

impl Msix {
    /// Offset of the message control register from the capability.
    pub const CONTROL: u16 = 2;
    /// Message control: MSI-X is on.
    pub const ENABLE: u16 = 1 << 15;
    /// Message control: all vectors are masked.
    pub const MASK_ALL: u16 = 1 << 14;
    /// Bytes of a table entry: address (64 bits), data, vector control.
    pub const ENTRY_BYTES: usize = 16;
}

/// Everything on `buses` of `segment`. A bus that no bridge leads to is the root of a tree of its own if its device 0
/// answers: machines have several, and only ACPI's byte code tells which. Looking for other devices too would take some
/// thousand reads, each of which may be a detour through a hypervisor. Bridges are switched on.
pub fn scan(space: &impl ConfigSpace, segment: u16, buses: RangeInclusive<u8>) -> Tree {
    let mut tree = Tree::default();
    let mut seen = [false; 256];
    for root in buses.clone() {
        let first = Address { segment, bus: root, device: 0, function: 0 };
        let nothing = root != *buses.start() && space.read16(first, register::VENDOR) == 0xffff;
        if nothing || seen[usize::from(root)] {
            continue;
        }
        let before = tree.functions.len() + tree.bridges.len();
        let mut waiting = Vec::from([root]);
        while let Some(bus) = waiting.pop() {
            if core::mem::replace(&mut seen[usize::from(bus)], true) {
                continue;
            }
            for at in addresses(space, segment, bus) {
                if space.read8(at, register::HEADER_TYPE) & 0x7f == 0 {
                    tree.functions.push(function(space, at));
                } else if let Some(bridge) = bridge(space, at) {
                    let behind = *bridge.buses.start();
                    let is_known = seen[usize::from(behind)] || waiting.contains(&behind);
                    // The way to a bus is one: what leads back, or where another bridge leads, leads nowhere.
                    if !is_known {
                        waiting.push(behind);
                        tree.bridges.push(bridge);
                    }
                }
            }
        }
        if tree.functions.len() + tree.bridges.len() > before {
            tree.roots.push(root);
        }
        // What no bridge's own bus is, and lies behind it by number, was looked for and is not there.
        for bridge in &tree.bridges {
            seen[usize::from(*bridge.buses.start())..=usize::from(*bridge.buses.end())].fill(true);
        }
    }
    tree.functions.sort_by_key(|function| function.at);
    tree
}

/// The bridge at `at`, if firmware gave it a bus, with what is behind it let through to memory.
fn bridge(space: &impl ConfigSpace, at: Address) -> Option<Bridge> {
    const MEMORY_AND_BUS_MASTER: u16 = 6;
    let secondary = space.read8(at, register::SECONDARY_BUS);
    let buses = secondary..=space.read8(at, register::SUBORDINATE_BUS);
    if secondary == 0 || secondary == at.bus || buses.is_empty() {
        return None;
    }
    let command = space.read16(at, register::COMMAND);
    space.write16(at, register::COMMAND, command | MEMORY_AND_BUS_MASTER);
    Some(Bridge { at, buses })
}

/// The addresses that assigned BARs take.
pub fn assigned(functions: &[Function]) -> impl Iterator<Item = Range<u64>> + '_ {
    let bars = functions.iter().flat_map(|function| function.bars).flatten();
    bars.filter(|bar| bar.address != 0).map(|bar| bar.address..bar.address.saturating_add(bar.bytes))
}

/// The functions that answer on a bus.
fn addresses(space: &impl ConfigSpace, segment: u16, bus: u8) -> impl Iterator<Item = Address> + '_ {
    const MULTIPLE_FUNCTIONS: u8 = 1 << 7;
    let there = |at: &Address| space.read16(*at, register::VENDOR) != 0xffff;
    let address = move |device, function| Address { segment, bus, device, function };
    (0..32).filter(move |&device| there(&address(device, 0))).flat_map(move |device| {
        let multiple = space.read8(address(device, 0), register::HEADER_TYPE) & MULTIPLE_FUNCTIONS != 0;
        let count = if multiple { 8 } else { 1 };
        (0..count).map(move |function| address(device, function)).filter(there)
    })
}

fn function(space: &impl ConfigSpace, at: Address) -> Function {
    let bars = described::bars(space, at).unwrap_or_else(|| bars(space, at));
    Function {
        at,
        id: (space.read16(at, register::VENDOR), space.read16(at, register::DEVICE)),
        bars,
        msix: msix(space, at, &bars),
    }
}

/// Measures the BARs of functions of which only what is in them is known: they may be larger.
pub fn measure(space: &impl ConfigSpace, functions: &mut [Function]) {
    for function in functions {
        function.bars = bars(space, function.at);
    }
}

/// Finds the size of each memory BAR by writing all ones, with the function deaf to memory meanwhile. I/O BARs stay as
/// they are, and so does whether they are listened to: a hypervisor takes long over each change of either.
fn bars(space: &impl ConfigSpace, at: Address) -> [Option<Bar>; 6] {
    const MEMORY: u16 = 2;
    let command = space.read16(at, register::COMMAND);
    space.write16(at, register::COMMAND, command & !MEMORY);
    let mut bars = [None; 6];
    let mut number = 0;
    while number < bars.len() {
        let (bar, wide) = bar(space, at, number);
        bars[number] = bar;
        number += if wide { 2 } else { 1 };
    }
    space.write16(at, register::COMMAND, command);
    bars
}

/// One BAR, and whether it takes two registers.
fn bar(space: &impl ConfigSpace, at: Address, number: usize) -> (Option<Bar>, bool) {
    let register = bar_register(number);
    let low = space.read32(at, register);
    let wide = is_wide(low, number);
    if is_io(low) {
        return (None, false);
    }
    let size_low = probe(space, at, register, low) & !0xf;
    let (high, size_high) = if wide {
        let high = space.read32(at, register + 4);
        (high, probe(space, at, register + 4, high))
    } else {
        (0, u32::MAX)
    };
    let mask = u64::from(size_high) << 32 | u64::from(size_low);
    let bytes = mask.wrapping_neg();
    // Nothing there, or an answer that is no power of two.
    if size_low == 0 && (!wide || size_high == 0) || !bytes.is_power_of_two() {
        return (None, wide);
    }
    let address = u64::from(high) << 32 | u64::from(low & !0xf);
    (Some(Bar { address, bytes, wide, prefetchable: low & Bar::PREFETCHABLE != 0 }), wide)
}

/// Which bits of a BAR register can be set.
fn probe(space: &impl ConfigSpace, at: Address, register: u16, value: u32) -> u32 {
    space.write32(at, register, u32::MAX);
    let mask = space.read32(at, register);
    space.write32(at, register, value);
    mask
}

/// Whether a BAR is of I/O ports.
fn is_io(low: u32) -> bool {
    low & 1 != 0
}

/// Whether a memory BAR takes the next register as well.
fn is_wide(low: u32, number: usize) -> bool {
    const TYPE: u32 = 0b110;
    const TYPE_64: u32 = 0b100;
    !is_io(low) && low & TYPE == TYPE_64 && number < 5
}

fn bar_register(number: usize) -> u16 {
    register::BARS + 4 * number as u16
}

/// The MSI-X capability, if its table lies within one of the BARs.
fn msix(space: &impl ConfigSpace, at: Address, bars: &[Option<Bar>; 6]) -> Option<Msix> {
    const MSIX: u8 = 0x11;
    let capability = capability(space, at, MSIX)?;
    let entries = (space.read16(at, capability + Msix::CONTROL) & 0x7ff) + 1;
    let table = space.read32(at, capability + 4);
    let msix = Msix { capability, entries, bar: (table & 7) as u8, offset: table & !7 };
    let bar = (*bars.get(usize::from(msix.bar))?)?;
    let end = u64::from(msix.offset) + Msix::ENTRY_BYTES as u64 * u64::from(entries);
    (end <= bar.bytes).then_some(msix)
}

/// Offset of the first capability of a kind.
fn capability(space: &impl ConfigSpace, at: Address, kind: u8) -> Option<u16> {
    capabilities(space, at).find(|&(found, _)| found == kind).map(|(_, offset)| offset)
}

/// The capabilities: kind and offset of each.
fn capabilities(space: &impl ConfigSpace, at: Address) -> impl Iterator<Item = (u8, u16)> + '_ {
    const HAS_CAPABILITIES: u16 = 1 << 4;
    /// More than fit between the header and the end of the first 256 bytes.
    const MOST: usize = 48;
    let there = space.read16(at, register::STATUS) & HAS_CAPABILITIES != 0;
    let mut next = register::CAPABILITIES;
    let step = move || {
        let offset = u16::from(space.read8(at, next) & !3);
        next = offset + 1;
        (offset >= 0x40).then(|| (space.read8(at, offset), offset))
    };
    core::iter::from_fn(step).take(if there { MOST } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// A function's 256 bytes, and which bits of its BARs can be written.
    struct Model {
        bytes: [u8; 256],
        writable: [u32; 6],
    }

    impl Model {
        fn new(header_type: u8) -> Self {
            let mut bytes = [0; 256];
            bytes[..4].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
            bytes[0x0e] = header_type;
            Self { bytes, writable: [0; 6] }
        }

        fn bar(mut self, number: usize, flags: u8, address: u32, bytes: u32) -> Self {
            self.bytes[0x10 + 4 * number..][..4].copy_from_slice(&(address | u32::from(flags)).to_le_bytes());
            self.writable[number] = bytes.wrapping_neg();
            self
        }

        /// MSI-X with 5 entries in BAR 1, behind another capability.
        fn msix(mut self) -> Self {
            self.bytes[0x06] = 0x10;
            self.bytes[0x34] = 0x40;
            self.bytes[0x40..0x42].copy_from_slice(&[9, 0x50]);
            self.bytes[0x50..0x58].copy_from_slice(&[0x11, 0, 4, 0, 1, 8, 0, 0]);
            self
        }
    }

    #[derive(Default)]
    struct Space(RefCell<BTreeMap<Address, Model>>);

    impl ConfigSpace for Space {
        fn read(&self, at: Address, offset: u16, width: Width) -> u32 {
            let (map, offset) = (self.0.borrow(), usize::from(offset));
            let mut value = [0xff; 4];
            if let Some(bytes) =
                map.get(&at).and_then(|model| model.bytes.get(offset..offset + width as usize))
            {
                value[..bytes.len()].copy_from_slice(bytes);
            }
            u32::from_le_bytes(value)
        }

        fn write(&self, at: Address, offset: u16, width: Width, value: u32) {
            let (mut map, offset) = (self.0.borrow_mut(), usize::from(offset));
            let model = map.get_mut(&at).unwrap();
            if width != Width::Doubleword {
                return model.bytes[offset..][..width as usize]
                    .copy_from_slice(&value.to_le_bytes()[..width as usize]);
            }
            assert_eq!(model.bytes[4] & 2, 0, "a BAR is written while the function decodes");
            let bar = &mut model.bytes[offset..][..4];
            let old = u32::from_le_bytes(bar.try_into().unwrap());
            let mask = model.writable[(offset - 0x10) / 4];
            bar.copy_from_slice(&(value & mask | old & !mask).to_le_bytes());
        }
    }

    fn at(bus: u8, device: u8, function: u8) -> Address {
        Address { segment: 0, bus, device, function }
    }

    /// A NIC with an I/O BAR, MSI-X in BAR 1 and a 64-bit BAR 4, as QEMU makes them.
    fn nic() -> Model {
        let mut nic = Model::new(0)
            .bar(0, 1, 0xc000, 0x80)
            .bar(1, 0, 0xfebd_0000, 0x1000)
            .bar(4, 0xc, 0xfe00_0000, 0x4000)
            .bar(5, 0, 0, 0)
            .msix();
        nic.bytes[4] = 7;
        nic.writable[5] = u32::MAX;
        nic
    }

    fn machine() -> Space {
        let space = Space::default();
        let mut bridge = Model::new(0x81);
        bridge.bytes[0x19..0x1b].copy_from_slice(&[1, 3]);
        let mut loop_back = Model::new(1);
        loop_back.bytes[0x19] = 0;
        space.0.borrow_mut().extend([
            (at(0, 1, 0), nic()),
            (at(0, 2, 0), bridge),
            (at(0, 2, 3), Model::new(0)),
            (at(1, 0, 0), nic()),
            (at(1, 0, 1), nic()), // not there: function 0 does not say that it has siblings
            (at(1, 4, 0), loop_back),
            (at(3, 0, 0), nic()), // not there: no bridge leads to this bus
            (at(0x80, 0, 0), Model::new(0)),
            (at(0x80, 31, 0), nic()),
            (at(0x81, 1, 0), nic()), // not there: its bus has no device 0
        ]);
        space
    }

    #[test]
    fn finds_functions_bars_and_msix() {
        let space = machine();
        let tree = scan(&space, 0, 0..=255);
        let functions = tree.functions;
        let found: Vec<Address> = functions.iter().map(|f| f.at).collect();
        assert_eq!(found, [at(0, 1, 0), at(0, 2, 3), at(1, 0, 0), at(0x80, 0, 0), at(0x80, 31, 0)]);
        assert_eq!(tree.roots, [0, 0x80]);
        assert_eq!(tree.bridges, [Bridge { at: at(0, 2, 0), buses: 1..=3 }]);
        assert_eq!(space.read16(at(0, 2, 0), 4), 6, "the bridge lets memory and bus masters through");
        let nic = &functions[0];
        assert_eq!(nic.id, (0x1af4, 0x1041));
        let bar_1 = Bar { address: 0xfebd_0000, bytes: 0x1000, wide: false, prefetchable: false };
        let bar_4 = Bar { address: 0xfe00_0000, bytes: 0x4000, wide: true, prefetchable: true };
        assert_eq!(nic.bars, [None, Some(bar_1), None, None, Some(bar_4), None]);
        assert_eq!(nic.msix, Some(Msix { capability: 0x50, entries: 5, bar: 1, offset: 0x800 }));
        assert_eq!(functions[1].bars, [None; 6]);
    }

    #[test]
    fn a_bus_has_one_way_to_it() {
        let bridge = |buses: [u8; 2]| {
            let mut bridge = Model::new(1);
            bridge.bytes[0x19..0x1b].copy_from_slice(&buses);
            bridge
        };
        let space = Space::default();
        space.0.borrow_mut().extend([
            (at(0, 2, 0), bridge([1, 9])),
            (at(0, 3, 0), bridge([1, 9])),
            (at(1, 0, 0), bridge([2, 9])),
            (at(2, 0, 0), bridge([1, 9])),
            (at(2, 1, 0), nic()),
        ]);
        let mut tree = scan(&space, 0, 0..=255);
        let bridges: Vec<_> = tree.bridges.iter().map(|bridge| (bridge.at, *bridge.buses.start())).collect();
        assert_eq!(bridges, [(at(0, 2, 0), 1), (at(1, 0, 0), 2)]);
        tree.functions[0].bars[1].as_mut().unwrap().address = 0;
        assert_eq!(assign(&space, &mut tree, &mut boot::RangeSet::<8>::new()), 1);
    }

    /// The NIC with its structures in BAR 4 as QEMU has them; BAR 1 has the MSI-X table and, behind it, what is pending.
    fn described() -> Model {
        let mut nic = nic();
        nic.bytes[0x58..0x5c].copy_from_slice(&[1, 0x0c, 0, 0]);
        nic.bytes[0x51] = 0x60;
        for (index, at) in [0x60, 0x70, 0x80].into_iter().enumerate() {
            let kind = [1, 4, 2][index];
            let next = if index == 2 { 0 } else { at as u8 + 0x10 };
            nic.bytes[at..at + 8].copy_from_slice(&[9, next, 16, kind, 4, 0, 0, 0]);
            let offset = [0u32, 0x2000, 0x3000][index];
            nic.bytes[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
            nic.bytes[at + 12..at + 16].copy_from_slice(&0x1000u32.to_le_bytes());
        }
        nic
    }

    #[test]
    fn a_described_function_is_not_switched_off() {
        let space = Space::default();
        let mut nic = described();
        // Could not be written unnoticed.
        nic.writable = [0; 6];
        let _ = space.0.borrow_mut().insert(at(0, 0, 0), nic);
        let bars = scan(&space, 0, 0..=0).functions[0].bars;
        // BAR 1 is larger than what is known to be in it: the table of 5 entries at 0x800, 8 bytes at 0xc00.
        let bar_1 = Bar { address: 0xfebd_0000, bytes: 0x1000, wide: false, prefetchable: false };
        let bar_4 = Bar { address: 0xfe00_0000, bytes: 0x4000, wide: true, prefetchable: true };
        assert_eq!(bars, [None, Some(bar_1), None, None, Some(bar_4), None]);
    }

    #[test]
    fn what_is_not_wholly_described_is_measured() {
        let scanned = |change: &dyn Fn(&mut Model)| {
            let space = Space::default();
            let mut nic = described();
            change(&mut nic);
            let _ = space.0.borrow_mut().insert(at(0, 0, 0), nic);
            let mut tree = scan(&space, 0, 0..=0);
            let found = tree.functions[0].bars;
            measure(&space, &mut tree.functions);
            (found, tree.functions[0].bars)
        };
        let (found, measured) = scanned(&|nic| nic.bytes[0x64] = 5);
        assert_eq!(found, measured, "a structure that seems to be elsewhere: the common one is not needed");
        for change in [
            &(|nic: &mut Model| nic.bytes[0x10 + 16 + 3] = 0) as &dyn Fn(&mut Model),
            &|nic| nic.bytes[0x60..0x90].fill(0),
            &|nic| nic.bytes[0x6c..0x70].fill(0xff),
        ] {
            let (found, measured) = scanned(change);
            assert_eq!(found, measured);
        }
        let half = |nic: &mut Model| nic.bytes[0x7c..0x90].fill(0);
        let (found, measured) = scanned(&half);
        assert_eq!(
            found.map(|bar| bar.map(|bar| bar.bytes)),
            [None, Some(0x1000), None, None, Some(0x2000), None]
        );
        assert_eq!(measured[4].map(|bar| bar.bytes), Some(0x4000), "what is known is less than there is");
    }

    #[test]
    fn sizing_leaves_everything_as_it_was() {
        let space = machine();
        let before = space.0.borrow()[&at(0, 1, 0)].bytes;
        let _ = scan(&space, 0, 0..=0);
        assert_eq!(space.0.borrow()[&at(0, 1, 0)].bytes, before);
    }

    #[test]
    fn a_table_outside_its_bar_is_no_table() {
        let space = machine();
        space.0.borrow_mut().get_mut(&at(0, 1, 0)).unwrap().bytes[0x52] = 0xff;
        assert_eq!(scan(&space, 0, 0..=0).functions[0].msix, None);
    }

    proptest! {
        #[test]
        fn no_answer_does_harm(bytes in prop::collection::vec(any::<u8>(), 256), writable: [u32; 6]) {
            let space = Space::default();
            let model = Model { bytes: bytes.try_into().unwrap(), writable };
            let _ = space.0.borrow_mut().insert(at(0, 0, 0), model);
            for function in scan(&space, 0, 0..=255).functions {
                for bar in function.bars.into_iter().flatten() {
                    prop_assert!(bar.bytes.is_power_of_two() && bar.bytes >= 16);
                }
            }
        }
    }
}
