//! Packets that do not fit into one buffer: jumbo frames into tunnels, ESP that was put together of fragments.

use super::*;
use crypto::cbc_hmac::Hash;
use ipsec::Long;

/// Lengths around that of a buffer, and far above.
const PAYLOADS: [usize; 6] = [1990, 2006, 2020, 2100, 3000, 8800];

impl Site {
    fn chain(&self, bytes: &[u8]) -> Buf {
        self.pool.cache().copy(bytes).expect("the pool is large enough")
    }

    fn peer_opens_long(&self, outer: &[u8]) -> Result<Vec<u8>, EspError> {
        let mut long = Long::new();
        let opened = long.decapsulate(&self.peer, &self.chain(outer), 0);
        opened.map(|(_, inner)| inner.to_vec())
    }

    fn peer_seals_long(&self, inner: &[u8]) -> Vec<u8> {
        let (mut long, mut packet) = (Long::new(), self.chain(inner));
        let sa = self.peer.outbound(TUNNEL).expect("there is one");
        let outer = long
            .encapsulate(self.peer.suite(), &ipsec::Claimant::NOBODY, &mut packet, sa, 0)
            .expect("it is sealed");
        let ethertype: u16 = if outer[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        [&MAC1[..], &HOST1, &ethertype.to_be_bytes(), outer].concat()
    }
}

/// A packet from behind the tunnel to a host at port 0, which may be fragmented.
fn long_from_behind(payload: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([10, 9, 0, 5], [10, 0, 0, 77], 9).udp(7, 8);
    builder.write(&mut packet, &pattern(payload)).expect("a vector takes all");
    allow_fragments(&mut packet);
    packet
}

fn allow_fragments(packet: &mut [u8]) {
    packet[6] &= !0x40;
    fix_header_checksum(packet);
}

#[test]
fn they_pass_both_ways_by_every_header_and_cipher() {
    let nat_t = Some(NatT { local_port: 4500, remote_port: 4500 });
    let cbc = Algorithm::Aes256CbcHmac(Hash::Sha512);
    for (ipv6, nat_t, algorithm) in [
        (false, None, Algorithm::Aes128Gcm),
        (true, None, Algorithm::ChaCha20Poly1305),
        (false, nat_t, cbc),
        (true, nat_t, Algorithm::Aes256Gcm),
    ] {
        let mut site = Site::with_mtu(9000, ipv6, |parameters| {
            parameters.nat_t = nat_t;
            parameters.algorithm = algorithm;
            parameters.key = vec![parameters.spi as u8; algorithm.key_bytes()].into();
        });
        for payload in PAYLOADS {
            for inner6 in [false, true] {
                let frame = towards_tunnel(inner6, payload);
                site.bed.send(0, &frame);
                let sent = site.bed.only_sent(1);
                assert_eq!(site.peer_opens_long(&sent[14..]), Ok(after_hop(&frame)), "{payload}");
            }
            let inner = long_from_behind(payload);
            let frame = site.peer_seals_long(&inner);
            site.bed.send(1, &frame);
            let pieces = site.bed.sent(0);
            assert!(pieces.len() > 1 && payload_of(&pieces) == inner[20..], "{payload}: {}", pieces.len());
            site.bed.send(1, &frame);
            site.bed.assert_nothing_sent();
        }
        let (count, bytes) = (PAYLOADS.len() as u64, PAYLOADS.iter().sum::<usize>() as u64);
        assert_eq!(site.bed.drops(), [(DropReason::EspReplayed, count)]);
        let counters = site.bed.shared.interface_counters(IPSEC0);
        assert_eq!((counters.rx.packets, counters.rx.bytes), (count, bytes + 28 * count));
        assert_eq!((counters.tx.packets, counters.tx.bytes), (2 * count, 2 * bytes + 76 * count));
        for sa in site.database.sas().map(|sa| sa.counters()) {
            let refused: u64 = sa.errors.iter().sum();
            assert!([(2 * count, 0), (count, count)].contains(&(sa.packets, refused)), "{sa:?}");
        }
        site.bed.assert_balanced();
    }
}

#[test]
fn among_short_ones_in_vectors_of_every_size() {
    for count in [1usize, 2, 67, 256] {
        let mut site = Site::with_mtu(9000, false, |_| {});
        let payload = |n: usize| if n % 3 == 1 { 3000 + n } else { 10 + n };
        let frames: Vec<_> = (0..count).map(|n| towards_tunnel(n % 2 == 0, payload(n))).collect();
        assert!(frames.iter().all(|frame| site.bed.wires[0].send(frame)));
        assert_eq!(site.bed.worker.poll(site.bed.now_ns), count);
        let sent = site.bed.sent(1);
        let mut opened: Vec<_> =
            sent.iter().map(|frame| site.peer_opens_long(&frame[14..]).expect("ours")).collect();
        let mut given: Vec<_> = frames.iter().map(|frame| after_hop(frame)).collect();
        opened.sort();
        given.sort();
        assert!(opened == given, "{count}");

        let inners: Vec<_> = (0..count).map(|n| long_from_behind(payload(n))).collect();
        for inner in &inners {
            let frame = site.peer_seals_long(inner);
            assert!(site.bed.wires[1].send(&frame));
        }
        assert_eq!(site.bed.worker.poll(site.bed.now_ns), count);
        let payloads: usize = site.bed.sent(0).iter().map(|piece| piece.len() - 34).sum();
        assert_eq!(payloads, inners.iter().map(|inner| inner.len() - 20).sum::<usize>());
        assert_eq!(site.bed.drops(), []);
        site.bed.assert_balanced();
    }
}

#[test]
fn in_transport_mode_they_are_encrypted_whole_and_fragmented_behind() {
    let mut site = Site::new(false, |parameters| parameters.mode = Mode::Transport);
    site.protect(Direction::Outbound, Selector::between(net("10.0.1.1/32"), net("10.0.1.9/32")));
    for payload in [1600, 3000, 8800] {
        let mut echo = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 1, 9], [10, 0, 1, 1], 64).icmpv4_echo_request(7, 8);
        builder.write(&mut echo, &pattern(payload)).expect("a vector takes all");
        allow_fragments(&mut echo);
        let frame = site.peer_seals_long(&echo);
        site.bed.send(1, &frame);
        let pieces = site.bed.sent(1);
        let reply = site.peer_opens_long(&reassembled4(&pieces)).expect("ours");
        assert_eq!((pieces.len() > 1, reply[20], &reply[28..]), (true, 0, &pattern(payload)[..]));
    }
    assert_eq!(site.bed.drops(), []);
    site.bed.assert_balanced();
}

#[test]
fn what_is_wrong_with_them_is_told_like_of_others() {
    let mut site = Site::with_mtu(9000, false, |_| {});
    let inner = long_from_behind(4000);
    let mut forged = site.peer_seals_long(&inner);
    *forged.last_mut().expect("not empty") ^= 1;
    site.bed.send(1, &forged);
    let mut unknown = site.peer_seals_long(&inner);
    unknown[34] ^= 1;
    site.bed.send(1, &unknown);
    let outbound = site.database.outbound(TUNNEL).expect("there is one").id();
    let _ = site.database.remove(outbound).expect("it exists");
    site.publish();
    site.bed.send(0, &towards_tunnel(false, 4000));
    site.bed.assert_nothing_sent();
    let drops =
        [(DropReason::EspUnknownSpi, 1), (DropReason::EspNoSa, 1), (DropReason::EspAuthenticationFailed, 1)];
    assert_eq!(site.bed.drops(), drops);
    site.bed.assert_balanced();
}

#[test]
fn without_buffers_for_the_copy_they_are_dropped() {
    let mut site = Site::with_mtu(9000, false, |_| {});
    let frame = site.peer_seals_long(&long_from_behind(4000));
    let mut cache = site.bed.pool.cache();
    let mut hoard: Vec<_> = std::iter::from_fn(|| cache.allocate()).collect();
    drop(hoard.split_off(BUFFERS - 3));
    drop(cache);
    site.bed.send(1, &frame);
    site.bed.send(0, &towards_tunnel(false, 4000));
    site.bed.assert_nothing_sent();
    assert_eq!(site.bed.drops(), [(DropReason::NoBuffer, 2)]);
    drop(hoard);
    site.bed.assert_balanced();
}
