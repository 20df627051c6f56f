//! Outer packets and packets of the node over IPv6 that are longer than their way takes.

use super::*;
use crate::services::support::{read_too_big, too_big};
use ipsec::Long;
use packet::ipv6::Fragment;
use proptest::prelude::*;
use std::collections::BTreeSet;
use zerocopy::FromBytes;

/// Bytes of an outer link that leaves a tunnel over it less than IPv6 needs.
const NARROW: u16 = 1290;

/// Puts the fragments of an IPv6 packet together; there are some, and each is whole, in order and within the MTU.
fn reassembled(frames: &[Vec<u8>], mtu: usize) -> Vec<u8> {
    assert!(frames.len() > 1);
    let mut packet = frames[0][14..54].to_vec();
    let mut identifications = BTreeSet::new();
    for (index, frame) in frames.iter().enumerate() {
        let bytes = &frame[14..];
        assert!(bytes.len() <= mtu, "{} of {mtu}", bytes.len());
        assert_eq!(u16::from_be_bytes([bytes[4], bytes[5]]) as usize, bytes.len() - 40);
        assert_eq!((bytes[6], &bytes[7..40]), (44, &packet[7..40]));
        let (header, payload) = Fragment::ref_from_prefix(&bytes[40..]).expect("a fragment header");
        assert_eq!((header.offset_bytes(), header.reserved), (packet.len() - 40, 0));
        assert_eq!(header.more_fragments(), index + 1 < frames.len());
        packet[6] = header.next_header;
        let _ = identifications.insert(header.identification.get());
        packet.extend(payload);
    }
    assert_eq!(identifications.len(), 1);
    let length = (packet.len() - 40) as u16;
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}

fn identification(frames: &[Vec<u8>]) -> &[u8] {
    &frames[0][58..62]
}

impl Site {
    fn peer_opens_any(&self, outer: &[u8]) -> Result<Vec<u8>, EspError> {
        let packet = self.pool.cache().copy(outer).expect("the pool is large enough");
        Long::new().decapsulate(&self.peer, &packet, 0).map(|(_, inner)| inner.to_vec())
    }

    /// Has control send a packet of the node's own.
    fn inject(&mut self, packet: &[u8]) {
        let inject = Inject::copy(&mut self.bed.pool.cache(), packet, InjectTo::Forward6);
        assert!(self.bed.shared.inject(inject.expect("a buffer")));
        self.bed.run();
    }
}

/// One that protects what it exchanges with the peer itself, over IPv6.
fn transport_site(mtu: u16, nat_t: bool) -> Site {
    let mut site = Site::with_mtu(mtu, true, |parameters| {
        parameters.mode = Mode::Transport;
        parameters.nat_t = nat_t.then_some(NatT { local_port: 4500, remote_port: 4500 });
    });
    site.protect(
        Direction::Outbound,
        Selector::between(net("2001:db8:1::1/128"), net("2001:db8:1001::9/128")),
    );
    site
}

fn own(destination: &str, payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ipv6(ip6_octets(LOCAL6), ip6_octets(destination), 64).udp(9, 9);
    let mut packet = Vec::new();
    builder.write(&mut packet, &pattern(payload)).expect("a vector takes all");
    packet
}

fn outbound(site: &Site) -> Arc<ipsec::Sa> {
    let sa = site.database.sas().find(|sa| sa.parameters().direction == Direction::Outbound);
    sa.expect("there is one").clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// RFC 4303 §3.3.4: transport mode encrypts whole packets, and what comes of them is cut.
    #[test]
    fn transport_mode_encrypts_before_it_cuts(payload in 1451usize..20_000, mtu in 1280u16..1500, nat_t: bool) {
        let mut site = transport_site(mtu, nat_t);
        let packet = own(PEER6, payload);
        site.inject(&packet);
        let sent = site.bed.sent(1);
        let outer = reassembled(&sent, mtu.into());
        prop_assert_eq!(outer[6], if nat_t { 17 } else { 50 });
        prop_assert_eq!(site.peer_opens_any(&outer), Ok(packet));
        prop_assert_eq!(site.bed.drops(), []);
        site.bed.assert_balanced();
    }
}

#[test]
fn many_packets_are_cut_at_once_and_told_apart() {
    let mut site = transport_site(1500, false);
    let packet = own(PEER6, 8000);
    for _ in 0..60 {
        let inject = Inject::copy(&mut site.bed.pool.cache(), &packet, InjectTo::Forward6).expect("buffers");
        assert!(site.bed.shared.inject(inject));
    }
    site.bed.run();
    let sent = site.bed.sent(1);
    let mut identifications = BTreeSet::new();
    for fragments in sent.chunks(sent.len() / 60) {
        assert_eq!(site.peer_opens_any(&reassembled(fragments, 1500)).as_ref(), Ok(&packet));
        let _ = identifications.insert(identification(fragments).to_vec());
    }
    assert_eq!(identifications.len(), 60);
    site.bed.assert_balanced();
}

/// A router on the path says what it takes, about a whole packet or about the first fragment of one.
#[test]
fn a_path_over_ipv6_is_learnt_in_both_modes() {
    for nat_t in [false, true] {
        let mut site = transport_site(1500, nat_t);
        let packet = own(PEER6, 1350);
        site.inject(&packet);
        let whole = site.bed.only_sent(1);
        site.bed.send(1, &too_big(1, "2001:db8:1001::77", LOCAL6, &whole[14..], 1400));
        site.inject(&packet);
        let cut = site.bed.sent(1);
        assert_eq!(site.peer_opens_any(&reassembled(&cut, 1400)).as_ref(), Ok(&packet));
        // What is less than any path takes is not believed.
        site.bed.send(1, &too_big(1, "2001:db8:1001::77", LOCAL6, &cut[0][14..], 700));
        assert_eq!(outbound(&site).path_mtu(), Some(1280));
        site.inject(&packet);
        let cut = site.bed.sent(1);
        assert_eq!(site.peer_opens_any(&reassembled(&cut, 1280)).as_ref(), Ok(&packet));
        assert!(cut[0].len() > 14 + 1272, "no shorter than need be");
        site.bed.assert_balanced();
    }

    let mut site = Site::new(true, |_| {});
    let frame = towards_tunnel(true, 1352);
    site.bed.send(0, &frame);
    let whole = site.bed.only_sent(1);
    site.bed.send(1, &too_big(1, "2001:db8:1001::77", LOCAL6, &whole[14..], 1280));
    site.bed.send(0, &frame);
    assert_eq!(read_too_big(&site.bed.only_sent(0)).1, 1280);
    let frame = towards_tunnel(true, 1280 - 48);
    site.bed.send(0, &frame);
    let outer = reassembled(&site.bed.sent(1), 1280);
    assert_eq!(site.peer_opens_any(&outer), Ok(after_hop(&frame)));
    // Fragments of IPv4 are made before, so that the peer need not put them together.
    let frame = towards_tunnel(false, 1300);
    site.bed.send(0, &frame);
    let pieces = site.bed.sent(1);
    let pieces = pieces.iter().map(|piece| site.peer_opens(&piece[14..]).expect("ours")[20..].to_vec());
    assert_eq!(pieces.collect::<Vec<_>>().concat(), frame[34..]);
    site.bed.assert_balanced();
}

/// In transport mode IPv4 packets are not cut before, whatever the path: ESP is of whole packets.
#[test]
fn transport_mode_over_ipv4_leaves_cutting_to_the_path() {
    let mut site = Site::new(false, |parameters| parameters.mode = Mode::Transport);
    site.protect(Direction::Outbound, Selector::between(net("10.0.1.1/32"), net("10.0.1.9/32")));
    outbound(&site).set_path_mtu(Some(1000));
    let mut packet = udp4([10, 0, 1, 9], 64, 1200)[14..].to_vec();
    packet[12..16].copy_from_slice(&[10, 0, 1, 1]);
    fix_header_checksum(&mut packet);
    let inject = Inject::copy(&mut site.bed.pool.cache(), &packet, InjectTo::Forward4).expect("a buffer");
    assert!(site.bed.shared.inject(inject));
    site.bed.run();
    let sent = site.bed.only_sent(1);
    assert_eq!(sent[20] & 0x40, 0, "routers may cut it");
    assert_eq!(site.peer_opens_any(&sent[14..]), Ok(packet));
    site.bed.assert_balanced();
}

/// 1,280 bytes pass any tunnel, and nobody is told to send less (RFC 2473 §7.1, RFC 4213 §3.2.1).
#[test]
fn the_least_mtu_of_ipv6_passes_every_tunnel() {
    for (outer6, by_policy) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut site = Site::with_mtu(NARROW, outer6, |_| {});
        let mut destination = "2001:db8:1009::77";
        if by_policy {
            destination = "2001:db8:1001::77";
            site.protect(Direction::Outbound, Selector::between(net("::/0"), net("2001:db8:1001::77/128")));
        }
        for payload in [1232, 1100, 1232] {
            let frame = udp6(destination, 64, payload);
            site.bed.send(0, &frame);
            let sent = site.bed.sent(1);
            let outer = match (outer6, sent.len()) {
                (_, 1) => sent[0][14..].to_vec(),
                (true, _) => reassembled(&sent, NARROW.into()),
                (false, _) => reassembled4(&sent),
            };
            assert_eq!(sent.len() > 1, payload == 1232);
            assert_eq!(site.peer_opens_any(&outer), Ok(after_hop(&frame)));
        }
        site.bed.send(0, &udp6(destination, 64, 1233));
        assert_eq!(read_too_big(&site.bed.only_sent(0)).1, 1280);
        assert_eq!(site.bed.drops(), [(DropReason::Ip6PacketTooBig, 1)]);
        site.bed.assert_balanced();
    }
}

/// What the node itself sends is cut by it, before a tunnel as without one.
#[test]
fn the_nodes_own_packets_are_cut() {
    let mut site = Site::new(false, |_| {});
    let packet = own("2001:db8:1001::9", 5000);
    site.inject(&packet);
    assert_eq!(reassembled(&site.bed.sent(1), 1500), packet);
    let packet = own("2001:db8:1009::77", 5000);
    site.inject(&packet);
    let sent = site.bed.sent(1);
    let opened = sent.iter().map(|frame| site.peer_opens(&frame[14..]).expect("ours"));
    let inner: Vec<Vec<u8>> = opened.map(|inner| [&[0; 14][..], &inner].concat()).collect();
    assert_eq!(reassembled(&inner, TUNNEL_MTU.into()), packet);
    // Hop-by-hop options are in every fragment; a fragment is not cut again.
    let mut packet = own("2001:db8:1001::9", 2000);
    packet[5] += 8;
    packet[6] = 0;
    drop(packet.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]));
    site.inject(&packet);
    let sent = site.bed.sent(1);
    assert!(sent.len() == 2 && sent.iter().all(|frame| frame[20] == 0 && frame[54] == 44));
    assert_eq!([&sent[0][70..], &sent[1][70..]].concat(), packet[48..]);
    let mut packet = own("2001:db8:1001::9", 2000);
    packet[6] = 44;
    site.inject(&packet);
    site.bed.assert_nothing_sent();
    assert_eq!(site.bed.drops(), [(DropReason::Ip6PacketTooBig, 1)]);
    site.bed.assert_balanced();
}

/// Of fragments to the node only the first says whether it carries IPsec; it decides for all, since nothing is put together
/// without it.
#[test]
fn esp_in_udp_comes_in_by_fragments_where_only_esp_may() {
    for ipv6 in [false, true] {
        let mut site = Site::new(ipv6, |parameters| {
            parameters.mode = Mode::Transport;
            parameters.nat_t = Some(NatT { local_port: 4500, remote_port: 4500 });
        });
        let (any, local) = if ipv6 { ("::/0", LOCAL6) } else { ("0.0.0.0/0", LOCAL4) };
        site.protect(Direction::Inbound, Selector::between(net(any), ip(local).into()));
        let frame = |offset: u16, protocol: u8, port: u16| {
            let payload =
                [&port.to_be_bytes()[..], &port.to_be_bytes(), &[0, 96, 0, 0, 1, 2, 3, 4], &[7; 84]].concat();
            let mut packet = if ipv6 {
                let header = [44, 64].into_iter().chain(ip6_octets(PEER6)).chain(ip6_octets(LOCAL6));
                let [a, b] = (offset | 1).to_be_bytes();
                [0x60, 0, 0, 0, 0, 104]
                    .into_iter()
                    .chain(header)
                    .chain([protocol, 0, a, b, 0, 0, 0, 9])
                    .collect()
            } else {
                let [a, b] = ((offset / 8) | 0x2000).to_be_bytes();
                vec![0x45, 0, 0, 116, 0, 9, a, b, 64, protocol, 0, 0, 10, 0, 1, 9, 10, 0, 1, 1]
            };
            packet.extend(payload);
            let ethertype = if ipv6 { [0x86, 0xdd] } else { [8, 0] };
            let mut frame = [&MAC1[..], &HOST1, &ethertype, &packet].concat();
            if !ipv6 {
                fix_ipv4_checksum(&mut frame);
            }
            frame
        };
        for (offset, protocol, port, passes) in [
            (0, 17, 4500, true),
            (96, 17, 4500, true),
            (96, 17, 7, true),
            (0, 50, 7, true),
            (96, 50, 7, true),
            (0, 17, 7, false),
            (0, 6, 7, false),
            (96, 6, 4500, false),
        ] {
            site.bed.send(1, &frame(offset, protocol, port));
            assert_eq!(site.bed.punts().len(), usize::from(passes), "{offset} {protocol} {port}");
        }
        assert_eq!(site.bed.drops(), [(DropReason::IpsecUnprotected, 3)]);
        site.bed.assert_balanced();
    }
}
