//! The hash of a packet's addresses, protocol and ports.

use siphasher::sip::SipHasher13;

use crate::seed::{Purpose, Seed};
use crate::sip::Sip13;

/// Hashes what tells flows apart: SipHash-1-3 under a key that all nodes derive from the same [`Seed`].
///
/// Who does not know the seed cannot choose packets that meet in a slot, even having seen where others went.
/// Addresses are in network byte order; ports are numbers. The hash of a flow is the same on every machine.
#[derive(Clone, Copy)]
pub struct FlowHasher {
    words: Sip13,
    bytes: SipHasher13,
}

impl FlowHasher {
    /// The hasher of all nodes with this seed.
    pub fn new(seed: &Seed) -> Self {
        let key = seed.key(Purpose::Packet);
        Self { words: Sip13::new(key), bytes: SipHasher13::new_with_key(&key) }
    }

    /// Hash of an IPv4 flow.
    #[inline]
    pub fn ipv4(&self, source: [u8; 4], destination: [u8; 4], protocol: u8, ports: (u16, u16)) -> u64 {
        let [source, destination] =
            [source, destination].map(|address| u64::from(u32::from_le_bytes(address)));
        self.words.words([source | destination << 32, tail(protocol, ports)])
    }

    /// Hash of an IPv6 flow.
    #[inline]
    pub fn ipv6(&self, source: [u8; 16], destination: [u8; 16], protocol: u8, ports: (u16, u16)) -> u64 {
        let [source, destination] = [source, destination].map(u128::from_le_bytes);
        let halves = |address: u128| (address as u64, (address >> 64) as u64);
        let ((a, b), (c, d)) = (halves(source), halves(destination));
        self.words.words([a, b, c, d, tail(protocol, ports)])
    }

    /// Hash of a client's address alone, for services whose clients keep their backend.
    #[inline]
    pub fn client(&self, source: &[u8]) -> u64 {
        self.bytes.hash(source)
    }
}

/// Ports in network byte order, protocol, three zeros: as a word whose least significant byte comes first.
#[inline(always)]
fn tail(protocol: u8, (source, destination): (u16, u16)) -> u64 {
    u64::from(source.swap_bytes()) | u64::from(destination.swap_bytes()) << 16 | u64::from(protocol) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_and_the_seed_count() {
        let hash = |seed: u8, source: u8, destination: u8, protocol: u8, ports| {
            let hasher = FlowHasher::new(&Seed::new([seed; 16]));
            let v4 = hasher.ipv4([10, 0, 0, source], [10, 1, 0, destination], protocol, ports);
            let v6 = hasher.ipv6([source; 16], [destination; 16], protocol, ports);
            [v4, v6]
        };
        let mut seen = std::collections::HashSet::new();
        let flows = [
            (0, 1, 2, 6, (1000, 80)),
            (1, 1, 2, 6, (1000, 80)),
            (0, 2, 1, 6, (1000, 80)),
            (0, 1, 3, 6, (1000, 80)),
            (0, 1, 2, 17, (1000, 80)),
            (0, 1, 2, 6, (1001, 80)),
            (0, 1, 2, 6, (1000, 81)),
            (0, 1, 2, 6, (80, 1000)),
        ];
        for (seed, source, destination, protocol, ports) in flows {
            for value in hash(seed, source, destination, protocol, ports) {
                assert!(seen.insert(value));
            }
        }
        assert_eq!(hash(0, 1, 2, 6, (1000, 80)), hash(0, 1, 2, 6, (1000, 80)));
    }

    #[test]
    fn the_hash_never_changes() {
        // Nodes of different versions share load while they are upgraded.
        let hasher = FlowHasher::new(&Seed::default());
        assert_eq!(hasher.ipv4([192, 0, 2, 1], [198, 51, 100, 1], 6, (40_000, 443)), 0x0b18_c59d_04e5_cdd5);
        assert_eq!(hasher.ipv6([0x20; 16], [0x30; 16], 17, (40_000, 443)), 0x4e77_a9f0_6946_6028);
        assert_eq!(hasher.client(&[192, 0, 2, 1]), 0x1b36_f0ae_0b93_3fbe);
    }
}
