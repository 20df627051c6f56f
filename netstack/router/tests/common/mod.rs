//! A whole node of memory: a router, a worker, and ports whose wires the tests hold.
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use buffer::{BufferCache, BufferPool, MemoryPort, MemoryWire, PortQueue};
use config::Config;
use dataplane::{AdjacencyId, Inject, InjectTo, InterfaceId, Punt, PuntReason, Shared, Sleepless, Worker};
use fib::{Fib4Writer, Fib6Writer};
use packet::{
    checksum,
    ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet},
    ipv6::Ipv6,
    protocol,
};
use router::{Limits, NeighbourState, Output, Port, Router};
use zerocopy::{FromBytes, IntoBytes};

pub const SECOND_NS: u64 = 1_000_000_000;

pub struct Node {
    pub router: Router,
    pub shared: Arc<Shared>,
    pub wires: Vec<MemoryWire>,
    pub now_ns: u64,
    worker: Worker,
    cache: BufferCache,
    pool: &'static BufferPool,
}

/// MAC address of a port.
pub fn port_mac(port: u8) -> [u8; 6] {
    [2, 0xfa, 0, 0, 0, port]
}

/// MAC address of the host with a number.
pub fn host_mac(host: u8) -> [u8; 6] {
    [2, 0xbb, 0, 0, 0, host]
}

impl Node {
    pub fn new(ports: u8, limits: Limits) -> Self {
        Self::with_tables(ports, limits, Fib4Writer::new().unwrap(), Fib6Writer::new().unwrap())
    }

    pub fn with_tables(ports: u8, limits: Limits, fib4: Fib4Writer, fib6: Fib6Writer) -> Self {
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, [1, 2], Box::new(Sleepless));
        let pool = BufferPool::from_heap(1024);
        let mut queues: Vec<(InterfaceId, Box<dyn PortQueue>)> = Vec::new();
        let (mut wires, mut described) = (Vec::new(), Vec::new());
        for port in 0..ports {
            let (queue, wire) = MemoryPort::new();
            queues.push((InterfaceId(u16::from(port)), Box::new(queue)));
            wires.push(wire);
            described.push(Port { name: format!("eth{port}"), mac: port_mac(port) });
        }
        let worker = Worker::new(shared.clone(), 0, queues, pool.cache());
        let router = Router::new(shared.clone(), fib4, fib6, &described, limits, 7);
        let now_ns = 1000 * SECOND_NS;
        let mut node = Self { router, shared, wires, now_ns, worker, cache: pool.cache(), pool };
        for port in 0..ports {
            node.router.set_link(InterfaceId(u16::from(port)), true, now_ns);
        }
        node
    }

    /// With the configuration given as JSON and its announcements over.
    pub fn configured(ports: u8, json: &str) -> Self {
        let mut node = Self::new(ports, Limits::default());
        node.configure(json);
        node.after(3 * SECOND_NS);
        node.wires.iter().for_each(|wire| while wire.receive().is_some() {});
        node
    }

    pub fn configure(&mut self, json: &str) {
        let config: Config = config::parse(json.as_bytes()).unwrap();
        self.router.configure(&config, self.now_ns);
        self.run();
    }

    /// Everybody has turns until nothing happens any more.
    pub fn run(&mut self) {
        const TURN_NS: u64 = 1_000_000;
        let end_ns = self.now_ns + 12 * TURN_NS;
        let mut idle = 0;
        // What was published takes effect when the worker has seen it: that takes a turn in which nothing else happens.
        while self.now_ns < end_ns && idle < 3 {
            idle = if self.turn() { 0 } else { idle + 1 };
            self.now_ns += TURN_NS;
        }
        self.now_ns = end_ns;
    }

    /// Everybody has a turn. False: nobody had anything to do.
    fn turn(&mut self) -> bool {
        let mut busy = self.worker.poll(self.now_ns) > 0;
        while let Some(punt) = self.shared.next_punt() {
            let _ = self.router.handle_punt(punt, self.now_ns);
            busy = true;
        }
        self.router.poll(self.now_ns);
        while let Some(output) = self.router.next_output() {
            busy = true;
            let inject = match output {
                Output::Transmit { interface, frame } => {
                    Inject::copy(&mut self.cache, &frame, InjectTo::Transmit(interface)).unwrap()
                }
                Output::Send(packet) => {
                    let is_v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
                    let to = if is_v6 { InjectTo::Forward6 } else { InjectTo::Forward4 };
                    Inject::copy(&mut self.cache, &packet, to).unwrap()
                }
                Output::Forward4(packet) => Inject { packet, to: InjectTo::Forward4 },
                Output::Forward6(packet) => Inject { packet, to: InjectTo::Forward6 },
            };
            assert!(self.shared.inject(inject));
        }
        busy
    }

    /// Lets time pass, with a turn whenever the router wants one.
    pub fn after(&mut self, time_ns: u64) {
        let end_ns = self.now_ns + time_ns;
        while let Some(deadline_ns) = self.router.next_deadline_ns(self.now_ns).filter(|next| *next < end_ns)
        {
            self.now_ns = self.now_ns.max(deadline_ns);
            let _ = self.turn();
        }
        self.now_ns = self.now_ns.max(end_ns);
        self.run();
    }

    /// Puts a frame on the wire of a port, and lets all have their turns.
    pub fn send(&mut self, port: usize, frame: &[u8]) {
        assert!(self.wires[port].send(frame));
        self.run();
    }

    /// Hands a frame's packet to the router in every way, past the checks of the dataplane.
    pub fn punt(&mut self, frame: &[u8]) {
        for reason in
            [PuntReason::Arp, PuntReason::Nd, PuntReason::Unresolved(AdjacencyId(u32::from(frame[0])))]
        {
            let Some(mut packet) = self.cache.allocate() else { continue };
            let bytes = frame.get(14..).unwrap_or_default();
            if packet.append(bytes.get(..1500).unwrap_or(bytes)).is_err() {
                continue;
            }
            let punt = Punt { packet, interface: InterfaceId(0), reason };
            assert!(self.router.handle_punt(punt, self.now_ns).is_none());
        }
        let _ = self.turn();
    }

    /// The frames that a port has sent.
    pub fn sent(&self, port: usize) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.wires[port].receive()).collect()
    }

    pub fn neighbour(&self, address: &str) -> Option<NeighbourState> {
        let address: IpAddr = address.parse().unwrap();
        self.router.neighbours(self.now_ns).into_iter().find(|n| n.address == address).map(|n| n.state)
    }

    /// Buffers that did not come back to their pool, with the router still there.
    pub fn buffers_in_use(self) -> usize {
        let Self { router, worker, cache, pool, .. } = self;
        drop((worker, cache));
        let in_use = pool.count() - pool.available();
        drop(router);
        in_use
    }
}

/// An ARP frame.
pub fn arp(operation: u16, mac: [u8; 6], sender: [u8; 4], target: [u8; 4], to: [u8; 6]) -> Vec<u8> {
    let ethernet = Ethernet { destination: to, source: mac, ethertype: 0x0806.into() };
    let arp = packet::arp::Arp {
        hardware: 1.into(),
        protocol: ETHERTYPE_IPV4.into(),
        hardware_len: 6,
        protocol_len: 4,
        operation: operation.into(),
        sender_mac: mac,
        sender,
        target_mac: [0; 6],
        target,
    };
    [ethernet.as_bytes(), arp.as_bytes()].concat()
}

/// An IPv4 packet with UDP in a frame.
pub fn udp4(mac: [u8; 6], to: [u8; 6], source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let ethernet = Ethernet { destination: to, source: mac, ethertype: ETHERTYPE_IPV4.into() };
    let mut header = [0u8; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&36u16.to_be_bytes());
    header[8..10].copy_from_slice(&[64, protocol::UDP]);
    header[12..16].copy_from_slice(&source);
    header[16..20].copy_from_slice(&destination);
    let sum = checksum::of(&header);
    header[10..12].copy_from_slice(sum.as_bytes());
    [ethernet.as_bytes(), &header, &[0x12, 0x34, 0, 53, 0, 16, 0, 0], &[7; 8]].concat()
}

/// An IPv6 packet with a payload in a frame.
pub fn ip6(
    mac: [u8; 6],
    to: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    (next_header, hop_limit): (u8, u8),
    payload: &[u8],
) -> Vec<u8> {
    let ethernet = Ethernet { destination: to, source: mac, ethertype: ETHERTYPE_IPV6.into() };
    let header =
        Ipv6 { hop_limit, ..Ipv6::new(next_header, source.octets(), destination.octets(), payload.len()) };
    [ethernet.as_bytes(), header.as_bytes(), payload].concat()
}

/// A neighbour discovery message in a frame, its checksum filled in.
pub fn nd(mac: [u8; 6], to: [u8; 6], source: &str, destination: &str, message: &[u8]) -> Vec<u8> {
    let mut frame = ip6(mac, to, source.parse().unwrap(), destination.parse().unwrap(), (58, 255), message);
    let header = Ipv6::read_from_bytes(&frame[14..54]).unwrap();
    let sum = header.pseudo_header(58, message.len() as u32).bytes(message).finish();
    frame[56..58].copy_from_slice(sum.as_bytes());
    frame
}

/// A neighbour solicitation or advertisement body.
pub fn nd_message(kind: u8, flags: u8, target: &str, option: Option<(u8, [u8; 6])>) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    if let Some((kind, mac)) = option {
        message.extend_from_slice(&[kind, 1]);
        message.extend_from_slice(&mac);
    }
    message
}

/// Sender, target and operation of an ARP frame.
pub fn read_arp(frame: &[u8]) -> Option<(u16, Ipv4Addr, Ipv4Addr)> {
    let arp =
        (frame[12..14] == [8, 6]).then(|| packet::arp::Arp::read_from_prefix(&frame[14..]).unwrap().0)?;
    Some((arp.operation.get(), arp.sender.into(), arp.target.into()))
}

/// ICMPv6 type of a frame.
pub fn icmp6_type(frame: &[u8]) -> Option<u8> {
    (frame.len() > 54 && frame[12..14] == [0x86, 0xdd] && frame[20] == 58).then(|| frame[54])
}
