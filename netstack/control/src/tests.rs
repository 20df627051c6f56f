//! The whole plane: a host on Ethernet, a worker of the dataplane, control.

mod health;
mod ipsec;

use crate::dhcp;
use crate::net::testing::Client;
use crate::testing::{Machine, TOKEN, port};
use crate::{Boot, Control, Parts};
use buffer::{BufferPool, MemoryPort, MemoryWire, PortQueue};
use dataplane::{InterfaceId, Shared, Sleepless, Worker};
use fib::{Fib4Writer, Fib6Writer};
use serde_json::{Value, json};
use smoltcp::iface::SocketHandle;
use smoltcp::wire::{
    DhcpMessageType, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, UdpPacket,
};
use std::net::IpAddr;

const MS: u64 = 1_000_000;
const HOST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 1, 0];

pub(crate) struct World {
    control: Control,
    worker: Worker,
    wires: Vec<MemoryWire>,
    host: Client,
    now_ns: u64,
    /// Frames that the node sent out of `eth0`, when a test wants to see them.
    seen: Option<Vec<Vec<u8>>>,
    /// When control wanted to be polled next.
    next_ns: u64,
}

impl World {
    /// A node with this boot configuration, or none, and a host with `address` behind `eth0`.
    pub fn new(machine: &Machine, module: Option<Value>, address: &str, gateway: &str) -> Self {
        let pool = BufferPool::from_heap(4096);
        let (fib4, fib6) = (Fib4Writer::new().unwrap(), Fib6Writer::new().unwrap());
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, [1, 2], Box::new(Sleepless));
        let (queues, wires): (Vec<_>, Vec<_>) = (0..2).map(|_| MemoryPort::new()).unzip();
        let queues =
            (0..).map(InterfaceId).zip(queues.into_iter().map(|q| Box::new(q) as Box<dyn PortQueue>));
        let worker = Worker::new(shared.clone(), 0, queues.collect(), pool.cache());
        let boot = Boot {
            module: module.map(|module| module.to_string().into_bytes().into()),
            token: Some(TOKEN.into()),
            ..Boot::default()
        };
        let ports = vec![port(0), port(1)];
        let parts =
            Parts { platform: machine.platform(), shared, fib4, fib6, ports, cache: pool.cache(), boot };
        let control = Control::new(parts, 0);
        let host = Client::new(Some(HOST_MAC), &[address], gateway);
        Self { control, worker, wires, host, now_ns: 0, seen: None, next_ns: 0 }
    }

    fn step(&mut self) {
        self.step_by(MS);
    }

    fn step_by(&mut self, step_ns: u64) {
        self.now_ns += step_ns;
        self.host.poll(self.now_ns);
        for frame in self.host.take_sent() {
            assert!(self.wires[0].send(&frame));
        }
        while self.worker.poll(self.now_ns) > 0 {}
        self.next_ns = self.control.poll(self.now_ns);
        while self.worker.poll(self.now_ns) > 0 {}
        while let Some(frame) = self.wires[0].receive() {
            if let Some(seen) = &mut self.seen {
                seen.push(frame.clone());
            }
            self.host.give(frame);
        }
        while self.wires[1].receive().is_some() {}
    }

    pub fn send_frame(&mut self, frame: &[u8]) -> bool {
        self.wires[0].send(frame)
    }

    /// Keeps the frames that leave by `eth0` from now on.
    pub fn see(&mut self) {
        self.seen = Some(Vec::new());
    }

    pub fn seen(&self) -> &[Vec<u8>] {
        self.seen.as_deref().unwrap_or_default()
    }

    /// Lets so many seconds pass, in steps that are long for a network.
    pub fn wait(&mut self, seconds: u64) {
        (0..seconds * 50).for_each(|_| self.step_by(20 * MS));
    }

    pub fn run(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.step());
    }

    /// Sends the bytes that `more` gives, until there are none, and reads one answer.
    fn talk(&mut self, node: IpAddr, port: u16, mut more: impl FnMut() -> Option<Vec<u8>>) -> (u16, Vec<u8>) {
        let handle = self.host.connect(node, port);
        let (mut pending, mut received) = (Vec::new(), Vec::new());
        for _ in 0..2_000_000 {
            if pending.is_empty() {
                pending = more().unwrap_or_default();
            }
            let n = self.host.send(handle, &pending);
            let _ = pending.drain(..n);
            self.step();
            received.extend(self.host.receive(handle));
            if let Some(answer) = complete(&received) {
                self.close(handle);
                return answer;
            }
        }
        panic!("no answer: {}", String::from_utf8_lossy(&received));
    }

    fn close(&mut self, handle: SocketHandle) {
        self.host.socket(handle).close();
        self.run(5);
    }

    pub fn ask(&mut self, node: &str, method: &str, target: &str, body: &str) -> (u16, Value) {
        let mut request = Some(
            format!(
                "{method} {target} HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        );
        let (status, body) = self.talk(node.parse().unwrap(), 80, || request.take());
        (status, serde_json::from_slice(&body).unwrap())
    }
}

/// Status and body of a whole answer with a length, or of one in chunks.
fn complete(received: &[u8]) -> Option<(u16, Vec<u8>)> {
    let at = received.windows(4).position(|end| end == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&received[..at]).unwrap();
    let body = &received[at + 4..];
    let status = head[9..12].parse().unwrap();
    match head.lines().find_map(|line| line.strip_prefix("Content-Length: ")) {
        Some(length) => (body.len() == length.parse::<usize>().unwrap()).then(|| (status, body.to_vec())),
        None => {
            let whole = body.ends_with(b"\r\n0\r\n\r\n") || body == b"0\r\n\r\n";
            whole.then(|| (status, unchunk(body)))
        }
    }
}

fn unchunk(mut text: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = text.windows(2).position(|end| end == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&text[..at]).unwrap(), 16).unwrap();
        body.extend_from_slice(&text[at + 2..at + 2 + size]);
        text = &text[at + 4 + size..];
    }
    body
}

fn config() -> Value {
    json!({"hostname": "gw1", "interfaces": [
        {"name": "eth0", "addresses": ["10.0.0.1/24", "2001:db8::1/64"]}, {"name": "eth1", "addresses": ["10.0.1.1/24"]}]})
}

#[test]
fn a_host_manages_the_node_over_ipv4_and_ipv6() {
    for (address, node) in [("10.0.0.2/24", "10.0.0.1"), ("2001:db8::2/64", "2001:db8::1")] {
        let machine = Machine::with_store();
        let mut world = World::new(&machine, Some(config()), address, node);
        world.run(10);
        assert_eq!(world.ask(node, "GET", "/v1/health", "").0, 200);
        let (status, answer) = world.ask(node, "GET", "/v1/status", "");
        assert_eq!((status, &answer["hostname"]), (200, &json!("gw1")));
        let (_, neighbours) = world.ask(node, "GET", "/v1/neighbours", "");
        let host = address.split('/').next().unwrap();
        let known =
            neighbours["neighbours"].as_array().unwrap().iter().find(|n| n["address"] == host).unwrap();
        assert_eq!((&known["interface"], &known["mac"]), (&json!("eth0"), &json!("52:54:00:00:01:00")));
        let (_, lookup) = world.ask(node, "GET", "/v1/routes/lookup?address=10.0.1.7", "");
        assert_eq!(
            (&lookup["route"]["prefix"], &lookup["route"]["source"]),
            (&json!("10.0.1.0/24"), &json!("connected"))
        );
        let (_, interfaces) = world.ask(node, "GET", "/v1/interfaces", "");
        assert!(interfaces["interfaces"][0]["counters"]["rx_packets"].as_u64().unwrap() > 10);
    }
}

#[test]
fn the_api_moves_with_the_configuration() {
    let mut world = World::new(&Machine::default(), Some(config()), "10.0.0.2/24", "10.0.0.1");
    world.run(10);
    let mut moved = config();
    moved["api"] = json!({"port": 8080, "interface": "eth1"});
    // The answer still comes from where the question went.
    assert_eq!(world.ask("10.0.0.1", "PUT", "/v1/config?confirm_seconds=5", &moved.to_string()).0, 200);
    world.run(10);
    let refused = world.host.connect([10, 0, 0, 1].into(), 80);
    world.run(100);
    assert!(
        !world.host.socket(refused).is_active()
            || world.host.state(refused) == smoltcp::socket::tcp::State::SynSent
    );
    let mut request = Some(b"GET /v1/health HTTP/1.1\r\nHost: n\r\n\r\n".to_vec());
    assert_eq!(world.talk([10, 0, 1, 1].into(), 8080, || request.take()).0, 200);
    // Nobody confirms.
    world.run(6000);
    assert_eq!(world.ask("10.0.0.1", "GET", "/v1/status", "").1["config"]["generation"], 3);
}

#[test]
fn a_node_without_instructions_gets_an_address() {
    let mut world = World::new(&Machine::default(), None, "10.0.0.254/24", "10.0.0.1");
    world.seen = Some(Vec::new());
    let mut answered = 0;
    for _ in 0..20_000 {
        world.step();
        for frame in world.seen.replace(Vec::new()).unwrap() {
            let Some(request) = dhcp_request(&frame) else { continue };
            let kind = if answered == 0 { DhcpMessageType::Offer } else { DhcpMessageType::Ack };
            answered += 1;
            let packet = dhcp::tests::answer(&request, kind, Some(3600), &[]);
            assert!(world.wires[0].send(&broadcast(&packet)));
        }
        if answered == 2 {
            break;
        }
    }
    assert_eq!(answered, 2);
    world.run(10);
    let (status, answer) = world.ask("10.0.0.7", "GET", "/v1/interfaces", "");
    assert_eq!(status, 200);
    assert_eq!(answer["interfaces"][0]["addresses"], json!(["10.0.0.7/24"]));
    assert_eq!(
        answer["interfaces"][0]["dhcp4"],
        json!({"state": "bound", "server": "10.0.0.254", "lease_seconds": 3600})
    );
    let (_, lookup) = world.ask("10.0.0.7", "GET", "/v1/routes/lookup?address=8.8.8.8", "");
    assert_eq!(lookup["route"]["source"], "dhcp");
    assert_eq!(lookup["route"]["via"][0]["address"], "10.0.0.254");
}

/// The DHCP message in a frame, if it has one for a server.
fn dhcp_request(frame: &[u8]) -> Option<Vec<u8>> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let ip = Ipv4Packet::new_checked(frame.payload()).ok()?;
    let udp = UdpPacket::new_checked(ip.payload()).ok().filter(|_| ip.next_header() == IpProtocol::Udp)?;
    (udp.dst_port() == 67).then(|| udp.payload().to_vec())
}

fn broadcast(packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14 + packet.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    frame.set_src_addr(EthernetAddress(HOST_MAC));
    frame.set_dst_addr(EthernetAddress::BROADCAST);
    frame.set_ethertype(EthernetProtocol::Ipv4);
    frame.payload_mut().copy_from_slice(packet);
    bytes
}

#[test]
fn idle_control_asks_for_little() {
    let mut world = World::new(&Machine::default(), Some(config()), "10.0.0.2/24", "10.0.0.1");
    world.run(5000);
    // Nothing happens: control comes back for the links only.
    let (mut polls, end_ns) = (0, world.now_ns + 10_000 * MS);
    let mut now_ns = world.now_ns;
    while now_ns < end_ns {
        let next_ns = world.control.poll(now_ns);
        assert!(next_ns > now_ns);
        now_ns = next_ns;
        polls += 1;
        let _ = world.worker.poll(now_ns);
    }
    assert!(polls <= 110, "{polls} polls in 10 s");
}

#[test]
fn a_million_routes_are_loaded_listed_and_looked_up() {
    const ROUTES: u32 = 1_000_000;
    let mut world = World::new(&Machine::default(), Some(config()), "10.0.0.2/24", "10.0.0.1");
    world.run(10);
    let node: IpAddr = [10, 0, 0, 1].into();
    let network = |n: u32| std::net::Ipv4Addr::from(0x1000_0000 + (n << 8));
    let mut sent = 0;
    let (status, body) = world.talk(node, 80, || {
        let mut text = String::new();
        if sent == 0 {
            text += &format!(
                "POST /v1/routes HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/x-ndjson\r\n\
                 Transfer-Encoding: chunked\r\n\r\n"
            );
        }
        let until = ROUTES.min(sent + 1000);
        let lines: String = (sent..until)
            .map(|n| format!("{{\"op\":\"add\",\"prefix\":\"{}/24\",\"via\":[{{\"address\":\"10.0.0.2\"}}]}}\n", network(n)))
            .collect();
        if sent < ROUTES {
            text += &format!("{:x}\r\n{lines}\r\n", lines.len());
        } else if sent == ROUTES {
            text += "0\r\n\r\n";
            sent += 1;
        }
        sent = sent.max(until);
        Some(text.into_bytes())
    });
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &answer["added"], &answer["failed"]), (200, &json!(ROUTES), &json!(0)), "{answer}");
    world.run(2000);
    for n in [0, 1, 499_999, ROUTES - 1] {
        let target =
            format!("/v1/routes/lookup?address={}", std::net::Ipv4Addr::from(u32::from(network(n)) + 77));
        let (_, lookup) = world.ask("10.0.0.1", "GET", &target, "");
        assert_eq!(lookup["route"]["prefix"], format!("{}/24", network(n)), "{lookup}");
        assert_eq!(lookup["route"]["active"], true);
    }
    let (_, status) = world.ask("10.0.0.1", "GET", "/v1/status", "");
    assert_eq!(status["routes"]["dynamic"], ROUTES);
    let (_, page) = world.ask("10.0.0.1", "GET", "/v1/routes?limit=1000&family=ipv4", "");
    assert_eq!(page["routes"].as_array().unwrap().len(), 1000);
    let (_, next) = world.ask(
        "10.0.0.1",
        "GET",
        &format!("/v1/routes?limit=2&after={}", page["next"].as_str().unwrap()),
        "",
    );
    assert_ne!(next["routes"][0], page["routes"][999]);
    let mut request = Some(
        format!("GET /v1/routes HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\nAccept: application/x-ndjson\r\n\r\n")
            .into_bytes(),
    );
    let (_, all) = world.talk(node, 80, || request.take());
    assert!(all.iter().filter(|&&byte| byte == b'\n').count() > ROUTES as usize);
}

/// An IP packet from the host to the node, in a frame.
fn to_node(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&port(0).info().mac[..], &HOST_MAC, &ethertype.to_be_bytes(), packet].concat()
}

fn icmp4(kind: u8, id: u8, data: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, id, 0, 1];
    message.extend(data);
    let checksum = packet::checksum::of(&message).get();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

fn ipv4(protocol: u8, flags_fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 9]);
    packet.extend(flags_fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    let checksum = packet::checksum::of(&packet).get();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// The IPv4 packets among frames, without their Ethernet headers.
fn ipv4_of(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.into_iter().filter(|frame| frame[12..14] == [8, 0]).map(|frame| frame[14..].to_vec()).collect()
}

#[test]
fn pings_in_fragments_are_answered_in_fragments() {
    let mut world = World::new(&Machine::default(), Some(config()), "10.0.0.2/24", "10.0.0.1");
    world.run(10);
    // The host answers when it is asked for its MAC address.
    let _ = world.ask("10.0.0.1", "GET", "/v1/health", "");
    world.seen = Some(Vec::new());
    let data: Vec<u8> = (0..5000).map(|n| n as u8).collect();
    let message = icmp4(8, 7, &data);
    for (n, piece) in message.chunks(1480).enumerate() {
        let more = if n < 3 { 0x2000 } else { 0 };
        let frame = to_node(0x0800, &ipv4(1, (n * 185) as u16 | more, piece));
        assert!(world.wires[0].send(&frame));
    }
    world.run(10);
    let replies = ipv4_of(world.seen.take().unwrap());
    assert_eq!(replies.len(), 4);
    let mut reassembler = crate::net::reassembly::Reassembler::default();
    let whole = replies.iter().find_map(|reply| reassembler.receive(reply, 0)).unwrap();
    assert_eq!((&whole[12..16], &whole[16..20], whole[20]), (&[10, 0, 0, 1][..], &[10, 0, 0, 2][..], 0));
    assert_eq!(whole[28..], data);
}

fn echo_request6(from: &[u8; 16], to: &[u8; 16], bytes: usize) -> Vec<u8> {
    let mut message = vec![128, 0, 0, 0, 0, 7, 0, 1];
    message.extend((0..bytes).map(|n| n as u8));
    let sum = packet::checksum::Sum::new().pseudo_header(from, to, 58, message.len() as u32);
    let checksum = sum.bytes(&message).finish().get();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// The frames of an ICMPv6 message to the node, in fragments.
fn fragments6(from: &[u8; 16], to: &[u8; 16], message: &[u8]) -> Vec<Vec<u8>> {
    let fragment = |(n, piece): (usize, &[u8])| {
        let offset_more = (n * 1232) as u16 | u16::from((n + 1) * 1232 < message.len());
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((8 + piece.len() as u16).to_be_bytes());
        packet.extend([44, 64]);
        packet.extend([from, to].map(|address| &address[..]).concat());
        packet.extend([58, 0]);
        packet.extend(offset_more.to_be_bytes());
        packet.extend([0, 0, 0, 9]);
        packet.extend(piece);
        to_node(0x86dd, &packet)
    };
    message.chunks(1232).enumerate().map(fragment).collect()
}

#[test]
fn pings_in_fragments_from_a_link_local_address_are_answered_to_where_they_came_from() {
    let mut world = World::new(&Machine::default(), Some(config()), "10.0.0.2/24", "10.0.0.1");
    world.run(10);
    let link_local = |mac: [u8; 6]| {
        let [a, b, c, d, e, f] = mac;
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    };
    let (host, node) = (link_local(HOST_MAC), link_local(port(0).info().mac));
    let message = echo_request6(&host, &node, 3000);
    world.seen = Some(Vec::new());
    for frame in fragments6(&host, &node, &message) {
        assert!(world.wires[0].send(&frame));
    }
    world.run(10);
    let mut reassembler = crate::net::reassembly::Reassembler::default();
    let to_host = world.seen.take().unwrap().into_iter().filter(|frame| frame[..6] == HOST_MAC);
    let whole = to_host.filter(|frame| frame[12..14] == [0x86, 0xdd] && frame[20] == 44);
    let whole = whole.filter_map(|frame| reassembler.receive(&frame[14..], 0)).next().expect("an answer");
    assert_eq!((&whole[8..24], &whole[24..40], whole[40]), (&node[..], &host[..], 129));
    assert_eq!(whole[48..], message[8..]);
}

#[test]
fn who_asks_for_what_is_not_there_is_told() {
    let mut world = World::new(&Machine::default(), Some(config()), "10.0.0.2/24", "10.0.0.1");
    world.run(10);
    let _ = world.ask("10.0.0.1", "GET", "/v1/health", "");
    let datagram = [0, 53, 1, 2, 0, 12, 0, 0, 1, 2, 3, 4];
    // UDP; SCTP; AH, which is no way of IPsec here.
    for (packet, code) in
        [(ipv4(17, 0, &datagram), 3), (ipv4(132, 0, &datagram), 2), (ipv4(51, 0, &datagram), 2)]
    {
        world.seen = Some(Vec::new());
        let frame = to_node(0x0800, &packet);
        assert!(world.wires[0].send(&frame));
        world.run(10);
        let told = ipv4_of(world.seen.take().unwrap());
        assert_eq!((told.len(), told[0][9], &told[0][20..22]), (1, 1, &[3, code][..]));
        assert_eq!(told[0][28..], packet);
    }
    let (_, drops) = world.ask("10.0.0.1", "GET", "/v1/drops", "");
    let packets_of = |drops: &Value, reason: &str| {
        let rows = drops["drops"].as_array().unwrap();
        rows.iter().find(|row| row["reason"] == reason).map_or(0, |row| row["packets"].as_u64().unwrap())
    };
    assert_eq!((packets_of(&drops, "control-not-taken"), packets_of(&drops, "control-fragment")), (3, 0));
    // A fragment that stays alone.
    world.seen = Some(Vec::new());
    let frame = to_node(0x0800, &ipv4(17, 0x2000, &[0; 16]));
    assert!(world.wires[0].send(&frame));
    world.run(61_000);
    let told: Vec<_> =
        ipv4_of(world.seen.take().unwrap()).into_iter().filter(|packet| packet[9] == 1).collect();
    assert_eq!((told.len(), &told[0][20..22]), (1, &[11, 1][..]));
    let (_, drops) = world.ask("10.0.0.1", "GET", "/v1/drops", "");
    assert_eq!(packets_of(&drops, "control-fragment"), 1);
}
