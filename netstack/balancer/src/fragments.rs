//! Packets in fragments. Only the first one has ports: they are kept in the table of flows for a while, under what all fragments
//! of the packet have, and later ones find them there. A later one that comes before is held by whoever received it
//! ([`Verdict::Hold`](crate::Verdict::Hold)).

use flow::{FlowTable, Observed};
use rewrite::{Tuple, View};

use crate::decide::Family;
use crate::snapshot::Snapshot;

/// How long the ports of a packet are known after its first fragment: the others are seldom a second behind, and senders
/// use identifications again.
const KNOWN_MS: u32 = 5_000;

/// True if a fragment's ports are wanted: it may be for a service or from a backend, or all flows are looked at.
pub(crate) fn is_followed(snapshot: &Snapshot, keeps_all: bool, tuple: &Tuple) -> bool {
    let (source, destination) = (tuple.source().ip(), tuple.destination().ip());
    keeps_all || snapshot.serves_at(destination) || snapshot.has_backend_at(source)
}

/// Keeps the ports of a packet whose first fragment this is.
pub(crate) fn note_first<K: Family>(
    flows: &mut FlowTable<K>,
    (snapshot, keeps_all): (&Snapshot, bool),
    view: &View,
    now_ns: u64,
) {
    if !is_followed(snapshot, keeps_all, &view.tuple) {
        return;
    }
    let Ok(key) = K::try_from(view.fragments_key()) else { return };
    let (source, destination) = view.tuple.ports();
    let ports = u32::from(source) << 16 | u32::from(destination);
    if let Ok(slot) = flows.insert(&key, Observed::Other, ports, now_ns) {
        flows.keep(slot, KNOWN_MS, now_ns);
    }
}

/// The ports of the packet of which this is a later fragment, if its first one has come.
pub(crate) fn ports<K: Family>(flows: &FlowTable<K>, view: &View, now_ns: u64) -> Option<(u16, u16)> {
    let key = K::try_from(view.fragments_key()).ok()?;
    let ports = flows.entry(flows.peek(&key, now_ns)?)?.binding;
    Some(((ports >> 16) as u16, ports as u16))
}
