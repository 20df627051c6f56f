//! Every mode, family, algorithm and kind of sequence number; limits, lifetimes, policies of headers, hostile input.

use crate::common::*;
use ipnet::IpNet;
use ipsec::{
    Algorithm, DfPolicy, Direction, DscpPolicy, EcnPolicy, EspError, EventKind, Lifetimes, Limits, Long,
    Mode, NatT, SaParameters, Selector, TtlPolicy,
};
use proptest::prelude::*;

#[test]
fn everything_comes_back_and_is_as_long_as_announced() {
    for parameters in every_kind() {
        let (transport, outer6) = (parameters.mode == Mode::Transport, parameters.local.is_ipv6());
        let what =
            format!("{:?} {:?} v6 {outer6} esn {}", parameters.algorithm, parameters.mode, parameters.esn);
        let pair = Pair::new(parameters);
        for payload in [0, 1, 2, 3, 15, 16, 17, 63, 64, 65, 255, 1000, 1372] {
            for inner6 in [false, true] {
                if transport && inner6 != outer6 {
                    continue;
                }
                let packet = if transport { between_ends(inner6, payload) } else { inner(inner6, payload) };
                let outer = pair.seal(&packet).expect(&what);
                assert_eq!(outer.len(), packet.len() + pair.outbound().overhead(packet.len()), "{what}");
                assert!(
                    !outer.windows(12).any(|w| payload >= 12 && w == &packet[packet.len() - 12..]),
                    "{what}"
                );
                if !outer6 {
                    assert_eq!(packet::checksum::of(&outer[..20]).get(), 0, "{what}");
                    assert_eq!(u16::from_be_bytes([outer[2], outer[3]]) as usize, outer.len());
                } else {
                    assert_eq!(u16::from_be_bytes([outer[4], outer[5]]) as usize + 40, outer.len());
                }
                assert_eq!(pair.open(&outer), Ok(packet), "{what}");
                assert_eq!(pair.open(&outer), Err(EspError::Replayed), "{what}");
            }
        }
    }
}

/// A packet in segments of this many bytes.
fn in_segments(pair: &Pair, bytes: &[u8], each: usize) -> buffer::Buf {
    let mut segments = bytes.chunks(each).map(|part| pair.packet(part));
    let mut packet = segments.next().expect("it has bytes");
    segments.for_each(|segment| packet.append_segment(segment));
    packet
}

/// What fits into a buffer passes by either way, and what does not by its own; both take sequence numbers, windows and counts
/// from the same place.
#[test]
fn packets_longer_than_a_buffer_are_treated_like_others() {
    for parameters in every_kind() {
        let (transport, outer6) = (parameters.mode == Mode::Transport, parameters.local.is_ipv6());
        let is_udp6 = outer6 && parameters.nat_t.is_some();
        let what = format!("{parameters:?}");
        let (pair, mut long) = (Pair::new(parameters), Long::new());
        let suite = pair.snapshot.suite();
        let (mut passed, mut passed_bytes) = (0, 0);
        for payload in [0, 63, 1400, 2010, 3000, 9001] {
            let packet = if transport { between_ends(outer6, payload) } else { inner(false, payload) };
            let mut given = in_segments(&pair, &packet, 1500);
            let outer = long
                .encapsulate(suite, &ipsec::Claimant::NOBODY, &mut given, pair.outbound(), 0)
                .expect(&what)
                .to_vec();
            assert_eq!(outer.len(), packet.len() + pair.outbound().overhead(packet.len()), "{what}");
            assert!(!is_udp6 || has_checksum(&outer), "{what}");
            let chain = in_segments(&pair, &outer, 1499);
            let (sa, opened) = long.decapsulate(&pair.snapshot, &chain, 0).expect(&what);
            assert_eq!((sa.parameters().spi, opened), (SPI, &packet[..]), "{what}");
            let again = long.decapsulate(&pair.snapshot, &chain, 0).map(drop);
            assert_eq!(again, Err(EspError::Replayed), "{what}");
            (passed, passed_bytes) = (passed + 1, passed_bytes + packet.len() as u64);
            if outer.len() < 2000 {
                // The two ways open what the other has sealed.
                let plain = pair.seal(&packet).expect(&what);
                let mut changed = plain.clone();
                *changed.last_mut().expect("not empty") ^= 1;
                let forged = long.decapsulate(&pair.snapshot, &pair.packet(&changed), 0).map(drop);
                assert_eq!(forged, Err(EspError::AuthenticationFailed), "{what}");
                let opened = long.decapsulate(&pair.snapshot, &pair.packet(&plain), 0);
                assert_eq!(opened.expect(&what).1, packet, "{what}");
                let sealed = long.encapsulate(
                    suite,
                    &ipsec::Claimant::NOBODY,
                    &mut pair.packet(&packet),
                    pair.outbound(),
                    0,
                );
                assert_eq!(pair.open(sealed.expect(&what)), Ok(packet.clone()), "{what}");
                (passed, passed_bytes) = (passed + 2, passed_bytes + 2 * packet.len() as u64);
            } else {
                let mut packets = [in_segments(&pair, &packet, 1500)];
                let results = seal_all(&pair.snapshot, &mut packets, &[Some(pair.outbound())]);
                let mut opened = [Err(EspError::Malformed)];
                ipsec::decapsulate(&pair.snapshot, &mut [chain], 0, &mut opened);
                let refused = (results[0], opened[0].map(drop));
                assert_eq!(refused, (Err(EspError::TooLong), Err(EspError::TooLong)), "{what}");
            }
        }
        for (sa, is_inbound) in [(pair.outbound(), false), (pair.inbound(), true)] {
            let counters = sa.counters();
            assert_eq!((counters.packets, counters.bytes), (passed, passed_bytes), "{what}");
            let errors = [EspError::Replayed, EspError::AuthenticationFailed, EspError::TooLong];
            let counted = errors.map(|error| counters.errors[error as usize]);
            assert_eq!(counted, if is_inbound { [6, 3, 0] } else { [0; 3] }, "{what}");
        }
        let mut hopeless = [0; 65_530];
        hopeless[0] = 0x45;
        let mut hopeless = in_segments(&pair, &hopeless, 2000);
        assert_eq!(
            long.encapsulate(suite, &ipsec::Claimant::NOBODY, &mut hopeless, pair.outbound(), 0),
            Err(EspError::TooLong),
            "{what}"
        );
    }
}

#[test]
fn the_longest_inner_packet_fits_exactly() {
    for parameters in every_kind() {
        let transport6 = parameters.mode == Mode::Transport && parameters.local.is_ipv6();
        let pair = Pair::new(parameters);
        let sa = pair.outbound();
        for mtu in (200..400).chain([1280, 1500, 9000]) {
            let longest = sa.max_inner_len(mtu);
            assert!(longest > if transport6 { 40 } else { 20 });
            assert!(longest + sa.overhead(longest) <= mtu, "{sa:?} {mtu}");
            assert!(longest + 1 + sa.overhead(longest + 1) > mtu, "{sa:?} {mtu}");
        }
        assert_eq!(sa.max_inner_len(10), 0);
    }
    // RFC 4106 over IPv4 at 1,500 bytes, without and with UDP.
    let mut parameters = parameters(Algorithm::Aes128Gcm, false);
    assert_eq!(Pair::new(parameters.clone()).outbound().max_inner_len(1500), 1446);
    parameters.nat_t = Some(NatT { local_port: 4500, remote_port: 4500 });
    assert_eq!(Pair::new(parameters).outbound().max_inner_len(1500), 1438);
}

#[test]
fn sequence_numbers_end_without_repeating() {
    for algorithm in [Algorithm::Aes128Gcm, Algorithm::ChaCha20Poly1305, ALGORITHMS[3]] {
        let mut parameters = SaParameters { esn: false, ..parameters(algorithm, false) };
        parameters.last_sequence = u64::from(u32::MAX) - 2;
        let mut pair = Pair::new(parameters.clone());
        for _ in 0..2 {
            let outer = pair.seal(&inner(false, 10)).expect("numbers are left");
            assert_eq!(pair.open(&outer), Ok(inner(false, 10)));
        }
        for _ in 0..3 {
            assert_eq!(pair.seal(&inner(false, 10)), Err(EspError::SequenceExhausted));
        }
        let counters = pair.outbound().counters();
        assert_eq!((counters.packets, counters.last_sequence), (2, u64::from(u32::MAX)));
        assert_eq!(counters.errors[EspError::SequenceExhausted as usize], 3);
        assert_eq!(counters.last_error, Some(EspError::SequenceExhausted));
        let events: Vec<_> = pair.database.poll(0).iter().map(|event| event.kind).collect();
        assert_eq!(events, [EventKind::HardExpired]);
        assert_eq!(pair.database.poll(0), []);

        // Extended numbers go on over the same edge.
        let pair = Pair::new(SaParameters { esn: true, ..parameters });
        for _ in 0..200 {
            let outer = pair.seal(&inner(false, 10)).expect("numbers are left");
            assert_eq!(pair.open(&outer), Ok(inner(false, 10)));
        }
        assert_eq!(pair.inbound().counters().last_sequence, u64::from(u32::MAX) + 198);
    }
}

#[test]
fn late_packets_are_accepted_across_the_edge_of_extended_numbers() {
    let mut parameters = parameters(Algorithm::Aes256Gcm, false);
    parameters.last_sequence = u64::from(u32::MAX) - 50;
    let pair = Pair::new(parameters);
    let sealed: Vec<_> = (0..100).map(|n| pair.seal(&inner(false, n)).expect("numbers are left")).collect();
    for (n, outer) in sealed.iter().enumerate().rev() {
        assert_eq!(pair.open(outer), Ok(inner(false, n)));
    }
    assert!(sealed.iter().all(|outer| pair.open(outer) == Err(EspError::Replayed)));
}

#[test]
fn outer_headers_follow_their_policies() {
    let mut packet = inner(false, 30);
    (packet[1], packet[6]) = (0b1011_1010, 0x40);
    let packet_with = |ttl| {
        let mut packet = packet.clone();
        packet[8] = ttl;
        packet
    };
    let outer = |change: &dyn Fn(&mut SaParameters)| {
        let mut parameters = parameters(Algorithm::Aes128Gcm, false);
        change(&mut parameters);
        Pair::new(parameters).seal(&packet_with(33)).expect("it is sealed")
    };
    let plain = outer(&|_| {});
    assert_eq!((plain[1], plain[6], plain[8]), (0b1011_1010, 0x40, 64));
    assert_eq!(outer(&|p| p.dscp = DscpPolicy::Set(5))[1], 5 << 2 | 2);
    assert_eq!(outer(&|p| p.ecn = EcnPolicy::Clear)[1], 0b1011_1000);
    let cleared = outer(&|p| p.df = DfPolicy::Clear);
    assert_eq!((cleared[6], &cleared[4..6]), (0, &[0, 1][..]));
    assert_eq!(packet::checksum::of(&outer(&|p| p.df = DfPolicy::Set)[..20]).get(), 0);
    let mut may_be_cut = packet_with(33);
    may_be_cut[6] = 0;
    for (df, expected) in [(DfPolicy::Copy, 0), (DfPolicy::Set, 0x40), (DfPolicy::Clear, 0)] {
        let pair = Pair::new(SaParameters { df, ..parameters(Algorithm::Aes128Gcm, false) });
        assert_eq!(pair.seal(&may_be_cut).expect("it is sealed")[6], expected, "{df:?}");
    }
    assert_eq!(outer(&|p| p.ttl = TtlPolicy::Set(9))[8], 9);
    assert_eq!(outer(&|p| p.ttl = TtlPolicy::Copy)[8], 33);
    let padded = outer(&|p| p.tfc_pad_to_bytes = Some(700));
    assert_eq!(padded.len(), 700 + 56);
}

/// What is padded fits a path that takes less, in either kind of header.
#[test]
fn padding_for_confidentiality_ends_where_the_path_does() {
    for ipv6 in [false, true] {
        for algorithm in ALGORITHMS {
            let pair =
                Pair::new(SaParameters { tfc_pad_to_bytes: Some(9000), ..parameters(algorithm, ipv6) });
            let fits = pair.outbound().max_inner_len(1500);
            pair.outbound().limit_padding(fits as u16);
            for payload in [0, 100, fits - 28] {
                let outer = pair.seal(&inner(false, payload)).expect("it is sealed");
                assert!(outer.len() <= 1500 && outer.len() > 1500 - 16, "{algorithm:?}: {}", outer.len());
                assert_eq!(pair.open(&outer), Ok(inner(false, payload)));
            }
        }
    }
}

/// Whether UDP over IPv6 has one, and it is right.
fn has_checksum(outer: &[u8]) -> bool {
    let sum = packet::checksum::Sum::new();
    let sum = sum.pseudo_header(&outer[8..24], &outer[24..40], 17, outer.len() as u32 - 40);
    outer[46..48] != [0; 2] && sum.bytes(&outer[40..]).is_valid()
}

/// In UDP over IPv6 a packet has a checksum, which is right once whoever sends it completes it (RFC 8200 §8.1).
#[test]
fn udp_over_ipv6_has_a_checksum() {
    for mode in [Mode::Tunnel, Mode::Transport] {
        for algorithm in [Algorithm::Aes128Gcm, ALGORITHMS[3]] {
            let nat_t = Some(NatT { local_port: 4500, remote_port: 4500 });
            let pair = Pair::new(SaParameters { mode, nat_t, ..parameters(algorithm, true) });
            for length in [0, 1, 500, 1201] {
                let mut packets = [pair.packet(&between_ends(true, length))];
                let results = seal_all(&pair.snapshot, &mut packets, &[Some(pair.outbound())]);
                assert_eq!(results, [Ok(())]);
                packets[0].complete_checksum().expect("there is a place for it");
                let outer = packets[0].data();
                assert!(has_checksum(outer), "{mode:?} {algorithm:?} {length}");
                assert_eq!(pair.open(outer), Ok(between_ends(true, length)));
            }
        }
    }
}

#[test]
fn padding_for_confidentiality_is_taken_off() {
    for algorithm in ALGORITHMS {
        let mut parameters = parameters(algorithm, false);
        parameters.tfc_pad_to_bytes = Some(700);
        let pair = Pair::new(parameters);
        for ipv6 in [false, true] {
            let outer = pair.seal(&inner(ipv6, 50)).expect("it is sealed");
            assert!(outer.len() > 700);
            assert_eq!(pair.open(&outer), Ok(inner(ipv6, 50)));
        }
    }
}

/// RFC 6040, figure 4: by inner and outer codepoint, what is delivered.
#[test]
fn congestion_marks_come_inside() {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    for (inside, expected) in [
        (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (ECT_0, [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)]),
        (CE, [Some(CE); 4]),
    ] {
        for (outside, expected) in expected.into_iter().enumerate() {
            for ipv6 in [false, true] {
                // The receiver combines them whatever it sends itself.
                let ecn = if ipv6 { EcnPolicy::Clear } else { EcnPolicy::Copy };
                let outbound = parameters(Algorithm::Aes128Gcm, false);
                let (local, remote) = (outbound.remote, outbound.local);
                let direction = Direction::Inbound;
                let pair =
                    Pair::of(outbound.clone(), SaParameters { direction, local, remote, ecn, ..outbound });
                let mut packet = inner(ipv6, 20);
                let at = |packet: &[u8]| if ipv6 { packet[1] >> 4 & 3 } else { packet[1] & 3 };
                packet[1] |= if ipv6 { inside << 4 } else { inside };
                if !ipv6 {
                    packet[10..12].fill(0);
                    let checksum = packet::checksum::of(&packet[..20]);
                    packet[10..12].copy_from_slice(&checksum.get().to_be_bytes());
                }
                let mut outer = pair.seal(&packet).expect("it is sealed");
                assert_eq!(outer[1] & 3, inside);
                outer[1] = outside as u8;
                let opened = pair.open(&outer);
                assert_eq!(opened.as_deref().ok().map(at), expected, "{inside} in {outside}");
                assert!(opened.is_ok() || opened == Err(EspError::EcnDropped));
                if let (Ok(opened), false) = (&opened, ipv6) {
                    assert_eq!(packet::checksum::of(&opened[..20]).get(), 0);
                }
            }
        }
    }
}

#[test]
fn selectors_are_held_against_what_was_inside() {
    let net = |text: &str| -> IpNet { text.parse().expect("a literal prefix") };
    let mut parameters = parameters(Algorithm::Aes128Gcm, false);
    let mut selector = Selector::between(net("10.0.0.0/24"), net("10.0.0.0/24"));
    selector.protocol = Some(17);
    selector.destination_ports = (0x1002, 0x1002);
    parameters.selectors = vec![selector];
    let pair = Pair::new(parameters);
    let opened = |packet: &[u8]| pair.open(&pair.seal(packet).expect("it is sealed"));
    assert_eq!(opened(&inner(false, 9)), Ok(inner(false, 9)));
    for (at, byte) in [(12, 11), (18, 7), (9, 6), (23, 3), (7, 1)] {
        let mut packet = inner(false, 9);
        packet[at] = byte;
        assert_eq!(opened(&packet), Err(EspError::SelectorMismatch), "byte {at}");
    }
    assert_eq!(opened(&inner(true, 9)), Err(EspError::SelectorMismatch));
    assert_eq!(pair.inbound().counters().errors[EspError::SelectorMismatch as usize], 6);
}

#[test]
fn every_changed_bit_is_noticed() {
    for algorithm in ALGORITHMS {
        for esn in [false, true] {
            let pair = Pair::new(SaParameters { esn, ..parameters(algorithm, false) });
            let outer = pair.seal(&inner(false, 20)).expect("it is sealed");
            for bit in 20 * 8..outer.len() * 8 {
                let mut changed = outer.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let opened = pair.open(&changed);
                let expected = match bit / 8 {
                    20..24 => opened == Err(EspError::UnknownSpi),
                    // A number that is far behind is not worth a decryption.
                    24..28 => matches!(opened, Err(EspError::AuthenticationFailed | EspError::Replayed)),
                    _ => opened == Err(EspError::AuthenticationFailed),
                };
                assert!(expected, "{algorithm:?} bit {bit}: {opened:?}");
            }
            assert_eq!(pair.open(&outer), Ok(inner(false, 20)), "the window did not move");
        }
    }
}

#[test]
fn what_is_not_the_sas_is_refused() {
    let pair = Pair::new(parameters(Algorithm::Aes128Gcm, false));
    let outer = pair.seal(&inner(false, 20)).expect("it is sealed");
    let mut elsewhere = outer.clone();
    elsewhere[19] = 77;
    assert_eq!(pair.open(&elsewhere), Err(EspError::WrongEncapsulation));
    let mut in_udp = outer.clone();
    in_udp[9] = 17;
    drop(in_udp.splice(20..20, [0x11, 0x94, 0x11, 0x94, 0, 0, 0, 0]));
    assert_eq!(pair.open(&in_udp), Err(EspError::WrongEncapsulation));
    let mut fragment = outer.clone();
    fragment[6] = 0x20;
    assert_eq!(pair.open(&fragment), Err(EspError::Fragment));
    for len in 0..outer.len() {
        assert!(pair.open(&outer[..len]).is_err(), "{len}");
    }
    assert_eq!(pair.open(&outer), Ok(inner(false, 20)));
}

/// In transport mode the outer source is that of the packet within: the peer's key vouches for the peer alone.
#[test]
fn outer_addresses_are_those_of_the_sa() {
    for parameters in every_kind() {
        let (transport, ipv6) = (parameters.mode == Mode::Transport, parameters.local.is_ipv6());
        let what = format!("{parameters:?}");
        let pair = Pair::new(parameters);
        let packet = between_ends(ipv6, 20);
        let outer = pair.seal(&packet).expect(&what);
        let (source, destination) = if ipv6 { (23, 39) } else { (15, 19) };
        let with_other = |at: usize| {
            let mut outer = outer.clone();
            outer[at] ^= 0x40;
            pair.open(&outer)
        };
        assert_eq!(with_other(destination), Err(EspError::WrongEncapsulation), "{what}");
        let from_another = if transport { Err(EspError::WrongEncapsulation) } else { Ok(packet.clone()) };
        assert_eq!(with_other(source), from_another, "{what}");
        let again = if transport { Ok(packet) } else { Err(EspError::Replayed) };
        assert_eq!(pair.open(&outer), again, "{what}");
    }
}

/// RFC 4303 §3.1.1: transport mode leaves extension headers outside that routers look at, and what is behind them within.
#[test]
fn extension_headers_stay_in_front_of_transport_mode() {
    for algorithm in [Algorithm::Aes128Gcm, ALGORITHMS[4]] {
        let pair = Pair::new(SaParameters { mode: Mode::Transport, ..parameters(algorithm, true) });
        // Hop-by-hop options, destination options, routing.
        for headers in [&[0u8][..], &[60], &[43], &[0, 60], &[0, 60, 43, 60]] {
            let mut packet = between_ends(true, 40);
            let mut next = packet[6];
            for header in headers.iter().rev() {
                drop(packet.splice(40..40, [next, 0, 1, 4, 0, 0, 0, 0]));
                next = *header;
            }
            (packet[5], packet[6]) = (packet[5] + 8 * headers.len() as u8, next);
            let outer = pair.seal(&packet).expect("it is sealed");
            let esp = 40 + 8 * headers.len();
            assert_eq!((outer[6], outer[esp - 8], &outer[esp..esp + 4]), (next, 50, &SPI.to_be_bytes()[..]));
            assert_eq!(pair.open(&outer), Ok(packet.clone()), "{headers:?}");
            packet[6] = 44;
            assert_eq!(pair.seal(&packet), Err(EspError::Fragment));
        }
    }
}

#[test]
fn vectors_with_many_sas_keep_them_apart() {
    for count in [1usize, 2, 67, 256] {
        let mut pair = Pair::new(parameters(Algorithm::Aes128Gcm, false));
        let mut outbound = Vec::new();
        for (n, algorithm) in ALGORITHMS.into_iter().enumerate() {
            let spi = 0x4000 + n as u32;
            let out = SaParameters { spi, ..parameters(algorithm, false) };
            let (local, remote) = (out.remote, out.local);
            let inbound = SaParameters { direction: Direction::Inbound, local, remote, ..out.clone() };
            outbound.push(pair.database.add(out, &ENTROPY, 0).expect("a valid SA"));
            let _ = pair.database.add(inbound, &ENTROPY, 0).expect("a valid SA");
        }
        let snapshot = pair.database.snapshot();
        let given: Vec<_> = (0..count).map(|n| inner(n % 2 == 0, n)).collect();
        let mut packets: Vec<_> = given.iter().map(|bytes| pair.packet(bytes)).collect();
        let sas: Vec<_> =
            (0..count).map(|n| (n % 7 != 6).then(|| &*outbound[n * n % outbound.len()])).collect();
        let results = seal_all(&snapshot, &mut packets, &sas);
        for (n, result) in results.iter().enumerate() {
            assert_eq!(*result, if n % 7 == 6 { Err(EspError::NoSa) } else { Ok(()) });
        }
        let mut opened = vec![Err(EspError::Malformed); count];
        ipsec::decapsulate(&snapshot, &mut packets, 0, &mut opened);
        for n in 0..count {
            assert_eq!(opened[n].is_ok(), n % 7 != 6, "{n}: {:?}", opened[n]);
            assert_eq!(packets[n].data(), &given[n][..], "packet {n}");
        }
    }
}

#[test]
fn impossible_sas_are_refused_by_field() {
    let refused = |change: &dyn Fn(&mut SaParameters)| {
        let mut parameters = parameters(Algorithm::Aes128Gcm, false);
        change(&mut parameters);
        parameters.check().err().map(|error| error.field)
    };
    assert_eq!(refused(&|_| {}), None);
    assert_eq!(refused(&|p| p.spi = 0), Some("spi"));
    assert_eq!(refused(&|p| p.remote = ip("2001:db8::9")), Some("remote"));
    assert_eq!(refused(&|p| p.local = ip("224.0.0.1")), Some("local"));
    assert_eq!(refused(&|p| p.key = vec![0; 16].into()), Some("key"));
    assert_eq!(refused(&|p| p.replay_window = 63), Some("replay_window"));
    assert_eq!(refused(&|p| p.replay_window = 8193), Some("replay_window"));
    assert_eq!(refused(&|p| p.dscp = DscpPolicy::Set(64)), Some("dscp"));
    assert_eq!(refused(&|p| p.ttl = TtlPolicy::Set(0)), Some("ttl"));
    assert_eq!(refused(&|p| p.lifetimes.hard.bytes = Some(0)), Some("lifetimes.bytes"));
    let limits = |packets| Limits { packets: Some(packets), ..Limits::default() };
    let lifetimes = Lifetimes { soft: limits(2), hard: limits(1) };
    assert_eq!(refused(&|p| p.lifetimes = lifetimes), Some("lifetimes.packets"));
    let sequence = |p: &mut SaParameters| (p.esn, p.last_sequence) = (false, 1 << 32);
    assert_eq!(refused(&sequence), Some("last_sequence"));
}

#[test]
fn secrets_are_in_no_text() {
    let pair = Pair::new(parameters(Algorithm::Aes256Gcm, false));
    let text = format!("{:?} {:?}", pair.outbound(), pair.database);
    assert!(text.contains("SecretBytes") && !text.contains("[0, 1, 2"), "{text}");
    assert!(pair.outbound().parameters().key.is_empty());
}

proptest! {
    #[test]
    fn hostile_bytes_are_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        algorithm in 0usize..9,
        known in any::<bool>(),
        version in prop::sample::select(vec![0x45u8, 0x46, 0x60]),
        protocol in prop::sample::select(vec![50u8, 17, 0, 43, 60, 44]),
    ) {
        let pair = Pair::new(parameters(ALGORITHMS[algorithm], version == 0x60));
        if bytes.len() > 60 {
            bytes[0] = version;
            (bytes[6], bytes[7], bytes[9]) = (0, 0, protocol);
            if version == 0x60 {
                bytes[6] = protocol;
            }
            if known {
                let at = if version == 0x60 { 40 } else { 20 };
                bytes[at..at + 4].copy_from_slice(&SPI.to_be_bytes());
            }
        }
        prop_assert!(pair.open(&bytes).is_err());
        let _ = pair.seal(&bytes);
    }
}

/// RFC 3948 §3.1.2: between hosts with a NAT on the way, the checksums that the sender computed hold no more.
#[test]
fn transport_mode_through_a_nat_has_its_checksums_renewed() {
    use packet::checksum::Sum;
    for ipv6 in [false, true] {
        let mut parameters = parameters(Algorithm::Aes128Gcm, ipv6);
        parameters.mode = Mode::Transport;
        parameters.nat_t = Some(NatT { local_port: 4500, remote_port: 4500 });
        // The receiver knows the peer by the address that the NAT gives it.
        let (outbound, mut remote) = (parameters, ends(ipv6).0);
        match &mut remote {
            std::net::IpAddr::V4(address) => *address = (address.to_bits() ^ 0x40).into(),
            std::net::IpAddr::V6(address) => *address = (address.to_bits() ^ 0x40).into(),
        }
        let (direction, local) = (Direction::Inbound, outbound.remote);
        let pair = Pair::of(outbound.clone(), SaParameters { direction, local, remote, ..outbound });
        let (ip_bytes, source) = if ipv6 { (40, 8..24) } else { (20, 12..16) };
        let icmp6 = if ipv6 { 58 } else { 1 };
        for (protocol, place, length) in [(6, 16, 27), (17, 6, 31), (17, 6, 8), (icmp6, 2, 12)] {
            let mut sent = inner(ipv6, length - 8);
            let (from, to) = ends(ipv6);
            for (address, at) in [(from, source.start), (to, source.end)] {
                match address {
                    std::net::IpAddr::V4(address) => sent[at..at + 4].copy_from_slice(&address.octets()),
                    std::net::IpAddr::V6(address) => sent[at..at + 16].copy_from_slice(&address.octets()),
                }
            }
            sent[if ipv6 { 6 } else { 9 }] = protocol;
            let fill = |packet: &mut [u8]| {
                packet[ip_bytes + place..ip_bytes + place + 2].fill(0);
                let (header, text) = packet.split_at_mut(ip_bytes);
                let half = source.len();
                let sum = Sum::new().pseudo_header(
                    &header[source.clone()],
                    &header[source.end..source.end + half],
                    protocol,
                    text.len() as u32,
                );
                let checksum = sum.bytes(text).finish().to_bytes();
                text[place..place + 2].copy_from_slice(&checksum);
            };
            fill(&mut sent);
            let mut outer = pair.seal(&sent).expect("it is sealed");
            // The NAT.
            outer[source.end - 1] ^= 0x40;
            let opened = pair.open(&outer).expect("it is authentic");
            let mut expected = sent.clone();
            expected[source.end - 1] ^= 0x40;
            if protocol != 1 {
                fill(&mut expected);
            }
            assert_eq!(opened[ip_bytes..], expected[ip_bytes..], "{ipv6} {protocol}");
            assert_eq!(opened[source.clone()], expected[source.clone()]);
        }
        // A UDP checksum that was left out, and what has none.
        for next in [17u8, 50, 47] {
            let mut sent = inner(ipv6, 20);
            sent[if ipv6 { 6 } else { 9 }] = next;
            sent[ip_bytes + 6..ip_bytes + 8].fill(0);
            let (from, to) = ends(ipv6);
            for (address, at) in [(from, source.start), (to, source.end)] {
                match address {
                    std::net::IpAddr::V4(address) => sent[at..at + 4].copy_from_slice(&address.octets()),
                    std::net::IpAddr::V6(address) => sent[at..at + 16].copy_from_slice(&address.octets()),
                }
            }
            let mut outer = pair.seal(&sent).expect("it is sealed");
            outer[source.end - 1] ^= 0x40;
            assert_eq!(pair.open(&outer).expect("it is authentic")[ip_bytes..], sent[ip_bytes..]);
        }
    }
}
