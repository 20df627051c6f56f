//! What an interface tells of the groups it listens to (MLD version 2, RFC 3810): switches that look into these reports send a
//! group's frames only to who reported it, and neighbour discovery needs its groups (RFC 4861 §7.2.1).
//!
//! Groups that are new, or listened to no longer, are told at once and once more; queries, of version 1 too, are answered
//! after a random time by what is listened to. Nobody is kept out of a group, so a report has no sources.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::net::Ipv6Addr;

use packet::{
    ethernet::{ETHERTYPE_IPV6, Ethernet, multicast_mac_ipv6},
    icmpv6,
    ipv6::{Ipv6, MIN_MTU},
    protocol,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::advertise::spread;

/// Where reports go: all routers that speak version 2.
const ALL_REPORTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Robustness Variable (§9.1): how often a change is told.
const ROBUSTNESS: u8 = 2;
/// Unsolicited Report Interval (§9.11), within which a change is told again; here not in its first half, where what lost the
/// first report may last.
const REPEAT_NS: u64 = 1_000_000_000;
/// Least time between two answers: a flood of queries that allow no delay is not answered by a flood.
const ANSWER_INTERVAL_NS: u64 = 100_000_000;
/// Records of a report: as many as fit the least MTU of IPv6.
const MAX_RECORDS: usize = (MIN_MTU as usize - size_of::<Ipv6>() - ALERT.len() - 8) / 20;
/// A hop-by-hop header for ICMPv6 with the router alert option for MLD, padded (RFC 2711).
const ALERT: [u8; 8] = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
const ROUTER_ALERT: [u8; 4] = [5, 2, 0, 0];
const HOP_LIMIT: u8 = 1;

/// What a record says of its group (§5.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    IsExclude = 2,
    ToInclude = 3,
    ToExclude = 4,
}

/// Of which group, or of all, somebody asks, and how long answers may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    group: Option<Ipv6Addr>,
    max_delay_ns: u64,
}

/// The groups of an interface, and what is to be told of them. All it keeps is bounded by the groups.
#[derive(Default)]
pub(crate) struct Listener {
    groups: BTreeSet<Ipv6Addr>,
    /// Groups joined or left, with how often that is still to be told.
    changes: BTreeMap<Ipv6Addr, u8>,
    changes_due_ns: u64,
    /// Groups that were asked about.
    asked: BTreeSet<Ipv6Addr>,
    answer_due_ns: u64,
    answered_ns: Option<u64>,
}

impl Listener {
    /// What is listened to from now on. All nodes' group is never told of (§6).
    pub(crate) fn set_groups(&mut self, groups: BTreeSet<Ipv6Addr>, now_ns: u64) {
        for group in self.groups.symmetric_difference(&groups) {
            let _ = self.changes.insert(*group, ROBUSTNESS);
            self.changes_due_ns = now_ns;
        }
        self.groups = groups;
    }

    /// There is no link any more: what was told has no meaning on the next one.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Somebody asks (§6.2). What is asked about sources is answered for the whole group: none is kept out.
    pub(crate) fn hear(&mut self, query: Query, random: u32, now_ns: u64) {
        let was_asked = !self.asked.is_empty();
        match query.group {
            None => self.asked.clone_from(&self.groups),
            Some(group) if self.groups.contains(&group) => drop(self.asked.insert(group)),
            Some(_) => return,
        }
        let rested_ns = self.answered_ns.map_or(0, |answered| answered + ANSWER_INTERVAL_NS);
        let due_ns = (now_ns + spread(random, query.max_delay_ns)).max(rested_ns);
        self.answer_due_ns = if was_asked { due_ns.min(self.answer_due_ns) } else { due_ns };
    }

    /// When it has something to tell.
    pub(crate) fn due_ns(&self) -> u64 {
        let changes = if self.changes.is_empty() { u64::MAX } else { self.changes_due_ns };
        let answer = if self.asked.is_empty() { u64::MAX } else { self.answer_due_ns };
        changes.min(answer)
    }

    /// What is to be told now.
    pub(crate) fn take_due(&mut self, random: u32, now_ns: u64) -> Vec<(Kind, Ipv6Addr)> {
        let mut records = Vec::new();
        if self.changes_due_ns <= now_ns {
            self.changes_due_ns = now_ns + REPEAT_NS / 2 + spread(random, REPEAT_NS / 2);
            let groups = &self.groups;
            self.changes.retain(|group, left| {
                let kind = if groups.contains(group) { Kind::ToExclude } else { Kind::ToInclude };
                records.push((kind, *group));
                *left -= 1;
                *left > 0
            });
        }
        if self.answer_due_ns <= now_ns && !self.asked.is_empty() {
            self.answered_ns = Some(now_ns);
            let asked = core::mem::take(&mut self.asked);
            records.extend(asked.intersection(&self.groups).map(|group| (Kind::IsExclude, *group)));
        }
        records
    }
}

/// Reads an IPv6 packet with a query that may be answered (§6.2): of somebody on the link, with a router alert, its checksum
/// right as it comes from the dataplane. None for all else.
pub(crate) fn parse(bytes: &[u8]) -> Option<Query> {
    let (header, rest) = Ipv6::read_from_prefix(bytes).ok()?;
    let (alert, message) = rest.get(..usize::from(header.payload_length.get()))?.split_first_chunk::<8>()?;
    let is_alert = alert[..2] == ALERT[..2] && (alert[2..6] == ROUTER_ALERT || alert[4..] == ROUTER_ALERT);
    let is_query = matches!(message, [icmpv6::LISTENER_QUERY, 0, ..])
        && header.next_header == protocol::HOP_BY_HOP
        && header.hop_limit == HOP_LIMIT
        && Ipv6Addr::from(header.source).is_unicast_link_local();
    let sum = header.pseudo_header(protocol::ICMPV6, message.len() as u32).bytes(message);
    if !is_alert || !is_query || !sum.is_valid() {
        return None;
    }
    let code = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let group = Ipv6Addr::from(*message.get(8..24)?.first_chunk::<16>()?);
    let max_delay_ms = match message.len() {
        // Version 1 has nothing behind the group, and a plain number (§8.1).
        24 => u64::from(code),
        25..=27 => return None,
        // From 32,768 on it is a floating-point number (§5.1.3).
        _ if code < 0x8000 => u64::from(code),
        _ => u64::from(code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3),
    };
    let group = (!group.is_unspecified()).then_some(group);
    if group.is_some_and(|group| !group.is_multicast()) {
        return None;
    }
    Some(Query { group, max_delay_ns: max_delay_ms * 1_000_000 })
}

/// The frames of reports (§5.2) that say this.
pub(crate) fn reports(mac: [u8; 6], source: Ipv6Addr, records: &[(Kind, Ipv6Addr)]) -> Vec<Vec<u8>> {
    records.chunks(MAX_RECORDS).map(|records| report(mac, source, records)).collect()
}

fn report(mac: [u8; 6], source: Ipv6Addr, records: &[(Kind, Ipv6Addr)]) -> Vec<u8> {
    let mut message = Vec::with_capacity(8 + 20 * records.len());
    message.extend_from_slice(&[icmpv6::LISTENER_REPORT, 0, 0, 0, 0, 0]);
    message.extend_from_slice(&(records.len() as u16).to_be_bytes());
    for (kind, group) in records {
        message.extend_from_slice(&[*kind as u8, 0, 0, 0]);
        message.extend_from_slice(&group.octets());
    }
    let length = ALERT.len() + message.len();
    let header = Ipv6 {
        hop_limit: HOP_LIMIT,
        ..Ipv6::new(protocol::HOP_BY_HOP, source.octets(), ALL_REPORTS.octets(), length)
    };
    let checksum = header.pseudo_header(protocol::ICMPV6, message.len() as u32).bytes(&message).finish();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(checksum.as_bytes());
    }
    let ethernet = Ethernet {
        destination: multicast_mac_ipv6(ALL_REPORTS.octets()),
        source: mac,
        ethertype: ETHERTYPE_IPV6.into(),
    };
    [ethernet.as_bytes(), header.as_bytes(), &ALERT, &message].concat()
}
