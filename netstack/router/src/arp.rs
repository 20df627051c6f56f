//! ARP packets (RFC 826, RFC 5227), read and made.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use packet::{
    arp::{Arp, HARDWARE_ETHERNET},
    ethernet::{BROADCAST, ETHERTYPE_ARP, ETHERTYPE_IPV4, Ethernet},
};
use zerocopy::{FromBytes, IntoBytes};

/// What an acceptable ARP packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) is_request: bool,
    pub(crate) sender: Ipv4Addr,
    pub(crate) sender_mac: [u8; 6],
    pub(crate) target: Ipv4Addr,
}

/// Reads an ARP packet; None for one that is malformed, or whose sender can be nobody.
pub(crate) fn parse(bytes: &[u8]) -> Option<Message> {
    let (arp, _) = Arp::read_from_prefix(bytes).ok()?;
    let is_request = match arp.operation.get() {
        packet::arp::REQUEST => true,
        packet::arp::REPLY => false,
        _ => return None,
    };
    let sender = Ipv4Addr::from(arp.sender);
    let nobody = sender.is_multicast() || sender.is_broadcast() || sender.is_loopback();
    let unicast = arp.sender_mac[0] & 1 == 0 && arp.sender_mac != [0; 6];
    (arp.is_ipv4_over_ethernet() && unicast && !nobody).then_some(Message {
        is_request,
        sender,
        sender_mac: arp.sender_mac,
        target: Ipv4Addr::from(arp.target),
    })
}

/// A request for `target`, to everybody or to `to`. With `sender` its own target it announces that address.
pub(crate) fn request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr, to: Option<[u8; 6]>) -> Vec<u8> {
    frame(packet::arp::REQUEST, mac, sender, [0; 6], target, to.unwrap_or(BROADCAST))
}

/// The answer to `to`, at `to_mac`: `sender` is at `mac`.
pub(crate) fn reply(mac: [u8; 6], sender: Ipv4Addr, to_mac: [u8; 6], to: Ipv4Addr) -> Vec<u8> {
    frame(packet::arp::REPLY, mac, sender, to_mac, to, to_mac)
}

fn frame(
    operation: u16,
    mac: [u8; 6],
    sender: Ipv4Addr,
    target_mac: [u8; 6],
    target: Ipv4Addr,
    to: [u8; 6],
) -> Vec<u8> {
    let ethernet = Ethernet { destination: to, source: mac, ethertype: ETHERTYPE_ARP.into() };
    let arp = Arp {
        hardware: HARDWARE_ETHERNET.into(),
        protocol: ETHERTYPE_IPV4.into(),
        hardware_len: 6,
        protocol_len: 4,
        operation: operation.into(),
        sender_mac: mac,
        sender: sender.octets(),
        target_mac,
        target: target.octets(),
    };
    [ethernet.as_bytes(), arp.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

    #[test]
    fn what_is_made_can_be_read() {
        let [sender, target] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        let frame = request(MAC, sender, target, None);
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0, 0, 1, 8, 6]);
        assert_eq!(parse(&frame[14..]), Some(Message { is_request: true, sender, sender_mac: MAC, target }));
        let frame = reply(MAC, sender, [2; 6], target);
        assert_eq!(frame[..6], [2; 6]);
        assert_eq!(parse(&frame[14..]).map(|message| message.is_request), Some(false));
    }

    #[test]
    fn impossible_senders_are_refused() {
        let good = request(MAC, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), None);
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = good[14..].to_vec();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            parse(&frame)
        };
        assert!(with(0, &[]).is_some());
        assert!(with(7, &[3]).is_none(), "neither request nor reply");
        assert!(with(8, &[1, 0, 0, 0, 0, 1]).is_none(), "group MAC address");
        assert!(with(8, &[0; 6]).is_none() && with(14, &[224, 0, 0, 1]).is_none());
        assert!(with(14, &[255; 4]).is_none() && with(4, &[8]).is_none());
        assert!((0..28).all(|len| parse(&good[14..14 + len]).is_none()));
    }
}
