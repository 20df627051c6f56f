//! ARP for IPv4 over Ethernet (RFC 826).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Hardware type of Ethernet.
pub const HARDWARE_ETHERNET: u16 = 1;
/// Operation: who has the target address?
pub const REQUEST: u16 = 1;
/// Operation: the sender has the sender address.
pub const REPLY: u16 = 2;

/// An ARP packet for IPv4 over Ethernet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Arp {
    /// Hardware type, [`HARDWARE_ETHERNET`].
    pub hardware: U16,
    /// Protocol type, the EtherType of IPv4.
    pub protocol: U16,
    /// Bytes of a hardware address, 6.
    pub hardware_len: u8,
    /// Bytes of a protocol address, 4.
    pub protocol_len: u8,
    /// [`REQUEST`] or [`REPLY`].
    pub operation: U16,
    /// The sender's MAC address.
    pub sender_mac: [u8; 6],
    /// The sender's IPv4 address.
    pub sender: [u8; 4],
    /// The target's MAC address, unknown in a request.
    pub target_mac: [u8; 6],
    /// The target's IPv4 address.
    pub target: [u8; 4],
}

const _: () = assert!(size_of::<Arp>() == 28);

impl Arp {
    /// True if types and lengths say IPv4 over Ethernet.
    pub fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware.get() == HARDWARE_ETHERNET
            && self.protocol.get() == crate::ethernet::ETHERTYPE_IPV4
            && self.hardware_len == 6
            && self.protocol_len == 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_format, parse};

    const REQUEST_BYTES: [u8; 28] = [
        0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 10, 0, 0, 1, 0,
        0, 0, 0, 0, 0, 10, 0, 0, 2,
    ];

    #[test]
    fn format() {
        check_format::<Arp>(&REQUEST_BYTES);
    }

    #[test]
    fn parse_request() {
        let arp: Arp = parse(&REQUEST_BYTES);
        assert!(arp.is_ipv4_over_ethernet());
        assert_eq!(arp.operation.get(), REQUEST);
        assert_eq!((arp.sender, arp.target), ([10, 0, 0, 1], [10, 0, 0, 2]));
        assert!(!Arp { hardware_len: 8, ..arp }.is_ipv4_over_ethernet());
    }
}
