//! What the loader told the image, whatever its protocol.

use crate::{RangeSet, multiboot, pvh};
use core::fmt;
use core::ops::Range;
use heapless::Vec;

/// Longest command line that is kept, in bytes; the rest is cut off.
pub const COMMAND_LINE_BYTES: usize = 2048;

/// Most boot modules that are kept.
pub const MODULES: usize = 8;

/// Pieces of memory that are kept apart; of a map with more, the smallest are not used.
pub const MEMORY_PIECES: usize = 256;

/// Longest memory map that is read, in entries. All of them count: a reserved range may be the last.
pub(crate) const MAP_ENTRIES: usize = 1 << 16;

/// Memory below this address is left to firmware, boot structures and the trampoline of other cores.
const LOW_MEMORY_END: u64 = 1 << 20;

const PAGE: u64 = 4096;

/// Memory as the loader left it, by physical address.
pub trait PhysicalMemory {
    /// `len` bytes at `address`, or `None` where there is no memory to read.
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]>;

    /// The `N` bytes at `address`.
    fn array<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        self.bytes(address, N)?.try_into().ok()
    }

    /// A little-endian 32-bit number.
    fn u32(&self, address: u64) -> Option<u32> {
        self.array(address).map(u32::from_le_bytes)
    }

    /// A little-endian 64-bit number.
    fn u64(&self, address: u64) -> Option<u64> {
        self.array(address).map(u64::from_le_bytes)
    }
}

/// Who loaded the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Xen's PVH entry: Firecracker, Cloud Hypervisor, QEMU where there is no Multiboot header.
    Pvh,
    /// Multiboot 1: QEMU `-kernel`, iPXE, GRUB.
    Multiboot,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pvh => "PVH",
            Self::Multiboot => "Multiboot",
        })
    }
}

/// Why the boot information could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootError {
    /// Neither register nor memory holds the magic number of a known protocol.
    UnknownLoader {
        /// What EAX held at entry.
        magic: u32,
    },
    /// A structure lies where there is no memory.
    OutOfMemoryBounds {
        /// Its physical address.
        address: u64,
    },
    /// The loader gave no memory map.
    NoMemoryMap,
    /// The memory map is too long.
    MapTooLong,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownLoader { magic } => write!(f, "unknown boot protocol, magic {magic:#x}"),
            Self::OutOfMemoryBounds { address } => write!(f, "boot structure at {address:#x} is unreadable"),
            Self::NoMemoryMap => f.write_str("the loader gave no memory map"),
            Self::MapTooLong => write!(f, "the memory map has more than {MAP_ENTRIES} entries"),
        }
    }
}

/// Why a boot module is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModuleError {
    /// It does not lie in RAM.
    NotInRam(Range<u64>),
    /// It lies where something else is.
    Overlaps(Range<u64>, Range<u64>),
}

impl fmt::Display for ModuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInRam(Range { start, end }) => {
                write!(f, "the boot module at {start:#x} to {end:#x} is not in RAM")
            }
            Self::Overlaps(Range { start, end }, other) => write!(
                f,
                "the boot module at {start:#x} to {end:#x} overlaps what is at {:#x} to {:#x}",
                other.start, other.end
            ),
        }
    }
}

/// Everything the loader handed over.
#[derive(Debug)]
pub struct BootInfo {
    /// Who loaded the image.
    pub protocol: Protocol,
    /// RAM in whole pages: what the memory map says is usable and nothing says is reserved.
    pub ram: RangeSet<MEMORY_PIECES>,
    /// The part of `ram` that holds nothing: neither below 1 MiB, nor a module. The image still counts as free.
    pub free_memory: RangeSet<MEMORY_PIECES>,
    /// Bytes of RAM that are not used, because memory is in more than [`MEMORY_PIECES`] pieces.
    pub unused_bytes: u64,
    /// The command line as it came, without the image's own name.
    pub command_line: Vec<u8, COMMAND_LINE_BYTES>,
    /// Physical addresses of the modules.
    pub modules: Vec<Range<u64>, MODULES>,
    /// Physical address of ACPI's root pointer, where the protocol gives it.
    pub rsdp: Option<u64>,
}

impl BootInfo {
    /// Reads what the loader left. `magic` is EAX and `address` EBX as they were at entry.
    ///
    /// # Errors
    /// Neither protocol was spoken, a structure lies where there is no memory, or the memory map is missing or too long.
    pub fn read<M: PhysicalMemory>(memory: &M, magic: u32, address: u32) -> Result<Self, BootError> {
        let address = u64::from(address);
        if magic == multiboot::LOADER_MAGIC {
            multiboot::read(memory, address)
        } else if memory.u32(address) == Some(pvh::START_INFO_MAGIC) {
            pvh::read(memory, address)
        } else {
            Err(BootError::UnknownLoader { magic })
        }
    }

    pub(crate) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            ram: RangeSet::new(),
            free_memory: RangeSet::new(),
            unused_bytes: 0,
            command_line: Vec::new(),
            modules: Vec::new(),
            rsdp: None,
        }
    }

    /// Takes the memory map in: RAM first, then everything else and the modules out of it again.
    pub(crate) fn set_memory(
        &mut self,
        entries: impl Iterator<Item = MapEntry> + Clone,
    ) -> Result<(), BootError> {
        for entry in entries.clone().filter(|e| e.usable) {
            let start = entry.range.start.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
            let end = entry.range.end / PAGE * PAGE;
            self.unused_bytes += self.ram.insert_largest(start..end.max(start));
        }
        for entry in entries.filter(|e| !e.usable) {
            self.unused_bytes += self.ram.remove_at_least(whole_pages(&entry.range));
        }
        if self.ram.pieces() == 0 {
            return Err(BootError::NoMemoryMap);
        }
        self.free_memory = self.ram.clone();
        self.reserve(0..LOW_MEMORY_END);
        for module in self.modules.clone() {
            self.reserve(whole_pages(&module));
        }
        Ok(())
    }

    /// Takes `range` out of the free memory.
    fn reserve(&mut self, range: Range<u64>) {
        self.unused_bytes += self.free_memory.remove_at_least(range);
    }

    /// The first module, unless it is not wholly in RAM or overlaps one of `taken`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn first_module(&self, taken: &[Range<u64>]) -> Result<Option<Range<u64>>, ModuleError> {
        let Some(module) = self.modules.first() else { return Ok(None) };
        let pages = whole_pages(module);
        if !self.ram.contains(&pages) {
            return Err(ModuleError::NotInRam(module.clone()));
        }
        let overlap = |other: &&Range<u64>| other.start < pages.end && pages.start < other.end;
        match taken.iter().find(overlap) {
            Some(taken) => Err(ModuleError::Overlaps(module.clone(), taken.clone())),
            None => Ok(Some(module.clone())),
        }
    }

    /// A page of RAM below 1 MiB, nothing in it, where code can be put that begins in real mode. `taken` is what the
    /// caller has there.
    pub fn low_page(&self, taken: &[Range<u64>]) -> Option<u64> {
        /// Interrupt vectors and the BIOS data area, which firmware does not always reserve.
        const FIRST: u64 = 0x1000;
        let modules = self.modules.iter().map(whole_pages);
        let mut pages: RangeSet<{ 2 * MODULES + 8 }> = RangeSet::new();
        for ram in self.ram.iter() {
            let _ = pages.insert_largest(ram.start.max(FIRST)..ram.end.min(LOW_MEMORY_END));
        }
        for taken in modules.chain(taken.iter().cloned()) {
            let _ = pages.remove_at_least(whole_pages(&taken));
        }
        pages.take(PAGE, PAGE, LOW_MEMORY_END)
    }

    /// Keeps the NUL-terminated string at `address`, cut at [`COMMAND_LINE_BYTES`].
    pub(crate) fn set_command_line<M: PhysicalMemory>(&mut self, memory: &M, address: u64) {
        for at in (address..=u64::MAX).take(COMMAND_LINE_BYTES) {
            match memory.bytes(at, 1) {
                Some(&[byte]) if byte != 0 => {
                    let _ = self.command_line.push(byte);
                }
                _ => break,
            }
        }
    }

    /// Keeps a module; modules beyond [`MODULES`] are not kept, and their memory is not protected.
    pub(crate) fn add_module(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            let _ = self.modules.push(range);
        }
    }
}

/// The pages that `range` lies in.
fn whole_pages(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE * PAGE..range.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}

/// One entry of a memory map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MapEntry {
    pub range: Range<u64>,
    pub usable: bool,
}

impl MapEntry {
    /// Type 1 is RAM in E820, Multiboot and PVH alike. `None` for an empty entry.
    pub fn new(start: u64, len: u64, kind: u32) -> Option<Self> {
        let range = start..start.saturating_add(len);
        (!range.is_empty()).then_some(Self { range, usable: kind == 1 })
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use super::PhysicalMemory;

    /// Sparse memory for tests.
    #[derive(Default)]
    pub struct Memory(pub std::vec::Vec<(u64, std::vec::Vec<u8>)>);

    impl Memory {
        pub fn put(&mut self, address: u64, bytes: impl Into<std::vec::Vec<u8>>) {
            self.0.push((address, bytes.into()));
        }

        pub fn put_words(&mut self, address: u64, words: &[u32]) {
            self.put(address, words.iter().flat_map(|w| w.to_le_bytes()).collect::<std::vec::Vec<_>>());
        }
    }

    impl PhysicalMemory for Memory {
        fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
            self.0.iter().find_map(|(start, bytes)| {
                let from = usize::try_from(address.checked_sub(*start)?).ok()?;
                bytes.get(from..from.checked_add(len)?)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: u64, end: u64, kind: u32) -> MapEntry {
        MapEntry::new(start, end - start, kind).unwrap()
    }

    #[test]
    fn reserved_beats_usable_and_pages_are_whole() {
        let mut info = BootInfo::new(Protocol::Pvh);
        info.add_module(0x30_0010..0x30_1001);
        let map = [
            entry(0, 0x9_fc00, 1),
            entry(0x10_0000, 0x80_0800, 1),
            entry(0x40_0800, 0x40_0900, 2),
            entry(0xf000_0000, u64::MAX, 2),
        ];
        info.set_memory(map.iter().cloned()).unwrap();
        let free: std::vec::Vec<_> = info.free_memory.iter().collect();
        assert_eq!(free, [0x10_0000..0x30_0000, 0x30_2000..0x40_0000, 0x40_1000..0x80_0000]);
        let ram: std::vec::Vec<_> = info.ram.iter().collect();
        assert_eq!(ram, [0..0x9_f000, 0x10_0000..0x40_0000, 0x40_1000..0x80_0000]);
    }

    #[test]
    fn a_map_of_many_pieces_is_read_to_its_end() {
        let mut info = BootInfo::new(Protocol::Pvh);
        let pieces = (0..1000).map(|i| entry(0x10_0000 + i * 0x4000, 0x10_0000 + i * 0x4000 + 0x1000, 1));
        let large = entry(1 << 32, 2 << 32, 1);
        let reserved = entry((1 << 32) + 0x1000, (1 << 32) + 0x2000, 2);
        info.set_memory(pieces.chain([large, reserved])).unwrap();
        assert_eq!(info.ram.pieces(), MEMORY_PIECES);
        assert!(!info.ram.contains(&((1 << 32) + 0x1000..(1 << 32) + 0x1001)));
        assert!(info.ram.total() + info.unused_bytes >= 1000 * 0x1000);
        assert!(info.unused_bytes >= 744 * 0x1000);
    }

    #[test]
    fn a_module_must_lie_in_ram_of_its_own() {
        let module = |range: Range<u64>, taken: &[Range<u64>]| {
            let mut info = BootInfo::new(Protocol::Multiboot);
            info.add_module(range);
            info.set_memory([entry(0, 0x9_f000, 1), entry(0x10_0000, 0x80_0000, 1)].into_iter()).unwrap();
            info.first_module(taken)
        };
        let image = 0x20_0000..0x30_0000;
        let taken = core::slice::from_ref(&image);
        assert_eq!(module(0x30_0000..0x30_0010, taken), Ok(Some(0x30_0000..0x30_0010)));
        // Of the second the last page alone is outside.
        for range in [0x9_e000..0x9_f001, 0x7f_fff8..0x80_0001, 0x30_0000..u64::MAX] {
            assert_eq!(module(range.clone(), taken), Err(ModuleError::NotInRam(range)));
        }
        for range in [0x2f_ffff..0x30_1000, 0x1f_fff0..0x20_0001, 0x30_0000 - 1..0x30_0000] {
            assert_eq!(module(range.clone(), taken), Err(ModuleError::Overlaps(range, image.clone())));
        }
        assert_eq!(BootInfo::new(Protocol::Pvh).first_module(taken), Ok(None));
    }

    #[test]
    fn a_low_page_is_nobodys() {
        let mut info = BootInfo::new(Protocol::Multiboot);
        info.add_module(0x1ff0..0x3001);
        info.set_memory([entry(0, 0x9_fc00, 1), entry(0x10_0000, 0x80_0000, 1)].into_iter()).unwrap();
        assert_eq!(info.low_page(&[]), Some(0x4000));
        assert_eq!(info.low_page(&[0x4000..0x8001, 0x9001..0x9002]), Some(0xa000));
        assert_eq!(info.low_page(core::slice::from_ref(&(0..0x9_f000))), None);
    }

    #[test]
    fn no_ram_is_an_error() {
        let mut info = BootInfo::new(Protocol::Pvh);
        assert_eq!(info.set_memory([entry(0, 4096, 2)].into_iter()), Err(BootError::NoMemoryMap));
    }

    #[test]
    fn unknown_magic_is_refused() {
        let memory = fake::Memory::default();
        assert_eq!(
            BootInfo::read(&memory, 0x1234, 0x9000).unwrap_err(),
            BootError::UnknownLoader { magic: 0x1234 }
        );
    }
}
