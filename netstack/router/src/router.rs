//! The router's state, and its turn.

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    vec::Vec,
};

use dataplane::{AdjacencyId, InterfaceId, Shared};
use fib::{Fib4Writer, Fib6Writer};

use crate::{
    Limits, Output, Port, RouterDrop,
    adjacencies::Adjacencies,
    associations::Ipsec,
    changes::Changes,
    groups::{Groups, NeighbourKey},
    links::Links,
    neighbour::Neighbour,
    rib::Rib,
    services::Services,
};

/// Outputs that may wait to be fetched; more are dropped.
const MAX_OUTPUTS: usize = 4096;

/// The control side of forwarding. Times are monotonic nanoseconds and never go back.
pub struct Router {
    pub(crate) shared: Arc<Shared>,
    pub(crate) fib4: Fib4Writer,
    pub(crate) fib6: Fib6Writer,
    pub(crate) limits: Limits,
    pub(crate) links: Links,
    pub(crate) rib4: Rib<u32>,
    pub(crate) rib6: Rib<u128>,
    pub(crate) groups: Groups,
    pub(crate) adjacencies: Adjacencies,
    /// The adjacencies of connected networks.
    pub(crate) gleans: BTreeMap<InterfaceId, AdjacencyId>,
    pub(crate) neighbours: BTreeMap<NeighbourKey, Neighbour>,
    /// Deadlines of neighbours.
    pub(crate) timers: BTreeSet<(u64, NeighbourKey)>,

    /// Neighbours being resolved.
    pub(crate) incomplete: usize,
    /// Packets held, by neighbours and by changes.
    pub(crate) waiting: usize,
    /// When forgettable neighbours may next be searched for.
    pub(crate) search_ns: u64,
    pub(crate) changes: Changes,
    pub(crate) ipsec: Ipsec,
    pub(crate) services: Services,
    pub(crate) static_routes: Vec<config::Route>,
    pub(crate) static_neighbours: Vec<config::Neighbour>,
    /// When an interface has something to send next.
    pub(crate) links_due_ns: u64,
    /// The latest time that was given.
    pub(crate) now_ns: u64,
    outputs: VecDeque<Output>,
    /// By reason, those that were fetched apart.
    drops: [u64; RouterDrop::ALL.len()],
    random: u64,
}

impl Router {
    /// A router without configuration. `shared` was made with the tables of these writers; `seed` spreads timers and
    /// need not be secret.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        fib4: Fib4Writer,
        fib6: Fib6Writer,
        ports: &[Port],
        limits: Limits,
        seed: u64,
    ) -> Self {
        Self {
            shared,
            fib4,
            fib6,
            limits,
            links: Links::new(ports),
            rib4: Rib::new(),
            rib6: Rib::new(),
            groups: Groups::new(limits.groups),
            adjacencies: Adjacencies::new(),
            gleans: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            timers: BTreeSet::new(),

            incomplete: 0,
            waiting: 0,
            search_ns: 0,
            changes: Changes::new(),
            ipsec: Ipsec::new(),
            services: Services::default(),
            static_routes: Vec::new(),
            static_neighbours: Vec::new(),
            links_due_ns: u64::MAX,
            now_ns: 0,
            outputs: VecDeque::new(),
            drops: [0; RouterDrop::ALL.len()],
            random: seed | 1,
        }
    }

    /// The router's turn: does what is due. Bounded work; [`Router::next_deadline_ns`] says when to come again.
    pub fn poll(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.expire_neighbours(now_ns);
        self.expire_links(now_ns);
        self.poll_ipsec(now_ns);
        self.apply_changes(now_ns);
    }

    /// When [`Router::poll`] has something to do next; None while nothing is due.
    #[must_use]
    pub fn next_deadline_ns(&self, now_ns: u64) -> Option<u64> {
        let neighbours = self.timers.first().map(|(deadline, _)| *deadline);
        let links = (self.links_due_ns != u64::MAX).then_some(self.links_due_ns);
        let ipsec = (self.ipsec.due_ns != u64::MAX).then_some(self.ipsec.due_ns);
        [neighbours, links, ipsec, self.changes.deadline_ns(now_ns)].into_iter().flatten().min()
    }

    /// The next thing to send.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn output(&mut self, output: Output) {
        if self.outputs.len() < MAX_OUTPUTS {
            self.outputs.push_back(output);
        } else {
            self.count_drops(RouterDrop::OutputFull, 1);
        }
    }

    pub(crate) fn count_drops(&mut self, reason: RouterDrop, packets: usize) {
        self.drops[reason as usize] += packets as u64;
    }

    /// The packets dropped since this was last asked, by reason.
    pub fn take_drops(&mut self) -> impl Iterator<Item = (RouterDrop, u64)> + use<> {
        let drops = core::mem::take(&mut self.drops);
        RouterDrop::ALL.into_iter().zip(drops).filter(|(_, packets)| *packets > 0)
    }

    pub(crate) fn transmit(&mut self, interface: InterfaceId, frame: Vec<u8>) {
        self.output(Output::Transmit { interface, frame });
    }

    /// A number that spreads timers (xorshift64).
    pub(crate) fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }
}
