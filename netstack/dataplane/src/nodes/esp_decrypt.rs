//! Decrypts ESP packets to this node, a vector at a time; what comes out came in by the tunnel's interface.
//!
//! What does not fit into one buffer goes one by one by way of the worker's [`ipsec::Long`].

use super::esp_encrypt::{clamp_mss, longest_inner, reason};
use super::{drop_for, linearise, replace};
use crate::DropReason;
use crate::context::Context;
use crate::counters::CountRun;
use crate::graph::{Nexts, Node};
use crate::tables::InterfaceId;
use buffer::{Buf, BufferCache, Vector};
use ipsec::{EspError, Long, Sa, Snapshot, TunnelId};

/// Packets that go through all steps together: few enough that they stay in the first-level cache meanwhile.
const CHUNK: usize = 64;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let mut results = [Err(EspError::UnknownSpi); CHUNK];
    let mut way = Way { tunnel: TunnelId(u32::MAX), clamp_to: None, interface: None, is_up: true };
    for (packets, nexts) in packets.chunks_mut(CHUNK).zip(nexts.chunks_mut(CHUNK)) {
        decrypt(cx, &mut way, packets, nexts, &mut results);
    }
}

fn decrypt<'a>(
    cx: &mut Context<'a>,
    way: &mut Way,
    packets: &mut [Buf],
    nexts: &mut [Node],
    results: &mut [Result<&'a Sa, EspError>; CHUNK],
) {
    let count = packets.len();
    if packets.iter().any(Buf::is_chained) {
        linearise(cx.cache, packets);
    }
    ipsec::decapsulate(cx.ipsec, packets, cx.now_ns, &mut results[..count]);
    let mut counted = CountRun::new(|id| cx.counters.tunnels.get(id as usize).map(|counter| &counter.rx));
    for ((packet, next), result) in packets.iter_mut().zip(nexts).zip(results) {
        let opened = match *result {
            Err(EspError::TooLong) if packet.is_chained() => {
                decrypt_long(&mut cx.scratch.long, cx.cache, cx.ipsec, packet, cx.now_ns)
            }
            result => result.map_err(reason),
        };
        let sa = match opened {
            Ok(sa) => sa,
            Err(reason) => {
                *next = drop_for(packet, reason);
                continue;
            }
        };
        *next = match packet.data().first() {
            Some(first) if first >> 4 == 4 => Node::Ip4Input,
            _ => Node::Ip6Input,
        };
        let tunnel = sa.tunnel();
        if tunnel != way.tunnel {
            *way = Way::new(cx, tunnel);
        }
        if let Some(mtu) = way.clamp_to {
            clamp_mss(packet, mtu);
        }
        if let Some(interface) = way.interface {
            packet.meta_mut().rx_interface = interface;
            counted.add(interface.into(), packet.total_len());
            if !way.is_up {
                *next = drop_for(packet, DropReason::InterfaceDown);
            }
        }
    }
    counted.finish();
}

/// Decrypts a packet that does not fit into one buffer.
#[cold]
fn decrypt_long<'a>(
    long: &mut Long,
    cache: &mut BufferCache,
    snapshot: &'a Snapshot,
    packet: &mut Buf,
    now_ns: u64,
) -> Result<&'a Sa, DropReason> {
    let (sa, inner) = long.decapsulate(snapshot, packet, now_ns).map_err(reason)?;
    replace(cache, packet, inner)?;
    sa.mark(packet);
    Ok(sa)
}

/// What there is to know of a tunnel.
struct Way {
    tunnel: TunnelId,
    /// The longest packets that TCP is to send the other way, where it is told.
    clamp_to: Option<usize>,
    interface: Option<u16>,
    /// The interface is up, if there is one.
    is_up: bool,
}

impl Way {
    fn new(cx: &Context<'_>, tunnel: TunnelId) -> Self {
        let description = cx.ipsec.tunnel(tunnel).copied().unwrap_or_default();
        let interface = description.interface;
        let row = interface.and_then(|interface| cx.tables.row(InterfaceId(interface)));
        let is_up = interface.is_none() || row.is_some_and(|row| row.description.up);
        let back = cx.ipsec.outbound(tunnel).filter(|_| description.clamp_mss);
        let clamp_to = back.map(|sa| longest_inner(cx.tables, &description, sa));
        Self { tunnel, clamp_to, interface, is_up }
    }
}
