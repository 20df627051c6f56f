//! The device side of a queue, of either format.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{Memory, PackedDevice};

/// A descriptor as the device sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub iova: u64,
    pub len: u32,
    pub device_writes: bool,
}

/// A chain that the device took and must use.
#[derive(Clone, Debug)]
pub struct Chain {
    pub id: u16,
    pub pieces: Vec<Piece>,
}

impl Chain {
    pub fn readable_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in self.pieces.iter().filter(|piece| !piece.device_writes) {
            // Longer than anything that a driver sends, and than a hostile test wants to allocate.
            let mut part = vec![0; piece.len.min(1 << 17) as usize];
            if Memory::get().guest().read_slice(&mut part, GuestAddress(piece.iova)).is_ok() {
                bytes.extend(part);
            }
        }
        bytes
    }

    /// Writes as far as there is room, and returns how much.
    pub fn write(&self, mut bytes: &[u8]) -> u32 {
        let before = bytes.len();
        for piece in self.pieces.iter().filter(|piece| piece.device_writes) {
            let (part, rest) = bytes.split_at(bytes.len().min(piece.len as usize));
            if !Memory::get().device_write(piece.iova, part) {
                break;
            }
            bytes = rest;
        }
        (before - bytes.len()) as u32
    }
}

pub enum DeviceQueue {
    Split(Queue),
    Packed(PackedDevice),
}

impl DeviceQueue {
    /// Where the driver put a queue, as it told by [`drivers::virtio::ring::Ring::areas`].
    pub fn new(packed: bool, size: u16, areas: [u64; 3], event_index: bool) -> Self {
        if packed {
            return Self::Packed(PackedDevice::new(size, areas));
        }
        let mut queue = Queue::new(size).expect("a size that virtio allows");
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let [descriptors, driver, device] = areas.map(halves);
        queue.set_desc_table_address(descriptors.0, descriptors.1);
        queue.set_avail_ring_address(driver.0, driver.1);
        queue.set_used_ring_address(device.0, device.1);
        queue.set_event_idx(event_index);
        queue.set_ready(true);
        assert!(queue.is_valid(Memory::get().guest()), "the driver laid out an invalid queue");
        Self::Split(queue)
    }

    pub fn take(&mut self) -> Option<Chain> {
        match self {
            Self::Split(queue) => {
                let chain = queue.pop_descriptor_chain(Memory::get().guest())?;
                let id = chain.head_index();
                let pieces = chain.map(|descriptor| Piece {
                    iova: descriptor.addr().0,
                    len: descriptor.len(),
                    device_writes: descriptor.is_write_only(),
                });
                Some(Chain { id, pieces: pieces.collect() })
            }
            Self::Packed(queue) => queue.take(),
        }
    }

    /// Uses a chain. True: the driver is to be interrupted.
    pub fn give_back(&mut self, chain: &Chain, written: u32) -> bool {
        match self {
            Self::Split(queue) => {
                // Fails for an id beyond the queue, which only hostile tests have.
                let _ = queue.add_used(Memory::get().guest(), chain.id, written);
                let flags: u16 =
                    Memory::get().guest().read_obj(GuestAddress(queue.avail_ring())).expect("a valid ring");
                // rust-vmm leaves the flag VIRTQ_AVAIL_F_NO_INTERRUPT to others.
                let wanted = queue.event_idx_enabled() || flags & 1 == 0;
                queue.needs_notification(Memory::get().guest()).expect("a valid ring") && wanted
            }
            Self::Packed(queue) => queue.give_back(chain, written),
        }
    }

    /// Asks the driver to notify of the next chain. True: there are chains already.
    pub fn enable_notification(&mut self) -> bool {
        match self {
            Self::Split(queue) => queue.enable_notification(Memory::get().guest()).expect("a valid ring"),
            Self::Packed(queue) => queue.enable_notification(),
        }
    }

    pub fn disable_notification(&mut self) {
        match self {
            Self::Split(queue) => queue.disable_notification(Memory::get().guest()).expect("a valid ring"),
            Self::Packed(queue) => queue.disable_notification(),
        }
    }
}
