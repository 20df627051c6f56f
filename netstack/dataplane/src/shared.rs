//! What workers and control share.

use crate::DropReason;
use crate::counters::{Combined, InterfaceCounters, NodeCounters};
use crate::exchange::{Inject, Punt};
use crate::graph::Next;
use crate::tables::{AdjacencyId, InterfaceId, Tables};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use crossbeam_queue::ArrayQueue;
use fib::{Fib4, Fib6};
use spin::mutex::SpinMutex;

/// How the platform wakes who sleeps.
pub trait Wake: Send + Sync {
    /// Work waits for a worker.
    fn wake_worker(&self, worker: usize);
    /// Work waits for control.
    fn wake_control(&self);
}

/// What workers and control share.
pub struct Shared {
    generation: AtomicU64,
    tables: SpinMutex<Arc<Tables>>,
    fib4: Arc<Fib4>,
    fib6: Arc<Fib6>,
    punts: ArrayQueue<Punt>,
    wake: Box<dyn Wake>,
    workers: usize,
}

impl Shared {
    /// For this number of workers, with empty tables as generation 0.
    pub fn new(fib4: Arc<Fib4>, fib6: Arc<Fib6>, workers: usize, wake: Box<dyn Wake>) -> Arc<Self> {
        Arc::new(Self {
            generation: AtomicU64::new(0),
            tables: SpinMutex::new(Arc::new(Tables::default())),
            fib4,
            fib6,
            punts: ArrayQueue::new(1024),
            wake,
            workers,
        })
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The IPv4 route table.
    pub fn fib4(&self) -> &Arc<Fib4> {
        &self.fib4
    }

    /// The IPv6 route table.
    pub fn fib6(&self) -> &Arc<Fib6> {
        &self.fib6
    }

    /// Replaces the tables; workers take them at their next poll. Returns the new generation.
    pub fn publish(&self, tables: Tables) -> u64 {
        *self.tables.lock() = Arc::new(tables);
        self.advance()
    }

    /// Begins a new generation without new tables, so that a change of a route table can be waited for.
    pub fn advance(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The newest generation that every worker has reached: nothing that was unlinked before it is still read.
    pub fn quiescent_generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The tables published last.
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.lock().clone()
    }

    /// Takes the oldest packet for control.
    pub fn next_punt(&self) -> Option<Punt> {
        self.punts.pop()
    }

    /// Gives a packet to the workers; it comes back if their queue is full.
    pub fn inject(&self, inject: Inject) -> Result<(), Inject> {
        self.wake.wake_worker(0);
        Err(inject)
    }

    /// What an interface did, all workers together.
    pub fn interface_counters(&self, _id: InterfaceId) -> InterfaceCounters {
        InterfaceCounters::default()
    }

    /// What was sent by an adjacency, all workers together.
    pub fn adjacency_counters(&self, _id: AdjacencyId) -> Combined {
        Combined::default()
    }

    /// What the nodes of a worker did, in graph order.
    pub fn node_counters(&self, _worker: usize) -> Vec<(Next, NodeCounters)> {
        Vec::new()
    }

    /// Packets dropped for each reason that there was, all workers together.
    pub fn drop_counters(&self) -> Vec<(DropReason, u64)> {
        Vec::new()
    }
}
