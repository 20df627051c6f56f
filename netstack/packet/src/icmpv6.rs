//! ICMPv6 (RFC 4443).

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Type: packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Type: multicast listener query, of both versions (RFC 2710, RFC 3810).
pub const LISTENER_QUERY: u8 = 130;
/// Type: multicast listener report of version 2 (RFC 3810).
pub const LISTENER_REPORT: u8 = 143;

/// Code of [`UNREACHABLE`]: no route.
pub const UNREACHABLE_NO_ROUTE: u8 = 0;
/// Code of [`UNREACHABLE`]: administratively prohibited.
pub const UNREACHABLE_PROHIBITED: u8 = 1;
/// Code of [`UNREACHABLE`]: beyond the scope of the source address.
pub const UNREACHABLE_BEYOND_SCOPE: u8 = 2;
/// Code of [`UNREACHABLE`]: address.
pub const UNREACHABLE_ADDRESS: u8 = 3;
/// Code of [`UNREACHABLE`]: port.
pub const UNREACHABLE_PORT: u8 = 4;
/// Code of [`TIME_EXCEEDED`]: fragment reassembly.
pub const TIME_EXCEEDED_REASSEMBLY: u8 = 1;
/// Code of [`PARAMETER_PROBLEM`]: erroneous header field.
pub const PARAMETER_HEADER_FIELD: u8 = 0;
/// Code of [`PARAMETER_PROBLEM`]: unrecognised next header.
pub const PARAMETER_NEXT_HEADER: u8 = 1;
/// Code of [`PARAMETER_PROBLEM`]: unrecognised option.
pub const PARAMETER_OPTION: u8 = 2;

/// An ICMPv6 header with its type-dependent second word.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Icmpv6 {
    /// The type; errors are below 128.
    pub kind: u8,
    /// The code, by type.
    pub code: u8,
    /// Internet checksum of the pseudo-header and the whole message.
    pub checksum: U16,
    /// By type: MTU; pointer; identifier and sequence number.
    pub rest: U32,
}

const _: () = assert!(size_of::<Icmpv6>() == 8);

impl Icmpv6 {
    /// True if a message of this type is an error.
    pub fn is_error(kind: u8) -> bool {
        kind < 128
    }

    /// True if a message of this type is never answered by an error: an error, or a redirect (RFC 4443 §2.4 e.1, e.2).
    pub fn forbids_error(kind: u8) -> bool {
        Self::is_error(kind) || kind == crate::nd::REDIRECT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_format, parse};

    const TOO_BIG: [u8; 8] = [0x02, 0x00, 0x12, 0x34, 0x00, 0x00, 0x05, 0x00];

    #[test]
    fn format() {
        check_format::<Icmpv6>(&TOO_BIG);
    }

    #[test]
    fn parse_packet_too_big() {
        let header: Icmpv6 = parse(&TOO_BIG);
        assert_eq!((header.kind, header.checksum.get(), header.rest.get()), (PACKET_TOO_BIG, 0x1234, 1280));
        assert!(Icmpv6::is_error(header.kind) && !Icmpv6::is_error(ECHO_REQUEST));
        assert!(Icmpv6::forbids_error(header.kind) && !Icmpv6::forbids_error(ECHO_REQUEST));
        assert!(Icmpv6::forbids_error(crate::nd::REDIRECT));
    }
}
