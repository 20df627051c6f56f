//! Lifetimes in packets, bytes and seconds, both ways.

use crate::common::*;
use ipsec::{Algorithm, Direction, EspError, EventKind, Lifetimes, Limits, SaParameters};

#[test]
fn lifetimes_warn_and_end() {
    let limits = |seconds, bytes, packets| Limits { seconds, bytes, packets };
    let lasting = |soft, hard| SaParameters {
        lifetimes: Lifetimes { soft, hard },
        ..parameters(Algorithm::Aes128Gcm, false)
    };
    let second = 1_000_000_000;
    let packet = inner(false, 72);
    assert_eq!(packet.len(), 100);
    for (soft, hard) in [
        (limits(None, Some(300), None), limits(None, Some(500), None)),
        (limits(None, None, Some(3)), limits(None, None, Some(5))),
        (limits(Some(3), None, None), limits(Some(5), None, None)),
    ] {
        let mut pair = Pair::new(lasting(soft, hard));
        let mut kinds = Vec::new();
        for n in 0..7 {
            let sealed = pair.seal_at(&packet, n * second);
            assert_eq!(sealed.is_ok(), n < 5, "{n} {soft:?}");
            assert!(n < 5 || sealed == Err(EspError::Expired));
            let outbound = pair.outbound().id();
            let events = pair.database.poll(n * second);
            let own = events.iter().filter(|event| event.sa == outbound);
            kinds.extend(own.map(|event| (n, event.kind)));
        }
        assert_eq!(kinds.len(), 2, "{kinds:?}");
        assert!(matches!(kinds[0], (2 | 3, EventKind::SoftExpired)), "{kinds:?}");
        assert!(matches!(kinds[1], (4 | 5, EventKind::HardExpired)), "{kinds:?}");
    }
}

/// Within a vector, too: what would be beyond the packets of a lifetime is not sent. The last nanosecond counts.
#[test]
fn lifetimes_end_exactly() {
    for last_sequence in [0, 1000, u64::from(u32::MAX) - 2] {
        let hard = Limits { packets: Some(5), ..Limits::default() };
        let lifetimes = Lifetimes { hard, ..Lifetimes::default() };
        let wanted = SaParameters { lifetimes, last_sequence, ..parameters(Algorithm::Aes128Gcm, false) };
        let mut pair = Pair::new(wanted);
        let mut packets: Vec<_> = (0..7).map(|_| pair.packet(&inner(false, 30))).collect();
        let results = seal_all(&pair.snapshot, &mut packets, &[Some(pair.outbound()); 7]);
        assert_eq!(results[..5], [Ok(()); 5]);
        assert_eq!(results[5..], [Err(EspError::Expired); 2]);
        assert_eq!(pair.seal(&inner(false, 30)), Err(EspError::Expired));
        let counters = pair.outbound().counters();
        assert_eq!((counters.packets, counters.last_sequence), (5, last_sequence + 5));
        let outbound = pair.outbound().id();
        let events = pair.database.poll(0);
        assert!(events.iter().any(|event| event.sa == outbound && event.kind == EventKind::HardExpired));
    }
    let seconds = Limits { seconds: Some(5), ..Limits::default() };
    let lifetimes = Lifetimes { hard: seconds, ..Lifetimes::default() };
    let pair = Pair::new(SaParameters { lifetimes, ..parameters(Algorithm::Aes128Gcm, false) });
    assert!(pair.seal_at(&inner(false, 30), 4_999_999_999).is_ok());
    assert_eq!(pair.seal_at(&inner(false, 30), 5_000_000_000), Err(EspError::Expired));
    let bytes = Limits { bytes: Some(101), ..Limits::default() };
    let lifetimes = Lifetimes { hard: bytes, ..Lifetimes::default() };
    let pair = Pair::new(SaParameters { lifetimes, ..parameters(Algorithm::Aes128Gcm, false) });
    // 100 bytes, which are one below; and one more packet, which reaches the limit.
    assert!(pair.seal(&inner(false, 72)).is_ok() && pair.seal(&inner(false, 0)).is_ok());
    assert_eq!(pair.seal(&inner(false, 0)), Err(EspError::Expired));
}

/// What decrypts has lifetimes as well as what encrypts, in every header; a packet beyond does not move the window.
#[test]
fn inbound_lifetimes_end() {
    for outbound in every_kind() {
        let what = format!("{outbound:?}");
        let hard = Limits { packets: Some(3), seconds: Some(9), ..Limits::default() };
        let (direction, local, remote) = (Direction::Inbound, outbound.remote, outbound.local);
        let lifetimes = Lifetimes { hard, ..Lifetimes::default() };
        let inbound = SaParameters { direction, local, remote, lifetimes, ..outbound.clone() };
        let packet = between_ends(outbound.local.is_ipv6(), 20);
        let mut pair = Pair::of(outbound, inbound);
        for n in 0..5 {
            let opened = pair.open(&pair.seal(&packet).expect(&what));
            assert_eq!(opened, if n < 3 { Ok(packet.clone()) } else { Err(EspError::Expired) }, "{what}");
        }
        let counters = pair.inbound().counters();
        assert_eq!((counters.packets, counters.last_sequence), (3, 3), "{what}");
        assert_eq!((counters.errors[EspError::Expired as usize], pair.database.poll(0).len()), (2, 1));
    }
}
