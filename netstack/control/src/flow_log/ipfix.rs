//! IPFIX (RFC 7011) messages with elements of IANA's registry (RFC 7012): flows that begin and end, and what was denied or logged.
//!
//! Octets and packets are those of who began the flow; the answers' are the reverse elements of RFC 5103.

use super::record::Record;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use dataplane::{FlowEventKind, Tuple};

const VERSION: u16 = 10;
const HEADER_BYTES: usize = 16;
const SET_HEADER_BYTES: usize = 4;
/// The set of templates (RFC 7011 §3.3.2).
const TEMPLATES: u16 = 2;
/// Numbers of the templates, by family.
const TEMPLATE4: u16 = 256;
const TEMPLATE6: u16 = 257;
/// A length that each record says (RFC 7011 §7).
const VARIABLE: u16 = 0xffff;
/// The enterprise bit, and the number under which elements are the reverse ones (RFC 5103 §6.1).
const ENTERPRISE: u16 = 1 << 15;
const REVERSE: u32 = 29_305;
/// The longest name of a rule, so that its length takes a byte.
const MAX_NAME_BYTES: usize = 254;

/// Element and length of the fields whose elements depend on the family: for IPv4, for IPv6.
const ADDRESSES: [[(u16, u16); 2]; 6] = [
    [(8, 4), (27, 16)],    // source address
    [(12, 4), (28, 16)],   // destination address
    [(225, 4), (281, 16)], // post-NAT source address
    [(226, 4), (282, 16)], // post-NAT destination address
    [(176, 1), (178, 1)],  // ICMP type
    [(177, 1), (179, 1)],  // ICMP code
];

/// The others, behind them.
const FIELDS: [(u16, u16); 16] = [
    (152, 8),            // flowStartMilliseconds
    (153, 8),            // flowEndMilliseconds
    (7, 2),              // sourceTransportPort
    (11, 2),             // destinationTransportPort
    (227, 2),            // postNAPTSourceTransportPort
    (228, 2),            // postNAPTDestinationTransportPort
    (4, 1),              // protocolIdentifier
    (1, 8),              // octetDeltaCount
    (2, 8),              // packetDeltaCount
    (ENTERPRISE | 1, 8), // reverseOctetDeltaCount
    (ENTERPRISE | 2, 8), // reversePacketDeltaCount
    (239, 1),            // biflowDirection
    (136, 1),            // flowEndReason
    (233, 1),            // firewallEvent
    (302, 8),            // selectorId
    (335, VARIABLE),     // selectorName
];

/// biflowDirection: the flow's source began it (RFC 5103 §6.3).
const INITIATOR: u8 = 1;
/// flowEndReason of what goes on (RFC 7012): active timeout.
const GOES_ON: u8 = 2;
/// firewallEvent.
mod firewall {
    pub(super) const CREATED: u8 = 1;
    pub(super) const DELETED: u8 = 2;
    pub(super) const DENIED: u8 = 3;
    pub(super) const ALERT: u8 = 4;
}

/// The name where no rule that still is there has decided. Not every collector takes an empty one.
const UNNAMED: &str = "no policy";

/// A message that is being written.
pub(super) struct Message {
    bytes: Vec<u8>,
    /// Where the set that is being written begins, and its number.
    set: Option<(usize, u16)>,
    /// Data records.
    records: u32,
}

impl Message {
    /// An empty one.
    pub fn new() -> Self {
        Self { bytes: Vec::from([0; HEADER_BYTES]), set: None, records: 0 }
    }

    /// Its length with one more record of these bytes.
    pub fn length_with(&self, record: &[u8]) -> usize {
        self.bytes.len() + SET_HEADER_BYTES + record.len()
    }

    pub fn add_templates(&mut self) {
        for (family, number) in [TEMPLATE4, TEMPLATE6].into_iter().enumerate() {
            self.open(TEMPLATES);
            self.put16(number);
            self.put16((ADDRESSES.len() + FIELDS.len()) as u16);
            let addresses = ADDRESSES.iter().filter_map(|families| families.get(family));
            for (element, length) in addresses.chain(&FIELDS) {
                self.put16(*element);
                self.put16(*length);
                if element & ENTERPRISE != 0 {
                    self.bytes.extend(REVERSE.to_be_bytes());
                }
            }
        }
    }

    /// Adds what [`encode`] made.
    pub fn add(&mut self, template: u16, record: &[u8]) {
        self.open(template);
        self.bytes.extend_from_slice(record);
        self.records += 1;
    }

    /// The whole message, and its data records. `sequence` counts those before it.
    pub fn finish(mut self, unix_seconds: u32, sequence: u32, domain: u32) -> (Vec<u8>, u32) {
        self.close();
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(VERSION.to_be_bytes());
        header.extend((self.bytes.len() as u16).to_be_bytes());
        [unix_seconds, sequence, domain].iter().for_each(|field| header.extend(field.to_be_bytes()));
        self.bytes.iter_mut().zip(header).for_each(|(to, from)| *to = from);
        (self.bytes, self.records)
    }

    fn open(&mut self, number: u16) {
        if self.set.is_some_and(|(_, open)| open == number) {
            return;
        }
        self.close();
        self.set = Some((self.bytes.len(), number));
        self.put16(number);
        self.put16(0);
    }

    fn close(&mut self) {
        let Some((at, _)) = self.set.take() else { return };
        let length = (self.bytes.len() - at) as u16;
        if let Some(place) = self.bytes.get_mut(at + 2..at + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    fn put16(&mut self, value: u16) {
        self.bytes.extend(value.to_be_bytes());
    }
}

/// A record, and the template that it is written by.
pub(super) fn encode(record: &Record) -> (u16, Vec<u8>) {
    let event = &record.event;
    let mut out = Vec::with_capacity(160);
    let (ends, sent) = (ends(&event.asked), ends(&event.sent));
    for address in [ends.0, ends.1, sent.0, sent.1] {
        match address.ip() {
            IpAddr::V4(address) => out.extend(address.octets()),
            IpAddr::V6(address) => out.extend(address.octets()),
        }
    }
    out.extend([event.icmp.0, event.icmp.1]);
    [record.start_ms, record.end_ms].iter().for_each(|ms| out.extend(ms.to_be_bytes()));
    for end in [ends.0, ends.1, sent.0, sent.1] {
        // ICMP's echoes have their identifiers there.
        out.extend(if event.has_ports() { end.port() } else { 0 }.to_be_bytes());
    }
    out.push(event.asked.protocol());
    // The end tells of all that was carried, the first packet among it.
    let is_start = event.kind == FlowEventKind::Allowed;
    let carried = if is_start { Default::default() } else { [event.asks, event.answers] };
    for traffic in carried {
        out.extend(traffic.bytes.to_be_bytes());
        out.extend(traffic.packets.to_be_bytes());
    }
    let (reason, firewall) = match event.kind {
        FlowEventKind::Ended(end) => (end as u8, firewall::DELETED),
        FlowEventKind::Allowed => (GOES_ON, firewall::CREATED),
        FlowEventKind::Logged => (GOES_ON, firewall::ALERT),
        FlowEventKind::Denied => (GOES_ON, firewall::DENIED),
    };
    out.extend([INITIATOR, reason, firewall]);
    out.extend(u64::from(event.by.0).to_be_bytes());
    let name = record.reason_text().unwrap_or_else(|| UNNAMED.into());
    let length = name.floor_char_boundary(MAX_NAME_BYTES);
    out.push(length as u8);
    out.extend(name.bytes().take(length));
    (if event.asked.source().is_ipv4() { TEMPLATE4 } else { TEMPLATE6 }, out)
}

fn ends(tuple: &Tuple) -> (SocketAddr, SocketAddr) {
    (tuple.source(), tuple.destination())
}
