//! A host that talks to a whole node as it likes, over IPv4 or IPv6: connections to the API with segments of any flags and
//! numbers, the backend's part of health probes, packets of any protocol, all of it in fragments if need be.
//!
//! The input is a script. Sequence numbers are relative to those of the node, and checksums right, so that what is said gets
//! somewhere. Whatever leaves the node has right checksums, and after it all a well-behaved client is answered.

use std::cell::RefCell;
use std::ops::Range;

use crate::input::Input;
use crate::rig::{MACS, Rig, TOKEN};
use crate::{http, transport};

const MAX_STEPS: usize = 32;
/// Inputs after which a fresh node is made.
const LIFE: u32 = 4_000;
/// Inputs after which time goes by, and a client must be answered.
const INPUTS_PER_CHECK: u32 = 64;
/// Longer than every deadline of a connection.
const LONG_NS: u64 = 61_000_000_000;
const MS: u64 = 1_000_000;

/// The host: a neighbour that the node knows, and a backend of its services.
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const HOST4: [u8; 4] = [10, 0, 0, 9];
const NODE4: [u8; 4] = [10, 0, 0, 1];
const HOST6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const NODE6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const API_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
const FIRST_PORT: u16 = 20_000;
/// Windows of connections to the API. The first is the usual one, as whole windows of a long answer take long.
const WINDOWS: [u16; 4] = [4096, u16::MAX, 600, 0];
/// As much of what the node says as tells what it is.
const SAID_BYTES: usize = 4096;

const ETHERNET_BYTES: usize = 14;
const TCP: u8 = 6;
const ICMP: u8 = 1;
const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

const OBJECTS: &str = concat!(
    r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "annotations": "#,
    r#"{"fairlead.dev/table-size": "13", "fairlead.dev/health-check": "http", "fairlead.dev/health-check-interval": "100ms", "#,
    r#""fairlead.dev/health-check-timeout": "100ms"}}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}}"#,
    "\n",
    r#"{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "#,
    r#""metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}}, "#,
    r#""ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.0.0.9"]}]}"#,
    "\n",
    r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ping", "annotations": "#,
    r#"{"fairlead.dev/table-size": "13", "fairlead.dev/health-check": "icmp", "fairlead.dev/health-check-interval": "100ms", "#,
    r#""fairlead.dev/health-check-timeout": "100ms"}}, "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 80}]}}"#,
    "\n",
    r#"{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "#,
    r#""metadata": {"name": "ping", "labels": {"kubernetes.io/service-name": "ping"}}, "#,
    r#""ports": [{"port": 8081}], "endpoints": [{"addresses": ["10.0.0.9"]}]}"#,
    "\n",
);

/// One connection as the host sees it.
#[derive(Clone, Copy, Default)]
struct Connection {
    is_v6: bool,
    /// Ours and the node's.
    ports: (u16, u16),
    /// The number of our next byte, and of the node's.
    numbers: (u32, u32),
    /// What the node may send before it is acknowledged.
    window: u16,
}

/// How the packets that follow are cut.
#[derive(Clone, Copy, Default)]
struct Cut {
    /// Bytes of a fragment; 0: none.
    bytes: usize,
    /// The fragment that goes first.
    first: usize,
    /// A fragment goes twice, moved by so much.
    again: Option<i8>,
}

struct Talk {
    rig: Rig,
    /// To the API, and that of the newest probe.
    connections: [Connection; 2],
    /// Identifier and sequence number of the newest echo request.
    asked: Option<[u8; 4]>,
    cut: Cut,
    identification: u16,
    next_port: u16,
    /// What the node has said first on connections to the API since this was last looked at.
    said: Vec<u8>,
    age: u32,
}

thread_local! {
    static TALK: RefCell<Option<Talk>> = const { RefCell::new(None) };
}

/// Says what `data` says.
pub fn run(data: &[u8]) {
    TALK.with_borrow_mut(|kept| {
        let mut talk = kept.take().unwrap_or_else(Talk::new);
        talk.act(data);
        talk.age += 1;
        if talk.age.is_multiple_of(INPUTS_PER_CHECK) {
            talk.check();
        }
        if talk.age < LIFE {
            *kept = Some(talk);
        }
    });
}

impl Talk {
    fn new() -> Self {
        let mut rig = Rig::new();
        let request = format!(
            "PUT /v1/resources HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{OBJECTS}",
            OBJECTS.len()
        );
        let said = http::exchange(&mut rig, request.as_bytes());
        assert!(said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
        Self {
            rig,
            connections: [Connection::default(); 2],
            asked: None,
            cut: Cut::default(),
            identification: 0,
            next_port: FIRST_PORT,
            said: Vec::new(),
            age: 0,
        }
    }

    fn act(&mut self, data: &[u8]) {
        let mut input = Input::new(data);
        self.cut = Cut::default();
        for _ in 0..MAX_STEPS {
            if input.is_empty() {
                break;
            }
            self.step(&mut input);
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        let which = usize::from(what >> 7);
        match what & 7 {
            0 => {
                let count = usize::from(input.byte() % 41);
                let window = WINDOWS[usize::from(what >> 5 & 3)];
                self.open(which, what & 16 != 0, window, input.bytes(count));
            }
            1 | 2 => {
                let count = usize::from(input.byte());
                let data = input.bytes(count).to_vec();
                self.say(which, ACK | PSH, (0, 0), &data);
            }
            3 => {
                let (flags, ours, theirs) = (input.byte(), input.word() as i16, input.word() as i16);
                let count = usize::from(input.word() % 1460);
                let data = input.bytes(count).to_vec();
                self.say(which, flags, (ours, theirs), &data);
            }
            4 => self.say(which, ACK | PSH, (0, 0), &request(input.byte())),
            5 => {
                let (bytes, first, again) = (input.byte(), input.byte(), input.byte());
                let again = (again != 0).then_some(again as i8);
                self.cut = Cut { bytes: usize::from(bytes) * 8, first: first.into(), again };
                return;
            }
            6 => return self.listen(u64::from(input.byte()) * 50 * MS),
            _ if which == 1 => self.echo(input),
            _ => {
                let (protocol, count) = (input.byte(), usize::from(input.word() % 3000));
                let data = input.bytes(count).to_vec();
                self.send(what & 16 != 0, protocol, &data);
            }
        }
        self.listen(MS);
    }

    /// Begins a connection to the API, or accepts that of a probe, with these options.
    fn open(&mut self, which: usize, is_v6: bool, window: u16, options: &[u8]) {
        let flags = if which == 0 {
            self.next_port = if self.next_port == u16::MAX { FIRST_PORT } else { self.next_port + 1 };
            let first = u32::from(self.next_port) << 16;
            let ports = (self.next_port, API_PORT);
            self.connections[0] = Connection { is_v6, ports, numbers: (first, 0), window };
            SYN
        } else {
            SYN | ACK
        };
        let connection = self.connections[which];
        let segment = connection.segment(flags, (0, 0), options, &[]);
        self.send(connection.is_v6, TCP, &segment);
        self.connections[which].numbers.0 = connection.numbers.0.wrapping_add(1);
    }

    /// Sends a segment with numbers beside the right ones. What has the right ones counts as said.
    fn say(&mut self, which: usize, flags: u8, beside: (i16, i16), data: &[u8]) {
        let connection = self.connections[which];
        let segment = connection.segment(flags, beside, &[], data);
        self.send(connection.is_v6, TCP, &segment);
        if beside.0 == 0 {
            let more = data.len() as u32 + u32::from(flags & FIN != 0);
            self.connections[which].numbers.0 = connection.numbers.0.wrapping_add(more);
        }
    }

    /// Answers the newest echo request, more or less.
    fn echo(&mut self, input: &mut Input<'_>) {
        let Some(asked) = self.asked else { return };
        let (kind, change) = (input.byte() % 4, input.byte());
        let mut message = [kind, 0, 0, 0, asked[0], asked[1], asked[2], asked[3] ^ change].to_vec();
        let count = usize::from(input.byte());
        message.extend_from_slice(input.bytes(count));
        self.send(false, ICMP, &message);
    }

    /// Sends a packet to the node, its checksums right, whole or in fragments.
    fn send(&mut self, is_v6: bool, protocol: u8, payload: &[u8]) {
        self.identification = self.identification.wrapping_add(1);
        let mut packet =
            if is_v6 { header6(protocol, payload.len()) } else { self.header4(protocol, payload.len()) };
        let header = packet.len();
        packet.extend_from_slice(payload);
        let _ = transport::correct(&mut packet);
        let cut = self.cut;
        if cut.bytes == 0 || payload.len() <= cut.bytes {
            self.put(&packet);
            return;
        }
        let places: Vec<Range<usize>> =
            (0..payload.len()).step_by(cut.bytes).map(|at| at..payload.len().min(at + cut.bytes)).collect();
        for number in 0..places.len() {
            let place = places[(number + cut.first) % places.len()].clone();
            let fragment = self.fragment(is_v6, protocol, &packet[header..], place.clone(), 0);
            self.put(&fragment);
            if let Some(moved) = cut.again.filter(|_| number == cut.first % places.len()) {
                let fragment = self.fragment(is_v6, protocol, &packet[header..], place, moved);
                self.put(&fragment);
            }
        }
    }

    /// A part of a payload in a packet of its own, said to be `moved` units of 8 bytes further back.
    fn fragment(&self, is_v6: bool, protocol: u8, payload: &[u8], place: Range<usize>, moved: i8) -> Vec<u8> {
        let more = place.end < payload.len();
        let offset = ((place.start / 8) as u16).wrapping_add_signed(moved.into()) & 0x1fff;
        let mut packet = if is_v6 {
            const FRAGMENT: u8 = 44;
            let mut packet = header6(FRAGMENT, place.len() + 8);
            packet.extend([protocol, 0]);
            packet.extend((offset << 3 | u16::from(more)).to_be_bytes());
            packet.extend([0, 0]);
            packet.extend(self.identification.to_be_bytes());
            packet
        } else {
            let mut packet = self.header4(protocol, place.len());
            packet[6..8].copy_from_slice(&(u16::from(more) << 13 | offset).to_be_bytes());
            packet[10..12].fill(0);
            let sum = packet::checksum::of(&packet).get();
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet
        };
        packet.extend_from_slice(&payload[place]);
        packet
    }

    fn header4(&self, protocol: u8, payload_bytes: usize) -> Vec<u8> {
        let mut header = [0; 20];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&(20 + payload_bytes as u16).to_be_bytes());
        header[4..6].copy_from_slice(&self.identification.to_be_bytes());
        header[8..10].copy_from_slice(&[64, protocol]);
        header[12..16].copy_from_slice(&HOST4);
        header[16..20].copy_from_slice(&NODE4);
        let sum = packet::checksum::of(&header).get();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.to_vec()
    }

    fn put(&mut self, packet: &[u8]) {
        let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        self.rig.send(0, &[&MACS[0][..], &HOST_MAC, &ethertype, packet].concat());
    }

    /// Lets time pass, and takes what the node sends.
    fn listen(&mut self, ns: u64) {
        self.rig.wait(ns);
        for frame in self.rig.sent(0).collect::<Vec<_>>() {
            let packet = &frame[ETHERNET_BYTES..];
            assert!(transport::is_right(packet), "a wrong checksum: {packet:02x?}");
            self.hear(packet);
        }
        self.rig.sent(1).for_each(drop);
    }

    fn hear(&mut self, packet: &[u8]) {
        let (is_v6, protocol, at) = match packet.first().map(|first| first >> 4) {
            Some(4) if packet.get(16..20) == Some(&HOST4) => {
                (false, packet[9], usize::from(packet[0] & 15) * 4)
            }
            Some(6) if packet.get(24..40) == Some(&HOST6) => (true, packet[6], 40),
            _ => return,
        };
        let Some(message) = packet.get(at..) else { return };
        if let (ICMP, Some(&[8, _, _, _, a, b, c, d])) = (protocol, message.first_chunk()) {
            self.asked = Some([a, b, c, d]);
        }
        let Some(header) = message.first_chunk::<20>().filter(|_| protocol == TCP) else { return };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let number = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let (from, to, flags) = (word(0), word(2), header[13]);
        let data = message.get(usize::from(header[12] >> 4) * 4..).unwrap_or_default();
        let length = data.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let numbers = (0, number.wrapping_add(length));
        if to == BACKEND_PORT && flags & SYN != 0 {
            self.connections[1] = Connection { is_v6, ports: (to, from), numbers, window: u16::MAX };
        }
        for connection in &mut self.connections {
            if connection.ports == (to, from) && length > 0 {
                connection.numbers.1 = numbers.1;
                if from == API_PORT {
                    let room = SAID_BYTES - self.said.len();
                    self.said.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
        }
    }

    /// After a while, a client that does everything right is answered.
    fn check(&mut self) {
        self.cut = Cut::default();
        for is_v6 in [false, true] {
            self.listen(LONG_NS);
            self.listen(LONG_NS);
            self.said.clear();
            self.open(0, is_v6, WINDOWS[0], &[]);
            self.listen(MS);
            self.say(0, ACK | PSH, (0, 0), &request(0));
            self.listen(MS);
            let said = String::from_utf8_lossy(&self.said);
            assert!(said.starts_with("HTTP/1.1 200"), "a good client is not answered: {said:?}");
            self.say(0, ACK | FIN, (0, 0), &[]);
            self.listen(MS);
            self.say(0, ACK, (0, 0), &[]);
        }
        self.said.clear();
    }
}

impl Connection {
    fn segment(&self, flags: u8, (ours, theirs): (i16, i16), options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[..2].copy_from_slice(&self.ports.0.to_be_bytes());
        segment[2..4].copy_from_slice(&self.ports.1.to_be_bytes());
        segment[4..8].copy_from_slice(&self.numbers.0.wrapping_add_signed(ours.into()).to_be_bytes());
        segment[8..12].copy_from_slice(&self.numbers.1.wrapping_add_signed(theirs.into()).to_be_bytes());
        segment.extend_from_slice(options);
        segment.resize(segment.len().next_multiple_of(4), 0);
        segment[12] = (segment.len() / 4) as u8 * 16;
        segment[13] = flags;
        segment[14..16].copy_from_slice(&self.window.to_be_bytes());
        segment.extend_from_slice(data);
        segment
    }
}

fn header6(next_header: u8, payload_bytes: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((payload_bytes as u16).to_be_bytes());
    header.extend([next_header, 64]);
    header.extend(HOST6);
    header.extend(NODE6);
    header
}

/// Requests, parts of them, and answers to probes.
fn request(which: u8) -> Vec<u8> {
    let authorization = format!("Authorization: Bearer {TOKEN}\r\n");
    let text = match which % 10 {
        0 => "GET /v1/health HTTP/1.1\r\nHost: n\r\n\r\n",
        1 => &format!("GET /v1/status HTTP/1.1\r\nHost: n\r\n{authorization}\r\n"),
        2 => &format!("GET /openapi.json HTTP/1.1\r\nHost: n\r\n{authorization}\r\n"),
        3 => &format!(
            "GET /v1/log?follow=true HTTP/1.1\r\nHost: n\r\n{authorization}Accept: application/x-ndjson\r\n\r\n"
        ),
        4 => &format!(
            "POST /v1/routes HTTP/1.1\r\nHost: n\r\n{authorization}Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        ),
        5 => "3d\r\n{\"op\":\"add\",\"prefix\":\"192.0.2.0/24\",\"via\":[{\"address\":\"10.0.0.9\"}]}\n\r\n",
        6 => "0\r\n\r\n",
        7 => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        8 => "HTTP/1.0 404 ",
        _ => &format!("GET /v1/services HTTP/1.1\r\nHost: n\r\n{authorization}"),
    };
    text.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(talk: &mut Talk) -> String {
        let request =
            format!("GET /v1/services HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
        String::from_utf8_lossy(&http::exchange(&mut talk.rig, request.as_bytes())).into_owned()
    }

    #[test]
    fn kept_scripts_get_somewhere() {
        for input in crate::corpus::load("conversation").unwrap() {
            let mut talk = Talk::new();
            talk.act(&input.data);
            let said = String::from_utf8_lossy(&talk.said).into_owned();
            match input.name.trim_start_matches("conversation/") {
                name if name.starts_with("get-") => assert!(said.contains("HTTP/1.1 200"), "{name}: {said}"),
                name if name.starts_with("probe-") => {
                    let services = services(&mut talk);
                    assert!(services.contains(r#""status":"up""#), "{name}: {services}");
                }
                _ => {}
            }
            talk.check();
        }
    }
}
