//! Memory for requests: what a driver writes for the device to read, and reads after the device wrote it.

use alloc::sync::Arc;
use core::mem::ManuallyDrop;

use super::pci::Transport;
use super::ring::Segment;
use crate::bus::{BusError, DmaRegion};

/// A [`DmaRegion`] that is given back only once the device is stopped, and never if it does not stop.
pub(super) struct RequestMemory {
    region: ManuallyDrop<DmaRegion>,
    transport: Arc<Transport>,
}

impl RequestMemory {
    pub(super) fn new(transport: Arc<Transport>, len_bytes: usize) -> Result<Self, BusError> {
        const ALIGN: usize = 64;
        let region = ManuallyDrop::new(transport.device().dma_alloc(len_bytes, ALIGN)?);
        Ok(Self { region, transport })
    }

    /// Part of it, as a segment of a chain.
    pub(super) fn segment(&self, offset: usize, len_bytes: usize, device_writes: bool) -> Segment {
        self.check(offset, len_bytes);
        Segment { iova: self.region.iova() + offset as u64, len_bytes: len_bytes as u32, device_writes }
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: inside the region (`check`), which no Rust reference points into.
        unsafe {
            self.region
                .as_ptr()
                .add(offset)
                .copy_from_nonoverlapping(core::ptr::NonNull::from(bytes).cast(), bytes.len());
        }
    }

    /// Copies what is there now. The device may still be writing, if it is not what it should be.
    pub(super) fn read(&self, offset: usize, out: &mut [u8]) {
        self.check(offset, out.len());
        // SAFETY: as in `write`; every byte is initialised, since the platform gave it zeroed.
        unsafe {
            self.region
                .as_ptr()
                .add(offset)
                .copy_to_nonoverlapping(core::ptr::NonNull::from(&mut *out).cast(), out.len());
        }
    }

    /// Offsets come from our own layouts.
    fn check(&self, offset: usize, len_bytes: usize) {
        assert!(offset.checked_add(len_bytes).is_some_and(|end| end <= self.region.len_bytes()));
    }
}

impl Drop for RequestMemory {
    fn drop(&mut self) {
        if self.transport.stop() {
            // SAFETY: nothing uses the region after this.
            unsafe { ManuallyDrop::drop(&mut self.region) };
        }
    }
}
