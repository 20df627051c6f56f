//! Other addresses and ports for a packet.
//!
//! What happens to the bytes:
//! 1. the addresses are replaced;
//! 2. IPv4: the header's checksum follows;
//! 3. unless it is a later fragment, the ports (of an ICMP echo, the identifier) are replaced;
//! 4. the transport checksum follows both, as its pseudo-header has the addresses. A UDP checksum of zero means none, and stays.
//!
//! Of protocols that [`Transport::Other`] stands for, no flow is ever translated: only steps 1 and 2 are done.

use crate::delta::{Delta, replace, update};
use crate::sctp;
use crate::tuple::Tuple;
use crate::view::{Fragment, Malformed, Transport, View, transport_bytes};

/// Why a packet is not translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its headers are not there as a whole.
    Malformed(Malformed),
    /// The tuple is of the other IP version.
    Family,
    /// The tuple has another protocol.
    Protocol,
    /// SCTP ports of a fragment would change, and how long the packet is that its checksum covers is not known.
    SctpPorts,
    /// It is not an ICMP error about another packet.
    NotAnError,
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Refused::Malformed(malformed)
    }
}

/// Where things are in an IP header.
struct Layout {
    /// Source address, directly followed by the destination address.
    addresses: usize,
    /// Only the destination address.
    destination: usize,
    /// The header's own checksum.
    checksum: Option<usize>,
}

const IPV4: Layout = Layout { addresses: 12, destination: 16, checksum: Some(10) };
const IPV6: Layout = Layout { addresses: 8, destination: 24, checksum: None };

/// Gives a packet the addresses and ports of `to`: of NAT, those that the flow has on the other side. `view` is what
/// [`View::parse`] said of it.
///
/// # Errors
/// [`Refused`]; then the packet is as it was.
#[inline]
pub fn translate(packet: &mut [u8], view: &View, to: &Tuple) -> Result<(), Refused> {
    let _ = retarget(packet, view, to, None)?;
    Ok(())
}

/// The same for the first fragment of a packet whose length is known: `bytes`, as [`View::fragmented_bytes`] of its last one
/// says. SCTP's checksum, which is in the first fragment, covers all of them.
///
/// # Errors
/// [`Refused`]; then the packet is as it was.
pub fn translate_first(packet: &mut [u8], view: &View, to: &Tuple, bytes: usize) -> Result<(), Refused> {
    let bytes = if view.is_at_start_of_fragments(packet) { Some(bytes) } else { None };
    let _ = retarget(packet, view, to, bytes)?;
    Ok(())
}

/// Translates an ICMP error about a packet that was translated before it met the trouble: in the error, it looks as it did
/// before, which is the flow `original`, and the error goes to its sender. The error's own source stays.
///
/// # Errors
/// [`Refused`]; then the packet is as it was.
pub fn translate_error(packet: &mut [u8], view: &View, original: &Tuple) -> Result<(), Refused> {
    let Transport::Error(offset) = view.transport else { return Err(Refused::NotAnError) };
    let (head, embedded) = packet.split_at_mut_checked(offset).ok_or(Malformed::Truncated)?;
    let about = View::parse_embedded(embedded)?;
    let (layout, source): (Layout, &[u8]) = match (view.tuple, original) {
        (Tuple::V4(_), Tuple::V4(key)) => (IPV4, &key.source),
        (Tuple::V6(_), Tuple::V6(key)) => (IPV6, &key.source),
        _ => return Err(Refused::Family),
    };
    let inner = retarget(embedded, &about, original, None)?;
    let outer = replace(head, layout.destination, source).ok_or(Malformed::Truncated)?;
    let icmp = match layout.checksum {
        Some(checksum) => {
            let _ = update(head, checksum, outer).ok_or(Malformed::Truncated)?;
            inner
        }
        // ICMPv6 has a pseudo-header (RFC 4443 §2.3).
        None => inner.and(outer),
    };
    let _ = update(head, view.transport_offset + 2, icmp).ok_or(Malformed::Truncated)?;
    Ok(())
}

/// Replaces addresses and ports, and returns the change of all bytes, checksums included. `fragments_bytes` is how long the
/// transport packet is of which this is the first fragment, if that is known.
#[inline(always)]
fn retarget(
    packet: &mut [u8],
    view: &View,
    to: &Tuple,
    fragments_bytes: Option<usize>,
) -> Result<Delta, Refused> {
    if to.protocol() != view.tuple.protocol() {
        return Err(Refused::Protocol);
    }
    let keeps_ports = view.fragment == Fragment::Later || to.ports() == view.tuple.ports();
    // Before anything is changed: of a packet that an ICMP error sends back nobody has looked at the length.
    let sctp_length = match (view.transport, view.fragment) {
        (Transport::Sctp, Fragment::First) if !keeps_ports => {
            Some(fragments_bytes.ok_or(Refused::SctpPorts)?)
        }
        (Transport::Sctp, _) if !keeps_ports => {
            Some(transport_bytes(packet, view.transport_offset).ok_or(Malformed::Truncated)?)
        }
        _ => None,
    };
    let (layout, addresses) = match (view.tuple, to) {
        (Tuple::V4(_), Tuple::V4(key)) => {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&key.source);
            bytes[4..].copy_from_slice(&key.destination);
            (IPV4, replace(packet, IPV4.addresses, &bytes))
        }
        (Tuple::V6(_), Tuple::V6(key)) => {
            let mut bytes = [0; 32];
            bytes[..16].copy_from_slice(&key.source);
            bytes[16..].copy_from_slice(&key.destination);
            (IPV6, replace(packet, IPV6.addresses, &bytes))
        }
        _ => return Err(Refused::Family),
    };
    let addresses = addresses.ok_or(Malformed::Truncated)?;
    let mut all = addresses;
    if let Some(checksum) = layout.checksum {
        all = all.and(update(packet, checksum, addresses).ok_or(Malformed::Truncated)?);
    }
    if view.fragment == Fragment::Later {
        return Ok(all);
    }
    if let Some(length) = sctp_length {
        // The change matters to the checksum of an ICMP error about the packet, and IPv4 headers' lengths are even.
        let header = view.transport_offset..view.transport_offset + 12;
        let before = copy_of(packet, &header);
        sctp::replace_ports(packet, view.transport_offset, length, to.ports()).ok_or(Malformed::Truncated)?;
        let after = copy_of(packet, &header);
        for (old, new) in before.as_chunks::<2>().0.iter().zip(after.as_chunks::<2>().0) {
            all.word(u16::from_be_bytes(*old), u16::from_be_bytes(*new));
        }
        return Ok(all);
    }
    let ports = replace_ports(packet, view, to);
    let covers_addresses = !matches!(view.tuple, Tuple::V4(_)) || !is_icmp(view.transport);
    let covered = if covers_addresses { addresses.and(ports) } else { ports };
    Ok(all.and(ports).and(update_transport(packet, view, covered)))
}

/// Twelve bytes of a packet, zeros where it ends before.
fn copy_of(packet: &[u8], range: &core::ops::Range<usize>) -> [u8; 12] {
    let mut copy = [0; 12];
    let bytes = packet.get(range.start..).unwrap_or_default();
    copy.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    copy
}

fn is_icmp(transport: Transport) -> bool {
    matches!(transport, Transport::Echo | Transport::Error(_))
}

/// Of embedded packets the view has seen the ports, so that they are there.
#[inline(always)]
fn replace_ports(packet: &mut [u8], view: &View, to: &Tuple) -> Delta {
    let (source, destination) = to.ports();
    let offset = view.transport_offset;
    let replaced = match view.transport {
        Transport::Tcp(_) | Transport::Udp => {
            let both = u32::from(source) << 16 | u32::from(destination);
            replace(packet, offset, &both.to_be_bytes())
        }
        // One of the two is 0.
        Transport::Echo => replace(packet, offset + 4, &(source | destination).to_be_bytes()),
        Transport::Sctp | Transport::Error(_) | Transport::Other => None,
    };
    replaced.unwrap_or_default()
}

/// Updates the transport checksum, if there is one; what an ICMP error sends back may end before it.
#[inline(always)]
fn update_transport(packet: &mut [u8], view: &View, covered: Delta) -> Delta {
    let offset = view.transport_offset;
    let updated = match view.transport {
        Transport::Tcp(_) => update(packet, offset + 16, covered),
        Transport::Udp => update_udp(packet, offset + 6, covered),
        Transport::Echo | Transport::Error(_) => update(packet, offset + 2, covered),
        Transport::Sctp | Transport::Other => None,
    };
    updated.unwrap_or_default()
}

/// RFC 768: a checksum of zero says that there is none; one that comes out as zero is sent as all ones.
#[inline(always)]
fn update_udp(packet: &mut [u8], offset: usize, covered: Delta) -> Option<Delta> {
    let old = u16::from_be_bytes(*packet.get(offset..)?.first_chunk()?);
    if old == 0 {
        return None;
    }
    let new = match covered.apply(old) {
        0 => u16::MAX,
        new => new,
    };
    replace(packet, offset, &new.to_be_bytes())
}
