//! Walking IPv6 extension headers, as far as a router must (RFC 8200 §4).

use packet::icmpv6::Icmpv6;
use packet::ipv6::{Extension, Fragment, Ipv6};
use packet::protocol;
use zerocopy::FromBytes;

/// Extension headers looked at before giving up; RFC 8504 §5.3 lets a host refuse more.
const MAX_EXTENSIONS: usize = 8;

/// What follows the extension headers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upper {
    /// An upper-layer protocol, from this offset of the packet.
    Protocol(u8, usize),
    /// A fragment header.
    Fragment,
    /// A routing header with segments left, at this offset.
    Routing(usize),
    /// Headers are cut short, or there are too many.
    Malformed,
}

/// Finds the upper layer of a packet whose first segment is `data`, starting at the IPv6 header.
pub(crate) fn upper_layer(data: &[u8]) -> Upper {
    let Ok((header, _)) = Ipv6::ref_from_prefix(data) else { return Upper::Malformed };
    let mut next = header.next_header;
    let mut at = size_of::<Ipv6>();
    for _ in 0..MAX_EXTENSIONS {
        match next {
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => {}
            protocol::FRAGMENT => return Upper::Fragment,
            upper if at <= data.len() => return Upper::Protocol(upper, at),
            _ => return Upper::Malformed,
        }
        let Some(Ok((extension, rest))) = data.get(at..).map(Extension::ref_from_prefix) else {
            return Upper::Malformed;
        };
        // Routing type and segments left come first in a routing header.
        if next == protocol::ROUTING && rest.get(1).is_none_or(|left| *left != 0) {
            return Upper::Routing(at);
        }
        next = extension.next_header;
        at += extension.header_len();
    }
    Upper::Malformed
}

/// Offset of the field that names the upper-layer protocol of a packet, whose extension headers [`upper_layer`] can walk.
pub(super) fn upper_layer_field(data: &[u8]) -> Option<u32> {
    const NEXT_HEADER: usize = core::mem::offset_of!(Ipv6, next_header);
    let Upper::Protocol(_, upper) = upper_layer(data) else { return None };
    let (mut field, mut at) = (NEXT_HEADER, size_of::<Ipv6>());
    while at < upper {
        let (extension, _) = Extension::ref_from_prefix(data.get(at..)?).ok()?;
        field = at;
        at += extension.header_len();
    }
    Some(field as u32)
}

/// True if a packet is, or could be as far as its headers can be read, an ICMPv6 message that no error may be about
/// (RFC 4443 §2.4 e), behind whatever headers.
pub(super) fn may_be_icmp_error(data: &[u8]) -> bool {
    let Ok((header, _)) = Ipv6::ref_from_prefix(data) else { return true };
    let mut next = header.next_header;
    let mut at = size_of::<Ipv6>();
    for _ in 0..MAX_EXTENSIONS {
        let rest = data.get(at..).unwrap_or_default();
        match next {
            protocol::ICMPV6 => return rest.first().is_none_or(|kind| Icmpv6::forbids_error(*kind)),
            protocol::FRAGMENT => {
                let Ok((fragment, _)) = Fragment::ref_from_prefix(rest) else { return true };
                if fragment.offset_bytes() != 0 {
                    return fragment.next_header == protocol::ICMPV6;
                }
                (next, at) = (fragment.next_header, at + size_of::<Fragment>());
            }
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => {
                let Ok((extension, _)) = Extension::ref_from_prefix(rest) else { return true };
                (next, at) = (extension.next_header, at + extension.header_len());
            }
            _ => return false,
        }
    }
    true
}

/// What is wrong with hop-by-hop options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OptionProblem {
    /// The header or an option is cut short.
    Malformed,
    /// An unknown option asks to be dropped.
    Silent,
    /// An unknown option, at this offset of the packet, asks for a parameter problem; only in answer to unicast if so.
    Unrecognised {
        /// Offset of the option's type.
        pointer: u32,
        /// No error about packets to groups.
        unicast_only: bool,
    },
}

/// Checks the options of the hop-by-hop header that follows the IPv6 header (RFC 8200 §4.2, §4.3).
pub(super) fn check_hop_by_hop(data: &[u8]) -> Result<(), OptionProblem> {
    const PAD_1: u8 = 0;
    const PAD_N: u8 = 1;
    const ROUTER_ALERT: u8 = 5;
    let start = size_of::<Ipv6>();
    let header = data.get(start..).map(Extension::ref_from_prefix);
    let Some(Ok((extension, _))) = header else { return Err(OptionProblem::Malformed) };
    let options = data.get(start..start + extension.header_len()).ok_or(OptionProblem::Malformed)?;
    let mut at = size_of::<Extension>();
    while let Some(&kind) = options.get(at) {
        if kind == PAD_1 {
            at += 1;
            continue;
        }
        let length = *options.get(at + 1).ok_or(OptionProblem::Malformed)?;
        let end = at + 2 + usize::from(length);
        if end > options.len() {
            return Err(OptionProblem::Malformed);
        }
        if !matches!(kind, PAD_N | ROUTER_ALERT) {
            let pointer = (start + at) as u32;
            match kind >> 6 {
                0 => {}
                1 => return Err(OptionProblem::Silent),
                2 => return Err(OptionProblem::Unrecognised { pointer, unicast_only: false }),
                _ => return Err(OptionProblem::Unrecognised { pointer, unicast_only: true }),
            }
        }
        at = end;
    }
    Ok(())
}
