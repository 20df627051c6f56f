//! Clients and backends of a service, on ports of memory.

use super::rig::{HOST, MAC, VIP, VIP6};
use crate::port::Source;
use crate::routes::Random;
use buffer::{Buf, BufferCache, PortQueue, VECTOR_SIZE, Vector};
use packet::checksum;
use packet::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::IntoBytes;
use zerocopy::network_endian::U16;

pub(super) const SYN: u8 = 2;
pub(super) const ACK: u8 = 16;
const ETHERNET_BYTES: usize = size_of::<Ethernet>();
/// Without a frame check sequence: the least that Ethernet carries, and a TCP header over IPv6.
const FRAME4_BYTES: usize = 60;
const FRAME6_BYTES: usize = ETHERNET_BYTES + 60;

/// What is to be sent, told to both ports.
#[derive(Clone)]
pub(super) struct Script(Arc<Mutex<Orders>>);

pub(super) struct Orders {
    /// Flags of clients' packets.
    pub(super) flags: u8,
    pub(super) flows: Flows,
    /// Backends answer, each packet that reaches them with an ACK.
    pub(super) answers: bool,
}

/// Whose packets come.
#[derive(Clone, Copy)]
pub(super) enum Flows {
    /// Nobody's.
    None,
    /// Of one flow after the other from the first to the one before the last, and then nobody's.
    Each(u32, u32),
    /// Of random ones below.
    Below(u32),
}

impl Script {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Orders { flags: SYN, flows: Flows::None, answers: false })))
    }

    /// Looks at the orders or changes them.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Orders) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The port that clients are behind.
pub(super) struct Clients {
    script: Script,
    ipv6: bool,
    random: Random,
}

impl Clients {
    pub(super) fn new(script: &Script, ipv6: bool) -> Self {
        Self { script: script.clone(), ipv6, random: Random(0x9e37_79b9_7f4a_7c15) }
    }
}

impl Source for Clients {
    fn fill(&mut self, cache: &mut BufferCache, out: &mut Vector) {
        let Self { script, ipv6, random } = self;
        script.with(|orders| {
            for _ in 0..VECTOR_SIZE {
                let flow = match &mut orders.flows {
                    Flows::Each(next, end) if *next < *end => {
                        *next += 1;
                        *next - 1
                    }
                    Flows::Below(count) => (random.bits() % u64::from(*count)) as u32,
                    _ => break,
                };
                let made = if *ipv6 {
                    make(cache, &frame6(flow, orders.flags))
                } else {
                    make(cache, &frame4(flow, orders.flags))
                };
                let Some(packet) = made else { break };
                let _ = out.push(packet);
            }
        });
    }
}

/// Written at once as a device does: a load of bytes from two stores that are under way would wait for both.
fn make(cache: &mut BufferCache, frame: &[u8]) -> Option<Buf> {
    let mut packet = cache.allocate()?;
    packet.append(frame).ok()?;
    Some(packet)
}

fn ethernet(ethertype: u16) -> Ethernet {
    Ethernet { destination: MAC, source: HOST, ethertype: U16::new(ethertype) }
}

/// Client's part of addresses: neighbours in number are neighbours in no table.
fn spread(flow: u32) -> [u8; 4] {
    flow.wrapping_mul(0x9e37_79b1).to_be_bytes()
}

/// Clients are in 16.0.0.0/4.
fn frame4(flow: u32, flags: u8) -> [u8; FRAME4_BYTES] {
    let mut frame = [0; FRAME4_BYTES];
    frame[..ETHERNET_BYTES].copy_from_slice(ethernet(ETHERTYPE_IPV4).as_bytes());
    let ip = &mut frame[ETHERNET_BYTES..];
    ip[..4].copy_from_slice(&[0x45, 0, 0, (FRAME4_BYTES - ETHERNET_BYTES) as u8]);
    ip[8..10].copy_from_slice(&[64, packet::protocol::TCP]);
    let mut source = spread(flow);
    // What does not fit into the address is in the port.
    let above = source[0] >> 4;
    source[0] = 16 | source[0] & 15;
    ip[12..16].copy_from_slice(&source);
    ip[16..20].copy_from_slice(&VIP);
    ip[20..24].copy_from_slice(&[0x9c, above, 0, 80]);
    ip[32..34].copy_from_slice(&[0x50, flags]);
    let checksum = checksum::of(&ip[..20]);
    ip[10..12].copy_from_slice(&checksum.to_bytes());
    frame
}

/// Clients are in `3fff::/32` (RFC 9637), where no backend is: answers to one that was would come back for ever.
fn frame6(flow: u32, flags: u8) -> [u8; FRAME6_BYTES] {
    let mut frame = [0; FRAME6_BYTES];
    frame[..ETHERNET_BYTES].copy_from_slice(ethernet(ETHERTYPE_IPV6).as_bytes());
    let ip = &mut frame[ETHERNET_BYTES..];
    ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 20, packet::protocol::TCP, 64]);
    ip[8..12].copy_from_slice(&[0x3f, 0xff, 0, 0]);
    ip[12..16].copy_from_slice(&spread(flow));
    ip[24..40].copy_from_slice(&VIP6);
    ip[40..44].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    ip[52..54].copy_from_slice(&[0x50, flags]);
    frame
}

/// The port that backends are behind, which answer if the script says so.
pub(super) struct Backends {
    script: Script,
    answers: Vec<Buf>,
}

impl Backends {
    pub(super) fn new(script: &Script) -> Self {
        Self { script: script.clone(), answers: Vec::new() }
    }
}

impl PortQueue for Backends {
    fn receive(&mut self, _: &mut BufferCache, out: &mut Vector) -> usize {
        let before = out.len();
        let count = self.answers.len().min(VECTOR_SIZE);
        self.answers.drain(..count).for_each(|answer| drop(out.push(answer)));
        out.len() - before
    }

    fn transmit(&mut self, cache: &mut BufferCache, packets: &mut Vector) {
        if self.script.with(|orders| orders.answers) {
            self.answers.extend(packets.drain(..).filter_map(answer));
        } else {
            cache.free(packets);
        }
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn disarm(&mut self) {}
}

/// A translated packet becomes its answer: an ACK. The checksum of the IPv4 header stays right.
fn answer(mut packet: Buf) -> Option<Buf> {
    let frame = packet.data_mut();
    let (ethernet, ip) = frame.split_at_mut_checked(ETHERNET_BYTES)?;
    ethernet[..6].copy_from_slice(&MAC);
    let (addresses, address_bytes) = if ip[0] >> 4 == 6 { (8, 16) } else { (12, 4) };
    let transport = addresses + 2 * address_bytes;
    let (source, destination) = ip[addresses..transport].split_at_mut(address_bytes);
    source.swap_with_slice(destination);
    ip[transport..transport + 4].rotate_left(2);
    ip[transport + 13] = ACK;
    Some(packet)
}
