//! Ports of a router under measurement: packets come from a source in memory, and what is sent is freed.

use buffer::{BufferCache, PortQueue, Vector, clocks};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where the packets of a workload come from.
pub(crate) trait Source: Send {
    /// Puts the next ones into a vector.
    fn fill(&mut self, cache: &mut BufferCache, out: &mut Vector);
}

/// A port that a source is behind. It never falls silent, and counts the clocks that its source takes.
pub(crate) struct Feed<S> {
    source: S,
    clocks: Arc<AtomicU64>,
}

/// A port that nothing comes from. Its queue never fills.
pub(crate) struct Sink;

impl<S: Source> Feed<S> {
    /// Adds to `clocks`.
    pub(crate) fn new(source: S, clocks: &Arc<AtomicU64>) -> Box<Self> {
        Box::new(Self { source, clocks: clocks.clone() })
    }
}

impl<S: Source> PortQueue for Feed<S> {
    fn receive(&mut self, cache: &mut BufferCache, out: &mut Vector) -> usize {
        let (before, start) = (out.len(), clocks());
        self.source.fill(cache, out);
        let spent = clocks().wrapping_sub(start);
        self.clocks.store(self.clocks.load(Relaxed).wrapping_add(spent), Relaxed);
        out.len() - before
    }

    fn transmit(&mut self, cache: &mut BufferCache, packets: &mut Vector) {
        cache.free(packets);
    }

    fn arm(&mut self) -> bool {
        true
    }

    fn disarm(&mut self) {}
}

impl PortQueue for Sink {
    fn receive(&mut self, _: &mut BufferCache, _: &mut Vector) -> usize {
        0
    }

    fn transmit(&mut self, cache: &mut BufferCache, packets: &mut Vector) {
        cache.free(packets);
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn disarm(&mut self) {}
}
