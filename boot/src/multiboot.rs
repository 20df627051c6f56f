//! Multiboot 1: the information structure that QEMU `-kernel`, iPXE and GRUB hand over in EBX.
//!
//! Source: Multiboot Specification 0.6.96, section 3.3.

use crate::info::{MAP_ENTRIES, MODULES, MapEntry};
use crate::{BootError, BootInfo, PhysicalMemory, Protocol};

/// EAX at entry.
pub const LOADER_MAGIC: u32 = 0x2bad_b002;

/// Bits of the `flags` word: which fields are valid.
mod flag {
    pub const COMMAND_LINE: u32 = 1 << 2;
    pub const MODULES: u32 = 1 << 3;
    pub const MAP: u32 = 1 << 6;
}

/// Byte offsets into the information structure.
mod field {
    pub const FLAGS: u64 = 0;
    pub const COMMAND_LINE: u64 = 16;
    pub const MODULE_COUNT: u64 = 20;
    pub const MODULES: u64 = 24;
    pub const MAP_BYTES: u64 = 44;
    pub const MAP: u64 = 48;
}

/// A module entry: start, end, string, reserved; 32 bits each.
const MODULE_BYTES: u64 = 16;

/// An entry of the memory map: its size of 32 bits, which loaders may make larger, address and length of 64 bits, type.
const MAP_ENTRY_BYTES: u64 = 24;

/// Reads the information structure at `address`.
pub(crate) fn read<M: PhysicalMemory>(memory: &M, address: u64) -> Result<BootInfo, BootError> {
    let field = |offset| memory.u32(address + offset).ok_or(BootError::OutOfMemoryBounds { address });

    let mut info = BootInfo::new(Protocol::Multiboot);
    let flags = field(field::FLAGS)?;
    if flags & flag::COMMAND_LINE != 0 {
        info.set_command_line(memory, u64::from(field(field::COMMAND_LINE)?));
        drop_image_name(&mut info);
    }
    if flags & flag::MODULES != 0 {
        let modules = u64::from(field(field::MODULES)?);
        for index in 0..u64::from(field(field::MODULE_COUNT)?).min(MODULES as u64) {
            let at = modules + index * MODULE_BYTES;
            let missing = BootError::OutOfMemoryBounds { address: at };
            let start = memory.u32(at).ok_or(missing)?;
            let end = memory.u32(at + 4).ok_or(missing)?;
            info.add_module(u64::from(start)..u64::from(end));
        }
    }
    if flags & flag::MAP == 0 {
        return Err(BootError::NoMemoryMap);
    }
    let map = u64::from(field(field::MAP)?);
    let map_bytes = u64::from(field(field::MAP_BYTES)?);
    if map_bytes > MAP_ENTRIES as u64 * MAP_ENTRY_BYTES {
        return Err(BootError::MapTooLong);
    }
    info.set_memory(entries(memory, map..map + map_bytes))?;
    Ok(info)
}

/// The entries of the memory map. Each begins with its own size, which does not count itself.
fn entries<M: PhysicalMemory>(
    memory: &M,
    map: core::ops::Range<u64>,
) -> impl Iterator<Item = MapEntry> + Clone {
    let mut at = map.start;
    (0..MAP_ENTRIES)
        .map_while(move |_| {
            let size = (at < map.end).then(|| memory.u32(at))??;
            let entry = MapEntry::new(memory.u64(at + 4)?, memory.u64(at + 12)?, memory.u32(at + 20)?);
            at += u64::from(size) + 4;
            Some(entry)
        })
        .flatten()
}

/// Loaders put the name of the image before the command line.
fn drop_image_name(info: &mut BootInfo) {
    let rest = info.command_line.iter().position(|&b| b == b' ').map_or(info.command_line.len(), |at| at + 1);
    let len = info.command_line.len() - rest;
    info.command_line.copy_within(rest.., 0);
    info.command_line.truncate(len);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::fake::Memory;

    fn information(flags: u32) -> Memory {
        let mut memory = Memory::default();
        memory.put_words(0x9000, &[flags, 0, 0, 0, 0x9100, 1, 0x9200, 0, 0, 0, 0, 48, 0x9300]);
        memory.put(0x9100, *b"kernel.elf log=debug token=x\0");
        memory.put_words(0x9200, &[0x30_0000, 0x30_0010, 0, 0]);
        memory.put_words(0x9300, &[20, 0, 0, 0x9_fc00, 0, 1, 20, 0x10_0000, 0, 0x3f0_0000, 0, 1]);
        memory
    }

    #[test]
    fn reads_what_qemu_gives() {
        let info = BootInfo::read(&information(0x24f), LOADER_MAGIC, 0x9000).unwrap();
        assert_eq!(info.protocol, Protocol::Multiboot);
        assert_eq!(info.command_line, b"log=debug token=x");
        assert_eq!(info.modules.as_slice(), core::slice::from_ref(&(0x30_0000..0x30_0010)));
        assert!(info.ram.contains(&(0x10_0000..0x400_0000)));
        assert_eq!(info.free_memory.total(), 0x3f0_0000 - 4096);
    }

    #[test]
    fn fields_without_their_flag_are_not_read() {
        let info = BootInfo::read(&information(flag::MAP), LOADER_MAGIC, 0x9000).unwrap();
        assert!(info.command_line.is_empty());
        assert!(info.modules.is_empty());
        assert_eq!(
            BootInfo::read(&information(flag::MODULES), LOADER_MAGIC, 0x9000).unwrap_err(),
            BootError::NoMemoryMap
        );
    }

    #[test]
    fn a_name_without_arguments_is_an_empty_command_line() {
        let mut memory = information(0x24f);
        memory.0.retain(|(at, _)| *at != 0x9100);
        memory.put(0x9100, *b"kernel.elf\0");
        assert!(BootInfo::read(&memory, LOADER_MAGIC, 0x9000).unwrap().command_line.is_empty());
    }
}
