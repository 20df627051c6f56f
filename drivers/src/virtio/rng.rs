//! The virtio entropy device (VIRTIO 1.3 §5.4).

use alloc::sync::Arc;

use super::memory::RequestMemory;
use super::pci::{NO_VECTOR, PATIENT, Transport};
use super::queue::Queue;
use super::split::Split;
use super::{Error, feature};
use crate::bus::Device;

/// Asked for at once. Seeds are small.
const REQUEST_BYTES: usize = 256;

/// A host short of entropy is slow, not broken; but nobody waits longer than that at boot.
const TIMEOUT_NS: u64 = 2_000_000_000;

/// A source of entropy. What it gives is the host's word: mix it with other sources.
pub struct EntropySource {
    queue: Queue<(), Split<()>>,
    memory: RequestMemory,
}

impl EntropySource {
    /// Opens the device. It does not interrupt.
    ///
    /// # Errors
    /// The device does not follow the specification; it is left reset.
    pub fn open(device: Arc<dyn Device>) -> Result<Self, Error> {
        const QUEUE_SIZE: u16 = 4;
        let transport = Arc::new(Transport::start(device, PATIENT, |_| feature::COMMON)?);
        let queue = transport.queue::<(), Split<()>>(0, QUEUE_SIZE, NO_VECTOR)?;
        let memory = RequestMemory::new(transport.clone(), REQUEST_BYTES)?;
        transport.driver_ok();
        Ok(Self { queue, memory })
    }

    /// Fills `out`. `clock` tells monotonic nanoseconds.
    ///
    /// # Errors
    /// The device gave nothing, or nothing in time: then it is out of use.
    pub fn fill(&mut self, out: &mut [u8], clock: &dyn Fn() -> u64) -> Result<(), Error> {
        let mut filled = 0;
        while filled < out.len() {
            let wanted = (out.len() - filled).min(REQUEST_BYTES);
            let chain = [self.memory.segment(0, wanted, true)];
            // §5.4.6.1: at least one byte, and the ring has checked that not more than wanted.
            let given = match self.queue.execute(&chain, clock, TIMEOUT_NS)? as usize {
                0 => return Err(Error::Io),
                given => given.min(wanted),
            };
            self.memory.read(0, &mut out[filled..filled + given]);
            filled += given;
        }
        // Nobody else needs to know them.
        self.memory.write(0, &[0; REQUEST_BYTES]);
        Ok(())
    }
}
