//! What a backtrace is made of: call frame information and [`Symbols`], of which a run needs nothing until it crashes.
//!
//! Packing (module `pack`) puts the two, compressed, into the place where the linker left `.eh_frame`. A crash unpacks
//! them into the room that `image.ld` leaves behind it. Little-endian, without gaps:
//!
//! ```text
//! "FLTRACE1"            8 bytes
//! compressed            u32 bytes of the last field
//! call frames           u32 bytes of .eh_frame
//! symbols               u32 bytes of the symbol table
//! both, compressed      DEFLATE (RFC 1951)
//! ```
//!
//! In `.eh_frame` the description of a function says how far the function, and what its description has in common with
//! others (its CIE), are from the description itself, which is another number each time. Before it is compressed that is
//! made the distance from the end of the function before, and from the start of the section: nearly always the same
//! two numbers, for which the whole takes a third less.
//!
//! Source: Linux Standard Base 5.0, section 10.6 (`.eh_frame`).

use crate::symbols::Symbols;
use miniz_oxide::inflate::decompress_slice_iter_to_slice;

/// What the packed form begins with.
const MAGIC: &[u8; 8] = b"FLTRACE1";

/// Magic number and three lengths.
const HEADER_BYTES: usize = 20;

/// What was unpacked.
#[derive(Debug, Clone, Copy)]
pub struct Unpacked<'a> {
    /// The content of `.eh_frame`.
    pub call_frames: &'a [u8],
    /// The functions' names.
    pub symbols: Symbols<'a>,
}

/// Unpacks what the beginning of `region` holds into the rest of it. `None` if the image was not packed, or is damaged.
pub fn unpack(region: &mut [u8]) -> Option<Unpacked<'_>> {
    if !region.starts_with(MAGIC) {
        return None;
    }
    let length = |at| usize::try_from(word(region, at)?).ok();
    let (compressed, call_frames, symbols) = (length(8)?, length(12)?, length(16)?);
    let (packed, room) = region.split_at_mut_checked(HEADER_BYTES.checked_add(compressed)?)?;
    let unpacked = room.get_mut(..call_frames.checked_add(symbols)?)?;
    let input = core::iter::once(packed.get(HEADER_BYTES..)?);
    if decompress_slice_iter_to_slice(unpacked, input, false, true) != Ok(unpacked.len()) {
        return None;
    }
    let (call_frames, symbols) = unpacked.split_at_mut(call_frames);
    rewrite(call_frames, Form::Linked);
    Some(Unpacked { call_frames, symbols: Symbols::new(symbols)? })
}

/// The packed form, and how many bytes there must be for it and for what comes of it.
#[cfg(feature = "pack")]
pub(crate) fn pack(call_frames: &[u8], symbols: &[u8]) -> (alloc::vec::Vec<u8>, usize) {
    const HARDEST: u8 = 10;
    let mut both = call_frames.to_vec();
    rewrite(&mut both, Form::Compressible);
    both.extend(symbols);
    let compressed = miniz_oxide::deflate::compress_to_vec(&both, HARDEST);
    let mut packed = MAGIC.to_vec();
    for bytes in [compressed.len(), call_frames.len(), symbols.len()] {
        // The addresses of an image are of 32 bits.
        packed.extend((bytes as u32).to_le_bytes());
    }
    packed.extend(compressed);
    let needed = packed.len() + both.len();
    (packed, needed)
}

/// From where distances count in descriptions of functions.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// From the description, as the linker has it.
    Linked,
    /// From the function before and from the start of the section.
    #[cfg(feature = "pack")]
    Compressible,
}

/// Brings `.eh_frame` from the other form into this one.
fn rewrite(section: &mut [u8], form: Form) {
    // Places are counted from the start of the section, modulo 2^32.
    let (mut at, mut last_end) = (0u32, 0u32);
    while let Some(length @ 1..) = word(section, at as usize) {
        // A CIE has 0 here, and comes out of this as it went in.
        if let Some(cie @ 1..) = word(section, at as usize + 4) {
            let here = at.wrapping_add(8);
            let (from, to) = match form {
                Form::Linked => (last_end, here),
                #[cfg(feature = "pack")]
                Form::Compressible => (here, last_end),
            };
            let begin = from.wrapping_add(word(section, at as usize + 8).unwrap_or(0));
            last_end = begin.wrapping_add(word(section, at as usize + 12).unwrap_or(0));
            put(section, at as usize + 4, at.wrapping_sub(cie));
            put(section, at as usize + 8, begin.wrapping_sub(to));
        }
        let Some(next) = length.checked_add(4).and_then(|bytes| at.checked_add(bytes)) else { return };
        at = next;
    }
}

/// The 32-bit number at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// Puts a 32-bit number at `at`, if there is such a place.
fn put(bytes: &mut [u8], at: usize, word: u32) {
    if let Some(to) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *to = word.to_le_bytes();
    }
}

#[cfg(all(test, feature = "pack"))]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A CIE, two functions that touch, of which only the second one saves a register, and a CIE and a function more.
    fn call_frames() -> Vec<u8> {
        let mut section = Vec::new();
        for entry in [
            &[0, 11][..],
            &[16, 0x1000, 0x20],
            &[32, 0x1010, 0x40, 0x0e42_8302],
            &[0, 12],
            &[16, 0xffff_0000, 7],
        ] {
            section.extend((4 * entry.len() as u32).to_le_bytes());
            section.extend(entry.iter().flat_map(|word: &u32| word.to_le_bytes()));
        }
        section
    }

    fn symbols() -> Vec<u8> {
        crate::pack::table(&[(0x1000, "one".to_owned()), (0x1020, "two".to_owned())])
    }

    #[test]
    fn what_is_packed_comes_out_again_and_distances_to_neighbours_repeat() {
        let (packed, needed) = pack(&call_frames(), &symbols());
        let mut region = packed.clone();
        region.resize(needed, 0xa5);
        let unpacked = unpack(&mut region).unwrap();
        assert_eq!(unpacked.call_frames, call_frames());
        assert_eq!(unpacked.symbols.lookup(0x1021), Some(("two", 1)));

        let mut compressible = call_frames();
        rewrite(&mut compressible, Form::Compressible);
        let functions = [12, 28].map(|at| [word(&compressible, at + 4), word(&compressible, at + 8)]);
        assert_eq!(functions[0][0], functions[1][0]);
        assert_eq!(functions[1][1], Some(0));
    }

    #[test]
    fn too_little_room_and_damage_give_nothing() {
        let (packed, needed) = pack(&call_frames(), &symbols());
        for room in 0..needed {
            let mut region = packed.clone();
            region.resize(room, 0);
            assert!(unpack(&mut region).is_none(), "{room} of {needed} bytes");
        }
        for at in 0..HEADER_BYTES {
            let mut region = packed.clone();
            region.resize(needed, 0);
            region[at] ^= 0x80;
            assert!(unpack(&mut region).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_section_that_ends_within_an_entry_is_left_as_far_as_it_goes() {
        let whole = call_frames();
        for len in 0..whole.len() {
            let mut section = whole[..len].to_vec();
            rewrite(&mut section, Form::Compressible);
            rewrite(&mut section, Form::Linked);
            assert_eq!(section, whole[..len]);
        }
    }
}
