//! The exporting process of IPFIX over UDP (RFC 7011 §10.3): what goes to each collector, and when.

use super::ipfix::{self, Message};
use super::record::Record;
use crate::node::Node;
use alloc::{collections::VecDeque, vec, vec::Vec};
use config::Collector;
use core::net::IpAddr;
use packet::{
    ipv6::{Ipv6, MIN_MTU},
    udp::Udp,
};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, UdpPacket, UdpRepr};

/// The longest message: with its headers no longer than any IPv6 link must carry (RFC 8200 §5).
const MAX_MESSAGE_BYTES: usize = MIN_MTU as usize - size_of::<Ipv6>() - size_of::<Udp>();
/// How long records wait for others.
const WAIT_NS: u64 = 1_000_000_000;
/// From one sending of the templates to the next (RFC 7011 §8.4).
const TEMPLATES_NS: u64 = 60_000_000_000;
/// Packets that wait for the workers at most.
const MAX_PACKETS: usize = 256;
/// Where messages come from.
const SOURCE_PORT: u16 = 4739;

/// What is exported.
#[derive(Default)]
pub(super) struct Exporter {
    collectors: Vec<Export>,
    packets: VecDeque<Vec<u8>>,
    /// Messages that there was no room or no address for.
    lost: u64,
}

/// What one collector gets.
struct Export {
    to: Collector,
    message: Option<Message>,
    full: Vec<Message>,
    /// Data records sent.
    sequence: u32,
    due_ns: u64,
    templates_due_ns: u64,
}

impl Exporter {
    /// Whether anybody collects records.
    pub fn is_wanted(&self) -> bool {
        !self.collectors.is_empty()
    }

    pub fn add(&mut self, record: &Record) {
        let (template, bytes) = ipfix::encode(record);
        for export in &mut self.collectors {
            if let Some(message) = &export.message
                && message.length_with(&bytes) > MAX_MESSAGE_BYTES
            {
                export.full.extend(export.message.take());
            }
            export.message.get_or_insert_with(Message::new).add(template, &bytes);
        }
    }

    pub fn next_packet(&mut self) -> Option<Vec<u8>> {
        self.packets.pop_front()
    }

    fn configure(&mut self, collectors: &[Collector]) {
        if self.collectors.iter().map(|export| &export.to).eq(collectors) {
            return;
        }
        let export = |to: &Collector| Export {
            to: to.clone(),
            message: None,
            full: Vec::new(),
            sequence: 0,
            due_ns: 0,
            templates_due_ns: 0,
        };
        self.collectors = collectors.iter().map(export).collect();
    }
}

impl Export {
    /// The messages that are to be sent now.
    fn take(&mut self, now_ns: u64) -> Vec<Message> {
        let mut messages = core::mem::take(&mut self.full);
        if now_ns >= self.due_ns {
            self.due_ns = now_ns + WAIT_NS;
            messages.extend(self.message.take());
        }
        if !messages.is_empty() && now_ns >= self.templates_due_ns {
            self.templates_due_ns = now_ns + TEMPLATES_NS;
            let mut templates = Message::new();
            templates.add_templates();
            messages.insert(0, templates);
        }
        messages
    }
}

impl Node {
    /// Sends what is due to collectors.
    pub(super) fn export_flows(&mut self) {
        let collectors = &self.running.config().flow_log.collectors;
        self.flow_log.exporter.configure(collectors);
        let unix_seconds = (self.flow_log.unix_offset_ns + self.now_ns) / 1_000_000_000;
        let addresses: Vec<_> = if collectors.is_empty() {
            Vec::new()
        } else {
            self.router.interfaces().into_iter().flat_map(|interface| interface.addresses).collect()
        };
        let Exporter { collectors, packets, lost } = &mut self.flow_log.exporter;
        for export in collectors {
            let to = export.to.address;
            let of_family = || addresses.iter().filter(|own| own.addr().is_ipv4() == to.is_ipv4());
            let source = of_family().find(|own| own.contains(&to)).or_else(|| of_family().next());
            for message in export.take(self.now_ns) {
                let (domain, port) = (export.to.observation_domain, export.to.port);
                let (bytes, records) = message.finish(unix_seconds as u32, export.sequence, domain);
                export.sequence = export.sequence.wrapping_add(records);
                match source.filter(|_| packets.len() < MAX_PACKETS) {
                    Some(source) => {
                        packets.push_back(datagram((source.addr(), SOURCE_PORT), (to, port), &bytes));
                    }
                    None => *lost += 1,
                }
            }
        }
    }
}

/// An IP packet with a UDP datagram.
pub(super) fn datagram(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr { src_port: from.1, dst_port: to.1 };
    let length = udp.header_len() + payload.len();
    let ip = IpRepr::new(from.0.into(), to.0.into(), IpProtocol::Udp, length, packet::DEFAULT_TTL);
    let checksums = ChecksumCapabilities::default();
    let mut bytes = vec![0; ip.buffer_len()];
    ip.emit(&mut bytes[..], &checksums);
    let header_bytes = ip.header_len();
    if let Some(rest) = bytes.get_mut(header_bytes..) {
        let mut packet = UdpPacket::new_unchecked(rest);
        let fill = |to: &mut [u8]| to.copy_from_slice(payload);
        udp.emit(&mut packet, &from.0.into(), &to.0.into(), payload.len(), fill, &checksums);
    }
    bytes
}
