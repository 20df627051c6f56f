//! Who may use the API: the bearer token (RFC 6750), and a limit on guessing it.

use alloc::{collections::VecDeque, string::String};
use core::net::IpAddr;
use subtle::ConstantTimeEq;

/// Wrong tokens that an address may send at once.
const TRIES: u64 = 10;
/// One more each time this has passed.
const TRY_EVERY_NS: u64 = 6_000_000_000;
/// Addresses that are remembered; the one that failed longest ago is forgotten first.
const REMEMBERED: usize = 256;

/// The token in force and who failed to give it.
pub(crate) struct Auth {
    token: String,
    failures: VecDeque<Failures>,
}

/// Failed tries of one address, kept as the moment when all of them are forgiven.
struct Failures {
    address: IpAddr,
    forgiven_ns: u64,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// There is no bearer token.
    Missing,
    /// It is not the right one.
    Wrong,
    /// There were too many wrong ones; the next is looked at after so many seconds.
    Limited(u64),
}

impl Auth {
    /// With this token in force.
    pub fn new(token: String) -> Self {
        Self { token, failures: VecDeque::new() }
    }

    /// Puts another token in force.
    pub fn set_token(&mut self, token: &str) {
        self.token = token.into();
    }

    /// Whether an `Authorization` field that was let pass holds the token: some paths are open to everybody.
    pub fn is_right(&self, authorization: Option<&str>) -> bool {
        authorization.and_then(bearer).is_some_and(|given| self.is_token(given))
    }

    fn is_token(&self, given: &str) -> bool {
        bool::from(given.as_bytes().ct_eq(self.token.as_bytes()))
    }

    /// Judges the `Authorization` field of a request from `peer`.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&mut self, peer: IpAddr, authorization: Option<&str>, now_ns: u64) -> Result<(), Denial> {
        let Some(given) = authorization.and_then(bearer) else { return Err(Denial::Missing) };
        let peer = network_of(peer);
        let known = self.failures.iter().position(|failures| failures.address == peer);
        let forgiven_ns =
            known.and_then(|index| self.failures.get(index)).map_or(now_ns, |f| f.forgiven_ns.max(now_ns));
        // While an address is limited not even the right token is looked at: a guess would be confirmed.
        let over_ns = (forgiven_ns - now_ns).saturating_sub((TRIES - 1) * TRY_EVERY_NS);
        if over_ns > 0 {
            return Err(Denial::Limited(over_ns.div_ceil(1_000_000_000)));
        }
        if let Some(index) = known {
            let _ = self.failures.remove(index);
        }
        if self.is_token(given) {
            return Ok(());
        }
        if self.failures.len() >= REMEMBERED {
            let _ = self.failures.pop_front();
        }
        self.failures.push_back(Failures { address: peer, forgiven_ns: forgiven_ns + TRY_EVERY_NS });
        Err(Denial::Wrong)
    }
}

/// The token in a field value; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// An IPv6 user has a whole /64 to send from; an IPv4 user may come as an IPv4-mapped address (RFC 4291 §2.5.5.2).
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address @ IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn auth() -> Auth {
        Auth::new("0123456789abcdef".into())
    }

    fn peer(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    #[test]
    fn ipv4_peers_of_an_ipv6_socket_are_told_apart() {
        let mut auth = auth();
        let mapped = |n: u8| IpAddr::V6(std::net::Ipv4Addr::new(10, 0, 0, n).to_ipv6_mapped());
        for _ in 0..20 {
            let _ = auth.check(mapped(1), Some("Bearer wrong"), 0);
        }
        assert!(matches!(auth.check(mapped(1), Some("Bearer wrong"), 0), Err(Denial::Limited(_))));
        assert_eq!(auth.check(mapped(2), Some("Bearer wrong"), 0), Err(Denial::Wrong));
    }

    #[test]
    fn takes_the_token_alone() {
        let mut auth = auth();
        assert_eq!(auth.check(peer(1), Some("Bearer 0123456789abcdef"), 0), Ok(()));
        assert_eq!(auth.check(peer(1), Some("bearer  0123456789abcdef "), 0), Ok(()));
        assert_eq!(auth.check(peer(1), None, 0), Err(Denial::Missing));
        assert_eq!(auth.check(peer(1), Some("Basic 0123456789abcdef"), 0), Err(Denial::Missing));
        for wrong in
            ["Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "Bearer  "]
        {
            assert!(auth.check(peer(1), Some(wrong), 0).is_err(), "{wrong}");
        }
    }

    #[test]
    fn guessing_is_slow_and_hurts_nobody_else() {
        let mut auth = auth();
        let guess = Some("Bearer guess");
        for _ in 0..10 {
            assert_eq!(auth.check(peer(1), guess, 0), Err(Denial::Wrong));
        }
        assert_eq!(auth.check(peer(1), guess, 0), Err(Denial::Limited(6)));
        assert_eq!(auth.check(peer(1), Some("Bearer 0123456789abcdef"), 0), Err(Denial::Limited(6)));
        assert_eq!(auth.check(peer(2), Some("Bearer 0123456789abcdef"), 0), Ok(()));
        assert_eq!(auth.check(peer(1), guess, 6 * SECOND_NS), Err(Denial::Wrong));
        assert_eq!(auth.check(peer(1), guess, 6 * SECOND_NS), Err(Denial::Limited(6)));
        assert_eq!(auth.check(peer(1), Some("Bearer 0123456789abcdef"), 12 * SECOND_NS), Ok(()));
        // The right token clears the record.
        assert_eq!(auth.check(peer(1), guess, 12 * SECOND_NS), Err(Denial::Wrong));
        assert_eq!(auth.check(peer(1), guess, 12 * SECOND_NS), Err(Denial::Wrong));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut auth = auth();
        for n in 0..10_000u32 {
            let _ = auth.check(IpAddr::V4(n.into()), Some("Bearer guess"), 0);
        }
        assert_eq!(auth.failures.len(), REMEMBERED);
        let addresses = ["2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        assert_eq!(network_of(addresses[0]), network_of(addresses[1]));
    }
}
