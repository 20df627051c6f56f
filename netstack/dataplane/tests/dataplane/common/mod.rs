//! A router with two ports whose wires are memory, and frames to send through it.
#![allow(dead_code, reason = "the fuzz targets use a part")]

use buffer::{BufferCache, BufferPool, Flags, MemoryPort, MemoryWire, PortQueue, Vector};
use dataplane::{
    Adjacency, AdjacencyId, Attachment, DropReason, Flows, Interface, InterfaceId, NextHopGroup, Punt,
    Shared, Sleepless, Tables, Worker,
};
use etherparse::{PacketBuilder, PacketBuilderStep, VlanId};
use fib::{Fib4Writer, Fib6Writer, Prefix};
use flow::{Config, Timeouts};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};

pub const ETH0: InterfaceId = InterfaceId(0);
pub const ETH1: InterfaceId = InterfaceId(1);
pub const ETH1_VLAN: InterfaceId = InterfaceId(2);
pub const VLAN_ID: u16 = 100;
/// An IPsec tunnel, which has no SA unless a test gives it one.
pub const IPSEC0: InterfaceId = InterfaceId(3);
pub const TUNNEL: ipsec::TunnelId = ipsec::TunnelId(5);
pub const TUNNEL_MTU: u16 = 1400;
/// MAC addresses of the router's ports.
pub const MAC0: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
pub const MAC1: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// MAC addresses of a host at each port.
pub const HOST0: [u8; 6] = [2, 0, 0, 0, 1, 0];
pub const HOST1: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub const HOST1_VLAN: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub const BUFFERS: usize = 4096;

/// Where the checksum of each received frame is said to start, from the frame's start, and its field's offset from there.
pub type ChecksumPlace = Arc<Mutex<Option<(u16, u16)>>>;

/// A port whose neighbour is a virtual machine, which leaves checksums to be completed.
struct OffloadingPort {
    wire: MemoryPort,
    place: ChecksumPlace,
}

impl PortQueue for OffloadingPort {
    fn receive(&mut self, cache: &mut BufferCache, out: &mut Vector) -> usize {
        let before = out.len();
        let received = self.wire.receive(cache, out);
        let place = *self.place.lock().expect("nobody panicked");
        for packet in out.iter_mut().skip(before) {
            let Some((start, offset)) = place else { continue };
            let start = packet.start() as u16 + start;
            let meta = packet.meta_mut();
            meta.flags.insert(Flags::TX_CSUM | Flags::RX_CSUM_GOOD);
            (meta.csum_start, meta.csum_offset) = (start, offset);
        }
        received
    }

    fn transmit(&mut self, cache: &mut BufferCache, packets: &mut Vector) {
        // As drivers without offload do. What cannot be completed leaves as it is, and would be seen.
        for packet in packets.iter_mut() {
            let _ = packet.complete_checksum();
        }
        self.wire.transmit(cache, packets);
    }

    fn arm(&mut self) -> bool {
        self.wire.arm()
    }

    fn disarm(&mut self) {}
}

pub struct Testbed {
    pub shared: Arc<Shared>,
    pub worker: Worker,
    pub wires: [MemoryWire; 2],
    /// What port 0 says of the checksums of its frames.
    pub checksum_place: ChecksumPlace,
    pub pool: &'static BufferPool,
    pub now_ns: u64,
}

fn ip4(text: &str) -> Ipv4Addr {
    text.parse().expect("a literal address")
}

fn ip6(text: &str) -> Ipv6Addr {
    text.parse().expect("a literal address")
}

fn interface(attachment: Attachment, mac: [u8; 6], number: u16, mtu: u16) -> Interface {
    let solicited = |address: Ipv6Addr| Ipv6Addr::from(packet::nd::solicited_node(address.octets()));
    let global = ip6(&format!("2001:db8:{number}::1"));
    Interface {
        attachment,
        mac,
        mtu,
        up: true,
        dhcp_client: false,
        ipv4: vec![(Ipv4Addr::new(10, 0, number as u8, 1), 24)],
        ipv6: vec![(ip6("fe80::1"), 64), (global, 64)],
        groups4: vec![ip4("224.0.0.1")],
        groups6: vec![ip6("ff02::1"), ip6("ff02::2"), solicited(global)],
    }
}

/// Interfaces: eth0 (10.0.0.1/24), eth1 (10.0.1.1/24), eth1.100 (10.0.100.1/24), ipsec0 (10.0.7.1/24), and the like in `2001:db8:N::/64`.
/// The tunnel takes more than [`TUNNEL_MTU`] where eth1 takes jumbo frames, and less where eth1 does.
pub fn interfaces(mtu1: u16) -> Vec<Option<Interface>> {
    let tunnel_mtu = if mtu1 > 1500 { mtu1 - 100 } else { TUNNEL_MTU.min(mtu1 - 50).max(dataplane::MIN_MTU) };
    let vlan = Attachment::Vlan { parent: ETH1, vlan_id: VLAN_ID };
    let tunnel = Attachment::Ipsec { tunnel: TUNNEL };
    vec![
        Some(interface(Attachment::Port, MAC0, 0, 1500)),
        Some(interface(Attachment::Port, MAC1, 1, mtu1)),
        Some(interface(vlan, MAC1, VLAN_ID, mtu1)),
        Some(interface(tunnel, [0; 6], 7, tunnel_mtu)),
    ]
}

pub const LOCAL: u32 = 1;
pub const VIA_ETH0: u32 = 2;
pub const VIA_ETH1: u32 = 3;
pub const VIA_VLAN: u32 = 4;
pub const UNRESOLVED: u32 = 5;
pub const BLACKHOLE: u32 = 6;
pub const PROHIBITED: u32 = 7;
pub const INTO_TUNNEL: u32 = 8;
pub const SHARED: u32 = 9;

pub fn tables(mtu1: u16) -> Tables {
    tables_of(interfaces(mtu1))
}

/// Tables with these in place of [`interfaces`].
pub fn tables_of(interfaces: Vec<Option<Interface>>) -> Tables {
    let adjacencies = [
        Adjacency::Local,
        Adjacency::Neighbour { interface: ETH0, mac: HOST0 },
        Adjacency::Neighbour { interface: ETH1, mac: HOST1 },
        Adjacency::Neighbour { interface: ETH1_VLAN, mac: HOST1_VLAN },
        Adjacency::Unresolved { interface: ETH1 },
        Adjacency::Drop(DropReason::Blackhole),
        Adjacency::Drop(DropReason::Prohibited),
        Adjacency::Ipsec { interface: IPSEC0 },
    ];
    let mut groups = vec![NextHopGroup::default()];
    groups.extend((0..adjacencies.len()).map(|index| NextHopGroup::single(AdjacencyId(index as u32))));
    groups.push(NextHopGroup { next_hops: vec![(AdjacencyId(2), 1), (AdjacencyId(3), 1)] });
    Tables::new(interfaces, &adjacencies, &groups).expect("the tables are valid")
}

const ROUTES: &[(&str, u8, u32)] = &[
    ("10.0.0.1", 32, LOCAL),
    ("10.0.1.1", 32, LOCAL),
    ("10.0.100.1", 32, LOCAL),
    ("10.0.0.0", 24, VIA_ETH0),
    ("10.0.1.0", 24, UNRESOLVED),
    ("10.0.1.9", 32, VIA_ETH1),
    ("10.1.0.0", 16, VIA_ETH1),
    ("10.2.0.0", 16, VIA_VLAN),
    ("10.3.0.0", 16, SHARED),
    ("10.4.0.0", 16, BLACKHOLE),
    ("10.5.0.0", 16, PROHIBITED),
    ("10.9.0.0", 16, INTO_TUNNEL),
    ("2001:db8:1009::", 48, INTO_TUNNEL),
    ("2001:db8:0::1", 128, LOCAL),
    ("2001:db8:1::1", 128, LOCAL),
    ("2001:db8:0::", 64, VIA_ETH0),
    ("2001:db8:1::", 64, UNRESOLVED),
    ("2001:db8:1001::", 48, VIA_ETH1),
    ("2001:db8:1002::", 48, VIA_VLAN),
    ("2001:db8:1003::", 48, SHARED),
    ("2001:db8:1004::", 48, BLACKHOLE),
    ("2001:db8:1005::", 48, PROHIBITED),
];

/// Enters [`ROUTES`].
pub fn add_routes(fib4: &mut Fib4Writer, fib6: &mut Fib6Writer) {
    for &(address, len, group) in ROUTES {
        let address: IpAddr = address.parse().expect("a literal address");
        let former = match address {
            IpAddr::V4(address) => fib4.insert(Prefix::new(address.to_bits(), len).expect("a prefix"), group),
            IpAddr::V6(address) => fib6.insert(Prefix::new(address.to_bits(), len).expect("a prefix"), group),
        };
        assert_eq!(former, Ok(None));
    }
}

impl Testbed {
    pub fn new() -> Self {
        Self::with_mtu(1500)
    }

    /// A testbed whose eth1 has this MTU.
    pub fn with_mtu(mtu1: u16) -> Self {
        let mut fib4 = Fib4Writer::new().expect("an empty table is small");
        let mut fib6 = Fib6Writer::new().expect("an empty table is small");
        add_routes(&mut fib4, &mut fib6);
        let shared =
            Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, [0x1234, 0x5678], Box::new(Sleepless));
        let _ = shared.publish(tables(mtu1));
        let pool = BufferPool::from_heap(BUFFERS);
        let (port0, wire0) = MemoryPort::new();
        let (port1, wire1) = MemoryPort::new();
        let checksum_place = ChecksumPlace::default();
        let offloading = |wire, place| Box::new(OffloadingPort { wire, place });
        let ports: Vec<(InterfaceId, Box<dyn PortQueue>)> = vec![
            (ETH0, offloading(port0, checksum_place.clone())),
            (ETH1, offloading(port1, ChecksumPlace::default())),
        ];
        let worker = Worker::new(shared.clone(), 0, ports, pool.cache());
        Self { shared, worker, wires: [wire0, wire1], checksum_place, pool, now_ns: 1_000_000_000 }
    }

    /// Sends a frame to a port, and polls until nothing is left to do.
    pub fn send(&mut self, port: usize, frame: &[u8]) {
        assert!(self.wires[port].send(frame));
        self.run();
    }

    /// Polls until nothing is left to do.
    pub fn run(&mut self) {
        while self.worker.poll(self.now_ns) > 0 {}
    }

    /// Every frame that left by a port since.
    pub fn sent(&self, port: usize) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.wires[port].receive()).collect()
    }

    /// The only frame that left, and that by this port.
    pub fn only_sent(&self, port: usize) -> Vec<u8> {
        let mut frames = self.sent(port);
        assert_eq!((frames.len(), self.sent(1 - port).len()), (1, 0), "drops: {:?}", self.drops());
        frames.remove(0)
    }

    pub fn assert_nothing_sent(&self) {
        assert_eq!((self.sent(0).len(), self.sent(1).len()), (0, 0));
    }

    pub fn punts(&self) -> Vec<Punt> {
        std::iter::from_fn(|| self.shared.next_punt()).collect()
    }

    /// Reasons for which there were drops, with their number.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        self.shared.drop_counters().filter(|(_, count)| *count > 0).collect()
    }

    /// Received + injected + made = sent + dropped + punted + held, and all buffers are back.
    pub fn assert_balanced(self) {
        let totals = self.shared.packet_totals();
        let counters: Vec<_> =
            [ETH0, ETH1, ETH1_VLAN].iter().map(|id| self.shared.interface_counters(*id)).collect();
        let rx: u64 = counters.iter().map(|counter| counter.rx.packets).sum();
        let tx: u64 = counters.iter().map(|counter| counter.tx.packets).sum();
        let drops: u64 = self.shared.drop_counters().map(|(_, count)| count).sum();
        assert_eq!((rx, tx), (totals.received, totals.sent));
        let (again, rows) = self.shared.packet_and_interface_counters();
        let known = [ETH0, ETH1, ETH1_VLAN].map(|id| rows[usize::from(id.0)]);
        assert_eq!((again, &known[..]), (totals, &counters[..]));
        assert_eq!(rx + totals.injected + totals.made, tx + drops + totals.punted + totals.held);
        drop(self.punts());
        drop(self.worker);
        assert_eq!(self.pool.available(), BUFFERS, "buffers leaked");
    }
}

/// Gives each worker empty tables for so many flows.
pub fn give_flows(shared: &Shared, capacity: usize) {
    // A worker gives back what it had, and takes no more before that is freed.
    shared.free_retired();
    for worker in 0..shared.workers() {
        let config = Config { capacity, secret: [3, 4], timeouts: Timeouts::default() };
        let flows = Flows::new(&config, &config, worker, shared.workers()).expect("memory for a table");
        let _ = shared.give_flows(worker, flows);
    }
}

/// A frame from the host at port 0 to the router, to be completed with an IP header.
pub fn to_router() -> PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(HOST0, MAC0)
}

pub fn tagged_to_router(vlan: u16) -> PacketBuilderStep<etherparse::VlanHeader> {
    PacketBuilder::ethernet2(HOST1_VLAN, MAC1).single_vlan(VlanId::try_new(vlan).expect("12 bits"))
}

/// A UDP packet over IPv4 from 10.0.0.5 that may be fragmented.
pub fn udp4(destination: [u8; 4], ttl: u8, payload: usize) -> Vec<u8> {
    let builder = to_router().ipv4([10, 0, 0, 5], destination, ttl).udp(1000, 2000);
    let mut frame = Vec::new();
    builder.write(&mut frame, &pattern(payload)).expect("a vector takes all");
    frame[20] &= !0x40;
    fix_ipv4_checksum(&mut frame);
    frame
}

/// A UDP packet over IPv6 from `2001:db8:0::5`.
pub fn udp6(destination: &str, hop_limit: u8, payload: usize) -> Vec<u8> {
    let source = ip6("2001:db8:0::5").octets();
    let builder = to_router().ipv6(source, ip6(destination).octets(), hop_limit).udp(1000, 2000);
    let mut frame = Vec::new();
    builder.write(&mut frame, &pattern(payload)).expect("a vector takes all");
    frame
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + index / 256) as u8).collect()
}

/// A TCP segment from a host behind a port of the router; flags as in the header's 14th byte.
pub fn tcp(port: usize, from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let (host, mac) = [(HOST0, MAC0), (HOST1, MAC1)][port];
    let mut builder = PacketBuilder::ethernet2(host, mac).ipv4(from.0, to.0, 60).tcp(from.1, to.1, 1, 100);
    if flags & 2 != 0 {
        builder = builder.syn();
    }
    if flags & 16 != 0 {
        builder = builder.ack(9);
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a vector takes all");
    frame
}

/// Recomputes the checksum of the IPv4 header of an untagged frame.
pub fn fix_ipv4_checksum(frame: &mut [u8]) {
    fix_header_checksum(&mut frame[14..]);
}

/// Recomputes the checksum of the header of an IPv4 packet.
pub fn fix_header_checksum(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 0xf) * 4;
    packet[10..12].fill(0);
    let checksum = packet::checksum::of(&packet[..len]);
    packet[10..12].copy_from_slice(&checksum.get().to_be_bytes());
}
