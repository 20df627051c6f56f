//! Cuts packets to the MTU: IPv4 (RFC 791 §3.2), and of IPv6 what this node made itself (RFC 8200 §4.5).
//!
//! The packet is copied into fresh buffers, whatever chain it fills. Its TTL is already decremented. Who sends a packet here
//! leaves the longest that a fragment may be in `opaque[0]`.

use super::drop_for;
use super::esp_encrypt;
use super::fragment_plan::{MAX_HEADER_BYTES, Plan};
use crate::DropReason;
use crate::context::Context;
use crate::counters::CountRun;
use crate::graph::{Nexts, Node};
use crate::tables::AdjacencyRow;
use buffer::{Buf, BufferCache, DATA_ROOM, Flags, VECTOR_SIZE, Vector};

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let tables = cx.tables;
    cut(cx, packets, nexts, Node::IpFragment, |packet| Some(tables.adjacency(packet.meta().adjacency)));
}

/// Leaves how long a packet's fragments may be, for [`Node::IpFragment`] or [`Node::TunnelFragment`].
pub(super) fn cut_to(packet: &mut Buf, mtu: usize, node: Node) -> Node {
    packet.meta_mut().opaque[0] = mtu as u64;
    node
}

/// Cuts a vector's packets. Fragments get the Ethernet header of the adjacency that `to` says; none are for the packet's tunnel.
/// Packets for which there is no room wait at `node`.
#[inline(always)]
pub(super) fn cut<'a>(
    cx: &mut Context<'_>,
    packets: &mut Vector,
    nexts: &mut Nexts,
    node: Node,
    to: impl Fn(&Buf) -> Option<&'a AdjacencyRow>,
) {
    let mut given = core::mem::take(packets);
    for mut packet in given.drain(..) {
        let row = to(&packet);
        let next = match plan(cx, &packet, row) {
            None => refuse(&mut packet),
            // At the smallest MTU the longest packet has fewer fragments than an empty vector takes.
            Some(plan) if plan.fragments() > VECTOR_SIZE => refuse(&mut packet),
            Some(plan) if plan.fragments() > VECTOR_SIZE - cx.made.len() => node,
            Some(plan) => match fragment(cx, &mut packet, &plan, row) {
                Ok(()) => {
                    cx.cache.free_one(packet);
                    continue;
                }
                Err(reason) => drop_for(&mut packet, reason),
            },
        };
        nexts[packets.len()] = next;
        // There was room for it before.
        let _ = packets.push(packet);
    }
}

#[cold]
fn refuse(packet: &mut Buf) -> Node {
    let is_v6 = packet.data().first().is_some_and(|first| first >> 4 == 6);
    drop_for(packet, if is_v6 { DropReason::Ip6PacketTooBig } else { DropReason::Ip4BadLength })
}

fn plan(cx: &mut Context<'_>, packet: &Buf, row: Option<&AdjacencyRow>) -> Option<Plan> {
    let left = usize::try_from(packet.meta().opaque[0]).unwrap_or(usize::MAX);
    let mtu = row.map_or(left, |row| left.min(row.mtu.into()));
    if packet.data().first()? >> 4 == 4 {
        return Plan::ipv4(packet, mtu);
    }
    // Beginning where nobody outside knows, anywhere else for each pair of ends (RFC 7739 §5.2). No two workers use
    // the same number.
    let identification = cx.shared.flow_key().ipv6(packet).wrapping_add(cx.scratch.identification);
    cx.scratch.identification = cx.scratch.identification.wrapping_add(cx.shared.workers() as u32);
    Plan::ipv6(packet, mtu, identification)
}

/// Puts the fragments of a packet into `cx.made`, ready for the wire.
fn fragment(
    cx: &mut Context<'_>,
    packet: &mut Buf,
    plan: &Plan,
    to: Option<&AdjacencyRow>,
) -> Result<(), DropReason> {
    packet.complete_checksum().map_err(|_| DropReason::ChecksumPlace)?;
    let mut made = 0;
    let mut result = Ok(());
    for index in 0..plan.fragments() {
        match one_fragment(cx.cache, packet, plan, index) {
            Some(mut piece) => {
                match to {
                    Some(row) => drop(row.push_ethernet(&mut piece, plan.ethertype())),
                    None => piece.meta_mut().opaque[1] |= esp_encrypt::CUT,
                }
                let _ = cx.made.push(piece);
                made += 1;
            }
            None => {
                result = Err(DropReason::NoBuffer);
                break;
            }
        }
    }
    let mut counted = CountRun::new(|id| cx.counters.adjacencies.get(id as usize));
    for piece in cx.made.iter().rev().take(made) {
        counted.add(packet.meta().adjacency, piece.total_len());
    }
    counted.finish();
    // A packet that is cut in whole has become its first fragment.
    let additional = made as u64 - u64::from(result.is_ok());
    cx.counters.made.add(additional);
    cx.balance.entered += additional;
    result
}

/// A fragment of a packet. None: no buffer is left.
fn one_fragment(cache: &mut BufferCache, packet: &Buf, plan: &Plan, index: usize) -> Option<Buf> {
    let mut header = [0; MAX_HEADER_BYTES];
    let (header_bytes, payload) = plan.piece(packet, index, &mut header)?;
    let header = header.get(..header_bytes)?;
    let mut piece = copy_part(cache, packet, header, payload.start, payload.len())?;
    let meta = packet.meta();
    *piece.meta_mut() = *meta;
    piece.meta_mut().flags = meta.flags & Flags::TRACED;
    Some(piece)
}

/// A packet of `header` and `len` bytes from `offset` of another packet.
fn copy_part(
    cache: &mut BufferCache,
    from: &Buf,
    header: &[u8],
    mut offset: usize,
    len: usize,
) -> Option<Buf> {
    let mut packet = cache.allocate()?;
    packet.append(header).ok()?;
    let end = offset + len;
    let first = len.min(DATA_ROOM - header.len());
    offset += fill(&mut packet, from, offset, first)?;
    while offset < end {
        let mut segment = cache.allocate()?;
        offset += fill(&mut segment, from, offset, DATA_ROOM.min(end - offset))?;
        packet.append_segment(segment);
    }
    Some(packet)
}

/// Appends `len` bytes from `offset` of a packet to a buffer; None if there are not so many.
fn fill(to: &mut Buf, from: &Buf, offset: usize, len: usize) -> Option<usize> {
    let before = to.len();
    to.set_len(before + len).ok()?;
    let copied = from.copy_out(offset, to.data_mut().get_mut(before..)?);
    (copied == len && len > 0).then_some(len)
}
