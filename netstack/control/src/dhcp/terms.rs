//! What of a server's terms is taken: an address that a host can have, routers that can be reached, times that make sense.

use super::message::Message;
use alloc::vec::Vec;
use config::Ipv4Net;
use core::net::Ipv4Addr;

const SECOND_NS: u64 = 1_000_000_000;

/// Shorter leases are taken for this long: nobody is asked in a storm.
pub(super) const MIN_LEASE_SECONDS: u32 = 60;
/// Earliest renewal.
const MIN_T1_SECONDS: u32 = MIN_LEASE_SECONDS / 2;
/// A network of more than a class A is nobody's link; it would draw traffic that is for others.
const MIN_PREFIX_LEN: u8 = 8;

/// When a lease is renewed, rebound, over (T1, T2, expiry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub renew_ns: u64,
    pub rebind_ns: u64,
    pub expire_ns: u64,
}

impl Times {
    /// RFC 2131 §4.4.5: T1 is half and T2 seven eighths of the lease unless the server says otherwise.
    /// `seconds` is [`MIN_LEASE_SECONDS`] at least; the largest number means for ever.
    pub fn of(seconds: u32, t1_seconds: Option<u32>, t2_seconds: Option<u32>, now_ns: u64) -> Self {
        if seconds == u32::MAX {
            return Self { renew_ns: u64::MAX, rebind_ns: u64::MAX, expire_ns: u64::MAX };
        }
        let t2 = t2_seconds.filter(|t2| (MIN_T1_SECONDS + 1..seconds).contains(t2));
        let t2 = t2.unwrap_or(seconds - seconds / 8);
        let t1 = t1_seconds.filter(|t1| (MIN_T1_SECONDS..t2).contains(t1));
        let t1 = t1.unwrap_or((seconds / 2).min(t2.saturating_sub(1)));
        let at = |seconds: u32| now_ns.saturating_add(u64::from(seconds) * SECOND_NS);
        Self { renew_ns: at(t1), rebind_ns: at(t2), expire_ns: at(seconds) }
    }
}

/// The address with its network. None: no host can have it there.
pub(super) fn network_of(message: &Message) -> Option<Ipv4Net> {
    let address = message.address?;
    let prefix_len = message.prefix_len.unwrap_or_else(|| class_prefix_len(address));
    let network = Ipv4Net::new(address, prefix_len).ok()?;
    // RFC 1112 §4, RFC 1122 §3.2.1.3, RFC 3927: neither a host's nor a server's to give.
    let is_martian = address.octets()[0] == 0
        || address.octets()[0] >= 224
        || address.is_loopback()
        || address.is_link_local();
    let is_edge = prefix_len < 31 && (address == network.network() || address == network.broadcast());
    (prefix_len >= MIN_PREFIX_LEN && !is_martian && !is_edge).then_some(network)
}

/// The routes whose router is a neighbour. Where the network is a single address, any router is one (it is on the
/// link all the same); a router that is the leased address itself never is.
pub(super) fn usable_routes(
    mut routes: Vec<(Ipv4Net, Ipv4Addr)>,
    network: Ipv4Net,
) -> Vec<(Ipv4Net, Ipv4Addr)> {
    routes.retain(|(_, router)| {
        let is_on_link = match network.prefix_len() {
            32 => true,
            31 => network.contains(router),
            _ => network.contains(router) && *router != network.network() && *router != network.broadcast(),
        };
        is_on_link && *router != network.addr()
    });
    routes
}

/// The prefix length that a network's class implies, for a server that gives no mask.
fn class_prefix_len(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(address: &str, prefix_len: Option<u8>) -> Option<String> {
        let message = Message { address: address.parse().ok(), prefix_len, ..Message::default() };
        network_of(&message).map(|network| network.to_string())
    }

    #[test]
    fn addresses_that_no_host_has_are_refused() {
        assert_eq!(offered("10.0.0.7", Some(24)).as_deref(), Some("10.0.0.7/24"));
        assert_eq!(offered("10.0.0.7", None).as_deref(), Some("10.0.0.7/8"));
        assert_eq!(offered("10.0.0.0", Some(31)).as_deref(), Some("10.0.0.0/31"));
        assert_eq!(offered("10.0.0.255", Some(32)).as_deref(), Some("10.0.0.255/32"));
        for (address, prefix_len) in [
            ("10.0.0.7", Some(0)),
            ("10.0.0.7", Some(7)),
            ("10.0.0.0", Some(24)),
            ("10.0.0.255", Some(24)),
            ("0.1.2.3", Some(24)),
            ("127.0.0.1", Some(24)),
            ("169.254.3.4", Some(16)),
            ("224.0.0.5", Some(24)),
            ("240.0.0.1", Some(24)),
        ] {
            assert_eq!(offered(address, prefix_len), None, "{address}/{prefix_len:?}");
        }
    }

    #[test]
    fn routers_are_neighbours() {
        let all: Vec<(Ipv4Net, Ipv4Addr)> = ["10.0.0.254", "10.0.0.7", "10.0.0.255", "10.0.0.0", "10.0.1.1"]
            .map(|router| (Ipv4Net::default(), router.parse().unwrap()))
            .into();
        let left = |network: &str| {
            let routes = usable_routes(all.clone(), network.parse().unwrap());
            routes.into_iter().map(|(_, router)| router.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(left("10.0.0.7/24"), ["10.0.0.254"]);
        assert_eq!(left("10.0.0.7/32"), ["10.0.0.254", "10.0.0.255", "10.0.0.0", "10.0.1.1"]);
    }

    #[test]
    fn times_follow_one_another_whatever_a_server_says() {
        for seconds in [60, 61, 3600, u32::MAX - 1] {
            for t1 in [None, Some(0), Some(1), Some(29), Some(30), Some(1000), Some(u32::MAX)] {
                for t2 in [None, Some(0), Some(1), Some(31), Some(59), Some(2000), Some(u32::MAX)] {
                    let times = Times::of(seconds, t1, t2, 5);
                    assert!(times.renew_ns >= 5 + 30 * SECOND_NS, "{seconds} {t1:?} {t2:?}");
                    assert!(times.renew_ns < times.rebind_ns && times.rebind_ns < times.expire_ns);
                }
            }
        }
    }
}
