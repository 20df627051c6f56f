//! The same router with two workers, each with the only queue pair of one port.

use crate::common::{BUFFERS, add_routes, tables};
use buffer::{BufferPool, MemoryPort, MemoryWire, PortQueue};
use dataplane::{DropReason, Shared, Wake, Worker, deal};
use fib::{Fib4Writer, Fib6Writer};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts how often each worker was woken.
#[derive(Clone, Default)]
pub struct Woken(Arc<[AtomicUsize; 2]>);

impl Wake for Woken {
    fn wake_worker(&self, worker: usize) {
        let _ = self.0[worker].fetch_add(1, Ordering::SeqCst);
    }

    fn wake_control(&self) {}
}

impl Woken {
    pub fn count(&self, worker: usize) -> usize {
        self.0[worker].load(Ordering::SeqCst)
    }
}

pub struct Pair {
    pub shared: Arc<Shared>,
    pub workers: Vec<Worker>,
    pub wires: [MemoryWire; 2],
    pub pool: &'static BufferPool,
    pub woken: Woken,
    pub now_ns: u64,
}

impl Pair {
    pub fn new(mtu1: u16) -> Self {
        let mut fib4 = Fib4Writer::new().expect("an empty table is small");
        let mut fib6 = Fib6Writer::new().expect("an empty table is small");
        add_routes(&mut fib4, &mut fib6);
        let woken = Woken::default();
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 2, [1, 2], Box::new(woken.clone()));
        let _ = shared.publish(tables(mtu1));
        let pool = BufferPool::from_heap(2 * BUFFERS);
        let (port0, wire0) = MemoryPort::new();
        let (port1, wire1) = MemoryPort::new();
        let ports: [Vec<Box<dyn PortQueue>>; 2] = [vec![Box::new(port0)], vec![Box::new(port1)]];
        let workers = deal(ports, 2).into_iter().enumerate();
        let workers =
            workers.map(|(id, ports)| Worker::new(shared.clone(), id, ports, pool.cache())).collect();
        Self { shared, workers, wires: [wire0, wire1], pool, woken, now_ns: 1 }
    }

    /// Sends a frame to a port, and polls until nothing is left to do.
    pub fn send(&mut self, port: usize, frame: &[u8]) {
        assert!(self.wires[port].send(frame));
        self.run();
    }

    /// Polls until nothing is left to do.
    pub fn run(&mut self) {
        while self.workers.iter_mut().map(|worker| worker.poll(self.now_ns)).sum::<usize>() > 0 {}
    }

    /// Every frame that left by a port since.
    pub fn sent(&self, port: usize) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.wires[port].receive()).collect()
    }

    /// Reasons for which there were drops, with their number.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        self.shared.drop_counters().filter(|(_, count)| *count > 0).collect()
    }

    /// Received + injected + made = sent + dropped + punted + held, and all buffers are back.
    pub fn assert_balanced(self) {
        let totals = self.shared.packet_totals();
        let drops: u64 = self.drops().iter().map(|(_, count)| count).sum();
        assert_eq!(
            totals.received + totals.injected + totals.made,
            totals.sent + drops + totals.punted + totals.held
        );
        drop(std::iter::from_fn(|| self.shared.next_punt()).collect::<Vec<_>>());
        drop(self.workers);
        assert_eq!(self.pool.available(), 2 * BUFFERS, "buffers leaked");
    }
}
