//! Frames on their way from the worker that routed them to one that has a transmit queue of their port.
//!
//! Where a card has fewer queue pairs than there are workers, some workers have none of it: they hand frames over. Each
//! pair of workers has a bounded ring of its own, with one producer and one consumer, so that the frames of a flow keep
//! their order. A ring holds boxed vectors: a worker owns [`BOXES`] of them, fills one for each worker that a node's vector
//! has frames for, and gets it back empty. Nobody waits: without an empty box or room in the ring the frames are
//! dropped.
//!
//! Only frames that are ready for the wire change workers. Spreading what a card with one queue pair receives over other
//! workers would not pay: another core's first look at a packet costs two or three cache misses between cores, more than
//! forwarding it costs at all.

use alloc::boxed::Box;
use alloc::vec::Vec;
use buffer::{Buf, Vector};
use core::sync::atomic::{AtomicU64, Ordering};
use crossbeam_queue::ArrayQueue;

/// Workers at most.
pub const MAX_WORKERS: usize = 64;
/// Vectors in a ring at most.
pub(crate) const RING_VECTORS: usize = 8;
/// Vectors that a worker has under way at most.
const BOXES: usize = 32;

const _: () = assert!(MAX_WORKERS <= u64::BITS as usize, "a worker is a bit of `Inbox::ready`");

/// What other workers hand to a worker.
pub(crate) struct Inbox {
    /// One bit for each worker in whose ring there is something.
    ready: AtomicU64,
    /// One for each worker, its own unused; none where there is one worker only.
    rings: Box<[ArrayQueue<Box<Vector>>]>,
    /// The worker's own boxes that are empty.
    empty: ArrayQueue<Box<Vector>>,
}

impl Inbox {
    /// For one of so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        let (rings, boxes) = if workers > 1 { (workers, BOXES) } else { (0, 0) };
        let empty = ArrayQueue::new(BOXES);
        for _ in 0..boxes {
            // There is room for all.
            let _ = empty.push(Box::default());
        }
        Self {
            ready: AtomicU64::new(0),
            rings: (0..rings).map(|_| ArrayQueue::new(RING_VECTORS)).collect(),
            empty,
        }
    }

    /// Puts a vector in the ring of the worker `from`. Err: it is full.
    pub(crate) fn push(&self, from: usize, vector: Box<Vector>) -> Result<(), Box<Vector>> {
        let Some(ring) = self.rings.get(from) else { return Err(vector) };
        ring.push(vector)?;
        let _ = self.ready.fetch_or(1 << from, Ordering::AcqRel);
        Ok(())
    }

    /// True if a ring may have something.
    #[inline(always)]
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) != 0
    }

    /// The workers whose rings have something, as bits; they are forgotten here.
    pub(crate) fn take_ready(&self) -> u64 {
        self.ready.swap(0, Ordering::AcqRel)
    }

    /// The oldest vector that the worker `from` handed over.
    pub(crate) fn pop(&self, from: usize) -> Option<Box<Vector>> {
        self.rings.get(from)?.pop()
    }

    /// An empty box of this worker.
    pub(crate) fn take_empty(&self) -> Option<Box<Vector>> {
        self.empty.pop()
    }

    /// Takes an empty box of this worker back.
    pub(crate) fn give_empty(&self, vector: Box<Vector>) {
        debug_assert!(vector.is_empty(), "a box comes back empty");
        // There is room for all that were made.
        let _ = self.empty.push(vector);
    }
}

/// What a node's vector has for other workers, sorted by them.
pub(crate) struct Outbox(Box<[Option<Box<Vector>>]>);

impl Outbox {
    /// Towards so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        let others = if workers > 1 { workers } else { 0 };
        Self((0..others).map(|_| None).collect::<Vec<_>>().into())
    }

    /// Adds a frame for the worker `to`, in a box of `own` if it is the first. Err: there is no box.
    pub(crate) fn add(&mut self, own: &Inbox, to: usize, frame: Buf) -> Result<(), Buf> {
        let Some(place) = self.0.get_mut(to) else { return Err(frame) };
        if place.is_none() {
            *place = own.take_empty();
        }
        match place {
            Some(vector) => vector.push(frame),
            None => Err(frame),
        }
    }

    /// Takes what was added for one worker after the other, with its number.
    pub(crate) fn take(&mut self) -> Option<(usize, Box<Vector>)> {
        self.0.iter_mut().enumerate().find_map(|(to, place)| Some((to, place.take()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buffer::BufferPool;

    #[test]
    fn boxes_go_around_and_bound_what_is_under_way() {
        let pool = BufferPool::from_heap(1000);
        let mut cache = pool.cache();
        let (own, other) = (Inbox::new(3), Inbox::new(3));
        let mut outbox = Outbox::new(3);
        let mut frame = || cache.allocate().expect("buffers are left");
        for round in 0..100 {
            for _ in 0..RING_VECTORS {
                assert!(outbox.add(&own, 2, frame()).is_ok() && outbox.add(&own, 2, frame()).is_ok());
                let (to, vector) = outbox.take().expect("something was added");
                assert_eq!((to, vector.len()), (2, 2));
                assert!(other.push(0, vector).is_ok());
                assert!(outbox.take().is_none());
            }
            assert!(outbox.add(&own, 2, frame()).is_ok());
            let (_, mut vector) = outbox.take().expect("something was added");
            vector = other.push(0, vector).expect_err("the ring is full");
            vector.clear();
            own.give_empty(vector);
            assert!(other.is_ready() && other.take_ready() == 1 && !other.is_ready(), "round {round}");
            while let Some(mut vector) = other.pop(0) {
                vector.clear();
                own.give_empty(vector);
            }
        }
        let boxes = core::iter::from_fn(|| own.take_empty()).count();
        assert_eq!(boxes, BOXES);
        assert!(outbox.add(&own, 1, frame()).is_err(), "no box is left");
    }

    #[test]
    fn a_single_worker_has_none() {
        let alone = Inbox::new(1);
        assert!(alone.take_empty().is_none() && alone.pop(0).is_none());
        assert!(Outbox::new(1).take().is_none());
    }
}
