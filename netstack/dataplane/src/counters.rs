//! Counters of one worker: written by it alone, read by anybody.

use crate::DropReason;
use crate::graph::NODES;
use alloc::boxed::Box;
use core::array;
use core::ops::Add;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use spin::Once;

/// A counter with one writer.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may.
    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The present value.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Begins with another value; only the owning worker may.
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
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

impl core::ops::Add for Combined {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }
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
    /// Packets that were to leave here and found the interface down, too narrow or its ring full.
    pub tx_drops: u64,
    /// Packets that came in here and went to control.
    pub punts: u64,
}

impl Add for InterfaceCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rx: self.rx + other.rx,
            tx: self.tx + other.tx,
            rx_drops: self.rx_drops + other.rx_drops,
            tx_drops: self.tx_drops + other.tx_drops,
            punts: self.punts + other.punts,
        }
    }
}

/// What a node of the graph did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Packets it handled.
    pub packets: u64,
    /// Vectors they came in.
    pub vectors: u64,
    /// Clocks (TSC) it spent on them. Of runs of fewer than 128 packets one in 16 is timed, and counted 16 times; so are
    /// sources.
    pub clocks: u64,
}

/// All packets since start, interfaces that are no more included. With the drop counters the books balance, but for what
/// is under way: received + injected + made = sent + dropped + punted + held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketTotals {
    /// Received by an interface.
    pub received: u64,
    /// Sent by an interface.
    pub sent: u64,
    /// Taken from control.
    pub injected: u64,
    /// Made here: ICMP errors, and fragments beyond the first of a packet.
    pub made: u64,
    /// Handed to control.
    pub punted: u64,
    /// Fragments that wait for the first one of their packet now.
    pub held: u64,
}

/// What a backend of services had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounters {
    /// Packets to it, and their bytes from the IP header on.
    pub to: Combined,
    /// Packets from it that passed here.
    pub from: Combined,
    /// Flows that began, or that the worker's table had lost.
    pub flows: u64,
    /// TCP resets from it.
    pub resets: u64,
}

impl Add for BackendCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            to: self.to + other.to,
            from: self.from + other.from,
            flows: self.flows + other.flows,
            resets: self.resets + other.resets,
        }
    }
}

/// What a rule of a policy decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounters {
    /// Flows, each when it began or when policy changed; packets of what has no flow.
    pub hits: u64,
    /// What it would have decided if staged policies were enforced, at endpoints that have some.
    pub staged: u64,
    /// Met as a rule with the action `Log`.
    pub logs: u64,
}

impl Add for RuleCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            staged: self.staged + other.staged,
            logs: self.logs + other.logs,
        }
    }
}

/// The flows of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    /// Of IPv4.
    pub ipv4: flow::Counts,
    /// IPv4 flows that there is room for; 0 without memory.
    pub capacity4: usize,
    /// Of IPv6.
    pub ipv6: flow::Counts,
    /// IPv6 flows that there is room for.
    pub capacity6: usize,
    /// Packets that went to the worker which has their flow.
    pub handed_over: u64,
}

/// Packets and bytes, as they are counted.
#[derive(Default)]
pub(crate) struct CombinedCounter {
    packets: Counter,
    bytes: Counter,
}

impl CombinedCounter {
    #[inline(always)]
    pub(crate) fn add(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }

    pub(crate) fn get(&self) -> Combined {
        Combined { packets: self.packets.get(), bytes: self.bytes.get() }
    }
}

/// One interface's counters, one cache line.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct InterfaceCounter {
    pub(crate) rx: CombinedCounter,
    pub(crate) tx: CombinedCounter,
    pub(crate) rx_drops: Counter,
    pub(crate) tx_drops: Counter,
    pub(crate) punts: Counter,
}

const _: () = assert!(size_of::<InterfaceCounter>() == 64);

impl InterfaceCounter {
    pub(crate) fn get(&self) -> InterfaceCounters {
        InterfaceCounters {
            rx: self.rx.get(),
            tx: self.tx.get(),
            rx_drops: self.rx_drops.get(),
            tx_drops: self.tx_drops.get(),
            punts: self.punts.get(),
        }
    }
}

/// One backend's counters, one cache line.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct BackendCounter {
    pub(crate) to: CombinedCounter,
    pub(crate) from: CombinedCounter,
    pub(crate) flows: Counter,
    pub(crate) resets: Counter,
    /// One more than the number of the backend that is counted: another one may have the same index later. 0: nobody yet.
    owner: Counter,
}

const _: () = assert!(size_of::<BackendCounter>() == 64);

impl BackendCounter {
    /// The counters for a backend of this number, from 0 if they were an earlier one's. None if they are a later one's: what
    /// still comes of flows of a backend that is gone is not counted.
    #[inline(always)]
    pub(crate) fn of(&self, number: u32) -> Option<&Self> {
        let is_its = self.owner.get() == u64::from(number) + 1 || self.begin(number);
        is_its.then_some(self)
    }

    #[cold]
    fn begin(&self, number: u32) -> bool {
        let owner = u64::from(number) + 1;
        // Numbers with one index differ in their generation alone, which wraps around.
        if self
            .owner
            .get()
            .checked_sub(1)
            .is_some_and(|before| number.wrapping_sub(before as u32) as i32 <= 0)
        {
            return false;
        }
        // Whoever reads meanwhile finds nobody's.
        self.owner.set(0);
        let CombinedCounter { packets, bytes } = &self.to;
        let CombinedCounter { packets: answers, bytes: answer_bytes } = &self.from;
        for counter in [packets, bytes, answers, answer_bytes, &self.flows, &self.resets] {
            counter.set(0);
        }
        self.owner.set(owner);
        true
    }

    /// What a backend of this number had.
    pub(crate) fn get(&self, number: u32) -> BackendCounters {
        if self.owner.get() != u64::from(number) + 1 {
            return BackendCounters::default();
        }
        BackendCounters {
            to: self.to.get(),
            from: self.from.get(),
            flows: self.flows.get(),
            resets: self.resets.get(),
        }
    }
}

/// One rule's counters.
#[derive(Default)]
pub(crate) struct RuleCounter {
    pub(crate) hits: Counter,
    pub(crate) staged: Counter,
    pub(crate) logs: Counter,
}

impl RuleCounter {
    pub(crate) fn get(&self) -> RuleCounters {
        RuleCounters { hits: self.hits.get(), staged: self.staged.get(), logs: self.logs.get() }
    }
}

/// What a worker's tables of flows say of themselves.
#[derive(Default)]
pub(crate) struct FlowCounter {
    ipv4: TableCounter,
    ipv6: TableCounter,
    pub(crate) handed_over: Counter,
    /// Fragments that wait now.
    pub(crate) held: Counter,
}

#[derive(Default)]
struct TableCounter {
    /// In the order of [`flow::Counts`].
    counts: [AtomicU64; 6],
    capacity: AtomicU64,
}

impl TableCounter {
    fn note(&self, counts: flow::Counts, capacity: usize) {
        let flow::Counts { live, unproven, inserted, expired, displaced, refused } = counts;
        let all = [live as u64, unproven as u64, inserted, expired, displaced, refused];
        self.counts.iter().zip(all).for_each(|(counter, count)| counter.store(count, Relaxed));
        self.capacity.store(capacity as u64, Relaxed);
    }

    fn get(&self) -> (flow::Counts, usize) {
        let [live, unproven, inserted, expired, displaced, refused] =
            array::from_fn(|index| self.counts[index].load(Relaxed));
        let (live, unproven) = (live as usize, unproven as usize);
        let counts = flow::Counts { live, unproven, inserted, expired, displaced, refused };
        (counts, self.capacity.load(Relaxed) as usize)
    }
}

impl FlowCounter {
    /// Notes how a worker's tables are now.
    pub(crate) fn note(&self, balancer: &balancer::Balancer) {
        let (flows4, flows6) = (balancer.flows4(), balancer.flows6());
        self.ipv4.note(flows4.counts(), flows4.capacity());
        self.ipv6.note(flows6.counts(), flows6.capacity());
    }

    pub(crate) fn get(&self) -> FlowCounters {
        let ((ipv4, capacity4), (ipv6, capacity6)) = (self.ipv4.get(), self.ipv6.get());
        FlowCounters { ipv4, capacity4, ipv6, capacity6, handed_over: self.handed_over.get() }
    }
}

/// One node's counters.
#[derive(Default)]
pub(crate) struct NodeCounter {
    packets: Counter,
    vectors: Counter,
    clocks: Counter,
}

impl NodeCounter {
    #[inline(always)]
    pub(crate) fn record(&self, packets: usize, clocks: u64) {
        self.packets.add(packets as u64);
        self.vectors.add(u64::from(packets != 0));
        self.clocks.add(clocks);
    }

    pub(crate) fn get(&self) -> NodeCounters {
        NodeCounters { packets: self.packets.get(), vectors: self.vectors.get(), clocks: self.clocks.get() }
    }
}

/// A counter for each adjacency.
pub(crate) type AdjacencyCounters = Chunked<CombinedCounter, 1024, 256>;

/// Everything one worker counts.
pub(crate) struct WorkerCounters {
    pub(crate) interfaces: Chunked<InterfaceCounter, 64, 64>,
    /// What went into and came out of tunnels, by interface: apart, as it is counted where it comes in and leaves as well.
    pub(crate) tunnels: Chunked<InterfaceCounter, 64, 64>,
    pub(crate) adjacencies: AdjacencyCounters,
    pub(crate) backends: Chunked<BackendCounter, 1024, 1024>,
    pub(crate) rules: Chunked<RuleCounter, 4096, 256>,
    pub(crate) lost_flow_events: Counter,
    pub(crate) flows: FlowCounter,
    pub(crate) nodes: [NodeCounter; NODES],
    pub(crate) drops: [Counter; DropReason::ALL.len()],
    pub(crate) injected: Counter,
    pub(crate) made: Counter,
    pub(crate) punted: Counter,
}

const _: () = assert!(4096 * 256 == policy::classifier::COUNTERS_MAX);
const _: () =
    assert!(64 * 64 == crate::tables::MAX_INTERFACES && 1024 * 256 == crate::tables::MAX_ADJACENCIES);

impl WorkerCounters {
    pub(crate) fn new() -> Self {
        Self {
            interfaces: Chunked::new(),
            tunnels: Chunked::new(),
            adjacencies: Chunked::new(),
            backends: Chunked::new(),
            rules: Chunked::new(),
            lost_flow_events: Counter::default(),
            flows: FlowCounter::default(),
            nodes: array::from_fn(|_| NodeCounter::default()),
            drops: array::from_fn(|_| Counter::default()),
            injected: Counter::default(),
            made: Counter::default(),
            punted: Counter::default(),
        }
    }
}

/// An array, of counters mostly, in chunks of `SIZE`, allocated as control needs more, so that readers never see it move.
pub(crate) struct Chunked<T, const SIZE: usize, const CHUNKS: usize> {
    chunks: Box<[Once<Box<[T; SIZE]>>; CHUNKS]>,
}

impl<T: Default, const SIZE: usize, const CHUNKS: usize> Chunked<T, SIZE, CHUNKS> {
    pub(crate) fn new() -> Self {
        Self { chunks: boxed(Once::new) }
    }

    /// Makes the first `count` counters exist, as far as there may be so many.
    pub(crate) fn grow(&self, count: usize) {
        for chunk in self.chunks.iter().take(count.div_ceil(SIZE)) {
            let _ = chunk.call_once(|| boxed(T::default));
        }
    }

    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        Some(&self.chunks.get(index / SIZE)?.get()?[index % SIZE])
    }

    /// The first counters, as many as are together.
    pub(crate) fn first(&self) -> &[T] {
        self.chunks.first().and_then(Once::get).map_or(&[], |chunk| &chunk[..])
    }

    /// All counters that exist.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().filter_map(Once::get).flat_map(|chunk| chunk.iter())
    }
}

/// An array on the heap that never was on the stack.
fn boxed<T, const N: usize>(make: impl Fn() -> T) -> Box<[T; N]> {
    let elements: Box<[T]> = (0..N).map(|_| make()).collect();
    let Ok(array) = elements.try_into() else { unreachable!("it has {N} elements") };
    array
}

/// Counts packets by what they have in common, an adjacency or a tunnel interface, and touches the counters only when that
/// changes. What `counter_of` does not know is not counted.
pub(crate) struct CountRun<F> {
    counter_of: F,
    id: u32,
    packets: u64,
    bytes: u64,
}

impl<'a, F: Fn(u32) -> Option<&'a CombinedCounter>> CountRun<F> {
    /// Begins with number 0 and no packets.
    pub(crate) fn new(counter_of: F) -> Self {
        Self { counter_of, id: 0, packets: 0, bytes: 0 }
    }

    /// Counts one packet.
    #[inline(always)]
    pub(crate) fn add(&mut self, id: u32, bytes: usize) {
        if id != self.id {
            self.flush();
            (self.id, self.packets, self.bytes) = (id, 0, 0);
        }
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    /// Writes what is left.
    pub(crate) fn finish(self) {
        self.flush();
    }

    #[inline(always)]
    fn flush(&self) {
        if let Some(counter) = (self.counter_of)(self.id) {
            counter.add(self.packets, self.bytes);
        }
    }
}
