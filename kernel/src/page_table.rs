//! Four-level page tables of an identity-mapped address space (Intel SDM volume 3A, section 4.5).
//!
//! Every address means the same to the CPU, to devices and to a debugger; what the tables add is what
//! may be written, what may be executed, what is a device's register, and which pages guard a stack.

use core::ops::Range;
use core::ptr::NonNull;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const HUGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// An absent entry that says why: the page below a stack.
const GUARD: u64 = 0x6a4d << 16;

const PAGE_BYTES: u64 = 4096;
const ENTRIES: u64 = 512;

/// What a range of addresses may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Memory to read and write.
    ReadWrite,
    /// Memory to read.
    ReadOnly,
    /// Code.
    Execute,
    /// Registers of a device: read, written, not cached.
    Device,
    /// The page below a stack: every access faults.
    Guard,
    /// Nothing: every access faults.
    Absent,
}

impl Access {
    /// The entry that maps `address` at a level whose entries carry `size_bit`.
    fn entry(self, address: u64, size_bit: u64) -> u64 {
        let flags = match self {
            Self::ReadWrite => PRESENT | WRITABLE | NO_EXECUTE,
            Self::ReadOnly => PRESENT | NO_EXECUTE,
            Self::Execute => PRESENT,
            Self::Device => PRESENT | WRITABLE | NO_EXECUTE | CACHE_DISABLE | WRITE_THROUGH,
            Self::Guard => return GUARD,
            Self::Absent => return 0,
        };
        address | flags | size_bit
    }

    /// What a leaf entry allows.
    fn of(entry: u64) -> Self {
        match entry {
            GUARD => Self::Guard,
            _ if entry & PRESENT == 0 => Self::Absent,
            _ if entry & CACHE_DISABLE != 0 => Self::Device,
            _ if entry & NO_EXECUTE == 0 => Self::Execute,
            _ if entry & WRITABLE != 0 => Self::ReadWrite,
            _ => Self::ReadOnly,
        }
    }
}

/// One table: 512 entries in a page of its own.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Table([u64; ENTRIES as usize]);

const _: () = assert!(size_of::<Table>() == PAGE_BYTES as usize);

impl Table {
    /// A table that maps nothing.
    pub const EMPTY: Self = Self([0; ENTRIES as usize]);
}

/// No memory for another table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfTables;

/// Page tables, and where more of them come from.
#[derive(Debug)]
pub struct PageTable<F> {
    root: NonNull<Table>,
    allocate: F,
    /// Whether the CPU has pages of 1 GiB.
    gigabyte_pages: bool,
}

// SAFETY: the tables are owned by this value alone; `root` is not tied to a thread.
unsafe impl<F: Send> Send for PageTable<F> {}

impl<F: FnMut() -> Option<NonNull<Table>>> PageTable<F> {
    /// Empty page tables. `allocate` gives memory for a table, which nothing else uses, which stays for
    /// ever, and whose physical address is its pointer; its content does not matter.
    ///
    /// # Errors
    /// `allocate` gives nothing.
    pub fn new(mut allocate: F, gigabyte_pages: bool) -> Result<Self, OutOfTables> {
        let root = new_table(&mut allocate, |_| 0)?;
        Ok(Self { root, allocate, gigabyte_pages })
    }

    /// The address for CR3.
    pub fn root(&self) -> u64 {
        self.root.as_ptr() as u64
    }

    /// Lets `range`, widened to whole pages, be used for `access` only, with the largest pages that fit.
    /// What was mapped before is replaced. The caller flushes the TLB where something was mapped before.
    ///
    /// # Errors
    /// `allocate` gives nothing for a table; a part of `range` may be set by then.
    pub fn set(&mut self, range: Range<u64>, access: Access) -> Result<(), OutOfTables> {
        let pages = range.start / PAGE_BYTES * PAGE_BYTES..range.end.next_multiple_of(PAGE_BYTES);
        self.set_in(self.root, 4, 0, &pages, access)
    }

    /// What `address` may be used for.
    pub fn access(&self, address: u64) -> Access {
        let mut table = self.root;
        for level in (1..=4).rev() {
            let index = (address / entry_bytes(level)) % ENTRIES;
            // SAFETY: `table` is the root or came from an entry that points to one of our tables.
            let entry = unsafe { table.as_ref() }.0[index as usize];
            match child(entry, level) {
                Some(next) => table = next,
                None => return Access::of(entry),
            }
        }
        Access::Absent
    }

    fn set_in(
        &mut self,
        mut table: NonNull<Table>,
        level: u32,
        base: u64,
        range: &Range<u64>,
        access: Access,
    ) -> Result<(), OutOfTables> {
        let bytes = entry_bytes(level);
        let size_bit = if level == 1 { 0 } else { HUGE };
        let first = range.start.saturating_sub(base) / bytes;
        let last = range.end.saturating_sub(base).div_ceil(bytes).min(ENTRIES);
        for index in first..last {
            let start = base + index * bytes;
            let end = start + bytes;
            // SAFETY: `table` is one of our tables, and `self` is borrowed mutably.
            let entry = unsafe { &mut table.as_mut().0[index as usize] };
            let whole = range.start <= start && end <= range.end;
            let leaf_allowed = level <= 2 || (level == 3 && self.gigabyte_pages);
            match child(*entry, level) {
                None if whole && leaf_allowed => *entry = access.entry(start, size_bit),
                Some(next) => self.set_in(next, level - 1, start, range, access)?,
                None => {
                    let next = self.split(*entry, level, start)?;
                    *entry = next.as_ptr() as u64 | PRESENT | WRITABLE;
                    self.set_in(next, level - 1, start, range, access)?;
                }
            }
        }
        Ok(())
    }

    /// A table that maps what the leaf `entry` of `level` mapped from `start` on.
    fn split(&mut self, entry: u64, level: u32, start: u64) -> Result<NonNull<Table>, OutOfTables> {
        let access = Access::of(entry);
        let bytes = entry_bytes(level - 1);
        let size_bit = if level == 2 { 0 } else { HUGE };
        new_table(&mut self.allocate, |index| access.entry(start + index * bytes, size_bit))
    }
}

/// Bytes that one entry of `level` covers; level 1 maps pages of 4 KiB.
fn entry_bytes(level: u32) -> u64 {
    PAGE_BYTES << (9 * (level - 1))
}

/// The table that a non-leaf entry points to.
fn child(entry: u64, level: u32) -> Option<NonNull<Table>> {
    if level == 1 || entry & PRESENT == 0 || entry & HUGE != 0 {
        return None;
    }
    NonNull::new((entry & ADDRESS) as *mut Table)
}

fn new_table(
    allocate: &mut impl FnMut() -> Option<NonNull<Table>>,
    entry: impl Fn(u64) -> u64,
) -> Result<NonNull<Table>, OutOfTables> {
    let table = allocate().ok_or(OutOfTables)?;
    // SAFETY: `allocate` gives memory for a table that nothing else uses (see `PageTable::new`).
    unsafe { table.write(Table(core::array::from_fn(|index| entry(index as u64)))) };
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn tables(
        gigabyte_pages: bool,
    ) -> (PageTable<impl FnMut() -> Option<NonNull<Table>>>, &'static std::cell::Cell<u32>) {
        let count: &std::cell::Cell<u32> = Box::leak(Box::default());
        let allocate = move || {
            count.set(count.get() + 1);
            Some(NonNull::from(Box::leak(Box::new(Table::EMPTY))))
        };
        (PageTable::new(allocate, gigabyte_pages).unwrap(), count)
    }

    #[test]
    fn uses_the_largest_pages() {
        let (mut table, count) = tables(true);
        table.set(0..4 * GIB, Access::ReadWrite).unwrap();
        assert_eq!(count.get(), 2);
        let (mut table, count) = tables(false);
        table.set(0..4 * GIB, Access::ReadWrite).unwrap();
        assert_eq!(count.get(), 2 + 4);
    }

    #[test]
    fn a_guard_page_splits_a_large_page_and_nothing_else_changes() {
        let (mut table, _) = tables(true);
        table.set(0..GIB, Access::ReadWrite).unwrap();
        table.set(5 * MIB..5 * MIB + 4096, Access::Guard).unwrap();
        assert_eq!(table.access(5 * MIB), Access::Guard);
        assert_eq!(table.access(5 * MIB + 4095), Access::Guard);
        assert_eq!(table.access(5 * MIB + 4096), Access::ReadWrite);
        assert_eq!(table.access(5 * MIB - 1), Access::ReadWrite);
        assert_eq!(table.access(GIB), Access::Absent);
    }

    #[test]
    fn runs_out_of_tables_without_harm() {
        let mut left = 1;
        let allocate = || {
            left -= 1;
            (left >= 0).then(|| NonNull::from(Box::leak(Box::new(Table::EMPTY))))
        };
        let mut table = PageTable::new(allocate, true).unwrap();
        assert_eq!(table.set(0..4096, Access::Execute), Err(OutOfTables));
        assert_eq!(table.access(0), Access::Absent);
    }

    fn access() -> impl Strategy<Value = Access> {
        prop::sample::select(vec![
            Access::ReadWrite,
            Access::ReadOnly,
            Access::Execute,
            Access::Device,
            Access::Guard,
            Access::Absent,
        ])
    }

    proptest! {
        #[test]
        fn agrees_with_a_map_of_pages(
            sets in prop::collection::vec((0u64..1536, 1u64..1100, access()), 1..12),
            gigabyte_pages: bool,
        ) {
            // Around the border of two gigabytes, where all three page sizes meet.
            let base = GIB - 3 * MIB;
            let (mut table, _) = tables(gigabyte_pages);
            let mut oracle = BTreeMap::new();
            for (first, pages, access) in sets {
                let start = base + first * 4096;
                table.set(start..start + pages * 4096, access).unwrap();
                oracle.extend((first..first + pages).map(|page| (page, access)));
            }
            for page in 0..2700 {
                let expected = oracle.get(&page).copied().unwrap_or(Access::Absent);
                prop_assert_eq!(table.access(base + page * 4096 + page % 4096), expected, "page {}", page);
            }
        }
    }
}
