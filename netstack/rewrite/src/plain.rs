//! The usual packet, at the cost of a few instructions: TCP or UDP directly after an IP header without options or extensions,
//! no fragment. What it does is what [`View`] and [`translate`](crate::translate) do.

use core::net::{IpAddr, SocketAddr};

use flow::{Key, Observed, V4, V6};
use packet::checksum::fold_word;
use packet::protocol;

use crate::tuple::Tuple;
use crate::view::{Fragment, Transport, View};

/// A flow's key that can be read from a usual packet and written to one.
pub trait Plain: Key + Into<Tuple> {
    /// Where a usual packet's transport header is.
    const TRANSPORT_OFFSET: usize;

    /// The key of a usual packet, and what the packet says about its flow. `None` for any other packet.
    fn read(packet: &[u8]) -> Option<(Self, Observed)>;

    /// Gives a usual packet, from which `from` was read, these addresses and ports.
    fn write(&self, from: &Self, packet: &mut [u8]);

    /// Gives a usual packet another destination. False, and nothing is done, if that is of the other family.
    fn redirect(packet: &mut [u8], to: SocketAddr) -> bool;

    /// The same flow to another destination; `None` if that is of the other family.
    #[must_use]
    fn with_destination(&self, destination: SocketAddr) -> Option<Self>;

    /// Destination address and port.
    fn destination(&self) -> SocketAddr;

    /// Source address.
    fn source_address(&self) -> IpAddr;

    /// The protocol.
    fn protocol(&self) -> u8;

    /// What [`View::parse`] says of a usual packet, besides the identification, which only fragments need.
    fn view(&self, observed: Observed) -> View;
}

/// Flags of a TCP header, from its start.
const TCP_FLAGS: usize = 13;
/// Checksums, from the start of their headers.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const TCP_BYTES: usize = 20;

impl Plain for V4 {
    const TRANSPORT_OFFSET: usize = 20;

    #[inline(always)]
    fn read(packet: &[u8]) -> Option<(Self, Observed)> {
        let head: &[u8; 28] = packet.first_chunk()?;
        // Version, length; more fragments, offset.
        if head[0] != 0x45 || u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0 {
            return None;
        }
        let protocol = head[9];
        let observed = observed(protocol, packet, Self::TRANSPORT_OFFSET)?;
        let key = V4 {
            source: [head[12], head[13], head[14], head[15]],
            destination: [head[16], head[17], head[18], head[19]],
            source_port: u16::from_be_bytes([head[20], head[21]]),
            destination_port: u16::from_be_bytes([head[22], head[23]]),
            protocol,
        };
        Some((key, observed))
    }

    #[inline(always)]
    fn write(&self, from: &Self, packet: &mut [u8]) {
        let addresses = Change::default()
            .word(word(from.source), word(self.source))
            .word(word(from.destination), word(self.destination));
        let ports = addresses.ports(from.source_port, self.source_port);
        let all = ports.ports(from.destination_port, self.destination_port);
        let Some(head) = packet.first_chunk_mut::<28>() else { return };
        let checksum = addresses.apply([head[10], head[11]]);
        head[10..12].copy_from_slice(&checksum);
        head[12..16].copy_from_slice(&self.source);
        head[16..20].copy_from_slice(&self.destination);
        head[20..22].copy_from_slice(&self.source_port.to_be_bytes());
        head[22..24].copy_from_slice(&self.destination_port.to_be_bytes());
        update(packet, Self::TRANSPORT_OFFSET, self.protocol, all);
    }

    #[inline(always)]
    fn redirect(packet: &mut [u8], to: SocketAddr) -> bool {
        let SocketAddr::V4(to) = to else { return false };
        let (address, port) = (to.ip().octets(), to.port());
        if let Some(head) = packet.first_chunk_mut::<28>() {
            let before = [head[16], head[17], head[18], head[19]];
            let addresses = Change::default().word(word(before), word(address));
            let all = addresses.ports(u16::from_be_bytes([head[22], head[23]]), port);
            let (protocol, checksum) = (head[9], addresses.apply([head[10], head[11]]));
            head[10..12].copy_from_slice(&checksum);
            head[16..20].copy_from_slice(&address);
            head[22..24].copy_from_slice(&port.to_be_bytes());
            update(packet, Self::TRANSPORT_OFFSET, protocol, all);
        }
        true
    }

    #[inline(always)]
    fn with_destination(&self, destination: SocketAddr) -> Option<Self> {
        let SocketAddr::V4(to) = destination else { return None };
        Some(V4 { destination: to.ip().octets(), destination_port: to.port(), ..*self })
    }

    #[inline(always)]
    fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.destination.into(), self.destination_port)
    }

    #[inline(always)]
    fn source_address(&self) -> IpAddr {
        self.source.into()
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn view(&self, observed: Observed) -> View {
        // Field by field: a part of a key that was copied in two overlapping moves is waited for.
        let V4 { source, destination, source_port, destination_port, protocol } = *self;
        let tuple = Tuple::V4(V4 { source, destination, source_port, destination_port, protocol });
        view(tuple, observed, Self::TRANSPORT_OFFSET)
    }
}

impl Plain for V6 {
    const TRANSPORT_OFFSET: usize = 40;

    #[inline(always)]
    fn read(packet: &[u8]) -> Option<(Self, Observed)> {
        let head: &[u8; 48] = packet.first_chunk()?;
        if head[0] >> 4 != 6 {
            return None;
        }
        let protocol = head[6];
        let observed = observed(protocol, packet, Self::TRANSPORT_OFFSET)?;
        let key = V6 {
            source: *head[8..].first_chunk()?,
            destination: *head[24..].first_chunk()?,
            source_port: u16::from_be_bytes([head[40], head[41]]),
            destination_port: u16::from_be_bytes([head[42], head[43]]),
            protocol,
        };
        Some((key, observed))
    }

    #[inline(always)]
    fn write(&self, from: &Self, packet: &mut [u8]) {
        let change = Change::default()
            .address(&from.source, &self.source)
            .address(&from.destination, &self.destination)
            .ports(from.source_port, self.source_port)
            .ports(from.destination_port, self.destination_port);
        let Some(head) = packet.first_chunk_mut::<48>() else { return };
        head[8..24].copy_from_slice(&self.source);
        head[24..40].copy_from_slice(&self.destination);
        head[40..42].copy_from_slice(&self.source_port.to_be_bytes());
        head[42..44].copy_from_slice(&self.destination_port.to_be_bytes());
        update(packet, Self::TRANSPORT_OFFSET, self.protocol, change);
    }

    #[inline(always)]
    fn redirect(packet: &mut [u8], to: SocketAddr) -> bool {
        let SocketAddr::V6(to) = to else { return false };
        let (address, port) = (to.ip().octets(), to.port());
        if let Some(head) = packet.first_chunk_mut::<48>()
            && let Some(before) = head[24..].first_chunk_mut::<16>()
        {
            let change = Change::default().address(before, &address);
            *before = address;
            let change = change.ports(u16::from_be_bytes([head[42], head[43]]), port);
            let protocol = head[6];
            head[42..44].copy_from_slice(&port.to_be_bytes());
            update(packet, Self::TRANSPORT_OFFSET, protocol, change);
        }
        true
    }

    #[inline(always)]
    fn with_destination(&self, destination: SocketAddr) -> Option<Self> {
        let SocketAddr::V6(to) = destination else { return None };
        Some(V6 { destination: to.ip().octets(), destination_port: to.port(), ..*self })
    }

    #[inline(always)]
    fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.destination.into(), self.destination_port)
    }

    #[inline(always)]
    fn source_address(&self) -> IpAddr {
        self.source.into()
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn view(&self, observed: Observed) -> View {
        let V6 { source, destination, source_port, destination_port, protocol } = *self;
        let tuple = Tuple::V6(V6 { source, destination, source_port, destination_port, protocol });
        view(tuple, observed, Self::TRANSPORT_OFFSET)
    }
}

/// What a packet with this protocol at `offset` says, if its header is there as a whole.
#[inline(always)]
fn observed(protocol: u8, packet: &[u8], offset: usize) -> Option<Observed> {
    match protocol {
        protocol::TCP => {
            let header: &[u8; TCP_BYTES] = packet.get(offset..)?.first_chunk()?;
            Some(Observed::Tcp(header[TCP_FLAGS]))
        }
        protocol::UDP => Some(Observed::Other),
        _ => None,
    }
}

#[inline(always)]
fn view(tuple: Tuple, observed: Observed, transport_offset: usize) -> View {
    let transport = match observed {
        Observed::Tcp(flags) => Transport::Tcp(flags),
        Observed::Other => Transport::Udp,
    };
    View { tuple, transport, transport_offset, fragment: Fragment::Whole, identification: 0, icmp: (0, 0) }
}

#[inline(always)]
fn update(packet: &mut [u8], offset: usize, protocol: u8, change: Change) {
    if protocol == protocol::TCP {
        if let Some(checksum) = packet.get_mut(offset + TCP_CHECKSUM..).and_then(<[u8]>::first_chunk_mut) {
            *checksum = change.apply(*checksum);
        }
    } else if let Some(checksum) = packet.get_mut(offset + UDP_CHECKSUM..).and_then(<[u8]>::first_chunk_mut)
        && *checksum != [0; 2]
    {
        // RFC 768: zero says that there is none, so that one that comes out as zero is sent as all ones.
        let new = change.apply(*checksum);
        *checksum = if new == [0; 2] { [0xff; 2] } else { new };
    }
}

#[inline(always)]
fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// RFC 1624, equation 3, as a ones' complement sum of words of 32 bits, which that of 16 is folded from in the end; in the
/// machine's byte order, as the sum does not depend on it (RFC 1071 §2).
#[derive(Clone, Copy, Default)]
struct Change(u32);

impl Change {
    #[inline(always)]
    fn and(self, word: u32) -> Self {
        let (sum, carry) = self.0.overflowing_add(word);
        Self(sum.wrapping_add(carry.into()))
    }

    #[inline(always)]
    fn word(self, old: u32, new: u32) -> Self {
        self.and(!old).and(new)
    }

    #[inline(always)]
    fn ports(self, old: u16, new: u16) -> Self {
        self.and(u32::from(!old.to_be()) + u32::from(new.to_be()))
    }

    #[inline(always)]
    fn address(self, old: &[u8; 16], new: &[u8; 16]) -> Self {
        let words = old.as_chunks::<4>().0.iter().zip(new.as_chunks::<4>().0);
        let sum: u64 = words.map(|(old, new)| u64::from(!word(*old)) + u64::from(word(*new))).sum();
        self.and(sum as u32).and((sum >> 32) as u32)
    }

    #[inline(always)]
    fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        (!fold_word(self.and(u32::from(!u16::from_ne_bytes(checksum))).0)).to_ne_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn agree<K: Plain + TryFrom<Tuple>>(mut packet: Vec<u8>, to: K) -> Result<(), TestCaseError> {
        let parsed = View::parse(&packet).unwrap();
        let (key, observed) = K::read(&packet).expect("a usual packet");
        prop_assert_eq!(key.reversed().into(), parsed.tuple.reversed());
        prop_assert_eq!(key.view(observed), View { identification: 0, ..parsed });
        let mut redirected = packet.clone();
        let mut expected = packet.clone();
        prop_assert!(K::redirect(&mut redirected, to.destination()));
        let there = key.with_destination(to.destination()).expect("of the same family");
        translate(&mut expected, &parsed, &there.into()).unwrap();
        prop_assert_eq!(redirected, expected);
        let mut expected = packet.clone();
        translate(&mut expected, &parsed, &to.into()).unwrap();
        to.write(&key, &mut packet);
        prop_assert_eq!(packet, expected);
        Ok(())
    }

    proptest! {
        #[test]
        fn plain_packets_are_treated_as_any(
            ends in any::<[[u8; 16]; 4]>(), ports in any::<[u16; 4]>(), is_tcp in any::<bool>(),
            is_v6 in any::<bool>(), no_checksum in any::<bool>(), payload in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut packet = Vec::new();
            let four = |end: usize| -> [u8; 4] { ends[end][..4].try_into().unwrap() };
            let protocol = if is_tcp { 6 } else { 17 };
            let start = if is_v6 {
                PacketBuilder::ipv6(ends[0], ends[1], 9)
            } else {
                PacketBuilder::ipv4(four(0), four(1), 9)
            };
            if is_tcp {
                start.tcp(ports[0], ports[1], 7, 9).ack(5).write(&mut packet, &payload).unwrap();
            } else {
                start.udp(ports[0], ports[1]).write(&mut packet, &payload).unwrap();
                if no_checksum && !is_v6 {
                    packet[26..28].fill(0);
                }
            }
            let (source_port, destination_port) = (ports[2], ports[3]);
            if is_v6 {
                let (source, destination) = (ends[2], ends[3]);
                agree(packet, V6 { source, destination, source_port, destination_port, protocol })?;
            } else {
                let (source, destination) = (four(2), four(3));
                agree(packet, V4 { source, destination, source_port, destination_port, protocol })?;
            }
        }

        #[test]
        fn what_is_plain_is_whole(bytes in prop::collection::vec(any::<u8>(), 0..64), version in 0..3usize) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = [0x45, 0x60, 0x46][version];
            }
            let plain4 = V4::read(&bytes).map(|(key, observed)| key.view(observed));
            let plain6 = V6::read(&bytes).map(|(key, observed)| key.view(observed));
            if let Some(view) = plain4.or(plain6) {
                prop_assert_eq!(View::parse(&bytes), Ok(View { identification: View::parse(&bytes).unwrap().identification, ..view }));
            }
        }
    }
}
