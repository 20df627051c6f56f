//! What a packet is.

use flow::{Observed, V4, V6};
use packet::ipv4::{Ipv4, MORE_FRAGMENTS};
use packet::ipv6::{Extension, Fragment as FragmentHeader, Ipv6};
use packet::{icmpv4, icmpv6, protocol};
use zerocopy::FromBytes;

use crate::tuple::Tuple;

/// Extension headers that are looked at; a packet with more has another purpose than to arrive.
const MAX_EXTENSIONS: usize = 8;
/// Bytes of an ICMP header, after which an error has the start of the packet it is about.
const ICMP_HEADER_BYTES: usize = 8;

/// Why a packet cannot be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Neither IPv4 nor IPv6.
    Version,
    /// It ends within its headers, or its headers' lengths are impossible.
    Truncated,
    /// More extension headers than anybody needs.
    Extensions,
}

/// A packet's place among the fragments of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// It is no fragment.
    Whole,
    /// The one with the transport header.
    First,
    /// One without: its ports are the first one's.
    Later,
}

/// What is in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, with the flags of the header's 14th byte.
    Tcp(u8),
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// An ICMP echo: its identifier is the port of the end that asks, the other port is 0.
    Echo,
    /// An ICMP error; the packet it is about starts at this offset.
    Error(usize),
    /// Anything else, and later fragments. No ports.
    Other,
}

/// A packet looked at: bytes from its IP header on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its flow's key. Of later fragments and of errors, the ports are 0.
    pub tuple: Tuple,
    /// What is in it.
    pub transport: Transport,
    /// Where the transport header starts.
    pub transport_offset: usize,
    /// Its place among fragments.
    pub fragment: Fragment,
    /// Identification of the fragments of one packet.
    pub identification: u32,
    /// Type and code of an ICMP message; zeros otherwise.
    pub icmp: (u8, u8),
}

impl View {
    /// Looks at a packet. Whether its lengths and checksums agree has been checked before.
    ///
    /// # Errors
    /// If its headers are not there as a whole.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<View, Malformed> {
        View::of(packet, false)
    }

    /// Looks at the start of a packet that an ICMP error is about: as much as its sender sent back. Eight bytes of the transport
    /// header are enough (RFC 792).
    ///
    /// # Errors
    /// If there is less.
    pub fn parse_embedded(packet: &[u8]) -> Result<View, Malformed> {
        View::of(packet, true)
    }

    #[inline(always)]
    fn of(packet: &[u8], is_embedded: bool) -> Result<View, Malformed> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => View::ipv4(packet, is_embedded),
            Some(6) => View::ipv6(packet, is_embedded),
            Some(_) => Err(Malformed::Version),
            None => Err(Malformed::Truncated),
        }
    }

    #[inline(always)]
    fn ipv4(packet: &[u8], is_embedded: bool) -> Result<View, Malformed> {
        let (header, _) = Ipv4::ref_from_prefix(packet).map_err(|_| Malformed::Truncated)?;
        let transport_offset = header.header_len();
        if transport_offset < size_of::<Ipv4>() {
            return Err(Malformed::Truncated);
        }
        let fragment = match (header.is_fragment(), header.fragment_offset_bytes()) {
            (false, _) => Fragment::Whole,
            (true, 0) => Fragment::First,
            (true, _) => Fragment::Later,
        };
        let (transport, ports) = transport(packet, transport_offset, header.protocol, fragment, is_embedded)?;
        let tuple = Tuple::V4(V4 {
            source: header.source,
            destination: header.destination,
            source_port: ports.0,
            destination_port: ports.1,
            protocol: header.protocol,
        });
        let identification = u32::from(header.identification.get());
        let icmp = icmp(packet, transport_offset, header.protocol, fragment);
        Ok(View { tuple, transport, transport_offset, fragment, identification, icmp })
    }

    #[inline(always)]
    fn ipv6(packet: &[u8], is_embedded: bool) -> Result<View, Malformed> {
        let (header, _) = Ipv6::ref_from_prefix(packet).map_err(|_| Malformed::Truncated)?;
        let after = skip_extensions(packet, header.next_header)?;
        let AfterExtensions { protocol, offset, fragment, identification } = after;
        let (transport, ports) = transport(packet, offset, protocol, fragment, is_embedded)?;
        let tuple = Tuple::V6(V6 {
            source: header.source,
            destination: header.destination,
            source_port: ports.0,
            destination_port: ports.1,
            protocol,
        });
        let icmp = icmp(packet, offset, protocol, fragment);
        Ok(View { tuple, transport, transport_offset: offset, fragment, identification, icmp })
    }

    /// What the packet says about its flow.
    #[inline]
    pub fn observed(&self) -> Observed {
        match self.transport {
            Transport::Tcp(flags) => Observed::Tcp(flags),
            _ => Observed::Other,
        }
    }

    /// Of the last fragment of a packet, how many bytes all fragments have together behind the headers that each of them
    /// has. `None` of any other fragment.
    pub fn fragmented_bytes(&self, packet: &[u8]) -> Option<usize> {
        let (offset_bytes, goes_on) = match self.tuple {
            Tuple::V4(_) => {
                let (header, _) = Ipv4::ref_from_prefix(packet).ok()?;
                (header.fragment_offset_bytes(), header.flags_fragment.get() & MORE_FRAGMENTS != 0)
            }
            Tuple::V6(_) => {
                let header = self.fragment_header(packet)?;
                (header.offset_bytes(), header.more_fragments())
            }
        };
        let is_last = self.fragment == Fragment::Later && !goes_on;
        Some(offset_bytes + transport_bytes(packet, self.transport_offset)?).filter(|_| is_last)
    }

    /// True if what is cut into fragments begins with the transport header: nothing else is between that and what each of them
    /// has.
    pub(crate) fn is_at_start_of_fragments(&self, packet: &[u8]) -> bool {
        let is_its = |header: &FragmentHeader| {
            header.next_header == self.tuple.protocol() && header.identification.get() == self.identification
        };
        matches!(self.tuple, Tuple::V4(_)) || self.fragment_header(packet).is_some_and(is_its)
    }

    /// The IPv6 fragment header that the transport header, or its rest, follows.
    fn fragment_header<'a>(&self, packet: &'a [u8]) -> Option<&'a FragmentHeader> {
        let at = self.transport_offset.checked_sub(size_of::<FragmentHeader>())?;
        FragmentHeader::ref_from_prefix(packet.get(at..)?).ok().map(|(header, _)| header)
    }

    /// The key under which a flow table remembers the ports of a packet in fragments: the first one is entered with it, later
    /// ones look it up. What tells packets apart takes the ports' place: the identification and, in IPv4, the protocol, so
    /// that no other packet has the key (RFC 791 §3.2, RFC 8200 §4.5).
    pub fn fragments_key(&self) -> Tuple {
        let (high, low) = ((self.identification >> 16) as u16, self.identification as u16);
        let protocol = protocol::FRAGMENT;
        match self.tuple {
            Tuple::V4(key) => {
                let of_packet = 0x100 | u16::from(key.protocol);
                Tuple::V4(V4 { protocol, ..key }).with_ports((of_packet, low))
            }
            Tuple::V6(key) => Tuple::V6(V6 { protocol, ..key }).with_ports((high, low)),
        }
    }
}

/// Bytes of a packet from its transport header on, as its IP header says. `None` if that is cut off, or says less than what
/// comes before.
pub fn transport_bytes(packet: &[u8], transport_offset: usize) -> Option<usize> {
    let (offset, fixed) = match packet.first()? >> 4 {
        4 => (2, 0),
        _ => (4, size_of::<Ipv6>()),
    };
    let length: [u8; 2] = *packet.get(offset..)?.first_chunk()?;
    (usize::from(u16::from_be_bytes(length)) + fixed).checked_sub(transport_offset)
}

/// What comes after the IPv6 extension headers.
struct AfterExtensions {
    protocol: u8,
    offset: usize,
    fragment: Fragment,
    identification: u32,
}

#[inline(always)]
fn skip_extensions(packet: &[u8], next_header: u8) -> Result<AfterExtensions, Malformed> {
    let mut after = AfterExtensions {
        protocol: next_header,
        offset: size_of::<Ipv6>(),
        fragment: Fragment::Whole,
        identification: 0,
    };
    for _ in 0..MAX_EXTENSIONS {
        let rest = packet.get(after.offset..).ok_or(Malformed::Truncated)?;
        match after.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                let (header, _) = Extension::ref_from_prefix(rest).map_err(|_| Malformed::Truncated)?;
                after.protocol = header.next_header;
                after.offset += header.header_len();
            }
            protocol::FRAGMENT => {
                let (header, _) = FragmentHeader::ref_from_prefix(rest).map_err(|_| Malformed::Truncated)?;
                after.protocol = header.next_header;
                after.offset += size_of::<FragmentHeader>();
                after.identification = header.identification.get();
                after.fragment = match (header.offset_bytes(), header.more_fragments()) {
                    // "Atomic" fragments (RFC 6946) are whole.
                    (0, false) => Fragment::Whole,
                    (0, true) => Fragment::First,
                    _ => return Ok(AfterExtensions { fragment: Fragment::Later, ..after }),
                };
            }
            _ => return Ok(after),
        }
    }
    Err(Malformed::Extensions)
}

/// Type and code of the ICMP message at `offset`, if it is one.
#[inline(always)]
fn icmp(packet: &[u8], offset: usize, protocol: u8, fragment: Fragment) -> (u8, u8) {
    let is_icmp = matches!(protocol, protocol::ICMP | protocol::ICMPV6) && fragment != Fragment::Later;
    let header = packet.get(offset..).and_then(|header| header.first_chunk()).filter(|_| is_icmp);
    header.map_or((0, 0), |[kind, code]| (*kind, *code))
}

/// What is at `offset`, and its ports.
#[inline(always)]
fn transport(
    packet: &[u8],
    offset: usize,
    protocol: u8,
    fragment: Fragment,
    is_embedded: bool,
) -> Result<(Transport, (u16, u16)), Malformed> {
    if fragment == Fragment::Later {
        return Ok((Transport::Other, (0, 0)));
    }
    let header = packet.get(offset..).ok_or(Malformed::Truncated)?;
    let wants_bytes = match protocol {
        protocol::TCP if !is_embedded => size_of::<packet::tcp::Tcp>(),
        protocol::SCTP if !is_embedded => 12,
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMP | protocol::ICMPV6 => {
            ICMP_HEADER_BYTES
        }
        _ => return Ok((Transport::Other, (0, 0))),
    };
    let header = header.get(..wants_bytes).ok_or(Malformed::Truncated)?;
    let word = |at: usize| header.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]));
    let ports = (word(0), word(2));
    let kind = header.first().copied().unwrap_or_default();
    let error = || (Transport::Error(offset + ICMP_HEADER_BYTES), (0, 0));
    Ok(match (protocol, kind) {
        (protocol::TCP, _) => (Transport::Tcp(header.get(13).copied().unwrap_or_default()), ports),
        (protocol::UDP, _) => (Transport::Udp, ports),
        (protocol::SCTP, _) => (Transport::Sctp, ports),
        (protocol::ICMP, icmpv4::ECHO_REQUEST) => (Transport::Echo, (word(4), 0)),
        (protocol::ICMP, icmpv4::ECHO_REPLY) => (Transport::Echo, (0, word(4))),
        (protocol::ICMPV6, icmpv6::ECHO_REQUEST) => (Transport::Echo, (word(4), 0)),
        (protocol::ICMPV6, icmpv6::ECHO_REPLY) => (Transport::Echo, (0, word(4))),
        (protocol::ICMP, kind) if icmpv4::Icmpv4::is_error(kind) => error(),
        (protocol::ICMPV6, kind) if icmpv6::Icmpv6::is_error(kind) => error(),
        _ => (Transport::Other, (0, 0)),
    })
}
