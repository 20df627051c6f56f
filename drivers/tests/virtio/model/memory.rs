//! Memory that driver and device share.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use buffer::{BUFFER_BYTES, BufferPool, DATA_ROOM, HEADROOM};
use drivers::bus::{BusError, DmaRegion};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Above 4 GiB, and not where the process has it: mixing up addresses shows.
const BASE: u64 = 0x7_0000_0000;
/// Enough for all tests of one process: what is not touched costs nothing.
const BYTES: usize = 2 << 30;
const ROOM_BYTES: usize = HEADROOM + DATA_ROOM;

/// One stretch of guest memory and its allocator.
pub struct Memory {
    guest: GuestMemoryMmap,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: usize,
    /// Freed regions, by size.
    free: HashMap<usize, Vec<u64>>,
    /// Where pools begin and how many buffers they have.
    pools: Vec<(u64, usize)>,
}

impl Memory {
    /// The memory of this process. Tests share it.
    pub fn get() -> &'static Self {
        static MEMORY: OnceLock<Memory> = OnceLock::new();
        MEMORY.get_or_init(|| Memory {
            guest: GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), BYTES)]).expect("address space"),
            state: Mutex::default(),
        })
    }

    pub fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    fn place(&self, iova: u64) -> NonNull<u8> {
        let pointer = self.guest.get_host_address(GuestAddress(iova)).expect("it was allocated");
        NonNull::new(pointer).expect("it is mapped")
    }

    fn reserve(&self, bytes: usize) -> Option<u64> {
        let mut state = self.state.lock().expect("no panic inside");
        if let Some(iova) = state.free.get_mut(&bytes).and_then(Vec::pop) {
            return Some(iova);
        }
        let start = state.used.next_multiple_of(4096);
        state.used = start + bytes;
        (state.used <= BYTES).then_some(BASE + start as u64)
    }

    /// Allocates a region for a device, which counts in `live` until it is given back.
    pub fn allocate(&'static self, len_bytes: usize, live: &Arc<AtomicUsize>) -> Result<DmaRegion, BusError> {
        let iova = self.reserve(len_bytes).ok_or(BusError::OutOfDmaMemory { len_bytes })?;
        self.guest.write_slice(&vec![0; len_bytes], GuestAddress(iova)).expect("it was allocated");
        let live = live.clone();
        let _ = live.fetch_add(1, Ordering::Relaxed);
        let release = move |_, _| {
            let mut state = self.state.lock().expect("no panic inside");
            let _ = live.fetch_sub(1, Ordering::Relaxed);
            state.free.entry(len_bytes).or_default().push(iova);
        };
        // SAFETY: the mapping lives for ever, and the allocator gives these bytes to nobody else.
        Ok(unsafe { DmaRegion::new(self.place(iova), iova, len_bytes, Box::new(release)) })
    }

    /// Writes as a device may that has an IOMMU before it: into rings, and into the room of packet buffers, not
    /// into what precedes it. False: not allowed.
    pub fn device_write(&self, iova: u64, bytes: &[u8]) -> bool {
        let pools = &self.state.lock().expect("no panic inside").pools;
        let allowed = pools.iter().all(|&(base, count)| {
            let Some(offset) = iova.checked_sub(base) else {
                return iova.saturating_add(bytes.len() as u64) <= base;
            };
            let (buffer, at) = (offset as usize / BUFFER_BYTES, offset as usize % BUFFER_BYTES);
            buffer >= count || (at >= BUFFER_BYTES - ROOM_BYTES && at + bytes.len() <= BUFFER_BYTES)
        });
        allowed && self.guest.write_slice(bytes, GuestAddress(iova)).is_ok()
    }

    /// Packet buffers that a device can reach. They are never given back.
    pub fn pool(&'static self, buffers: usize) -> &'static BufferPool {
        let bytes = buffers * buffer::BUFFER_BYTES;
        let iova = self.reserve(bytes).expect("enough memory for a pool");
        self.state.lock().expect("no panic inside").pools.push((iova, buffers));
        // SAFETY: zeroed by the operating system, mapped for ever, and given to nobody else.
        unsafe { BufferPool::new(self.place(iova), bytes, iova) }
    }
}
