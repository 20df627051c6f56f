//! PVH: Xen's `hvm_start_info`, as QEMU, Firecracker and Cloud Hypervisor hand it over in EBX.
//!
//! Source: Xen, `xen/include/public/arch-x86/hvm/start_info.h`.

use crate::info::{MAP_ENTRIES, MODULES, MapEntry};
use crate::{BootError, BootInfo, PhysicalMemory, Protocol};

/// First word of `hvm_start_info`.
pub const START_INFO_MAGIC: u32 = 0x336e_c578;

/// Byte offsets into `hvm_start_info`.
mod start_info {
    pub const VERSION: u64 = 4;
    pub const MODULE_COUNT: u64 = 12;
    pub const MODULES: u64 = 16;
    pub const COMMAND_LINE: u64 = 24;
    pub const RSDP: u64 = 32;
    pub const MAP: u64 = 40;
    pub const MAP_COUNT: u64 = 48;
}

/// `hvm_modlist_entry`: address, size, command line, reserved; 64 bits each.
const MODULE_BYTES: u64 = 32;

/// `hvm_memmap_table_entry`: address and size of 64 bits, type and reserved of 32 bits.
const MAP_ENTRY_BYTES: u64 = 24;

/// Reads the start information at `address`.
pub(crate) fn read<M: PhysicalMemory>(memory: &M, address: u64) -> Result<BootInfo, BootError> {
    let unreadable = BootError::OutOfMemoryBounds { address };
    let field = |offset| memory.u64(address + offset).ok_or(unreadable);
    let count = |offset| memory.u32(address + offset).ok_or(unreadable);

    let mut info = BootInfo::new(Protocol::Pvh);
    match field(start_info::COMMAND_LINE)? {
        0 => {}
        at => info.set_command_line(memory, at),
    }
    info.rsdp = Some(field(start_info::RSDP)?).filter(|&at| at != 0);

    let modules = field(start_info::MODULES)?;
    for index in 0..u64::from(count(start_info::MODULE_COUNT)?).min(MODULES as u64) {
        let at = modules.saturating_add(index * MODULE_BYTES);
        let missing = BootError::OutOfMemoryBounds { address: at };
        let start = memory.u64(at).ok_or(missing)?;
        let len = memory.u64(at.saturating_add(8)).ok_or(missing)?;
        info.add_module(start..start.saturating_add(len));
    }

    // The memory map came with version 1.
    if count(start_info::VERSION)? < 1 {
        return Err(BootError::NoMemoryMap);
    }
    let map = field(start_info::MAP)?;
    let entries = u64::from(count(start_info::MAP_COUNT)?);
    if entries > MAP_ENTRIES as u64 {
        return Err(BootError::MapTooLong);
    }
    info.set_memory((0..entries).filter_map(|index| {
        let at = map.saturating_add(index * MAP_ENTRY_BYTES);
        let (len, kind) = (at.saturating_add(8), at.saturating_add(16));
        MapEntry::new(memory.u64(at)?, memory.u64(len)?, memory.u32(kind)?)
    }))?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::fake::Memory;

    fn start_info(version: u32) -> Memory {
        let mut memory = Memory::default();
        memory.put_words(
            0x6000,
            &[
                START_INFO_MAGIC,
                version,
                0,
                1, // one module
                0x7000,
                0,
                0x8000,
                0,
                0xf_52a0,
                0,
                0x9000,
                0,
                2,
                0,
            ],
        );
        memory.put_words(0x7000, &[0x20_0000, 0, 0x1234, 0, 0, 0, 0, 0]);
        memory.put(0x8000, *b"log=debug\0junk");
        memory.put_words(0x9000, &[0, 0, 0x9_fc00, 0, 1, 0, 0x10_0000, 0, 0x3f0_0000, 0, 1, 0]);
        memory
    }

    #[test]
    fn reads_what_qemu_gives() {
        let info = BootInfo::read(&start_info(1), 0, 0x6000).unwrap();
        assert_eq!(info.protocol, Protocol::Pvh);
        assert_eq!(info.command_line, b"log=debug");
        assert_eq!(info.rsdp, Some(0xf_52a0));
        assert_eq!(info.modules.as_slice(), core::slice::from_ref(&(0x20_0000..0x20_1234)));
        let free: std::vec::Vec<_> = info.free_memory.iter().collect();
        assert_eq!(free, [0x10_0000..0x20_0000, 0x20_2000..0x400_0000]);
    }

    #[test]
    fn version_0_has_no_memory_map() {
        assert_eq!(BootInfo::read(&start_info(0), 0, 0x6000).unwrap_err(), BootError::NoMemoryMap);
    }

    #[test]
    fn truncated_start_info_is_refused() {
        let mut memory = Memory::default();
        memory.put_words(0x6000, &[START_INFO_MAGIC, 1, 0]);
        assert_eq!(
            BootInfo::read(&memory, 0, 0x6000).unwrap_err(),
            BootError::OutOfMemoryBounds { address: 0x6000 }
        );
    }
}
