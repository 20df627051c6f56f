//! The queues between the dataplane and smoltcp, both bounded.

use alloc::{collections::VecDeque, vec, vec::Vec};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use zeroize::Zeroizing;

/// Packets that a queue holds at most.
const QUEUE_PACKETS: usize = 256;

/// A device of queues.
pub(super) struct PacketQueues {
    /// Cleared once they are read: there may be keys in them.
    received: VecDeque<Zeroizing<Vec<u8>>>,
    sent: VecDeque<Vec<u8>>,
    /// Longest packet sent.
    pub mtu: u16,
}

impl Default for PacketQueues {
    fn default() -> Self {
        Self { received: VecDeque::new(), sent: VecDeque::new(), mtu: 1500 }
    }
}

impl PacketQueues {
    /// Queues a packet for the sockets. False: there is no room, and it is dropped as on a wire.
    pub fn push_received(&mut self, packet: Zeroizing<Vec<u8>>) -> bool {
        let has_room = self.received.len() < QUEUE_PACKETS;
        if has_room {
            self.received.push_back(packet);
        }
        has_room
    }

    /// The oldest packet that a socket sent.
    pub fn pop_sent(&mut self) -> Option<Vec<u8>> {
        self.sent.pop_front()
    }

    /// Queues a packet of no socket, if there is room.
    pub fn push_sent(&mut self, packet: Vec<u8>) {
        if self.sent.len() < QUEUE_PACKETS {
            self.sent.push_back(packet);
        }
    }

    /// Whether packets wait in either queue.
    pub fn is_busy(&self) -> bool {
        !self.received.is_empty() || !self.sent.is_empty()
    }
}

impl Device for PacketQueues {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        // A received packet may be answered at once; without room for that it waits.
        if self.sent.len() >= QUEUE_PACKETS {
            return None;
        }
        let packet = self.received.pop_front()?;
        Some((RxToken(packet), TxToken(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        (self.sent.len() < QUEUE_PACKETS).then_some(TxToken(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.mtu);
        capabilities
    }
}

pub(super) struct RxToken(Zeroizing<Vec<u8>>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, handle: F) -> R {
        handle(&self.0)
    }
}

pub(super) struct TxToken<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        self.0.push_back(packet);
        result
    }
}
