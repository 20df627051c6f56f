//! ACPI's static tables: which cores there are, where PCI configuration space is, how to reset.
//!
//! Read, in order: the root pointer, found by the loader or by its signature; the root table (XSDT or RSDT);
//! of the tables it lists MADT, MCFG and FADT. What firmware says is checked, and bounded, but believed.
//! AML, the byte code, is not interpreted.
//!
//! Source: ACPI 6.5, sections 5.2.5 (RSDP) to 5.2.12 (MADT); PCI Firmware 3.3, section 4.1.2 (MCFG).

use alloc::vec::Vec;
use boot::{PhysicalMemory, RangeSet};
use core::fmt;
use core::ops::{Range, RangeInclusive};

/// Most entries of a root table that are looked at.
const MAX_TABLES: usize = 256;

/// Longest table that is read, in bytes.
const MAX_TABLE_BYTES: usize = 1 << 20;

/// Bytes of the header that every table starts with.
const HEADER_BYTES: usize = 36;

/// What the tables say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Acpi {
    /// APIC identifiers of the cores that may be used, in the order of the table.
    pub cores: Vec<u32>,
    /// Memory-mapped PCI configuration space.
    pub ecam: Vec<Ecam>,
    /// Physical addresses of the I/O APICs' registers.
    pub io_apics: Vec<u64>,
    /// What to write where to reset the machine.
    pub reset: Option<Reset>,
    /// The power management timer.
    pub timer: Option<Timer>,
    /// The real-time clock.
    pub real_time_clock: RealTimeClock,
}

/// The real-time clock of a PC.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RealTimeClock {
    /// The tables say that there is none.
    pub is_missing: bool,
    /// The register that has the century, below 128.
    pub century: Option<u8>,
}

/// The power management timer: a counter of [`Timer::HZ`] behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// The port, 32 bits wide.
    pub port: u16,
    /// How many bits of it count: 24 or 32.
    pub bits: u32,
}

impl Timer {
    /// Its rate (ACPI 6.5, section 4.8.3.3).
    pub const HZ: u64 = 3_579_545;

    /// How far it counted from `before` to `after`, which is less than once around.
    pub fn elapsed(self, before: u32, after: u32) -> u32 {
        after.wrapping_sub(before) & (u32::MAX >> (32 - self.bits))
    }
}

/// Memory-mapped configuration space of the buses of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ecam {
    /// Physical address of bus 0, whether or not `buses` contains it.
    pub base: u64,
    /// PCI segment group.
    pub segment: u16,
    /// Buses.
    pub buses: RangeInclusive<u8>,
}

/// The reset register of FADT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Where it is.
    pub address: ResetAddress,
    /// What to write.
    pub value: u8,
}

/// Where a reset register may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetAddress {
    /// An I/O port.
    Port(u16),
    /// Physical memory.
    Memory(u64),
}

impl Reset {
    /// Whether writing there can do no harm: a register in memory is neither RAM nor beyond `limit`.
    pub fn is_plausible<const N: usize>(&self, ram: &RangeSet<N>, limit: u64) -> bool {
        match self.address {
            ResetAddress::Port(port) => port != 0,
            ResetAddress::Memory(at) => at != 0 && at < limit && !ram.contains(&(at..at + 1)),
        }
    }
}

/// Why the tables cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcpiError {
    /// Nothing with the root pointer's signature and a right checksum was found.
    NoRootPointer,
    /// The root table is missing or damaged.
    NoRootTable {
        /// Where it should be.
        address: u64,
    },
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRootPointer => f.write_str("no ACPI root pointer"),
            Self::NoRootTable { address } => write!(f, "no ACPI root table at {address:#x}"),
        }
    }
}

/// Finds the root pointer: `given`, where the loader says that it is, or by its signature in low memory.
///
/// Where the loader says that it is above what `memory` holds, that is believed: [`Acpi::read`] looks.
pub fn root_pointer<M: PhysicalMemory>(memory: &M, given: Option<u64>) -> Option<u64> {
    /// The word at 40Eh is the segment of the extended BIOS data area.
    const EBDA_SEGMENT: u64 = 0x40e;
    let ebda =
        memory.array(EBDA_SEGMENT).map(|s| u64::from(u16::from_le_bytes(s)) << 4).filter(|&at| at != 0);
    let ebda = ebda.into_iter().flat_map(|at| (at..at + 1024).step_by(16));
    let bios = (0xe_0000..0x10_0000).step_by(16);
    given
        .into_iter()
        .chain(ebda)
        .chain(bios)
        .find(|&at| roots(memory, at).is_some())
        .or(given.filter(|&at| memory.bytes(at, 1).is_none()))
}

/// Addresses of the root tables that the pointer at `at` names, the one to prefer first, each with the size of its
/// entries.
fn roots<M: PhysicalMemory>(memory: &M, at: u64) -> Option<[(u64, usize); 2]> {
    let first = memory.bytes(at, 20)?;
    if !first.starts_with(b"RSD PTR ") || !sums_to_zero(first) {
        return None;
    }
    let revision = first[15];
    let extended = memory.bytes(at, 36).filter(|all| revision >= 2 && sums_to_zero(all));
    let xsdt = extended.and_then(|all| u64_at(all, 24)).unwrap_or(0);
    Some([(xsdt, 8), (u64::from(u32_at(first, 16)?), 4)])
}

impl Acpi {
    /// Reads the tables that the root pointer at `root_pointer` leads to: by the XSDT, or by the RSDT where there is
    /// none or a damaged one.
    ///
    /// # Errors
    /// There is no root pointer with a right checksum, or it leads to no root table with one.
    pub fn read<M: PhysicalMemory>(memory: &M, root_pointer: Option<u64>) -> Result<Self, AcpiError> {
        let roots = root_pointer.and_then(|at| roots(memory, at)).ok_or(AcpiError::NoRootPointer)?;
        let mut roots = roots.into_iter().filter(|&(address, _)| address != 0).peekable();
        let address = roots.peek().map_or(0, |&(address, _)| address);
        let (root, entry_bytes) = roots
            .find_map(|(address, entry_bytes)| Some((table(memory, address)?, entry_bytes)))
            .ok_or(AcpiError::NoRootTable { address })?;
        let mut acpi = Self::default();
        for entry in root[HEADER_BYTES..].chunks_exact(entry_bytes).take(MAX_TABLES) {
            let address = match entry.len() {
                4 => u32_at(entry, 0).map(u64::from),
                _ => u64_at(entry, 0),
            };
            let Some(table) = address.and_then(|address| table(memory, address)) else { continue };
            match &table[..4] {
                b"APIC" => (acpi.cores, acpi.io_apics) = cores(table),
                b"MCFG" => acpi.ecam = ecam(table),
                b"FACP" => {
                    (acpi.reset, acpi.timer) = (reset(table), timer(table));
                    acpi.real_time_clock = real_time_clock(table);
                }
                _ => {}
            }
        }
        Ok(acpi)
    }
}

/// The table at `address`, header included, if its checksum is right.
fn table<M: PhysicalMemory>(memory: &M, address: u64) -> Option<&[u8]> {
    let len = usize::try_from(memory.u32(address.checked_add(4)?)?).ok()?;
    if !(HEADER_BYTES..=MAX_TABLE_BYTES).contains(&len) {
        return None;
    }
    memory.bytes(address, len).filter(|table| sums_to_zero(table))
}

/// MADT: the local APICs of usable cores, and where the I/O APICs are.
fn cores(madt: &[u8]) -> (Vec<u32>, Vec<u64>) {
    const LOCAL_APIC: u8 = 0;
    const IO_APIC: u8 = 1;
    const LOCAL_X2APIC: u8 = 9;
    const ENABLED: u32 = 1;
    let (mut cores, mut io_apics) = (Vec::new(), Vec::new());
    let mut rest = madt.get(44..).unwrap_or_default();
    while let [kind, len, ..] = *rest {
        let Some((entry, after)) = rest.split_at_checked(usize::from(len.max(2))) else { break };
        let (id, flags) = match kind {
            LOCAL_APIC => (entry.get(3).copied().map(u32::from), u32_at(entry, 4)),
            LOCAL_X2APIC => (u32_at(entry, 4), u32_at(entry, 8)),
            _ => (None, None),
        };
        if let (Some(id), Some(flags)) = (id, flags)
            && flags & ENABLED != 0
            && !cores.contains(&id)
        {
            cores.push(id);
        }
        if let (IO_APIC, Some(address)) = (kind, u32_at(entry, 4)) {
            io_apics.push(u64::from(address));
        }
        rest = after;
    }
    (cores, io_apics)
}

impl Ecam {
    /// The addresses that it takes.
    pub fn range(&self) -> Range<u64> {
        let bus = |number: u64| self.base.saturating_add(number << 20);
        bus(u64::from(*self.buses.start()))..bus(u64::from(*self.buses.end()) + 1)
    }

    /// Whether it lies where configuration space can lie: below `limit`, whole buses, not in RAM.
    pub fn is_plausible<const N: usize>(&self, ram: &RangeSet<N>, limit: u64) -> bool {
        let range = self.range();
        let in_ram = ram.iter().any(|ram| ram.start < range.end && range.start < ram.end);
        self.base != 0 && self.base.is_multiple_of(1 << 20) && range.end <= limit && !in_ram
    }
}

/// MCFG: one range of buses per entry.
fn ecam(mcfg: &[u8]) -> Vec<Ecam> {
    let entries = mcfg.get(44..).unwrap_or_default().chunks_exact(16);
    entries
        .filter_map(|entry| {
            Some(Ecam {
                base: u64_at(entry, 0)?,
                segment: u16::from_le_bytes([entry[8], entry[9]]),
                buses: entry[10]..=entry[11],
            })
        })
        .filter(|ecam| !ecam.buses.is_empty())
        .collect()
}

/// FADT: the power management timer, where the hardware has it.
fn timer(fadt: &[u8]) -> Option<Timer> {
    const EXTENDED_TIMER: u32 = 1 << 8;
    const HARDWARE_REDUCED: u32 = 1 << 20;
    let (port, flags) = (u32_at(fadt, 76)?, u32_at(fadt, 112)?);
    let port = u16::try_from(port).ok().filter(|&port| port != 0)?;
    let there = fadt.get(91) == Some(&4) && flags & HARDWARE_REDUCED == 0;
    there.then_some(Timer { port, bits: if flags & EXTENDED_TIMER != 0 { 32 } else { 24 } })
}

/// FADT: the real-time clock's century, and whether there is one.
fn real_time_clock(fadt: &[u8]) -> RealTimeClock {
    const IS_MISSING: u8 = 1 << 5;
    RealTimeClock {
        is_missing: fadt.get(109).is_some_and(|flags| flags & IS_MISSING != 0),
        century: fadt.get(108).copied().filter(|register| (1..128).contains(register)),
    }
}

/// FADT: the reset register, where its flags say that there is one.
fn reset(fadt: &[u8]) -> Option<Reset> {
    const RESET_REGISTER_SUPPORTED: u32 = 1 << 10;
    const MEMORY: u8 = 0;
    const PORT: u8 = 1;
    if u32_at(fadt, 112)? & RESET_REGISTER_SUPPORTED == 0 {
        return None;
    }
    let address = u64_at(fadt, 120)?;
    let address = match *fadt.get(116)? {
        MEMORY => ResetAddress::Memory(address),
        PORT => ResetAddress::Port(u16::try_from(address).ok()?),
        _ => return None,
    };
    Some(Reset { address, value: *fadt.get(128)? })
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default, Debug)]
    struct Memory(Vec<(u64, Vec<u8>)>);

    impl PhysicalMemory for Memory {
        fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
            self.0.iter().find_map(|(start, bytes)| {
                let from = usize::try_from(address.checked_sub(*start)?).ok()?;
                bytes.get(from..from.checked_add(len)?)
            })
        }
    }

    fn fix_checksum(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = bytes.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b));
    }

    fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut table = signature.to_vec();
        table.extend((36 + body.len() as u32).to_le_bytes());
        table.resize(36, 0);
        table.extend(body);
        fix_checksum(&mut table, 9);
        table
    }

    fn machine(revision: u8) -> Memory {
        let mut madt = vec![0; 8];
        madt.extend([0, 8, 0, 0, 1, 0, 0, 0]); // core 0
        madt.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]); // I/O APIC
        madt.extend([0, 8, 1, 1, 0, 0, 0, 0]); // core 1, disabled
        madt.extend([0, 8, 2, 2, 1, 0, 0, 0]);
        madt.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // core 256
        let mut mcfg = vec![0; 8];
        mcfg.extend([0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0]);
        let mut fadt = vec![0; 93];
        fadt[76 - 36..78 - 36].copy_from_slice(&0x608u16.to_le_bytes());
        fadt[91 - 36] = 4;
        fadt[108 - 36] = 0x32;
        fadt[112 - 36 + 1] = 4;
        fadt[116 - 36] = 1;
        fadt[120 - 36..122 - 36].copy_from_slice(&0xcf9u16.to_le_bytes());
        fadt[128 - 36] = 6;

        let mut root = Vec::new();
        for address in [0x2000u64, 0x3000, 0x4000, 0xdead_0000] {
            root.extend(&address.to_le_bytes()[..if revision >= 2 { 8 } else { 4 }]);
        }
        let mut pointer = b"RSD PTR \0OEMID_".to_vec();
        pointer.push(revision);
        pointer.extend(0x1000u32.to_le_bytes());
        fix_checksum(&mut pointer, 8);
        pointer.extend(36u32.to_le_bytes());
        pointer.extend(0x1000u64.to_le_bytes());
        pointer.extend([0; 4]);
        fix_checksum(&mut pointer, 32);
        Memory(vec![
            (0xf_52a0, pointer),
            (0x1000, table(b"XSDT", &root)),
            (0x2000, table(b"APIC", &madt)),
            (0x3000, table(b"MCFG", &mcfg)),
            (0x4000, table(b"FACP", &fadt)),
        ])
    }

    #[test]
    fn reads_cores_configuration_space_and_reset() {
        for revision in [0, 2] {
            for root_pointer in [None, Some(0xf_52a0), Some(0x5)] {
                let memory = machine(revision);
                let acpi = Acpi::read(&memory, super::root_pointer(&memory, root_pointer)).unwrap();
                assert_eq!(acpi.cores, [0, 2, 256]);
                assert_eq!(acpi.io_apics, [0xfec0_0000]);
                assert_eq!(acpi.timer, Some(Timer { port: 0x608, bits: 24 }));
                assert_eq!(acpi.real_time_clock, RealTimeClock { is_missing: false, century: Some(0x32) });
                assert_eq!(acpi.ecam, [Ecam { base: 0xb000_0000, segment: 0, buses: 0..=255 }]);
                assert_eq!(acpi.reset, Some(Reset { address: ResetAddress::Port(0xcf9), value: 6 }));
            }
        }
    }

    #[test]
    fn a_damaged_table_is_skipped_and_a_damaged_root_is_an_error() {
        let mut memory = machine(2);
        let pointer = Some(0xf_52a0);
        memory.0[2].1[50] ^= 1;
        assert!(Acpi::read(&memory, pointer).unwrap().cores.is_empty());
        memory.0[1].1[40] ^= 1;
        assert_eq!(Acpi::read(&memory, pointer), Err(AcpiError::NoRootTable { address: 0x1000 }));
        memory.0[0].1[3] = 0;
        assert_eq!(Acpi::read(&memory, pointer), Err(AcpiError::NoRootPointer));
        assert_eq!(root_pointer(&memory, None), None);
    }

    #[test]
    fn tables_may_lie_above_4_gib_and_the_older_root_does_where_the_newer_is_damaged() {
        const HIGH: u64 = 5 << 32;
        let mut memory = machine(2);
        let whole = Acpi::read(&memory, Some(0xf_52a0)).unwrap();
        let rsdt: Vec<u8> = [0x2000u32, 0x3000, 0x4000].into_iter().flat_map(u32::to_le_bytes).collect();
        memory.0.push((0x8000, table(b"RSDT", &rsdt)));
        let pointer = &mut memory.0[0].1;
        pointer[16..20].copy_from_slice(&0x8000u32.to_le_bytes());
        pointer[24..32].copy_from_slice(&HIGH.to_le_bytes());
        fix_checksum(&mut pointer[..20], 8);
        fix_checksum(pointer, 32);
        assert_eq!(Acpi::read(&memory, Some(0xf_52a0)), Ok(whole.clone()), "by the RSDT");
        memory.0.retain(|(at, _)| *at != 0x8000);
        assert_eq!(Acpi::read(&memory, Some(0xf_52a0)), Err(AcpiError::NoRootTable { address: HIGH }));
        memory.0[1].0 = HIGH;
        assert_eq!(Acpi::read(&memory, Some(0xf_52a0)), Ok(whole.clone()), "by the XSDT");
        memory.0[0].0 = HIGH + 0x1000;
        let low = Memory(Vec::new());
        assert_eq!(Acpi::read(&memory, root_pointer(&low, Some(HIGH + 0x1000))), Ok(whole));
    }

    #[test]
    fn registers_in_ram_or_nowhere_are_not_believed() {
        let mut ram = RangeSet::<4>::new();
        ram.insert(0..0x8000_0000).unwrap();
        let reset = |address| Reset { address, value: 6 }.is_plausible(&ram, 1 << 40);
        assert!(reset(ResetAddress::Port(0xcf9)) && reset(ResetAddress::Memory(0xfed0_0000)));
        assert!(!reset(ResetAddress::Port(0)) && !reset(ResetAddress::Memory(0)));
        assert!(!reset(ResetAddress::Memory(0x1234)) && !reset(ResetAddress::Memory(u64::MAX)));
        let ecam = |base, buses| Ecam { base, segment: 0, buses }.is_plausible(&ram, 1 << 40);
        assert!(ecam(0xb000_0000, 0..=255) && ecam(0x7ff0_0000, 1..=2));
        assert!(!ecam(0x7ff0_0000, 0..=2) && !ecam(0xb000_1000, 0..=1) && !ecam(0, 0..=1));
        assert!(!ecam(u64::MAX - 0xf_ffff, 0..=255));
    }

    #[test]
    fn the_timer_wraps() {
        assert_eq!(Timer { port: 0, bits: 24 }.elapsed(0xff_fff0, 0x10), 0x20);
        assert_eq!(Timer { port: 0, bits: 32 }.elapsed(0xff_fff0, 0x100_0010), 0x20);
    }

    proptest! {
        #[test]
        fn no_table_content_does_harm(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for (index, signature) in [b"XSDT", b"APIC", b"MCFG", b"FACP"].into_iter().enumerate() {
                let mut memory = machine(2);
                memory.0[1 + index].1 = table(signature, &body);
                let _ = Acpi::read(&memory, Some(0xf_52a0)).unwrap();
            }
        }
    }
}
