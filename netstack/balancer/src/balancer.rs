//! Vectors of packets.

use core::net::IpAddr;

use buffer::VECTOR_SIZE;
use flow::{Config, Error, FlowTable, Home, V4, V6};
use rewrite::{Fragment, Header, Tunnel, Tuple, View, translate, translate_error};
use services::Forwarding;

use crate::decide::{Context, Decision, Family, Reason, subject};
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
    /// Put this header in front, and route it by that.
    Encapsulate(Header),
    /// Drop it.
    Drop(Reason),
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
        let context = Context { snapshot, worker: self.worker, ports: self.ports, now_ns };
        for (packets, verdicts) in packets.chunks_mut(VECTOR_SIZE).zip(verdicts.chunks_mut(VECTOR_SIZE)) {
            let mut seen = [const { None }; VECTOR_SIZE];
            for (packet, seen) in packets.iter().zip(&mut seen) {
                *seen = View::parse(packet).ok().map(|view| Seen { view, home: self.prefetch(&view.tuple) });
            }
            for ((packet, seen), verdict) in packets.iter_mut().zip(&seen).zip(verdicts) {
                *verdict = match seen {
                    Some(seen) => self.one(&context, packet, seen),
                    None => Verdict::NotOurs,
                };
            }
        }
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
    fn one(&mut self, context: &Context<'_>, packet: &mut [u8], seen: &Seen) -> Verdict {
        let view = &seen.view;
        let decision = match view.tuple {
            Tuple::V4(key) => decide(context, &mut self.flows4, packet, seen, &key),
            Tuple::V6(key) => decide(context, &mut self.flows6, packet, seen, &key),
        };
        carry_out(context, packet, view, &decision)
    }
}

#[inline(always)]
fn decide<K: Family>(
    context: &Context<'_>,
    flows: &mut FlowTable<K>,
    packet: &[u8],
    seen: &Seen,
    key: &K,
) -> Decision {
    let view = &seen.view;
    if view.fragment == Fragment::Later {
        return context.later_fragment(flows, view);
    }
    if let Some(about) = subject(view, packet) {
        return K::try_from(about).map_or(Decision::NotOurs, |about| context.error(flows, &about));
    }
    let slot = flows.lookup_at(seen.home, key, view.observed(), context.now_ns);
    let known = slot.and_then(|slot| context.known(flows, slot));
    let decision = known.unwrap_or_else(|| context.new_flow(flows, key, view.observed()));
    if view.fragment == Fragment::First {
        context.first_fragment(flows, view, key);
    }
    decision
}

#[inline(always)]
fn carry_out(context: &Context<'_>, packet: &mut [u8], view: &View, decision: &Decision) -> Verdict {
    let translated = match decision {
        Decision::NotOurs => return Verdict::NotOurs,
        Decision::Drop(reason) => return Verdict::Drop(*reason),
        Decision::Bring(backend) => return bring(context.snapshot, packet, view, backend),
        Decision::Translate(to) => translate(packet, view, to),
        Decision::TranslateError(original) => translate_error(packet, view, original),
    };
    translated.map_or(Verdict::Drop(Reason::Untranslatable), |()| Verdict::Route)
}

fn bring(snapshot: &Snapshot, packet: &[u8], view: &View, backend: &Backend) -> Verdict {
    let gue_port = match backend.forwarding {
        Forwarding::Gue => Some(snapshot.gue_port),
        Forwarding::Ipip => None,
        _ => return Verdict::SendTo(backend.address.ip()),
    };
    let Some(outer) = snapshot.outer(backend.address.ip()) else {
        return Verdict::Drop(Reason::NoTunnelAddress);
    };
    let hash = snapshot.hash(&view.tuple);
    let tunnel = Tunnel { outer, gue_port, zero_checksum6: false };
    // The identification is of use if the outer packet is fragmented on its way; any number that changes will do.
    tunnel.header(packet, hash, hash as u16).map_or(Verdict::Drop(Reason::TooLong), Verdict::Encapsulate)
}
