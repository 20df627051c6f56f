//! A worker: one core's part of the dataplane.

use crate::context::{Balance, Context, Limits, Scratch, WorkerPort};
use crate::flow_events;
use crate::flows::{EXPIRE_BEHIND, Flows};
use crate::graph::{Graph, Node};
use crate::handoff::{Outbox, RING_VECTORS};
use crate::held::Held;
use crate::policing::{Generation, Policy};
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
    ipsec: Arc<ipsec::Snapshot>,
    services: Arc<Option<balancer::Snapshot>>,
    policy: Arc<Option<Policy>>,
    policy_generation: Generation,
    /// What there is without services.
    no_services: balancer::Snapshot,
    flows: Option<Box<Flows>>,
    generation: u64,
    awake: bool,
    graph: Graph,
    scratch: Box<Scratch>,
    made: Box<Vector>,
    held: Held,
    outbox: Outbox,
    limits: Limits,
    trace: WorkerTrace,
    balance: Balance,
}

/// Deals the queue pairs of the ports to `workers` workers, one after the other, so that no worker gets many more than
/// another: of a port with fewer pairs than workers only some have one, and the others hand frames to them.
pub fn deal<T>(ports: impl IntoIterator<Item = Vec<T>>, workers: usize) -> Vec<Vec<(InterfaceId, T)>> {
    let mut dealt: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    let mut next = 0;
    for (port, pairs) in (0..).zip(ports) {
        for pair in pairs.into_iter().take(workers) {
            dealt[next % workers].push((InterfaceId(port), pair));
            next += 1;
        }
    }
    dealt
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
        ports.iter().for_each(|(port, _)| shared.add_owner(*port, id));
        let port = |(interface, queue)| WorkerPort { interface, queue, waiting: Box::default() };
        Self {
            tables: shared.tables(),
            ipsec: shared.ipsec(),
            services: shared.services(),
            policy: shared.policy(),
            policy_generation: shared.policy_generation(),
            no_services: balancer::Snapshot::default(),
            flows: None,
            // Generations are counted up from 0: the first poll takes the tables.
            generation: u64::MAX,
            outbox: Outbox::new(shared.workers()),
            shared,
            id,
            ports: ports.into_iter().map(port).collect(),
            cache,
            awake: false,
            graph: Graph::new(),
            scratch: Scratch::new(id),
            made: Box::default(),
            held: Held::new(),
            limits: Limits::new(),
            trace: WorkerTrace::default(),
            balance: Balance::default(),
        }
    }

    /// Handles what waits at every port, what control injected, what other workers handed over and fragments that were held, once
    /// around: at most a vector of each, and a ring of each worker. Returns how many packets that were. `now_ns` is monotonic.
    pub fn poll(&mut self, now_ns: u64) -> usize {
        // Asked before the tables are: what control injects after it published must not meet older ones.
        let injects = self.shared.injected(self.id).len();
        self.refresh();
        let mut cx = Context {
            shared: &self.shared,
            tables: &self.tables,
            ipsec: &self.ipsec,
            services: self.services.as_ref().as_ref().unwrap_or(&self.no_services),
            policy: self.policy.as_ref().as_ref(),
            policy_generation: self.policy_generation,
            flows: self.flows.as_deref_mut().filter(|_| self.services.is_some() || self.policy.is_some()),
            counters: self.shared.counters(self.id),
            cache: &mut self.cache,
            ports: &mut self.ports,
            scratch: &mut self.scratch,
            made: &mut self.made,
            held: &mut self.held,
            outbox: &mut self.outbox,
            limits: &mut self.limits,
            trace: &mut self.trace,
            balance: &mut self.balance,
            rx_port: 0,
            from_worker: 0,
            injects,
            worker: self.id,
            now_ns,
        };
        let generation = cx.policy.is_some().then_some(cx.policy_generation);
        for _ in 0..EXPIRE_BEHIND {
            let Some(flows) = cx.flows.as_deref_mut() else { break };
            if !flows.expire(now_ns, generation) {
                break;
            }
            cx.counters.flows.note(flows.balancer());
            flow_events::tell_ended(&mut cx);
        }
        let mut packets = 0;
        if injects > 0 {
            packets += self.graph.run(&mut cx, Node::Inject);
        }
        if self.shared.inbox(self.id).is_ready() {
            packets += take_handed(&mut self.graph, &mut cx);
        }
        for rx_port in 0..cx.ports.len() {
            cx.rx_port = rx_port;
            packets += self.graph.run(&mut cx, Node::PortInput);
        }
        if cx.held.is_due(now_ns) {
            packets += self.graph.run(&mut cx, Node::HeldFragments);
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
            self.ipsec = self.shared.ipsec();
            self.services = self.shared.services();
            // Before the policy: a verdict by the older one must not pass for one of the newer.
            self.policy_generation = self.shared.policy_generation();
            self.policy = self.shared.policy();
            self.shared.exchange_flows(self.id, &mut self.flows);
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
        let waiting = !self.shared.injected(self.id).is_empty() || self.shared.inbox(self.id).is_ready();
        self.ports.iter_mut().fold(waiting, |work, port| port.queue.arm() | work)
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

/// Sends what other workers handed over, a ring of each at most. Returns how many packets that were.
fn take_handed(graph: &mut Graph, cx: &mut Context<'_>) -> usize {
    let mut ready = cx.shared.inbox(cx.worker).take_ready();
    let mut packets = 0;
    while ready != 0 {
        cx.from_worker = ready.trailing_zeros() as usize;
        ready &= ready - 1;
        // What comes while this goes on says so again.
        for _ in 0..RING_VECTORS {
            match graph.run(cx, Node::HandoffInput) {
                0 => break,
                taken => packets += taken,
            }
        }
    }
    packets
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.asleep(self.id);
    }
}
