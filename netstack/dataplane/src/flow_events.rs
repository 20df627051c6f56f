//! What control is told of flows: that they begin, are denied, meet rules that log, and end.
//!
//! Told are flows, not packets: the first packet of one that passes, every packet that is denied, and with its tally each flow
//! that ends. The queue is bounded, and what has no room is counted; its last quarter is for what cannot be a flood's.

use crate::context::Context;
use crate::counters::WorkerCounters;
use crate::policing;
use crate::shared::Shared;
use balancer::{Decided, EndedFlow};
pub use flow::End;
use flow::Tally;
use policy::classifier::CounterId;
use rewrite::Tuple;

/// What happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEventKind {
    /// It is new and was let pass.
    Allowed,
    /// A packet was dropped: of no flow, or the last of one.
    Denied,
    /// A rule with the action `Log` met it.
    Logged,
    /// It is over.
    Ended(End),
}

/// What one direction has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on.
    pub bytes: u64,
}

impl From<Tally> for Traffic {
    fn from(tally: Tally) -> Self {
        Self { packets: tally.packets.into(), bytes: tally.bytes }
    }
}

/// An event of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// What happened.
    pub kind: FlowEventKind,
    /// Addresses and ports as who began the flow sends; those of ICMP are none.
    pub asked: Tuple,
    /// The same as they leave this node.
    pub sent: Tuple,
    /// Type and code of an ICMP message; zeros otherwise.
    pub icmp: (u8, u8),
    /// What decided last, or what logs; [`CounterId::NOTHING`] if policy has not been asked.
    pub by: CounterId,
    /// With staged policies enforced it would have been dropped.
    pub staged_denies: bool,
    /// Monotonic time of its first packet, or of the first that was watched.
    pub begun_ns: u64,
    /// Monotonic time of its last packet so far.
    pub last_ns: u64,
    /// What who began it has sent: of an event that is no end, the packet.
    pub asks: Traffic,
    /// What was answered.
    pub answers: Traffic,
}

impl FlowEvent {
    /// A packet of `bytes` bytes that something happens to.
    pub(crate) fn of_packet(kind: FlowEventKind, packet: &Decided<'_>, bytes: u64, now_ns: u64) -> Self {
        let seen = packet.view.tuple;
        let to = packet.translated.copied().unwrap_or(seen);
        let (asked, sent) = if packet.is_answer { (to.reversed(), seen.reversed()) } else { (seen, to) };
        let traffic = Traffic { packets: 1, bytes };
        let none = Traffic::default();
        let (asks, answers) = if packet.is_answer { (none, traffic) } else { (traffic, none) };
        Self {
            kind,
            asked,
            sent,
            icmp: packet.view.icmp,
            by: CounterId::NOTHING,
            staged_denies: false,
            begun_ns: now_ns,
            last_ns: now_ns,
            asks,
            answers,
        }
    }

    /// True if its protocol has ports.
    pub fn has_ports(&self) -> bool {
        policing::has_ports(self.asked.protocol())
    }

    fn of_end(ended: &EndedFlow) -> Self {
        Self {
            kind: FlowEventKind::Ended(ended.end),
            asked: ended.asked,
            sent: ended.sent,
            icmp: (0, 0),
            by: policing::decided_by(ended.verdict),
            staged_denies: false,
            begun_ns: ended.begun_ns,
            last_ns: ended.last_ns,
            asks: ended.asks.into(),
            answers: ended.answers.into(),
        }
    }

    /// True if nobody who forges packets can make many of them.
    pub(crate) fn is_rare(&self) -> bool {
        match self.kind {
            FlowEventKind::Ended(End::Displaced) => false,
            FlowEventKind::Ended(_) => self.answers.packets > 0,
            _ => false,
        }
    }
}

/// Tells control of an event.
pub(crate) fn tell(shared: &Shared, counters: &WorkerCounters, event: FlowEvent) {
    if !shared.tell_flow(event) {
        counters.lost_flow_events.add(1);
    }
}

/// Tells control of the flows that have ended.
#[inline]
pub(crate) fn tell_ended(cx: &mut Context<'_>) {
    let Some(flows) = cx.flows.as_deref_mut().filter(|flows| flows.balancer().flows4().is_tallied()) else {
        return;
    };
    let (shared, counters) = (cx.shared, cx.counters);
    let each = |ended| tell(shared, counters, FlowEvent::of_end(&ended));
    let lost = flows.parts().0.drain_ended(cx.now_ns, each);
    counters.lost_flow_events.add(lost);
}
