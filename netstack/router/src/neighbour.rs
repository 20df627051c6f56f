//! One neighbour: the state machine of neighbour unreachability detection (RFC 4861 §7.3), for ARP as well.
//!
//! What upper layers know of a router's neighbours does not help: "reachable" is what a solicited answer confirms, and
//! that packets use a stale neighbour is seen from its adjacency's counter.

use alloc::vec::Vec;

use buffer::Buf;
use dataplane::AdjacencyId;

use crate::NeighbourState;

const SECOND_NS: u64 = 1_000_000_000;
/// `RETRANS_TIMER` (RFC 4861 §10).
pub(crate) const RETRANSMIT_NS: u64 = SECOND_NS;
/// `REACHABLE_TIME`; the actual time is random around it, from half to one and a half.
const REACHABLE_NS: u64 = 30 * SECOND_NS;
/// `DELAY_FIRST_PROBE_TIME`; also how often a stale neighbour is looked at for use.
const DELAY_NS: u64 = 5 * SECOND_NS;
/// `MAX_MULTICAST_SOLICIT` and `MAX_UNICAST_SOLICIT`.
const MAX_SOLICITATIONS: u8 = 3;
/// How long a neighbour that did not answer is answered for with "host unreachable".
const FAILED_NS: u64 = 3 * SECOND_NS;
/// How long after the last use a stale neighbour is forgotten.
const STALE_NS: u64 = 600 * SECOND_NS;

/// A neighbour.
pub(crate) struct Neighbour {
    pub(crate) state: NeighbourState,
    /// Zero while not known.
    pub(crate) mac: [u8; 6],
    pub(crate) is_router: bool,
    /// Number of groups that name it as next hop: it is resolved ahead of use and never forgotten.
    pub(crate) pinned: u32,
    pub(crate) adjacency: Option<AdjacencyId>,
    /// Packets, IPv6 or not, that wait for it.
    pub(crate) waiting: Vec<(Buf, bool)>,
    /// When to call [`Neighbour::on_timer`].
    pub(crate) deadline_ns: u64,
    /// The deadline that the table's timer has.
    pub(crate) armed_ns: u64,
    pub(crate) changed_ns: u64,
    /// What its adjacency's packet counter was when last looked at.
    pub(crate) packets: Option<u64>,
    solicitations: u8,
    used_ns: u64,
}

/// What follows from a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    /// Ask everybody on the link.
    SolicitAll,
    /// Ask the neighbour itself.
    SolicitOne,
    /// It did not answer: tell who wants to reach it.
    Fail,
    /// Forget it.
    Remove,
}

/// What an answer says (RFC 4861 §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advertised {
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) solicited: bool,
    pub(crate) overrides: bool,
    pub(crate) is_router: bool,
}

impl Neighbour {
    /// A neighbour about to be resolved: the first solicitation is due now.
    pub(crate) fn incomplete(now_ns: u64) -> Self {
        Self {
            state: NeighbourState::Incomplete,
            mac: [0; 6],
            is_router: false,
            pinned: 0,
            adjacency: None,
            waiting: Vec::new(),
            deadline_ns: now_ns,
            armed_ns: u64::MAX,
            changed_ns: now_ns,
            packets: None,
            solicitations: 0,
            used_ns: now_ns,
        }
    }

    /// Whether packets can be sent to it.
    pub(crate) fn is_resolved(&self) -> bool {
        !matches!(self.state, NeighbourState::Incomplete | NeighbourState::Failed)
    }

    /// Whether the configuration fixed it.
    pub(crate) fn is_permanent(&self) -> bool {
        self.state == NeighbourState::Permanent
    }

    /// Whether it may be forgotten for another's sake.
    pub(crate) fn is_expendable(&self) -> bool {
        self.pinned == 0 && matches!(self.state, NeighbourState::Stale | NeighbourState::Failed)
    }

    /// Fixes it.
    pub(crate) fn make_permanent(&mut self, mac: [u8; 6], now_ns: u64) {
        self.mac = mac;
        self.enter(NeighbourState::Permanent, u64::MAX, now_ns);
    }

    fn enter(&mut self, state: NeighbourState, deadline_ns: u64, now_ns: u64) {
        self.state = state;
        self.deadline_ns = deadline_ns;
        self.changed_ns = now_ns;
    }

    /// The deadline has passed. `used`: packets went to it since the last time.
    pub(crate) fn on_timer(&mut self, now_ns: u64, used: bool) -> Action {
        if used {
            self.used_ns = now_ns;
        }
        match self.state {
            NeighbourState::Incomplete if self.solicitations < MAX_SOLICITATIONS => {
                self.solicitations += 1;
                self.deadline_ns = now_ns + RETRANSMIT_NS;
                Action::SolicitAll
            }
            NeighbourState::Incomplete => {
                self.enter(NeighbourState::Failed, now_ns + FAILED_NS, now_ns);
                Action::Fail
            }
            NeighbourState::Reachable => {
                self.enter(NeighbourState::Stale, now_ns + DELAY_NS, now_ns);
                Action::Nothing
            }
            NeighbourState::Stale if used || self.pinned > 0 => {
                self.enter(NeighbourState::Delay, now_ns + DELAY_NS, now_ns);
                Action::Nothing
            }
            NeighbourState::Stale if now_ns.saturating_sub(self.used_ns) >= STALE_NS => Action::Remove,
            NeighbourState::Stale => {
                self.deadline_ns = now_ns + DELAY_NS;
                Action::Nothing
            }
            NeighbourState::Delay => {
                self.solicitations = 1;
                self.enter(NeighbourState::Probe, now_ns + RETRANSMIT_NS, now_ns);
                Action::SolicitOne
            }
            NeighbourState::Probe if self.solicitations < MAX_SOLICITATIONS => {
                self.solicitations += 1;
                self.deadline_ns = now_ns + RETRANSMIT_NS;
                Action::SolicitOne
            }
            // A next hop that failed gets no packets until it answers, but is asked for ever.
            NeighbourState::Failed if self.pinned > 0 => {
                self.deadline_ns = now_ns + FAILED_NS;
                Action::SolicitAll
            }
            NeighbourState::Probe if self.pinned > 0 => {
                self.enter(NeighbourState::Failed, now_ns + FAILED_NS, now_ns);
                Action::SolicitAll
            }
            NeighbourState::Failed | NeighbourState::Probe => Action::Remove,
            NeighbourState::Permanent => {
                self.deadline_ns = u64::MAX;
                Action::Nothing
            }
        }
    }

    /// It told its MAC address without being asked (RFC 4861 §7.2.3; an ARP request, RFC 826). True if the MAC address
    /// to send to changed.
    pub(crate) fn heard(&mut self, mac: [u8; 6], now_ns: u64) -> bool {
        if self.is_permanent() || (self.is_resolved() && self.mac == mac) {
            return false;
        }
        self.mac = mac;
        self.used_ns = now_ns;
        self.enter(NeighbourState::Stale, now_ns + DELAY_NS, now_ns);
        true
    }

    /// It answered (RFC 4861 §7.2.5). `random` spreads the reachable time. True if the MAC address to send to changed.
    pub(crate) fn advertised(&mut self, said: Advertised, random: u32, now_ns: u64) -> bool {
        if self.is_permanent() {
            return false;
        }
        let reachable_ns = now_ns + REACHABLE_NS / 2 + crate::advertise::spread(random, REACHABLE_NS);
        if !self.is_resolved() {
            let Some(mac) = said.mac else { return false };
            self.mac = mac;
            self.used_ns = now_ns;
            self.is_router = said.is_router;
            if said.solicited {
                self.enter(NeighbourState::Reachable, reachable_ns, now_ns);
            } else {
                self.enter(NeighbourState::Stale, now_ns + DELAY_NS, now_ns);
            }
            return true;
        }
        let new = said.mac.filter(|mac| *mac != self.mac);
        if new.is_some() && !said.overrides {
            if self.state == NeighbourState::Reachable {
                self.enter(NeighbourState::Stale, now_ns + DELAY_NS, now_ns);
            }
            return false;
        }
        self.mac = new.unwrap_or(self.mac);
        self.is_router = said.is_router;
        if said.solicited {
            self.enter(NeighbourState::Reachable, reachable_ns, now_ns);
        } else if new.is_some() {
            self.enter(NeighbourState::Stale, now_ns + DELAY_NS, now_ns);
        }
        new.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NeighbourState::{Delay, Failed, Incomplete, Permanent, Probe, Reachable, Stale};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn answer(mac: [u8; 6]) -> Advertised {
        Advertised { mac: Some(mac), solicited: true, overrides: true, is_router: false }
    }

    /// Lets the deadline pass.
    fn expire(neighbour: &mut Neighbour, used: bool) -> (Action, NeighbourState) {
        let action = neighbour.on_timer(neighbour.deadline_ns, used);
        (action, neighbour.state)
    }

    #[test]
    fn three_questions_then_failure_then_oblivion() {
        let mut neighbour = Neighbour::incomplete(0);
        for second in 0..3 {
            assert_eq!(neighbour.deadline_ns, second * SECOND_NS);
            assert_eq!(expire(&mut neighbour, false), (Action::SolicitAll, Incomplete));
        }
        assert_eq!(expire(&mut neighbour, false), (Action::Fail, Failed));
        assert_eq!(expire(&mut neighbour, false).0, Action::Remove);
        neighbour.pinned = 1;
        for _ in 0..10 {
            assert_eq!(expire(&mut neighbour, false), (Action::SolicitAll, Failed));
        }
        assert!(neighbour.advertised(answer(MAC), 0, 100 * SECOND_NS) && neighbour.state == Reachable);
    }

    #[test]
    fn use_of_a_stale_neighbour_makes_it_be_checked() {
        let mut neighbour = Neighbour::incomplete(0);
        assert!(neighbour.advertised(answer(MAC), u32::MAX / 2, 5));
        assert_eq!(neighbour.state, Reachable);
        assert!(neighbour.deadline_ns.abs_diff(30 * SECOND_NS) < SECOND_NS);
        assert_eq!(expire(&mut neighbour, true), (Action::Nothing, Stale));
        assert_eq!(expire(&mut neighbour, false), (Action::Nothing, Stale));
        assert_eq!(expire(&mut neighbour, true), (Action::Nothing, Delay));
        for _ in 0..3 {
            assert_eq!(expire(&mut neighbour, false), (Action::SolicitOne, Probe));
        }
        assert!(neighbour.is_resolved(), "packets still go to it");
        assert_eq!(expire(&mut neighbour, false).0, Action::Remove);
    }

    #[test]
    fn an_unused_neighbour_is_forgotten() {
        let mut neighbour = Neighbour::incomplete(0);
        assert!(neighbour.heard(MAC, 0));
        let mut actions = core::iter::from_fn(|| Some(expire(&mut neighbour, false).0));
        assert_eq!(actions.position(|action| action != Action::Nothing), Some(119));
    }

    #[test]
    fn what_is_heard_unasked_is_believed_but_checked() {
        let mut neighbour = Neighbour::incomplete(0);
        assert!(neighbour.heard(MAC, 0) && neighbour.state == Stale);
        let _ = neighbour.advertised(answer(MAC), 0, 1);
        assert!(!neighbour.heard(MAC, 2) && neighbour.state == Reachable);
        assert!(neighbour.heard(OTHER, 3) && neighbour.state == Stale);
    }

    #[test]
    fn an_answer_without_override_does_not_replace() {
        let mut neighbour = Neighbour::incomplete(0);
        let _ = neighbour.advertised(answer(MAC), 0, 1);
        let gentle = Advertised { overrides: false, ..answer(OTHER) };
        assert!(!neighbour.advertised(gentle, 0, 2));
        assert_eq!((neighbour.state, neighbour.mac), (Stale, MAC));
        assert!(!neighbour.advertised(gentle, 0, 3) && neighbour.state == Stale);
        let unsolicited = Advertised { solicited: false, ..answer(OTHER) };
        assert!(neighbour.advertised(unsolicited, 0, 4));
        assert_eq!((neighbour.state, neighbour.mac), (Stale, OTHER));
        let bare = Advertised { mac: None, is_router: true, ..answer(MAC) };
        assert!(!neighbour.advertised(bare, 0, 5));
        assert_eq!((neighbour.state, neighbour.mac, neighbour.is_router), (Reachable, OTHER, true));
    }

    #[test]
    fn nothing_changes_a_permanent_one() {
        let mut neighbour = Neighbour::incomplete(0);
        neighbour.make_permanent(MAC, 0);
        assert!(!neighbour.heard(OTHER, 1) && !neighbour.advertised(answer(OTHER), 0, 2));
        assert_eq!((neighbour.state, neighbour.mac, neighbour.deadline_ns), (Permanent, MAC, u64::MAX));
    }
}
