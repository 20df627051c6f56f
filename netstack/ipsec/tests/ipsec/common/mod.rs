//! Pairs of SAs, and packets for them.

use buffer::{Buf, BufferPool};
use crypto::cbc_hmac::Hash;
use crypto::gcm::Gcm;
use ipsec::{
    Algorithm, Claimant, Database, Direction, Entropy, EspError, Mode, NatT, Sa, SaParameters, SecretBytes,
    Snapshot, Tunnel, TunnelId,
};
use std::net::IpAddr;

pub const TUNNEL: TunnelId = TunnelId(3);
pub const SPI: u32 = 0xa5f8;
pub const ENTROPY: Entropy = Entropy { iv_base: 0xdead_0000, iv_key: [0x17; 16] };

pub const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::Aes128Gcm,
    Algorithm::Aes256Gcm,
    Algorithm::ChaCha20Poly1305,
    Algorithm::Aes128CbcHmac(Hash::Sha256),
    Algorithm::Aes128CbcHmac(Hash::Sha384),
    Algorithm::Aes128CbcHmac(Hash::Sha512),
    Algorithm::Aes256CbcHmac(Hash::Sha256),
    Algorithm::Aes256CbcHmac(Hash::Sha384),
    Algorithm::Aes256CbcHmac(Hash::Sha512),
];

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

pub fn ends(ipv6: bool) -> (IpAddr, IpAddr) {
    if ipv6 { (ip("2001:db8::1"), ip("2001:db8::2")) } else { (ip("192.0.2.1"), ip("192.0.2.2")) }
}

/// The outbound SA of a pair.
pub fn parameters(algorithm: Algorithm, ipv6: bool) -> SaParameters {
    let key: SecretBytes = (0..algorithm.key_bytes() as u8).collect::<Vec<_>>().into();
    SaParameters { tunnel: TUNNEL, ..SaParameters::new(SPI, Direction::Outbound, ends(ipv6), algorithm, key) }
}

/// Every combination of what an SA may be.
pub fn every_kind() -> Vec<SaParameters> {
    let mut all = Vec::new();
    for algorithm in ALGORITHMS {
        for bits in 0..16u8 {
            let mut parameters = parameters(algorithm, bits & 1 != 0);
            parameters.esn = bits & 2 != 0;
            parameters.mode = if bits & 4 != 0 { Mode::Transport } else { Mode::Tunnel };
            parameters.nat_t = (bits & 8 != 0).then_some(NatT { local_port: 4500, remote_port: 4500 });
            all.push(parameters);
        }
    }
    all
}

/// Both sides of an SA in one snapshot, and the pool of its packets.
pub struct Pair {
    pub database: Database,
    pub snapshot: Snapshot,
    pub pool: &'static BufferPool,
}

impl Pair {
    pub fn new(outbound: SaParameters) -> Self {
        let inbound = SaParameters {
            direction: Direction::Inbound,
            local: outbound.remote,
            remote: outbound.local,
            ..outbound.clone()
        };
        Self::of(outbound, inbound)
    }

    pub fn of(outbound: SaParameters, inbound: SaParameters) -> Self {
        let mut database = Database::new(Gcm::best());
        let sa = database.add(outbound, &ENTROPY, 0).expect("a valid SA").id();
        let _ = database.add(inbound, &ENTROPY, 0).expect("a valid SA");
        let tunnel = Tunnel { interface: None, outbound: Some(sa), clamp_mss: false };
        database.set_tunnel(TUNNEL, tunnel).expect("a valid tunnel");
        Self { snapshot: database.snapshot(), database, pool: BufferPool::from_heap(300) }
    }

    pub fn outbound(&self) -> &Sa {
        self.snapshot.outbound(TUNNEL).expect("it was set")
    }

    pub fn inbound(&self) -> &Sa {
        self.snapshot.inbound(SPI).expect("it was added")
    }

    pub fn packet(&self, bytes: &[u8]) -> Buf {
        let mut packet = self.pool.cache().allocate().expect("the pool is large enough");
        packet.append(bytes).expect("it fits");
        packet
    }

    pub fn seal_at(&self, inner: &[u8], now_ns: u64) -> Result<Vec<u8>, EspError> {
        let mut packets = [self.packet(inner)];
        let results = seal_all_at(&self.snapshot, &mut packets, &[self.snapshot.outbound(TUNNEL)], now_ns);
        results[0].map(|()| packets[0].data().to_vec())
    }

    pub fn seal(&self, inner: &[u8]) -> Result<Vec<u8>, EspError> {
        self.seal_at(inner, 0)
    }

    pub fn open(&self, outer: &[u8]) -> Result<Vec<u8>, EspError> {
        let mut packets = [self.packet(outer)];
        let mut results = [Err(EspError::Malformed)];
        ipsec::decapsulate(&self.snapshot, &mut packets, 0, &mut results);
        results[0].map(|_| packets[0].data().to_vec())
    }
}

/// Seals a vector of packets, each by its SA.
pub fn seal_all(snapshot: &Snapshot, packets: &mut [Buf], sas: &[Option<&Sa>]) -> Vec<Result<(), EspError>> {
    seal_all_at(snapshot, packets, sas, 0)
}

fn seal_all_at(
    snapshot: &Snapshot,
    packets: &mut [Buf],
    sas: &[Option<&Sa>],
    now_ns: u64,
) -> Vec<Result<(), EspError>> {
    let mut results = vec![Ok(()); packets.len()];
    ipsec::encapsulate(snapshot.suite(), &Claimant::NOBODY, packets, sas, now_ns, &mut results);
    results
}

/// A UDP packet between two hosts.
pub fn inner(ipv6: bool, payload: usize) -> Vec<u8> {
    let length = (payload + 8) as u16;
    let mut packet = if ipv6 {
        let mut header = vec![0x60, 0, 0, 0, (length >> 8) as u8, length as u8, 17, 64];
        header.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        header.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6]);
        header
    } else {
        let total = length + 20;
        let mut header = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0, 0, 64, 17, 0, 0];
        header.extend([10, 0, 0, 5, 10, 0, 0, 6]);
        let checksum = packet::checksum::of(&header);
        header[10..12].copy_from_slice(&checksum.get().to_be_bytes());
        header
    };
    packet.extend([0x10, 0x01, 0x10, 0x02, (length >> 8) as u8, length as u8, 0, 0]);
    packet.extend((0..payload).map(|n| n as u8));
    packet
}

/// A packet of the SA's own ends, for transport mode.
pub fn between_ends(ipv6: bool, payload: usize) -> Vec<u8> {
    let mut packet = inner(ipv6, payload);
    let (source, destination) = ends(ipv6);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet[12..16].copy_from_slice(&source.octets());
            packet[16..20].copy_from_slice(&destination.octets());
            packet[10..12].fill(0);
            let checksum = packet::checksum::of(&packet[..20]);
            packet[10..12].copy_from_slice(&checksum.get().to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet[8..24].copy_from_slice(&source.octets());
            packet[24..40].copy_from_slice(&destination.octets());
        }
        _ => unreachable!("both ends are of one family"),
    }
    packet
}
