//! Whether a checksum that a sender left to be completed is one.
//!
//! The places come with the frame from a device or a virtual machine ([`Flags::TX_CSUM`](buffer::Flags::TX_CSUM)), and
//! whoever completes the checksum writes there after the packet was validated and routed. So input nodes let pass only
//! the checksum field of a whole TCP, UDP or ICMPv6 header that follows the IP headers.

use super::ip6_headers::{Upper, upper_layer};
use buffer::Buf;
use packet::icmpv6::Icmpv6;
use packet::ipv4::Ipv4;
use packet::protocol;
use packet::tcp::Tcp;
use packet::udp::Udp;
use zerocopy::FromBytes;

/// True if the place is right in an IPv4 packet of `total_length` bytes whose header lengths agree.
#[inline(never)]
pub(super) fn is_right4(packet: &Buf, total_length: usize) -> bool {
    let Ok((header, _)) = Ipv4::ref_from_prefix(packet.data()) else { return false };
    // A piece of a datagram does not hold all that its checksum is about.
    !header.is_fragment()
        && header.protocol != protocol::ICMPV6
        && is_at(packet, header.protocol, header.header_len(), total_length)
}

/// True if the place is right in an IPv6 packet of `length` bytes, header included.
#[inline(never)]
pub(super) fn is_right6(packet: &Buf, length: usize) -> bool {
    match upper_layer(packet.data()) {
        Upper::Protocol(protocol, at) => is_at(packet, protocol, at, length),
        Upper::Fragment | Upper::Routing(_) | Upper::Malformed => false,
    }
}

/// True if it is that of the transport header at offset `at` of the data, which is all in the first segment.
fn is_at(packet: &Buf, protocol: u8, at: usize, length: usize) -> bool {
    let (field, header_len) = match protocol {
        protocol::TCP => (core::mem::offset_of!(Tcp, checksum), size_of::<Tcp>()),
        protocol::UDP => (core::mem::offset_of!(Udp, checksum), size_of::<Udp>()),
        protocol::ICMPV6 => (core::mem::offset_of!(Icmpv6, checksum), size_of::<Icmpv6>()),
        _ => return false,
    };
    let meta = packet.meta();
    usize::from(meta.csum_start) == packet.start() + at
        && usize::from(meta.csum_offset) == field
        && at + header_len <= length.min(packet.len())
}
