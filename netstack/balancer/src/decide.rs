//! One packet's decision.

use core::cell::Cell;
use core::net::{IpAddr, SocketAddr};

use flow::{FlowTable, Home, Key, Observed, Refused, Side, Slot, V4, V6};
use maglev::FlowHasher;
use packet::protocol;
use rewrite::{Plain, SourcePool, Transport, Tuple, View};
use services::Forwarding;

use crate::fragments;
use crate::snapshot::{Backend, Frontend, NOBODY, Payload, Service, Snapshot};

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody serves.
    NoBackend,
    /// The address is a service's, and no service has the port.
    NoPort,
    /// The client is not in the service's source ranges.
    SourceRange,
    /// No source is free for full NAT, or there is none of the backend's family.
    NoSource,
    /// It cannot be translated: it has no place for it, or goes to the other family.
    Untranslatable,
    /// The outer header would make it too long.
    TooLong,
    /// A segment of TCP that its connection's windows have no place for.
    OutOfWindow,
    /// The observer refused it.
    Refused,
}

/// What to do with a packet, and by which flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision {
    pub(crate) action: Action,
    /// The flow's entry, of its asking direction.
    pub(crate) flow: Option<Slot>,
    /// Number of the backend that it goes to or comes from.
    pub(crate) backend: Option<u32>,
    /// It goes to whoever began the flow.
    pub(crate) is_answer: bool,
    /// The flow was not in the table.
    pub(crate) is_new: bool,
}

impl From<Action> for Decision {
    fn from(action: Action) -> Self {
        Self { action, flow: None, backend: None, is_answer: false, is_new: false }
    }
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// It is not for a service.
    NotOurs,
    /// It is for an address that services have, and this node answers.
    Local,
    /// Give it these addresses and ports.
    Translate(Tuple),
    /// It is an ICMP error about a packet of this flow, before translation.
    TranslateError(Tuple),
    /// Bring it to this backend, as it is.
    Bring(Backend),
    /// Its packet's first fragment has not come.
    Hold,
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
    /// Flows that are not for services are kept too.
    pub(crate) keeps_all: bool,
    /// A fragment has come that others may be held for.
    pub(crate) has_awaited: Cell<bool>,
}

/// The keys of a family.
pub(crate) trait Family: Key + Plain + Into<Tuple> + TryFrom<Tuple> {
    /// The hash that chooses a backend, the same on all nodes.
    fn flow_hash(&self, hasher: &FlowHasher) -> u64;
}

impl Family for V4 {
    #[inline(always)]
    fn flow_hash(&self, hasher: &FlowHasher) -> u64 {
        let ports = (self.source_port, self.destination_port);
        hasher.ipv4(self.source, self.destination, self.protocol, ports)
    }
}

impl Family for V6 {
    #[inline(always)]
    fn flow_hash(&self, hasher: &FlowHasher) -> u64 {
        let ports = (self.source_port, self.destination_port);
        hasher.ipv6(self.source, self.destination, self.protocol, ports)
    }
}

/// A packet, and where its flow is looked for.
pub(crate) struct Seen<'a, K> {
    pub(crate) view: &'a View,
    pub(crate) key: K,
    pub(crate) home: Home<K>,
}

/// A flow that begins in the usual way: with the backend that its service's table has for it, or for no service.
#[derive(Clone, Copy, Default)]
pub(crate) struct Plan<K> {
    /// Number of the backend, or [`NOBODY`].
    pub(crate) number: u32,
    pub(crate) keeps: Keeps<K>,
}

/// A slot of a service's table.
#[derive(Clone, Copy)]
pub(crate) struct Pick {
    /// Index of the service.
    service: u32,
    slot: u32,
}

/// What the table is to keep of a flow.
#[derive(Clone, Copy, Default)]
pub(crate) enum Keeps<K> {
    #[default]
    Nothing,
    /// The flow, whose answers do not pass here.
    One,
    /// The flow in both directions.
    Both,
    /// The flow, and its answers, which have another key.
    Pair(Home<K>),
}

impl<K: Family> Plan<K> {
    /// The addresses that the flow will be between.
    #[inline(always)]
    pub(crate) fn ends(&self, key: &K) -> (IpAddr, IpAddr) {
        let to = match &self.keeps {
            Keeps::Pair(answers) => answers.key().source_address(),
            Keeps::Both | Keeps::One | Keeps::Nothing => key.destination().ip(),
        };
        (key.source_address(), to)
    }
}

impl Context<'_> {
    /// A packet of a flow that the table knows, at `slot`.
    pub(crate) fn known<K: Family>(&self, flows: &FlowTable<K>, slot: Slot) -> Option<Decision> {
        let side = flows.side(slot)?;
        let tuple: Tuple = side.key().into();
        let (binding, is_answer, flow) = (side.binding(), side.is_answer(), side.asks());
        let decided = |action, backend| Decision { action, flow, backend, is_answer, is_new: false };
        if binding == NOBODY {
            return Some(decided(Action::NotOurs, None));
        }
        let (bound, peer) = (Some(binding), side.peer());
        if is_answer {
            let peer: Tuple = flows.side(peer?)?.key().into();
            return Some(decided(Action::Translate(peer.reversed()), bound));
        }
        let backend = self.snapshot.backend(binding)?;
        let action = match peer {
            None if !translates(backend) => Action::Bring(*backend),
            None => translate(tuple.with_destination(backend.address)),
            // The source is another one too; the answer's key tells.
            Some(peer) if !side.keeps_source() => {
                let answer: Tuple = flows.side(peer)?.key().into();
                Action::Translate(answer.reversed())
            }
            Some(_) => translate(tuple.with_destination(backend.address)),
        };
        Some(decided(action, bound))
    }

    /// Where a service's table has the backend of a flow that is not in the table of flows: that line is asked for. None if there
    /// is more to decide about it.
    #[inline(always)]
    pub(crate) fn pick<K: Family>(&self, frontend: &Frontend, key: &K) -> Option<Pick> {
        let service = self.snapshot.services.get(frontend.service)?;
        if service.by_client || service.server_ids.is_some() || frontend.looks_at_clients {
            return None;
        }
        let table = service.table.as_ref()?;
        let slot = table.slot(key.flow_hash(&self.snapshot.hasher));
        table.prefetch(slot);
        Some(Pick { service: frontend.service as u32, slot })
    }

    /// Chooses the backend of a flow that is not in the table, and asks for the line of the answers. None if there is more
    /// to decide about it. The plan is written to where it will be read a while later: a key that has just been put together
    /// and is moved as a whole makes the processor wait.
    #[inline(always)]
    pub(crate) fn plan<K: Family>(
        &self,
        flows: &FlowTable<K>,
        (key, pick): (&K, Pick),
        plan: &mut Plan<K>,
    ) -> Option<()> {
        let number = self.snapshot.services.get(pick.service as usize)?.backend_at(pick.slot)?;
        let backend = self.snapshot.backend(number)?;
        plan.number = number;
        match backend.forwarding {
            Forwarding::FullNat => return None,
            Forwarding::Nat if key.source_address() == backend.address.ip() => return None,
            Forwarding::Nat => {
                let to = key.with_destination(backend.address)?;
                plan.keeps = Keeps::Pair(flows.prefetch(&to.reversed()));
            }
            Forwarding::Direct | Forwarding::Ipip | Forwarding::Gue => plan.keeps = Keeps::One,
        }
        Some(())
    }

    /// The same of a flow that is for no service's port.
    #[inline(always)]
    pub(crate) fn plan_for_nobody<K: Family>(&self, key: &K, plan: &mut Plan<K>) -> Option<()> {
        let (source, destination) = (key.reversed().destination(), key.destination());
        let is_backend = |end| self.snapshot.is_backend(end, key.protocol());
        if is_backend(source) || self.snapshot.has_address(destination.ip()) {
            return None;
        }
        plan.number = NOBODY;
        if self.keeps_all || is_backend(destination) {
            plan.keeps = Keeps::Both;
        } else {
            plan.keeps = Keeps::Nothing;
        }
        Some(())
    }

    /// A packet of a flow that is new, or that the table has lost.
    #[inline(never)]
    pub(crate) fn new_flow<K: Family>(
        &self,
        flows: &mut FlowTable<K>,
        seen: &Seen<'_, K>,
        packet: &[u8],
    ) -> Decision {
        let payload = Payload { packet, transport_offset: seen.view.transport_offset };
        let (key, view) = (&seen.key, seen.view);
        let tuple: Tuple = (*key).into();
        let Some(frontend) = self.snapshot.frontend(tuple.destination(), tuple.protocol()) else {
            return self.not_for_a_service(flows, key, view);
        };
        if !is_admitted(frontend, tuple.source().ip()) {
            return Action::Drop(Reason::SourceRange).into();
        }
        let service = self.snapshot.services.get(frontend.service);
        let number = service.and_then(|service| match service.keeps_clients() {
            true => self.keep_client(flows, service, &tuple, || self.snapshot.choose(service, &tuple)),
            false => self.snapshot.choose_for(service, &tuple, payload),
        });
        let chosen = number.and_then(|number| Some((number, self.snapshot.backend(number)?)));
        let Some((number, backend)) = chosen else { return Action::Drop(Reason::NoBackend).into() };
        let observed = view.observed();
        let (action, flow) = if !translates(backend) {
            (Action::Bring(*backend), flows.insert(key, observed, number, self.now_ns).ok())
        } else if let Some(to) = tuple.with_destination(backend.address) {
            let is_masqueraded = || self.snapshot.masquerades(frontend, tuple.source().ip());
            if backend.forwarding == Forwarding::FullNat || is_hairpin(&tuple, backend) || is_masqueraded() {
                self.with_own_source(flows, (key, observed), number, to)
            } else {
                let answer = K::try_from(to.reversed()).ok();
                match answer.map(|answer| flows.insert_pair(key, &answer, observed, number, self.now_ns)) {
                    // The client talks to the backend from this port already, by another service or by itself: to the
                    // backend both would be one flow.
                    Some(Err(Refused::AnswerTaken)) => {
                        self.with_own_source(flows, (key, observed), number, to)
                    }
                    kept => (Action::Translate(to), kept.and_then(Result::ok)),
                }
            }
        } else {
            (Action::Drop(Reason::Untranslatable), None)
        };
        Decision { action, flow, backend: Some(number), is_answer: false, is_new: true }
    }

    /// The backend of a client that keeps its own: the one of its last flow, unless that was too long ago or the backend is
    /// gone or going; then another one, from now on.
    fn keep_client<K: Family>(
        &self,
        flows: &mut FlowTable<K>,
        service: &Service,
        tuple: &Tuple,
        other: impl FnOnce() -> Option<u32>,
    ) -> Option<u32> {
        let key = client_key(*tuple).and_then(|key| K::try_from(key).ok())?;
        let known = flows.lookup(&key, Observed::Other, self.now_ns);
        let kept = known.and_then(|slot| Some(flows.side(slot)?.binding()));
        let is_good = |number: &u32| self.snapshot.backend(*number).is_some_and(|backend| backend.is_active);
        let (number, slot) = match kept.filter(is_good) {
            Some(number) => (number, known),
            None => {
                let number = other()?;
                (number, flows.insert(&key, Observed::Other, number, self.now_ns).ok())
            }
        };
        if let Some(slot) = slot {
            flows.keep(slot, service.affinity_ms, self.now_ns);
        }
        Some(number)
    }

    /// The flow that an answer is of which no flow is known, with the backend's number.
    fn answered<K: Family>(&self, flows: &FlowTable<K>, tuple: &Tuple) -> Option<(u32, Tuple)> {
        self.snapshot.answered(tuple, |asks, number| {
            let key = client_key(*asks).and_then(|key| K::try_from(key).ok());
            let kept = key.and_then(|key| flows.side(flows.peek(&key, self.now_ns)?));
            kept.is_some_and(|kept| kept.binding() == number)
        })
    }

    /// The client of a flow that another node has keeps its backend here too.
    fn note_client<K: Family>(&self, flows: &mut FlowTable<K>, asks: &Tuple, number: u32) {
        let frontend = self.snapshot.frontend(asks.destination(), asks.protocol());
        let service = frontend.and_then(|frontend| self.snapshot.services.get(frontend.service));
        if let Some(service) = service.filter(|service| service.keeps_clients()) {
            let _ = self.keep_client(flows, service, asks, || Some(number));
        }
    }

    /// A packet that the table does not know and that is not for a service's port: the answer of a flow that another
    /// node has, or none of ours.
    fn not_for_a_service<K: Family>(&self, flows: &mut FlowTable<K>, key: &K, view: &View) -> Decision {
        let tuple: Tuple = (*key).into();
        let observed = view.observed();
        if let Some((number, asks)) = self.answered(flows, &tuple).filter(|_| !begins(observed)) {
            self.note_client(flows, &asks, number);
            let flow = K::try_from(asks)
                .ok()
                .and_then(|asks| flows.insert_pair(&asks, key, observed, number, self.now_ns).ok());
            let action = Action::Translate(asks.reversed());
            return Decision { action, flow, backend: Some(number), is_answer: true, is_new: true };
        }
        if self.snapshot.has_address(tuple.destination().ip()) {
            // Nothing else of ICMP has ports.
            let asks = matches!(tuple.protocol(), protocol::ICMP | protocol::ICMPV6) && tuple.ports().0 != 0;
            return if asks { Action::Local } else { Action::Drop(Reason::NoPort) }.into();
        }
        let mut decision = Decision { is_new: true, ..Action::NotOurs.into() };
        // Who talks to a backend itself gets answers from itself: they must not be taken for a service's.
        let backend = self.snapshot.backend_at(tuple.destination(), tuple.protocol());
        if (self.keeps_all || backend.is_some())
            && let Ok(answer) = K::try_from(tuple.reversed())
        {
            match (flows.insert_pair(key, &answer, observed, NOBODY, self.now_ns), backend) {
                (Ok(flow), _) => decision.flow = Some(flow),
                (Err(Refused::AnswerTaken), Some(number)) if may_begin(observed) => {
                    return self.past_a_service(flows, (key, observed), number).unwrap_or(decision);
                }
                (Err(_), _) => {}
            }
        }
        decision
    }

    /// A flow to the backend itself whose client talks to it by a service from the same port: to the backend both would be
    /// one, so this one gets a source of ours. None if there is none.
    fn past_a_service<K: Family>(
        &self,
        flows: &mut FlowTable<K>,
        (key, observed): (&K, Observed),
        number: u32,
    ) -> Option<Decision> {
        let (action, flow) = self.with_own_source(flows, (key, observed), number, (*key).into());
        matches!(action, Action::Translate(_)).then_some(Decision {
            action,
            flow,
            backend: Some(number),
            is_answer: false,
            is_new: true,
        })
    }

    /// Full NAT: `to` from a source of ours that is free.
    fn with_own_source<K: Family>(
        &self,
        flows: &mut FlowTable<K>,
        (key, observed): (&K, Observed),
        number: u32,
        to: Tuple,
    ) -> (Action, Option<Slot>) {
        let addresses = self.snapshot.pool(to.destination().ip());
        let (worker, workers) = self.worker;
        let Some(pool) = SourcePool::new(addresses, self.ports.0..=self.ports.1, worker, workers) else {
            return (Action::Drop(Reason::NoSource), None);
        };
        for (address, port) in pool.candidates(self.snapshot.hash(&(*key).into())) {
            let source = SocketAddr::new(address, port);
            // A node port may be among them.
            if self.snapshot.frontend(source, to.protocol()).is_some() {
                continue;
            }
            let Some(to) = to.with_source(source) else { continue };
            let Ok(answer) = K::try_from(to.reversed()) else { continue };
            // The backend may still remember a flow that is over, and it was another client's.
            if flows.peek(&answer, self.now_ns).is_some() {
                continue;
            }
            match flows.insert_pair(key, &answer, observed, number, self.now_ns) {
                Ok(slot) => return (Action::Translate(to), Some(slot)),
                Err(Refused::AnswerTaken) => {}
                Err(Refused::Full) => break,
            }
        }
        (Action::Drop(Reason::NoSource), None)
    }

    /// An ICMP error about the packet `about`: it goes to whoever sent that, as that sent it.
    pub(crate) fn error<K: Family>(&self, flows: &FlowTable<K>, about: &K) -> Decision {
        let about: Tuple = (*about).into();
        let asks = about.reversed();
        let Ok(key) = K::try_from(asks) else { return Action::NotOurs.into() };
        let slot = flows.peek(&key, self.now_ns);
        let side = slot.and_then(|slot| flows.side(slot));
        let flow = side.and_then(|side| side.asks());
        Decision { flow, ..self.error_action(flows, side, asks).into() }
    }

    fn error_action<K: Family>(
        &self,
        flows: &FlowTable<K>,
        side: Option<Side<'_, K>>,
        asks: Tuple,
    ) -> Action {
        if let Some(side) = side {
            if side.binding() == NOBODY {
                return Action::NotOurs;
            }
            if let Some(peer) = side.peer().and_then(|slot| flows.side(slot)) {
                return Action::TranslateError(peer.key().into());
            }
            if let Some(backend) =
                self.snapshot.backend(side.binding()).filter(|backend| !translates(backend))
            {
                return Action::Bring(*backend);
            }
        }
        // Nobody remembers: the services' tables know whose answer it was, or to whom the packet went.
        let frontend = self.snapshot.frontend(asks.destination(), asks.protocol());
        let service = frontend.and_then(|frontend| self.snapshot.services.get(frontend.service));
        let number = service.and_then(|service| self.snapshot.choose(service, &asks));
        match number.and_then(|number| Some((number, self.snapshot.backend(number)?))) {
            Some((_, backend)) if !translates(backend) => Action::Bring(*backend),
            Some((_, backend)) => match asks.with_destination(backend.address) {
                Some(to) => Action::TranslateError(to.reversed()),
                None => Action::NotOurs,
            },
            None => {
                let original = self.answered(flows, &asks);
                original.map_or(Action::NotOurs, |(_, original)| Action::TranslateError(original))
            }
        }
    }

    /// Keeps the ports of a packet whose first fragment this is.
    pub(crate) fn note_first<K: Family>(&self, flows: &mut FlowTable<K>, view: &View) {
        self.has_awaited.set(true);
        fragments::note_first(flows, (self.snapshot, self.keeps_all), view, self.now_ns);
    }

    /// A fragment without ports: it goes where the first one went.
    pub(crate) fn later_fragment<K: Family>(
        &self,
        flows: &mut FlowTable<K>,
        view: &View,
        packet: &[u8],
    ) -> (View, Decision) {
        if fragments::note_last(flows, self.snapshot, (view, packet), self.now_ns) {
            self.has_awaited.set(true);
        }
        let ports = fragments::ports(flows, view, self.now_ns);
        let whole = ports.map(|ports| View { tuple: view.tuple.with_ports(ports), ..*view });
        let Some((whole, key)) = whole.and_then(|whole| Some((whole, K::try_from(whole.tuple).ok()?))) else {
            let is_followed = fragments::is_followed(self.snapshot, self.keeps_all, &view.tuple);
            let action = if is_followed { Action::Hold } else { Action::NotOurs };
            return (*view, action.into());
        };
        let known = flows.peek(&key, self.now_ns).and_then(|slot| self.known(flows, slot));
        let decision = known.unwrap_or_else(|| {
            let seen = Seen { view: &whole, home: flows.home(&key), key };
            // Nothing in it says more about the flow.
            self.new_flow(flows, &seen, &[])
        });
        (whole, decision)
    }
}

/// The tuple of what an ICMP error is about, if the packet is one.
pub(crate) fn subject(view: &View, packet: &[u8]) -> Option<Tuple> {
    let Transport::Error(offset) = view.transport else { return None };
    View::parse_embedded(packet.get(offset..)?).ok().map(|about| about.tuple)
}

/// The protocol of entries that tell which backend a client has: reserved, no packet has it.
const CLIENTS: u8 = 255;

/// What the table knows a service's client by: its address and the frontend.
fn client_key(tuple: Tuple) -> Option<Tuple> {
    let protocol = tuple.protocol();
    let client = tuple.with_source(SocketAddr::new(tuple.source().ip(), protocol.into()))?;
    Some(match client {
        Tuple::V4(key) => Tuple::V4(V4 { protocol: CLIENTS, ..key }),
        Tuple::V6(key) => Tuple::V6(V6 { protocol: CLIENTS, ..key }),
    })
}

fn translate(to: Option<Tuple>) -> Action {
    to.map_or(Action::Drop(Reason::Untranslatable), Action::Translate)
}

/// True for a packet that there may have been no flow of before.
fn may_begin(observed: Observed) -> bool {
    observed == Observed::Other || begins(observed)
}

/// True for a packet that no flow was there before of: a SYN without ACK.
fn begins(observed: Observed) -> bool {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    matches!(observed, Observed::Tcp(flags) if flags & (SYN | ACK) == SYN)
}

/// True if a backend's packets get its address in place of the service's.
pub(crate) fn translates(backend: &Backend) -> bool {
    matches!(backend.forwarding, Forwarding::Nat | Forwarding::FullNat)
}

/// A backend that reached itself would answer itself, past us.
#[inline(always)]
pub(crate) fn is_hairpin(tuple: &Tuple, backend: &Backend) -> bool {
    tuple.source().ip() == backend.address.ip()
}

pub(crate) fn is_admitted(frontend: &Frontend, source: IpAddr) -> bool {
    frontend.source_ranges.is_empty() || frontend.source_ranges.iter().any(|range| range.contains(&source))
}
