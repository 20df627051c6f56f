//! A worker: one core's part of the dataplane.

use crate::context::{Balance, Context, Limits, Scratch, WorkerPort};
use crate::graph::{Graph, Node};
use crate::shared::Shared;
use crate::tables::{InterfaceId, Tables};
use crate::trace::WorkerTrace;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use buffer::{BufferCache, PortQueue, Vector};

/// One core's part of the dataplane: its ports' queues, its buffers, its run of the graph.
pub struct Worker {
    shared: Arc<Shared>,
    id: usize,
    ports: Vec<WorkerPort>,
    cache: BufferCache,
    tables: Arc<Tables>,
    generation: u64,
    awake: bool,
    graph: Graph,
    scratch: Box<Scratch>,
    made: Box<Vector>,
    limits: Limits,
    trace: WorkerTrace,
    balance: Balance,
}

impl Worker {
    /// Worker `id` of `shared`, with its queue of each port. It begins asleep; the first poll wakes it.
    ///
    /// # Panics
    /// If `shared` was made for fewer workers.
    pub fn new(
        shared: Arc<Shared>,
        id: usize,
        ports: Vec<(InterfaceId, Box<dyn PortQueue>)>,
        cache: BufferCache,
    ) -> Self {
        assert!(id < shared.workers(), "worker {id} of {}", shared.workers());
        // What comes in before the first tables is counted too.
        let interfaces = ports.iter().map(|(interface, _)| usize::from(interface.0) + 1).max().unwrap_or(0);
        shared.counters(id).interfaces.grow(interfaces);
        let port = |(interface, queue)| WorkerPort { interface, queue, waiting: Box::default() };
        Self {
            tables: shared.tables(),
            // Generations are counted up from 0: the first poll takes the tables.
            generation: u64::MAX,
            shared,
            id,
            ports: ports.into_iter().map(port).collect(),
            cache,
            awake: false,
            graph: Graph::new(),
            scratch: Scratch::new(),
            made: Box::default(),
            limits: Limits::new(),
            trace: WorkerTrace::default(),
            balance: Balance::default(),
        }
    }

    /// Handles what waits at every port and what control injected, once around: at most a vector of each. Returns how
    /// many packets that were. `now_ns` is monotonic.
    pub fn poll(&mut self, now_ns: u64) -> usize {
        // Asked before the tables are: what control injects after it published must not meet older ones.
        let injects = self.shared.injected(self.id).len();
        self.refresh();
        let mut cx = Context {
            shared: &self.shared,
            tables: &self.tables,
            counters: self.shared.counters(self.id),
            cache: &mut self.cache,
            ports: &mut self.ports,
            scratch: &mut self.scratch,
            made: &mut self.made,
            limits: &mut self.limits,
            trace: &mut self.trace,
            balance: &mut self.balance,
            rx_port: 0,
            injects,
            worker: self.id,
            now_ns,
        };
        let mut packets = 0;
        if injects > 0 {
            packets += self.graph.run(&mut cx, Node::Inject);
        }
        for rx_port in 0..cx.ports.len() {
            cx.rx_port = rx_port;
            packets += self.graph.run(&mut cx, Node::PortInput);
        }
        debug_assert_eq!(self.balance.entered, self.balance.left, "packets were lost or doubled");
        packets
    }

    /// Takes new tables and says so; wakes up first if need be.
    fn refresh(&mut self) {
        if !self.awake {
            self.disarm();
        }
        let generation = self.shared.generation();
        if generation != self.generation {
            self.tables = self.shared.tables();
            self.generation = generation;
            self.shared.reached(self.id, generation);
        }
        self.trace.refresh(self.shared.trace());
    }

    /// Asks every port for an interrupt and stops reading tables. True: there is work, do not sleep; the next poll or
    /// [`Worker::disarm`] ends it in either case.
    pub fn arm(&mut self) -> bool {
        self.awake = false;
        self.shared.asleep(self.id);
        let injected = !self.shared.injected(self.id).is_empty();
        self.ports.iter_mut().fold(injected, |work, port| port.queue.arm() | work)
    }

    /// Asks for no more interrupts and reads tables again.
    pub fn disarm(&mut self) {
        self.shared.awake(self.id);
        // The generation that it woke up in is noted again with the next poll's tables.
        self.generation = u64::MAX;
        self.awake = true;
        self.ports.iter_mut().for_each(|port| port.queue.disarm());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.asleep(self.id);
    }
}
