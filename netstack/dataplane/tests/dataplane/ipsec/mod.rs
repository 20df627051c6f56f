//! Packets through IPsec tunnels: by route and by policy, against a peer made of the crate `ipsec` alone.

mod fragments;
mod links;
mod long;
mod paths;
mod policies;

use crate::common::*;
use buffer::{Buf, BufferPool};
use crypto::gcm::Gcm;
use dataplane::{DropReason, Inject, InjectTo, Shared};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket};
use ipnet::IpNet;
use ipsec::{
    Action, Algorithm, Database, DfPolicy, Direction, Entropy, EspError, Mode, NatT, Policy, SaParameters,
    Selector, Snapshot, Tunnel, TunnelId,
};
use std::net::IpAddr;
use std::sync::Arc;

const LOCAL4: &str = "10.0.1.1";
/// Behind eth1's neighbour.
const PEER4: &str = "10.0.1.9";
const LOCAL6: &str = "2001:db8:1::1";
const PEER6: &str = "2001:db8:1001::9";
const OUT_SPI: u32 = 0x1000;
const IN_SPI: u32 = 0x2000;
const ENTROPY: Entropy = Entropy { iv_base: 77, iv_key: [9; 16] };

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

/// An SA as this router has it; the peer's is the same with ends and direction exchanged.
fn parameters(spi: u32, direction: Direction, ipv6: bool) -> SaParameters {
    let ends = if ipv6 { (ip(LOCAL6), ip(PEER6)) } else { (ip(LOCAL4), ip(PEER4)) };
    let key = vec![spi as u8 + 3; Algorithm::Aes128Gcm.key_bytes()].into();
    SaParameters { tunnel: TUNNEL, ..SaParameters::new(spi, direction, ends, Algorithm::Aes128Gcm, key) }
}

fn mirrored(mut parameters: SaParameters) -> SaParameters {
    core::mem::swap(&mut parameters.local, &mut parameters.remote);
    parameters.direction = match parameters.direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    };
    parameters
}

/// A database with an SA each way, and a tunnel.
fn database(outbound: SaParameters, inbound: SaParameters, interface: Option<u16>) -> Database {
    let mut database = Database::new(Gcm::best());
    let sa = database.add(outbound, &ENTROPY, 0).expect("a valid SA");
    let _ = database.add(inbound, &ENTROPY, 0).expect("a valid SA");
    let tunnel = Tunnel { interface, outbound: Some(sa.id()), clamp_mss: false };
    database.set_tunnel(TUNNEL, tunnel).expect("a valid tunnel");
    database
}

/// A router with a tunnel, and its peer.
struct Site {
    bed: Testbed,
    database: Database,
    peer: Arc<Snapshot>,
    pool: &'static BufferPool,
}

impl Site {
    fn new(ipv6: bool, change: impl Fn(&mut SaParameters)) -> Self {
        Self::with_mtu(1500, ipv6, change)
    }

    /// One whose outer link has this MTU.
    fn with_mtu(mtu: u16, ipv6: bool, change: impl Fn(&mut SaParameters)) -> Self {
        let mut outbound = parameters(OUT_SPI, Direction::Outbound, ipv6);
        let mut inbound = parameters(IN_SPI, Direction::Inbound, ipv6);
        change(&mut outbound);
        change(&mut inbound);
        let (to_us, from_us) = (mirrored(inbound.clone()), mirrored(outbound.clone()));
        let peer = Arc::new(database(to_us, from_us, None).snapshot());
        let database = database(outbound, inbound, Some(IPSEC0.0));
        let bed = Testbed::with_mtu(mtu);
        let _ = bed.shared.publish_ipsec(database.snapshot());
        Self { bed, database, peer, pool: BufferPool::from_heap(64) }
    }

    fn publish(&self) {
        let _ = self.bed.shared.publish_ipsec(self.database.snapshot());
    }

    /// Has the tunnel protect what one policy, the only one, is about.
    fn protect(&mut self, direction: Direction, selector: Selector) {
        self.database.set_policies(vec![Policy { direction, selector, action: Action::Protect(TUNNEL) }]);
        self.publish();
    }

    fn packet(&self, bytes: &[u8]) -> Buf {
        let mut packet = self.pool.cache().allocate().expect("the pool is large enough");
        packet.append(bytes).expect("it fits");
        packet
    }

    /// What the peer makes of an outer packet of ours.
    fn peer_opens(&self, outer: &[u8]) -> Result<Vec<u8>, EspError> {
        let mut packets = [self.packet(outer)];
        let mut results = [Err(EspError::Malformed)];
        ipsec::decapsulate(&self.peer, &mut packets, 0, &mut results);
        results[0].map(|_| packets[0].data().to_vec())
    }

    /// The frame that the peer sends for an inner packet.
    fn peer_seals(&self, inner: &[u8]) -> Vec<u8> {
        let mut packets = [self.packet(inner)];
        let mut results = [Ok(())];
        let sas = [self.peer.outbound(TUNNEL)];
        ipsec::encapsulate(self.peer.suite(), &ipsec::Claimant::NOBODY, &mut packets, &sas, 0, &mut results);
        results[0].expect("it is sealed");
        let ethertype: u16 = if packets[0].data()[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        [&MAC1[..], &HOST1, &ethertype.to_be_bytes(), packets[0].data()].concat()
    }
}

/// A packet from behind the tunnel to a host at port 0, without its Ethernet header.
fn from_behind(ipv6: bool) -> Vec<u8> {
    let mut packet = Vec::new();
    let result = if ipv6 {
        let (source, destination) = (ip("2001:db8:1009::5"), ip("2001:db8::77"));
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) else { unreachable!() };
        let builder = PacketBuilder::ipv6(source.octets(), destination.octets(), 9).udp(7, 8);
        builder.write(&mut packet, &pattern(33))
    } else {
        let builder = PacketBuilder::ipv4([10, 9, 0, 5], [10, 0, 0, 77], 9).udp(7, 8);
        builder.write(&mut packet, &pattern(33))
    };
    result.expect("a vector takes all");
    packet
}

fn towards_tunnel(ipv6: bool, payload: usize) -> Vec<u8> {
    if ipv6 { udp6("2001:db8:1009::77", 64, payload) } else { udp4([10, 9, 0, 77], 64, payload) }
}

/// What a forwarded packet is behind the hop.
fn after_hop(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [8, 0] {
        frame[22] -= 1;
        fix_ipv4_checksum(&mut frame);
    } else {
        frame[21] -= 1;
    }
    frame[14..].to_vec()
}

/// What IPv4 fragments carry, of which each is within the MTU, in order.
fn payload_of(frames: &[Vec<u8>]) -> Vec<u8> {
    assert!(frames.iter().all(|frame| frame.len() <= 1514));
    frames.iter().flat_map(|frame| frame[34..].to_vec()).collect()
}

/// The IPv4 packet that frames have the fragments of, which no flag forbade.
fn reassembled4(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = [&frames[0][14..34], &payload_of(frames)].concat();
    let total = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&total);
    packet[6..8].fill(0);
    fix_header_checksum(&mut packet);
    packet
}

#[test]
fn a_route_leads_into_a_tunnel_and_out_of_it_in_all_families() {
    for (outer6, inner6) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut site = Site::new(outer6, |_| {});
        let frame = towards_tunnel(inner6, 100);
        site.bed.send(0, &frame);
        let sent = site.bed.only_sent(1);
        assert_eq!(sent[..12], [HOST1, MAC1].concat());
        let sliced = SlicedPacket::from_ethernet(&sent).expect("a well-formed frame");
        match sliced.net {
            Some(NetSlice::Ipv4(header)) if !outer6 => {
                assert_eq!((header.header().ttl(), header.header().protocol().0), (64, 50));
                assert_eq!(header.header().destination_addr(), ip(PEER4));
            }
            Some(NetSlice::Ipv6(header)) if outer6 => {
                assert_eq!((header.header().hop_limit(), header.header().next_header().0), (64, 50));
                assert_eq!(header.header().destination_addr(), ip(PEER6));
            }
            _ => panic!("{sliced:?}"),
        }
        assert_eq!(site.peer_opens(&sent[14..]), Ok(after_hop(&frame)));
        assert_eq!(site.peer_opens(&sent[14..]), Err(EspError::Replayed));

        let inner = from_behind(inner6);
        let frame = site.peer_seals(&inner);
        site.bed.send(1, &frame);
        let with_header = [&[0; 12][..], if inner6 { &[0x86, 0xdd] } else { &[8, 0] }, &inner].concat();
        assert_eq!(site.bed.only_sent(0)[14..], after_hop(&with_header));
        let counters = site.bed.shared.interface_counters(IPSEC0);
        assert_eq!((counters.tx.packets, counters.rx.packets, counters.rx.bytes), (1, 1, inner.len() as u64));

        site.bed.send(1, &frame);
        site.bed.assert_nothing_sent();
        assert_eq!(site.bed.drops(), [(DropReason::EspReplayed, 1)]);
        site.bed.assert_balanced();
    }
}

#[test]
fn vectors_of_every_size_pass_both_ways() {
    for count in [1usize, 2, 67, 256] {
        let mut site = Site::new(false, |_| {});
        let frames: Vec<_> = (0..count).map(|n| towards_tunnel(n % 3 == 1, n * 5)).collect();
        for (n, frame) in frames.iter().enumerate() {
            // Some that are not for the tunnel, so that vectors are scattered.
            let plain = udp4([10, 1, 2, 3], 64, 10);
            assert!(site.bed.wires[0].send(if n % 5 == 4 { &plain } else { frame }));
        }
        assert_eq!(site.bed.worker.poll(site.bed.now_ns), count);
        let sent = site.bed.sent(1);
        assert_eq!(sent.len(), count);
        let esp = sent.iter().filter(|frame| frame[23] == 50);
        let opened: Vec<_> = esp.map(|frame| site.peer_opens(&frame[14..]).expect("ours")).collect();
        // Each family keeps its order.
        for version in [4, 6] {
            let given =
                frames.iter().enumerate().filter(|(n, _)| n % 5 != 4).map(|(_, frame)| after_hop(frame));
            let given = given.filter(|packet| packet[0] >> 4 == version);
            assert!(opened.iter().filter(|packet| packet[0] >> 4 == version).cloned().eq(given));
        }
        let frames: Vec<_> = (0..count).map(|n| site.peer_seals(&from_behind(n % 3 == 1))).collect();
        assert!(frames.iter().all(|frame| site.bed.wires[1].send(frame)));
        assert_eq!(site.bed.worker.poll(site.bed.now_ns), count);
        assert_eq!(site.bed.sent(0).len(), count);
        site.bed.assert_balanced();
    }
}

#[test]
fn what_is_too_long_is_cut_before_or_refused() {
    let mut site = Site::new(false, |_| {});
    // 1,428 bytes with the IP header, and the tunnel takes 1,400.
    let frame = towards_tunnel(false, 1400);
    site.bed.send(0, &frame);
    let sent = site.bed.sent(1);
    assert_eq!(sent.len(), 2);
    let pieces: Vec<_> = sent.iter().map(|frame| site.peer_opens(&frame[14..]).expect("ours")).collect();
    assert!(pieces.iter().all(|piece| piece.len() <= usize::from(TUNNEL_MTU)));
    assert_eq!([&pieces[0][20..], &pieces[1][20..]].concat(), frame[34..]);
    site.bed.send(0, &towards_tunnel(true, 1400));
    let error = site.bed.only_sent(0);
    assert_eq!((error[54], &error[58..62]), (2, &u32::from(TUNNEL_MTU).to_be_bytes()[..]));
    assert_eq!(site.bed.drops(), [(DropReason::Ip6PacketTooBig, 1)]);
    site.bed.assert_balanced();
}

#[test]
fn a_tunnel_without_sa_drops() {
    let mut site = Site::new(false, |_| {});
    let id = site.peer.outbound(TUNNEL).map(|_| site.database.sas().next().expect("two").id());
    let _ = site.database.remove(id.expect("an SA")).expect("it exists");
    site.publish();
    site.bed.send(0, &towards_tunnel(false, 100));
    site.bed.assert_nothing_sent();
    assert_eq!(site.bed.drops(), [(DropReason::EspNoSa, 1)]);
    site.bed.assert_balanced();
}

#[test]
fn a_tunnel_into_itself_is_a_loop() {
    let mut site = Site::new(false, |parameters| parameters.remote = ip("10.9.0.1"));
    site.bed.send(0, &towards_tunnel(false, 100));
    site.bed.assert_nothing_sent();
    assert_eq!(site.bed.drops(), [(DropReason::IpsecLoop, 1)]);
    site.bed.assert_balanced();
}

#[test]
fn udp_encapsulation_leaves_ike_alone() {
    let mut site = Site::new(false, |parameters| {
        parameters.nat_t = Some(NatT { local_port: 4500, remote_port: 4500 });
    });
    let frame = towards_tunnel(false, 100);
    site.bed.send(0, &frame);
    let sent = site.bed.only_sent(1);
    assert_eq!((sent[23], &sent[34..38], &sent[40..42]), (17, &[0x11, 0x94, 0x11, 0x94][..], &[0, 0][..]));
    assert_eq!(site.peer_opens(&sent[14..]), Ok(after_hop(&frame)));
    let frame = site.peer_seals(&from_behind(false));
    site.bed.send(1, &frame);
    assert_eq!(site.bed.only_sent(0).len(), 14 + from_behind(false).len());

    for (payload, punted) in [(&[0, 0, 0, 0, 9, 9][..], true), (&[0; 4], true), (&[0xff], false)] {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(HOST1, MAC1).ipv4([10, 0, 1, 9], [10, 0, 1, 1], 9);
        builder.udp(4500, 4500).write(&mut frame, payload).expect("a vector takes all");
        site.bed.send(1, &frame);
        assert_eq!(!site.bed.punts().is_empty(), punted);
    }
    assert_eq!(site.bed.drops(), [(DropReason::EspKeepalive, 1)]);
    site.bed.assert_balanced();
}

#[test]
fn a_moved_peer_is_followed_once_it_is_authentic() {
    for ipv6 in [false, true] {
        let mut site = Site::new(ipv6, |parameters| {
            parameters.nat_t = Some(NatT { local_port: 4500, remote_port: 4500 });
        });
        let to = if ipv6 { "[2001:db8:1001::a]:40000" } else { "10.1.7.7:40000" };
        let to: std::net::SocketAddr = to.parse().expect("a literal place");
        // Offset of the UDP source port in a frame.
        let port = if ipv6 { 54 } else { 34 };
        let moved = |site: &Site| {
            let mut frame = site.peer_seals(&from_behind(false));
            frame[port..port + 2].copy_from_slice(&to.port().to_be_bytes());
            match to.ip() {
                IpAddr::V4(address) => frame[26..30].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => frame[22..38].copy_from_slice(&address.octets()),
            }
            if !ipv6 {
                fix_ipv4_checksum(&mut frame);
            }
            frame
        };
        let mut forged = moved(&site);
        *forged.last_mut().expect("not empty") ^= 1;
        site.bed.send(1, &forged);
        assert_eq!(site.database.poll(0), []);
        let (older, newer) = (moved(&site), site.peer_seals(&from_behind(false)));
        site.bed.send(1, &newer);
        site.bed.send(1, &older);
        assert_eq!((site.bed.sent(0).len(), site.database.poll(0)), (2, vec![]));
        let moved = moved(&site);
        site.bed.send(1, &moved);
        assert_eq!(site.bed.sent(0).len(), 1);
        let events: Vec<_> = site.database.poll(0).into_iter().map(|event| event.kind).collect();
        assert_eq!(events, [ipsec::EventKind::PeerMoved { to }]);
        site.bed.send(0, &towards_tunnel(false, 10));
        let sent = site.bed.only_sent(1);
        let sliced = SlicedPacket::from_ethernet(&sent).expect("a well-formed frame");
        let destination: IpAddr = match sliced.net.expect("IP") {
            NetSlice::Ipv4(slice) => slice.header().destination_addr().into(),
            NetSlice::Ipv6(slice) => slice.header().destination_addr().into(),
            other => panic!("{other:?}"),
        };
        assert_eq!((destination, &sent[port + 2..port + 4]), (to.ip(), &40_000u16.to_be_bytes()[..]));
        assert!(ipv6 || packet::checksum::is_ipv4_header_valid(sent[14..34].try_into().expect("20 bytes")));
        site.bed.assert_balanced();
    }
}

#[test]
fn esp_in_udp_comes_in_at_the_port_of_its_tunnel() {
    let mut site = Site::new(false, |parameters| {
        parameters.nat_t = Some(NatT { local_port: 4500, remote_port: 4500 });
        if parameters.direction == Direction::Inbound {
            parameters.nat_t = Some(NatT { local_port: 14_500, remote_port: 4500 });
        }
    });
    let mut frame = site.peer_seals(&from_behind(false));
    frame[36..38].copy_from_slice(&14_500u16.to_be_bytes());
    site.bed.send(1, &frame);
    assert_eq!(site.bed.sent(0).len(), 1);
    let inbound = site.database.sas().find(|sa| sa.parameters().direction == Direction::Inbound);
    let inbound = inbound.expect("it was added").id();
    let _ = site.database.remove(inbound).expect("it was added");
    site.publish();
    site.bed.send(1, &frame);
    assert!(!site.bed.shared.ipsec().is_nat_t_port(14_500));
    site.bed.assert_balanced();
}

fn ip6_octets(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().expect("a literal address").octets()
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a literal prefix")
}

/// An ICMP error of a router on the path about a packet of ours.
fn too_long_for_the_path(sent: &[u8], mtu: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(HOST1, MAC1).ipv4([10, 0, 1, 200], [10, 0, 1, 1], 64);
    let [a, b] = mtu.to_be_bytes();
    let builder = builder.icmpv4_raw(3, 4, [0, 0, a, b]);
    builder.write(&mut frame, &sent[14..14 + 28]).expect("a vector takes all");
    frame
}

#[test]
fn the_path_is_learnt_from_those_who_saw_our_packets() {
    let mut site = Site::new(false, |_| {});
    let mut long = towards_tunnel(false, 1300);
    site.bed.send(0, &long);
    let sent = site.bed.only_sent(1);
    let mut forged = sent.clone();
    forged[37] ^= 1;
    site.bed.send(1, &too_long_for_the_path(&forged, 1000));
    site.bed.send(0, &long);
    assert_eq!(site.bed.sent(1).len(), 1, "a stranger's word");

    site.bed.send(1, &too_long_for_the_path(&sent, 1000));
    site.bed.send(0, &long);
    let pieces = site.bed.sent(1);
    assert_eq!(pieces.len(), 2);
    assert!(pieces.iter().all(|piece| piece.len() <= 14 + 1000));
    // What must not be cut is refused with the length that fits.
    long[20] |= 0x40;
    fix_ipv4_checksum(&mut long);
    site.bed.send(0, &long);
    let error = site.bed.only_sent(0);
    let outbound = site.database.sas().find(|sa| sa.parameters().direction == Direction::Outbound);
    let outbound = outbound.expect("there is one").clone();
    let fits = outbound.max_inner_len(1000) as u16;
    assert_eq!((error[34], error[35], &error[40..42]), (3, 4, &fits.to_be_bytes()[..]));
    assert_eq!(site.bed.drops(), [(DropReason::Ip4FragmentationNeeded, 1)]);

    assert_eq!(outbound.path_mtu(), Some(1000));
    let _ = site.database.poll(site.bed.now_ns + 601_000_000_000);
    assert_eq!(outbound.path_mtu(), None);
    site.bed.assert_balanced();
}

#[test]
fn connections_are_told_what_fits() {
    let mut site = Site::new(false, |_| {});
    let id = site.peer.outbound(TUNNEL).map(|_| site.database.sas().next().expect("two").id());
    let tunnel = Tunnel { interface: Some(IPSEC0.0), outbound: id, clamp_mss: true };
    site.database.set_tunnel(TUNNEL, tunnel).expect("a valid tunnel");
    site.publish();
    let syn = |source: [u8; 4], destination: [u8; 4]| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(HOST0, MAC0).ipv4(source, destination, 9);
        let options = [etherparse::TcpOptionElement::MaximumSegmentSize(1460)];
        let builder = builder.tcp(1, 2, 3, 4).syn().options(&options).expect("they fit");
        builder.write(&mut frame, &[]).expect("a vector takes all");
        frame
    };
    let told = |packet: &[u8]| u16::from_be_bytes([packet[42], packet[43]]);
    let both_are_told = |site: &mut Site, mtu: u16| {
        site.bed.send(0, &syn([10, 0, 0, 5], [10, 9, 0, 77]));
        let sent = site.bed.only_sent(1);
        assert_eq!(told(&site.peer_opens(&sent[14..]).expect("ours")), mtu - 40);
        let frame = site.peer_seals(&syn([10, 9, 0, 77], [10, 0, 0, 5])[14..]);
        site.bed.send(1, &frame);
        assert_eq!(told(&site.bed.only_sent(0)[14..]), mtu - 40);
    };
    both_are_told(&mut site, TUNNEL_MTU);
    // What the path of our own packets takes is told to those who send them.
    let outbound = site.database.outbound(TUNNEL).expect("there is one").clone();
    outbound.learn_path_mtu(1000, 0);
    let fits = outbound.max_inner_len(1000) as u16;
    both_are_told(&mut site, fits);
    let by_policy = Tunnel { interface: None, ..tunnel };
    site.database.set_tunnel(TUNNEL, by_policy).expect("a valid tunnel");
    site.publish();
    both_are_told(&mut site, fits);
    outbound.set_path_mtu(None);
    both_are_told(&mut site, outbound.max_inner_len(1500) as u16);
    site.bed.assert_balanced();
}

/// Has what passes the tunnel judged: a policy with `applyOnForward` about its interface denies what it is given.
fn police_tunnel(shared: &Shared, denies: policy::model::Direction) {
    use policy::model;
    give_flows(shared, 100);
    let deny = |direction| {
        let rule = model::Rule {
            action: model::Action::Deny,
            matches: model::Match::default(),
            index: 0,
            name: None,
        };
        (denies == direction).then(|| vec![rule])
    };
    let policy = model::Policy {
        id: model::PolicyId { name: "tunnel".into(), namespace: None, kind: "GlobalNetworkPolicy" },
        order: model::Order(None),
        standing: policy::model::Standing::Enforced,
        subject: policy::Selector::All,
        hook: model::Hook::Forward,
        ingress: deny(model::Direction::Ingress),
        egress: deny(model::Direction::Egress),
    };
    let endpoint = model::Endpoint {
        interface: Some("ipsec0".into()),
        ..model::Endpoint::new(model::EndpointKind::Host, "tunnel".into())
    };
    let tier = model::Tier {
        name: "default".into(),
        order: model::Order(None),
        default_action: model::DefaultAction::Deny,
        policies: vec![Arc::new(policy)],
    };
    let model =
        model::Model { tiers: vec![tier], endpoints: vec![Arc::new(endpoint)], ..model::Model::default() };
    let classifier = policy::classifier::Classifier::new(Arc::new(model)).expect("a small model");
    let host = classifier.host("node", "ipsec0", &[]).expect("the tunnel is a host endpoint");
    let _ = shared.publish_policy(Some(dataplane::Policy::new(classifier, [(IPSEC0, host)])));
}

#[test]
fn inner_packets_are_judged_by_the_host_endpoint_that_the_tunnel_is() {
    use policy::model::Direction::{Egress, Ingress};
    for (ipv6, denies) in [(false, Ingress), (false, Egress), (true, Ingress), (true, Egress)] {
        let mut site = Site::new(ipv6, |_| {});
        police_tunnel(&site.bed.shared, denies);
        site.bed.send(0, &towards_tunnel(ipv6, 100));
        if denies == Egress {
            site.bed.assert_nothing_sent();
        } else {
            let _ = site.peer_opens(&site.bed.only_sent(1)[14..]).expect("the inner packet, encrypted");
        }
        let frame = site.peer_seals(&from_behind(ipv6));
        site.bed.send(1, &frame);
        if denies == Ingress {
            site.bed.assert_nothing_sent();
        } else {
            let _ = site.bed.only_sent(0);
        }
        // The outer packets are the node's, and none of the tunnel's.
        assert_eq!(site.bed.drops(), [(DropReason::PolicyDenied, 1)]);
        site.bed.assert_balanced();
    }
}
