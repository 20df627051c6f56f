//! Cuts IPv4 packets to the MTU (RFC 791 §3.2).
//!
//! The packet is copied into fresh buffers, whatever chain it fills. Its TTL is already decremented.

use super::ip4_local::fill_checksum;
use super::{drop_for, esp_encrypt};
use crate::DropReason;
use crate::context::Context;
use crate::counters::CountRun;
use crate::graph::{Nexts, Node};
use crate::tables::AdjacencyRow;
use buffer::{Buf, BufferCache, DATA_ROOM, Flags, VECTOR_SIZE, Vector};
use packet::ethernet::ETHERTYPE_IPV4;
use packet::ipv4::{FRAGMENT_OFFSET, Ipv4, MORE_FRAGMENTS};
use zerocopy::FromBytes;
use zerocopy::network_endian::U16;

const FIXED_LEN: usize = size_of::<Ipv4>();
const MAX_HEADER_LEN: usize = 60;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let tables = cx.tables;
    cut(cx, packets, nexts, Node::Ip4Fragment, |packet| {
        let row = tables.adjacency(packet.meta().adjacency);
        Cut { mtu: row.mtu, to: Some(row) }
    });
}

/// How long fragments may be, and where they go.
pub(super) struct Cut<'a> {
    pub(super) mtu: u16,
    /// The adjacency whose Ethernet header they get. None: they are for the packet's tunnel.
    pub(super) to: Option<&'a AdjacencyRow>,
}

/// Cuts a vector's packets. Those for which there is no room wait at `node`.
#[inline(always)]
pub(super) fn cut<'a>(
    cx: &mut Context<'_>,
    packets: &mut Vector,
    nexts: &mut Nexts,
    node: Node,
    how: impl Fn(&Buf) -> Cut<'a>,
) {
    let mut given = core::mem::take(packets);
    for mut packet in given.drain(..) {
        let Cut { mtu, to } = how(&packet);
        let next = match Plan::new(&packet, mtu) {
            None => drop_for(&mut packet, DropReason::Ip4BadLength),
            // At the smallest MTU the longest packet has fewer fragments than an empty vector takes.
            Some(plan) if plan.fragments > VECTOR_SIZE => drop_for(&mut packet, DropReason::Ip4BadLength),
            Some(plan) if plan.fragments > VECTOR_SIZE - cx.made.len() => node,
            Some(plan) => match fragment(cx, &mut packet, &plan, to) {
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

/// How a packet is cut.
struct Plan {
    header: Ipv4,
    header_len: usize,
    payload: usize,
    /// Bytes of payload of all fragments but the last, a multiple of 8.
    step: usize,
    fragments: usize,
}

impl Plan {
    fn new(packet: &Buf, mtu: u16) -> Option<Self> {
        let (header, _) = Ipv4::read_from_prefix(packet.data()).ok()?;
        let header_len = header.header_len();
        let payload = packet.total_len().checked_sub(header_len)?;
        let step = usize::from(mtu).checked_sub(header_len)? & !7;
        let valid = (FIXED_LEN..=packet.len()).contains(&header_len) && step > 0;
        valid.then(|| Self { header, header_len, payload, step, fragments: payload.div_ceil(step) })
    }
}

/// Puts the fragments of a packet into `cx.made`, ready for the wire.
fn fragment(
    cx: &mut Context<'_>,
    packet: &mut Buf,
    plan: &Plan,
    to: Option<&AdjacencyRow>,
) -> Result<(), DropReason> {
    packet.complete_checksum().map_err(|_| DropReason::Ip4BadLength)?;
    let mut made = 0;
    let mut result = Ok(());
    for offset in (0..plan.payload).step_by(plan.step) {
        match one_fragment(cx.cache, packet, plan, offset) {
            Some(mut piece) => {
                match to {
                    Some(row) => drop(row.push_ethernet(&mut piece, ETHERTYPE_IPV4)),
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

/// The fragment whose payload starts at `offset` of the packet's. None: no buffer is left.
fn one_fragment(cache: &mut BufferCache, packet: &Buf, plan: &Plan, offset: usize) -> Option<Buf> {
    let len = plan.step.min(plan.payload - offset);
    let is_last = offset + len == plan.payload;
    let mut bytes = [0; MAX_HEADER_LEN];
    let options = packet.data().get(FIXED_LEN..plan.header_len)?;
    let options_len = if offset == 0 {
        bytes[FIXED_LEN..][..options.len()].copy_from_slice(options);
        options.len()
    } else {
        copy_options(options, &mut bytes[FIXED_LEN..])
    };
    let header_len = FIXED_LEN + options_len;
    let mut header = plan.header;
    let original = header.flags_fragment.get();
    let place = (original & FRAGMENT_OFFSET) + (offset / 8) as u16;
    let more = if is_last { original & MORE_FRAGMENTS } else { MORE_FRAGMENTS };
    header.flags_fragment = U16::new((original & !(FRAGMENT_OFFSET | MORE_FRAGMENTS)) | place | more);
    header.total_length = U16::new((header_len + len) as u16);
    header.version_ihl = 0x40 | (header_len / 4) as u8;
    bytes[..FIXED_LEN].copy_from_slice(zerocopy::IntoBytes::as_bytes(&header));
    fill_checksum(&mut bytes[..header_len]);

    let mut piece = copy_part(cache, packet, &bytes[..header_len], plan.header_len + offset, len)?;
    let meta = packet.meta();
    *piece.meta_mut() = *meta;
    piece.meta_mut().flags = meta.flags & Flags::TRACED;
    Some(piece)
}

/// Copies the options that every fragment carries (copied flag, RFC 791 §3.1), padded; returns how many bytes.
fn copy_options(options: &[u8], out: &mut [u8]) -> usize {
    let (mut at, mut len) = (0, 0);
    while let Some(&kind) = options.get(at) {
        let option_len = match kind {
            0 => break,
            1 => 1,
            _ => options.get(at + 1).map_or(1, |length| usize::from(*length).max(1)),
        };
        if kind & 0x80 != 0
            && let (Some(option), Some(place)) =
                (options.get(at..at + option_len), out.get_mut(len..len + option_len))
        {
            place.copy_from_slice(option);
            len += option_len;
        }
        at += option_len;
    }
    len.next_multiple_of(4)
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
