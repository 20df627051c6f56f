//! The image's symbol table: which function an address lies in.
//!
//! It is made after the link (module `pack`), when the addresses are known. Little-endian, packed without gaps:
//!
//! ```text
//! count                 u32
//! count times           u32 bytes from the start of the function before, u32 offset of the name from the first name
//! names                 u8 length, then that many bytes of UTF-8; functions may share one
//! ```
//!
//! The functions are in ascending order of address; the first one's distance is its address.

/// Longest name, in bytes; the end of a longer one is cut.
pub const NAME_BYTES: usize = 160;

const COUNT_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;

/// A symbol table.
#[derive(Debug, Clone, Copy)]
pub struct Symbols<'a> {
    entries: &'a [u8],
    names: &'a [u8],
}

impl<'a> Symbols<'a> {
    /// The table in `bytes`; `None` if it is cut short.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<COUNT_BYTES>()?;
        let entries_len = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(ENTRY_BYTES)?;
        let (entries, names) = rest.split_at_checked(entries_len)?;
        Some(Self { entries, names })
    }

    /// The function that begins at or last before `address`, and how many bytes before.
    pub fn lookup(&self, address: u64) -> Option<(&'a str, u64)> {
        let mut left = address;
        let mut found = None;
        for entry in self.entries.chunks_exact(ENTRY_BYTES) {
            let (distance, name) = entry.split_first_chunk()?;
            match left.checked_sub(u64::from(u32::from_le_bytes(*distance))) {
                Some(less) => (left, found) = (less, Some(name)),
                None => break,
            }
        }
        let name = u32::from_le_bytes(found?.try_into().ok()?);
        let (&len, text) = self.names.get(usize::try_from(name).ok()?..)?.split_first()?;
        Some((core::str::from_utf8(text.get(..usize::from(len))?).ok()?, left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> std::vec::Vec<u8> {
        let mut bytes = std::vec::Vec::new();
        for word in [2u32, 0x1000, 0, 0x1000, 4] {
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
    fn a_cut_table_has_no_names() {
        let table = table();
        for len in 0..20 {
            assert!(Symbols::new(&table[..len]).is_none());
        }
        for len in 20..table.len() {
            assert_eq!(Symbols::new(&table[..len]).unwrap().lookup(0x2000), None);
        }
    }
}
