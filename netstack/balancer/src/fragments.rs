//! Packets in fragments. Only the first one has ports: they are kept in the table of flows for a while, under what all fragments
//! of the packet have, and later ones find them there. A later one that comes before is held by whoever received it
//! ([`Verdict::Hold`](crate::Verdict::Hold)). So is the first one of SCTP that goes to another port, because the checksum covers all fragments,
//! until the last one has told how many bytes that are.

use flow::{FlowTable, Observed, V4, V6};
use packet::protocol;
use rewrite::{Fragment, Transport, Tuple, View};

use crate::decide::Family;
use crate::snapshot::Snapshot;

/// How long the ports of a packet are known after its first fragment: the others are seldom a second behind, and senders
/// use identifications again.
const KNOWN_MS: u32 = 5_000;

/// The protocol of entries that tell how long a packet in fragments is: none that a packet with such ports has.
const LENGTHS: u8 = protocol::HOP_BY_HOP;

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
    if is_followed(snapshot, keeps_all, &view.tuple) {
        let (source, destination) = view.tuple.ports();
        keep(flows, view.fragments_key(), u32::from(source) << 16 | u32::from(destination), now_ns);
    }
}

/// The ports of the packet of which this is a later fragment, if its first one has come.
pub(crate) fn ports<K: Family>(flows: &FlowTable<K>, view: &View, now_ns: u64) -> Option<(u16, u16)> {
    let ports = kept(flows, view.fragments_key(), now_ns)?;
    Some(((ports >> 16) as u16, ports as u16))
}

/// True if this fragment cannot go there before the last one of its packet has come.
pub(crate) fn needs_last(view: &View, to: &Tuple) -> bool {
    view.fragment == Fragment::First && view.transport == Transport::Sctp && to.ports() != view.tuple.ports()
}

/// Keeps how long a packet is whose last fragment this is, if that matters. False if it is not, or does not.
pub(crate) fn note_last<K: Family>(
    flows: &mut FlowTable<K>,
    snapshot: &Snapshot,
    (view, packet): (&View, &[u8]),
    now_ns: u64,
) -> bool {
    if view.tuple.protocol() != protocol::SCTP || !is_followed(snapshot, false, &view.tuple) {
        return false;
    }
    let bytes = view.fragmented_bytes(packet).and_then(|bytes| u32::try_from(bytes).ok());
    bytes.map(|bytes| keep(flows, length_key(view), bytes, now_ns)).is_some()
}

/// How long the packet is of which this is a fragment, from the transport header on, if its last one has come.
pub(crate) fn bytes<K: Family>(flows: &FlowTable<K>, view: &View, now_ns: u64) -> Option<usize> {
    kept(flows, length_key(view), now_ns).map(|bytes| bytes as usize)
}

fn length_key(view: &View) -> Tuple {
    match view.fragments_key() {
        Tuple::V4(key) => Tuple::V4(V4 { protocol: LENGTHS, ..key }),
        Tuple::V6(key) => Tuple::V6(V6 { protocol: LENGTHS, ..key }),
    }
}

fn keep<K: Family>(flows: &mut FlowTable<K>, key: Tuple, what: u32, now_ns: u64) {
    let Ok(key) = K::try_from(key) else { return };
    if let Ok(slot) = flows.insert(&key, Observed::Other, what, now_ns) {
        flows.keep(slot, KNOWN_MS, now_ns);
    }
}

fn kept<K: Family>(flows: &FlowTable<K>, key: Tuple, now_ns: u64) -> Option<u32> {
    let key = K::try_from(key).ok()?;
    Some(flows.side(flows.peek(&key, now_ns)?)?.binding())
}
