//! Interface state, MTU and counters, then the transmit queue of the port that an interface stands on, or the worker that
//! has one.

use super::drop_for;
use crate::DropReason;
use crate::context::{Context, WorkerPort};
use crate::graph::{Nexts, Node};
use crate::tables::InterfaceId;
use alloc::boxed::Box;
use buffer::{Buf, Vector};

/// What an interface's frames need to know.
#[derive(Clone, Copy)]
struct Way {
    interface: u16,
    via: Via,
    /// Longest frame, in bytes.
    max_len: usize,
}

/// Who sends frames.
#[derive(Clone, Copy)]
enum Via {
    /// This worker, by the port at this place of its list.
    Port(usize),
    /// This other worker.
    Worker(usize),
    /// Nobody, for this reason.
    Nobody(DropReason),
}

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let Some(first) = packets.first() else { return };
    let way = way_of(cx, first.meta().tx_interface);
    let (mut differ, mut bytes) = (false, 0);
    for (packet, length) in packets.iter().zip(&mut cx.scratch.lengths) {
        let len = packet.total_len();
        *length = len as u32;
        bytes += len as u64;
        differ |= (packet.meta().tx_interface != way.interface) | (len > way.max_len);
    }
    match way.via {
        Via::Port(port) if !differ => send(cx, port, packets, way.interface, bytes),
        _ => scatter(cx, packets),
    }
    nexts[..packets.len()].fill(Node::Drop);
}

fn way_of(cx: &Context<'_>, interface: u16) -> Way {
    let row = cx.tables.row(InterfaceId(interface)).filter(|row| row.up);
    let Some(row) = row else {
        return Way { interface, via: Via::Nobody(DropReason::InterfaceDown), max_len: 0 };
    };
    let port = cx.ports.iter().position(|port| port.interface == row.port);
    let other = || cx.shared.owner(row.port, cx.worker);
    Way {
        interface,
        via: match port {
            Some(port) => Via::Port(port),
            None => other().map_or(Via::Nobody(DropReason::OutputNoPort), Via::Worker),
        },
        max_len: usize::from(row.description.mtu) + row.header_len(),
    }
}

/// Gives frames of one interface, of so many bytes, to its port, counts those that it took, and leaves the rest to be
/// dropped. Their lengths are in `scratch.lengths`.
#[inline(always)]
fn send(cx: &mut Context<'_>, port: usize, packets: &mut Vector, interface: u16, bytes: u64) {
    let given = packets.len();
    cx.ports[port].queue.transmit(cx.cache, packets);
    let sent = given - packets.len();
    let left: u64 = cx.scratch.lengths[sent..given].iter().map(|length| u64::from(*length)).sum();
    if let Some(counter) = cx.counters.interfaces.get(usize::from(interface)) {
        counter.tx.add(sent as u64, bytes - left);
        counter.tx_drops.add(packets.len() as u64);
    }
    cx.balance.left += sent as u64;
    for packet in packets {
        packet.meta_mut().drop_reason = DropReason::TransmitRingFull as u8;
    }
}

/// Gives frames of several interfaces to their ports. What is refused stays in `packets`.
#[inline(never)]
fn scatter(cx: &mut Context<'_>, packets: &mut Vector) {
    let mut given = core::mem::take(packets);
    let mut way: Option<Way> = None;
    for packet in given.drain(..) {
        let interface = packet.meta().tx_interface;
        let way = match way {
            Some(way) if way.interface == interface => way,
            _ => *way.insert(way_of(cx, interface)),
        };
        match way.via {
            Via::Nobody(reason) => refuse(cx, packet, reason, packets),
            _ if packet.total_len() > way.max_len => refuse(cx, packet, DropReason::OutputTooLong, packets),
            // The ports' vectors were empty: all of one vector's packets fit.
            Via::Port(port) => drop(cx.ports[port].waiting.push(packet)),
            Via::Worker(to) => {
                if let Err(packet) = cx.outbox.add(cx.shared.inbox(cx.worker), to, packet) {
                    refuse(cx, packet, DropReason::HandoffFull, packets);
                }
            }
        }
    }
    while let Some((to, vector)) = cx.outbox.take() {
        hand_over(cx, to, vector, packets);
    }
    for port in 0..cx.ports.len() {
        send_mixed(cx, port, packets);
    }
}

/// Gives what waits for a port to it. What is refused goes to `refused`.
fn send_mixed(cx: &mut Context<'_>, port: usize, refused: &mut Vector) {
    let WorkerPort { queue, waiting, .. } = &mut cx.ports[port];
    if waiting.is_empty() {
        return;
    }
    let given = waiting.len();
    for (index, packet) in waiting.iter().enumerate() {
        cx.scratch.lengths[index] = packet.total_len() as u32;
        cx.scratch.interfaces[index] = packet.meta().tx_interface;
    }
    queue.transmit(cx.cache, waiting);
    let sent = given - waiting.len();
    for (interface, length) in cx.scratch.interfaces.iter().zip(&cx.scratch.lengths).take(sent) {
        if let Some(counter) = cx.counters.interfaces.get(usize::from(*interface)) {
            counter.tx.add(1, u64::from(*length));
        }
    }
    cx.balance.left += sent as u64;
    while let Some(packet) = cx.ports[port].waiting.pop() {
        refuse(cx, packet, DropReason::TransmitRingFull, refused);
    }
}

/// Hands frames to another worker, which counts them when it sends them. What is refused goes to `refused`.
fn hand_over(cx: &mut Context<'_>, to: usize, vector: Box<Vector>, refused: &mut Vector) {
    let given = vector.len() as u64;
    match cx.shared.hand_over(cx.worker, to, vector) {
        Ok(()) => cx.balance.left += given,
        Err(mut vector) => {
            vector.drain(..).for_each(|packet| refuse(cx, packet, DropReason::HandoffFull, refused));
            cx.shared.inbox(cx.worker).give_empty(vector);
        }
    }
}

fn refuse(cx: &Context<'_>, mut packet: Buf, reason: DropReason, refused: &mut Vector) {
    let _: Node = drop_for(&mut packet, reason);
    if let Some(counter) = cx.counters.interfaces.get(usize::from(packet.meta().tx_interface)) {
        counter.tx_drops.add(1);
    }
    // Not more than there were in the vector.
    let _ = refused.push(packet);
}
