//! What may come again and again, at any rate: packets that are denied, and those that a rule logs.
//!
//! The first of them is told at once; those that follow within an interval are summed up at its end. They are the same if they
//! go from one address to the same port of another, whatever port they come from, and the same rule decides.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;
use dataplane::{FlowEvent, FlowEventKind, Traffic};

/// From one summary to the next.
const INTERVAL_NS: u64 = 10_000_000_000;
/// Different ones that are summed up at a time.
const MAX_KEYS: usize = 1024;

/// (logged rather than denied, by what, source, destination, protocol, destination port)
type Key = (bool, u32, IpAddr, IpAddr, u8, u16);

/// What repeats.
#[derive(Default)]
pub(super) struct Repeats {
    /// The first event, with what came since.
    events: BTreeMap<Key, FlowEvent>,
    due_ns: u64,
    /// Packets that no place was left for.
    pub lost: u64,
}

impl Repeats {
    /// Takes an event. True: it is to be told now.
    pub fn is_first(&mut self, event: &FlowEvent) -> bool {
        let (from, to) = (event.asked.source(), event.sent.destination());
        let port = if event.has_ports() { to.port() } else { 0 };
        let is_log = event.kind == FlowEventKind::Logged;
        let key = (is_log, event.by.0, from.ip(), to.ip(), event.asked.protocol(), port);
        let is_full = self.events.len() >= MAX_KEYS;
        if let Some(known) = self.events.get_mut(&key) {
            known.asks = sum(known.asks, event.asks);
            known.answers = sum(known.answers, event.answers);
            if known.asks.packets + known.answers.packets == 1 {
                known.begun_ns = event.begun_ns;
            }
            known.last_ns = event.last_ns;
            return false;
        }
        if is_full {
            self.lost += 1;
            return false;
        }
        let none = Traffic::default();
        let _ = self.events.insert(key, FlowEvent { asks: none, answers: none, ..*event });
        true
    }

    /// The sums of an interval that is over. What did not come again in it is forgotten.
    pub fn take_due(&mut self, now_ns: u64) -> Vec<FlowEvent> {
        if now_ns < self.due_ns {
            return Vec::new();
        }
        self.due_ns = now_ns + INTERVAL_NS;
        self.events.retain(|_, event| event.asks.packets + event.answers.packets > 0);
        let sums = self.events.values().copied().collect();
        for event in self.events.values_mut() {
            (event.asks, event.answers) = Default::default();
        }
        sums
    }
}

fn sum(one: Traffic, other: Traffic) -> Traffic {
    Traffic { packets: one.packets + other.packets, bytes: one.bytes + other.bytes }
}
