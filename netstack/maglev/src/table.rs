//! The table: a backend's number for every slot.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use siphasher::sip::SipHasher24;

use crate::fill::{Filling, Order};
use crate::seed::{Purpose, Seed};
use crate::size::TableSize;
use crate::turns::Turns;

/// A backend as far as a table needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend<'a> {
    /// What it is called on every node, for as long as it lives, and nothing else is.
    pub name: &'a [u8],
    /// Its share in proportion to the other weights; 0 for none.
    pub weight: u32,
}

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The size is not a prime from 3 to [`TableSize::MAX`].
    Size {
        /// The size asked for.
        slots: u32,
    },
    /// No backend has a weight above 0.
    NoBackend,
    /// There are more backends than slots.
    TooManyBackends {
        /// Number of backends.
        backends: usize,
        /// Number of slots.
        slots: u32,
    },
    /// Two backends have one name.
    SameName {
        /// Index of one.
        first: usize,
        /// Index of the other.
        second: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Size { slots } => {
                write!(f, "a table of {slots} slots: give a prime from 3 to {}", TableSize::MAX.slots())
            }
            Error::NoBackend => f.write_str("no backend has a weight above 0"),
            Error::TooManyBackends { backends, slots } => {
                write!(f, "{backends} backends do not fit into {slots} slots")
            }
            Error::SameName { first, second } => {
                write!(f, "backends {first} and {second} have the same name")
            }
        }
    }
}

impl core::error::Error for Error {}

/// A lookup table: for every slot the index of a backend in the slice that the table was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(Entries);

/// Two bytes a slot where indexes fit: the default table has 128 KiB, and a second-level cache holds several.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entries {
    Short(Box<[u16]>),
    Long(Box<[u32]>),
}

impl Table {
    /// Builds the table. The same names, weights, size and seed give each slot to the same name, whatever the order of
    /// `backends`. Costs about `slots * ln(slots)` steps and, besides the table, a bit a slot and 16 bytes a backend.
    ///
    /// # Errors
    /// [`Error::NoBackend`], [`Error::TooManyBackends`], [`Error::SameName`].
    pub fn build(size: TableSize, seed: &Seed, backends: &[Backend<'_>]) -> Result<Table, Error> {
        let mut building = Building::new(size, seed, backends)?;
        while !building.advance(u32::MAX) {}
        Ok(building.finish())
    }

    /// Index of the backend for a flow's hash.
    #[inline]
    pub fn backend(&self, hash: u64) -> u32 {
        self.at(self.slot(hash))
    }

    /// The slot of a flow's hash: all slots are equally likely, to 2^-44.
    #[inline]
    pub fn slot(&self, hash: u64) -> u32 {
        ((u128::from(hash) * u128::from(self.slots())) >> 64) as u32
    }

    /// Index of the backend that has `slot`; 0 for a slot beyond the table.
    #[inline]
    pub fn at(&self, slot: u32) -> u32 {
        match &self.0 {
            Entries::Short(entries) => entries.get(slot as usize).map_or(0, |backend| u32::from(*backend)),
            Entries::Long(entries) => entries.get(slot as usize).copied().unwrap_or(0),
        }
    }

    /// Asks for the cache line that [`Table::at`] will read for `slot`.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        match &self.0 {
            Entries::Short(entries) => entries.get(slot as usize).map_or((), buffer::prefetch_read),
            Entries::Long(entries) => entries.get(slot as usize).map_or((), buffer::prefetch_read),
        }
    }

    /// Number of slots.
    #[inline]
    pub fn slots(&self) -> u32 {
        match &self.0 {
            Entries::Short(entries) => entries.len() as u32,
            Entries::Long(entries) => entries.len() as u32,
        }
    }

    /// The backends' indexes, slot by slot.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.slots()).map(|slot| self.at(slot))
    }

    /// Memory of the entries.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Entries::Short(entries) => size_of_val(&**entries),
            Entries::Long(entries) => size_of_val(&**entries),
        }
    }
}

/// A table on its way, for who has something better to do now and then.
pub struct Building {
    table: Table,
    /// Indexes of the backends in the order of their names.
    by_name: Vec<u32>,
    filling: Filling,
}

impl Building {
    /// Begins the table that [`Table::build`] builds at once.
    ///
    /// # Errors
    /// As there.
    pub fn new(size: TableSize, seed: &Seed, backends: &[Backend<'_>]) -> Result<Self, Error> {
        let slots = size.slots();
        if backends.len() > slots as usize {
            return Err(Error::TooManyBackends { backends: backends.len(), slots });
        }
        if backends.iter().all(|backend| backend.weight == 0) {
            return Err(Error::NoBackend);
        }
        let by_name = sorted_by_name(backends)?;
        let sorted = || by_name.iter().map(|index| &backends[*index as usize]);
        let offsets = SipHasher24::new_with_key(&seed.key(Purpose::Offset));
        let skips = SipHasher24::new_with_key(&seed.key(Purpose::Skip));
        let orders = sorted().map(|b| Order::new(offsets.hash(b.name), skips.hash(b.name), size)).collect();
        let turns = Turns::new(sorted().map(|backend| backend.weight));
        let entries = match backends.len() <= 1 << 16 {
            true => Entries::Short(vec![0; slots as usize].into()),
            false => Entries::Long(vec![0; slots as usize].into()),
        };
        Ok(Self { filling: Filling::new(size, orders, turns), table: Table(entries), by_name })
    }

    /// Works for about `probes` looks at a slot, of which the table needs about `slots * ln(slots)`. True when it is done.
    pub fn advance(&mut self, probes: u32) -> bool {
        let Self { table, by_name, filling } = self;
        match &mut table.0 {
            Entries::Short(entries) => filling.advance(probes, |slot, rank| {
                entries[slot as usize] = by_name[rank as usize] as u16;
            }),
            Entries::Long(entries) => filling.advance(probes, |slot, rank| {
                entries[slot as usize] = by_name[rank as usize];
            }),
        }
    }

    /// The table, once [`Building::advance`] has said that it is done.
    pub fn finish(self) -> Table {
        self.table
    }
}

/// Indexes of the backends in the order of their names.
fn sorted_by_name(backends: &[Backend<'_>]) -> Result<Vec<u32>, Error> {
    let name = |index: u32| backends[index as usize].name;
    let mut sorted: Vec<u32> = (0..backends.len() as u32).collect();
    sorted.sort_unstable_by_key(|index| name(*index));
    match sorted.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
        Some(pair) => Err(Error::SameName {
            first: pair[0].min(pair[1]) as usize,
            second: pair[0].max(pair[1]) as usize,
        }),
        None => Ok(sorted),
    }
}
