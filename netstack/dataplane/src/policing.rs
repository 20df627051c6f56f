//! Policy as workers have it: what decides, what of this node it depends on, and what is kept of a verdict with a flow.

use crate::context::Context;
use crate::counters::WorkerCounters;
use crate::flow_events::{self, FlowEvent, FlowEventKind};
use crate::graph::Node;
use crate::shared::Shared;
use crate::tables::{InterfaceId, Tables};
use alloc::vec::Vec;
use balancer::{Balancer, Decided};
use buffer::{Buf, Flags, VECTOR_SIZE, Vector};
use core::net::IpAddr;
use policy::classifier::{Classifier, Compiler, CounterId, Ends, HostId, Judged, Record, Way};
use policy::model::{Direction, Packet, protocol};
use policy::reference::Stage;
use rewrite::{Transport, Tuple, View};

/// What a kept verdict was decided by.
pub(crate) fn decided_by(kept: u32) -> CounterId {
    CounterId(kept & ((1 << COUNTER_BITS) - 1))
}

/// Bits of a kept verdict that are the number of what decided; those above are the policy's generation, never 0.
const COUNTER_BITS: u32 = 20;
const GENERATIONS: u32 = (1 << (32 - COUNTER_BITS)) - 1;
/// Verdicts of so many generations ago are forgotten, long before their number comes again.
const OLD: u32 = GENERATIONS / 4;
/// After so many changes, a verdict that was not [`OLD`] when all were looked at may have a number that comes again.
const LOOK_AFTER: u32 = GENERATIONS - OLD - 1;
/// In the column of interfaces: the packet is this node's own.
const OWN: u16 = u16::MAX;

/// Types of ICMPv6: of listener reports (RFC 2710) and of neighbour discovery (RFC 4861).
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 130..=136;

const _: () = assert!(1 << COUNTER_BITS == policy::classifier::COUNTERS_MAX);

/// What decides by policy on this node.
pub struct Policy {
    pub(crate) classifier: Classifier,
    /// Of each interface by its number, the host endpoint that it is.
    hosts: Vec<Option<HostId>>,
    /// Some host endpoint has policies with `doNotTrack`.
    has_untracked: bool,
}

/// Tells verdicts of now from those of before: policy has changed, or addresses have come into other sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    changes: u32,
    /// What verdicts have of it: never 0.
    number: u32,
}

impl Generation {
    /// After so many changes.
    pub(crate) fn after(changes: u32) -> Self {
        Self { changes, number: changes % GENERATIONS + 1 }
    }

    /// What is kept of a verdict that lets a flow pass.
    fn keep(self, by: CounterId) -> u32 {
        self.number << COUNTER_BITS | by.0 & ((1 << COUNTER_BITS) - 1)
    }

    #[inline(always)]
    fn has(self, kept: u32) -> bool {
        kept >> COUNTER_BITS == self.number
    }

    /// Forgets a verdict whose generation's number will come again.
    pub(crate) fn forget_old(self, kept: &mut u32) {
        let age = (self.number + GENERATIONS - (*kept >> COUNTER_BITS)) % GENERATIONS;
        if *kept != 0 && age > OLD {
            *kept = 0;
        }
    }

    /// True if policy has changed so often since all verdicts were looked at that they must be before one is believed.
    pub(crate) fn is_far_from(self, looked_at: Self) -> bool {
        self.changes.wrapping_sub(looked_at.changes) > LOOK_AFTER
    }
}

impl Policy {
    /// Decides by a classifier, of which these interfaces are host endpoints.
    pub fn new(classifier: Classifier, interfaces: impl IntoIterator<Item = (InterfaceId, HostId)>) -> Self {
        let mut hosts: Vec<Option<HostId>> = Vec::new();
        for (InterfaceId(number), host) in interfaces {
            let place = usize::from(number);
            if hosts.len() <= place {
                hosts.resize(place + 1, None);
            }
            hosts[place] = Some(host);
        }
        let untracked = |host: &HostId| {
            [Direction::Ingress, Direction::Egress]
                .into_iter()
                .any(|direction| classifier.asks(*host, Stage::Untracked, direction))
        };
        let has_untracked = hosts.iter().flatten().any(untracked);
        Self { classifier, hosts, has_untracked }
    }

    /// The same while addresses move from where it has them to where the newest classifier of `compiler` does.
    pub fn awaiting(&self, compiler: &Compiler) -> Self {
        Self { classifier: self.classifier.awaiting(compiler), hosts: self.hosts.clone(), ..*self }
    }

    /// The classifier.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// True if some packets pass without a flow.
    pub(crate) fn has_untracked(&self) -> bool {
        self.has_untracked
    }

    /// True if the node's own packets are judged too.
    pub(crate) fn is_about_the_node(&self) -> bool {
        !self.hosts.is_empty()
    }

    fn host(&self, interface: u16) -> Option<HostId> {
        self.hosts.get(usize::from(interface)).copied().flatten()
    }
}

/// Without host endpoints.
impl From<Classifier> for Policy {
    fn from(classifier: Classifier) -> Self {
        Self::new(classifier, [])
    }
}

/// Packets of a vector that begin flows between IPv4 addresses, with the classes of these, which were looked up together.
pub(crate) struct Beginning {
    count: usize,
    /// Sources and destinations.
    addresses: [[u32; VECTOR_SIZE]; 2],
    classes: [[u32; VECTOR_SIZE]; 2],
    /// Of each packet of the vector, one more than its place in these columns; 0 if it has none.
    places: [u16; VECTOR_SIZE],
}

impl Beginning {
    pub(crate) fn new() -> Self {
        let columns = [[0; VECTOR_SIZE]; 2];
        Self { count: 0, addresses: columns, classes: columns, places: [0; VECTOR_SIZE] }
    }

    fn clear(&mut self) {
        if self.count > 0 {
            self.places.fill(0);
            self.count = 0;
        }
    }

    fn add(&mut self, index: usize, ends: [u32; 2]) {
        let [sources, destinations] = &mut self.addresses;
        let columns = (sources.get_mut(self.count), destinations.get_mut(self.count));
        if let (Some(source), Some(destination)) = columns
            && let Some(place) = self.places.get_mut(index)
        {
            [*source, *destination] = ends;
            self.count += 1;
            *place = self.count as u16;
        }
    }

    /// The classes of a packet's ends, if it begins the flow that was foreseen.
    #[inline(always)]
    fn classes(&self, index: usize, flow: &Packet) -> Option<(u32, u32)> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (flow.source, flow.destination) else {
            return None;
        };
        let place = usize::from(*self.places.get(index)?).checked_sub(1)?;
        let of = |columns: &[[u32; VECTOR_SIZE]; 2]| Some((*columns[0].get(place)?, *columns[1].get(place)?));
        let is_it = of(&self.addresses) == Some((source.to_bits(), destination.to_bits()));
        of(&self.classes).filter(|_| is_it)
    }
}

/// Judges the packets of a vector.
pub(crate) struct Judge<'a> {
    policy: &'a Policy,
    shared: &'a Shared,
    tables: &'a Tables,
    counters: &'a WorkerCounters,
    /// The interface that each packet came in by, or [`OWN`].
    interfaces: &'a [u16],
    /// What has denied each packet that is denied.
    denied: &'a mut [u32],
    beginning: &'a mut Beginning,
    generation: Generation,
    now_ns: u64,
    /// Of the packet that is being judged.
    record: Record,
}

/// Where a packet came from, as the column of interfaces has it.
#[inline(always)]
pub(crate) fn interface_of(packet: &Buf) -> u16 {
    let meta = packet.meta();
    if meta.flags.contains(Flags::ORIGINATED) { OWN } else { meta.rx_interface }
}

impl<'a> Judge<'a> {
    pub(crate) fn new(
        policy: &'a Policy,
        (shared, tables, counters): (&'a Shared, &'a Tables, &'a WorkerCounters),
        (interfaces, denied, beginning): (&'a [u16], &'a mut [u32], &'a mut Beginning),
        (generation, now_ns): (Generation, u64),
    ) -> Self {
        beginning.clear();
        let record = Record::default();
        Self { policy, shared, tables, counters, interfaces, denied, beginning, generation, now_ns, record }
    }

    /// Looks up the classes of addresses that flows are going to be between.
    pub(crate) fn foresee(&mut self, flows: impl Iterator<Item = (usize, (IpAddr, IpAddr))>) {
        for (index, ends) in flows {
            if let (IpAddr::V4(source), IpAddr::V4(destination)) = ends {
                self.beginning.add(index, [source.to_bits(), destination.to_bits()]);
            }
        }
        let Beginning { count, addresses, classes, .. } = &mut *self.beginning;
        for (addresses, classes) in addresses.iter().zip(classes) {
            self.policy.classifier.classes_of_ipv4(&addresses[..*count], classes);
        }
    }

    /// True if a packet passes. Of a flow that has been judged by this policy that is all there is to see.
    #[inline(always)]
    pub(crate) fn allows(&mut self, packet: &mut Decided<'_>, bytes: u64) -> bool {
        packet.verdict.as_deref().is_some_and(|kept| self.has_allowed(*kept)) || self.judge(packet, bytes)
    }

    /// True if what is kept with a flow says that this policy lets it pass.
    #[inline(always)]
    pub(crate) fn has_allowed(&self, kept: u32) -> bool {
        self.generation.has(kept)
    }

    /// A packet that ends within its headers, or has more of them than anybody needs, is none that a rule could allow.
    pub(crate) fn passes_unread(&mut self, index: usize) -> bool {
        if let Some(place) = self.denied.get_mut(index) {
            *place = CounterId::NOTHING.0;
        }
        false
    }

    #[inline(never)]
    fn judge(&mut self, packet: &mut Decided<'_>, bytes: u64) -> bool {
        // Without neighbour discovery no address is reached that a rule allows (as in Calico).
        let (kind, _) = packet.view.icmp;
        if packet.view.tuple.protocol() == protocol::ICMPV6 && NEIGHBOUR_DISCOVERY.contains(&kind) {
            return true;
        }
        // An error about a packet of a flow that passes, and the rest of a packet whose start passed, belong to it.
        let belongs = matches!(packet.view.transport, Transport::Error(_))
            || packet.view.fragment == rewrite::Fragment::Later;
        let was_judged = packet.verdict.as_deref().is_some_and(|kept| *kept != 0);
        if belongs && was_judged {
            return true;
        }
        let flow = flow_of(packet, belongs);
        let interface = self.interfaces.get(packet.index).copied().unwrap_or(OWN);
        self.record.clear();
        let judged = self.before_translation(packet, interface).unwrap_or_else(|passes| {
            let ends = self.ends(&flow, interface, passes);
            let classifier = &self.policy.classifier;
            let foreseen = self.beginning.classes(packet.index, &flow);
            let classes = foreseen.unwrap_or_else(|| classifier.classes(&flow));
            classifier.judge_flow(&flow, classes, &ends, &mut self.record)
        });
        note(self.counters, &self.record);
        // Of a flow that goes on under another policy there is nothing to tell.
        if !(judged.allow && was_judged) {
            self.tell(packet, judged, bytes);
        }
        if judged.allow {
            if let Some(kept) = packet.verdict.as_deref_mut().filter(|_| !belongs) {
                *kept = self.generation.keep(judged.by);
            }
        } else if let Some(place) = self.denied.get_mut(packet.index) {
            *place = judged.by.0;
        }
        judged.allow
    }

    /// Policies with `preDNAT`: what they drop, or else whether they have let it pass.
    fn before_translation(&mut self, packet: &Decided<'_>, interface: u16) -> Result<Judged, bool> {
        let host = self.policy.host(interface).filter(|_| !packet.is_answer).ok_or(false)?;
        let original = as_packet(&packet.view.tuple, packet.view.icmp);
        match self.policy.classifier.judge_before_translation(&original, host, &mut self.record) {
            Some(judged) if judged.allow => Err(true),
            Some(judged) => Ok(judged),
            None => Err(false),
        }
    }

    /// The host endpoints that a flow passes. `passes` the one that it comes in by already.
    fn ends(&self, flow: &Packet, interface: u16, passes: bool) -> Ends {
        let is_own = interface == OWN;
        let own_way = if is_own { Way::FromNode } else { Way::Forwarded };
        if !self.policy.is_about_the_node() {
            return Ends { from: None, to: None, way: own_way };
        }
        let (leaves_by, is_local) = route(self.shared, self.tables, flow.destination);
        let way = if is_local && !is_own { Way::ToNode } else { own_way };
        let from = if is_own || passes { None } else { self.policy.host(interface) };
        let to = if is_local { None } else { self.policy.host(leaves_by) };
        Ends { from, to, way }
    }

    /// Tells control of a flow, if anybody wants to know. Of a flow that is not kept every packet would be a new one.
    fn tell(&self, packet: &Decided<'_>, judged: Judged, bytes: u64) {
        let record = &self.record;
        let verdict = self.shared.follows_flows() && (!judged.allow || packet.verdict.is_some());
        if !verdict && record.logs.as_slice().is_empty() {
            return;
        }
        let kind = if judged.allow { FlowEventKind::Allowed } else { FlowEventKind::Denied };
        let event = FlowEvent {
            by: judged.by,
            staged_denies: record.staged_denies,
            ..FlowEvent::of_packet(kind, packet, bytes, self.now_ns)
        };
        let log = |by: &CounterId| FlowEvent { kind: FlowEventKind::Logged, by: *by, ..event };
        for event in record.logs.as_slice().iter().map(log).chain(verdict.then_some(event)) {
            flow_events::tell(self.shared, self.counters, event);
        }
    }
}

fn note(counters: &WorkerCounters, record: &Record) {
    let rule = |counter: &CounterId| counters.rules.get(counter.0 as usize);
    record.hits.as_slice().iter().filter_map(rule).for_each(|rule| rule.hits.add(1));
    record.staged.as_slice().iter().filter_map(rule).for_each(|rule| rule.staged.add(1));
    record.logs.as_slice().iter().filter_map(rule).for_each(|rule| rule.logs.add(1));
}

/// Notes in `scratch.untracked` what policies with `doNotTrack` say of packets. A later fragment is judged by its packet's ports;
/// until these are known it is left to be held.
#[cold]
pub(crate) fn judge_untracked(cx: &mut Context<'_>, balancer: &mut Balancer, packets: &Vector) {
    for (index, packet) in packets.iter().enumerate() {
        let judged = View::parse(packet.data()).ok().and_then(|mut view| {
            view.tuple = balancer.flow_of(cx.services, &view, true, cx.now_ns)?;
            untracked(cx, &view, packet)
        });
        if let Some(place) = cx.scratch.untracked.get_mut(index) {
            *place = judged;
        }
    }
}

/// What policies with `doNotTrack` say of a packet.
fn untracked(cx: &Context<'_>, view: &View, packet: &Buf) -> Option<Judged> {
    let policy = cx.policy.filter(|policy| policy.has_untracked)?;
    let seen = as_packet(&view.tuple, view.icmp);
    let mut record = Record::default();
    let (leaves_by, is_local) = route(cx.shared, cx.tables, seen.destination);
    let from = policy.host(interface_of(packet)).map(|host| (host, Direction::Ingress));
    let to = policy.host(leaves_by).filter(|_| !is_local).map(|host| (host, Direction::Egress));
    let mut judged = None;
    for (host, direction) in [from, to].into_iter().flatten() {
        let at_host = policy.classifier.judge_untracked(&seen, host, direction, &mut record);
        judged = at_host.or(judged);
        if at_host.is_some_and(|judged| !judged.allow) {
            break;
        }
    }
    note(cx.counters, &record);
    if let Some(denied) = judged.filter(|judged| !judged.allow) {
        tell_denied(cx, view, packet.total_len() as u64, denied.by);
    }
    // A failsafe port is no reason to go without a flow.
    judged.filter(|judged| judged.by != CounterId::FAILSAFE)
}

/// Tells control of a packet that is denied without having a flow, if anybody wants to know.
fn tell_denied(cx: &Context<'_>, view: &View, bytes: u64, by: CounterId) {
    if !cx.shared.follows_flows() {
        return;
    }
    let (verdict, tally, translated, backend) = (None, None, None, None);
    let (index, is_answer, is_new) = (0, false, true);
    let packet = Decided { index, view, translated, backend, is_answer, is_new, verdict, tally };
    let event = FlowEvent::of_packet(FlowEventKind::Denied, &packet, bytes, cx.now_ns);
    flow_events::tell(cx.shared, cx.counters, FlowEvent { by, ..event });
}

/// The interface that packets to an address leave by, and whether the address is this node's.
fn route(shared: &Shared, tables: &Tables, destination: IpAddr) -> (u16, bool) {
    let group = match destination {
        IpAddr::V4(address) => shared.fib4().lookup(address.to_bits()),
        IpAddr::V6(address) => shared.fib6().lookup(address.to_bits()),
    };
    // Next hops of one group may leave by several interfaces; the first speaks for them.
    let row = tables.adjacency(tables.group(group).first);
    let next = if destination.is_ipv4() { row.next4 } else { row.next6 };
    (row.tx_interface, matches!(next, Node::Ip4Local | Node::Ip6Local))
}

/// A packet's flow from who began it, with the receiver that it really has.
#[inline(always)]
fn flow_of(packet: &Decided<'_>, as_it_is: bool) -> Packet {
    let seen = &packet.view.tuple;
    let to = packet.translated.unwrap_or(seen);
    let turns = packet.is_answer && !as_it_is;
    let icmp = match packet.view.transport {
        // Whichever came first, a flow of echoes is asked for.
        Transport::Echo if packet.is_answer => (if matches!(seen, Tuple::V4(_)) { 8 } else { 128 }, 0),
        _ => packet.view.icmp,
    };
    // Neither ends nor addresses are moved as a whole: what has just been put together makes the processor wait.
    match (seen, to) {
        (Tuple::V4(seen), Tuple::V4(to)) if turns => {
            let (from, to) = ((to.destination, to.destination_port), (seen.source, seen.source_port));
            between(from, to, seen.protocol, icmp)
        }
        (Tuple::V4(seen), Tuple::V4(to)) => {
            let (from, to) = ((seen.source, seen.source_port), (to.destination, to.destination_port));
            between(from, to, seen.protocol, icmp)
        }
        (Tuple::V6(seen), Tuple::V6(to)) if turns => {
            let (from, to) = ((to.destination, to.destination_port), (seen.source, seen.source_port));
            between(from, to, seen.protocol, icmp)
        }
        (Tuple::V6(seen), Tuple::V6(to)) => {
            let (from, to) = ((seen.source, seen.source_port), (to.destination, to.destination_port));
            between(from, to, seen.protocol, icmp)
        }
        // Nothing is translated to the other family.
        _ => as_packet(seen, icmp),
    }
}

#[inline(always)]
fn between<A: Into<IpAddr>>(from: (A, u16), to: (A, u16), protocol: u8, icmp: (u8, u8)) -> Packet {
    let ports = has_ports(protocol);
    Packet {
        source: from.0.into(),
        destination: to.0.into(),
        protocol,
        source_port: if ports { from.1 } else { 0 },
        destination_port: if ports { to.1 } else { 0 },
        icmp,
    }
}

fn as_packet(tuple: &Tuple, icmp: (u8, u8)) -> Packet {
    let ports = if has_ports(tuple.protocol()) { tuple.ports() } else { (0, 0) };
    Packet {
        source: tuple.source().ip(),
        destination: tuple.destination().ip(),
        protocol: tuple.protocol(),
        source_port: ports.0,
        destination_port: ports.1,
        icmp,
    }
}

/// ICMP's echoes have their identifiers there.
pub(crate) fn has_ports(number: u8) -> bool {
    !matches!(number, protocol::ICMP | protocol::ICMPV6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_current_for_one_generation_and_forgotten_before_its_number_comes_again() {
        let first = Generation::after(GENERATIONS - 1);
        let mut kept = first.keep(CounterId(77));
        assert!(first.has(kept) && !first.has(0));
        let next = Generation::after(GENERATIONS);
        assert!(!next.has(kept));
        next.forget_old(&mut kept);
        assert!(kept != 0, "it may still speak for errors about its flow");
        Generation::after(GENERATIONS + OLD + 1).forget_old(&mut kept);
        assert_eq!(kept, 0);
    }
}
