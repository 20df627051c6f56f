//! A vector's way through the balancer, in passes, so that cache misses overlap:
//!
//! 1. every packet's key is read and hashed, and the line asked for in which its flow would be;
//! 2. packets whose flow's entry says all, of established flows and of those that they prove nothing about, are done with. For the
//!    others the next line is asked for: that of the flow's other direction, or for a flow that is not there that of its service's
//!    table which has the backend, and once that has come, that which its answers will be in;
//! 3. those others are decided about, in the order in which they came.
//!
//! Packets of one flow stay in order: once one of them has been left to the third pass, the second one leaves the others too, as
//! only the third makes another flow of it.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use buffer::VECTOR_SIZE;
use flow::{FlowTable, Home, Observed, Segment, Slot, V4, V6};
use rewrite::{Tuple, transport_bytes};
use services::Forwarding;

use crate::balancer::{Decided, Encapsulation, Observer, Passed, Verdict};
use crate::decide::{Context, Family, Pick, Plan, Reason, Seen, translates};
use crate::snapshot::{Backend, NOBODY};

mod begin;
mod unusual;

use begin::{begin, choose, miss};
use unusual::{decide, other};

/// Flows whose backends are looked up at a time, after the services' tables have been asked about as many others: few enough that
/// there are places for all the lines that are asked for.
const CHOICES: usize = 8;

/// What is known of the packets of a vector between passes.
pub(crate) struct Lanes {
    runs: Vec<Run>,
    lanes4: Vec<Lane<V4>>,
    lanes6: Vec<Lane<V6>>,
    /// Of packets that begin flows in the usual way, in the order of `deferred`.
    plans4: Vec<Plan<V4>>,
    plans6: Vec<Plan<V6>>,
    deferred: Vec<Deferred>,
}

/// So many packets of one kind that follow each other.
#[derive(Clone, Copy)]
struct Run {
    kind: Kind,
    count: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    V4,
    V6,
    /// No plain packet.
    #[default]
    Other,
}

/// A plain packet.
#[derive(Clone, Copy)]
struct Lane<K> {
    observed: Observed,
    home: Home<K>,
}

/// A packet that is left to the third pass.
#[derive(Clone, Copy, Default)]
struct Deferred {
    index: usize,
    kind: Kind,
    next: Next,
}

/// What the second pass has found out about it.
#[derive(Clone, Copy, Default)]
enum Next {
    /// Nothing.
    #[default]
    Decide,
    /// The other direction of the flow in this slot says where it goes.
    ByPeer(Slot),
    /// It begins a flow, to the backend that this slot has. Before the second pass ends, that is looked up.
    Choose(Pick),
    /// It begins a flow as planned.
    Begin,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            runs: Vec::with_capacity(VECTOR_SIZE),
            lanes4: lanes(),
            lanes6: lanes(),
            plans4: vec![Plan::default(); VECTOR_SIZE],
            plans6: vec![Plan::default(); VECTOR_SIZE],
            deferred: vec![Deferred::default(); VECTOR_SIZE],
        }
    }
}

fn lanes<K: Family>() -> Vec<Lane<K>> {
    vec![Lane { observed: Observed::Other, home: Home::default() }; VECTOR_SIZE]
}

impl Lanes {
    /// True if the last packets that were decided about are plain ones of IPv4, all of them.
    pub(crate) fn had_ipv4_alone(&self) -> bool {
        matches!(self.runs.as_slice(), [Run { kind: Kind::V4, .. }])
    }

    /// Decides about packets, as many as a vector has at most. `first` is the index of the first.
    #[inline(always)]
    pub(crate) fn process<O: Observer>(
        &mut self,
        context: &Context<'_>,
        (flows4, flows6): (&mut FlowTable<V4>, &mut FlowTable<V6>),
        (packets, verdicts): (&mut [&mut [u8]], &mut [Verdict]),
        (first, observer): (usize, &mut O),
    ) {
        let count = packets.len().min(verdicts.len());
        let packets = packets.get_mut(..count).unwrap_or_default();
        self.read(flows4, flows6, packets);
        let deferred = self.swift(context, (flows4, flows6), (packets, verdicts), (first, observer));
        if deferred > 0 {
            observer.foresee(self.beginning(first, deferred));
        }
        self.slow(context, (flows4, flows6), (packets, verdicts), (first, deferred), observer);
    }

    /// The third pass over so many packets, as [`Lanes::swift`] goes over all.
    #[inline(always)]
    fn slow<O: Observer>(
        &self,
        context: &Context<'_>,
        (flows4, flows6): (&mut FlowTable<V4>, &mut FlowTable<V6>),
        (packets, verdicts): (&mut [&mut [u8]], &mut [Verdict]),
        (first, count): (usize, usize),
        observer: &mut O,
    ) {
        let Self { lanes4, lanes6, plans4, plans6, deferred, .. } = self;
        let deferred = deferred.get(..count).unwrap_or_default();
        let mut at = 0;
        for run in deferred.chunk_by(|one, other| one.kind == other.kind) {
            let range = at..at + run.len();
            let given = (&mut *packets, &mut *verdicts);
            let observer = (first, &mut *observer);
            match run.first().map(|deferred| deferred.kind) {
                Some(Kind::V4) => {
                    let plans = plans4.get(range).unwrap_or_default();
                    slow_run(context, flows4, given, (lanes4, plans), run, observer);
                }
                Some(Kind::V6) => {
                    let plans = plans6.get(range).unwrap_or_default();
                    slow_run(context, flows6, given, (lanes6, plans), run, observer);
                }
                _ => other_run(context, (&mut *flows4, &mut *flows6), given, run, observer),
            }
            at += run.len();
        }
    }

    /// The second pass; returns how many packets are left to the third. Those of one family that follow each other go through code
    /// of that family alone, which has few enough things to keep at hand.
    #[inline(always)]
    fn swift<O: Observer>(
        &mut self,
        context: &Context<'_>,
        (flows4, flows6): (&mut FlowTable<V4>, &mut FlowTable<V6>),
        (packets, verdicts): (&mut [&mut [u8]], &mut [Verdict]),
        (first, observer): (usize, &mut O),
    ) -> usize {
        let Self { runs, lanes4, lanes6, plans4, plans6, deferred } = self;
        let (mut index, mut left) = (0, 0);
        for &Run { kind, count } in runs.iter() {
            let range = index..index + count;
            let given = (packets.get_mut(range.clone()), verdicts.get_mut(range.clone()));
            let (Some(packets), Some(verdicts)) = given else { break };
            let numbers = (index, first);
            left = match kind {
                Kind::V4 => {
                    let lanes = lanes4.get(range).unwrap_or_default();
                    let left = Left { plans: plans4, deferred, kind, count: left };
                    swift_family(context, flows4, (packets, verdicts), lanes, left, (numbers, observer))
                }
                Kind::V6 => {
                    let lanes = lanes6.get(range).unwrap_or_default();
                    let left = Left { plans: plans6, deferred, kind, count: left };
                    swift_family(context, flows6, (packets, verdicts), lanes, left, (numbers, observer))
                }
                Kind::Other => {
                    let places = deferred.iter_mut().skip(left);
                    places.zip(range).for_each(|(place, index)| {
                        *place = Deferred { index, kind, next: Next::Decide };
                    });
                    left + count
                }
            };
            index += count;
        }
        left
    }

    /// Of the first `count` packets that are left to the third pass, those that begin flows as planned, and between whom.
    fn beginning(&self, first: usize, count: usize) -> impl Iterator<Item = (usize, (IpAddr, IpAddr))> + '_ {
        let plans = self.plans4.iter().zip(&self.plans6);
        let begin = self.deferred.iter().zip(plans).take(count);
        begin.filter(|(deferred, _)| matches!(deferred.next, Next::Begin)).filter_map(
            move |(deferred, plans)| {
                let index = deferred.index;
                let ends = match deferred.kind {
                    Kind::V4 => plans.0.ends(&self.lanes4.get(index)?.home.key()),
                    Kind::V6 => plans.1.ends(&self.lanes6.get(index)?.home.key()),
                    Kind::Other => return None,
                };
                Some((first + index, ends))
            },
        )
    }

    /// The first pass, over those of one family that follow each other at a time.
    #[inline(always)]
    fn read(&mut self, flows4: &FlowTable<V4>, flows6: &FlowTable<V6>, packets: &[&mut [u8]]) {
        let Self { runs, lanes4, lanes6, .. } = self;
        runs.clear();
        let mut first = 0;
        while let Some(rest @ [_, ..]) = packets.get(first..) {
            let four = read_run(flows4, rest, lanes4.get_mut(first..).unwrap_or_default());
            let six = match four {
                0 => read_run(flows6, rest, lanes6.get_mut(first..).unwrap_or_default()),
                _ => 0,
            };
            let run = match (four, six) {
                (0, 0) => Run { kind: Kind::Other, count: 1 },
                (0, count) => Run { kind: Kind::V6, count },
                (count, _) => Run { kind: Kind::V4, count },
            };
            first += run.count;
            // There is room for as many as a vector has packets.
            runs.push(run);
        }
    }
}

/// The first pass, up to the first packet that is no plain one of the family; returns how many there are before it.
#[inline(never)]
fn read_run<K: Family>(flows: &FlowTable<K>, packets: &[&mut [u8]], lanes: &mut [Lane<K>]) -> usize {
    let keeps_beside = flows.keeps_beside();
    let mut count = 0;
    for (packet, lane) in packets.iter().zip(lanes) {
        let Some((key, observed)) = K::read(packet) else { break };
        *lane = Lane { observed, home: flows.prefetch(&key) };
        if keeps_beside {
            flows.prefetch_tally(&lane.home);
            flows.prefetch_windows(&lane.home);
        }
        count += 1;
    }
    count
}

/// What the second pass leaves to the third.
struct Left<'a, K> {
    /// Of packets that begin flows in the usual way, by the place in `deferred`.
    plans: &'a mut [Plan<K>],
    deferred: &'a mut [Deferred],
    kind: Kind,
    count: usize,
}

/// The second pass over packets of one family, the first of which is the one with this number in the vector, of which the first is
/// the observer's of that number. Returns how many are left in all.
#[inline(always)]
fn swift_family<K: Family, O: Observer>(
    context: &Context<'_>,
    flows: &mut FlowTable<K>,
    given: (&mut [&mut [u8]], &mut [Verdict]),
    lanes: &[Lane<K>],
    left: Left<'_, K>,
    observer: ((usize, usize), &mut O),
) -> usize {
    match flows.keeps_beside() {
        false => swift_run::<_, _, false>(context, flows, given, lanes, left, observer),
        true => swift_run::<_, _, true>(context, flows, given, lanes, left, observer),
    }
}

/// The same of a table that keeps something beside its entries, or none.
#[inline(never)]
fn swift_run<K: Family, O: Observer, const BESIDE: bool>(
    context: &Context<'_>,
    flows: &mut FlowTable<K>,
    (packets, verdicts): (&mut [&mut [u8]], &mut [Verdict]),
    lanes: &[Lane<K>],
    left: Left<'_, K>,
    ((index, first), observer): ((usize, usize), &mut O),
) -> usize {
    let Left { plans, deferred, kind, mut count } = left;
    let (before, mut chosen) = (index, count);
    let columns = packets.iter_mut().zip(verdicts).zip(lanes);
    for (((packet, verdict), lane), number) in columns.zip(first + index..) {
        let given = (lane, (&mut *plans, count));
        let done = swift::<_, _, BESIDE>(context, flows, (packet, verdict), given, (number, observer));
        if let Err(next) = done
            && let Some(place) = deferred.get_mut(count)
        {
            *place = Deferred { index: number - first, kind, next };
            count += 1;
            if count - chosen == 2 * CHOICES {
                choose(context, flows, (before, lanes), (deferred, plans), chosen..chosen + CHOICES);
                chosen += CHOICES;
            }
        }
    }
    choose(context, flows, (before, lanes), (deferred, plans), chosen..count);
    count
}

/// The second pass: gives the packet its verdict, or says what is left to do.
#[inline(always)]
fn swift<K: Family, O: Observer, const BESIDE: bool>(
    context: &Context<'_>,
    flows: &mut FlowTable<K>,
    (packet, verdict): (&mut &mut [u8], &mut Verdict),
    (lane, (plans, place)): (&Lane<K>, (&mut [Plan<K>], usize)),
    (index, observer): (usize, &mut O),
) -> Result<(), Next> {
    if BESIDE
        && flows.follows_windows(lane.observed)
        && let Some(slot) = flows.find_at(&lane.home)
        && !in_window(flows, slot, packet, K::TRANSPORT_OFFSET)
    {
        *verdict = Verdict::Drop(Reason::OutOfWindow);
        return Ok(());
    }
    let Some(mut found) = flows.find_mut(&lane.home) else {
        return Err(miss(context, lane, plans.get_mut(place)));
    };
    let ((binding, kept), is_answer) = (found.kept(), found.is_answer());
    let is_bound = binding != NOBODY;
    let needs_peer = is_bound && (is_answer || !found.side().keeps_source());
    if needs_peer || !observer.knows(kept) {
        let (slot, Some(peer)) = (found.slot(), found.side().peer()) else { return Err(Next::Decide) };
        flows.prefetch_slot(peer);
        return Err(Next::ByPeer(slot));
    }
    let backend = match is_bound {
        true => Some(context.snapshot.backend(binding).ok_or(Next::Decide)?),
        false => None,
    };
    let is_usual = found.follow_usual(lane.observed, context.now_ns);
    let slot = found.slot();
    // A flow that leads nowhere from here is followed once more in the third pass, which changes nothing.
    if !is_usual || !send(lane, backend, (packet, verdict)) {
        return Err(Next::Decide);
    }
    let (observed, backend) = (lane.observed, backend.map(|backend| backend.number));
    let tally = if BESIDE { flows.tally_mut(slot) } else { None };
    // Those of flows to backends have been left to the third pass.
    let is_answer = is_answer && backend.is_none();
    observer.passed(Passed { index, observed, backend, is_answer, is_new: false, tally });
    Ok(())
}

/// The third pass over packets of one family, with their plans; `lanes` are those of the vector.
#[inline(never)]
fn slow_run<K: Family, O: Observer>(
    context: &Context<'_>,
    flows: &mut FlowTable<K>,
    (packets, verdicts): (&mut [&mut [u8]], &mut [Verdict]),
    (lanes, plans): (&[Lane<K>], &[Plan<K>]),
    run: &[Deferred],
    (first, observer): (usize, &mut O),
) {
    for (Deferred { index, next, .. }, plan) in run.iter().zip(plans) {
        let given = (packets.get_mut(*index), verdicts.get_mut(*index), lanes.get(*index));
        let (Some(packet), Some(verdict), Some(lane)) = given else { continue };
        let observer = (first + index, &mut *observer);
        later(context, flows, (packet, verdict), (lane, plan), *next, observer);
    }
}

/// The third pass over packets that are not plain.
#[inline(never)]
fn other_run<O: Observer>(
    context: &Context<'_>,
    (flows4, flows6): (&mut FlowTable<V4>, &mut FlowTable<V6>),
    (packets, verdicts): (&mut [&mut [u8]], &mut [Verdict]),
    run: &[Deferred],
    (first, observer): (usize, &mut O),
) {
    for Deferred { index, .. } in run {
        if let (Some(packet), Some(verdict)) = (packets.get_mut(*index), verdicts.get_mut(*index)) {
            *verdict = other(context, (flows4, flows6), packet, (first + index, &mut *observer));
        }
    }
}

/// The third pass, for a plain packet.
#[inline(always)]
fn later<K: Family, O: Observer>(
    context: &Context<'_>,
    flows: &mut FlowTable<K>,
    (packet, verdict): (&mut [u8], &mut Verdict),
    (lane, plan): (&Lane<K>, &Plan<K>),
    next: Next,
    (index, observer): (usize, &mut O),
) {
    let given = (&mut *packet, &mut *verdict);
    let done = match next {
        Next::ByPeer(slot) => by_peer(context, flows, given, (lane, slot), (index, &mut *observer)),
        Next::Begin => begin(context, flows, given, (lane, plan), (index, &mut *observer)),
        Next::Choose(_) | Next::Decide => None,
    };
    if done.is_none() {
        let key = lane.home.key();
        let view = key.view(lane.observed);
        let seen = Seen { view: &view, home: lane.home, key };
        *verdict = decide(context, flows, packet, &seen, (index, observer));
    }
}

/// Sends a packet of a flow to its backend, if that is bound to one. False, and nothing is done, if its addresses are to be another
/// family's.
#[inline(always)]
fn send<K: Family>(
    lane: &Lane<K>,
    backend: Option<&Backend>,
    (packet, verdict): (&mut [u8], &mut Verdict),
) -> bool {
    // Each way writes its own: what is chosen first and written then goes over the stack as a whole.
    match backend {
        None => *verdict = Verdict::NotOurs,
        Some(backend) if translates(backend) => {
            if !K::redirect(packet, backend.address) {
                return false;
            }
            *verdict = Verdict::Route;
        }
        Some(backend) => bring(lane.home.hash(), backend, verdict),
    }
    true
}

/// A packet of an established flow whose other direction says how it leaves, or what was found about the flow.
#[inline(always)]
fn by_peer<K: Family, O: Observer>(
    context: &Context<'_>,
    flows: &mut FlowTable<K>,
    (packet, outcome): (&mut [u8], &mut Verdict),
    (lane, slot): (&Lane<K>, Slot),
    (index, observer): (usize, &mut O),
) -> Option<()> {
    let key = lane.home.key();
    let side = flows.side(slot).filter(|side| side.key().is(&key))?;
    let (binding, is_answer, peer) = (side.binding(), side.is_answer(), side.peer()?);
    let to = flows.side(peer)?.key().reversed();
    let is_bound = binding != NOBODY;
    // Answers of a backend that is gone still reach their clients.
    let is_whole = is_answer || !is_bound || context.snapshot.backend(binding).is_some();
    if !is_whole || !flows.follow_usual(slot, lane.observed, context.now_ns) {
        return None;
    }
    let backend = is_bound.then_some(binding);
    let asks = if is_answer { peer } else { slot };
    let (verdict, tally) = flows.kept_mut(asks, slot);
    if verdict.as_deref().is_some_and(|kept| observer.knows(*kept)) {
        let observed = lane.observed;
        observer.passed(Passed { index, observed, backend, is_answer, is_new: false, tally });
    } else {
        let view = key.view(lane.observed);
        let translated: Option<Tuple> = is_bound.then(|| to.into());
        let translated = translated.as_ref();
        let decided =
            Decided { index, view: &view, translated, backend, is_answer, is_new: false, verdict, tally };
        if !observer.decided(decided) {
            flows.remove(slot);
            *outcome = Verdict::Drop(Reason::Refused);
            return Some(());
        }
    }
    if !is_bound {
        *outcome = Verdict::NotOurs;
        return Some(());
    }
    to.write(&key, packet);
    *outcome = Verdict::Route;
    Some(())
}

/// True if a TCP segment can be of the flow in a slot, whose windows are followed with it. One that ends within its header
/// cannot.
#[inline(never)]
fn in_window<K: Family>(
    flows: &mut FlowTable<K>,
    slot: Slot,
    packet: &[u8],
    transport_offset: usize,
) -> bool {
    let segment = transport_bytes(packet, transport_offset)
        .and_then(|bytes| Segment::read(packet.get(transport_offset..)?, bytes));
    segment.is_some_and(|segment| flows.admits(slot, &segment))
}

/// Each way writes its own verdict, as [`send`] does.
#[inline(always)]
fn bring(hash: u64, backend: &Backend, verdict: &mut Verdict) {
    match (backend.forwarding, backend.address) {
        (Forwarding::Gue | Forwarding::Ipip, _) => {
            *verdict = Verdict::Encapsulate(Encapsulation { backend: backend.number, hash });
        }
        (_, SocketAddr::V4(address)) => *verdict = Verdict::SendTo(IpAddr::V4(*address.ip())),
        (_, SocketAddr::V6(address)) => *verdict = Verdict::SendTo(IpAddr::V6(*address.ip())),
    }
}
