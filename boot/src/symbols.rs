//! The image's symbol table: which function an address lies in.
//!
//! `image.ld` reserves room for it; packing (module `pack`) fills it in after the link, when the
//! addresses are known. Little-endian, packed without gaps:
//!
//! ```text
//! "FLSYMTAB"            8 bytes
//! count                 u32
//! count times           u32 address of the function, u32 offset of its name from the first name
//! names                 u8 length, then that many bytes of UTF-8; functions may share one
//! ```
//!
//! The functions are in ascending order of address.

/// What a filled-in table begins with.
pub const MAGIC: &[u8; 8] = b"FLSYMTAB";

/// Longest name, in bytes; the end of a longer one is cut.
pub const NAME_BYTES: usize = 160;

const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 8;

/// A filled-in symbol table.
#[derive(Debug, Clone, Copy)]
pub struct Symbols<'a> {
    entries: &'a [u8],
    names: &'a [u8],
}

impl<'a> Symbols<'a> {
    /// The table in `bytes`; `None` if the image was not packed.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let count = bytes.strip_prefix(MAGIC)?.first_chunk().copied().map(u32::from_le_bytes)?;
        let entries_len = usize::try_from(count).ok()?.checked_mul(ENTRY_BYTES)?;
        let (entries, names) = bytes.get(HEADER_BYTES..)?.split_at_checked(entries_len)?;
        Some(Self { entries, names })
    }

    /// The function that begins at or last before `address`, and how many bytes before.
    pub fn lookup(&self, address: u64) -> Option<(&'a str, u64)> {
        let (mut low, mut high) = (0, self.entries.len() / ENTRY_BYTES);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.word(middle, 0)? <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let index = low.checked_sub(1)?;
        let name = usize::try_from(self.word(index, 4)?).ok()?;
        let (&len, text) = self.names.get(name..)?.split_first()?;
        let name = core::str::from_utf8(text.get(..usize::from(len))?).ok()?;
        Some((name, address - self.word(index, 0)?))
    }

    /// The 32-bit number at `offset` of an entry.
    fn word(&self, index: usize, offset: usize) -> Option<u64> {
        let bytes = self.entries.get(index * ENTRY_BYTES + offset..)?.first_chunk()?;
        Some(u64::from(u32::from_le_bytes(*bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> std::vec::Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for word in [2u32, 0x1000, 0, 0x2000, 4] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"\x03one\x03two");
        bytes
    }

    #[test]
    fn finds_the_function_around_an_address() {
        let table = table();
        let symbols = Symbols::new(&table).unwrap();
        assert_eq!(symbols.lookup(0xfff), None);
        assert_eq!(symbols.lookup(0x1000), Some(("one", 0)));
        assert_eq!(symbols.lookup(0x1fff), Some(("one", 0xfff)));
        assert_eq!(symbols.lookup(0x2004), Some(("two", 4)));
    }

    #[test]
    fn an_unfilled_or_cut_table_is_none() {
        assert!(Symbols::new(&[0; 64]).is_none());
        let table = table();
        for len in 0..28 {
            assert!(Symbols::new(&table[..len]).is_none());
        }
        for len in 28..table.len() {
            assert_eq!(Symbols::new(&table[..len]).unwrap().lookup(0x2000), None);
        }
    }
}
