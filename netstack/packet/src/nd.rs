//! IPv6 neighbour discovery (RFC 4861). Each message starts with its ICMPv6 type, code and checksum.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// ICMPv6 type: router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// ICMPv6 type: router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// ICMPv6 type: neighbour solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// ICMPv6 type: neighbour advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// ICMPv6 type: redirect.
pub const REDIRECT: u8 = 137;
/// The hop limit of every neighbour discovery packet; a router would have lowered it.
pub const HOP_LIMIT: u8 = 255;

/// Option: the sender's link-layer address.
pub const OPTION_SOURCE_LINK_LAYER: u8 = 1;
/// Option: the target's link-layer address.
pub const OPTION_TARGET_LINK_LAYER: u8 = 2;
/// Option: prefix information.
pub const OPTION_PREFIX: u8 = 3;
/// Option: MTU of the link.
pub const OPTION_MTU: u8 = 5;

/// Flag of [`NeighborAdvertisement`]: the sender is a router.
pub const NA_ROUTER: u32 = 1 << 31;
/// Flag of [`NeighborAdvertisement`]: sent in answer to a solicitation.
pub const NA_SOLICITED: u32 = 1 << 30;
/// Flag of [`NeighborAdvertisement`]: replaces what is known.
pub const NA_OVERRIDE: u32 = 1 << 29;

/// Router solicitation (§4.1), options follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct RouterSolicitation {
    /// [`ROUTER_SOLICITATION`].
    pub kind: u8,
    /// Zero.
    pub code: u8,
    /// ICMPv6 checksum.
    pub checksum: U16,
    /// Zero.
    pub reserved: U32,
}

/// Router advertisement (§4.2), options follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct RouterAdvertisement {
    /// [`ROUTER_ADVERTISEMENT`].
    pub kind: u8,
    /// Zero.
    pub code: u8,
    /// ICMPv6 checksum.
    pub checksum: U16,
    /// Hop limit that hosts should use, 0: unspecified.
    pub hop_limit: u8,
    /// Managed (0x80), other configuration (0x40), router preference (0x18, RFC 4191).
    pub flags: u8,
    /// Seconds for which the sender is a default router.
    pub router_lifetime_s: U16,
    /// Milliseconds for which a neighbour is reachable after a confirmation, 0: unspecified.
    pub reachable_time_ms: U32,
    /// Milliseconds between solicitations, 0: unspecified.
    pub retransmit_timer_ms: U32,
}

/// Neighbour solicitation (§4.3), options follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct NeighborSolicitation {
    /// [`NEIGHBOR_SOLICITATION`].
    pub kind: u8,
    /// Zero.
    pub code: u8,
    /// ICMPv6 checksum.
    pub checksum: U16,
    /// Zero.
    pub reserved: U32,
    /// Whose link-layer address is wanted.
    pub target: [u8; 16],
}

/// Neighbour advertisement (§4.4), options follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct NeighborAdvertisement {
    /// [`NEIGHBOR_ADVERTISEMENT`].
    pub kind: u8,
    /// Zero.
    pub code: u8,
    /// ICMPv6 checksum.
    pub checksum: U16,
    /// [`NA_ROUTER`], [`NA_SOLICITED`], [`NA_OVERRIDE`].
    pub flags: U32,
    /// Whose link-layer address is told.
    pub target: [u8; 16],
}

/// The start of every option (§4.6).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct OptionHeader {
    /// The type.
    pub kind: u8,
    /// Length in units of 8 bytes; 0 makes the whole packet invalid.
    pub length: u8,
}

/// Source or target link-layer address option for Ethernet (§4.6.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct LinkLayerOption {
    /// [`OPTION_SOURCE_LINK_LAYER`] or [`OPTION_TARGET_LINK_LAYER`].
    pub kind: u8,
    /// 1.
    pub length: u8,
    /// The MAC address.
    pub mac: [u8; 6],
}

/// Prefix information option (§4.6.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct PrefixOption {
    /// [`OPTION_PREFIX`].
    pub kind: u8,
    /// 4.
    pub length: u8,
    /// Bits of the prefix.
    pub prefix_len: u8,
    /// On-link (0x80), autonomous address configuration (0x40).
    pub flags: u8,
    /// Seconds for which it is on-link.
    pub valid_lifetime_s: U32,
    /// Seconds for which addresses out of it are preferred.
    pub preferred_lifetime_s: U32,
    /// Zero.
    pub reserved: U32,
    /// The prefix.
    pub prefix: [u8; 16],
}

/// MTU option (§4.6.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct MtuOption {
    /// [`OPTION_MTU`].
    pub kind: u8,
    /// 1.
    pub length: u8,
    /// Zero.
    pub reserved: U16,
    /// The link's MTU in bytes.
    pub mtu: U32,
}

const _: () = assert!(size_of::<RouterSolicitation>() == 8);
const _: () = assert!(size_of::<RouterAdvertisement>() == 16);
const _: () = assert!(size_of::<NeighborSolicitation>() == 24);
const _: () = assert!(size_of::<NeighborAdvertisement>() == 24);
const _: () = assert!(size_of::<OptionHeader>() == 2);
const _: () = assert!(size_of::<LinkLayerOption>() == 8);
const _: () = assert!(size_of::<PrefixOption>() == 32);
const _: () = assert!(size_of::<MtuOption>() == 8);

/// The solicited-node group of an address (RFC 4291 §2.7.1).
pub fn solicited_node(address: [u8; 16]) -> [u8; 16] {
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, address[13], address[14], address[15]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_format, parse};

    const SOLICITATION: [u8; 32] = [
        0x87, 0x00, 0x4d, 0x3e, 0, 0, 0, 0, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x01,
        0x01, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56,
    ];
    const ADVERTISEMENT: [u8; 56] = [
        0x86, 0x00, 0xab, 0xcd, 64, 0x40, 0x07, 0x08, 0, 0, 0x75, 0x30, 0, 0, 0x03, 0xe8, 3, 4, 64, 0xc0, 0,
        1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 5, 1, 0, 0, 0, 0, 0x05, 0xdc,
    ];

    #[test]
    fn formats() {
        check_format::<RouterSolicitation>(&SOLICITATION);
        check_format::<NeighborSolicitation>(&SOLICITATION);
        check_format::<NeighborAdvertisement>(&SOLICITATION);
        check_format::<OptionHeader>(&SOLICITATION[24..]);
        check_format::<LinkLayerOption>(&SOLICITATION[24..]);
        check_format::<RouterAdvertisement>(&ADVERTISEMENT);
        check_format::<PrefixOption>(&ADVERTISEMENT[16..]);
        check_format::<MtuOption>(&ADVERTISEMENT[48..]);
    }

    #[test]
    fn parse_solicitation() {
        let message: NeighborSolicitation = parse(&SOLICITATION);
        assert_eq!((message.kind, message.target[15]), (NEIGHBOR_SOLICITATION, 1));
        let option: LinkLayerOption = parse(&SOLICITATION[24..]);
        assert_eq!((option.kind, option.mac), (OPTION_SOURCE_LINK_LAYER, [0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(solicited_node(message.target)[11..], [1, 0xff, 0, 0, 1]);
    }

    #[test]
    fn parse_advertisement() {
        let message: RouterAdvertisement = parse(&ADVERTISEMENT);
        assert_eq!((message.hop_limit, message.router_lifetime_s.get()), (64, 1800));
        assert_eq!((message.reachable_time_ms.get(), message.retransmit_timer_ms.get()), (30_000, 1000));
        let prefix: PrefixOption = parse(&ADVERTISEMENT[16..]);
        assert_eq!((prefix.prefix_len, prefix.valid_lifetime_s.get()), (64, 86_400));
        let mtu: MtuOption = parse(&ADVERTISEMENT[48..]);
        assert_eq!(mtu.mtu.get(), 1500);
    }
}
