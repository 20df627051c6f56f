//! Ethernet II and IEEE 802.1Q.

/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
