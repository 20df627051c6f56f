//! The packed virtqueue (VIRTIO 1.3 §2.8): one ring of descriptors that both sides write, told apart by two
//! flag bits and the parity of the lap.
//!
//! Without event indices, see `Transport::start`: notifications and interrupts are wanted or not.
//!
//! A burst is published by its first descriptor alone: the device reads the ring in order, so it finds the
//! rest only after that one became available. Positions run freely over 16 bits; a lap's parity is the bit
//! above the position.

use core::sync::atomic::{Ordering, fence};

use super::ring::{Counter, Fault, MAX_QUEUE_SIZE, Ring, Segment, Slots};
use super::shared::SharedArray;
use crate::bus::{BusError, Device, DmaRegion};

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_AVAIL: u16 = 1 << 7;
const DESC_F_USED: u16 = 1 << 15;

/// Event suppression (§2.8.10): the flags are the second half of a structure of which the first, a position,
/// means something only with `VIRTIO_F_EVENT_IDX`.
const EVENT_FLAGS_AT: usize = 2;
const EVENT_F_ENABLE: u16 = 0;
const EVENT_F_DISABLE: u16 = 1;

/// A descriptor (§2.8.13) is two words: the address, and length, id and flags in one, which is therefore
/// read and written in one piece.
const WORDS: u16 = 2;
const DESCRIPTOR_BYTES: usize = 16;
const _: () = assert!(MAX_QUEUE_SIZE <= u16::MAX / WORDS / 2 + 1);
const LINE_BYTES: usize = 64;

fn tail_word(len_bytes: u32, id: u16, flags: u16) -> u64 {
    u64::from(len_bytes) | u64::from(id) << 32 | u64::from(flags) << 48
}

/// The driver's side of a packed virtqueue.
pub struct Packed<T> {
    words: SharedArray<u64>,
    driver_event: SharedArray<u16>,
    device_event: SharedArray<u16>,

    slots: Slots<T>,
    size: u16,
    free: Counter,
    /// Position of the next descriptor, counting what is staged.
    avail_next: Counter,
    /// Position up to which the device may read.
    avail_published: Counter,
    /// What makes the staged burst available when written at `avail_published`.
    first_word: u64,
    /// Position of the next used descriptor.
    used_next: Counter,
    region: DmaRegion,
}

impl<T: Send> Packed<T> {
    /// The wrap counter (§2.8.1) on the lap of a position.
    #[inline(always)]
    fn wrap(&self, position: u16) -> bool {
        position & self.size == 0
    }

    #[inline(always)]
    fn write_descriptor(&mut self, segment: &Segment, id: u16, more: bool) {
        let position = self.avail_next.get();
        let lap = if self.wrap(position) { DESC_F_AVAIL } else { DESC_F_USED };
        let write = if segment.device_writes { DESC_F_WRITE } else { 0 };
        let flags = lap | write | if more { DESC_F_NEXT } else { 0 };
        let word = tail_word(segment.len_bytes, id, flags);
        self.words.write(position.wrapping_mul(WORDS), segment.iova);
        if position == self.avail_published.get() {
            self.first_word = word;
        } else {
            self.words.write(position.wrapping_mul(WORDS) + 1, word);
        }
        self.avail_next.add(1);
    }

    /// The descriptor at `used_next`, once the device has used it: id and length.
    #[inline(always)]
    fn used(&self) -> Option<(u16, u32)> {
        let position = self.used_next.get();
        let word = self.words.load_acquire(position.wrapping_mul(WORDS) + 1);
        let flags = (word >> 48) as u16;
        let (avail, used) = (flags & DESC_F_AVAIL != 0, flags & DESC_F_USED != 0);
        let wrap = self.wrap(position);
        (avail == wrap && used == wrap).then_some(((word >> 32) as u16, word as u32))
    }
}

impl<T: Send> Ring<T> for Packed<T> {
    fn new(device: &dyn Device, size: u16, _event_index: bool) -> Result<Self, BusError> {
        let ring_bytes = (usize::from(size) * DESCRIPTOR_BYTES).next_multiple_of(LINE_BYTES);
        let region = device.dma_alloc(ring_bytes + 2 * LINE_BYTES, LINE_BYTES)?;
        // SAFETY: the views live in the struct that owns the region, and are used by nothing else.
        let mut ring = unsafe {
            Self {
                words: SharedArray::new(&region, 0, WORDS * size),
                driver_event: SharedArray::new(&region, ring_bytes + EVENT_FLAGS_AT, 1),
                device_event: SharedArray::new(&region, ring_bytes + LINE_BYTES + EVENT_FLAGS_AT, 1),
                slots: Slots::new(size),
                size,
                free: Counter::new(size),
                avail_next: Counter::new(0),
                avail_published: Counter::new(0),
                first_word: 0,
                used_next: Counter::new(0),
                region,
            }
        };
        ring.disarm();
        Ok(ring)
    }

    fn areas(&self) -> [u64; 3] {
        let base = self.region.iova();
        let driver = base + (self.region.len_bytes() - 2 * LINE_BYTES) as u64;
        [base, driver, driver + LINE_BYTES as u64]
    }

    fn free(&self) -> u16 {
        self.free.get()
    }

    fn outstanding(&self) -> u16 {
        self.slots.outstanding()
    }

    #[inline(always)]
    fn push(&mut self, token: T, segments: &[Segment]) -> Result<(), T> {
        if segments.is_empty() || segments.len() > usize::from(self.free.get()) {
            return Err(token);
        }
        let id = self.slots.allocate();
        for (position, segment) in segments.iter().enumerate() {
            self.write_descriptor(segment, id, position + 1 < segments.len());
        }
        self.slots.fill(id, token, segments);
        self.free.subtract(segments.len() as u16);
        Ok(())
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        let (old, new) = (self.avail_published.get(), self.avail_next.get());
        if old == new {
            return false;
        }
        self.words.store_release(old.wrapping_mul(WORDS) + 1, self.first_word);
        self.avail_published = self.avail_next;
        // StoreLoad: the device stores its wish to be notified and then looks for descriptors; we store the
        // descriptor and then look at its wish. Without the fence both could read the old value (§2.8.21.3.1).
        fence(Ordering::SeqCst);
        self.device_event.read(0) != EVENT_F_DISABLE
    }

    #[inline(always)]
    fn pop(&mut self) -> Result<Option<(T, u32)>, Fault> {
        let Some((id, written_bytes)) = self.used() else { return Ok(None) };
        let (id, token, descriptors) = self.slots.complete(u32::from(id), written_bytes)?;
        self.slots.release(id, 1);
        self.free.add(descriptors);
        self.used_next.add(descriptors);
        Ok(Some((token, written_bytes)))
    }

    fn arm(&mut self) -> bool {
        self.driver_event.write(0, EVENT_F_ENABLE);
        // StoreLoad: as in `publish`, with the roles exchanged.
        fence(Ordering::SeqCst);
        self.used().is_some()
    }

    fn disarm(&mut self) {
        self.driver_event.write(0, EVENT_F_DISABLE);
    }
}
