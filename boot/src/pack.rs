//! Packing an image: what is done to the ELF file after the link.
//!
//! The symbol table ([`crate::symbols`]) is put where `image.ld` left room for it, so that a crash on a
//! machine without a debugger names its functions; what no loader loads is cut off.

use crate::symbols::{MAGIC, NAME_BYTES};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{LittleEndian, Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};

/// Section that `image.ld` reserves.
const SECTION: &str = ".symbols";
/// Names are not cut shorter than about this, whatever room there is.
const SHORTEST_NAME_BYTES: usize = 40;

type Elf<'a> = ElfFile<'a, FileHeader64<LittleEndian>>;

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Functions in the symbol table.
    pub functions: usize,
    /// Bytes that their table takes.
    pub used_bytes: usize,
    /// Bytes that there are for it.
    pub room_bytes: usize,
}

/// Why an image cannot be packed.
#[derive(Debug)]
pub enum PackError {
    /// It is not an ELF file, or a damaged one.
    Elf(object::Error),
    /// It has no room for symbols: it was not linked by `image.ld`.
    NoSection,
    /// Its symbols do not fit into the room that `image.ld` reserves.
    TooManySymbols(Packed),
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(error) => write!(f, "not an image: {error}"),
            Self::NoSection => write!(f, "the image has no section {SECTION}"),
            Self::TooManySymbols(Packed { functions, used_bytes, room_bytes }) => write!(
                f,
                "the names of {functions} functions take {used_bytes} bytes, image.ld reserves {room_bytes}"
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

/// Fills in the symbol table of the ELF file `image`, and cuts everything off that is not loaded:
/// section headers, debug information, the linker's own symbol table.
pub fn pack(image: &mut Vec<u8>) -> Result<Packed, PackError> {
    let elf = Elf::parse(image.as_slice())?;
    let (offset, room) =
        elf.section_by_name(SECTION).and_then(|section| section.file_range()).ok_or(PackError::NoSection)?;
    let functions = functions(&elf);
    let room_bytes = usize::try_from(room).unwrap_or(0);
    let table = table_within(&functions, room_bytes);
    let loaded = loaded_bytes(&elf);
    let packed = Packed { functions: functions.len(), used_bytes: table.len(), room_bytes };
    if packed.used_bytes > packed.room_bytes {
        return Err(PackError::TooManySymbols(packed));
    }
    let room = usize::try_from(offset).ok().and_then(|at| image.get_mut(at..at + packed.room_bytes));
    let room = room.ok_or(PackError::NoSection)?;
    room.fill(0);
    room[..table.len()].copy_from_slice(&table);
    image.truncate(loaded);
    let header = object::from_bytes_mut::<FileHeader64<LittleEndian>>(image);
    let (header, _) = header.map_err(|()| PackError::NoSection)?;
    header.e_shoff.set(LittleEndian, 0);
    header.e_shnum.set(LittleEndian, 0);
    header.e_shstrndx.set(LittleEndian, object::elf::SymbolSection(0));
    Ok(packed)
}

/// Where the last segment ends in the file.
fn loaded_bytes(elf: &Elf<'_>) -> usize {
    let ends = elf.segments().map(|segment| {
        let (offset, bytes) = segment.file_range();
        offset.saturating_add(bytes)
    });
    ends.max().and_then(|end| usize::try_from(end).ok()).unwrap_or(0)
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

/// A table of at most `room_bytes`, if cutting its names shorter can make it that.
fn table_within(functions: &[(u32, String)], room_bytes: usize) -> Vec<u8> {
    let mut name_bytes = NAME_BYTES;
    let mut packed = table(functions, name_bytes);
    while packed.len() > room_bytes && name_bytes > SHORTEST_NAME_BYTES {
        name_bytes /= 2;
        packed = table(functions, name_bytes);
    }
    packed
}

/// The table with names of at most `name_bytes`.
fn table(functions: &[(u32, String)], name_bytes: usize) -> Vec<u8> {
    let mut table = MAGIC.to_vec();
    let mut names = Vec::new();
    // Instances of generic functions have the same name: it is kept once.
    let mut places = BTreeMap::new();
    // Fewer than 2^32 functions: each has another 32-bit address.
    table.extend((functions.len() as u32).to_le_bytes());
    for (address, name) in functions {
        table.extend(address.to_le_bytes());
        let name = &name[..name.floor_char_boundary(name_bytes)];
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

    #[test]
    fn what_is_packed_is_found() {
        let functions = [
            (0x1000, "boot::start".to_owned()),
            (0x1010, "x".repeat(NAME_BYTES)),
            (0x2000, "last".to_owned()),
        ];
        let table = table(&functions, NAME_BYTES);
        let symbols = Symbols::new(&table).unwrap();
        for (address, name) in &functions {
            assert_eq!(symbols.lookup(u64::from(*address) + 1), Some((name.as_str(), 1)));
        }
    }

    #[test]
    fn functions_of_one_name_share_it_and_names_are_cut_to_fit() {
        let functions: Vec<_> =
            (0..100).map(|place| (0x1000 + place, format!("{}{}", "y".repeat(50), place % 2))).collect();
        let whole = table_within(&functions, usize::MAX);
        assert!(whole.len() < 100 * 8 + 3 * 52 + 12, "{}", whole.len());
        let cut = table_within(&functions, whole.len() - 1);
        let names = [&whole, &cut].map(|table| Symbols::new(table).unwrap().lookup(0x1001).unwrap().0.len());
        assert_eq!(names, [51, 40]);
    }

    #[test]
    fn the_functions_of_an_elf_file_are_found_and_what_is_no_image_is_refused() {
        let mut this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::parse(this.as_slice()).unwrap();
        let functions = functions(&elf);
        assert!(functions.is_sorted_by_key(|(address, _)| *address));
        assert!(functions.iter().any(|(_, name)| name == "boot::pack::functions"), "{functions:?}");
        assert!(matches!(pack(&mut this), Err(PackError::NoSection)));
        assert!(matches!(pack(&mut vec![0; 100]), Err(PackError::Elf(_))));
    }
}
