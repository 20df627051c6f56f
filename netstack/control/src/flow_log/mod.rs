//! The flow log: what workers tell of flows, with names, for whoever watches over the API and for IPFIX collectors.
//!
//! 1. [`Node::poll_flow_log`] sees whether anybody wants to know, and only then has workers tell and count;
//! 2. it takes a bounded number of events a turn, and makes [`Record`]s of them;
//! 3. what a flood can repeat, denied packets and what rules log, is told once and then summed up: [`repeats`];
//! 4. records are kept in a ring that readers follow by sequence number, and exported: [`ipfix`].
//!
//! Everything is bounded, and what is lost is counted. Nothing is kept of flows that have not ended: their end tells all.

mod endpoints;
mod export;
mod ipfix;
mod record;
mod repeats;
#[cfg(test)]
mod tests;

pub(crate) use record::{Filter, Record};

use crate::node::Node;
use alloc::{collections::VecDeque, rc::Rc, sync::Arc, vec::Vec};
use balancer::FlowTallies;
use dataplane::{FlowEvent, FlowEventKind};
use endpoints::Endpoints;
use export::Exporter;
use repeats::Repeats;

/// Records that are kept for readers.
const RECORDS: usize = 1024;
/// Events that are taken in one turn: some 200 microseconds.
const EVENTS_PER_TURN: usize = 64;
/// How often events are looked for.
const POLL_NS: u64 = 10_000_000;
/// How often workers that sleep are to look for flows that have ended.
const WAKE_NS: u64 = 20_000_000;
/// How long somebody who has asked for a page is thought to watch.
const WATCH_NS: u64 = 10_000_000_000;
/// Bytes of a flow's tallies.
const TALLY_BYTES: u64 = 53;

/// The flow log of a node.
#[derive(Default)]
pub(crate) struct FlowLog {
    records: VecDeque<Arc<Record>>,
    next: u64,
    /// Every stream holds one more.
    watchers: Rc<()>,
    watched_until_ns: u64,
    /// Workers tell of flows.
    is_following: bool,
    /// Workers count what flows carry.
    is_counting: bool,
    repeats: Repeats,
    endpoints: Endpoints,
    exporter: Exporter,
    poll_due_ns: u64,
    wake_due_ns: u64,
    /// From monotonic time to that of the calendar, if the machine knows that.
    unix_offset_ns: u64,
}

impl FlowLog {
    /// The sequence number of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Records from a sequence number on that are still there.
    pub fn since(&self, sequence: u64) -> impl Iterator<Item = &Arc<Record>> {
        let first = self.next - self.records.len() as u64;
        self.records.iter().skip(sequence.saturating_sub(first) as usize)
    }

    /// How many records from a sequence number on are not there any more.
    pub fn lost_since(&self, sequence: u64) -> u64 {
        (self.next - self.records.len() as u64).saturating_sub(sequence)
    }

    /// Somebody watches as long as this is kept.
    pub fn watch(&self) -> Rc<()> {
        self.watchers.clone()
    }

    /// Somebody has asked, and will do so again.
    pub fn touch(&mut self, now_ns: u64) {
        self.watched_until_ns = now_ns + WATCH_NS;
    }

    /// Packets whose events were not summed up for want of room.
    pub fn not_summed(&self) -> u64 {
        self.repeats.lost
    }

    /// The next packet for a collector.
    pub fn next_packet(&mut self) -> Option<Vec<u8>> {
        self.exporter.next_packet()
    }

    fn is_watched(&self, now_ns: u64) -> bool {
        Rc::strong_count(&self.watchers) > 1 || now_ns < self.watched_until_ns
    }
}

impl Node {
    /// Takes what workers tell of flows. Returns when to be called again; now, if there is more.
    pub fn poll_flow_log(&mut self) -> u64 {
        let now_ns = self.now_ns;
        let log = &self.running.config().flow_log;
        let wanted = log.always || !log.collectors.is_empty() || self.flow_log.is_watched(now_ns);
        if wanted != self.flow_log.is_following {
            self.flow_log.is_following = wanted;
            self.flow_log.poll_due_ns = now_ns;
            self.shared.follow_flows(wanted);
        }
        if wanted != self.flow_log.is_counting && self.balancing.flow_configs().is_some() {
            self.flow_log.is_counting = wanted;
            self.count_flows(wanted);
        }
        // Rules with the action `Log` are told even if nobody watches.
        let has_policy = self.shared.policy().is_some();
        if !wanted && !has_policy || now_ns < self.flow_log.poll_due_ns {
            return if wanted || has_policy { self.flow_log.poll_due_ns } else { u64::MAX };
        }
        if self.flow_log.is_counting && now_ns >= self.flow_log.wake_due_ns {
            self.flow_log.wake_due_ns = now_ns + WAKE_NS;
            self.shared.wake_workers();
        }
        let taken = self.take_flow_events();
        self.sum_up_repeats();
        self.export_flows();
        if taken < EVENTS_PER_TURN {
            self.flow_log.poll_due_ns = now_ns + if wanted { POLL_NS } else { 10 * POLL_NS };
        }
        self.flow_log.poll_due_ns
    }

    /// Has workers count what flows carry, or stop.
    fn count_flows(&mut self, wanted: bool) {
        let Some((v4, v6)) = self.balancing.flow_configs() else { return };
        let workers = self.shared.workers();
        let bytes = (v4.capacity + v6.capacity) as u64 * TALLY_BYTES;
        if wanted && !self.can_spare(bytes * workers as u64) {
            log::error!(target: "flows", "no memory to count what flows carry: their ends are not told");
            return;
        }
        for worker in 0..workers {
            let tallies = if wanted {
                FlowTallies::new((&v4, &v6)).unwrap_or_default()
            } else {
                FlowTallies::default()
            };
            let _ = self.shared.give_tallies(worker, tallies);
        }
    }

    fn take_flow_events(&mut self) -> usize {
        if let Some(unix_ns) = self.platform.unix_ns() {
            self.flow_log.unix_offset_ns = unix_ns.saturating_sub(self.now_ns);
        }
        for count in 0..EVENTS_PER_TURN {
            let Some(event) = self.shared.next_flow_event() else { return count };
            let is_told = match event.kind {
                FlowEventKind::Denied | FlowEventKind::Logged => self.flow_log.repeats.is_first(&event),
                FlowEventKind::Allowed | FlowEventKind::Ended(_) => true,
            };
            if is_told {
                self.record_flow(event);
            }
        }
        EVENTS_PER_TURN
    }

    fn sum_up_repeats(&mut self) {
        for event in self.flow_log.repeats.take_due(self.now_ns) {
            self.record_flow(event);
        }
    }

    fn record_flow(&mut self, event: FlowEvent) {
        let model = self.objects.compiled().model().clone();
        let rule = self.policy_rule(event.by);
        let log = &mut self.flow_log;
        let unix_ms = |at_ns: u64| (log.unix_offset_ns + at_ns) / 1_000_000;
        let (start_ms, end_ms) = (unix_ms(event.begun_ns), unix_ms(event.last_ns));
        let record = Arc::new(Record {
            sequence: log.next,
            start_ms,
            end_ms,
            from: log.endpoints.at(&model, event.asked.source().ip()),
            to: log.endpoints.at(&model, event.sent.destination().ip()),
            rule,
            event,
        });
        if log.exporter.is_wanted() {
            log.exporter.add(&record);
        }
        log.next += 1;
        if log.records.len() == RECORDS {
            let _ = log.records.pop_front();
        }
        log.records.push_back(record);
    }
}
