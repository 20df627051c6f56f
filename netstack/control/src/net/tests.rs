//! The stack and the server against a client, packet by packet.

use super::testing::Client;
use super::{Stack, server::Server};
use crate::http::reply::Body;
use crate::http::{Head, Pull, Reply, Service, Sink, Source, Start};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use std::net::{IpAddr, Ipv4Addr};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// `GET /small`; `GET /big` (8 MB); anything else counts the body's bytes.
#[derive(Default)]
struct Toy {
    open_sinks: usize,
}

struct Big(usize);

impl Source<Toy> for Big {
    fn pull(&mut self, _: &mut Toy, out: &mut Vec<u8>) -> Pull {
        out.extend([b'x'; 8000]);
        self.0 += 1;
        if self.0 == 1000 { Pull::End } else { Pull::More }
    }
}

struct Sum(usize);

impl Sink<Toy> for Sum {
    fn push(&mut self, _: &mut Toy, data: &[u8]) -> Result<(), Reply<Toy>> {
        self.0 += data.len();
        Ok(())
    }

    fn end(self: Box<Self>, toy: &mut Toy) -> Reply<Toy> {
        toy.open_sinks -= 1;
        Reply::new(200, "text/plain", self.0.to_string())
    }
}

impl Service for Toy {
    fn start(&mut self, head: &Head, _: IpAddr, _: u64) -> Start<Self> {
        match head.path.as_str() {
            "/small" => Start::Reply(Reply::new(200, "text/plain", "small")),
            "/big" => Start::Reply(Reply {
                body: Body::Stream(Box::new(Big(0))),
                ..Reply::new(200, "text/plain", "")
            }),
            _ => {
                self.open_sinks += 1;
                Start::Read(Box::new(Sum(0)))
            }
        }
    }

    fn refuse(&mut self, status: u16, detail: &'static str) -> Reply<Self> {
        Reply::new(status, "text/plain", detail)
    }
}

struct World {
    stack: Stack,
    server: Server<Toy>,
    toy: Toy,
    client: Client,
    now_ns: u64,
    /// One in so many packets is lost; 0: none.
    loss: u64,
    packets: u64,
}

impl World {
    fn new() -> Self {
        let mut stack = Stack::new(1, 0);
        let server = Server::new(&mut stack, 80, 0);
        let client = Client::new(None, &["10.0.0.2/24"], "10.0.0.1");
        let mut world = Self { stack, server, toy: Toy::default(), client, now_ns: 0, loss: 0, packets: 0 };
        world.step();
        world
    }

    fn step(&mut self) {
        self.step_by(MS);
    }

    fn step_by(&mut self, duration_ns: u64) {
        self.now_ns += duration_ns;
        self.client.poll(self.now_ns);
        for packet in self.client.take_sent() {
            if !self.lost() {
                let _ = self.stack.receive(packet, false);
            }
        }
        let _ = self.server.poll(&mut self.stack, &mut self.toy, self.now_ns);
        while let Some(packet) = self.stack.transmit() {
            if !self.lost() {
                self.client.give(packet);
            }
        }
    }

    fn lost(&mut self) -> bool {
        self.packets += 1;
        self.loss != 0 && self.packets.is_multiple_of(self.loss)
    }

    fn run(&mut self, duration_ns: u64) {
        let until = self.now_ns + duration_ns;
        while self.now_ns < until {
            self.step_by(MS.max(duration_ns / 1000));
        }
    }

    fn connect(&mut self) -> SocketHandle {
        let handle = self.client.connect(NODE, 80);
        self.run(5 * MS);
        handle
    }

    /// Sends `data` while receiving until `enough`.
    fn talk(&mut self, handle: SocketHandle, mut data: &[u8], enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut received = Vec::new();
        for _ in 0..200_000 {
            let n = self.client.send(handle, data);
            data = &data[n..];
            self.step();
            received.extend(self.client.receive(handle));
            if enough(&received) {
                return received;
            }
        }
        panic!("not enough: {}", String::from_utf8_lossy(&received[..received.len().min(500)]));
    }

    fn small(&mut self, handle: SocketHandle) {
        let _ = self
            .talk(handle, b"GET /small HTTP/1.1\r\nHost: n\r\n\r\n", |got| got.ends_with(b"\r\n\r\nsmall"));
    }
}

#[test]
fn serves_more_clients_than_sockets() {
    let mut world = World::new();
    // Each asks once and keeps its connection; the longest idle ones go.
    let handles: Vec<_> = (0..50)
        .map(|_| {
            let handle = world.connect();
            world.small(handle);
            handle
        })
        .collect();
    world.small(handles[49]);
    assert_eq!(
        handles.iter().filter(|&&handle| world.client.state(handle) == State::Established).count(),
        15
    );
}

#[test]
fn many_short_connections() {
    let mut world = World::new();
    for _ in 0..100 {
        let handle = world.connect();
        let text = b"GET /small HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n";
        let _ = world.talk(handle, text, |got| got.ends_with(b"\r\n\r\nsmall"));
        world.client.socket(handle).close();
    }
}

#[test]
fn idle_connections_do_not_shut_others_out() {
    let mut world = World::new();
    // Half a request each, from as many connections as there are sockets. Nobody has shown a token within a second.
    let handles: Vec<_> = (0..16).map(|_| world.connect()).collect();
    for &handle in &handles {
        let _ = world.client.send(handle, b"GET /sm");
    }
    world.run(SECOND + 100 * MS);
    let handle = world.connect();
    world.small(handle);
    // Who has shown one stays, in the middle of a request too.
    let _ = world.client.send(handle, b"GET /sm");
    for _ in 0..30 {
        let other = world.connect();
        let _ = world.client.send(other, b"GET /sm");
        world.run(SECOND / 5);
    }
    let _ = world.talk(handle, b"all HTTP/1.1\r\nHost: n\r\n\r\n", |got| got.ends_with(b"\r\n\r\nsmall"));
}

#[test]
fn big_bodies_pass_both_ways_whatever_is_lost() {
    for loss in [0, 50] {
        let mut world = World { loss, ..World::new() };
        let handle = world.connect();
        let body = vec![b'y'; 3_000_000];
        let head = format!("POST /sum HTTP/1.1\r\nHost: n\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ =
            world.talk(handle, &[head.as_bytes(), &body].concat(), |got| got.ends_with(b"\r\n\r\n3000000"));
        assert_eq!(world.toy.open_sinks, 0);
        let got = world
            .talk(handle, b"GET /big HTTP/1.1\r\nHost: n\r\n\r\n", |got| got.ends_with(b"\r\n0\r\n\r\n"));
        // The content type has one, too.
        assert_eq!(got.iter().filter(|&&byte| byte == b'x').count(), 8_000_001);
    }
}

#[test]
fn a_client_that_vanishes_costs_nothing_for_long() {
    let mut world = World::new();
    for text in [
        "POST /sum HTTP/1.1\r\nHost: n\r\nContent-Length: 9999\r\n\r\nabc",
        "GET /big HTTP/1.1\r\nHost: n\r\n\r\n",
        "",
    ] {
        let handle = world.connect();
        let _ = world.client.send(handle, text.as_bytes());
        world.run(3 * MS);
    }
    world.loss = 1;
    world.run(100 * SECOND);
    world.loss = 0;
    for slot in 0..16 {
        let handle = world.connect();
        world.small(handle);
        assert_eq!(world.client.state(handle), State::Established, "{slot}");
    }
}

#[test]
fn garbage_packets_are_survived() {
    let mut world = World::new();
    let mut seed = 1u64;
    for _ in 0..20_000 {
        let mut packet = vec![0; 20 + (seed % 60) as usize];
        for byte in &mut packet {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = (seed >> 33) as u8;
        }
        // As far as a TCP header with a good IP header around it.
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&[0, 40]);
        packet[6..12].copy_from_slice(&[0, 0, 64, 6, 0, 0]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 1]);
        let _ = world.stack.receive(packet, false);
        world.step_by(1000);
    }
    let handle = world.connect();
    world.small(handle);
}
