//! SAs by SPI, and tunnels by number, in pages that successive snapshots share: replacing one SA among ten thousand copies
//! a page and the list of pages, whatever else there is.

use crate::Sa;
use crate::snapshot::TunnelRow;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Slots of a bucket, so that it is one cache line.
const SLOTS: usize = 4;
/// Buckets of a page.
const PAGE_BUCKETS: usize = 16;
/// Tunnels of a page.
const PAGE_TUNNELS: usize = 64;

/// SAs by SPI: a hash table of buckets, a line each. Where one is full, the next takes over.
#[derive(Clone, Default)]
pub(crate) struct SpiTable {
    /// A power of two of buckets, or none; the last page may be used in part.
    pages: Vec<Arc<[Bucket; PAGE_BUCKETS]>>,
    buckets: usize,
    len: usize,
}

#[repr(C, align(64))]
#[derive(Clone, Default)]
struct Bucket {
    /// Those in use come first.
    slots: [Slot; SLOTS],
}

#[derive(Clone, Default)]
struct Slot {
    spi: u32,
    sa: Option<Arc<Sa>>,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    fn free(&mut self) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.sa.is_none())
    }

    fn is_full(&self) -> bool {
        self.slots.iter().all(|slot| slot.sa.is_some())
    }
}

impl SpiTable {
    #[inline]
    fn start(&self, spi: u32) -> usize {
        // Fibonacci hashing: SPIs that follow each other spread.
        let hash = u64::from(spi).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        hash as usize & self.buckets.wrapping_sub(1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.buckets - 1)
    }

    #[inline]
    fn bucket(&self, at: usize) -> Option<&Bucket> {
        Some(&self.pages.get(at / PAGE_BUCKETS)?[at % PAGE_BUCKETS])
    }

    /// The bucket to be changed; its page is copied if a snapshot has it too.
    fn bucket_mut(&mut self, at: usize) -> &mut Bucket {
        &mut Arc::make_mut(&mut self.pages[at / PAGE_BUCKETS])[at % PAGE_BUCKETS]
    }

    /// The SA of an SPI that is meant.
    #[inline]
    pub(crate) fn find(&self, spi: u32, is_meant: impl Fn(&Sa) -> bool) -> Option<&Sa> {
        let mut at = self.start(spi);
        loop {
            for slot in &self.bucket(at)?.slots {
                let sa = slot.sa.as_deref()?;
                if slot.spi == spi && is_meant(sa) {
                    return Some(sa);
                }
            }
            at = self.after(at);
        }
    }

    #[inline]
    pub(crate) fn prefetch(&self, spi: u32) {
        if let Some(bucket) = self.bucket(self.start(spi)) {
            buffer::prefetch_read(bucket);
        }
    }

    /// Adds an SA, whose SPI others may have too.
    pub(crate) fn insert(&mut self, sa: Arc<Sa>) {
        // At most half full, so that a probe ends.
        if (self.len + 1) * 2 > self.buckets * SLOTS {
            self.grow();
        }
        self.len += 1;
        self.place(sa);
    }

    fn place(&mut self, sa: Arc<Sa>) {
        let spi = sa.parameters().spi;
        let mut at = self.start(spi);
        while self.bucket(at).is_some_and(Bucket::is_full) {
            at = self.after(at);
        }
        if let Some(slot) = self.bucket_mut(at).free() {
            *slot = Slot { spi, sa: Some(sa) };
        }
    }

    fn grow(&mut self) {
        let buckets = (self.buckets * 2).max(1);
        let pages = (0..buckets.div_ceil(PAGE_BUCKETS)).map(|_| Arc::default()).collect();
        let before = core::mem::replace(self, Self { pages, buckets, len: self.len });
        let all = before.pages.iter().flat_map(|page| page.iter()).flat_map(|bucket| &bucket.slots);
        for sa in all.filter_map(|slot| slot.sa.clone()) {
            self.place(sa);
        }
    }

    /// Takes an SA out.
    pub(crate) fn remove(&mut self, sa: &Sa) {
        if self.buckets == 0 {
            return;
        }
        let is_it = |slot: &Slot| slot.sa.as_deref().is_some_and(|other| core::ptr::eq(other, sa));
        let mut at = self.start(sa.parameters().spi);
        let place = loop {
            let Some(bucket) = self.bucket(at) else { return };
            match bucket.slots.iter().position(is_it) {
                Some(place) => break place,
                None if bucket.is_full() => at = self.after(at),
                None => return,
            }
        };
        let was_full = self.bucket(at).is_some_and(Bucket::is_full);
        let bucket = self.bucket_mut(at);
        bucket.slots[place..].rotate_left(1);
        bucket.slots[SLOTS - 1] = Slot::default();
        self.len -= 1;
        if was_full {
            self.close_gap(at);
        }
    }

    /// Places anew what comes behind a bucket that was full: a probe ends where there is room.
    fn close_gap(&mut self, gap: usize) {
        let mut at = self.after(gap);
        let mut moved = Vec::new();
        while at != gap {
            let is_last = !self.bucket(at).is_some_and(Bucket::is_full);
            let slots = core::mem::take(&mut self.bucket_mut(at).slots);
            moved.extend(slots.into_iter().filter_map(|slot| slot.sa));
            if is_last {
                break;
            }
            at = self.after(at);
        }
        moved.into_iter().for_each(|sa| self.place(sa));
    }
}

/// Tunnels by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct TunnelTable(Vec<Arc<[Option<TunnelRow>; PAGE_TUNNELS]>>);

impl TunnelTable {
    #[inline]
    pub(crate) fn row(&self, number: u32) -> Option<&TunnelRow> {
        self.place(number)?.as_ref()
    }

    #[inline]
    fn place(&self, number: u32) -> Option<&Option<TunnelRow>> {
        let number = number as usize;
        Some(&self.0.get(number / PAGE_TUNNELS)?[number % PAGE_TUNNELS])
    }

    #[inline]
    pub(crate) fn prefetch(&self, number: u32) {
        if let Some(place) = self.place(number) {
            buffer::prefetch_read(place);
        }
    }

    pub(crate) fn set(&mut self, number: u32, row: Option<TunnelRow>) {
        let (page, place) = (number as usize / PAGE_TUNNELS, number as usize % PAGE_TUNNELS);
        while self.0.len() <= page {
            self.0.push(Arc::new([const { None }; PAGE_TUNNELS]));
        }
        Arc::make_mut(&mut self.0[page])[place] = row;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Algorithm, Direction, Entropy, SaId, SaParameters};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn sa(id: u64, spi: u32) -> Arc<Sa> {
        let ends = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let algorithm = Algorithm::Aes128Gcm;
        let key = vec![7; algorithm.key_bytes()].into();
        let parameters = SaParameters::new(spi, Direction::Inbound, ends, algorithm, key);
        let entropy = Entropy { iv_base: 0, iv_key: [0; 16] };
        Arc::new(Sa::new(SaId(id), parameters, &entropy, 0).expect("a valid SA"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Against a map; an earlier copy stays what it was.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((any::<bool>(), 1u32..200), 1..300)) {
            let (mut table, mut model) = (SpiTable::default(), BTreeMap::new());
            let (mut copy, mut copied) = (SpiTable::default(), BTreeMap::new());
            for (number, (add, spi)) in steps.into_iter().enumerate() {
                if add && !model.contains_key(&spi) {
                    let sa = sa(number as u64, spi);
                    table.insert(sa.clone());
                    let _ = model.insert(spi, sa);
                } else if let Some(sa) = model.remove(&spi) {
                    table.remove(&sa);
                }
                if number == 100 {
                    (copy, copied) = (table.clone(), model.clone());
                }
            }
            prop_assert_eq!(table.len, model.len());
            for (table, model) in [(&table, &model), (&copy, &copied)] {
                for spi in 1..200 {
                    let found = table.find(spi, |_| true).map(Sa::id);
                    prop_assert_eq!(found, model.get(&spi).map(|sa| sa.id()));
                }
            }
        }

        /// Peers choose SPIs, and may choose the same.
        #[test]
        fn same_spis_are_told_apart(gone in prop::collection::btree_set(0u64..40, 0..40)) {
            let mut table = SpiTable::default();
            let sas: Vec<_> = (0..40).map(|id| sa(id, 9)).collect();
            sas.iter().for_each(|sa| table.insert(sa.clone()));
            gone.iter().for_each(|id| table.remove(&sas[*id as usize]));
            for id in 0..40 {
                let found = table.find(9, |sa| sa.id() == SaId(id));
                prop_assert_eq!(found.is_some(), !gone.contains(&id));
            }
        }
    }
}
