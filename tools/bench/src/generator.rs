//! Makes frames out of a template and a list of destinations.

use crate::port::Source;
use crate::workload::{FRAME_BYTES, Workload};
use buffer::{Buf, BufferCache, Vector};
use packet::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet};
use packet::ipv4::Ipv4;
use packet::ipv6::Ipv6;
use packet::protocol;
use std::collections::VecDeque;
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

/// The device appends the frame check sequence.
const FRAME_WITHOUT_FCS: usize = FRAME_BYTES - 4;
/// Frames made ahead of their use where buffers are to be cold: with their metadata, twice a second-level cache.
const COLD_FRAMES: usize = 1 << 15;

/// Makes frames.
pub struct Generator {
    template: [u8; FRAME_WITHOUT_FCS],
    destinations: Destinations,
    next: usize,
    vector: usize,
    /// Source address and ports differ from frame to frame.
    many_flows: bool,
    flow: u64,
    /// Frames that wait to be received, where buffers are to be cold.
    ahead: Option<VecDeque<Buf>>,
}

/// Where frames go, in turn.
pub enum Destinations {
    /// By IPv4.
    V4(Vec<u32>),
    /// By IPv6.
    V6(Vec<u128>),
}

impl Generator {
    /// A generator of a workload's frames from `host` to `router`.
    pub fn new(workload: &Workload, host: [u8; 6], router: [u8; 6], destinations: Destinations) -> Self {
        let ethertype = if workload.ipv6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        let ethernet = Ethernet { destination: router, source: host, ethertype: U16::new(ethertype) };
        let mut template = [0; FRAME_WITHOUT_FCS];
        template[..14].copy_from_slice(ethernet.as_bytes());
        let payload = FRAME_WITHOUT_FCS - 14;
        if workload.ipv6 {
            let source = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
            let header = Ipv6::new(protocol::NO_NEXT_HEADER, source, [0; 16], payload - size_of::<Ipv6>());
            template[14..54].copy_from_slice(header.as_bytes());
        } else {
            let header = Ipv4::new(protocol::UDP, [10, 0, 0, 5], [0; 4], payload - size_of::<Ipv4>());
            template[14..34].copy_from_slice(header.as_bytes());
        }
        let ahead = workload.cold.then(VecDeque::new);
        Self {
            template,
            destinations,
            next: 0,
            vector: workload.vector,
            many_flows: workload.many_flows,
            flow: 1,
            ahead,
        }
    }

    /// Buffers that a workload's generator keeps, beside what is under way.
    pub fn buffers(workload: &Workload) -> usize {
        if workload.cold { 2 * COLD_FRAMES } else { 0 }
    }

    fn frame(&mut self, cache: &mut BufferCache) -> Option<Buf> {
        let mut frame = self.template;
        let ip = &mut frame[14..];
        if self.many_flows {
            self.flow = self.flow.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        }
        let flow = (self.flow >> 32) as u32;
        let next = self.next;
        self.next += 1;
        let len = match &self.destinations {
            Destinations::V4(destinations) => {
                let (header, payload) = Ipv4::mut_from_prefix(ip).ok()?;
                header.destination = destinations[next].to_be_bytes();
                header.source[2..].copy_from_slice(&(flow as u16).to_be_bytes());
                header.fill_checksum();
                payload[..4].copy_from_slice(&flow.to_be_bytes());
                destinations.len()
            }
            Destinations::V6(destinations) => {
                let (header, _) = Ipv6::mut_from_prefix(ip).ok()?;
                header.destination = destinations[next].to_be_bytes();
                if self.many_flows {
                    // The label stands for the ports (RFC 6438), for which there is no room in 64 bytes.
                    header.version_class_flow = U32::new(6 << 28 | flow & 0xf_ffff);
                    header.source[14..].copy_from_slice(&(flow as u16).to_be_bytes());
                }
                destinations.len()
            }
        };
        if self.next == len {
            self.next = 0;
        }
        // Written at once as a device does: a load of bytes from two stores that are under way would wait for both.
        let mut packet = cache.allocate()?;
        packet.append(&frame).ok()?;
        Some(packet)
    }
}

impl Source for Generator {
    fn fill(&mut self, cache: &mut BufferCache, out: &mut Vector) {
        for _ in 0..self.vector {
            let Some(packet) = self.frame(cache) else { break };
            let packet = match &mut self.ahead {
                None => packet,
                Some(ahead) => {
                    ahead.push_back(packet);
                    if ahead.len() < COLD_FRAMES {
                        continue;
                    }
                    let Some(oldest) = ahead.pop_front() else { break };
                    oldest
                }
            };
            // A vector holds all that a workload asks for.
            let _ = out.push(packet);
        }
    }
}
