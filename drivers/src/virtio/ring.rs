//! What the two virtqueue formats have in common: the driver's side of a ring, and the faults a device can
//! commit there.
//!
//! A ring hands *chains* of memory segments to the device together with a *token* of the caller, and gives
//! the token back when the device has used the chain. All that decides what is returned and reused is kept
//! in private memory (`Slots`); what the device can write is read once, checked against that, and used.

use alloc::boxed::Box;
use core::fmt;

use crate::bus::{BusError, Device};

/// Largest queue that this driver makes. Larger ones cost cache and gain nothing, and a packed ring needs a
/// bit of its 16-bit positions for the lap.
pub const MAX_QUEUE_SIZE: u16 = 1 << 14;

/// One piece of memory for the device, by the address the device sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub iova: u64,
    /// Its size.
    pub len_bytes: u32,
    /// Whether the device writes there; otherwise it reads.
    pub device_writes: bool,
}

/// The driver's side of one virtqueue.
///
/// Chains are pushed without the device noticing, then published together with [`Ring::publish`].
/// After a [`Fault`] nothing that the device says about this ring can be believed: stop using it.
pub trait Ring<T>: Send + Sized {
    /// Makes an empty queue of `size` descriptors, a power of two up to [`MAX_QUEUE_SIZE`], with interrupts off.
    /// `event_index` says whether `VIRTIO_F_EVENT_IDX` was negotiated, which it never is with packed rings.
    ///
    /// # Errors
    /// The platform has no memory.
    fn new(device: &dyn Device, size: u16, event_index: bool) -> Result<Self, BusError>;

    /// Addresses of the descriptor area, driver area and device area (VIRTIO 1.3 §2.6).
    fn areas(&self) -> [u64; 3];

    /// How many more segments fit.
    fn free(&self) -> u16;

    /// How many chains the device has.
    fn outstanding(&self) -> u16;

    /// Stages one chain, or gives the token back when it does not fit or has no segment.
    ///
    /// Segments that the device writes come last (VIRTIO 1.3 §2.7.4.2, §2.8.17).
    ///
    /// # Errors
    /// The token, when there are more segments than [`Ring::free`] or none.
    fn push(&mut self, token: T, segments: &[Segment]) -> Result<(), T>;

    /// Makes all staged chains visible to the device with one store. True when the device wants to be
    /// notified.
    #[must_use]
    fn publish(&mut self) -> bool;

    /// Takes back one used chain: its token and how many bytes the device wrote.
    ///
    /// # Errors
    /// A [`Fault`] of the device.
    fn pop(&mut self) -> Result<Option<(T, u32)>, Fault>;

    /// Asks for an interrupt at the next used chain. True when one is there already.
    #[must_use]
    fn arm(&mut self) -> bool;

    /// Asks for no interrupts.
    fn disarm(&mut self);
}

/// What a device did that no correct device does. The ring, and with it the device, is out of use then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// The used index ran ahead of what was made available.
    UsedIndexJump = 1,
    /// A used element names a descriptor beyond the queue.
    UsedIdOutOfRange,
    /// A used element names a chain that the device does not have (returned twice, or never given).
    UsedIdNotOutstanding,
    /// The device says that it wrote more than the chain holds.
    LengthBeyondBuffer,
    /// A packet claims to span no buffer, or more buffers than were used (VIRTIO 1.3 §5.1.6.4).
    BufferCount,
    /// A control command was answered neither OK nor ERR, or not at all.
    ControlCommand,
    /// A request was not completed in time.
    Timeout,
    /// The device set `DEVICE_NEEDS_RESET` (VIRTIO 1.3 §2.1.2).
    NeedsReset,
}

impl Fault {
    /// The fault of this number, as kept in an atomic.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::UsedIndexJump,
            2 => Self::UsedIdOutOfRange,
            3 => Self::UsedIdNotOutstanding,
            4 => Self::LengthBeyondBuffer,
            5 => Self::BufferCount,
            6 => Self::ControlCommand,
            7 => Self::Timeout,
            8 => Self::NeedsReset,
            _ => return None,
        })
    }

    /// What happened.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UsedIndexJump => "used index ran ahead of the available index",
            Self::UsedIdOutOfRange => "used descriptor id is beyond the queue",
            Self::UsedIdNotOutstanding => "used descriptor id is not in flight",
            Self::LengthBeyondBuffer => "used length is larger than the buffer",
            Self::BufferCount => "packet claims a wrong number of buffers",
            Self::ControlCommand => "control command was not answered",
            Self::Timeout => "request was not completed in time",
            Self::NeedsReset => "device asks to be reset",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl core::error::Error for Fault {}

/// A count or a position of 16 bits that a ring keeps, freely running.
///
/// It takes a word: of neighbouring fields of 16 bits the compiler makes wider loads, which wait for the
/// stores before them.
#[derive(Clone, Copy)]
pub(super) struct Counter(u64);

impl Counter {
    #[inline(always)]
    pub(super) fn new(value: u16) -> Self {
        Self(value.into())
    }

    #[inline(always)]
    pub(super) fn get(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub(super) fn add(&mut self, n: u16) {
        self.0 = self.0.wrapping_add(n.into());
    }

    #[inline(always)]
    pub(super) fn subtract(&mut self, n: u16) {
        self.0 = self.0.wrapping_sub(n.into());
    }
}

/// The driver's private record of one descriptor id.
struct Slot<T> {
    /// There while the device has the chain of this id.
    token: Option<T>,
    /// How much the device may write into the chain.
    writable_bytes: u32,
    /// How many descriptors the chain takes.
    descriptors: u16,
    /// The next free id, or the next of the same chain.
    next: u16,
}

const _: () = assert!(size_of::<Slot<core::ptr::NonNull<u8>>>() == 16);

/// All descriptor ids of a ring, free ones linked.
pub(super) struct Slots<T> {
    slots: Box<[Slot<T>]>,
    free_head: Counter,
    outstanding: Counter,
}

impl<T> Slots<T> {
    pub(super) fn new(size: u16) -> Self {
        let slot =
            |id: u16| Slot { token: None, writable_bytes: 0, descriptors: 0, next: id.wrapping_add(1) };
        Self {
            slots: (0..size).map(slot).collect(),
            free_head: Counter::new(0),
            outstanding: Counter::new(0),
        }
    }

    pub(super) fn outstanding(&self) -> u16 {
        self.outstanding.get()
    }

    /// Takes a free id. The caller has counted that there is one.
    #[inline(always)]
    pub(super) fn allocate(&mut self) -> u16 {
        let id = self.free_head.get();
        self.free_head = Counter::new(self.slots[usize::from(id)].next);
        id
    }

    /// Records that the device is about to get the chain of this id.
    #[inline(always)]
    pub(super) fn fill(&mut self, id: u16, token: T, segments: &[Segment]) {
        let slot = &mut self.slots[usize::from(id)];
        slot.writable_bytes = writable_bytes(segments);
        slot.descriptors = segments.len() as u16;
        // Taken from the free list, so there was no token.
        slot.token = Some(token);
        self.outstanding.add(1);
    }

    /// Checks what the device says it used: gives the id, the token and the chain's number of descriptors.
    #[inline(always)]
    pub(super) fn complete(&mut self, id: u32, written_bytes: u32) -> Result<(u16, T, u16), Fault> {
        let slot = self.slots.get_mut(id as usize).ok_or(Fault::UsedIdOutOfRange)?;
        // A chain that the device only reads has no length to lie about, and devices of old report one.
        if written_bytes > slot.writable_bytes && slot.writable_bytes != 0 {
            return Err(Fault::LengthBeyondBuffer);
        }
        let token = slot.token.take().ok_or(Fault::UsedIdNotOutstanding)?;
        self.outstanding.subtract(1);
        Ok((id as u16, token, slot.descriptors))
    }

    /// Frees `ids` ids that were allocated in a row, `first` first.
    #[inline(always)]
    pub(super) fn release(&mut self, first: u16, ids: u16) {
        let mut last = first;
        for _ in 1..ids {
            last = self.slots[usize::from(last)].next;
        }
        self.slots[usize::from(last)].next = self.free_head.get();
        self.free_head = Counter::new(first);
    }
}

/// How much a device may write into a chain. Sizes add up to far less than 4 GiB.
#[inline(always)]
fn writable_bytes(segments: &[Segment]) -> u32 {
    segments.iter().filter(|s| s.device_writes).fold(0, |sum, s| sum.saturating_add(s.len_bytes))
}

/// Whether `event` was crossed on the way from `old` to `new` (VIRTIO 1.3 §2.7.10.1).
#[inline(always)]
pub(super) fn crossed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
