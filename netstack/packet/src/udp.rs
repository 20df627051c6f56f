//! UDP (RFC 768).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Port of DHCP clients.
pub const PORT_DHCP_CLIENT: u16 = 68;
/// Port of DHCP servers.
pub const PORT_DHCP_SERVER: u16 = 67;

/// Port of IKE.
pub const PORT_IKE: u16 = 500;
/// Port of IKE and ESP behind a NAT (RFC 3948).
pub const PORT_IPSEC_NAT_T: u16 = 4500;

/// A UDP header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Udp {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Bytes of header and payload.
    pub length: U16,
    /// Internet checksum of pseudo-header, header and payload; 0: none (IPv4 only).
    pub checksum: U16,
}

const _: () = assert!(size_of::<Udp>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_format, parse};

    const DNS: [u8; 8] = [0xd4, 0x31, 0x00, 0x35, 0x00, 0x21, 0xbe, 0xef];

    #[test]
    fn format() {
        check_format::<Udp>(&DNS);
    }

    #[test]
    fn parse_dns() {
        let header: Udp = parse(&DNS);
        assert_eq!((header.source_port.get(), header.destination_port.get()), (54321, 53));
        assert_eq!(header.length.get(), 33);
    }
}
