//! What a queue pair counts: written by its worker alone, read by anybody.

use core::sync::atomic::{AtomicU64, Ordering};

use buffer::PortStats;

/// A counter with a single writer.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    #[inline(always)]
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one queue pair, on cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Counters {
    pub(super) rx_packets: Counter,
    pub(super) rx_bytes: Counter,
    pub(super) rx_no_buffer: Counter,
    pub(super) rx_errors: Counter,
    pub(super) tx_packets: Counter,
    pub(super) tx_bytes: Counter,
    pub(super) tx_errors: Counter,
    pub(super) interrupts: Counter,
}

impl Counters {
    pub(super) fn add_to(&self, stats: &mut PortStats) {
        stats.rx_packets += self.rx_packets.get();
        stats.rx_bytes += self.rx_bytes.get();
        stats.rx_no_buffer += self.rx_no_buffer.get();
        stats.rx_errors += self.rx_errors.get();
        stats.tx_packets += self.tx_packets.get();
        stats.tx_bytes += self.tx_bytes.get();
        stats.tx_errors += self.tx_errors.get();
        stats.interrupts += self.interrupts.get();
    }
}
