//! Finds each packet's flow: packets to services get a backend, and answers their service's address back.
//!
//! Packets come here only while there are services or policies (`Context::flows`). With several workers, each has the flows of its
//! own part: what is another one's is handed over first ([`balancer::Snapshot::owner`]), so that both directions of a flow meet
//! the same table; fragments meet at one worker before. A later fragment that comes before its packet's first one is held
//! (`held.rs`). One lookup serves whoever judges flows: [`Observed`] sees every packet with its flow's entry before it is
//! rewritten.

use super::{drop_for, icmp4_error, icmp6_error, ipsec_policy, to_backend};
use crate::DropReason;
use crate::context::{Context, Scratch};
use crate::counters::{BackendCounter, WorkerCounters};
use crate::flow_events::{self, FlowEvent, FlowEventKind};
use crate::graph::{Nexts, Node};
use crate::policing::{self, Judge, Policy};
use crate::shared::Shared;
use balancer::{Balancer, Decided, Observer, Owner, Passed, Reason, Snapshot, Verdict};
use buffer::{Buf, Flags, VECTOR_SIZE, Vector};
use core::net::IpAddr;
use core::{array, mem};
use packet::{icmpv4, icmpv6};

/// Has flows looked at before packets are routed.
#[cold]
pub(super) fn redirect(cx: &mut Context<'_>, nexts: &mut [Node]) {
    cx.scratch.has_destinations = false;
    for next in nexts {
        if matches!(next, Node::Ip4Lookup | Node::Ip6Lookup) {
            *next = Node::Flow;
        }
    }
}

/// The lookup node of a packet.
pub(super) fn lookup(packet: &Buf) -> Node {
    match packet.data().first() {
        Some(first) if first >> 4 == 6 => Node::Ip6Lookup,
        _ => Node::Ip4Lookup,
    }
}

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let refused = if cx.shared.workers() > 1 { hand_over(cx, packets) } else { 0 };
    let Some(flows) = cx.flows.take() else { return };
    let count = packets.len() - refused;
    let has_untracked = cx.policy.is_some_and(Policy::has_untracked);
    let (balancer, verdicts) = flows.parts();
    if has_untracked {
        policing::judge_untracked(cx, balancer, packets);
    }
    let Scratch { lengths, interfaces, untracked, .. } = &mut *cx.scratch;
    if cx.policy.is_some() {
        let columns = packets[..count].iter().zip(interfaces);
        columns.for_each(|(packet, interface)| *interface = policing::interface_of(packet));
    }
    let mut columns = packets[..count].iter_mut().zip(lengths);
    let mut bytes: [&mut [u8]; VECTOR_SIZE] = array::from_fn(|_| {
        let Some((packet, length)) = columns.next() else { return Default::default() };
        if packet.meta().flags.contains(Flags::TX_CSUM) {
            // What the sender left of it is of the addresses as they are.
            let _ = packet.complete_checksum();
        }
        *length = packet.total_len() as u32;
        packet.data_mut()
    });
    if has_untracked {
        let judged = bytes.iter_mut().zip(&*untracked).filter(|(_, judged)| judged.is_some());
        judged.for_each(|(bytes, _)| *bytes = Default::default());
    }
    let Scratch { lengths, interfaces, groups, beginning, .. } = &mut *cx.scratch;
    let ground = (cx.shared, cx.tables, cx.counters);
    let when = (cx.policy_generation, cx.now_ns);
    let columns = (&interfaces[..], &mut groups[..], beginning);
    let judge = cx.policy.map(|policy| Judge::new(policy, ground, columns, when));
    let (shared, counters, now_ns) = (cx.shared, cx.counters, cx.now_ns);
    let backends = counters.backends.first();
    let mut observer = Observed { shared, counters, backends, lengths: &lengths[..], now_ns, judge };
    balancer.process_observed(cx.services, &mut bytes[..count], cx.now_ns, verdicts, &mut observer);
    cx.counters.flows.note(balancer);
    let is_ipv4 = balancer.had_ipv4_alone();
    let holds = lead_on(cx, (&mut packets[..count], is_ipv4), verdicts, nexts);
    if has_untracked {
        let columns = packets.iter_mut().zip(nexts.iter_mut()).zip(&cx.scratch.untracked);
        for ((packet, next), judged) in columns.take(count) {
            let Some(judged) = judged else { continue };
            *next = if judged.allow { lookup(packet) } else { drop_for(packet, DropReason::PolicyDenied) };
            packet.meta_mut().opaque[0] = u64::from(judged.by.0);
        }
    }
    nexts[count..packets.len()].fill(Node::Drop);
    if holds {
        hold(cx, packets, nexts, &verdicts[..count]);
    }
    if balancer.take_awaited() | holds {
        cx.held.look(balancer, cx.now_ns);
    }
    cx.flows = Some(flows);
    flow_events::tell_ended(cx);
}

/// Sends packets where their verdicts say, those with like verdicts that follow each other together. True if some are to be held.
#[inline(always)]
fn lead_on(
    cx: &mut Context<'_>,
    (packets, is_ipv4): (&mut [Buf], bool),
    verdicts: &[Verdict],
    nexts: &mut Nexts,
) -> bool {
    let (mut index, mut holds) = (0, false);
    let verdicts = verdicts.get(..packets.len()).unwrap_or_default();
    while let Some((verdict, verdicts)) = verdicts.get(index..).and_then(|rest| Some((rest.first()?, rest)))
        && let (Some(packets), Some(nexts)) = (packets.get_mut(index..), nexts.get_mut(index..))
    {
        index += match verdict {
            Verdict::Route | Verdict::NotOurs => route((packets, is_ipv4), verdicts, nexts),
            Verdict::SendTo(_) => to_backend::send_to_neighbours(cx, packets, verdicts, nexts),
            Verdict::Encapsulate(_) => to_backend::encapsulate(cx, packets, verdicts, nexts),
            verdict => {
                if let (Some(packet), Some(next)) = (packets.first_mut(), nexts.first_mut()) {
                    *next = unusual(cx, packet, verdict, index);
                }
                holds |= matches!(verdict, Verdict::Hold);
                1
            }
        };
    }
    holds
}

/// Has packets routed, up to the first whose verdict says something else; returns how many there are before it. Those of a vector of
/// IPv4 alone need not be looked at.
#[inline(always)]
fn route((packets, is_ipv4): (&[Buf], bool), verdicts: &[Verdict], nexts: &mut [Node]) -> usize {
    let mut count = 0;
    for ((packet, verdict), next) in packets.iter().zip(verdicts).zip(nexts) {
        let (Verdict::Route | Verdict::NotOurs) = verdict else { break };
        *next = if is_ipv4 { Node::Ip4Lookup } else { lookup(packet) };
        count += 1;
    }
    count
}

/// What is counted of packets with flows, before they are rewritten.
struct Observed<'a> {
    shared: &'a Shared,
    counters: &'a WorkerCounters,
    /// Of those, the first of backends, so that of few backends no more is looked at for each packet.
    backends: &'a [BackendCounter],
    /// Of the packets of the vector, from the IP header on.
    lengths: &'a [u32],
    now_ns: u64,
    judge: Option<Judge<'a>>,
}

impl Observer for Observed<'_> {
    fn keeps_all(&self) -> bool {
        self.judge.is_some()
    }

    #[inline(always)]
    fn foresee(&mut self, flows: impl Iterator<Item = (usize, (IpAddr, IpAddr))>) {
        if let Some(judge) = &mut self.judge {
            judge.foresee(flows);
        }
    }

    fn passes_unread(&mut self, index: usize) -> bool {
        self.judge.as_mut().is_none_or(|judge| judge.passes_unread(index))
    }

    #[inline(always)]
    fn knows(&self, kept: u32) -> bool {
        self.judge.as_ref().is_none_or(|judge| judge.has_allowed(kept))
    }

    #[inline(always)]
    fn passed(&mut self, packet: Passed<'_>) {
        if let Some(number) = packet.backend {
            let kind = (packet.is_answer, packet.is_new);
            self.count(number, kind, packet.observed, self.bytes(packet.index));
        }
        if let Some(tally) = packet.tally {
            tally.add(self.bytes(packet.index), self.now_ns);
        }
    }

    #[inline(always)]
    fn decided(&mut self, mut packet: Decided<'_>) -> bool {
        let bytes = self.bytes(packet.index);
        if let Some(number) = packet.backend {
            self.count(number, (packet.is_answer, packet.is_new), packet.view.observed(), bytes);
        }
        let passes = match &mut self.judge {
            Some(judge) => judge.allows(&mut packet, bytes),
            None => true,
        };
        if passes && let Some(tally) = &mut packet.tally {
            tally.add(bytes, self.now_ns);
            if packet.is_new && self.judge.is_none() {
                self.tell(&packet, bytes);
            }
        }
        passes
    }
}

impl Observed<'_> {
    #[inline(always)]
    fn bytes(&self, index: usize) -> u64 {
        self.lengths.get(index).map_or(0, |length| u64::from(*length))
    }

    /// A flow begins that policy is not asked about.
    #[cold]
    fn tell(&self, packet: &Decided<'_>, bytes: u64) {
        let event = FlowEvent::of_packet(FlowEventKind::Allowed, packet, bytes, self.now_ns);
        flow_events::tell(self.shared, self.counters, event);
    }

    /// What a backend had.
    #[inline(always)]
    fn count(&self, number: u32, (is_answer, is_new): (bool, bool), observed: flow::Observed, bytes: u64) {
        const RST: u8 = 4;
        let index = Snapshot::index_of(number);
        let counter = self.backends.get(index).or_else(|| self.counters.backends.get(index));
        let Some(counter) = counter.and_then(|counter| counter.of(number)) else { return };
        if is_answer {
            counter.from.add(1, bytes);
            if matches!(observed, flow::Observed::Tcp(flags) if flags & RST != 0) {
                counter.resets.add(1);
            }
        } else {
            counter.to.add(1, bytes);
        }
        if is_new {
            counter.flows.add(1);
        }
    }
}

/// Takes the packets out of a vector that are to be held, with their places in `nexts`.
#[cold]
fn hold(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts, verdicts: &[Verdict]) {
    let mut given = mem::take(packets);
    for (index, packet) in given.drain(..).enumerate() {
        let is_held = verdicts.get(index).is_some_and(|verdict| matches!(verdict, Verdict::Hold));
        let (packet, next) = match is_held {
            true => match hold_one(cx, packet) {
                Some(other) => (other, Node::Drop),
                None => continue,
            },
            false => (packet, nexts[index]),
        };
        nexts[packets.len()] = next;
        // All were in the vector before.
        let _ = packets.push(packet);
    }
}

/// Holds a fragment. Returns one that is to be dropped in its place, if the ring is full.
fn hold_one(cx: &mut Context<'_>, packet: Buf) -> Option<Buf> {
    let mut other = cx.held.hold(packet, cx.now_ns);
    if let Some(other) = &mut other {
        let _: Node = drop_for(other, DropReason::FragmentsHeldFull);
    }
    cx.balance.left += 1;
    cx.balance.entered += u64::from(other.is_some());
    cx.counters.flows.held.set(cx.held.len() as u64);
    other
}

/// Gives packets whose flow another worker has to that one. Those that are to be dropped are left at the end of the
/// vector; returns how many those are.
fn hand_over(cx: &mut Context<'_>, packets: &mut Vector) -> usize {
    let Some(flows) = cx.flows.take() else { return 0 };
    let mut given = mem::take(packets);
    let mut refused = Vector::default();
    for mut packet in given.drain(..) {
        let Some((owner, flags)) = owner(cx, flows.parts().0, &mut packet) else {
            // Each has a place that another one had.
            hold_one(cx, packet).into_iter().for_each(|other| drop(refused.push(other)));
            continue;
        };
        if owner == cx.worker {
            let _ = packets.push(packet);
            continue;
        }
        packet.meta_mut().flags.insert(flags);
        if let Err(mut packet) = cx.outbox.add(cx.shared.inbox(cx.worker), owner, packet) {
            let _: Node = drop_for(&mut packet, DropReason::HandoffFull);
            let _ = refused.push(packet);
        }
    }
    cx.flows = Some(flows);
    while let Some((to, vector)) = cx.outbox.take() {
        let count = vector.len() as u64;
        match cx.shared.hand_over(cx.worker, to, vector) {
            Ok(()) => {
                cx.balance.left += count;
                cx.counters.flows.handed_over.add(count);
            }
            Err(mut vector) => {
                for mut packet in vector.drain(..) {
                    let _: Node = drop_for(&mut packet, DropReason::HandoffFull);
                    let _ = refused.push(packet);
                }
                cx.shared.inbox(cx.worker).give_empty(vector);
            }
        }
    }
    let count = refused.len();
    // All were in the vector before.
    refused.drain(..).for_each(|packet| drop(packets.push(packet)));
    count
}

/// The worker that a packet is for, and what it is to know if that is another one. None: it is to be held.
fn owner(cx: &Context<'_>, balancer: &mut Balancer, packet: &mut Buf) -> Option<(usize, Flags)> {
    let flags = packet.meta().flags;
    packet.meta_mut().flags = flags.difference(Flags::HANDED_OVER | Flags::TO_MEET);
    if flags.contains(Flags::HANDED_OVER) && !flags.contains(Flags::TO_MEET) {
        return Some((cx.worker, flags));
    }
    let (_, workers) = balancer.worker();
    let (owner, flags) = match cx.services.owner(packet.data(), workers, balancer.ports()) {
        Owner::Flow(owner) => (owner, Flags::HANDED_OVER),
        Owner::Fragments(meeting) if usize::from(meeting) != cx.worker => {
            (meeting, Flags::HANDED_OVER | Flags::TO_MEET)
        }
        Owner::Fragments(_) => {
            let keeps_all = cx.policy.is_some();
            let owner = balancer.owner_of_fragment(cx.services, packet.data(), keeps_all, cx.now_ns)?;
            (owner, Flags::HANDED_OVER)
        }
    };
    Some((usize::from(owner), flags))
}

/// Where a packet goes that is not simply routed.
#[inline(never)]
fn unusual(cx: &mut Context<'_>, packet: &mut Buf, verdict: &Verdict, index: usize) -> Node {
    let is_v6 = packet.data().first().is_some_and(|first| first >> 4 == 6);
    match verdict {
        Verdict::NotOurs | Verdict::Route => lookup(packet),
        Verdict::SendTo(_) | Verdict::Encapsulate(_) | Verdict::Hold => Node::Drop,
        Verdict::Local => {
            let local = if is_v6 { Node::Ip6Local } else { Node::Ip4Local };
            ipsec_policy::redirected(cx.ipsec, packet, local)
        }
        Verdict::Drop(Reason::Refused) => {
            // What has denied it.
            packet.meta_mut().opaque[0] = cx.scratch.groups.get(index).map_or(0, |by| u64::from(*by));
            drop_for(packet, DropReason::PolicyDenied)
        }
        Verdict::Drop(reason) => refuse(packet, is_v6, *reason),
    }
}

/// Drops a packet. Who asked for what nobody serves is told.
fn refuse(packet: &mut Buf, is_v6: bool, reason: Reason) -> Node {
    let reason = match reason {
        Reason::NoBackend => DropReason::ServiceNoBackend,
        Reason::NoPort => DropReason::ServiceNoPort,
        Reason::SourceRange => DropReason::ServiceSourceRange,
        Reason::NoSource => DropReason::ServiceNoSource,
        Reason::Untranslatable => DropReason::ServiceUntranslatable,
        Reason::TooLong => DropReason::ServiceTooLong,
        Reason::OutOfWindow => DropReason::TcpOutOfWindow,
        Reason::Refused => DropReason::PolicyDenied,
    };
    match reason {
        DropReason::ServiceNoBackend | DropReason::ServiceNoPort if is_v6 => {
            icmp6_error(packet, reason, icmpv6::UNREACHABLE, icmpv6::UNREACHABLE_PORT, 0)
        }
        DropReason::ServiceNoBackend | DropReason::ServiceNoPort => {
            icmp4_error(packet, reason, icmpv4::UNREACHABLE, icmpv4::UNREACHABLE_PORT, 0)
        }
        reason => drop_for(packet, reason),
    }
}
