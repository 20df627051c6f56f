//! What workers and control share: tables, route tables, queues of packets, counters, the trace.
//!
//! Every change of tables begins a new generation. A worker notes the generation at the start of each poll, after it
//! has taken the new tables; what was replaced before that generation is not read any more. A worker that sleeps
//! reads nothing.

use crate::DropReason;
use crate::counters::{
    BackendCounters, Chunked, Combined, Counter, FlowCounters, InterfaceCounter, InterfaceCounters,
    NodeCounter, NodeCounters, PacketTotals, RuleCounters, WorkerCounters,
};
use crate::exchange::{Inject, InjectTo, Punt, PuntKind};
use crate::flow_events::FlowEvent;
use crate::flow_hash::FlowKey;
use crate::flows::Flows;
use crate::graph::Node;
use crate::handoff::{Inbox, MAX_WORKERS};
use crate::policing::{Generation, Policy};
use crate::published::Published;
use crate::tables::{AdjacencyId, InterfaceId, Tables};
use crate::trace::{Trace, TraceRecord, TraceRequest};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use balancer::FlowTallies;
use buffer::Vector;
use core::array;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use crossbeam_queue::ArrayQueue;
use fib::{Fib4, Fib6};
use flow::Timeouts;
use policy::classifier::CounterId;

use spin::mutex::SpinMutex;

/// Packets of a kind that wait for control at most.
const PUNT_QUEUE: usize = 256;
/// Packets that wait for one worker at most.
const INJECT_QUEUE: usize = 1024;
/// Events of flows that wait for control at most.
const FLOW_EVENTS: usize = 2048;
/// What a sleeping worker shows in place of a generation.
const ASLEEP: u64 = u64::MAX;

/// How the platform wakes who sleeps. A wake-up of somebody who is about to sleep must not be lost.
pub trait Wake: Send + Sync {
    /// Work waits for a worker that sleeps.
    fn wake_worker(&self, worker: usize);
    /// Work waits for control.
    fn wake_control(&self);
}

/// Wakes nobody: for workers and control that are polled in turn.
pub struct Sleepless;

impl Wake for Sleepless {
    fn wake_worker(&self, _: usize) {}
    fn wake_control(&self) {}
}

/// What workers and control share.
pub struct Shared {
    generation: AtomicU64,
    tables: Published<Tables>,
    ipsec: Published<ipsec::Snapshot>,
    services: Published<Option<balancer::Snapshot>>,
    policy: Published<Option<Policy>>,
    policies: AtomicU32,
    flow_events: ArrayQueue<FlowEvent>,
    follows_flows: AtomicBool,
    fib4: Arc<Fib4>,
    fib6: Arc<Fib6>,
    flow_key: FlowKey,
    /// One for each kind.
    punts: [ArrayQueue<Punt>; PuntKind::COUNT],
    /// The kind whose turn it is; only control looks.
    punt_turn: AtomicUsize,
    trace: Trace,
    wake: Box<dyn Wake>,
    workers: Box<[WorkerShare]>,
    /// Of each port the workers that have a queue pair of it, as bits.
    owners: Chunked<AtomicU64, 64, 64>,
}

/// One worker's part.
#[repr(align(128))]
struct WorkerShare {
    /// The generation it has reached, or [`ASLEEP`].
    seen: AtomicU64,
    injected: ArrayQueue<Inject>,
    inbox: Inbox,
    flows: SpinMutex<FlowsExchange>,
    counters: WorkerCounters,
}

/// A worker's memory for flows, on its way to and from it.
#[derive(Default)]
struct FlowsExchange {
    /// What the worker shall take.
    given: Option<Box<Flows>>,
    /// What it had before, for control to free.
    returned: Option<Box<Flows>>,
    /// What the worker shall count in from now on, if that is to change.
    tallies: Option<FlowTallies>,
    /// What it counted in before.
    returned_tallies: Option<FlowTallies>,
    /// How long its flows may be silent from now on, if that is to change.
    timeouts: Option<Timeouts>,
}

impl Shared {
    /// For this number of workers, all asleep, with empty tables as generation 0. `seed` is random and secret: it
    /// keys the flow hash.
    ///
    /// # Panics
    /// If there are more than [`MAX_WORKERS`].
    pub fn new(
        fib4: Arc<Fib4>,
        fib6: Arc<Fib6>,
        workers: usize,
        seed: [u64; 2],
        wake: Box<dyn Wake>,
    ) -> Arc<Self> {
        assert!(workers <= MAX_WORKERS, "{workers} workers");
        let share = |_| WorkerShare {
            seen: AtomicU64::new(ASLEEP),
            injected: ArrayQueue::new(INJECT_QUEUE),
            inbox: Inbox::new(workers),
            flows: SpinMutex::default(),
            counters: WorkerCounters::new(),
        };
        Arc::new(Self {
            generation: AtomicU64::new(0),
            tables: Published::default(),
            ipsec: Published::default(),
            services: Published::default(),
            policy: Published::default(),
            policies: AtomicU32::new(0),
            flow_events: ArrayQueue::new(FLOW_EVENTS),
            follows_flows: AtomicBool::new(false),
            fib4,
            fib6,
            flow_key: FlowKey::new(seed),
            punts: array::from_fn(|_| ArrayQueue::new(PUNT_QUEUE)),
            punt_turn: AtomicUsize::new(0),
            trace: Trace::new(),
            wake,
            workers: (0..workers).map(share).collect(),
            owners: Chunked::new(),
        })
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The IPv4 route table.
    #[inline]
    pub fn fib4(&self) -> &Fib4 {
        &self.fib4
    }

    /// The IPv6 route table.
    #[inline]
    pub fn fib6(&self) -> &Fib6 {
        &self.fib6
    }

    /// Replaces the tables; workers take them at their next poll. Returns the new generation.
    pub fn publish(&self, tables: Tables) -> u64 {
        for worker in &self.workers {
            worker.counters.interfaces.grow(tables.interfaces.len());
            worker.counters.tunnels.grow(tables.interfaces.len());
            worker.counters.adjacencies.grow(tables.adjacencies.len());
        }
        self.tables.replace(tables);
        let generation = self.advance();
        self.free_retired();
        generation
    }

    /// Frees what was replaced and no worker holds any more. Control calls this now and then; what a sleeping worker holds
    /// stays until it wakes up.
    pub fn free_retired(&self) {
        self.tables.free_retired();
        self.ipsec.free_retired();
        self.services.free_retired();
        self.policy.free_retired();
        for worker in &self.workers {
            // Not freed under the lock, for which the worker waits.
            let mut exchange = worker.flows.lock();
            let returned = (exchange.returned.take(), exchange.returned_tallies.take());
            drop(exchange);
            drop(returned);
        }
    }

    /// Gives a worker memory for flows, which it takes at its next poll in place of what it has: the flows there are
    /// forgotten. Returns the new generation.
    pub fn give_flows(&self, worker: usize, flows: Box<Flows>) -> u64 {
        if let Some(worker) = self.workers.get(worker) {
            worker.counters.flows.note(flows.balancer());
            let not_taken = worker.flows.lock().given.replace(flows);
            drop(not_taken);
        }
        self.advance()
    }

    /// Has the flows of all workers end after these timeouts, counted from their next packets. Returns the new generation.
    pub fn set_flow_timeouts(&self, timeouts: Timeouts) -> u64 {
        self.workers.iter().for_each(|worker| worker.flows.lock().timeouts = Some(timeouts));
        self.advance()
    }

    /// Replaces the IPsec databases; workers take them at their next poll. Returns the new generation. Interfaces and
    /// adjacencies of tunnels are in the tables, and either may be published first: meanwhile packets are dropped.
    pub fn publish_ipsec(&self, snapshot: ipsec::Snapshot) -> u64 {
        self.ipsec.replace(snapshot);
        let generation = self.advance();
        self.free_retired();
        generation
    }

    /// The IPsec databases published last.
    pub fn ipsec(&self) -> Arc<ipsec::Snapshot> {
        self.ipsec.get()
    }

    /// Replaces the services that are balanced; none is as if there were no load balancer. Workers take them at their next
    /// poll. Returns the new generation. A worker that has no memory for flows ([`Shared::give_flows`]) forwards packets to
    /// services as if there were none.
    pub fn publish_services(&self, snapshot: Option<balancer::Snapshot>) -> u64 {
        let backends = snapshot.as_ref().map_or(0, balancer::Snapshot::backend_indexes);
        self.workers.iter().for_each(|worker| worker.counters.backends.grow(backends));
        self.services.replace(snapshot);
        let generation = self.advance();
        self.free_retired();
        generation
    }

    /// The services published last.
    pub fn services(&self) -> Arc<Option<balancer::Snapshot>> {
        self.services.get()
    }

    /// Replaces what decides by policy; none is as if there were no policy. Workers take it at their next poll, and judge
    /// flows that they know again. Returns the new generation.
    pub fn publish_policy(&self, policy: Option<impl Into<Policy>>) -> u64 {
        let _ = self.publish_same_policy(policy);
        self.judge_again()
    }

    /// The same, but flows that are known keep their verdicts: for what decides as before. Returns the new generation.
    pub fn publish_same_policy(&self, policy: Option<impl Into<Policy>>) -> u64 {
        let policy = policy.map(|policy| {
            let policy: Policy = policy.into();
            let counters = policy.classifier.counters() as usize;
            self.workers.iter().for_each(|worker| worker.counters.rules.grow(counters));
            policy
        });
        self.policy.replace(policy);
        let generation = self.advance();
        self.free_retired();
        generation
    }

    /// Has workers judge flows that they know again. Returns the new generation.
    pub fn judge_again(&self) -> u64 {
        let _ = self.policies.fetch_add(1, Ordering::SeqCst);
        self.advance()
    }

    pub(crate) fn policy_generation(&self) -> Generation {
        Generation::after(self.policies.load(Ordering::SeqCst))
    }

    /// What decides by policy, as published last.
    pub fn policy(&self) -> Arc<Option<Policy>> {
        self.policy.get()
    }

    /// How often a rule has decided about a flow, all workers together.
    pub fn rule_counters(&self, counter: CounterId) -> RuleCounters {
        let counters = self.workers.iter().filter_map(|worker| worker.counters.rules.get(counter.0 as usize));
        counters.fold(RuleCounters::default(), |total, counter| total + counter.get())
    }

    /// Says whether somebody wants to know of every flow. What rules with the action `Log` meet is always told.
    pub fn follow_flows(&self, wanted: bool) {
        self.follows_flows.store(wanted, Ordering::Relaxed);
    }

    /// Takes the oldest event of a flow.
    pub fn next_flow_event(&self) -> Option<FlowEvent> {
        self.flow_events.pop()
    }

    /// Events of flows that nobody took in time.
    pub fn lost_flow_events(&self) -> u64 {
        self.total(|counters| &counters.lost_flow_events)
    }

    pub(crate) fn follows_flows(&self) -> bool {
        self.follows_flows.load(Ordering::Relaxed)
    }

    /// False: there was no room.
    pub(crate) fn tell_flow(&self, event: FlowEvent) -> bool {
        let has_room = event.is_rare() || self.flow_events.len() < FLOW_EVENTS / 4 * 3;
        has_room && self.flow_events.push(event).is_ok()
    }

    /// Gives a worker memory to count its flows in, made as its flows were, or none to count no more; for the flows that it was
    /// given last. It takes it at one of its next polls. Returns the new generation.
    pub fn give_tallies(&self, worker: usize, tallies: FlowTallies) -> u64 {
        if let Some(worker) = self.workers.get(worker) {
            let not_taken = worker.flows.lock().tallies.replace(tallies);
            drop(not_taken);
        }
        self.advance()
    }

    /// Begins a new generation without new tables, so that a change of a route table can be waited for.
    pub fn advance(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The newest generation that every worker has reached: nothing that was unlinked before it began is still read.
    pub fn quiescent_generation(&self) -> u64 {
        // Before the workers' places are read: one that is seen asleep, and wakes, sees everything until here.
        let newest = self.generation.load(Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.workers.iter().map(|worker| worker.seen.load(Ordering::SeqCst)).fold(newest, u64::min)
    }

    /// The tables published last.
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.get()
    }

    /// Takes the next packet for control: the oldest of its kind, and of all kinds that have any in turn.
    pub fn next_punt(&self) -> Option<Punt> {
        let turn = self.punt_turn.load(Ordering::Relaxed);
        let mut kinds = (turn..turn + PuntKind::COUNT).map(|kind| kind % PuntKind::COUNT);
        kinds.find_map(|kind| {
            let punt = self.punts[kind].pop()?;
            self.punt_turn.store((kind + 1) % PuntKind::COUNT, Ordering::Relaxed);
            Some(punt)
        })
    }

    /// Gives a packet to a worker. False: its queue is full, the packet is lost.
    pub fn inject(&self, inject: Inject) -> bool {
        let number = self.worker_for(&inject);
        let Some(worker) = self.workers.get(number) else { return false };
        let accepted = worker.injected.push(inject).is_ok();
        self.wake_if_asleep(number);
        accepted
    }

    /// The worker that sends a packet of control's: one for all of a flow, so that they keep their order.
    fn worker_for(&self, inject: &Inject) -> usize {
        let hash = match inject.to {
            _ if self.workers.len() < 2 => return 0,
            InjectTo::Refuse(_) => return 0,
            InjectTo::Forward4 => self.flow_key.ipv4(&inject.packet),
            InjectTo::Forward6 => self.flow_key.ipv6(&inject.packet),
            InjectTo::Transmit(interface) => {
                let port = self.tables().row(interface).map(|row| row.port);
                return port.and_then(|port| self.owner(port, 0)).unwrap_or(0);
            }
        };
        hash as usize % self.workers.len()
    }

    /// Wakes a worker for which something was just put somewhere, if it sleeps.
    fn wake_if_asleep(&self, worker: usize) {
        // Either the worker sees what was put before it sleeps, or it is seen asleep here.
        fence(Ordering::SeqCst);
        if self.workers.get(worker).is_some_and(|worker| worker.seen.load(Ordering::SeqCst) == ASLEEP) {
            self.wake.wake_worker(worker);
        }
    }

    /// Has every worker poll its ports once at least.
    pub fn wake_workers(&self) {
        (0..self.workers.len()).for_each(|worker| self.wake.wake_worker(worker));
    }

    /// Traces the next packets that match; earlier records are forgotten.
    pub fn arm_trace(&self, request: TraceRequest) {
        self.trace.arm(request);
    }

    /// Takes the oldest trace record.
    pub fn next_trace_record(&self) -> Option<TraceRecord> {
        self.trace.next_record()
    }
}

/// Counters.
impl Shared {
    /// What an interface did, all workers together.
    pub fn interface_counters(&self, id: InterfaceId) -> InterfaceCounters {
        let place = usize::from(id.0);
        let counters = self
            .workers
            .iter()
            .flat_map(|worker| [worker.counters.interfaces.get(place), worker.counters.tunnels.get(place)]);
        let counters = counters.flatten().map(InterfaceCounter::get);
        counters.fold(InterfaceCounters::default(), |total, one| total + one)
    }

    /// What was sent by an adjacency, all workers together. A number that is used again goes on counting.
    pub fn adjacency_counters(&self, id: AdjacencyId) -> Combined {
        let counters =
            self.workers.iter().filter_map(|worker| worker.counters.adjacencies.get(id.0 as usize));
        counters.fold(Combined::default(), |total, counter| total + counter.get())
    }

    /// What a backend of services had, by its number, all workers together.
    pub fn backend_counters(&self, number: u32) -> BackendCounters {
        let index = balancer::Snapshot::index_of(number);
        let counters = self.workers.iter().filter_map(|worker| worker.counters.backends.get(index));
        counters.fold(BackendCounters::default(), |total, counter| total + counter.get(number))
    }

    /// The flows of a worker.
    pub fn flow_counters(&self, worker: usize) -> FlowCounters {
        self.workers.get(worker).map(|worker| worker.counters.flows.get()).unwrap_or_default()
    }

    /// What the nodes of a worker did, in graph order.
    pub fn node_counters(&self, worker: usize) -> impl Iterator<Item = (Node, NodeCounters)> {
        let nodes = self.workers.get(worker).map(|worker| &worker.counters.nodes);
        Node::ALL.iter().copied().zip(nodes.into_iter().flatten().map(NodeCounter::get))
    }

    /// Packets dropped for each reason, all workers together.
    pub fn drop_counters(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, self.total(|counters| &counters.drops[*reason as usize])))
    }

    /// All packets since start, all workers together.
    pub fn packet_totals(&self) -> PacketTotals {
        self.packet_and_interface_counters().0
    }

    /// All packets since start, and what each interface did by its number, as far as there are counters: every counter is
    /// read once, so that the sums are those of the rows.
    pub fn packet_and_interface_counters(&self) -> (PacketTotals, Vec<InterfaceCounters>) {
        let mut rows = Vec::new();
        let (mut received, mut sent) = (0, 0);
        for worker in &self.workers {
            let tunnels = worker.counters.tunnels.iter().map(|counter| (counter, false));
            let ports = worker.counters.interfaces.iter().map(|counter| (counter, true));
            for (place, (counter, is_port)) in tunnels.enumerate().chain(ports.enumerate()) {
                let one = counter.get();
                if rows.len() <= place {
                    rows.resize(place + 1, InterfaceCounters::default());
                }
                rows[place] = rows[place] + one;
                // What goes through a tunnel is received and sent by a port as well.
                if is_port {
                    received += one.rx.packets;
                    sent += one.tx.packets;
                }
            }
        }
        let totals = PacketTotals {
            received,
            sent,
            injected: self.total(|counters| &counters.injected),
            made: self.total(|counters| &counters.made),
            punted: self.total(|counters| &counters.punted),
            held: self.total(|counters| &counters.flows.held),
        };
        (totals, rows)
    }

    fn total(&self, counter: impl Fn(&WorkerCounters) -> &Counter) -> u64 {
        self.workers.iter().map(|worker| counter(&worker.counters).get()).sum()
    }
}

/// The workers' side.
impl Shared {
    /// What a worker counts in. Panics if there is no such worker.
    pub(crate) fn counters(&self, worker: usize) -> &WorkerCounters {
        &self.workers[worker].counters
    }

    /// The memory for flows that control has given to a worker since, if any; what it had goes back.
    pub(crate) fn exchange_flows(&self, worker: usize, flows: &mut Option<Box<Flows>>) {
        let Some(worker) = self.workers.get(worker) else { return };
        let mut exchange = worker.flows.lock();
        // Control has freed what went back before, or it is freed first.
        if exchange.returned.is_none()
            && let Some(given) = exchange.given.take()
        {
            exchange.returned = flows.replace(given);
        }
        if let Some(flows) = flows
            && let Some(timeouts) = exchange.timeouts.take()
        {
            flows.parts().0.set_timeouts(&timeouts);
        }
        if exchange.returned_tallies.is_none()
            && let Some(flows) = flows
            && let Some(tallies) = exchange.tallies.take()
        {
            exchange.returned_tallies = Some(flows.parts().0.set_tallies(tallies));
        }
    }

    #[inline]
    pub(crate) fn injected(&self, worker: usize) -> &ArrayQueue<Inject> {
        &self.workers[worker].injected
    }

    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Says that a worker reads nothing older than this generation.
    #[inline]
    pub(crate) fn reached(&self, worker: usize, generation: u64) {
        self.workers[worker].seen.store(generation, Ordering::Release);
    }

    /// Says that a worker reads nothing until it has called [`Shared::awake`].
    pub(crate) fn asleep(&self, worker: usize) {
        self.workers[worker].seen.store(ASLEEP, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Says that a worker reads again, before it does.
    pub(crate) fn awake(&self, worker: usize) {
        self.workers[worker].seen.store(self.generation(), Ordering::SeqCst);
        // Whoever does not see this yet has unlinked before, and the worker will not find it.
        fence(Ordering::SeqCst);
    }

    /// Notes that a worker has a queue pair of a port.
    pub(crate) fn add_owner(&self, port: InterfaceId, worker: usize) {
        self.owners.grow(usize::from(port.0) + 1);
        if let Some(owners) = self.owners.get(usize::from(port.0)) {
            let _ = owners.fetch_or(1 << worker, Ordering::AcqRel);
        }
    }

    /// A worker that has a queue pair of a port, always the same for the worker `of`; different workers' are spread.
    pub(crate) fn owner(&self, port: InterfaceId, of: usize) -> Option<usize> {
        let mut owners = self.owners.get(usize::from(port.0))?.load(Ordering::Acquire);
        for _ in 0..(of as u32).checked_rem(owners.count_ones())? {
            owners &= owners - 1;
        }
        Some(owners.trailing_zeros() as usize)
    }

    #[inline]
    pub(crate) fn inbox(&self, worker: usize) -> &Inbox {
        &self.workers[worker].inbox
    }

    /// Hands a vector to another worker. Err: its ring is full.
    pub(crate) fn hand_over(&self, from: usize, to: usize, vector: Box<Vector>) -> Result<(), Box<Vector>> {
        self.workers[to].inbox.push(from, vector)?;
        self.wake_if_asleep(to);
        Ok(())
    }

    pub(crate) fn punt(&self, punt: Punt) -> Result<(), Punt> {
        self.punts[PuntKind::of(&punt) as usize].push(punt)
    }

    pub(crate) fn wake_control(&self) {
        self.wake.wake_control();
    }

    #[inline]
    pub(crate) fn flow_key(&self) -> FlowKey {
        self.flow_key
    }

    #[inline]
    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }
}
