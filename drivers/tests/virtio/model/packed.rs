//! The device side of a packed queue, written from VIRTIO 1.3 §2.8 without a look at the driver. Without event
//! indices, which the driver refuses.

use vm_memory::{Bytes, GuestAddress};

use super::{Chain, Memory, Piece};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A place in the ring and the wrap counter there.
#[derive(Clone, Copy)]
struct Cursor {
    offset: u16,
    wrap: bool,
}

impl Cursor {
    fn advance(&mut self, size: u16) {
        self.offset += 1;
        if self.offset == size {
            *self = Self { offset: 0, wrap: !self.wrap };
        }
    }
}

pub struct PackedDevice {
    size: u16,
    ring: u64,
    driver_event: u64,
    device_event: u64,
    avail: Cursor,
    used: Cursor,
}

fn read16(address: u64) -> u16 {
    Memory::get().guest().read_obj(GuestAddress(address)).expect("ring memory")
}

fn write16(address: u64, value: u16) {
    Memory::get().guest().write_obj(value, GuestAddress(address)).expect("ring memory");
}

impl PackedDevice {
    pub fn new(size: u16, [ring, driver_event, device_event]: [u64; 3]) -> Self {
        assert!(ring % 16 == 0 && driver_event % 4 == 0 && device_event % 4 == 0, "§2.8: alignment");
        let start = Cursor { offset: 0, wrap: true };
        Self { size, ring, driver_event, device_event, avail: start, used: start }
    }

    fn descriptor(&self, offset: u16) -> u64 {
        self.ring + 16 * u64::from(offset)
    }

    pub fn take(&mut self) -> Option<Chain> {
        let flags = read16(self.descriptor(self.avail.offset) + 14);
        let wrap = self.avail.wrap;
        if (flags & AVAIL != 0) != wrap || (flags & USED != 0) == wrap {
            return None;
        }
        let mut pieces = Vec::new();
        loop {
            let at = self.descriptor(self.avail.offset);
            let flags = read16(at + 14);
            let memory = Memory::get().guest();
            pieces.push(Piece {
                iova: memory.read_obj(GuestAddress(at)).expect("ring memory"),
                len: memory.read_obj(GuestAddress(at + 8)).expect("ring memory"),
                device_writes: flags & WRITE != 0,
            });
            self.avail.advance(self.size);
            if flags & NEXT == 0 || pieces.len() > usize::from(self.size) {
                return Some(Chain { id: read16(at + 12), pieces });
            }
        }
    }

    pub fn give_back(&mut self, chain: &Chain, written: u32) -> bool {
        let at = self.descriptor(self.used.offset);
        Memory::get().guest().write_obj(written, GuestAddress(at + 8)).expect("ring memory");
        write16(at + 12, chain.id);
        let lap = if self.used.wrap { AVAIL | USED } else { 0 };
        write16(at + 14, lap | if written > 0 { WRITE } else { 0 });
        for _ in &chain.pieces {
            self.used.advance(self.size);
        }
        read16(self.driver_event + 2) == 0
    }

    pub fn enable_notification(&mut self) -> bool {
        write16(self.device_event + 2, 0);
        let flags = read16(self.descriptor(self.avail.offset) + 14);
        (flags & AVAIL != 0) == self.avail.wrap && (flags & USED != 0) != self.avail.wrap
    }

    pub fn disable_notification(&mut self) {
        write16(self.device_event + 2, 1);
    }
}
