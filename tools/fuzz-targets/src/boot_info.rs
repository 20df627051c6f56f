//! What a loader hands over: PVH start info or Multiboot information, command line, memory map, modules.
//!
//! The input is the memory at `BASE`, where the structures point to one another by address; its first bytes are the
//! first structure. Both protocols read it.

use std::ops::Range;

use boot::{BootInfo, PhysicalMemory, multiboot};

/// Where the input lies in physical memory.
const BASE: u64 = 0x9000;

struct Memory<'a>(&'a [u8]);

impl PhysicalMemory for Memory<'_> {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(address.checked_sub(BASE)?).ok()?;
        self.0.get(from..from.checked_add(len)?)
    }
}

/// Reads `data` as both protocols.
pub fn run(data: &[u8]) {
    for magic in [0, multiboot::LOADER_MAGIC] {
        let Ok(info) = BootInfo::read(&Memory(data), magic, BASE as u32) else { continue };
        check(&info);
    }
}

fn check(info: &BootInfo) {
    let ram: Vec<Range<u64>> = info.ram.iter().collect();
    assert!(!ram.is_empty(), "boot information without memory was accepted");
    for pair in ram.windows(2) {
        assert!(pair[0].end < pair[1].start, "ranges of memory overlap or are not in order: {ram:x?}");
    }
    for free in info.free_memory.iter() {
        assert!(
            free.start % 4096 == 0 && free.end % 4096 == 0 && !free.is_empty(),
            "{free:x?} is no range of pages"
        );
        assert!(
            ram.iter().any(|ram| ram.start <= free.start && free.end <= ram.end),
            "{free:x?} is no memory"
        );
        for module in &info.modules {
            assert!(
                module.end <= free.start || free.end <= module.start,
                "module {module:x?} counts as free"
            );
        }
    }
}
