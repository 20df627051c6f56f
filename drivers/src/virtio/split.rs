//! The split virtqueue (VIRTIO 1.3 §2.7): a descriptor table, a ring of what is available, a ring of what
//! was used.
//!
//! Indices run freely over 16 bits and are masked where they are used. The device learns of chains by a
//! release store of the available index, we learn of used ones by an acquire load of the used index.

use core::sync::atomic::{Ordering, fence};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::ring::{Counter, Fault, Ring, Segment, Slots, crossed};
use super::shared::SharedArray;
use crate::bus::{BusError, Device, DmaRegion};

/// VIRTIO 1.3 §2.7.5, little endian as the CPU.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Descriptor {
    iova: u64,
    len_bytes: u32,
    flags: u16,
    next: u16,
}

/// VIRTIO 1.3 §2.7.8.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct UsedElement {
    id: u32,
    written_bytes: u32,
}

const _: () = assert!(size_of::<Descriptor>() == 16);
const _: () = assert!(size_of::<UsedElement>() == 8);

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;

/// Items of the headers of both rings.
const FLAGS: u16 = 0;
const INDEX: u16 = 1;

/// Keeps what the device writes and what we write on cache lines of their own.
const LINE_BYTES: usize = 64;

/// The driver's side of a split virtqueue.
pub struct Split<T> {
    descriptors: SharedArray<Descriptor>,
    avail_header: SharedArray<u16>,
    avail_ring: SharedArray<u16>,
    used_event: SharedArray<u16>,
    used_header: SharedArray<u16>,
    used_ring: SharedArray<UsedElement>,
    avail_event: SharedArray<u16>,

    slots: Slots<T>,
    free: Counter,
    /// The available index, counting what is staged.
    avail_next: Counter,
    /// The available index that the device sees.
    avail_published: Counter,
    /// Used chains taken back.
    used_next: Counter,
    /// Used chains that the device has announced and we have not taken back.
    used_pending: Counter,
    event_index: bool,
    layout: Layout,
    region: DmaRegion,
}

/// Where the three parts of a queue of some size lie in one region, in bytes.
#[derive(Clone, Copy)]
struct Layout {
    avail: usize,
    used: usize,
    total: usize,
}

impl Layout {
    fn of(size: u16) -> Self {
        let size = usize::from(size);
        let avail = size * size_of::<Descriptor>();
        let used = (avail + 4 + 2 * size + 2).next_multiple_of(LINE_BYTES);
        Self { avail, used, total: used + 4 + 8 * size + 2 }
    }
}

impl<T: Send> Split<T> {
    /// Writes the descriptors of a chain and gives its head. There are enough free ones.
    #[inline(always)]
    fn write_chain(&mut self, segments: &[Segment]) -> u16 {
        let head = self.slots.allocate();
        let mut id = head;
        for (position, segment) in segments.iter().enumerate() {
            let more = position + 1 < segments.len();
            let next = if more { self.slots.allocate() } else { 0 };
            let write = if segment.device_writes { DESC_F_WRITE } else { 0 };
            let flags = write | if more { DESC_F_NEXT } else { 0 };
            let (iova, len_bytes) = (segment.iova, segment.len_bytes);
            self.descriptors.write(id, Descriptor { iova, len_bytes, flags, next });
            id = next;
        }
        head
    }

    /// Looks how far the device has come.
    #[inline(always)]
    fn refresh_pending(&mut self) -> Result<(), Fault> {
        let pending = self.used_header.load_acquire(INDEX).wrapping_sub(self.used_next.get());
        if pending > self.slots.outstanding() {
            return Err(Fault::UsedIndexJump);
        }
        self.used_pending = Counter::new(pending);
        Ok(())
    }
}

impl<T: Send> Ring<T> for Split<T> {
    fn new(device: &dyn Device, size: u16, event_index: bool) -> Result<Self, BusError> {
        let layout = Layout::of(size);
        let region = device.dma_alloc(layout.total, LINE_BYTES)?;
        // SAFETY: the views live in the struct that owns the region, and are used by nothing else.
        let mut ring = unsafe {
            Self {
                descriptors: SharedArray::new(&region, 0, size),
                avail_header: SharedArray::new(&region, layout.avail, 2),
                avail_ring: SharedArray::new(&region, layout.avail + 4, size),
                used_event: SharedArray::new(&region, layout.avail + 4 + 2 * usize::from(size), 1),
                used_header: SharedArray::new(&region, layout.used, 2),
                used_ring: SharedArray::new(&region, layout.used + 4, size),
                avail_event: SharedArray::new(&region, layout.used + 4 + 8 * usize::from(size), 1),
                slots: Slots::new(size),
                free: Counter::new(size),
                avail_next: Counter::new(0),
                avail_published: Counter::new(0),
                used_next: Counter::new(0),
                used_pending: Counter::new(0),
                event_index,
                layout,
                region,
            }
        };
        ring.disarm();
        Ok(ring)
    }

    fn areas(&self) -> [u64; 3] {
        let base = self.region.iova();
        [base, base + self.layout.avail as u64, base + self.layout.used as u64]
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
        let head = self.write_chain(segments);
        self.slots.fill(head, token, segments);
        self.free.subtract(segments.len() as u16);
        self.avail_ring.write(self.avail_next.get(), head);
        self.avail_next.add(1);
        Ok(())
    }

    #[inline(always)]
    fn publish(&mut self) -> bool {
        let (old, new) = (self.avail_published.get(), self.avail_next.get());
        if old == new {
            return false;
        }
        self.avail_published = self.avail_next;
        self.avail_header.store_release(INDEX, new);
        // StoreLoad: the device stores its wish to be notified and then looks at the available index; we
        // store the index and then look at its wish. Without the fence both could read the old value, and
        // the chains would lie there unnoticed (§2.7.13.4.1).
        fence(Ordering::SeqCst);
        if self.event_index {
            crossed(self.avail_event.read(0), new, old)
        } else {
            self.used_header.read(FLAGS) & USED_F_NO_NOTIFY == 0
        }
    }

    #[inline(always)]
    fn pop(&mut self) -> Result<Option<(T, u32)>, Fault> {
        if self.used_pending.get() == 0 {
            self.refresh_pending()?;
            if self.used_pending.get() == 0 {
                return Ok(None);
            }
        }
        let UsedElement { id, written_bytes } = self.used_ring.read(self.used_next.get());
        let (id, token, descriptors) = self.slots.complete(id, written_bytes)?;
        self.slots.release(id, descriptors);
        self.free.add(descriptors);
        self.used_next.add(1);
        self.used_pending.subtract(1);
        Ok(Some((token, written_bytes)))
    }

    fn arm(&mut self) -> bool {
        if self.event_index {
            self.used_event.write(0, self.used_next.get());
        } else {
            self.avail_header.write(FLAGS, 0);
        }
        // StoreLoad: as in `publish`, with the roles exchanged (§2.7.7).
        fence(Ordering::SeqCst);
        self.used_header.load_acquire(INDEX) != self.used_next.get()
    }

    fn disarm(&mut self) {
        if self.event_index {
            // §2.7.7.1 forbids the flag here. An event just behind us is crossed once in 65,536 chains.
            self.used_event.write(0, self.used_next.get().wrapping_sub(1));
        } else {
            self.avail_header.write(FLAGS, AVAIL_F_NO_INTERRUPT);
        }
    }
}
