//! IPv4 (RFC 791).

use crate::checksum::Sum;
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version and header length of a header without options.
pub const VERSION_IHL: u8 = 0x45;
/// Flag: do not fragment.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// Flag: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset, in units of 8 bytes.
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

/// An IPv4 header without its options.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Ipv4 {
    /// Version in the high half, header length in 32-bit words in the low half.
    pub version_ihl: u8,
    /// Differentiated services code point and congestion notification.
    pub dscp_ecn: u8,
    /// Bytes of header and payload.
    pub total_length: U16,
    /// Common to the fragments of a packet.
    pub identification: U16,
    /// [`DONT_FRAGMENT`], [`MORE_FRAGMENTS`], and the [`FRAGMENT_OFFSET`].
    pub flags_fragment: U16,
    /// Hops it may still make.
    pub ttl: u8,
    /// What follows (see [`crate::protocol`]).
    pub protocol: u8,
    /// Internet checksum of the header.
    pub checksum: U16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

const _: () = assert!(size_of::<Ipv4>() == 20);

impl Ipv4 {
    /// The header before `payload_bytes`, at most 65,515, of a packet that starts here; its checksum is not filled in.
    #[inline]
    pub fn new(protocol: u8, source: [u8; 4], destination: [u8; 4], payload_bytes: usize) -> Self {
        Self {
            version_ihl: VERSION_IHL,
            dscp_ecn: 0,
            total_length: U16::new((size_of::<Self>() + payload_bytes) as u16),
            identification: U16::ZERO,
            flags_fragment: U16::ZERO,
            ttl: crate::DEFAULT_TTL,
            protocol,
            checksum: U16::ZERO,
            source,
            destination,
        }
    }

    /// The version field.
    #[inline]
    pub fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Bytes of header with options, as it says: 0 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0xf) * 4
    }

    /// True if it is a piece of a larger packet.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Where the payload belongs in the whole packet's payload, in bytes.
    #[inline]
    pub fn fragment_offset_bytes(&self) -> usize {
        usize::from(self.flags_fragment.get() & FRAGMENT_OFFSET) * 8
    }

    /// True if it is a piece of a packet that would be longer than a packet can be.
    #[inline]
    pub fn is_fragment_beyond_end(&self) -> bool {
        self.fragment_offset_bytes() + usize::from(self.total_length.get()) > usize::from(u16::MAX)
    }

    /// The sum of the pseudo-header for a payload of `length` bytes.
    pub fn pseudo_header(&self, length: u32) -> Sum {
        Sum::new().pseudo_header(&self.source, &self.destination, self.protocol, length)
    }

    /// Decrements a TTL that is not 0, and updates the checksum (RFC 1624: the TTL is the high byte of its word).
    #[inline(always)]
    pub fn decrement_ttl(&mut self) {
        self.ttl = self.ttl.wrapping_sub(1);
        // In equation 3 the word changes by -0x0100, so that the checksum changes by +0x0100, which is 1 in the other
        // byte order. It wraps around, and 0xffff is no checksum of a header that is not all zero.
        let sum = u32::from(u16::from_le_bytes(self.checksum.to_bytes())) + 1;
        self.checksum = U16::from_bytes(((sum + u32::from(sum >= 0xffff)) as u16).to_le_bytes());
    }

    /// Sets the checksum of a header without options.
    pub fn fill_checksum(&mut self) {
        self.checksum = U16::ZERO;
        self.checksum = crate::checksum::of(self.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;
    use crate::testing::{check_format, parse};
    use proptest::prelude::*;

    /// A ping, as captured.
    pub(crate) const PING: [u8; 20] = [
        0x45, 0x00, 0x00, 0x54, 0xa6, 0xf2, 0x40, 0x00, 0x40, 0x01, 0x12, 0x53, 0xc0, 0xa8, 0x01, 0x02, 0xc0,
        0xa8, 0x00, 0x01,
    ];

    #[test]
    fn format() {
        check_format::<Ipv4>(&PING);
    }

    #[test]
    fn parse_ping() {
        let header: Ipv4 = parse(&PING);
        assert_eq!((header.version(), header.header_len(), header.total_length.get()), (4, 20, 84));
        assert_eq!((header.ttl, header.protocol, header.is_fragment()), (64, crate::protocol::ICMP, false));
        assert_eq!(header.source, [192, 168, 1, 2]);
        let mut fragment = header;
        fragment.flags_fragment = U16::new(MORE_FRAGMENTS | 185);
        assert_eq!((fragment.is_fragment(), fragment.fragment_offset_bytes()), (true, 1480));
        assert!(!fragment.is_fragment_beyond_end());
        fragment.flags_fragment = U16::new(FRAGMENT_OFFSET);
        assert!(fragment.is_fragment_beyond_end(), "65528 and 84 bytes");
    }

    #[test]
    fn emit_checksum() {
        let mut header: Ipv4 = parse(&PING);
        header.total_length = U16::new(85);
        header.fill_checksum();
        assert!(Sum::new().bytes(header.as_bytes()).is_valid());
        header.total_length = U16::new(84);
        header.fill_checksum();
        assert_eq!(header.checksum, checksum::of(&[&PING[..10], &PING[12..]].concat()));
    }

    proptest! {
        #[test]
        fn a_decremented_ttl_keeps_the_checksum_right(mut bytes in any::<[u8; 20]>(), ttl in 1u8..) {
            bytes[0] = VERSION_IHL;
            bytes[8] = ttl;
            let mut header: Ipv4 = parse(&bytes);
            header.fill_checksum();
            header.decrement_ttl();
            prop_assert_eq!(header.ttl, ttl - 1);
            let updated = header.checksum;
            header.fill_checksum();
            prop_assert_eq!(updated, header.checksum);
        }
    }
}
