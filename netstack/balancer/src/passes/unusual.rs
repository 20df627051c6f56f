//! Packets that are not plain, and those about which the passes' short ways do not say all.

use flow::{FlowTable, V4, V6};
use rewrite::{
    Fragment, Refused as Untranslated, Transport, Tuple, View, translate, translate_error, translate_first,
};

use super::{bring, in_window};
use crate::balancer::{Decided, Observer, Verdict};
use crate::decide::{Action, Context, Decision, Family, Reason, Seen, subject};
use crate::fragments;

/// A packet that is not plain.
pub(super) fn other<O: Observer>(
    context: &Context<'_>,
    (flows4, flows6): (&mut FlowTable<V4>, &mut FlowTable<V6>),
    packet: &mut [u8],
    observer: (usize, &mut O),
) -> Verdict {
    let Ok(view) = View::parse(packet) else {
        // The first fragment may be cut within the transport header, and the others are to go where it goes.
        if let Ok(view) = View::parse_embedded(packet)
            && view.fragment == Fragment::First
        {
            match view.tuple {
                Tuple::V4(_) => context.note_first(flows4, &view),
                Tuple::V6(_) => context.note_first(flows6, &view),
            }
        }
        let passes = observer.1.passes_unread(observer.0);
        return if passes { Verdict::NotOurs } else { Verdict::Drop(Reason::Refused) };
    };
    let view = &view;
    match view.tuple {
        Tuple::V4(key) => {
            let seen = Seen { view, home: flows4.home(&key), key };
            decide(context, flows4, packet, &seen, observer)
        }
        Tuple::V6(key) => {
            let seen = Seen { view, home: flows6.home(&key), key };
            decide(context, flows6, packet, &seen, observer)
        }
    }
}

/// A packet about which there is more to decide.
#[inline(never)]
pub(super) fn decide<K: Family, O: Observer>(
    context: &Context<'_>,
    flows: &mut FlowTable<K>,
    packet: &mut [u8],
    seen: &Seen<'_, K>,
    (index, observer): (usize, &mut O),
) -> Verdict {
    let (mut view, mut whole) = (seen.view, None);
    let Decision { action, flow, backend, is_answer, is_new } = if view.fragment == Fragment::Later {
        let (with_ports, decision) = context.later_fragment(flows, view, packet);
        view = whole.insert(with_ports);
        decision
    } else if let Some(about) = subject(view, packet) {
        K::try_from(about).map_or(Action::NotOurs.into(), |about| context.error(flows, &about))
    } else {
        // How long a packet is of which this is a fragment nobody knows.
        let has_windows = view.fragment == Fragment::Whole && flows.follows_windows(view.observed());
        if has_windows
            && let Some(slot) = flows.find_at(&seen.home)
            && !in_window(flows, slot, packet, view.transport_offset)
        {
            return Verdict::Drop(Reason::OutOfWindow);
        }
        let slot = flows.lookup_at(&seen.home, view.observed(), context.now_ns);
        let known = slot.and_then(|slot| context.known(flows, slot));
        let decision = known.unwrap_or_else(|| context.new_flow(flows, seen, packet));
        if has_windows
            && decision.is_new
            && let Some(slot) = flows.find_at(&seen.home)
        {
            let _ = in_window(flows, slot, packet, view.transport_offset);
        }
        if view.fragment == Fragment::First {
            context.note_first(flows, view);
        }
        decision
    };
    if matches!(action, Action::Hold) {
        return Verdict::Hold;
    }
    let translated = match &action {
        Action::Translate(to) => Some(to),
        _ => None,
    };
    let needs_bytes = translated.is_some_and(|to| fragments::needs_last(view, to));
    let bytes = if needs_bytes { fragments::bytes(flows, view, context.now_ns) } else { None };
    if needs_bytes && bytes.is_none() {
        // The flow begins when the packet goes.
        if let Some(slot) = flow.filter(|_| is_new) {
            flows.remove(slot);
        }
        return Verdict::Hold;
    }
    let speaks = view.fragment != Fragment::Later && !matches!(view.transport, Transport::Error(_));
    let answers = flow.filter(|_| is_answer).and_then(|slot| flows.side(slot)?.peer());
    let (verdict, tally) = flow.map_or((None, None), |asks| flows.kept_mut(asks, answers.unwrap_or(asks)));
    // An error is about a flow's packets, and none of them.
    let tally = tally.filter(|_| !matches!(view.transport, Transport::Error(_)));
    let decided = Decided { index, view, translated, backend, is_answer, is_new, verdict, tally };
    if !observer.decided(decided) {
        // A flow that is refused is none. A fragment and an error do not speak for the flow that they belong to.
        if let Some(slot) = flow.filter(|_| speaks || is_new) {
            flows.remove(slot);
        }
        return Verdict::Drop(Reason::Refused);
    }
    if let (Action::Translate(to), Some(bytes)) = (&action, bytes) {
        return routed(translate_first(packet, view, to, bytes));
    }
    carry_out(packet, (view, seen.home.hash()), &action)
}

#[inline(always)]
fn carry_out(packet: &mut [u8], (view, hash): (&View, u64), action: &Action) -> Verdict {
    match action {
        Action::NotOurs => Verdict::NotOurs,
        Action::Local => Verdict::Local,
        Action::Hold => Verdict::Hold,
        Action::Drop(reason) => Verdict::Drop(*reason),
        Action::Bring(backend) => {
            let mut verdict = Verdict::NotOurs;
            bring(hash, backend, &mut verdict);
            verdict
        }
        Action::Translate(to) => routed(translate(packet, view, to)),
        Action::TranslateError(original) => routed(translate_error(packet, view, original)),
    }
}

#[inline(always)]
fn routed(translated: Result<(), Untranslated>) -> Verdict {
    translated.map_or(Verdict::Drop(Reason::Untranslatable), |()| Verdict::Route)
}
