//! IPv4 packets that are longer than the MTU of the way out.

use crate::common::*;
use dataplane::DropReason;
use etherparse::{NetSlice, SlicedPacket};
use proptest::prelude::*;

/// Puts fragments together; each must be whole, in order, within the MTU, with a right checksum.
fn reassemble(frames: &[Vec<u8>], mtu: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        assert!(frame.len() <= 14 + mtu);
        let sliced = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4: {sliced:?}") };
        let header = ip.header();
        assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
        assert_eq!(usize::from(header.fragments_offset().value()) * 8, payload.len());
        assert_eq!(header.more_fragments(), index + 1 < frames.len());
        assert_eq!(header.ttl(), 63);
        payload.extend_from_slice(ip.payload().payload);
    }
    payload
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn fragments_are_the_packet(len in 560usize..9000, mtu in 576u16..1500) {
        let mut bed = Testbed::with_mtu(mtu);
        let frame = udp4([10, 1, 2, 3], 64, len);
        bed.send(0, &frame);
        let sent = bed.sent(1);
        prop_assert_eq!(reassemble(&sent, mtu.into()), frame[34..].to_vec());
        bed.assert_balanced();
    }
}

#[test]
fn many_long_packets_at_once() {
    let mut bed = Testbed::with_mtu(576);
    let frame = udp4([10, 1, 2, 3], 64, 8000);
    for _ in 0..60 {
        assert!(bed.wires[0].send(&frame));
    }
    bed.run();
    let sent = bed.sent(1);
    for fragments in sent.chunks(sent.len() / 60) {
        assert_eq!(reassemble(fragments, 576), frame[34..].to_vec());
    }
    assert_eq!(bed.shared.packet_totals().made as usize, sent.len() - 60);
    bed.assert_balanced();
}

#[test]
fn options_are_copied_as_their_flag_says() {
    let mut bed = Testbed::with_mtu(576);
    let mut frame = udp4([10, 1, 2, 3], 64, 1200);
    // Security (copied) and record route (not copied).
    let options = [0x82, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7, 7, 4, 0, 0, 0, 0, 0];
    let _ = frame.splice(34..34, options);
    frame[14] = 0x4a;
    let total_length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total_length.to_be_bytes());
    fix_ipv4_checksum(&mut frame);
    bed.send(0, &frame);
    let sent = bed.sent(1);
    assert_eq!(sent.iter().map(|frame| frame[14]).collect::<Vec<_>>(), [0x4a, 0x48, 0x48]);
    assert_eq!(sent[0][34..54], options);
    assert_eq!(sent[1][34..46], [0x82, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(reassemble(&sent, 576), frame[54..].to_vec());
    bed.assert_balanced();
}

#[test]
fn without_buffers_the_packet_is_dropped() {
    let mut bed = Testbed::with_mtu(576);
    let mut cache = bed.pool.cache();
    let mut hoard: Vec<_> = std::iter::from_fn(|| cache.allocate()).collect();
    drop(hoard.split_off(BUFFERS - 4));
    drop(cache);
    bed.send(0, &udp4([10, 1, 2, 3], 64, 1900));
    assert_eq!(bed.drops(), [(DropReason::NoBuffer, 1)]);
    let _ = bed.sent(1);
    drop(hoard);
    bed.assert_balanced();
}

#[test]
fn fragments_that_find_the_ring_full_are_counted_beside_other_drops() {
    let mut bed = Testbed::with_mtu(576);
    // The wire takes 4,096 frames until somebody receives them.
    for _ in 0..16 {
        (0..256).for_each(|_| assert!(bed.wires[0].send(&udp4([10, 1, 2, 3], 64, 10))));
        bed.run();
    }
    assert_eq!(bed.drops(), []);
    for index in 0..256 {
        let mut frame = udp4([10, 1, 2, 3], 64, 8000);
        frame[24] ^= u8::from(index < 200);
        assert!(bed.wires[0].send(&frame));
    }
    bed.run();
    let fragments = 56 + bed.shared.packet_totals().made;
    assert_eq!(bed.drops(), [(DropReason::Ip4BadChecksum, 200), (DropReason::TransmitRingFull, fragments)]);
    assert_eq!(bed.sent(1).len(), 4096);
    bed.assert_balanced();
}
