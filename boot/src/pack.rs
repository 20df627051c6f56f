//! Packing an image: what is done to the ELF file after the link.
//!
//! Call frame information and the names of the functions are put, compressed, where the linker left the former
//! ([`crate::backtrace`]), so that a crash on a machine without a debugger tells where; what no loader loads is cut off.

use crate::backtrace;
use crate::symbols::NAME_BYTES;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use object::elf::{FileHeader64, PT_LOAD, ProgramHeader64, SymbolSection};
use object::read::elf::ElfFile;
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SymbolKind};

/// Where the linker puts call frame information: last of what is in the file.
const SECTION: &str = ".eh_frame";
/// Where `image.ld` says that the room for it ends.
const ROOM_END: &str = "backtrace_end";

type Elf<'a> = ElfFile<'a, FileHeader64<LittleEndian>>;

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Functions in the symbol table.
    pub functions: usize,
    /// Bytes of the packed form, and of what a crash unpacks behind it.
    pub used_bytes: usize,
    /// Bytes of memory that there are for the two.
    pub room_bytes: usize,
}

/// Why an image cannot be packed.
#[derive(Debug)]
pub enum PackError {
    /// It is not an ELF file, or a damaged one.
    Elf(object::Error),
    /// It was not linked by `image.ld`.
    NoImage,
    /// What it takes to make backtraces does not fit into the memory that `image.ld` reserves.
    TooLarge(Packed),
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(error) => write!(f, "not an image: {error}"),
            Self::NoImage => write!(f, "the image has no {SECTION} with {ROOM_END} behind it"),
            Self::TooLarge(Packed { functions, used_bytes, room_bytes }) => write!(
                f,
                "backtraces through {functions} functions take {used_bytes} bytes of memory, image.ld reserves {room_bytes}"
            ),
        }
    }
}

impl core::error::Error for PackError {}

impl From<object::Error> for PackError {
    fn from(error: object::Error) -> Self {
        Self::Elf(error)
    }
}

/// Packs what backtraces are made of in the ELF file `image`, and cuts everything off that is not loaded:
/// section headers, debug information, the linker's own symbol table.
///
/// # Errors
/// `image` is no ELF file, was not linked by `image.ld`, or has backtraces that take more memory than that reserves.
pub fn pack(image: &mut Vec<u8>) -> Result<Packed, PackError> {
    let elf = Elf::parse(image.as_slice())?;
    let section = elf.section_by_name(SECTION).ok_or(PackError::NoImage)?;
    let room_end = elf.symbol_by_name(ROOM_END).ok_or(PackError::NoImage)?.address();
    let place = section
        .file_range()
        .and_then(|(offset, _)| usize::try_from(offset).ok())
        .ok_or(PackError::NoImage)?;
    let functions = functions(&elf);
    let (bytes, used_bytes) = backtrace::pack(section.data()?, &table(&functions));
    let room_bytes = usize::try_from(room_end.saturating_sub(section.address())).unwrap_or(0);
    let packed = Packed { functions: functions.len(), used_bytes, room_bytes };
    if packed.used_bytes > packed.room_bytes {
        return Err(PackError::TooLarge(packed));
    }
    image.truncate(place);
    image.extend(bytes);
    end_here(image).ok_or(PackError::NoImage)?;
    Ok(packed)
}

/// Has the headers tell that the file's last segment reaches to the end of the file, and that nothing else does.
fn end_here(image: &mut [u8]) -> Option<()> {
    const E: LittleEndian = LittleEndian;
    let end = image.len() as u64;
    let (header, _) = object::from_bytes_mut::<FileHeader64<LittleEndian>>(image).ok()?;
    header.e_shoff.set(E, 0);
    header.e_shnum.set(E, 0);
    header.e_shstrndx.set(E, SymbolSection(0));
    let (at, count) = (usize::try_from(header.e_phoff.get(E)).ok()?, usize::from(header.e_phnum.get(E)));
    let (segments, _) =
        object::slice_from_bytes_mut::<ProgramHeader64<LittleEndian>>(image.get_mut(at..)?, count).ok()?;
    let loaded = segments.iter_mut().filter(|segment| segment.p_type.get(E) == PT_LOAD);
    let last = loaded.max_by_key(|segment| segment.p_offset.get(E))?;
    last.p_filesz.set(E, end.checked_sub(last.p_offset.get(E))?);
    Some(())
}

/// Address and name of every function, by address, one name for each address.
fn functions(elf: &Elf<'_>) -> Vec<(u32, String)> {
    let mut functions: Vec<(u32, String)> = elf
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter_map(|symbol| {
            let name = alloc::format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?));
            Some((u32::try_from(symbol.address()).ok()?, name))
        })
        .collect();
    functions.sort();
    functions.dedup_by_key(|(address, _)| *address);
    functions
}

/// The table of these functions' names.
pub(crate) fn table(functions: &[(u32, String)]) -> Vec<u8> {
    // Fewer than 2^32 functions: each has another 32-bit address.
    let mut table = (functions.len() as u32).to_le_bytes().to_vec();
    let mut names = Vec::new();
    // Instances of generic functions have the same name: it is kept once.
    let mut places = BTreeMap::new();
    let mut last = 0;
    for (address, name) in functions {
        table.extend((address - last).to_le_bytes());
        last = *address;
        let name = &name[..name.floor_char_boundary(NAME_BYTES)];
        let place = *places.entry(name).or_insert_with(|| {
            let place = names.len() as u32;
            names.push(name.len() as u8);
            names.extend(name.as_bytes());
            place
        });
        table.extend(place.to_le_bytes());
    }
    table.extend(names);
    table
}

const _: () = assert!(NAME_BYTES <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::Symbols;
    use object::ObjectSegment;

    #[test]
    fn what_is_packed_is_found() {
        let functions = [
            (0x1000, "boot::start".to_owned()),
            (0x1010, "x".repeat(NAME_BYTES)),
            (0x2000, "last".to_owned()),
        ];
        let table = table(&functions);
        let symbols = Symbols::new(&table).unwrap();
        for (address, name) in &functions {
            assert_eq!(symbols.lookup(u64::from(*address) + 1), Some((name.as_str(), 1)));
        }
    }

    #[test]
    fn functions_of_one_name_share_it() {
        let functions: Vec<_> =
            (0..100).map(|place| (0x1000 + place, format!("{}{}", "y".repeat(50), place % 2))).collect();
        let table = table(&functions);
        assert!(table.len() < 100 * 8 + 3 * 52, "{}", table.len());
        assert_eq!(Symbols::new(&table).unwrap().lookup(0x1001).unwrap().0.len(), 51);
    }

    #[test]
    fn the_functions_of_an_elf_file_are_found_and_what_is_no_image_is_refused() {
        let mut this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::parse(this.as_slice()).unwrap();
        let functions = functions(&elf);
        assert!(functions.is_sorted_by_key(|(address, _)| *address));
        assert!(functions.iter().any(|(_, name)| name == "boot::pack::functions"), "{functions:?}");
        assert!(matches!(pack(&mut this), Err(PackError::NoImage)));
        assert!(matches!(pack(&mut vec![0; 100]), Err(PackError::Elf(_))));
    }

    #[test]
    fn the_last_segment_ends_with_the_file() {
        let mut this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let loaded = |image: &[u8]| {
            Elf::parse(image).unwrap().segments().map(|s| s.file_range().0 + s.file_range().1).max()
        };
        let before = loaded(&this).unwrap();
        this.truncate(usize::try_from(before).unwrap() - 1);
        end_here(&mut this).unwrap();
        assert_eq!(loaded(&this), Some(before - 1));
        assert_eq!(Elf::parse(this.as_slice()).unwrap().sections().count(), 0);
    }
}
