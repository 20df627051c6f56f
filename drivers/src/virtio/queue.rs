//! A virtqueue that is live on a device: a ring, its doorbell, and the promise that the device is stopped
//! before the ring's memory is given back.

use alloc::sync::Arc;
use core::mem::ManuallyDrop;

use super::Error;
use super::pci::{Doorbell, Transport};
use super::ring::{Fault, Ring, Segment};

/// One live virtqueue. Dropping any queue of a device stops the device.
pub(super) struct Queue<T, R: Ring<T>> {
    ring: ManuallyDrop<R>,
    doorbell: Doorbell,
    transport: Arc<Transport>,
    /// A fault was committed here: the ring is not looked at any more.
    broken: bool,
    _token: core::marker::PhantomData<T>,
}

impl<T, R: Ring<T>> Queue<T, R> {
    pub(super) fn new(ring: R, doorbell: Doorbell, transport: Arc<Transport>) -> Self {
        let ring = ManuallyDrop::new(ring);
        Self { ring, doorbell, transport, broken: false, _token: core::marker::PhantomData }
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(super) fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// Whether the device committed a fault, here or elsewhere.
    #[inline(always)]
    pub(super) fn is_broken(&self) -> bool {
        self.broken || self.transport.fault().is_some()
    }

    /// Takes the queue out of use for good.
    #[cold]
    pub(super) fn fail(&mut self, fault: Fault) {
        self.broken = true;
        self.transport.report(fault);
    }

    /// How many more segments fit.
    #[inline(always)]
    pub(super) fn free(&self) -> u16 {
        self.ring.free()
    }

    #[inline(always)]
    pub(super) fn outstanding(&self) -> u16 {
        self.ring.outstanding()
    }

    /// Stages a chain, or gives the token back when it does not fit.
    #[inline(always)]
    pub(super) fn push(&mut self, token: T, segments: &[Segment]) -> Result<(), T> {
        self.ring.push(token, segments)
    }

    /// Publishes what is staged and rings the bell if the device wants it rung.
    #[inline(always)]
    pub(super) fn publish(&mut self) {
        if self.ring.publish() {
            self.doorbell.ring();
        }
    }

    /// Takes back one used chain. None for ever once the queue is broken.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<(T, u32)> {
        if self.broken {
            return None;
        }
        match self.ring.pop() {
            Ok(used) => used,
            Err(fault) => {
                self.fail(fault);
                None
            }
        }
    }

    /// Asks for an interrupt at the next used chain. True when one is there already.
    pub(super) fn arm(&mut self) -> bool {
        self.ring.arm()
    }

    pub(super) fn disarm(&mut self) {
        self.ring.disarm();
    }
}

impl<R: Ring<()>> Queue<(), R> {
    /// Gives the device one chain, waits until it has used it, and returns how many bytes it wrote.
    ///
    /// A device that has not answered after `timeout_ns` may still do, at any time: it is out of use then.
    pub(super) fn execute(
        &mut self,
        chain: &[Segment],
        clock: &dyn Fn() -> u64,
        timeout_ns: u64,
    ) -> Result<u32, Error> {
        const SPINS: usize = 256;
        if let Some(fault) = self.transport.fault() {
            return Err(Error::Broken(fault));
        }
        self.push((), chain).map_err(|()| Error::Config("queue is too small for a request"))?;
        self.publish();
        let deadline_ns = clock().saturating_add(timeout_ns);
        loop {
            for _ in 0..SPINS {
                if let Some(((), written)) = self.pop() {
                    return Ok(written);
                }
                core::hint::spin_loop();
            }
            self.transport.check_status();
            if clock() >= deadline_ns {
                self.fail(Fault::Timeout);
            }
            if let Some(fault) = self.transport.fault() {
                let _ = self.transport.stop();
                return Err(Error::Broken(fault));
            }
        }
    }
}

impl<T, R: Ring<T>> Drop for Queue<T, R> {
    fn drop(&mut self) {
        // A device that does not stop keeps its memory: better lost than written to in other hands.
        if self.transport.stop() {
            // SAFETY: nothing uses the ring after this.
            unsafe { ManuallyDrop::drop(&mut self.ring) };
        }
    }
}
