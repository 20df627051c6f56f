//! Encrypts by the tunnel's SA (RFC 4303), a vector at a time; what comes out is a packet of this node, and is routed.
//!
//! An outer packet that a neighbour takes as it is gets its Ethernet header here: its header was just written, so that there is
//! nothing to be checked or changed in it, and a vector usually has one destination. All others go to lookup.
//!
//! A packet that does not fit into one buffer with what ESP adds goes by way of the worker's [`ipsec::Long`], after the others
//! of its vector, and its outer packet through lookup.
//!
//! The tunnel is in `opaque[1]`, and [`CUT`] with it if the packet is a piece that was made for the tunnel. A packet that
//! the path of the outer packets is known not to take is cut or refused here, as the tunnel's own MTU was kept before. What
//! has to pass all the same, or is encrypted whole as transport mode demands, is cut when it is an outer packet over IPv6;
//! over IPv4 the routers of the path do so.

use super::ip_fragment::cut_to;
use super::ip4_rewrite::fragmentation_needed;
use super::ip6_rewrite::{into_tunnel, is_own, too_big};
use super::{drop_for, linearise, replace};
use crate::DropReason;
use crate::context::{Context, Scratch};
use crate::counters::CountRun;
use crate::graph::{Nexts, Node};
use crate::tables::{InterfaceId, Tables};
use buffer::{Buf, Flags, Vector};
use ipsec::{EspError, Mode, Sa, Snapshot, Tunnel, TunnelId};
use packet::ethernet::ETHERTYPE_IPV4;
use packet::ipv4::{DONT_FRAGMENT, Ipv4};
use packet::ipv6::Ipv6;
use zerocopy::FromBytes;

/// MTU of a path about which nothing is known.
const USUAL_MTU: u16 = 1500;
/// In `opaque[1]`: not to be cut once more.
pub(super) const CUT: u64 = 1 << 63;

/// Where a packet's tunnel leads.
#[derive(Clone, Copy)]
struct Way<'a> {
    tunnel: u32,
    /// The longest packets that TCP is to send, where it is told.
    clamp_to: Option<usize>,
    /// The path of the outer packets is known to take less than others.
    is_narrow: bool,
    sa: &'a Sa,
}

impl<'a> Way<'a> {
    #[inline(always)]
    fn new(cx: &Context<'a>, tunnel: u32) -> Option<Self> {
        let (description, sa) = cx.ipsec.way_into(TunnelId(tunnel))?;
        let clamp_to = description.clamp_mss.then(|| longest_inner(cx.tables, description, sa));
        Some(Self { tunnel, clamp_to, is_narrow: sa.path_mtu().is_some(), sa })
    }
}

/// Packets that go through all steps together: few enough that they stay in the first-level cache meanwhile.
const CHUNK: usize = 64;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let mut way = None;
    prefetch(cx.ipsec, packets.iter().take(CHUNK));
    let count = packets.len();
    for start in (0..count).step_by(CHUNK) {
        let (packets, ahead) = packets[start..].split_at_mut(CHUNK.min(count - start));
        prefetch(cx.ipsec, ahead.iter().take(CHUNK));
        encrypt(cx, &mut way, packets, &mut nexts[start..]);
    }
}

fn encrypt<'a>(cx: &mut Context<'a>, way: &mut Option<Way<'a>>, packets: &mut [Buf], nexts: &mut [Node]) {
    let count = packets.len();
    let mut sas = [None; CHUNK];
    let mut results = [Ok(()); CHUNK];
    let mut long = 0;
    let found = find(cx, way, packets, &mut sas, nexts);
    if found.is_any_chained {
        linearise(cx.cache, packets);
        long = set_aside(packets, &mut sas);
    }
    let (suite, claimant) = (cx.ipsec.suite(), &cx.scratch.claimant);
    ipsec::encapsulate(suite, claimant, packets, &sas[..count], cx.now_ns, &mut results[..count]);
    let columns = nexts.iter_mut().zip(&mut cx.scratch.destinations4);
    for (index, ((packet, (next, destination)), result)) in
        packets.iter_mut().zip(columns).zip(&results).enumerate()
    {
        match result {
            Ok(()) => (*next, *destination) = sent(packet),
            Err(EspError::NoSa) if *next != Node::EspEncrypt => {}
            Err(error) => {
                long |= u64::from(*error == EspError::TooLong) << index;
                *next = drop_for(packet, reason(*error));
            }
        }
    }
    if is_one_way(&cx.scratch.destinations4[..count]) {
        route_alike(cx, packets, nexts);
    } else {
        route(cx, packets, nexts);
    }
    if long != 0 {
        encrypt_long(cx, long, packets, nexts);
    }
    if found.is_any_narrow {
        cut_for_path(cx, packets, nexts);
    }
}

/// Keeps packets of several segments from the others of their SAs. A bit for each.
#[cold]
fn set_aside(packets: &[Buf], sas: &mut [Option<&Sa>; CHUNK]) -> u64 {
    let columns = packets.iter().zip(sas).enumerate();
    columns.fold(0, |long, (index, (packet, sa))| {
        let is_long = packet.is_chained() && sa.is_some();
        if is_long {
            *sa = None;
        }
        long | u64::from(is_long) << index
    })
}

/// Encrypts packets that do not fit into one buffer with what ESP adds; their outer packets are looked up like any.
#[cold]
fn encrypt_long(cx: &mut Context<'_>, long: u64, packets: &mut [Buf], nexts: &mut [Node]) {
    let columns = packets.iter_mut().zip(nexts).enumerate();
    for (_, (packet, next)) in columns.filter(|(index, _)| long >> index & 1 == 1) {
        let sa = cx.ipsec.outbound(TunnelId(packet.meta().opaque[1] as u32)).ok_or(EspError::NoSa);
        let Scratch { long: scratch, claimant, .. } = &mut *cx.scratch;
        let sealed = sa.and_then(|sa| scratch.encapsulate(cx.ipsec.suite(), claimant, packet, sa, cx.now_ns));
        *next = match sealed.map_err(reason).and_then(|outer| replace(cx.cache, packet, outer)) {
            Ok(()) => sent(packet).0,
            Err(reason) => drop_for(packet, reason),
        };
    }
}

/// What is true of a packet at least.
#[derive(Clone, Copy, Default)]
struct Found {
    /// It has several segments.
    is_any_chained: bool,
    /// The path of its outer packet is known to take less than others.
    is_any_narrow: bool,
}

/// The SA of each packet that is to be encrypted.
#[inline(always)]
fn find<'a>(
    cx: &Context<'a>,
    way: &mut Option<Way<'a>>,
    packets: &mut [Buf],
    sas: &mut [Option<&'a Sa>; CHUNK],
    nexts: &mut [Node],
) -> Found {
    let mut counted = CountRun::new(|id| cx.counters.tunnels.get(id as usize).map(|counter| &counter.tx));
    let mut found = Found::default();
    for ((packet, sa), next) in packets.iter_mut().zip(sas).zip(nexts) {
        *next = Node::EspEncrypt;
        let tunnel = packet.meta().opaque[1] as u32;
        if way.is_none_or(|way| way.tunnel != tunnel) {
            *way = Way::new(cx, tunnel);
        }
        let Some(way) = way else { continue };
        counted.add(packet.meta().tx_interface.into(), packet.total_len());
        if let Some(mtu) = way.clamp_to {
            clamp_mss(packet, mtu);
        }
        if packet.meta().flags.contains(Flags::NESTED) {
            *next = drop_for(packet, DropReason::IpsecLoop);
        } else if way.is_narrow
            && packet.meta().opaque[1] & CUT == 0
            && let Some(other) = keep_path_mtu(packet, way.sa)
        {
            *next = other;
        } else {
            *sa = Some(way.sa);
            found.is_any_chained |= packet.is_chained();
            found.is_any_narrow |= way.is_narrow;
        }
    }
    counted.finish();
    found
}

/// Whether all destinations are the same.
#[inline(always)]
fn is_one_way(destinations: &[u32]) -> bool {
    let first = destinations.first().copied().unwrap_or_default();
    destinations.iter().fold(0, |differ, destination| differ | (destination ^ first)) == 0
}

/// What [`route`] does where all destinations are the same.
fn route_alike(cx: &mut Context<'_>, packets: &mut [Buf], nexts: &mut [Node]) {
    let tables = cx.tables;
    let group = tables.group(cx.shared.fib4().lookup(cx.scratch.destinations4[0]));
    let row = tables.adjacency(group.first);
    if group.mask != 0 || row.next4 != Node::Ip4Rewrite || row.tunnel().is_some() {
        return route(cx, packets, nexts);
    }
    let (mut count, mut bytes) = (0, 0);
    for (packet, next) in packets.iter_mut().zip(nexts) {
        let length = packet.len();
        if *next == Node::Ip4Lookup && length <= usize::from(row.mtu) {
            packet.meta_mut().adjacency = group.first;
            *next = row.push_ethernet(packet, ETHERTYPE_IPV4);
            count += 1;
            bytes += (length + usize::from(row.header_len)) as u64;
        }
    }
    if let Some(counter) = cx.counters.adjacencies.get(group.first as usize) {
        counter.add(count, bytes);
    }
}

/// Asks for the lines of SAs, which are far apart where there are many.
#[inline(always)]
fn prefetch<'p>(snapshot: &Snapshot, packets: impl Iterator<Item = &'p Buf>) {
    let mut last = None;
    for packet in packets {
        let tunnel = packet.meta().opaque[1] as u32;
        if last != Some(tunnel) {
            last = Some(tunnel);
            if let Some(sa) = snapshot.outbound(TunnelId(tunnel)) {
                sa.prefetch();
            }
        }
    }
}

/// Gives those that go to a neighbour in one piece their Ethernet header. Their destinations are in `scratch`; those of other
/// packets there mean nothing.
fn route(cx: &mut Context<'_>, packets: &mut [Buf], nexts: &mut [Node]) {
    let count = packets.len();
    let groups = &mut cx.scratch.groups[..count];
    cx.shared.fib4().lookup_batch(&cx.scratch.destinations4[..count], groups);
    let (tables, key) = (cx.tables, cx.shared.flow_key());
    let mut counted = CountRun::new(|id| cx.counters.adjacencies.get(id as usize));
    for ((packet, next), group) in packets.iter_mut().zip(nexts).zip(groups) {
        if *next != Node::Ip4Lookup {
            continue;
        }
        let group = tables.group(*group);
        let id = tables.choose(group, || key.ipv4(packet));
        let row = tables.adjacency(id);
        let length = packet.len();
        if row.next4 == Node::Ip4Rewrite && row.tunnel().is_none() && length <= usize::from(row.mtu) {
            packet.meta_mut().adjacency = id;
            *next = row.push_ethernet(packet, ETHERTYPE_IPV4);
            counted.add(id, length + usize::from(row.header_len));
        }
    }
    counted.finish();
}

/// The longest packet that a tunnel takes whose SA to encrypt with this is: by its interface, whose MTU follows the outer path, and
/// by what is known of that path since.
pub(super) fn longest_inner(tables: &Tables, tunnel: &Tunnel, sa: &Sa) -> usize {
    let row = tunnel.interface.and_then(|interface| tables.row(InterfaceId(interface)));
    let own = row.map(|row| usize::from(row.description.mtu));
    let path = sa.path_mtu().map(|mtu| sa.max_inner_len(mtu.into()));
    [own, path].into_iter().flatten().min().unwrap_or_else(|| sa.max_inner_len(USUAL_MTU.into()))
}

/// Lowers the MSS of a TCP SYN to what makes packets of this length.
#[inline(never)]
pub(super) fn clamp_mss(packet: &mut Buf, mtu: usize) {
    if packet.complete_checksum().is_ok() {
        ipsec::clamp_mss(packet.data_mut(), mtu);
    }
}

/// An outer packet is this node's own. Where it is looked up, and its destination if that is an IPv4 address.
#[inline(always)]
fn sent(packet: &mut Buf) -> (Node, u32) {
    let flags = packet.meta().flags;
    let nested = if flags.contains(Flags::ENCAPSULATED) { Flags::NESTED } else { Flags::empty() };
    let kept = flags & (Flags::TRACED | Flags::TX_CSUM);
    packet.meta_mut().flags = kept | Flags::ORIGINATED | Flags::ENCAPSULATED | nested;
    match packet.data().first_chunk::<20>() {
        Some(&[first, .., a, b, c, d]) if first >> 4 == 4 => {
            (Node::Ip4Lookup, u32::from_be_bytes([a, b, c, d]))
        }
        _ => (Node::Ip6Lookup, 0),
    }
}

/// Where a packet goes that is too long for the path of the SA's outer packets; None: it is not.
#[cold]
fn keep_path_mtu(packet: &mut Buf, sa: &Sa) -> Option<Node> {
    let mtu = sa.max_inner_len(usize::from(sa.path_mtu()?));
    if packet.total_len() <= mtu {
        return None;
    }
    let is_whole = sa.parameters().mode == Mode::Transport;
    let Ok((header, _)) = Ipv4::ref_from_prefix(packet.data()) else { return None };
    if header.version() == 6 {
        return keep_mtu6(packet, into_tunnel(mtu), is_whole);
    }
    if header.flags_fragment.get() & DONT_FRAGMENT != 0 {
        return Some(fragmentation_needed(packet, mtu));
    }
    (!is_whole).then(|| cut_to(packet, mtu, Node::TunnelFragment))
}

/// Where an IPv6 packet goes that is longer than `mtu`, what its tunnel takes; None: it is encrypted, be it as long as it
/// may because it `is_whole` then (RFC 4303 §3.3.4).
pub(super) fn keep_mtu6(packet: &mut Buf, mtu: usize, is_whole: bool) -> Option<Node> {
    match packet.total_len() <= mtu {
        true => None,
        false if !is_own(packet) => Some(too_big(packet, mtu)),
        false if is_whole => None,
        false => Some(cut_to(packet, mtu, Node::TunnelFragment)),
    }
}

/// Has outer packets over IPv6 cut that are longer than their path takes. Where they go to no neighbour they are only routed.
#[cold]
fn cut_for_path(cx: &Context<'_>, packets: &mut [Buf], nexts: &mut [Node]) {
    for (packet, next) in packets.iter_mut().zip(nexts) {
        let sa = cx.ipsec.outbound(TunnelId(packet.meta().opaque[1] as u32));
        let Some(mtu) = sa.and_then(Sa::path_mtu).map(usize::from) else { continue };
        if *next != Node::Ip6Lookup || packet.total_len() <= mtu {
            continue;
        }
        let Ok((header, _)) = Ipv6::ref_from_prefix(packet.data()) else { continue };
        let group = cx.tables.group(cx.shared.fib6().lookup(u128::from_be_bytes(header.destination)));
        let id = cx.tables.choose(group, || cx.shared.flow_key().ipv6(packet));
        let row = cx.tables.adjacency(id);
        if row.next6 == Node::Ip6Rewrite && row.tunnel().is_none() {
            packet.meta_mut().adjacency = id;
            *next = cut_to(packet, mtu, Node::IpFragment);
        }
    }
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
