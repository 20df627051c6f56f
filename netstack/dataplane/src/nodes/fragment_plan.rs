//! Which fragments a packet is cut into, and their headers (RFC 791 §3.2, RFC 8200 §4.5).

use super::ip4_local::fill_checksum;
use buffer::Buf;
use core::ops::Range;
use packet::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use packet::ipv4::{FRAGMENT_OFFSET, Ipv4, MORE_FRAGMENTS};
use packet::ipv6::{Extension, Fragment, Ipv6};
use packet::protocol;
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

const FIXED4_BYTES: usize = size_of::<Ipv4>();
const FIXED6_BYTES: usize = size_of::<Ipv6>();
const FRAGMENT_BYTES: usize = size_of::<Fragment>();
/// Bytes of a fragment's headers at most: of IPv4 there are 60. Of IPv6 packets with more before what can be cut none is made.
pub(super) const MAX_HEADER_BYTES: usize = 128;

/// How a packet is cut.
pub(super) struct Plan {
    /// Bytes before what is cut.
    header_bytes: usize,
    payload_bytes: usize,
    /// Bytes of payload of all fragments but the last, a multiple of 8.
    step: usize,
    family: Family,
}

enum Family {
    V4(Ipv4),
    V6 {
        /// Where the field is that will say that a fragment header follows.
        next_header_at: usize,
        identification: u32,
    },
}

impl Plan {
    /// Of an IPv4 packet, in fragments of at most `mtu` bytes. None: there is no room for its header and more.
    pub(super) fn ipv4(packet: &Buf, mtu: usize) -> Option<Self> {
        let (header, _) = Ipv4::read_from_prefix(packet.data()).ok()?;
        let header_bytes = header.header_len();
        let valid = (FIXED4_BYTES..=packet.len()).contains(&header_bytes);
        Self::new(packet, header_bytes, mtu.checked_sub(header_bytes)?, Family::V4(header)).filter(|_| valid)
    }

    /// The same of an IPv6 packet that is no fragment yet.
    pub(super) fn ipv6(packet: &Buf, mtu: usize, identification: u32) -> Option<Self> {
        let (next_header_at, header_bytes) = unfragmentable(packet.data())?;
        let room = mtu.checked_sub(header_bytes + FRAGMENT_BYTES)?;
        Self::new(packet, header_bytes, room, Family::V6 { next_header_at, identification })
    }

    fn new(packet: &Buf, header_bytes: usize, room: usize, family: Family) -> Option<Self> {
        let payload_bytes = packet.total_len().checked_sub(header_bytes)?;
        let step = room & !7;
        (step > 0).then_some(Self { header_bytes, payload_bytes, step, family })
    }

    pub(super) fn fragments(&self) -> usize {
        self.payload_bytes.div_ceil(self.step)
    }

    pub(super) fn ethertype(&self) -> u16 {
        match self.family {
            Family::V4(_) => ETHERTYPE_IPV4,
            Family::V6 { .. } => ETHERTYPE_IPV6,
        }
    }

    /// Writes the headers of a fragment. Returns how many bytes they are, and which part of the packet follows them.
    pub(super) fn piece(
        &self,
        packet: &Buf,
        index: usize,
        out: &mut [u8; MAX_HEADER_BYTES],
    ) -> Option<(usize, Range<usize>)> {
        let start = index * self.step;
        let end = self.payload_bytes.min(start + self.step);
        let place = start..end;
        let before = packet.data().get(..self.header_bytes)?;
        let bytes = match self.family {
            Family::V4(header) => self.ipv4_header(header, before, &place, out)?,
            Family::V6 { next_header_at, identification } => {
                self.ipv6_headers(next_header_at, identification, before, &place, out)?
            }
        };
        Some((bytes, self.header_bytes + start..self.header_bytes + end))
    }

    fn ipv4_header(
        &self,
        mut header: Ipv4,
        before: &[u8],
        place: &Range<usize>,
        out: &mut [u8; MAX_HEADER_BYTES],
    ) -> Option<usize> {
        let options = before.get(FIXED4_BYTES..)?;
        let options_bytes = if place.start == 0 {
            out[FIXED4_BYTES..][..options.len()].copy_from_slice(options);
            options.len()
        } else {
            copy_options(options, &mut out[FIXED4_BYTES..])
        };
        let header_bytes = FIXED4_BYTES + options_bytes;
        let original = header.flags_fragment.get();
        let offset = (original & FRAGMENT_OFFSET) + (place.start / 8) as u16;
        let is_last = place.end == self.payload_bytes;
        let more = if is_last { original & MORE_FRAGMENTS } else { MORE_FRAGMENTS };
        header.flags_fragment = U16::new((original & !(FRAGMENT_OFFSET | MORE_FRAGMENTS)) | offset | more);
        header.total_length = U16::new((header_bytes + place.len()) as u16);
        header.version_ihl = 0x40 | (header_bytes / 4) as u8;
        out[..FIXED4_BYTES].copy_from_slice(header.as_bytes());
        fill_checksum(&mut out[..header_bytes]);
        Some(header_bytes)
    }

    fn ipv6_headers(
        &self,
        next_header_at: usize,
        identification: u32,
        before: &[u8],
        place: &Range<usize>,
        out: &mut [u8; MAX_HEADER_BYTES],
    ) -> Option<usize> {
        let bytes = before.len() + FRAGMENT_BYTES;
        let (copied, rest) = out.get_mut(..bytes)?.split_at_mut(before.len());
        copied.copy_from_slice(before);
        let is_last = place.end == self.payload_bytes;
        let fragment = Fragment {
            next_header: core::mem::replace(copied.get_mut(next_header_at)?, protocol::FRAGMENT),
            reserved: 0,
            offset_more: U16::new(place.start as u16 | u16::from(!is_last)),
            identification: U32::new(identification),
        };
        fragment.write_to(rest).ok()?;
        let (header, _) = Ipv6::mut_from_prefix(copied).ok()?;
        header.payload_length = U16::new((bytes - FIXED6_BYTES + place.len()) as u16);
        Some(bytes)
    }
}

/// Of an IPv6 packet, where the field is that says what the part is that can be cut, and where that part begins: routers on
/// the way have to read hop-by-hop options and routing headers. None: it cannot be cut, or has been.
fn unfragmentable(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut field, mut at) = (core::mem::offset_of!(Ipv6, next_header), FIXED6_BYTES);
    while at + FRAGMENT_BYTES <= MAX_HEADER_BYTES.min(bytes.len()) {
        match *bytes.get(field)? {
            protocol::HOP_BY_HOP | protocol::ROUTING => {}
            protocol::FRAGMENT => return None,
            _ => return Some((field, at)),
        }
        let (extension, _) = Extension::ref_from_prefix(bytes.get(at..)?).ok()?;
        (field, at) = (at, at + extension.header_len());
    }
    None
}

/// Copies the options that every fragment carries (copied flag, RFC 791 §3.1), padded; returns how many bytes.
fn copy_options(options: &[u8], out: &mut [u8]) -> usize {
    let (mut at, mut len) = (0, 0);
    while let Some(&kind) = options.get(at) {
        let option_len = match kind {
            0 => break,
            1 => 1,
            _ => options.get(at + 1).map_or(1, |length| usize::from(*length).max(1)),
        };
        if kind & 0x80 != 0
            && let (Some(option), Some(place)) =
                (options.get(at..at + option_len), out.get_mut(len..len + option_len))
        {
            place.copy_from_slice(option);
            len += option_len;
        }
        at += option_len;
    }
    len.next_multiple_of(4)
}
