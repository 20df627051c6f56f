//! One packet's decision.

use core::net::{IpAddr, SocketAddr};

use flow::{FlowTable, Key, Observed, Refused, Slot};
use rewrite::{SourcePool, Transport, Tuple, View};
use services::Forwarding;

use crate::snapshot::{Backend, Frontend, Snapshot};

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody serves.
    NoBackend,
    /// The client is not in the service's source ranges.
    SourceRange,
    /// No source is free for full NAT, or there is none of the backend's family.
    NoSource,
    /// There is no address of ours for a tunnel to the backend.
    NoTunnelAddress,
    /// It cannot be translated: SCTP to another port.
    Untranslatable,
    /// A later fragment of a packet whose first one was not seen.
    FragmentWithoutFirst,
    /// The outer header would make it too long.
    TooLong,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decision {
    /// It is not for a service.
    NotOurs,
    /// Give it these addresses and ports.
    Translate(Tuple),
    /// It is an ICMP error about a packet of this flow, before translation.
    TranslateError(Tuple),
    /// Bring it to this backend as it is.
    Bring(Backend),
    /// Drop it.
    Drop(Reason),
}

/// What decides, besides the packet.
pub(crate) struct Context<'a> {
    pub(crate) snapshot: &'a Snapshot,
    /// Which of how many workers.
    pub(crate) worker: (u16, u16),
    /// Ports of full NAT.
    pub(crate) ports: (u16, u16),
    pub(crate) now_ns: u64,
}

/// The keys of a family.
pub(crate) trait Family: Key + Into<Tuple> + TryFrom<Tuple> {}

impl<K: Key + Into<Tuple> + TryFrom<Tuple>> Family for K {}

impl Context<'_> {
    /// A packet of a flow that the table knows, at `slot`.
    pub(crate) fn known<K: Family>(&self, flows: &FlowTable<K>, slot: Slot) -> Option<Decision> {
        let entry = flows.entry(slot)?;
        let tuple: Tuple = (*entry.key()).into();
        if entry.is_answer() {
            let peer: Tuple = (*flows.entry(entry.peer()?)?.key()).into();
            return Some(Decision::Translate(peer.reversed()));
        }
        let backend = self.snapshot.backend(entry.binding)?;
        match entry.peer() {
            None if !translates(backend) => Some(Decision::Bring(*backend)),
            None => Some(translate(tuple.with_destination(backend.address))),
            // Of full NAT the source is another one too; the answer's key tells.
            Some(peer) if backend.forwarding == Forwarding::FullNat || is_hairpin(&tuple, backend) => {
                let answer: Tuple = (*flows.entry(peer)?.key()).into();
                Some(Decision::Translate(answer.reversed()))
            }
            Some(_) => Some(translate(tuple.with_destination(backend.address))),
        }
    }

    /// A packet of a flow that is new, or that the table has lost.
    pub(crate) fn new_flow<K: Family>(
        &self,
        flows: &mut FlowTable<K>,
        key: &K,
        observed: Observed,
    ) -> Decision {
        let tuple: Tuple = (*key).into();
        let Some(frontend) = self.snapshot.frontend(tuple.destination(), tuple.protocol()) else {
            return Decision::NotOurs;
        };
        if !is_admitted(frontend, tuple.source().ip()) {
            return Decision::Drop(Reason::SourceRange);
        }
        let service = self.snapshot.services.get(frontend.service);
        let number = service.and_then(|service| self.snapshot.choose(service, &tuple));
        let chosen = number.and_then(|number| Some((number, self.snapshot.backend(number)?)));
        let Some((number, backend)) = chosen else { return Decision::Drop(Reason::NoBackend) };
        if !translates(backend) {
            let _ = flows.insert(key, observed, number, self.now_ns);
            return Decision::Bring(*backend);
        }
        let Some(to) = tuple.with_destination(backend.address) else {
            return Decision::Drop(Reason::Untranslatable);
        };
        if backend.forwarding == Forwarding::FullNat || is_hairpin(&tuple, backend) {
            return self.with_own_source(flows, (key, observed), number, to);
        }
        if let Ok(answer) = K::try_from(to.reversed()) {
            // A flow that is not taken is served all the same, by the table alone.
            let _ = flows.insert_pair(key, &answer, observed, number, self.now_ns);
        }
        Decision::Translate(to)
    }

    /// Full NAT: `to` from a source of ours that is free.
    fn with_own_source<K: Family>(
        &self,
        flows: &mut FlowTable<K>,
        (key, observed): (&K, Observed),
        number: u32,
        to: Tuple,
    ) -> Decision {
        let addresses = self.snapshot.pool(to.destination().ip());
        let (worker, workers) = self.worker;
        let Some(pool) = SourcePool::new(addresses, self.ports.0..=self.ports.1, worker, workers) else {
            return Decision::Drop(Reason::NoSource);
        };
        for (address, port) in pool.candidates(self.snapshot.hash(&(*key).into())) {
            let Some(to) = to.with_source(SocketAddr::new(address, port)) else { continue };
            let Ok(answer) = K::try_from(to.reversed()) else { continue };
            match flows.insert_pair(key, &answer, observed, number, self.now_ns) {
                Ok(_) => return Decision::Translate(to),
                Err(Refused::AnswerTaken) => {}
                Err(Refused::Full) => break,
            }
        }
        Decision::Drop(Reason::NoSource)
    }

    /// An ICMP error about the packet `about`: it goes to whoever sent that, as that sent it.
    pub(crate) fn error<K: Family>(&self, flows: &FlowTable<K>, about: &K) -> Decision {
        let about: Tuple = (*about).into();
        let asks = about.reversed();
        let Ok(key) = K::try_from(asks) else { return Decision::NotOurs };
        if let Some(entry) = flows.peek(&key, self.now_ns).and_then(|slot| flows.entry(slot)) {
            if let Some(peer) = entry.peer().and_then(|slot| flows.entry(slot)) {
                return Decision::TranslateError((*peer.key()).into());
            }
            if let Some(backend) = self.snapshot.backend(entry.binding).filter(|backend| !translates(backend))
            {
                return Decision::Bring(*backend);
            }
        }
        // Nobody remembers: the service's table knows whose answer it was.
        let frontend = self.snapshot.frontend(asks.destination(), asks.protocol());
        let service = frontend.and_then(|frontend| self.snapshot.services.get(frontend.service));
        let number = service.and_then(|service| self.snapshot.choose(service, &asks));
        match number.and_then(|number| self.snapshot.backend(number)) {
            Some(backend) if !translates(backend) => Decision::Bring(*backend),
            Some(backend) => match asks.with_destination(backend.address) {
                Some(to) => Decision::TranslateError(to.reversed()),
                None => Decision::NotOurs,
            },
            None => Decision::NotOurs,
        }
    }

    /// Remembers where the fragments of a packet go whose first one has been decided; only those of flows that are known.
    pub(crate) fn first_fragment<K: Family>(&self, flows: &mut FlowTable<K>, view: &View, key: &K) {
        let slot = flows.peek(key, self.now_ns);
        if let (Some(slot), Ok(fragments)) = (slot, K::try_from(view.fragments_key())) {
            let _ = flows.insert(&fragments, Observed::Other, slot.number(), self.now_ns);
        }
    }

    /// A fragment without ports: it follows the first one.
    pub(crate) fn later_fragment<K: Family>(&self, flows: &mut FlowTable<K>, view: &View) -> Decision {
        let flow = K::try_from(view.fragments_key()).ok().and_then(|key| {
            let slot = flows.lookup(&key, Observed::Other, self.now_ns)?;
            let slot = Slot::from_number(flows.entry(slot)?.binding);
            // The flow may have ended since, and the slot be another's.
            let flow: Tuple = (*flows.entry(slot)?.key()).into();
            let ends = |tuple: &Tuple| (tuple.source().ip(), tuple.destination().ip(), tuple.protocol());
            (ends(&flow) == ends(&view.tuple)).then_some(slot)
        });
        match flow.and_then(|slot| self.known(flows, slot)) {
            Some(decision) => decision,
            None if self.snapshot.has_address(view.tuple.destination().ip()) => {
                Decision::Drop(Reason::FragmentWithoutFirst)
            }
            None => Decision::NotOurs,
        }
    }
}

/// The tuple of what an ICMP error is about, if the packet is one.
pub(crate) fn subject(view: &View, packet: &[u8]) -> Option<Tuple> {
    let Transport::Error(offset) = view.transport else { return None };
    View::parse_embedded(packet.get(offset..)?).ok().map(|about| about.tuple)
}

fn translate(to: Option<Tuple>) -> Decision {
    to.map_or(Decision::Drop(Reason::Untranslatable), Decision::Translate)
}

fn translates(backend: &Backend) -> bool {
    matches!(backend.forwarding, Forwarding::Nat | Forwarding::FullNat)
}

/// A backend that reached itself would answer itself, past us.
fn is_hairpin(tuple: &Tuple, backend: &Backend) -> bool {
    tuple.source().ip() == backend.address.ip()
}

fn is_admitted(frontend: &Frontend, source: IpAddr) -> bool {
    frontend.source_ranges.is_empty() || frontend.source_ranges.iter().any(|range| range.contains(&source))
}
