//! How the rings of a card that was reset get from control, who sets them up, to the worker who polls them, and how the
//! old ones get back: memory is given back by control, never by a worker.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, Ordering};

use buffer::Buf;
use spin::mutex::SpinMutex;

use crate::bus::Interrupt;
use crate::virtio::queue::Queue;
use crate::virtio::ring::Ring;

/// What a worker polls of a card: a queue pair, and its interrupt where it has one.
pub(super) struct Rings<R: Ring<Buf>> {
    pub(super) rx: Queue<Buf, R>,
    pub(super) tx: Queue<Buf, R>,
    pub(super) interrupt: Option<Box<dyn Interrupt>>,
}

/// The place where rings change hands. Whose turn it is, the state says; the lock is never waited for.
pub(super) struct Exchange<R: Ring<Buf>> {
    state: AtomicU8,
    rings: SpinMutex<Option<Rings<R>>>,
}

mod state {
    /// The worker has the only rings.
    pub const EMPTY: u8 = 0;
    /// Control has put fresh rings here.
    pub const FRESH: u8 = 1;
    /// The worker has taken them and left its old ones.
    pub const RETURNED: u8 = 2;
    /// There will be no others.
    pub const CLOSED: u8 = 3;
}

impl<R: Ring<Buf>> Exchange<R> {
    pub(super) fn new() -> Self {
        Self { state: AtomicU8::new(state::EMPTY), rings: SpinMutex::new(None) }
    }

    /// The worker's: gives `rings` for fresh ones, if there are any. True: done.
    pub(super) fn swap(&self, rings: &mut Rings<R>) -> bool {
        if self.state.load(Ordering::Acquire) != state::FRESH {
            return false;
        }
        match self.rings.lock().as_mut() {
            Some(fresh) => core::mem::swap(fresh, rings),
            None => return false,
        }
        self.state.store(state::RETURNED, Ordering::Release);
        true
    }

    /// The worker's: whether other rings may still come.
    pub(super) fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) != state::CLOSED
    }

    /// Control's: puts rings there for the worker, which has taken all that were there before.
    pub(super) fn offer(&self, rings: Rings<R>) {
        *self.rings.lock() = Some(rings);
        self.state.store(state::FRESH, Ordering::Release);
    }

    /// Control's: whether the worker has taken what was offered.
    pub(super) fn is_taken(&self) -> bool {
        self.state.load(Ordering::Acquire) == state::RETURNED
    }

    /// Control's: takes the old rings back once [`Exchange::is_taken`].
    pub(super) fn take_back(&self) -> Option<Rings<R>> {
        let rings = self.rings.lock().take();
        self.state.store(state::EMPTY, Ordering::Release);
        rings
    }

    /// Control's: there will be no others.
    pub(super) fn close(&self) {
        self.state.store(state::CLOSED, Ordering::Relaxed);
    }
}
