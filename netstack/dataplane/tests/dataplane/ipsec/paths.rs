//! What comes of an outer path that changes, of an SA that goes, and of an interface that is down.

use super::*;

/// Two peers may have chosen the same SPI: a router's word is about the one that the packet it quotes was for.
#[test]
fn an_spi_of_two_peers_is_told_apart_by_the_destination() {
    let mut site = Site::new(false, |_| {});
    let mut elsewhere = parameters(OUT_SPI, Direction::Outbound, false);
    elsewhere.remote = ip("10.1.7.7");
    let other = site.database.add(elsewhere, &ENTROPY, 0).expect("outbound SPIs are the peers'");
    let first = site.database.outbound(TUNNEL).expect("there is one").clone();
    site.publish();
    site.bed.send(0, &towards_tunnel(false, 1300));
    let mut sent = site.bed.only_sent(1);
    site.bed.send(1, &too_long_for_the_path(&sent, 1000));
    assert_eq!((first.path_mtu(), other.path_mtu()), (Some(1000), None));
    sent[30..34].copy_from_slice(&[10, 1, 7, 7]);
    site.bed.send(1, &too_long_for_the_path(&sent, 900));
    assert_eq!((first.path_mtu(), other.path_mtu()), (Some(1000), Some(900)));
    // More than was told before is not believed, and less than every path takes is not.
    sent[30..34].copy_from_slice(&[10, 0, 1, 9]);
    for (told, expected) in [(1400, 1000), (0, 576)] {
        site.bed.send(1, &too_long_for_the_path(&sent, told));
        assert_eq!((first.path_mtu(), other.path_mtu()), (Some(expected), Some(900)));
    }
    site.bed.assert_balanced();
}

/// What is under way when an association is removed meets none; what a worker has in hand is still decrypted.
#[test]
fn packets_under_way_when_their_sa_goes_are_dropped() {
    let mut site = Site::new(false, |_| {});
    let frames: Vec<_> = (0..3).map(|_| site.peer_seals(&from_behind(false))).collect();
    let inbound = site.database.sas().find(|sa| sa.parameters().direction == Direction::Inbound);
    let inbound = inbound.expect("there is one").id();
    let before = site.database.snapshot();
    drop(site.database.remove(inbound));
    site.publish();
    site.bed.send(1, &frames[0]);
    site.bed.send(1, &frames[1]);
    site.bed.assert_nothing_sent();
    assert_eq!(site.bed.drops(), [(DropReason::EspUnknownSpi, 2)]);
    let mut packets = [site.packet(&frames[2][14..])];
    let mut results = [Err(EspError::Malformed)];
    ipsec::decapsulate(&before, &mut packets, 0, &mut results);
    assert_eq!((results[0].err(), packets[0].data()), (None, &from_behind(false)[..]));
    drop(packets);
    site.bed.assert_balanced();
}

/// No packet comes in by the interface of a tunnel that is switched off.
#[test]
fn what_a_tunnel_brings_that_is_down_is_dropped() {
    let mut site = Site::new(false, |_| {});
    let mut down = interfaces(1500);
    if let Some(tunnel) = &mut down[usize::from(IPSEC0.0)] {
        tunnel.up = false;
    }
    let _ = site.bed.shared.publish(tables_of(down));
    let frame = site.peer_seals(&from_behind(false));
    site.bed.send(1, &frame);
    site.bed.assert_nothing_sent();
    assert_eq!(site.bed.drops(), [(DropReason::InterfaceDown, 1)]);
    site.bed.assert_balanced();
}

/// IPv6 outside has no bit that forbids fragments: the inner packet's own counts, and what may be cut is cut before.
#[test]
fn ipv4_in_ipv6_keeps_its_dont_fragment() {
    let mut site = Site::new(true, |parameters| parameters.df = DfPolicy::Copy);
    let mut long = towards_tunnel(false, 1400);
    site.bed.send(0, &long);
    let pieces = site.bed.sent(1);
    let inner: Vec<_> = pieces.iter().map(|frame| site.peer_opens(&frame[14..]).expect("ours")).collect();
    assert_eq!(inner.len(), 2);
    assert!(pieces.iter().all(|frame| frame[12..14] == [0x86, 0xdd]));
    long[20] |= 0x40;
    fix_ipv4_checksum(&mut long);
    site.bed.send(0, &long);
    let error = site.bed.only_sent(0);
    assert_eq!((error[34], error[35], &error[40..42]), (3, 4, &TUNNEL_MTU.to_be_bytes()[..]));
    assert_eq!(site.bed.drops(), [(DropReason::Ip4FragmentationNeeded, 1)]);
    site.bed.assert_balanced();
}
