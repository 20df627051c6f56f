//! Ethernet II and IEEE 802.1Q.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of Ethernet flow control (IEEE 802.3x).
pub const ETHERTYPE_FLOW_CONTROL: u16 = 0x8808;
/// EtherType of slow protocols such as LACP (IEEE 802.3 annex 57A).
pub const ETHERTYPE_SLOW: u16 = 0x8809;
/// EtherType of LLDP (IEEE 802.1AB).
pub const ETHERTYPE_LLDP: u16 = 0x88cc;
/// The smallest EtherType; what is below is an IEEE 802.3 length.
pub const ETHERTYPE_MIN: u16 = 0x0600;

/// Everybody on the link.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// An Ethernet II header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Ethernet {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// What follows.
    pub ethertype: U16,
}

/// An 802.1Q tag: what follows an EtherType of [`ETHERTYPE_VLAN`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct VlanTag {
    /// Priority, drop eligibility, and in the low 12 bits the VLAN identifier.
    pub control: U16,
    /// What follows.
    pub ethertype: U16,
}

const _: () = assert!(size_of::<Ethernet>() == 14);
const _: () = assert!(size_of::<VlanTag>() == 4);

impl VlanTag {
    /// The VLAN identifier, 12 bits.
    #[inline]
    pub fn vlan_id(&self) -> u16 {
        self.control.get() & 0xfff
    }
}

/// The MAC address of an IPv4 group (RFC 1112 §6.4).
pub fn multicast_mac_ipv4(group: [u8; 4]) -> [u8; 6] {
    [0x01, 0x00, 0x5e, group[1] & 0x7f, group[2], group[3]]
}

/// The MAC address of an IPv6 group (RFC 2464 §7).
pub fn multicast_mac_ipv6(group: [u8; 16]) -> [u8; 6] {
    [0x33, 0x33, group[12], group[13], group[14], group[15]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_format, parse};

    const TAGGED: [u8; 18] = [
        0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x81, 0x00, 0x60, 0x64, 0x08,
        0x00,
    ];

    #[test]
    fn formats() {
        check_format::<Ethernet>(&TAGGED);
        check_format::<VlanTag>(&TAGGED[14..]);
    }

    #[test]
    fn parse_tagged() {
        let ethernet: Ethernet = parse(&TAGGED);
        assert_eq!(ethernet.destination, [0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);
        assert_eq!(ethernet.source, [0x02, 0, 0, 0, 0, 1]);
        assert_eq!(ethernet.ethertype.get(), ETHERTYPE_VLAN);
        let tag: VlanTag = parse(&TAGGED[14..]);
        assert_eq!((tag.vlan_id(), tag.ethertype.get()), (100, ETHERTYPE_IPV4));
    }

    #[test]
    fn group_addresses() {
        assert_eq!(multicast_mac_ipv4([224, 128, 0, 251]), [0x01, 0x00, 0x5e, 0, 0, 251]);
        let mut all_nodes = [0; 16];
        (all_nodes[0], all_nodes[1], all_nodes[15]) = (0xff, 0x02, 1);
        assert_eq!(multicast_mac_ipv6(all_nodes), [0x33, 0x33, 0, 0, 0, 1]);
    }
}
