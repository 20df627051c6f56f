//! ESP: what an SA makes of a packet comes back whole, changed bits and forged packets do not, and nothing panics.
//!
//! The input describes an SA, which may be impossible, then packets: to be encrypted, to be decrypted as they are, and
//! encrypted ones with bits changed. The way of packets that are longer than a buffer says the same as the usual one.

use crate::input::Input;
use buffer::{Buf, BufferPool};
use crypto::cbc_hmac::Hash;
use crypto::gcm::Gcm;
use ipsec::{
    Algorithm, Database, DfPolicy, Direction, DscpPolicy, EcnPolicy, Entropy, EspError, Lifetimes, Limits,
    Long, Mode, NatT, SaParameters, Snapshot, TtlPolicy, Tunnel, TunnelId,
};
use std::cell::RefCell;
use std::net::IpAddr;

const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::Aes128Gcm,
    Algorithm::Aes256Gcm,
    Algorithm::ChaCha20Poly1305,
    Algorithm::Aes128CbcHmac(Hash::Sha256),
    Algorithm::Aes256CbcHmac(Hash::Sha512),
];
const TUNNEL: TunnelId = TunnelId(1);
const MAX_PACKETS: usize = 8;

thread_local! {
    static POOL: &'static BufferPool = BufferPool::from_heap(4);
    static LONG: RefCell<Long> = RefCell::default();
}

fn parameters(input: &mut Input<'_>) -> SaParameters {
    let (kind, policies, bits) = (input.byte(), input.byte(), input.byte());
    let algorithm = ALGORITHMS[usize::from(kind) % ALGORITHMS.len()];
    let ends: [IpAddr; 2] = if bits & 1 == 0 {
        [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()]
    } else {
        [[0x20u8; 16].into(), [0x21u8; 16].into()]
    };
    // One byte more or less now and then.
    let key_bytes = algorithm.key_bytes() + usize::from(policies == 77);
    let key = vec![bits; key_bytes].into();
    let limits = Limits { seconds: None, bytes: None, packets: (bits & 2 != 0).then_some(5) };
    SaParameters {
        mode: if bits & 4 == 0 { Mode::Tunnel } else { Mode::Transport },
        esn: bits & 8 == 0,
        replay_window: u32::from(input.word()) % 9000,
        last_sequence: if bits & 16 == 0 { 0 } else { u64::from(u32::MAX) - u64::from(input.byte()) },
        nat_t: (bits & 32 != 0).then_some(NatT { local_port: 4500, remote_port: 4500 }),
        dscp: if policies & 1 == 0 { DscpPolicy::Copy } else { DscpPolicy::Set(policies >> 2) },
        ecn: if policies & 2 == 0 { EcnPolicy::Copy } else { EcnPolicy::Clear },
        df: [DfPolicy::Copy, DfPolicy::Set, DfPolicy::Clear][usize::from(policies >> 4) % 3],
        ttl: if policies & 4 == 0 { TtlPolicy::Copy } else { TtlPolicy::Set(policies) },
        tfc_pad_to_bytes: (bits & 64 != 0).then(|| input.word()),
        lifetimes: Lifetimes { soft: Limits::default(), hard: limits },
        tunnel: TUNNEL,
        ..SaParameters::new(u32::from(input.word()), Direction::Outbound, ends.into(), algorithm, key)
    }
}

/// Both sides of an SA; None if it is impossible.
fn snapshot(outbound: &SaParameters) -> Option<Snapshot> {
    let inbound = SaParameters {
        direction: Direction::Inbound,
        local: outbound.remote,
        remote: outbound.local,
        ..outbound.clone()
    };
    let entropy = Entropy { iv_base: u64::MAX - 2, iv_key: [3; 16] };
    let mut database = Database::new(Gcm::best());
    let sa = database.add(outbound.clone(), &entropy, 0).ok()?.id();
    let _ = database.add(inbound, &entropy, 0).expect("what goes one way goes the other");
    database.set_tunnel(TUNNEL, Tunnel { outbound: Some(sa), ..Tunnel::default() }).expect("a small number");
    Some(database.snapshot())
}

fn packet(bytes: &[u8]) -> Option<Buf> {
    let mut packet = POOL.with(|pool| pool.cache()).allocate().expect("packets are freed");
    packet.append(bytes).ok()?;
    Some(packet)
}

fn seal(snapshot: &Snapshot, bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut packets, mut results) = ([packet(bytes)?], [Ok(())]);
    ipsec::encapsulate(
        snapshot.suite(),
        &ipsec::Claimant::NOBODY,
        &mut packets,
        &[snapshot.outbound(TUNNEL)],
        0,
        &mut results,
    );
    results[0].is_ok().then(|| packets[0].data().to_vec())
}

/// A packet in two segments.
fn chain(bytes: &[u8], at: usize) -> Option<Buf> {
    let (first, second) = bytes.split_at(at.min(bytes.len()));
    let mut first = packet(first)?;
    first.append_segment(packet(second)?);
    Some(first)
}

fn seal_long(snapshot: &Snapshot, bytes: &[u8], at: usize) -> Option<Vec<u8>> {
    let (mut packet, sa) = (chain(bytes, at)?, snapshot.outbound(TUNNEL)?);
    LONG.with_borrow_mut(|long| {
        let sealed = long.encapsulate(snapshot.suite(), &ipsec::Claimant::NOBODY, &mut packet, sa, 0);
        sealed.map(<[u8]>::to_vec).ok()
    })
}

fn open_long(snapshot: &Snapshot, bytes: &[u8], at: usize) -> Result<Vec<u8>, EspError> {
    let packet = chain(bytes, at).ok_or(EspError::TooLong)?;
    LONG.with_borrow_mut(|long| {
        let opened = long.decapsulate(snapshot, &packet, 0);
        opened.map(|(_, inner)| inner.to_vec())
    })
}

fn open(snapshot: &Snapshot, bytes: &[u8]) -> Result<Vec<u8>, EspError> {
    let (mut packets, mut results) = ([packet(bytes).ok_or(EspError::TooLong)?], [Err(EspError::Malformed)]);
    ipsec::decapsulate(snapshot, &mut packets, 0, &mut results);
    results[0].map(|_| packets[0].data().to_vec())
}

/// Feeds `data`.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let parameters = parameters(&mut input);
    let snapshot = snapshot(&parameters);
    assert_eq!(snapshot.is_some(), parameters.check().is_ok());
    let Some(snapshot) = snapshot else { return };
    for _ in 0..MAX_PACKETS {
        if input.is_empty() {
            break;
        }
        let (what, length, place) =
            (input.byte(), usize::from(input.word()) % 2100, usize::from(input.word()));
        let bytes = input.bytes(length);
        let forged = open(&snapshot, bytes);
        assert!(forged.is_err(), "a forged packet was accepted");
        if forged != Err(EspError::TooLong) {
            assert_eq!(open_long(&snapshot, bytes, place), forged, "the ways differ");
        }
        let _ = snapshot.learn_path_mtu(bytes, place as u32, 0);
        let mut clamped = bytes.to_vec();
        ipsec::clamp_mss(&mut clamped, place);
        let sealed = if what & 2 == 0 { seal(&snapshot, bytes) } else { seal_long(&snapshot, bytes, place) };
        let Some(sealed) = sealed else { continue };
        if what & 1 == 1 {
            let mut changed = sealed.clone();
            // Behind the outer headers, which nobody vouches for: SPI, number, IV, text, ICV.
            let start = if sealed[0] >> 4 == 4 { usize::from(sealed[0] & 15) * 4 } else { 40 };
            if parameters.mode == Mode::Tunnel && parameters.nat_t.is_none() && sealed.len() > start {
                let at = start + place % (sealed.len() - start);
                changed[at] ^= 1 << (what >> 5);
                assert!(open(&snapshot, &changed).is_err(), "a changed packet was accepted");
            }
        }
        // A padded packet can be longer than a buffer.
        let usual = if what & 4 == 0 { open(&snapshot, &sealed) } else { Err(EspError::TooLong) };
        let opened = match usual {
            Err(EspError::TooLong) => open_long(&snapshot, &sealed, place),
            opened => opened,
        };
        assert!(open(&snapshot, &sealed).is_err(), "a packet was accepted twice");
        assert!(open_long(&snapshot, &sealed, place).is_err(), "a packet was accepted twice");
        // Inner packets whose lengths lie are cut or refused.
        if let Ok(opened) = opened
            && opened.len() == bytes.len()
            && parameters.mode == Mode::Tunnel
        {
            assert_eq!(opened, bytes);
        }
    }
}
