//! The control virtqueue (VIRTIO 1.3 §5.1.6.5): commands at start-up, one at a time.

use alloc::sync::Arc;

use crate::virtio::Error;
use crate::virtio::memory::RequestMemory;
use crate::virtio::pci::Transport;
use crate::virtio::queue::Queue;
use crate::virtio::ring::{Fault, Ring};

const ACK_OK: u8 = 0;
const ACK_ERR: u8 = 1;
/// What is neither, to see that the device wrote.
const ACK_NONE: u8 = 0xff;

/// Layout of a command: class, command, up to 14 bytes of data; the answer.
const DATA: usize = 2;
const ACK: usize = 16;
const MEMORY_BYTES: usize = ACK + 1;

/// A command to the device.
pub(super) enum Command {
    /// `VIRTIO_NET_CTRL_RX_PROMISC` (§5.1.6.5.1): whether to let every frame in.
    Promiscuous(bool),
    /// `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET` (§5.1.6.5.6): how many queue pairs to use.
    QueuePairs(u16),
}

impl Command {
    /// Class, command and data; how many bytes they are.
    fn encode(&self) -> ([u8; 4], usize) {
        match *self {
            Self::Promiscuous(on) => ([0, 0, u8::from(on), 0], DATA + 1),
            Self::QueuePairs(pairs) => {
                let [low, high] = pairs.to_le_bytes();
                ([4, 0, low, high], DATA + 2)
            }
        }
    }
}

/// The control queue, and the memory its commands are in.
pub(super) struct CommandQueue<R: Ring<()>> {
    queue: Queue<(), R>,
    memory: RequestMemory,
}

impl<R: Ring<()>> CommandQueue<R> {
    pub(super) fn new(transport: &Arc<Transport>, queue: Queue<(), R>) -> Result<Self, Error> {
        let memory = RequestMemory::new(transport.clone(), MEMORY_BYTES)?;
        Ok(Self { queue, memory })
    }

    /// Gives the device a command; [`poll`](Self::poll) tells when the next one may follow.
    pub(super) fn begin(&mut self, command: &Command) -> Result<(), Error> {
        let (bytes, len) = command.encode();
        self.memory.write(0, &bytes);
        self.memory.write(ACK, &[ACK_NONE]);
        let chain = [self.memory.segment(0, len, false), self.memory.segment(ACK, 1, true)];
        self.queue.push((), &chain).map_err(|()| Error::Config("control queue is too small"))?;
        self.queue.publish();
        Ok(())
    }

    /// What the device says to the command, once it does. True: done; false: refused.
    pub(super) fn poll(&mut self) -> Result<Option<bool>, Error> {
        if self.queue.pop().is_some() {
            return self.answer().map(Some);
        }
        self.queue.transport().check_status();
        match self.queue.transport().fault() {
            Some(fault) => Err(Error::Broken(fault)),
            None => Ok(None),
        }
    }

    fn answer(&mut self) -> Result<bool, Error> {
        let mut ack = [ACK_NONE];
        self.memory.read(ACK, &mut ack);
        match ack {
            [ACK_OK] => Ok(true),
            [ACK_ERR] => Ok(false),
            _ => Err(self.fail()),
        }
    }

    /// Takes a device that does not answer out of use.
    pub(super) fn fail(&mut self) -> Error {
        self.queue.fail(Fault::ControlCommand);
        Error::Broken(Fault::ControlCommand)
    }
}
