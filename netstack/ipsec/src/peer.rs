//! Where the peer of an SA in UDP is, which a NAT on the way may change under it (RFC 3948, RFC 7296 §2.23).
//!
//! Workers read the place with each packet, only control writes it. What workers see of a move they leave in a box that
//! control empties: whoever finds it neither being written writes, and the latest news stand.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// An address and a port as words: the port with an IPv4 address above it, then the halves of an IPv6 address.
type Words = [u64; 3];

/// The peer's address and port.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// An IPv4 address and its port change at once. The three words of IPv6 do not: a packet sent in that moment may go
    /// astray, as the ones before it did.
    words: [AtomicU64; 3],
    state: AtomicU32,
    seen: [AtomicU64; 3],
}

/// States of the box.
const EMPTY: u32 = 0;
const WRITING: u32 = 1;
const FULL: u32 = 2;

fn words_of(place: SocketAddr) -> Words {
    let port = u64::from(place.port());
    match place.ip() {
        IpAddr::V4(address) => [u64::from(address.to_bits()) << 16 | port, 0, 0],
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [port, (bits >> 64) as u64, bits as u64]
        }
    }
}

fn place_of([near, high, low]: Words, is_v6: bool) -> SocketAddr {
    let address: IpAddr = if is_v6 {
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    } else {
        Ipv4Addr::from_bits((near >> 16) as u32).into()
    };
    SocketAddr::new(address, near as u16)
}

fn load(words: &[AtomicU64; 3]) -> Words {
    words.each_ref().map(|word| word.load(Ordering::Relaxed))
}

fn store(words: &[AtomicU64; 3], new: Words) {
    for (word, new) in words.iter().zip(new) {
        word.store(new, Ordering::Relaxed);
    }
}

impl Peer {
    pub(crate) fn new(place: SocketAddr) -> Self {
        let peer = Self::default();
        peer.set(place);
        peer
    }

    pub(crate) fn get(&self, is_v6: bool) -> SocketAddr {
        place_of(load(&self.words), is_v6)
    }

    pub(crate) fn set(&self, place: SocketAddr) {
        store(&self.words, words_of(place));
    }

    /// An IPv4 address and a port, as packets have them.
    #[inline(always)]
    pub(crate) fn ipv4(&self) -> ([u8; 4], u16) {
        let near = self.words[0].load(Ordering::Relaxed);
        (((near >> 16) as u32).to_be_bytes(), near as u16)
    }

    /// An IPv6 address and a port, as packets have them.
    #[inline(always)]
    pub(crate) fn ipv6(&self) -> ([u8; 16], u16) {
        let [near, high, low] = load(&self.words);
        ((u128::from(high) << 64 | u128::from(low)).to_be_bytes(), near as u16)
    }

    /// True if the peer is known to be there.
    #[inline(always)]
    pub(crate) fn is_at(&self, place: SocketAddr) -> bool {
        load(&self.words) == words_of(place)
    }

    /// Tells control that the peer is there now.
    #[cold]
    pub(crate) fn tell(&self, place: SocketAddr) {
        let state = self.state.load(Ordering::Relaxed);
        let claim = self.state.compare_exchange(state, WRITING, Ordering::Acquire, Ordering::Relaxed);
        // Somebody else is at it: the next packet tells again.
        if state == WRITING || claim.is_err() {
            return;
        }
        store(&self.seen, words_of(place));
        self.state.store(FULL, Ordering::Release);
    }

    /// Takes what was told last.
    pub(crate) fn take(&self, is_v6: bool) -> Option<SocketAddr> {
        if self.state.load(Ordering::Relaxed) != FULL {
            return None;
        }
        let _ = self.state.compare_exchange(FULL, WRITING, Ordering::Acquire, Ordering::Relaxed).ok()?;
        let place = place_of(load(&self.seen), is_v6);
        self.state.store(EMPTY, Ordering::Release);
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_and_news_are_taken_once() {
        for text in ["192.0.2.9:4500", "255.255.255.255:65535", "[2001:db8::9]:1", "[ffff::ffff]:40000"] {
            let place: SocketAddr = text.parse().expect("a literal");
            let is_v6 = place.is_ipv6();
            let peer = Peer::new(place);
            assert_eq!((peer.get(is_v6), peer.is_at(place), peer.take(is_v6)), (place, true, None));
            let moved = SocketAddr::new(place.ip(), 7);
            assert!(!peer.is_at(moved));
            peer.tell(place);
            peer.tell(moved);
            assert_eq!((peer.take(is_v6), peer.take(is_v6)), (Some(moved), None));
        }
    }

    #[test]
    fn news_are_whole() {
        let peer = Peer::default();
        let place = |n: u16| SocketAddr::new(Ipv6Addr::from([n; 8]).into(), n);
        std::thread::scope(|scope| {
            let tellers = [1u16, 2].map(|first| {
                let peer = &peer;
                scope.spawn(move || (0..20_000u16).for_each(|n| peer.tell(place(n * 2 + first))))
            });
            while !tellers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                if let Some(seen) = peer.take(true) {
                    assert_eq!(seen, place(seen.port()));
                }
            }
        });
    }
}
