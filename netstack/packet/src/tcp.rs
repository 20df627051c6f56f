//! The TCP header without options (RFC 9293 §3.1).

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A TCP header without options.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Tcp {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Number of the first byte of payload.
    pub sequence: U32,
    /// Number of the next byte that the sender expects.
    pub acknowledgement: U32,
    /// Header length in 32-bit words (4 bits), reserved (4 bits), flags (8 bits).
    pub offset_flags: U16,
    /// Bytes that the sender will take.
    pub window: U16,
    /// Internet checksum of pseudo-header, header and payload.
    pub checksum: U16,
    /// End of urgent data.
    pub urgent: U16,
}

const _: () = assert!(size_of::<Tcp>() == 20);

impl Tcp {
    /// Bytes of header with options, as it says: 0 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.offset_flags.get() >> 12) * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_format, parse};

    const SYN: [u8; 20] = [
        0x9c, 0x40, 0x01, 0xbb, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0x1c, 0x46, 0, 0,
    ];

    #[test]
    fn format() {
        check_format::<Tcp>(&SYN);
    }

    #[test]
    fn parse_syn() {
        let header: Tcp = parse(&SYN);
        assert_eq!((header.source_port.get(), header.destination_port.get()), (40_000, 443));
        assert_eq!(
            (header.sequence.get(), header.header_len(), header.window.get()),
            (0x1234_5678, 40, 64240)
        );
    }
}
