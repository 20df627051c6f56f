//! Flows that begin in the usual way: what is found out in the second pass, and done in the third.

use core::ops::Range;

use flow::{Answers, FlowTable, Newcomer, Refused, Slot};
use rewrite::Tuple;

use super::{Deferred, Lane, Next, in_window, send};
use crate::balancer::{Decided, Observer, Passed, Verdict};
use crate::decide::{Context, Family, Keeps, Plan, Reason, translates};
use crate::snapshot::{Backend, NOBODY};

/// What is left to do for a packet whose flow is not there. Apart, so that the way of established flows has registers for all that
/// it needs.
#[inline(never)]
pub(super) fn miss<K: Family>(context: &Context<'_>, lane: &Lane<K>, plan: Option<&mut Plan<K>>) -> Next {
    let key = &lane.home.key();
    let next = match context.snapshot.frontend(key.destination(), key.protocol()) {
        Some(frontend) => context.pick(frontend, key).map(Next::Choose),
        None => plan.and_then(|plan| context.plan_for_nobody(key, plan)).map(|()| Next::Begin),
    };
    next.unwrap_or_default()
}

/// Looks up the backends of flows that begin among those in this range of `deferred`, their services' tables having come; the first
/// of `lanes` is of this number.
#[inline(never)]
pub(super) fn choose<K: Family>(
    context: &Context<'_>,
    flows: &FlowTable<K>,
    (first, lanes): (usize, &[Lane<K>]),
    (deferred, plans): (&mut [Deferred], &mut [Plan<K>]),
    range: Range<usize>,
) {
    let deferred = deferred.get_mut(range.clone()).unwrap_or_default();
    let plans = plans.get_mut(range).unwrap_or_default();
    for (Deferred { index, next, .. }, plan) in deferred.iter_mut().zip(plans) {
        if let Next::Choose(pick) = *next {
            let lane = lanes.get(*index - first);
            let planned = lane.and_then(|lane| context.plan(flows, (&lane.home.key(), pick), plan));
            *next = planned.map_or(Next::Decide, |()| Next::Begin);
        }
    }
}

/// Begins a flow as planned, and gives the packet its verdict, where it is to be. None if a packet before this one has begun it.
#[inline(always)]
pub(super) fn begin<K: Family, O: Observer>(
    context: &Context<'_>,
    flows: &mut FlowTable<K>,
    (packet, verdict): (&mut [u8], &mut Verdict),
    (lane, plan): (&Lane<K>, &Plan<K>),
    (index, observer): (usize, &mut O),
) -> Option<()> {
    let is_bound = plan.number != NOBODY;
    let backend = if is_bound { Some(context.snapshot.backend(plan.number)?) } else { None };
    let newcomer = |answers| Newcomer {
        asks: &lane.home,
        answers,
        observed: lane.observed,
        binding: plan.number,
        now_ns: context.now_ns,
    };
    let newcomer = match &plan.keeps {
        Keeps::Pair(answers) => Some(newcomer(Answers::Other(answers))),
        Keeps::Both => Some(newcomer(Answers::Same)),
        Keeps::One => Some(newcomer(Answers::Elsewhere)),
        Keeps::Nothing => None,
    };
    let begun = match &newcomer {
        Some(flow) if observer.knows(0) => flows.begin_at_home(flow),
        _ => None,
    };
    let slot = match begun {
        Some(slot) => {
            let (observed, backend) = (lane.observed, is_bound.then_some(plan.number));
            observer.passed(Passed { index, observed, backend, is_answer: false, is_new: true, tally: None });
            Some(slot)
        }
        None => match begin_judged(flows, (lane, backend), newcomer.as_ref(), (index, observer))? {
            Ok(slot) => slot,
            Err(refused) => {
                *verdict = Verdict::Drop(refused);
                return Some(());
            }
        },
    };
    if let Some(slot) = slot
        && flows.follows_windows(lane.observed)
    {
        let _ = in_window(flows, slot, packet, K::TRANSPORT_OFFSET);
    }
    // What is planned leads to the same family.
    let _ = send(lane, backend, (packet, verdict));
    Some(())
}

/// Begins a flow if the observer lets it pass, wherever there is room; the slot, if it is kept. None if a packet before this one
/// has begun it.
#[inline(never)]
fn begin_judged<K: Family, O: Observer>(
    flows: &mut FlowTable<K>,
    (lane, backend): (&Lane<K>, Option<&Backend>),
    newcomer: Option<&Newcomer<'_, K>>,
    (index, observer): (usize, &mut O),
) -> Option<Result<Option<Slot>, Reason>> {
    let at_home = newcomer.and_then(|flow| flows.room_at_home(flow));
    if at_home.is_none() && flows.find_at(&lane.home).is_some() {
        return None;
    }
    let room = match (at_home, newcomer) {
        (None, Some(flow)) => match flows.room(flow) {
            Err(Refused::AnswerTaken) => return None,
            // A flow that is not taken is served all the same, by the service's table alone.
            room => room.ok(),
        },
        (room, _) => room,
    };
    let to = backend.filter(|backend| translates(backend)).map(|backend| backend.address);
    let key = lane.home.key();
    let view = key.view(lane.observed);
    let translated: Option<Tuple> = to.and_then(|to| key.with_destination(to)).map(Into::into);
    let mut kept = 0;
    let decided = Decided {
        index,
        view: &view,
        translated: translated.as_ref(),
        backend: backend.map(|backend| backend.number),
        is_answer: false,
        is_new: true,
        verdict: room.as_ref().map(|_| &mut kept),
        tally: room.as_ref().and_then(|room| flows.tally_in(room)),
    };
    // Who is refused takes nobody's place.
    if !observer.decided(decided) {
        return Some(Err(Reason::Refused));
    }
    Some(Ok(newcomer.zip(room).map(|(flow, room)| flows.begin(flow, room, kept))))
}
