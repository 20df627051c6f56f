//! IPv6 and the extension headers that a router may have to look at (RFC 8200).

use crate::checksum::Sum;
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Smallest MTU of a link that carries IPv6.
pub const MIN_MTU: u16 = 1280;

/// An IPv6 header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub version_class_flow: U32,
    /// Bytes after this header.
    pub payload_length: U16,
    /// What follows (see [`crate::protocol`]).
    pub next_header: u8,
    /// Hops it may still make.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

/// The start that all extension headers share, except the fragment header's second byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Extension {
    /// What follows.
    pub next_header: u8,
    /// Length in units of 8 bytes, less the first 8.
    pub length: u8,
}

/// A fragment header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Fragment {
    /// What follows in the first fragment.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of 8 bytes (13 bits), two reserved bits, and the flag for more fragments.
    pub offset_more: U16,
    /// Common to the fragments of a packet.
    pub identification: U32,
}

const _: () = assert!(size_of::<Ipv6>() == 40);
const _: () = assert!(size_of::<Extension>() == 2);
const _: () = assert!(size_of::<Fragment>() == 8);

impl Ipv6 {
    /// The header before `payload_bytes`, at most 65,535, of a packet that starts here.
    #[inline]
    pub fn new(next_header: u8, source: [u8; 16], destination: [u8; 16], payload_bytes: usize) -> Self {
        Self {
            version_class_flow: U32::new(6 << 28),
            payload_length: U16::new(payload_bytes as u16),
            next_header,
            hop_limit: crate::DEFAULT_TTL,
            source,
            destination,
        }
    }

    /// The version field.
    #[inline]
    pub fn version(&self) -> u8 {
        self.version_class_flow.as_bytes()[0] >> 4
    }

    /// The flow label, 20 bits (RFC 6437).
    #[inline]
    pub fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & 0xf_ffff
    }

    /// The sum of the pseudo-header for an upper-layer packet of `length` bytes.
    pub fn pseudo_header(&self, protocol: u8, length: u32) -> Sum {
        Sum::new().pseudo_header(&self.source, &self.destination, protocol, length)
    }
}

impl Extension {
    /// Bytes of the whole header.
    #[inline]
    pub fn header_len(&self) -> usize {
        (usize::from(self.length) + 1) * 8
    }
}

impl Fragment {
    /// Where the payload belongs in the fragmentable part, in bytes.
    #[inline]
    pub fn offset_bytes(&self) -> usize {
        usize::from(self.offset_more.get() & 0xfff8)
    }

    /// True if more fragments follow.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.offset_more.get() & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_format, parse};

    /// A neighbour solicitation's IPv6 header, as captured, with another flow label.
    const BYTES: [u8; 48] = [
        0x60, 0x01, 0x23, 0x45, 0x00, 0x20, 0x3a, 0xff, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x50, 0x54, 0, 0xff,
        0xfe, 0x12, 0x34, 0x56, 0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1, 0x11, 0x01, 0x05,
        0xa9, 0xde, 0xad, 0xbe, 0xef,
    ];

    #[test]
    fn formats() {
        check_format::<Ipv6>(&BYTES);
        check_format::<Extension>(&BYTES[40..]);
        check_format::<Fragment>(&BYTES[40..]);
    }

    #[test]
    fn parse_header() {
        let header: Ipv6 = parse(&BYTES);
        assert_eq!((header.version(), header.flow_label()), (6, 0x1_2345));
        assert_eq!((header.payload_length.get(), header.next_header, header.hop_limit), (32, 58, 255));
        assert_eq!(header.destination[..2], [0xff, 0x02]);
    }

    #[test]
    fn parse_extensions() {
        let extension: Extension = parse(&BYTES[40..]);
        assert_eq!((extension.next_header, extension.header_len()), (17, 16));
        let fragment: Fragment = parse(&BYTES[40..]);
        assert_eq!((fragment.offset_bytes(), fragment.more_fragments()), (1448, true));
        assert_eq!(fragment.identification.get(), 0xdead_beef);
    }
}
