//! Encrypts by the tunnel's SA (RFC 4303), a vector at a time; what comes out is a packet of this node, and is routed.
//!
//! The tunnel is in `opaque[1]`, and [`CUT`] with it if the packet is a piece that was made for the tunnel. A packet that
//! the path of the outer packets is known not to take is cut or refused here, as the tunnel's own MTU was kept before.

use super::{drop_for, icmp4_error, icmp6_error, linearise};
use crate::DropReason;
use crate::context::Context;
use crate::counters::CountRun;
use crate::graph::{Nexts, Node};
use crate::tables::{InterfaceId, Tables};
use buffer::{Buf, Flags, VECTOR_SIZE, Vector};
use ipsec::{EspError, Sa, TunnelId};
use packet::ipv4::{DONT_FRAGMENT, Ipv4};
use packet::{icmpv4, icmpv6, ipv6};
use zerocopy::FromBytes;

/// MTU of a path about which nothing is known.
const USUAL_MTU: u16 = 1500;
/// In `opaque[1]`: not to be cut once more.
pub(super) const CUT: u64 = 1 << 63;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let mut sas = [None; VECTOR_SIZE];
    let mut results = [Ok(()); VECTOR_SIZE];
    let mut counted = CountRun::new(|id| cx.counters.tunnels.get(id as usize).map(|counter| &counter.tx));
    for (packet, sa) in packets.iter().zip(&mut sas) {
        *sa = cx.ipsec.outbound(TunnelId(packet.meta().opaque[1] as u32));
        if let Some(sa) = sa {
            sa.prefetch();
        }
    }
    for ((packet, sa), next) in packets.iter_mut().zip(&mut sas).zip(&mut *nexts) {
        let tunnel = packet.meta().opaque[1];
        *next = Node::EspEncrypt;
        if let Some(found) = *sa {
            counted.add(packet.meta().tx_interface.into(), packet.total_len());
            if cx.ipsec.tunnel(TunnelId(tunnel as u32)).is_some_and(|tunnel| tunnel.clamp_mss) {
                let interface = packet.meta().tx_interface;
                clamp_mss(cx.tables, packet, found, interface);
            }
            if packet.meta().flags.contains(Flags::NESTED) {
                *next = drop_for(packet, DropReason::IpsecLoop);
                *sa = None;
            } else if found.path_mtu().is_some()
                && tunnel & CUT == 0
                && let Some(other) = keep_path_mtu(packet, found)
            {
                *next = other;
                *sa = None;
            }
        }
    }
    counted.finish();
    let count = packets.len();
    linearise(cx.cache, packets);
    ipsec::encapsulate(cx.ipsec.gcm(), packets, &sas[..count], cx.now_ns, &mut results[..count]);
    for ((packet, next), result) in packets.iter_mut().zip(nexts).zip(&results) {
        match result {
            Ok(()) => *next = sent(packet),
            Err(EspError::NoSa) if *next != Node::EspEncrypt => {}
            Err(error) => *next = drop_for(packet, reason(*error)),
        }
    }
}

/// Lowers the MSS of a TCP SYN to what the tunnel takes: its interface, and the path as far as it is known.
#[inline(never)]
pub(super) fn clamp_mss(tables: &Tables, packet: &mut Buf, sa: &Sa, interface: u16) {
    let path = sa.max_inner_len(sa.path_mtu().unwrap_or(USUAL_MTU).into());
    let own = tables.row(InterfaceId(interface)).map_or(usize::MAX, |row| row.description.mtu.into());
    if packet.complete_checksum().is_ok() {
        ipsec::clamp_mss(packet.data_mut(), path.min(own));
    }
}

/// An outer packet is this node's own.
#[inline(always)]
fn sent(packet: &mut Buf) -> Node {
    let flags = packet.meta().flags;
    let nested = if flags.contains(Flags::ENCAPSULATED) { Flags::NESTED } else { Flags::empty() };
    packet.meta_mut().flags = (flags & Flags::TRACED) | Flags::ORIGINATED | Flags::ENCAPSULATED | nested;
    match packet.data().first() {
        Some(first) if first >> 4 == 4 => Node::Ip4Lookup,
        _ => Node::Ip6Lookup,
    }
}

/// Where a packet goes that is too long for the path of the SA's outer packets; None: it is not.
#[cold]
fn keep_path_mtu(packet: &mut Buf, sa: &Sa) -> Option<Node> {
    let mtu = sa.max_inner_len(usize::from(sa.path_mtu()?));
    if packet.total_len() <= mtu {
        return None;
    }
    let Ok((header, _)) = Ipv4::ref_from_prefix(packet.data()) else { return None };
    if header.version() == 6 {
        // Below the least MTU of IPv6 the outer packets have to be cut instead (RFC 8200 §5).
        let told = (mtu as u32).max(u32::from(ipv6::MIN_MTU));
        let fits = packet.total_len() <= told as usize;
        return (!fits)
            .then(|| icmp6_error(packet, DropReason::Ip6PacketTooBig, icmpv6::PACKET_TOO_BIG, 0, told));
    }
    if header.flags_fragment.get() & DONT_FRAGMENT != 0 {
        let code = icmpv4::UNREACHABLE_FRAGMENTATION_NEEDED;
        let (reason, kind) = (DropReason::Ip4FragmentationNeeded, icmpv4::UNREACHABLE);
        return Some(icmp4_error(packet, reason, kind, code, mtu as u32));
    }
    packet.meta_mut().opaque[0] = mtu as u64;
    Some(Node::TunnelFragment)
}

/// The drop reason of what ESP refused.
pub(super) fn reason(error: EspError) -> DropReason {
    match error {
        EspError::Malformed => DropReason::EspMalformed,
        EspError::UnknownSpi => DropReason::EspUnknownSpi,
        EspError::NoSa => DropReason::EspNoSa,
        EspError::Expired => DropReason::EspExpired,
        EspError::SequenceExhausted => DropReason::EspSequenceExhausted,
        EspError::Replayed => DropReason::EspReplayed,
        EspError::AuthenticationFailed => DropReason::EspAuthenticationFailed,
        EspError::BadPadding => DropReason::EspBadPadding,
        EspError::Dummy => DropReason::EspDummy,
        EspError::Keepalive => DropReason::EspKeepalive,
        EspError::BadInner => DropReason::EspBadInner,
        EspError::SelectorMismatch => DropReason::EspSelectorMismatch,
        EspError::EcnDropped => DropReason::EspEcnDropped,
        EspError::WrongEncapsulation => DropReason::EspWrongEncapsulation,
        EspError::TooLong => DropReason::EspTooLong,
        EspError::NoHeadroom => DropReason::NoHeadroom,
        EspError::Fragment => DropReason::EspFragment,
    }
}
