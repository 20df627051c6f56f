//! Typed access to memory that a device reads and writes while we do.
//!
//! No Rust reference is ever formed into such memory. An index is masked, so that any index, from whatever
//! source, stays inside.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::bus::DmaRegion;

/// A power-of-two array inside a [`DmaRegion`].
pub(super) struct SharedArray<T> {
    first: NonNull<T>,
    mask: u16,
}

// SAFETY: it is a view of a `DmaRegion`, which is `Send`; whoever owns the view owns the region (`new`).
unsafe impl<T: Send> Send for SharedArray<T> {}

impl<T: FromBytes + IntoBytes + Immutable> SharedArray<T> {
    /// Views `len` items from `offset_bytes` on.
    ///
    /// # Panics
    /// If they do not lie inside the region, aligned, or `len` is not a power of two: a mistake in a layout,
    /// never something that a device says.
    ///
    /// # Safety
    /// The view must not be used after the region is gone.
    pub(super) unsafe fn new(region: &DmaRegion, offset_bytes: usize, len: u16) -> Self {
        let end = offset_bytes + usize::from(len) * size_of::<T>();
        assert!(len.is_power_of_two() && end <= region.len_bytes());
        // SAFETY: `offset_bytes` is inside the region, as just checked.
        let first = unsafe { region.as_ptr().add(offset_bytes) }.cast::<T>();
        assert!(first.is_aligned());
        Self { first, mask: len - 1 }
    }

    #[inline(always)]
    fn item(&self, index: u16) -> *mut T {
        // SAFETY: a masked index is below the length that `new` checked.
        unsafe { self.first.add(usize::from(index & self.mask)) }.as_ptr()
    }

    /// Reads one item, once.
    #[inline(always)]
    pub(super) fn read(&self, index: u16) -> T {
        // SAFETY: in bounds and aligned (`item`, `new`), alive (`new`), and any bytes are a `T`.
        unsafe { self.item(index).read_volatile() }
    }

    /// Writes one item.
    #[inline(always)]
    pub(super) fn write(&self, index: u16, value: T) {
        // SAFETY: as in `read`; nobody but the device holds a pointer to it.
        unsafe { self.item(index).write_volatile(value) }
    }
}

impl SharedArray<u16> {
    /// Reads what the device published; everything it wrote before is visible afterwards.
    #[inline(always)]
    pub(super) fn load_acquire(&self, index: u16) -> u16 {
        // SAFETY: as in `read`. The device writes it in one piece.
        unsafe { AtomicU16::from_ptr(self.item(index)) }.load(Ordering::Acquire)
    }

    /// Publishes to the device all that was written before.
    #[inline(always)]
    pub(super) fn store_release(&self, index: u16, value: u16) {
        // SAFETY: as in `write`. The device reads it in one piece.
        unsafe { AtomicU16::from_ptr(self.item(index)) }.store(value, Ordering::Release);
    }
}

impl SharedArray<u64> {
    /// As [`SharedArray::<u16>::load_acquire`], of 64 bits.
    #[inline(always)]
    pub(super) fn load_acquire(&self, index: u16) -> u64 {
        // SAFETY: as in `read`. The device writes the part that says "used" last.
        unsafe { AtomicU64::from_ptr(self.item(index)) }.load(Ordering::Acquire)
    }

    /// As [`SharedArray::<u16>::store_release`], of 64 bits.
    #[inline(always)]
    pub(super) fn store_release(&self, index: u16, value: u64) {
        // SAFETY: as in `write`.
        unsafe { AtomicU64::from_ptr(self.item(index)) }.store(value, Ordering::Release);
    }
}
