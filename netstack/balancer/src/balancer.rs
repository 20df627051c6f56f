//! Vectors of packets.

use core::cell::Cell;
use core::mem;
use core::net::IpAddr;

use buffer::VECTOR_SIZE;
use flow::{Config, Ended, Error, FlowTable, Observed, Tallies, Tally, Timeouts, V4, V6};
use rewrite::{Fragment, Tunnel, Tuple, View};

use crate::decide::{Context, Reason};
use crate::fragments;
use crate::passes::Lanes;
use crate::snapshot::Snapshot;

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not for a service, and as it was.
    NotOurs,
    /// Route it by its destination: it has been rewritten.
    Route,
    /// Send it as it is to the link-layer address of this neighbour.
    SendTo(IpAddr),
    /// Put the header of this tunnel in front, and route it by that.
    Encapsulate(Encapsulation),
    /// It is an echo request to an address that services have: answer it.
    Local,
    /// It is a fragment that is of no use before another one has come: keep it for a while, until [`Balancer::knows_awaited`].
    Hold,
    /// Drop it.
    Drop(Reason),
}

/// The tunnel that a packet goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    /// Number of the backend.
    pub(crate) backend: u32,
    /// Of the packet's flow, for [`Tunnel::put`].
    pub hash: u64,
}

const _: () = assert!(size_of::<Verdict>() == 24);

impl Encapsulation {
    /// The tunnel, in the snapshot that was decided by. None if this node has no address for one to the backend.
    #[inline]
    pub fn tunnel<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Tunnel> {
        snapshot.tunnel(self.backend)
    }
}

/// A packet that has been decided about and is not rewritten yet.
#[derive(Debug)]
pub struct Decided<'a> {
    /// Its place in the vector.
    pub index: usize,
    /// What it is, as it came in.
    pub view: &'a View,
    /// The addresses and ports that it leaves with, if they change.
    pub translated: Option<&'a Tuple>,
    /// Number of the backend that it goes to or comes from.
    pub backend: Option<u32>,
    /// It goes to whoever began the flow.
    pub is_answer: bool,
    /// It is the first of its flow, as far as the table knows.
    pub is_new: bool,
    /// What is kept with the flow for the observer, one word for both directions: 0 at first. None if the flow is not kept.
    pub verdict: Option<&'a mut u32>,
    /// Where a packet that passes is to be counted. None if the flow is not kept, or nobody wants to know.
    pub tally: Option<&'a mut Tally>,
}

/// Memory to count the flows of a [`Balancer`] in; by default none.
#[derive(Default)]
pub struct FlowTallies {
    v4: Option<Tallies<V4>>,
    v6: Option<Tallies<V6>>,
}

impl FlowTallies {
    /// For the balancer that is made with the same configurations.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn new((v4, v6): (&Config, &Config)) -> Result<Self, Error> {
        Ok(Self { v4: Some(Tallies::new(v4)?), v6: Some(Tallies::new(v6)?) })
    }
}

/// A flow that has ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedFlow {
    /// As who began it sends.
    pub asked: Tuple,
    /// As that leaves.
    pub sent: Tuple,
    /// What was kept with it for the observer.
    pub verdict: u32,
    /// Why it ended.
    pub end: flow::End,
    /// When it began, or was first looked at.
    pub begun_ns: u64,
    /// When its last packet came.
    pub last_ns: u64,
    /// What who began it has sent.
    pub asks: Tally,
    /// What was answered.
    pub answers: Tally,
}

impl EndedFlow {
    fn of<K: Into<Tuple>>(ended: Ended<K>, now_ns: u64) -> Self {
        let (begun_ns, last_ns) = ended.times_ns(now_ns);
        let Ended { verdict, end, asks, answers, .. } = ended;
        let asked: Tuple = ended.key.into();
        let sent = ended.answer.map_or(asked, |answer| answer.into().reversed());
        Self { asked, sent, verdict, end, begun_ns, last_ns, asks, answers }
    }
}

/// A packet of a flow that what is kept with the flow lets pass.
#[derive(Debug)]
pub struct Passed<'a> {
    /// Its place in the vector.
    pub index: usize,
    /// What it says about its flow.
    pub observed: Observed,
    /// Number of the backend that it goes to or comes from.
    pub backend: Option<u32>,
    /// It goes to whoever began the flow.
    pub is_answer: bool,
    /// It is the first of its flow, as far as the table knows: only if 0 lets it pass, and nobody wants to know what flows carry.
    pub is_new: bool,
    /// Where it is to be counted, if somebody wants to know.
    pub tally: Option<&'a mut Tally>,
}

/// Who looks at packets once their flow has been found: counters, policy. So one lookup serves all.
pub trait Observer {
    /// True if flows that are not for services are to be kept too.
    fn keeps_all(&self) -> bool {
        false
    }

    /// True if the packet of an index, whose headers are not there as a whole, passes all the same.
    fn passes_unread(&mut self, _: usize) -> bool {
        true
    }

    /// Packets of a vector, by their index, that begin flows as it looks, with the addresses that these will be between: told
    /// before the first of them is decided about, so that what is known of addresses can be looked up for all at once.
    fn foresee(&mut self, _: impl Iterator<Item = (usize, (IpAddr, IpAddr))>) {}

    /// True if a word that is kept with a flow says that its packets pass. Those of an established flow are then told to
    /// [`Observer::passed`], which needs less to be put together than [`Observer::decided`].
    fn knows(&self, _kept: u32) -> bool {
        false
    }

    /// A packet passes.
    fn passed(&mut self, _: Passed<'_>) {}

    /// A packet has been decided about. False: it is dropped as [`Reason::Refused`], and its flow ends, or does not begin.
    fn decided(&mut self, packet: Decided<'_>) -> bool;
}

/// Nobody looks.
impl Observer for () {
    #[inline(always)]
    fn knows(&self, _: u32) -> bool {
        true
    }

    #[inline(always)]
    fn decided(&mut self, _: Decided<'_>) -> bool {
        true
    }
}

/// A worker's flows.
pub struct Balancer {
    flows4: FlowTable<V4>,
    flows6: FlowTable<V6>,
    worker: (u16, u16),
    ports: (u16, u16),
    lanes: Lanes,
    /// A fragment has come since somebody asked that others may be held for.
    has_awaited: bool,
}

impl Balancer {
    /// The flows of worker `worker` of `workers`, with a table for each family. `ports` are the first and the last source
    /// port of full NAT, of which each worker has its part.
    ///
    /// # Errors
    /// As [`FlowTable::new`].
    pub fn new(
        (v4, v6): (&Config, &Config),
        (worker, workers): (u16, u16),
        ports: (u16, u16),
    ) -> Result<Self, Error> {
        let (flows4, flows6) = (FlowTable::new(v4)?, FlowTable::new(v6)?);
        Ok(Self {
            flows4,
            flows6,
            worker: (worker, workers),
            ports,
            lanes: Lanes::default(),
            has_awaited: false,
        })
    }

    /// Decides about packets, bytes from the IP header on, and rewrites them. Their cache misses overlap. As many verdicts are
    /// written as the shorter slice has room for.
    pub fn process(
        &mut self,
        snapshot: &Snapshot,
        packets: &mut [&mut [u8]],
        now_ns: u64,
        verdicts: &mut [Verdict],
    ) {
        self.process_observed(snapshot, packets, now_ns, verdicts, &mut ());
    }

    /// The same, with an observer.
    pub fn process_observed<O: Observer>(
        &mut self,
        snapshot: &Snapshot,
        packets: &mut [&mut [u8]],
        now_ns: u64,
        verdicts: &mut [Verdict],
        observer: &mut O,
    ) {
        let (worker, ports, keeps_all) = (self.worker, self.ports, observer.keeps_all());
        let has_awaited = Cell::new(self.has_awaited);
        let context = Context { snapshot, worker, ports, now_ns, keeps_all, has_awaited };
        let chunks = packets.chunks_mut(VECTOR_SIZE).zip(verdicts.chunks_mut(VECTOR_SIZE));
        for (chunk, (packets, verdicts)) in chunks.enumerate() {
            let tables = (&mut self.flows4, &mut self.flows6);
            self.lanes.process(&context, tables, (packets, verdicts), (chunk * VECTOR_SIZE, observer));
        }
        self.has_awaited = context.has_awaited.get();
    }

    /// True if the last vector's packets were all of IPv4, and plain: so they still are, but for what is put in front of them.
    pub fn had_ipv4_alone(&self) -> bool {
        self.lanes.had_ipv4_alone()
    }

    /// True if a fragment has come since this was asked before so that [`Balancer::knows_awaited`] may say so of others.
    #[inline]
    pub fn take_awaited(&mut self) -> bool {
        mem::take(&mut self.has_awaited)
    }

    /// True if the fragment has come that this one is held for: the first one of the packet, or the last one if this is the first.
    pub fn knows_awaited(&self, fragment: &[u8], now_ns: u64) -> bool {
        View::parse(fragment).is_ok_and(|view| match (view.fragment, view.tuple) {
            (Fragment::First, Tuple::V4(_)) => fragments::bytes(&self.flows4, &view, now_ns).is_some(),
            (Fragment::First, Tuple::V6(_)) => fragments::bytes(&self.flows6, &view, now_ns).is_some(),
            _ => self.ports_of(&view, now_ns).is_some(),
        })
    }

    fn ports_of(&self, view: &View, now_ns: u64) -> Option<(u16, u16)> {
        match view.tuple {
            Tuple::V4(_) => fragments::ports(&self.flows4, view, now_ns),
            Tuple::V6(_) => fragments::ports(&self.flows6, view, now_ns),
        }
    }

    /// Where fragments meet ([`Owner::Fragments`](crate::Owner::Fragments)): which worker has the flow of one. None if it is to
    /// be held, as after [`Verdict::Hold`]. `keeps_all` as of the [`Observer`].
    pub fn owner_of_fragment(
        &mut self,
        snapshot: &Snapshot,
        fragment: &[u8],
        keeps_all: bool,
        now_ns: u64,
    ) -> Option<u16> {
        let (worker, workers) = self.worker;
        // A first one may end within the transport header.
        let Ok(view) = View::parse_embedded(fragment) else { return Some(worker) };
        if !fragments::is_followed(snapshot, keeps_all, &view.tuple) {
            return Some(worker);
        }
        let flow = self.flow_of(snapshot, &view, keeps_all, now_ns)?;
        Some(snapshot.owner_of(&flow, workers, self.ports))
    }

    /// The flow of a packet, with its ports if it is a fragment: those of a first one are kept for the others. None for a later one
    /// whose first one has not come. `keeps_all` as of the [`Observer`].
    pub fn flow_of(
        &mut self,
        snapshot: &Snapshot,
        view: &View,
        keeps_all: bool,
        now_ns: u64,
    ) -> Option<Tuple> {
        let followed = (snapshot, keeps_all);
        match (view.fragment, view.tuple) {
            (Fragment::Whole, _) => {}
            (Fragment::Later, tuple) => return Some(tuple.with_ports(self.ports_of(view, now_ns)?)),
            (Fragment::First, Tuple::V4(_)) => {
                fragments::note_first(&mut self.flows4, followed, view, now_ns);
            }
            (Fragment::First, Tuple::V6(_)) => {
                fragments::note_first(&mut self.flows6, followed, view, now_ns);
            }
        }
        self.has_awaited |= view.fragment == Fragment::First;
        Some(view.tuple)
    }

    /// Has the windows of TCP flows followed from now on, and segments dropped that these have no place for.
    ///
    /// # Errors
    /// As [`FlowTable::follow_windows`].
    pub fn follow_windows(&mut self) -> Result<(), Error> {
        self.flows4.follow_windows()?;
        self.flows6.follow_windows()
    }

    /// Has flows end after other timeouts.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) {
        self.flows4.set_timeouts(timeouts);
        self.flows6.set_timeouts(timeouts);
    }

    /// Which worker this is of how many.
    pub fn worker(&self) -> (u16, u16) {
        self.worker
    }

    /// The first and the last source port of full NAT.
    pub fn ports(&self) -> (u16, u16) {
        self.ports
    }

    /// Frees flows that have been quiet for too long in the next cache lines of each table.
    pub fn expire(&mut self, now_ns: u64, lines: usize) {
        self.flows4.expire(now_ns, lines);
        self.flows6.expire(now_ns, lines);
    }

    /// Shows what is kept for the observer with flows in the next cache lines of each table.
    pub fn revise(&mut self, lines: usize, mut revise: impl FnMut(&mut u32)) {
        self.flows4.revise(lines, &mut revise);
        self.flows6.revise(lines, &mut revise);
    }

    /// Has what flows carry counted in this memory, if there is any, from now on; returns what was counted in before.
    pub fn set_tallies(&mut self, tallies: FlowTallies) -> FlowTallies {
        FlowTallies { v4: self.flows4.set_tallies(tallies.v4), v6: self.flows6.set_tallies(tallies.v6) }
    }

    /// Takes the flows that have ended since, if they are counted; returns how many more there were than room for.
    pub fn drain_ended(&mut self, now_ns: u64, mut each: impl FnMut(EndedFlow)) -> u64 {
        self.flows4.drain_ended(|ended| each(EndedFlow::of(ended, now_ns)))
            + self.flows6.drain_ended(|ended| each(EndedFlow::of(ended, now_ns)))
    }

    /// The IPv4 flows.
    pub fn flows4(&self) -> &FlowTable<V4> {
        &self.flows4
    }

    /// The IPv6 flows.
    pub fn flows6(&self) -> &FlowTable<V6> {
        &self.flows6
    }
}
