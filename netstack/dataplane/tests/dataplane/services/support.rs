//! Services to send packets to, and packets of both families and all transports.

use crate::common::*;
use balancer::{Builder, Settings};
use dataplane::Shared;
use etherparse::{Icmpv4Type, Icmpv6Type, NetHeaders, PacketBuilder, PacketHeaders, TransportHeader, icmpv4};
use maglev::TableSize;
use rewrite::{Tuple, View};
use services::object::IpFamily;
use services::{Backend, Compiled, Exposure, Forwarding, Frontend, Pool, PoolKey, Protocol, Scope, State};
use std::net::{IpAddr, SocketAddr};

/// A service on the VIP over these backends, and the settings of a node that has it.
pub fn compiled(forwarding: Forwarding, vip: &str, backends: &[&str]) -> Compiled {
    let vip: IpAddr = vip.parse().expect("a literal address");
    let key = PoolKey {
        namespace: "default".into(),
        service: "web".into(),
        port: 80,
        protocol: Protocol::Tcp,
        family: if vip.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 },
        scope: Scope::Cluster,
    };
    let backend = |address: &&str| Backend {
        address: address.parse().expect("a literal address and port"),
        weight: 1,
        state: State::Active,
        node: None,
    };
    let pool = Pool {
        key,
        port_name: String::new(),
        backends: backends.iter().map(backend).collect(),
        table_size: TableSize::default(),
        affinity: None,
        server_id_bytes: None,
        health_check: Default::default(),
        forwarding,
    };
    let exposure = Exposure::LoadBalancer;
    let frontend = Frontend { exposure, address: Some(vip), port: 80, pool: 0, source_ranges: Vec::new() };
    Compiled { pools: vec![pool], frontends: vec![frontend] }
}

pub fn settings() -> Settings {
    let address = |text: &str| text.parse().expect("a literal address");
    Settings {
        node_addresses: vec![address("10.0.0.1"), address("10.0.1.1"), address("2001:db8:0::1")],
        source_addresses: vec![address("10.0.1.1"), address("2001:db8:1::1")],
        tunnel4: Some([10, 0, 1, 1].into()),
        tunnel6: Some("2001:db8:1::1".parse().expect("a literal address")),
        gue_port: 6080,
        ..Settings::default()
    }
}

pub fn publish(shared: &Shared, compiled: &Compiled) {
    give_flows(shared, 1000);
    let _ = shared.publish_services(Some(Builder::new(settings()).build(compiled)));
}

/// Source and destination of a frame's packet.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let tuple: Tuple = View::parse(&frame[14..]).expect("a packet").tuple;
    (tuple.source(), tuple.destination())
}

/// The checksums of a frame, as far as it has any, are right.
pub fn assert_checksums(frame: &[u8]) {
    let packet = PacketHeaders::from_ethernet_slice(frame).expect("a packet");
    let payload = packet.payload.slice();
    let net = packet.net.expect("a network layer");
    if let NetHeaders::Ipv4(ip, _) = &net {
        assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
    }
    let Some(transport) = packet.transport else { return };
    let (sum, found) = match (net, &transport) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(tcp)) => {
            (tcp.calc_checksum_ipv4(&ip, payload), tcp.checksum)
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(tcp)) => {
            (tcp.calc_checksum_ipv6(&ip, payload), tcp.checksum)
        }
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) if udp.checksum != 0 => {
            (udp.calc_checksum_ipv4(&ip, payload), udp.checksum)
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => {
            (udp.calc_checksum_ipv6(&ip, payload), udp.checksum)
        }
        (_, TransportHeader::Icmpv4(icmp)) => (Ok(icmp.icmp_type.calc_checksum(payload)), icmp.checksum),
        (NetHeaders::Ipv6(ip, _), TransportHeader::Icmpv6(icmp)) => {
            (icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload), icmp.checksum)
        }
        _ => return,
    };
    assert_eq!(sum, Ok(found));
}

/// Who talks to whom in one family: addresses of the same places in both.
pub struct Places {
    pub client: &'static str,
    pub vip: &'static str,
    /// Two backends behind port 1.
    pub backends: [&'static str; 2],
    /// The node's own: at the clients' side, and the one that full NAT and tunnels come from.
    pub node: [&'static str; 2],
    /// A router behind each port, which reports errors.
    pub routers: [&'static str; 2],
    pub ip_bytes: usize,
}

pub const V4: Places = Places {
    client: "10.0.0.5",
    vip: "10.96.0.10",
    backends: ["10.1.0.7", "10.1.0.8"],
    node: ["10.0.0.1", "10.0.1.1"],
    routers: ["10.0.0.77", "10.1.0.77"],
    ip_bytes: 20,
};
pub const V6: Places = Places {
    client: "2001:db8:0::5",
    vip: "2001:db8:96::10",
    backends: ["2001:db8:1001::7", "2001:db8:1001::8"],
    node: ["2001:db8:0::1", "2001:db8:1::1"],
    routers: ["2001:db8:0::77", "2001:db8:1001::77"],
    ip_bytes: 40,
};

/// An address and port of either family.
pub fn end(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("a literal address"), port)
}

/// What is in a packet.
#[derive(Clone, Copy)]
pub enum What {
    Tcp(u8),
    Udp,
    /// The same without a checksum.
    UdpWithout,
    Sctp,
}

/// A frame that a host at a port of the router sends it.
pub fn frame(port: usize, from: SocketAddr, to: SocketAddr, what: What, payload: usize) -> Vec<u8> {
    let (host, mac) = [(HOST0, MAC0), (HOST1, MAC1)][port];
    let ethernet = PacketBuilder::ethernet2(host, mac);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 60),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 60),
        _ => panic!("{from} to {to}"),
    };
    let (mut frame, payload) = (Vec::new(), pattern(payload));
    match what {
        What::Tcp(flags) => {
            let mut tcp = ip.tcp(from.port(), to.port(), 1, 100);
            tcp = if flags & 2 != 0 { tcp.syn() } else { tcp };
            tcp = if flags & 16 != 0 { tcp.ack(9) } else { tcp };
            tcp.write(&mut frame, &payload).expect("a vector takes all");
        }
        What::Udp | What::UdpWithout => {
            ip.udp(from.port(), to.port()).write(&mut frame, &payload).expect("a vector takes all");
        }
        What::Sctp => {
            let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            segment.extend([0, 0, 0, 9, 0, 0, 0, 0]);
            segment.extend(&payload);
            let sum = crc32c(&segment);
            segment[8..12].copy_from_slice(&sum.to_le_bytes());
            ip.write(&mut frame, etherparse::IpNumber::SCTP, &segment).expect("a vector takes all");
        }
    }
    if matches!(what, What::UdpWithout) {
        frame[40..42].fill(0);
    }
    frame
}

/// RFC 9260, appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

/// A frame's packet as it looks one hop on: hops counted, the IPv4 header's checksum with them.
pub fn one_hop_on(frame: &[u8]) -> Vec<u8> {
    let mut packet = frame[14..].to_vec();
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
    } else {
        packet[8] -= 1;
        packet[10..12].fill(0);
        let checksum = packet::checksum::of(&packet[..20]);
        packet[10..12].copy_from_slice(&checksum.get().to_be_bytes());
    }
    packet
}

/// An error of a router behind a port, to `to`, about a packet: that it is too big, and what MTU would do.
pub fn too_big(port: usize, router: &str, to: &str, about: &[u8], mtu: u16) -> Vec<u8> {
    let (host, mac) = [(HOST0, MAC0), (HOST1, MAC1)][port];
    let ethernet = PacketBuilder::ethernet2(host, mac);
    let mut frame = Vec::new();
    match (end(router, 0).ip(), end(to, 0).ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            let ip = ethernet.ipv4(from.octets(), to.octets(), 60);
            let icmp = ip.icmpv4(Icmpv4Type::DestinationUnreachable(kind));
            icmp.write(&mut frame, about).expect("a vector takes all");
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = ethernet.ipv6(from.octets(), to.octets(), 60);
            let icmp = ip.icmpv6(Icmpv6Type::PacketTooBig { mtu: mtu.into() });
            icmp.write(&mut frame, about).expect("a vector takes all");
        }
        _ => panic!("{router} to {to}"),
    }
    frame
}

/// Where an ICMP error goes, the MTU that it tells and the start of the packet that it is about; its checksums are right.
/// Panics if it is not about a packet that is too big.
pub fn read_too_big(frame: &[u8]) -> (IpAddr, u32, Vec<u8>) {
    assert_checksums(frame);
    let packet = PacketHeaders::from_ethernet_slice(frame).expect("a packet");
    let mtu = match packet.transport {
        Some(TransportHeader::Icmpv4(icmp)) => match icmp.icmp_type {
            Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu,
            }) => next_hop_mtu.into(),
            other => panic!("{other:?}"),
        },
        Some(TransportHeader::Icmpv6(icmp)) => match icmp.icmp_type {
            Icmpv6Type::PacketTooBig { mtu } => mtu,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    (ends(frame).1.ip(), mtu, packet.payload.slice().to_vec())
}

/// The ends of a packet of which at least its ports are there.
pub fn ends_of_start(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    let tuple: Tuple = View::parse_embedded(packet).expect("the start of a packet").tuple;
    (tuple.source(), tuple.destination())
}
