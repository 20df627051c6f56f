//! Cutting apart what a sender left to its device to cut (generic segmentation offload): on a virtual cable there is no
//! device, and frames above the MTU arrive.

use buffer::{Buf, BufferCache, Flags};
use packet::checksum::Sum;

use super::vnet::{Header, Unusable};

/// Segments of one frame at most: 64 KiB in pieces of the smallest size that hosts must take (RFC 9293 §3.7.1).
const MAX_SEGMENTS: usize = 65_536 / 536 + 1;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const IPV6_HEADER_BYTES: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_HEADER_BYTES: usize = 8;
/// TCP flags that only the last segment has, and only the first (RFC 9293 §3.1, RFC 3168 §6.1).
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// Where the parts of a frame are.
struct Shape {
    network: usize,
    is_ipv4: bool,
    transport: usize,
    protocol: u8,
    payload: usize,
}

/// Cuts `frame`, which begins with its Ethernet header, into packets of `header.segment_bytes` of payload each, and hands
/// them to `take` in order. Returns how many there were; fewer than there should be if the buffers are exhausted.
pub fn cut(
    frame: &[u8],
    header: &Header,
    cache: &mut BufferCache,
    mut take: impl FnMut(Buf),
) -> Result<usize, Unusable> {
    let shape = shape(frame, header).ok_or(Unusable::Malformed)?;
    let (headers, payload) = frame.split_at(shape.payload);
    let size = usize::from(header.segment_bytes);
    if size == 0 || payload.len().div_ceil(size) > MAX_SEGMENTS {
        return Err(Unusable::Merged);
    }
    let last = payload.len().div_ceil(size).saturating_sub(1);
    let mut made = 0;
    for (index, part) in payload.chunks(size).enumerate() {
        let Some(mut packet) = cache.allocate() else { break };
        if packet.append(headers).and_then(|()| packet.append(part)).is_err() {
            return Err(Unusable::Merged);
        }
        let start = packet.start();
        complete(packet.data_mut(), &shape, index, size, index == last).ok_or(Unusable::Malformed)?;
        let meta = packet.meta_mut();
        meta.flags = Flags::TX_CSUM | Flags::RX_CSUM_GOOD;
        meta.csum_start = (start + shape.transport) as u16;
        meta.csum_offset = header.checksum_offset;
        take(packet);
        made += 1;
    }
    Ok(made)
}

fn shape(frame: &[u8], header: &Header) -> Option<Shape> {
    let mut network = 14;
    while ETHERTYPES_VLAN.contains(&word(frame, network - 2)?) {
        network += 4;
    }
    let transport = usize::from(header.checksum_start);
    let (is_ipv4, protocol) = match word(frame, network - 2)? {
        ETHERTYPE_IPV4 => (true, *frame.get(network + 9)?),
        // Between the headers there may be extensions; the transport's checksum tells which it is.
        ETHERTYPE_IPV6 => (false, if header.checksum_offset == 6 { UDP } else { TCP }),
        _ => return None,
    };
    let transport_bytes = match (protocol, header.checksum_offset) {
        (TCP, 16) => usize::from(frame.get(transport + 12)? >> 4) * 4,
        (UDP, 6) => UDP_HEADER_BYTES,
        _ => return None,
    };
    let network_bytes = if is_ipv4 { 20 } else { IPV6_HEADER_BYTES };
    let payload = transport + transport_bytes;
    (transport >= network + network_bytes && transport_bytes >= UDP_HEADER_BYTES && payload < frame.len())
        .then_some(Shape { network, is_ipv4, transport, protocol, payload })
}

/// Writes what differs from segment to segment: lengths, identification, sequence number, flags, checksums.
fn complete(packet: &mut [u8], shape: &Shape, index: usize, size: usize, is_last: bool) -> Option<()> {
    let total = packet.len();
    let transport_length = (total - shape.transport) as u32;
    let (network, rest) = packet.split_at_mut_checked(shape.transport)?;
    let network = network.get_mut(shape.network..)?;
    let pseudo = if shape.is_ipv4 {
        put(network, 2, (total - shape.network) as u16)?;
        let identification = word(network, 4)?.wrapping_add(index as u16);
        put(network, 4, identification)?;
        put(network, 10, 0)?;
        let checksum = packet::checksum::of(network).get();
        put(network, 10, checksum)?;
        Sum::new().pseudo_header(network.get(12..16)?, network.get(16..20)?, shape.protocol, transport_length)
    } else {
        put(network, 4, (total - shape.network - IPV6_HEADER_BYTES) as u16)?;
        Sum::new().pseudo_header(network.get(8..24)?, network.get(24..40)?, shape.protocol, transport_length)
    };
    let partial = pseudo.partial().get();
    if shape.protocol == UDP {
        put(rest, 4, transport_length as u16)?;
        return put(rest, 6, partial);
    }
    let sequence = u32::from_be_bytes(*rest.get(4..)?.first_chunk()?).wrapping_add((index * size) as u32);
    rest.get_mut(4..8)?.copy_from_slice(&sequence.to_be_bytes());
    let flags = rest.get_mut(13)?;
    if !is_last {
        *flags &= !TCP_FIN_PSH;
    }
    if index > 0 {
        *flags &= !TCP_CWR;
    }
    put(rest, 16, partial)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    bytes.get_mut(at..at + 2)?.copy_from_slice(&value.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use buffer::BufferPool;
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    const SIZE: u16 = 1400;

    fn header(frame_start: u16, offset: u16) -> Header {
        Header {
            flags: 1,
            kind: 1,
            segment_bytes: SIZE,
            checksum_start: frame_start,
            checksum_offset: offset,
        }
    }

    fn segments(frame: &[u8], header: &Header) -> Vec<Buf> {
        let mut cache = BufferPool::from_heap(200).cache();
        let mut segments = Vec::new();
        let made =
            cut(frame, header, &mut cache, |packet| segments.push(packet)).expect("the frame is well formed");
        assert_eq!(made, segments.len());
        segments
    }

    /// Completes the checksum as a device does, and has another implementation take the packet apart.
    fn check(mut packet: Buf, expect: impl FnOnce(&SlicedPacket<'_>, &[u8])) {
        packet.complete_checksum().expect("the place is inside");
        let sliced = SlicedPacket::from_ethernet(packet.data()).expect("the packet is well formed");
        let payload = match (&sliced.net, &sliced.transport) {
            (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => {
                assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
                assert_eq!(
                    tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
                    Ok(tcp.checksum())
                );
                tcp.payload()
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
                let checksum = tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination());
                assert_eq!(checksum, Ok(tcp.checksum()));
                tcp.payload()
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
                let whole = udp.to_header().calc_checksum_ipv6_raw(
                    ip.header().source(),
                    ip.header().destination(),
                    udp.payload(),
                );
                assert_eq!(whole, Ok(udp.checksum()));
                udp.payload()
            }
            other => panic!("{other:?}"),
        };
        expect(&sliced, payload);
    }

    #[test]
    fn tcp_over_ipv4_is_cut() {
        let payload: Vec<u8> = (0..5000u32).map(|n| (n * 7) as u8).collect();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut frame = Vec::new();
        builder
            .tcp(1, 2, 0xffff_fff0, 100)
            .psh()
            .ack(9)
            .cwr()
            .write(&mut frame, &payload)
            .expect("a vector takes all");
        let segments = segments(&frame, &header(34, 16));
        assert_eq!(segments.len(), 4);
        for (index, packet) in segments.into_iter().enumerate() {
            check(packet, |sliced, part| {
                let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("it is TCP") };
                assert_eq!(tcp.sequence_number(), 0xffff_fff0u32.wrapping_add(1400 * index as u32));
                assert_eq!((tcp.psh(), tcp.cwr(), tcp.ack()), (index == 3, index == 0, true));
                assert_eq!(part, &payload[1400 * index..(1400 * index + 1400).min(5000)]);
            });
        }
    }

    #[test]
    fn tcp_and_udp_over_ipv6_are_cut() {
        let payload = [5; 3000];
        let builder = || PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 64);
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        builder().tcp(1, 2, 3, 100).write(&mut tcp, &payload).expect("a vector takes all");
        builder().udp(1, 2).write(&mut udp, &payload).expect("a vector takes all");
        for (frame, offset) in [(tcp, 16), (udp, 6)] {
            let segments = segments(&frame, &header(54, offset));
            let mut lengths = Vec::new();
            segments.into_iter().for_each(|packet| check(packet, |_, part| lengths.push(part.len())));
            assert_eq!(lengths, [1400, 1400, 200]);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        builder.tcp(1, 2, 3, 100).write(&mut frame, &[0; 60_000]).expect("a vector takes all");
        let mut cache = BufferPool::from_heap(200).cache();
        let mut refuse = |frame: &[u8], header: Header| cut(frame, &header, &mut cache, drop).is_err();
        assert!(refuse(&frame, Header { segment_bytes: 0, ..header(34, 16) }));
        assert!(refuse(&frame, Header { segment_bytes: 1, ..header(34, 16) }));
        assert!(refuse(&frame, Header { segment_bytes: 9000, ..header(34, 16) }), "larger than a buffer");
        for (start, offset) in [(0, 16), (14, 16), (34, 6), (34, 0), (60_000, 16), (u16::MAX, u16::MAX)] {
            assert!(refuse(&frame, header(start, offset)), "{start} {offset}");
        }
        for length in 0..54 {
            assert!(refuse(&frame[..length], header(34, 16)), "{length}");
        }
    }
}
