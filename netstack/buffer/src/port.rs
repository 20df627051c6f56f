//! What a port is to the rest of the house: queues for workers, a control handle for control.

use crate::{BufferCache, Vector};
use alloc::string::String;

/// One receive and transmit queue pair of a port, owned by one worker.
///
/// Frames start at the destination MAC address and carry no frame check sequence.
pub trait PortQueue: Send {
    /// Appends received frames to `out` as far as it has room, and returns how many.
    ///
    /// Each has its lengths set, [`Meta::flags`](crate::Meta::flags) as the device reports them, and the rest of the
    /// metadata unspecified. Must do a bounded amount of work.
    fn receive(&mut self, cache: &mut BufferCache, out: &mut Vector) -> usize;

    /// Sends frames: takes from the front of `packets` what fits into the queue, in order, and leaves the rest.
    ///
    /// Frames with [`Flags::TX_CSUM`](crate::Flags::TX_CSUM) leave with their checksum complete, by the device or by
    /// [`Buf::complete_checksum`](crate::Buf::complete_checksum). Frames that were sent earlier are given to `cache`
    /// whenever it suits the queue.
    fn transmit(&mut self, cache: &mut BufferCache, packets: &mut Vector);

    /// Asks for an interrupt at the next received frame. True: frames are already there, do not sleep.
    fn arm(&mut self) -> bool;

    /// Asks for no more interrupts: the worker polls again.
    fn disarm(&mut self);
}

/// What control asks of a port. One for each device, whatever its number of queues.
pub trait PortControl: Send {
    /// What the port is. Never changes.
    fn info(&self) -> &PortInfo;

    /// True if the link is up now. Asked every now and then, with the time; a device that failed is seen to here.
    fn link_up(&mut self, now_ns: u64) -> bool;

    /// Why the device is out of use, if it is, for good or until it was reset. Its link is down then, and its queues
    /// may have to be polled before it can be used again: control sees to it that no worker sleeps through that.
    fn fault(&self) -> Option<&'static str> {
        None
    }

    /// What the device and its driver counted since the port was opened.
    fn stats(&self) -> PortStats;
}

/// What a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The longest IP packet that it can carry, in bytes, without the Ethernet header.
    pub max_mtu: u16,
    /// What the device does for us.
    pub offloads: Offloads,
    /// How many queue pairs were opened.
    pub queues: u16,
}

/// What a device does for us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Completes the checksum of frames with [`Flags::TX_CSUM`](crate::Flags::TX_CSUM).
    pub tx_csum: bool,
    /// Verifies transport checksums, and says so with [`Flags::RX_CSUM_GOOD`](crate::Flags::RX_CSUM_GOOD).
    pub rx_csum: bool,
}

/// What a device and its driver counted. A counter that a device does not have stays 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Frames that were lost because no buffer was there for them.
    pub rx_no_buffer: u64,
    /// Frames or descriptors that the driver refused because the device said something impossible.
    pub rx_errors: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Frames the device could not send.
    pub tx_errors: u64,
    /// Interrupts taken.
    pub interrupts: u64,
    /// How often the device was reset after a fault.
    pub resets: u64,
}
