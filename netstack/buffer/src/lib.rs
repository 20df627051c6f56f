//! Packet buffers, vectors of them, the pool they come from, and the port traits that move them.
//!
//! Main path:
//! 1. [`BufferPool::new`] carves a region of DMA memory into buffers, once, for ever;
//! 2. each worker takes buffers through its own [`BufferCache`], last in first out;
//! 3. a port's queue ([`PortQueue::receive`]) fills a [`Vector`] with [`Buf`]s;
//! 4. nodes read and change [`Buf::data_mut`] and [`Buf::meta_mut`];
//! 5. [`PortQueue::transmit`] gives them to the device, and [`BufferCache::free`] back to the cache.
//!
//! A [`Buf`] is the only handle to its packet: it cannot be cloned, and dropping it returns the buffer to its pool.
//!
//! What it does not do: share a packet between owners, or parse one.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod buf;
mod checksum;
mod clock;
mod memory_port;
mod meta;
mod pool;
mod port;
mod prefetch;

pub use buf::{BUFFER_BYTES, Buf, DATA_ROOM, Enclosed, HEADROOM, NoRoom, Segments};
pub use clock::clocks;
pub use memory_port::{MemoryControl, MemoryPort, MemoryWire};
pub use meta::{Flags, Meta};
pub use pool::{BufferCache, BufferPool};
pub use port::{Offloads, PortControl, PortInfo, PortQueue, PortStats};
pub use prefetch::{prefetch_early, prefetch_read, prefetch_read_at, prefetch_write};

/// Packets a vector holds at most.
pub const VECTOR_SIZE: usize = 256;

/// A vector of packets: what ports and nodes work on.
pub type Vector = heapless::Vec<Buf, VECTOR_SIZE>;
