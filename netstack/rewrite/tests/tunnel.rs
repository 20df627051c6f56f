//! Outer headers, read by somebody else's code.

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, PacketBuilder, UdpHeaderSlice};
use rewrite::{NoEntry, Outer, Tunnel};

const V4: Outer = Outer::V4([10, 0, 0, 1], [10, 0, 0, 2]);
const V6: Outer = Outer::V6([1; 16], [2; 16]);

fn inner4(traffic_class: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 1], 9)
        .tcp(1, 2, 3, 4)
        .write(&mut bytes, b"four")
        .unwrap();
    bytes[1] = traffic_class;
    let header = Ipv4HeaderSlice::from_slice(&bytes).unwrap().to_header();
    bytes[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    bytes
}

fn inner6(traffic_class: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv6([3; 16], [4; 16], 9).udp(1, 2).write(&mut bytes, b"six!!").unwrap();
    bytes[0] = 0x60 | traffic_class >> 4;
    bytes[1] = traffic_class << 4;
    bytes
}

fn wrapped(tunnel: &Tunnel, inner: &[u8]) -> Vec<u8> {
    let mut packet = [&vec![0xee; tunnel.overhead_bytes()], inner].concat();
    tunnel.put(&mut packet, inner.len(), 0xfedc_ba98_7654_3210).unwrap();
    assert_eq!(packet[tunnel.overhead_bytes()..], one_hop_on(inner));
    packet
}

/// A packet with one hop less.
fn one_hop_on(inner: &[u8]) -> Vec<u8> {
    let mut bytes = inner.to_vec();
    if bytes[0] >> 4 == 6 {
        bytes[7] -= 1;
    } else {
        let mut header = Ipv4HeaderSlice::from_slice(inner).unwrap().to_header();
        header.time_to_live -= 1;
        header.header_checksum = header.calc_header_checksum();
        bytes[..20].copy_from_slice(&header.to_bytes());
    }
    bytes
}

/// Whether there is an outer header for this.
fn put(tunnel: &Tunnel, inner: &[u8]) -> Result<(), NoEntry> {
    tunnel.put(&mut [&vec![0; tunnel.overhead_bytes()], inner].concat(), inner.len(), 0)
}

#[test]
fn ipip_over_ipv4() {
    let tunnel = Tunnel::new(V4, None);
    for (inner, protocol) in [(inner4(0xb9), 4), (inner6(0xb9), 41)] {
        let packet = wrapped(&tunnel, &inner);
        let outer = Ipv4HeaderSlice::from_slice(&packet).unwrap().to_header();
        assert_eq!((outer.source, outer.destination), ([10, 0, 0, 1], [10, 0, 0, 2]));
        assert_eq!((outer.protocol.0, outer.time_to_live, outer.identification), (protocol, 64, 0x3210));
        assert_eq!((outer.dscp.value(), outer.ecn.value()), (0xb9 >> 2, 1));
        assert_eq!(usize::from(outer.total_len), packet.len());
        assert_eq!(outer.header_checksum, outer.calc_header_checksum());
        assert!(outer.dont_fragment);
        assert_eq!(packet[20..], one_hop_on(&inner));
    }
    let mut may_fragment = inner4(0);
    may_fragment[6] = 0;
    may_fragment[10..12].fill(0);
    let header = Ipv4HeaderSlice::from_slice(&may_fragment).unwrap().to_header();
    may_fragment[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    let packet = wrapped(&tunnel, &may_fragment);
    assert!(!Ipv4HeaderSlice::from_slice(&packet).unwrap().dont_fragment());
}

#[test]
fn ipip_over_ipv6() {
    let tunnel = Tunnel::new(V6, None);
    for (inner, protocol) in [(inner4(0xb9), 4), (inner6(0xb9), 41)] {
        let packet = wrapped(&tunnel, &inner);
        let outer = Ipv6HeaderSlice::from_slice(&packet).unwrap().to_header();
        assert_eq!((outer.source, outer.destination), ([1; 16], [2; 16]));
        assert_eq!((outer.next_header.0, outer.hop_limit, outer.traffic_class), (protocol, 64, 0xb9));
        assert_eq!(outer.flow_label.value(), 0x4_3210);
        assert_eq!(usize::from(outer.payload_length), inner.len());
        assert_eq!(packet[40..], one_hop_on(&inner));
    }
}

#[test]
fn gue() {
    for inner in [inner4(0), inner6(0)] {
        let over4 = wrapped(&Tunnel::new(V4, Some(6080)), &inner);
        let udp = UdpHeaderSlice::from_slice(&over4[20..]).unwrap().to_header();
        assert_eq!((udp.source_port, udp.destination_port, udp.checksum), (0xfedc, 6080, 0));
        assert_eq!((usize::from(udp.length), over4[9]), (inner.len() + 8, 17));
        assert_eq!(over4[28..], one_hop_on(&inner));

        let over6 = wrapped(&Tunnel::new(V6, Some(9886)), &inner);
        let ip = Ipv6HeaderSlice::from_slice(&over6).unwrap().to_header();
        let udp = UdpHeaderSlice::from_slice(&over6[40..]).unwrap().to_header();
        assert_eq!(udp.checksum, udp.calc_checksum_ipv6(&ip, &one_hop_on(&inner)).unwrap());
        assert_eq!((udp.source_port, udp.destination_port), (0xfedc, 9886));
    }
}

#[test]
fn what_is_no_packet_or_too_long_has_no_header() {
    let tunnel = Tunnel::new(V4, Some(6080));
    assert_eq!(put(&tunnel, &[]), Err(NoEntry::Malformed));
    assert_eq!(put(&tunnel, &[0x45, 0]), Err(NoEntry::Malformed));
    assert_eq!(put(&tunnel, &[0x55; 40]), Err(NoEntry::Malformed));
    for (mut inner, at) in [(inner4(0), 8), (inner6(0), 7)] {
        inner[at] = 1;
        assert_eq!(put(&tunnel, &inner), Err(NoEntry::Expired));
    }
    let mut long = vec![0x45; 65_535 - 28];
    assert!(put(&tunnel, &long).is_ok());
    long.push(0);
    assert_eq!(put(&tunnel, &long), Err(NoEntry::Malformed));
}
