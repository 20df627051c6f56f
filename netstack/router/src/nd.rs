//! Neighbour discovery packets (RFC 4861 §4, RFC 8106), read and made.

use alloc::vec::Vec;
use core::net::Ipv6Addr;

use packet::{
    checksum::Sum,
    ethernet::{ETHERTYPE_IPV6, Ethernet, multicast_mac_ipv6},
    ipv6::Ipv6,
    nd, protocol,
};
use zerocopy::{FromBytes, IntoBytes};

/// All nodes on the link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All routers on the link.
pub(crate) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Options that a packet may have; more are refused, so that a packet costs a bounded time.
const MAX_OPTIONS: usize = 32;

/// A packet that passed the checks of its kind (§6.1, §7.1, §8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) source: Ipv6Addr,
    pub(crate) body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    RouterSolicitation {
        source_mac: Option<[u8; 6]>,
    },
    /// Another router's: of no interest but that it exists.
    RouterAdvertisement,
    NeighbourSolicitation {
        target: Ipv6Addr,
        source_mac: Option<[u8; 6]>,
    },
    NeighbourAdvertisement {
        target: Ipv6Addr,
        target_mac: Option<[u8; 6]>,
        flags: u32,
    },
}

/// The solicited-node group of an address.
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    nd::solicited_node(address.octets()).into()
}

/// The link-local address with an interface identifier made from a MAC address (RFC 4291, appendix A).
pub(crate) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Reads an IPv6 packet with a neighbour discovery message; None for any that must be discarded silently.
pub(crate) fn parse(bytes: &[u8]) -> Option<Message> {
    let (header, rest) = Ipv6::read_from_prefix(bytes).ok()?;
    let payload = rest.get(..usize::from(header.payload_length.get()))?;
    let sum = header.pseudo_header(protocol::ICMPV6, payload.len() as u32).bytes(payload);
    let (kind, code) = (*payload.first()?, *payload.get(1)?);
    if header.version() != 6
        || header.hop_limit != nd::HOP_LIMIT
        || header.next_header != protocol::ICMPV6
        || code != 0
        || !sum.is_valid()
    {
        return None;
    }
    let (source, destination) = (Ipv6Addr::from(header.source), Ipv6Addr::from(header.destination));
    if source.is_multicast() || source.is_loopback() {
        return None;
    }
    let body = match kind {
        nd::ROUTER_SOLICITATION => {
            let (_, options) = nd::RouterSolicitation::read_from_prefix(payload).ok()?;
            let source_mac = link_layer_option(options, nd::OPTION_SOURCE_LINK_LAYER)?;
            if source.is_unspecified() && source_mac.is_some() {
                return None;
            }
            Body::RouterSolicitation { source_mac }
        }
        nd::ROUTER_ADVERTISEMENT => {
            let (_, options) = nd::RouterAdvertisement::read_from_prefix(payload).ok()?;
            let _ = link_layer_option(options, nd::OPTION_SOURCE_LINK_LAYER)?;
            source.is_unicast_link_local().then_some(Body::RouterAdvertisement)?
        }
        nd::NEIGHBOR_SOLICITATION => solicitation_body(payload, source, destination)?,
        nd::NEIGHBOR_ADVERTISEMENT => advertisement_body(payload, destination)?,
        _ => return None,
    };
    Some(Message { source, body })
}

/// §7.1.1.
fn solicitation_body(payload: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> Option<Body> {
    let (message, options) = nd::NeighborSolicitation::read_from_prefix(payload).ok()?;
    let target = Ipv6Addr::from(message.target);
    let source_mac = link_layer_option(options, nd::OPTION_SOURCE_LINK_LAYER)?;
    let probe_is_valid = destination == solicited_node(target) && source_mac.is_none();
    if target.is_multicast() || (source.is_unspecified() && !probe_is_valid) {
        return None;
    }
    Some(Body::NeighbourSolicitation { target, source_mac })
}

/// §7.1.2.
fn advertisement_body(payload: &[u8], destination: Ipv6Addr) -> Option<Body> {
    let (message, options) = nd::NeighborAdvertisement::read_from_prefix(payload).ok()?;
    let (target, flags) = (Ipv6Addr::from(message.target), message.flags.get());
    let target_mac = link_layer_option(options, nd::OPTION_TARGET_LINK_LAYER)?;
    if target.is_multicast() || (destination.is_multicast() && flags & nd::NA_SOLICITED != 0) {
        return None;
    }
    Some(Body::NeighbourAdvertisement { target, target_mac, flags })
}

/// The unicast MAC address in the first option of this kind, None in it if there is no such option; None if the options are
/// malformed.
fn link_layer_option(mut options: &[u8], kind: u8) -> Option<Option<[u8; 6]>> {
    let mut found = None;
    for _ in 0..MAX_OPTIONS {
        if options.is_empty() {
            return Some(found);
        }
        let (header, _) = nd::OptionHeader::read_from_prefix(options).ok()?;
        let (option, rest) = options.split_at_checked(usize::from(header.length) * 8)?;
        if header.length == 0 {
            return None;
        }
        if header.kind == kind && found.is_none() {
            let (link_layer, _) = nd::LinkLayerOption::read_from_prefix(option).ok()?;
            let mac = link_layer.mac;
            if header.length != 1 || mac[0] & 1 != 0 || mac == [0; 6] {
                return None;
            }
            found = Some(mac);
        }
        options = rest;
    }
    None
}

/// Asks for `target` (§4.3): its group, or `to` alone. An unspecified source makes it a probe for duplicates (RFC 4862 §5.4.2).
pub(crate) fn solicitation(mac: [u8; 6], source: Ipv6Addr, target: Ipv6Addr, to: Option<[u8; 6]>) -> Vec<u8> {
    let destination = if to.is_some() { target } else { solicited_node(target) };
    let message = nd::NeighborSolicitation {
        kind: nd::NEIGHBOR_SOLICITATION,
        code: 0,
        checksum: 0.into(),
        reserved: 0.into(),
        target: target.octets(),
    };
    let option = link_layer(nd::OPTION_SOURCE_LINK_LAYER, mac);
    let option = if source.is_unspecified() { &[][..] } else { option.as_bytes() };
    frame(mac, to, source, destination, &[message.as_bytes(), option])
}

/// Tells that `target` is at `mac` (§4.4), to `to` or, unasked, to all nodes.
pub(crate) fn advertisement(
    mac: [u8; 6],
    target: Ipv6Addr,
    to: Option<(Ipv6Addr, Option<[u8; 6]>)>,
) -> Vec<u8> {
    let (destination, to_mac) = to.unwrap_or((ALL_NODES, None));
    let solicited = if destination.is_multicast() { 0 } else { nd::NA_SOLICITED };
    let message = nd::NeighborAdvertisement {
        kind: nd::NEIGHBOR_ADVERTISEMENT,
        code: 0,
        checksum: 0.into(),
        flags: (nd::NA_ROUTER | nd::NA_OVERRIDE | solicited).into(),
        target: target.octets(),
    };
    let option = link_layer(nd::OPTION_TARGET_LINK_LAYER, mac);
    frame(mac, to_mac, target, destination, &[message.as_bytes(), option.as_bytes()])
}

/// What a router advertisement says.
pub(crate) struct Advertisement<'a> {
    pub(crate) flags: u8,
    pub(crate) router_lifetime_s: u16,
    pub(crate) mtu: u16,
    pub(crate) prefixes: &'a [AdvertisedPrefix],
    /// Recursive DNS servers (RFC 8106 §5.1).
    pub(crate) dns_servers: &'a [Ipv6Addr],
    pub(crate) dns_lifetime_s: u32,
}

/// A network of 64 bits in a router advertisement.
#[derive(Clone, Copy)]
pub(crate) struct AdvertisedPrefix {
    pub(crate) network: Ipv6Addr,
    pub(crate) valid_lifetime_s: u32,
    pub(crate) preferred_lifetime_s: u32,
}

/// Recursive DNS server option (RFC 8106 §5.1).
const OPTION_DNS_SERVERS: u8 = 25;
/// On-link and autonomous (§4.6.2).
const PREFIX_FLAGS: u8 = 0xc0;
/// Hop limit that hosts are told to use.
const HOST_HOP_LIMIT: u8 = 64;

/// A router advertisement to all nodes (§4.2).
pub(crate) fn router_advertisement(mac: [u8; 6], say: &Advertisement<'_>) -> Vec<u8> {
    let message = nd::RouterAdvertisement {
        kind: nd::ROUTER_ADVERTISEMENT,
        code: 0,
        checksum: 0.into(),
        hop_limit: HOST_HOP_LIMIT,
        flags: say.flags,
        router_lifetime_s: say.router_lifetime_s.into(),
        reachable_time_ms: 0.into(),
        retransmit_timer_ms: 0.into(),
    };
    let mtu =
        nd::MtuOption { kind: nd::OPTION_MTU, length: 1, reserved: 0.into(), mtu: u32::from(say.mtu).into() };
    let mut options = [link_layer(nd::OPTION_SOURCE_LINK_LAYER, mac).as_bytes(), mtu.as_bytes()].concat();
    for prefix in say.prefixes {
        let option = nd::PrefixOption {
            kind: nd::OPTION_PREFIX,
            length: 4,
            prefix_len: 64,
            flags: PREFIX_FLAGS,
            valid_lifetime_s: prefix.valid_lifetime_s.into(),
            preferred_lifetime_s: prefix.preferred_lifetime_s.into(),
            reserved: 0.into(),
            prefix: prefix.network.octets(),
        };
        options.extend_from_slice(option.as_bytes());
    }
    if !say.dns_servers.is_empty() {
        let length = 1 + 2 * say.dns_servers.len() as u8;
        options.extend_from_slice(&[OPTION_DNS_SERVERS, length, 0, 0]);
        options.extend_from_slice(&say.dns_lifetime_s.to_be_bytes());
        say.dns_servers.iter().for_each(|server| options.extend_from_slice(&server.octets()));
    }
    frame(mac, None, link_local(mac), ALL_NODES, &[message.as_bytes(), &options])
}

fn link_layer(kind: u8, mac: [u8; 6]) -> nd::LinkLayerOption {
    nd::LinkLayerOption { kind, length: 1, mac }
}

/// An Ethernet frame with an ICMPv6 message; without a MAC address it goes to the destination's group.
fn frame(
    mac: [u8; 6],
    to: Option<[u8; 6]>,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &[&[u8]],
) -> Vec<u8> {
    let mut payload = message.concat();
    let header = Ipv6 {
        hop_limit: nd::HOP_LIMIT,
        ..Ipv6::new(protocol::ICMPV6, source.octets(), destination.octets(), payload.len())
    };
    let sum: Sum = header.pseudo_header(protocol::ICMPV6, payload.len() as u32);
    let checksum = sum.bytes(&payload).finish();
    if let Some(field) = payload.get_mut(2..4) {
        field.copy_from_slice(checksum.as_bytes());
    }
    let ethernet = Ethernet {
        destination: to.unwrap_or_else(|| multicast_mac_ipv6(destination.octets())),
        source: mac,
        ethertype: ETHERTYPE_IPV6.into(),
    };
    [ethernet.as_bytes(), header.as_bytes(), &payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const TARGET: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

    fn read(frame: &[u8]) -> Option<Message> {
        parse(&frame[14..])
    }

    /// The frame with some bytes of its IPv6 packet changed and its checksum made right again.
    fn changed(frame: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Option<Message> {
        let mut packet = frame[14..].to_vec();
        change(&mut packet);
        let length = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet[42..44].fill(0);
        let header = Ipv6::read_from_bytes(&packet[..40]).unwrap();
        let sum = header.pseudo_header(protocol::ICMPV6, u32::from(length)).bytes(&packet[40..]).finish();
        packet[42..44].copy_from_slice(sum.as_bytes());
        parse(&packet)
    }

    #[test]
    fn what_is_made_can_be_read() {
        let ours = link_local(MAC);
        assert_eq!(ours, Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe12, 0x3456));
        let frame = solicitation(MAC, ours, TARGET, None);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 0, 7]);
        let body = Body::NeighbourSolicitation { target: TARGET, source_mac: Some(MAC) };
        assert_eq!(read(&frame), Some(Message { source: ours, body }));
        let frame = solicitation(MAC, Ipv6Addr::UNSPECIFIED, TARGET, None);
        let body = Body::NeighbourSolicitation { target: TARGET, source_mac: None };
        assert_eq!(read(&frame), Some(Message { source: Ipv6Addr::UNSPECIFIED, body }));
        let frame = advertisement(MAC, TARGET, Some((ours, Some([2; 6]))));
        let flags = nd::NA_ROUTER | nd::NA_OVERRIDE | nd::NA_SOLICITED;
        let body = Body::NeighbourAdvertisement { target: TARGET, target_mac: Some(MAC), flags };
        assert_eq!((&frame[..6], read(&frame)), (&[2; 6][..], Some(Message { source: TARGET, body })));
        let frame = advertisement(MAC, TARGET, None);
        assert!(
            matches!(read(&frame).unwrap().body, Body::NeighbourAdvertisement { flags, .. } if flags & nd::NA_SOLICITED == 0)
        );
    }

    #[test]
    fn a_router_advertisement_has_what_hosts_need() {
        let say = Advertisement {
            flags: 0x40,
            router_lifetime_s: 1800,
            mtu: 1400,
            prefixes: &[AdvertisedPrefix {
                network: Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0),
                valid_lifetime_s: 7200,
                preferred_lifetime_s: 3600,
            }],
            dns_servers: &[TARGET],
            dns_lifetime_s: 1200,
        };
        let frame = router_advertisement(MAC, &say);
        assert_eq!(read(&frame), Some(Message { source: link_local(MAC), body: Body::RouterAdvertisement }));
        let message = &frame[54..];
        assert_eq!(message[4..8], [64, 0x40, 7, 8]);
        assert_eq!(message[16..32], [1, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 5, 1, 0, 0, 0, 0, 5, 0x78]);
        assert_eq!(message[32..44], [3, 4, 64, 0xc0, 0, 0, 0x1c, 0x20, 0, 0, 0x0e, 0x10]);
        assert_eq!(message[64..72], [25, 3, 0, 0, 0, 0, 4, 0xb0]);
        assert_eq!(message.len(), 88);
    }

    #[test]
    fn what_the_rfc_tells_to_discard_is_discarded() {
        let frame = solicitation(MAC, link_local(MAC), TARGET, None);
        assert!(changed(&frame, |_| ()).is_some());
        assert!(changed(&frame, |packet| packet[7] = 254).is_none(), "came through a router");
        assert!(changed(&frame, |packet| packet[41] = 1).is_none(), "code");
        assert!(changed(&frame, |packet| packet[48] = 0xff).is_none(), "multicast target");
        assert!(changed(&frame, |packet| packet[65] = 0).is_none(), "option of length 0");
        assert!(changed(&frame, |packet| packet[65] = 2).is_none(), "option beyond the end");
        assert!(changed(&frame, |packet| packet[66] |= 1).is_none(), "group MAC address");
        assert!(changed(&frame, |packet| packet.truncate(60)).is_none(), "too short");
        assert!(
            changed(&frame, |packet| packet[8..24].fill(0)).is_none(),
            "a probe that tells a MAC address"
        );
        assert!(changed(&frame, |packet| packet[24] = 0x20).is_some(), "to the target itself");
        let mut damaged = frame.clone();
        damaged[60] ^= 1;
        assert!(read(&damaged).is_none(), "checksum");
        let probe = solicitation(MAC, Ipv6Addr::UNSPECIFIED, TARGET, None);
        assert!(changed(&probe, |packet| packet[39] = 9).is_none(), "a probe to another group");
        let unasked = advertisement(MAC, TARGET, None);
        assert!(changed(&unasked, |packet| packet[44] |= 0x40).is_none(), "a multicast answer");
    }
}
