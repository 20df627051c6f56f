//! Vectors of packets.

use core::net::IpAddr;

use buffer::VECTOR_SIZE;
use flow::{Config, Error, FlowTable, Home, V4, V6};
use rewrite::{Fragment, Header, Malformed, Tunnel, Tuple, View, translate, translate_error};
use services::Forwarding;

use crate::decide::{Action, Context, Decision, Family, Reason, subject};
use crate::snapshot::{Backend, Snapshot};

/// What is to be done with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Drop it.
    Drop(Reason),
}

/// The tunnel that a packet goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    tunnel: Tunnel,
    /// Of the packet's flow.
    hash: u64,
}

impl Encapsulation {
    /// The bytes to put in front of a packet of `inner_bytes`, of which `inner` is the start at least.
    ///
    /// # Errors
    /// [`Malformed`] if it would become too long, or a checksum covers what is not there.
    pub fn header(&self, inner: &[u8], inner_bytes: usize) -> Result<Header, Malformed> {
        // The identification is of use if the outer packet is fragmented on its way; any number that changes will do.
        self.tunnel.header(inner, inner_bytes, self.hash, self.hash as u16)
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
}

/// Who looks at packets once their flow has been found: counters, policy. So one lookup serves all.
pub trait Observer {
    /// True if flows that are not for services are to be kept too.
    fn keeps_all(&self) -> bool {
        false
    }

    /// A packet has been decided about. False: it is dropped as [`Reason::Refused`].
    fn decided(&mut self, packet: Decided<'_>) -> bool;
}

/// Nobody looks.
impl Observer for () {
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
}

/// A packet between the two passes.
#[derive(Clone, Copy)]
struct Seen {
    view: View,
    home: Home,
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
        Ok(Self { flows4, flows6, worker: (worker, workers), ports })
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
        let context = Context { snapshot, worker, ports, now_ns, keeps_all };
        let chunks = packets.chunks_mut(VECTOR_SIZE).zip(verdicts.chunks_mut(VECTOR_SIZE));
        for (chunk, (packets, verdicts)) in chunks.enumerate() {
            let mut seen = [const { None }; VECTOR_SIZE];
            for (packet, seen) in packets.iter().zip(&mut seen) {
                *seen = View::parse(packet).ok().map(|view| Seen { view, home: self.prefetch(&view.tuple) });
            }
            let columns = packets.iter_mut().zip(&seen).zip(verdicts);
            for (((packet, seen), verdict), index) in columns.zip(chunk * VECTOR_SIZE..) {
                *verdict = match seen {
                    Some(seen) => self.one(&context, packet, seen, (index, observer)),
                    None => Verdict::NotOurs,
                };
            }
        }
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

    /// The IPv4 flows.
    pub fn flows4(&self) -> &FlowTable<V4> {
        &self.flows4
    }

    /// The IPv6 flows.
    pub fn flows6(&self) -> &FlowTable<V6> {
        &self.flows6
    }

    #[inline(always)]
    fn prefetch(&self, tuple: &Tuple) -> Home {
        match tuple {
            Tuple::V4(key) => self.flows4.prefetch(key),
            Tuple::V6(key) => self.flows6.prefetch(key),
        }
    }

    #[inline(always)]
    fn one<O: Observer>(
        &mut self,
        context: &Context<'_>,
        packet: &mut [u8],
        seen: &Seen,
        observer: (usize, &mut O),
    ) -> Verdict {
        let view = &seen.view;
        let action = match view.tuple {
            Tuple::V4(key) => decide(context, &mut self.flows4, packet, (seen, &key), observer),
            Tuple::V6(key) => decide(context, &mut self.flows6, packet, (seen, &key), observer),
        };
        carry_out(context, packet, view, &action)
    }
}

#[inline(always)]
fn decide<K: Family, O: Observer>(
    context: &Context<'_>,
    flows: &mut FlowTable<K>,
    packet: &[u8],
    (seen, key): (&Seen, &K),
    (index, observer): (usize, &mut O),
) -> Action {
    let view = &seen.view;
    let Decision { action, flow, backend, is_answer, is_new } = if view.fragment == Fragment::Later {
        context.later_fragment(flows, view)
    } else if let Some(about) = subject(view, packet) {
        K::try_from(about).map_or(Action::NotOurs, |about| context.error(flows, &about)).into()
    } else {
        let slot = flows.lookup_at(seen.home, key, view.observed(), context.now_ns);
        let known = slot.and_then(|slot| context.known(flows, slot));
        let decision = known.unwrap_or_else(|| context.new_flow(flows, key, view));
        if view.fragment == Fragment::First {
            context.first_fragment(flows, view, key);
        }
        decision
    };
    let translated = match &action {
        Action::Translate(to) => Some(to),
        _ => None,
    };
    let verdict = flow.and_then(|slot| flows.entry_mut(slot)).map(|entry| &mut entry.verdict);
    let decided = Decided { index, view, translated, backend, is_answer, is_new, verdict };
    if observer.decided(decided) { action } else { Action::Drop(Reason::Refused) }
}

#[inline(always)]
fn carry_out(context: &Context<'_>, packet: &mut [u8], view: &View, action: &Action) -> Verdict {
    let translated = match action {
        Action::NotOurs => return Verdict::NotOurs,
        Action::Local => return Verdict::Local,
        Action::Drop(reason) => return Verdict::Drop(*reason),
        Action::Bring(backend) => return bring(context.snapshot, view, backend),
        Action::Translate(to) => translate(packet, view, to),
        Action::TranslateError(original) => translate_error(packet, view, original),
    };
    translated.map_or(Verdict::Drop(Reason::Untranslatable), |()| Verdict::Route)
}

fn bring(snapshot: &Snapshot, view: &View, backend: &Backend) -> Verdict {
    let gue_port = match backend.forwarding {
        Forwarding::Gue => Some(snapshot.gue_port),
        Forwarding::Ipip => None,
        _ => return Verdict::SendTo(backend.address.ip()),
    };
    let Some(outer) = snapshot.outer(backend.address.ip()) else {
        return Verdict::Drop(Reason::NoTunnelAddress);
    };
    let tunnel = Tunnel { outer, gue_port, zero_checksum6: false };
    Verdict::Encapsulate(Encapsulation { tunnel, hash: snapshot.hash(&view.tuple) })
}
