//! A frame through the dataplane while IPsec tunnels are in force: over IPv4 and IPv6, in UDP, with policies. The first byte
//! says which arrangement; the input behind it comes as it is, addressed to the router, with its checksums made right, and as
//! the peer of the tunnel encrypts it.
//!
//! Whatever comes in leaves, is dropped for a reason, or goes to control, and what the peer decrypts is an IP packet.

use std::cell::RefCell;
use std::net::IpAddr;

use buffer::{Buf, BufferPool};
use crypto::gcm::Gcm;
use ipsec::{
    Action, Algorithm, Database, Direction, Entropy, EspError, NatT, Policy, SaParameters, Selector,
    Snapshot, Tunnel,
};

use crate::testbed::{HOST1, IPSEC0, MAC0, MAC1, TUNNEL, Testbed};
use crate::{books, transport};

/// Time between inputs.
const STEP_NS: u64 = 6_000_000;
const MAC_BYTES: usize = 6;
const ETHERNET_BYTES: usize = 14;
const ARRANGEMENTS: usize = 8;
/// A port's MTU with Ethernet header and tag.
const MAX_FRAME_BYTES: usize = 1518;
const ENTROPY: Entropy = Entropy { iv_base: 77, iv_key: [9; 16] };

/// A router with a tunnel, and its peer.
struct Site {
    bed: Testbed,
    database: Database,
    peer: Snapshot,
    pool: &'static BufferPool,
}

thread_local! {
    static SITES: RefCell<[Option<Site>; ARRANGEMENTS]> = const { RefCell::new([const { None }; ARRANGEMENTS]) };
}

/// Sends what is behind the first byte of `data` through.
pub fn run(data: &[u8]) {
    let Some((&kind, frame)) = data.split_first() else { return };
    SITES.with_borrow_mut(|sites| {
        let kind = usize::from(kind) % ARRANGEMENTS;
        let _ = sites[kind].get_or_insert_with(|| Site::new(kind)).feed(frame);
    });
}

fn database(outbound: &SaParameters, inbound: &SaParameters, interface: Option<u16>) -> Database {
    let mut database = Database::new(Gcm::best());
    let mut add = |parameters: &SaParameters| match database.add(parameters.clone(), &ENTROPY, 0) {
        Ok(sa) => sa.id(),
        Err(error) => panic!("{parameters:?}: {error}"),
    };
    let (sa, _) = (add(outbound), add(inbound));
    let tunnel = Tunnel { interface, outbound: Some(sa), clamp_mss: interface.is_some() };
    assert!(database.set_tunnel(TUNNEL, tunnel).is_ok());
    database
}

/// The SA at the other end.
fn mirrored(parameters: &SaParameters) -> SaParameters {
    let (local, remote) = (parameters.remote, parameters.local);
    let direction = match parameters.direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    };
    SaParameters { local, remote, direction, ..parameters.clone() }
}

/// Protected, discarded and passed in the clear, out and in.
fn policies() -> Vec<Policy> {
    let net = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is no network"));
    let out = |to, action| {
        let selector = Selector::between(net("0.0.0.0/0"), net(to));
        Policy { direction: Direction::Outbound, selector, action }
    };
    let from = |from, any, action| {
        let selector = Selector::between(net(from), net(any));
        Policy { direction: Direction::Inbound, selector, action }
    };
    vec![
        out("10.1.1.0/24", Action::Bypass),
        out("10.1.2.0/24", Action::Discard),
        out("10.1.0.0/16", Action::Protect(TUNNEL)),
        from("10.9.0.0/16", "0.0.0.0/0", Action::Protect(TUNNEL)),
        from("2001:db8:1009::/48", "::/0", Action::Protect(TUNNEL)),
        from("10.8.0.0/16", "0.0.0.0/0", Action::Discard),
    ]
}

impl Site {
    fn new(kind: usize) -> Self {
        let (ipv6, nat_t, with_policies) = (kind & 1 != 0, kind & 2 != 0, kind & 4 != 0);
        let ends: [&str; 2] =
            if ipv6 { ["2001:db8:1::1", "2001:db8:1001::9"] } else { ["10.0.1.1", "10.0.1.9"] };
        let [local, remote] = ends.map(|end| match end.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => panic!("{end} is no address"),
        });
        let parameters = |spi: u32, direction| {
            let key = vec![spi as u8; Algorithm::Aes128Gcm.key_bytes()].into();
            SaParameters {
                tunnel: TUNNEL,
                nat_t: nat_t.then_some(NatT { local_port: 4500, remote_port: 4500 }),
                ..SaParameters::new(spi, direction, (local, remote), Algorithm::Aes128Gcm, key)
            }
        };
        let (out, back) = (parameters(0x1003, Direction::Outbound), parameters(0x2004, Direction::Inbound));
        let peer = database(&mirrored(&back), &mirrored(&out), None).snapshot();
        let mut database = database(&out, &back, Some(IPSEC0.0));
        if with_policies {
            database.set_policies(policies());
            database.set_must_encrypt(
                ["10.3.0.0/16", "2001:db8:1003::/48"]
                    .map(|net| match net.parse() {
                        Ok(net) => net,
                        Err(_) => panic!("{net} is no network"),
                    })
                    .to_vec(),
            );
        }
        let bed = Testbed::new();
        let _ = bed.shared.publish_ipsec(database.snapshot());
        Self { bed, database, peer, pool: BufferPool::from_heap(8) }
    }

    fn feed(&mut self, data: &[u8]) -> usize {
        self.bed.now_ns += STEP_NS;
        let mut opened = 0;
        for (port, mac) in [(0, MAC0), (1, MAC1)] {
            let mut frame = data.to_vec();
            opened += self.send(port, &frame);
            let Some(destination) = frame.get_mut(..MAC_BYTES) else { continue };
            destination.copy_from_slice(&mac);
            opened += self.send(port, &frame);
            if is_plain_ip(&frame) && transport::correct(&mut frame[ETHERNET_BYTES..]) {
                opened += self.send(port, &frame);
            }
            if port == 1
                && is_plain_ip(&frame)
                && let Some(sealed) = self.seal(&frame[ETHERNET_BYTES..])
            {
                opened += self.send(port, &sealed);
            }
        }
        drop(self.bed.punts());
        drop(self.database.poll(self.bed.now_ns));
        books::assert_balanced(&self.bed.shared);
        opened
    }

    /// Sends a frame to a port; how many packets the peer gets out of what leaves.
    fn send(&mut self, port: usize, frame: &[u8]) -> usize {
        self.bed.send(port, frame);
        let mut opened = 0;
        for frame in self.bed.sent(0).into_iter().chain(self.bed.sent(1)) {
            let length = frame.len();
            assert!((ETHERNET_BYTES..=MAX_FRAME_BYTES).contains(&length), "a frame of {length} bytes left");
            let Ok(inner) = self.open(&frame[ETHERNET_BYTES..]) else { continue };
            assert!(
                matches!(inner.first().map(|first| first >> 4), Some(4 | 6)),
                "{inner:02x?} is no packet"
            );
            opened += 1;
        }
        opened
    }

    fn packet(&self, bytes: &[u8]) -> Option<Buf> {
        let mut packet = self.pool.cache().allocate()?;
        packet.append(bytes).ok()?;
        Some(packet)
    }

    /// What the peer makes of a packet.
    fn open(&self, outer: &[u8]) -> Result<Vec<u8>, EspError> {
        let (mut packets, mut results) =
            ([self.packet(outer).ok_or(EspError::TooLong)?], [Err(EspError::Malformed)]);
        ipsec::decapsulate(&self.peer, &mut packets, 0, &mut results);
        results[0].map(|_| packets[0].data().to_vec())
    }

    /// The frame that the peer sends for an inner packet, if it does.
    fn seal(&self, inner: &[u8]) -> Option<Vec<u8>> {
        let (mut packets, mut results) = ([self.packet(inner)?], [Ok(())]);
        ipsec::encapsulate(
            self.peer.suite(),
            &ipsec::Claimant::NOBODY,
            &mut packets,
            &[self.peer.outbound(TUNNEL)],
            0,
            &mut results,
        );
        results[0].ok()?;
        let ethertype: [u8; 2] = if packets[0].data().first()? >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        Some([&MAC1[..], &HOST1, &ethertype, packets[0].data()].concat())
    }
}

/// An untagged frame with an IP packet.
fn is_plain_ip(frame: &[u8]) -> bool {
    let version = frame.get(ETHERNET_BYTES).map(|first| first >> 4);
    matches!(
        (frame.get(12..ETHERNET_BYTES), version),
        (Some([8, 0]), Some(4)) | (Some([0x86, 0xdd]), Some(6))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_packets_reach_the_peer_in_every_arrangement() {
        let mut reached = [0; ARRANGEMENTS];
        for input in crate::corpus::load("tunnels").unwrap() {
            let Some((&kind, frame)) = input.data.split_first() else { continue };
            let kind = usize::from(kind) % ARRANGEMENTS;
            reached[kind] += Site::new(kind).feed(frame);
        }
        assert!(reached.iter().all(|packets| *packets > 0), "{reached:?}");
    }
}
