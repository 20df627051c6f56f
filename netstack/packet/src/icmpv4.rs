//! ICMP (RFC 792).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Type: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Type: source quench, obsolete, still an error message.
pub const SOURCE_QUENCH: u8 = 4;
/// Type: redirect.
pub const REDIRECT: u8 = 5;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Code of [`UNREACHABLE`]: network.
pub const UNREACHABLE_NETWORK: u8 = 0;
/// Code of [`UNREACHABLE`]: host.
pub const UNREACHABLE_HOST: u8 = 1;
/// Code of [`UNREACHABLE`]: protocol.
pub const UNREACHABLE_PROTOCOL: u8 = 2;
/// Code of [`UNREACHABLE`]: port.
pub const UNREACHABLE_PORT: u8 = 3;
/// Code of [`UNREACHABLE`]: fragmentation needed, but the packet forbids it (RFC 1191 §4).
pub const UNREACHABLE_FRAGMENTATION_NEEDED: u8 = 4;
/// Code of [`UNREACHABLE`]: source route failed.
pub const UNREACHABLE_SOURCE_ROUTE: u8 = 5;
/// Code of [`UNREACHABLE`]: communication administratively prohibited (RFC 1812 §5.2.7.1).
pub const UNREACHABLE_PROHIBITED: u8 = 13;

/// Code of [`TIME_EXCEEDED`]: fragment reassembly.
pub const TIME_EXCEEDED_REASSEMBLY: u8 = 1;

/// An ICMP header with its type-dependent second word.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Icmpv4 {
    /// The type.
    pub kind: u8,
    /// The code, by type.
    pub code: u8,
    /// Internet checksum of the whole ICMP message.
    pub checksum: U16,
    /// By type: identifier and sequence number; next-hop MTU in the second half; pointer in the first byte.
    pub rest: [u8; 4],
}

const _: () = assert!(size_of::<Icmpv4>() == 8);

impl Icmpv4 {
    /// True if a message of this type is an error, or could be one: never answered by an error (RFC 1812 §4.3.2.7).
    pub fn is_error(kind: u8) -> bool {
        !matches!(kind, ECHO_REPLY | ECHO_REQUEST | 9 | 10 | 13..=18)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Sum;
    use crate::testing::{check_format, parse};

    const ECHO: [u8; 12] = [0x08, 0x00, 0xf7, 0xf9, 0x00, 0x01, 0x00, 0x02, 0, 0, 0, 3];

    #[test]
    fn format() {
        check_format::<Icmpv4>(&ECHO);
    }

    #[test]
    fn parse_echo() {
        let header: Icmpv4 = parse(&ECHO);
        assert_eq!((header.kind, header.code, header.rest), (ECHO_REQUEST, 0, [0, 1, 0, 2]));
        assert!(Sum::new().bytes(&ECHO).is_valid());
        assert!(Icmpv4::is_error(UNREACHABLE) && !Icmpv4::is_error(ECHO_REQUEST));
    }
}
