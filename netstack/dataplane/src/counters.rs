//! Counters of one worker: written by it alone, read by anybody.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may.
    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The present value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Combined {
    /// Packets.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// What an interface did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Frames that came in, with their Ethernet headers.
    pub rx: Combined,
    /// Frames that left, with their Ethernet headers.
    pub tx: Combined,
    /// Packets that came in here and were dropped anywhere in the graph.
    pub rx_drops: u64,
    /// Packets that were to leave here and could not.
    pub tx_drops: u64,
    /// Packets that came in here and went to control.
    pub punts: u64,
}

/// What a node of the graph did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Packets it handled.
    pub packets: u64,
    /// Vectors they came in.
    pub vectors: u64,
    /// Clocks (TSC) it spent on them.
    pub clocks: u64,
}
