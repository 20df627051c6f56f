//! The flow hash: what chooses among equal next hops. Keyed, so that nobody outside can aim flows at one of them.

use buffer::Buf;
use packet::ipv4::Ipv4;
use packet::ipv6::Ipv6;
use packet::protocol;
use zerocopy::FromBytes;

/// Secret of the flow hash.
#[derive(Clone, Copy)]
pub(crate) struct FlowKey([u64; 2]);

impl FlowKey {
    pub(crate) fn new(seed: [u64; 2]) -> Self {
        Self(seed)
    }

    /// Both halves of a 128-bit product, folded: every input bit reaches every output bit.
    #[inline(always)]
    fn mix(&self, a: u64, b: u64) -> u64 {
        let product = u128::from(a ^ self.0[0]) * u128::from(b ^ self.0[1]);
        product as u64 ^ (product >> 64) as u64
    }

    /// Hash of an IPv4 packet's addresses, protocol and ports; of fragments, addresses and protocol only, since
    /// later fragments have no ports. Data starts at the IPv4 header.
    pub(crate) fn ipv4(&self, packet: &Buf) -> u32 {
        let Ok((header, _)) = Ipv4::ref_from_prefix(packet.data()) else { return 0 };
        let addresses = u64::from(u32::from_ne_bytes(header.source)) << 32
            | u64::from(u32::from_ne_bytes(header.destination));
        let ports =
            if header.is_fragment() { 0 } else { ports(packet, header.protocol, header.header_len()) };
        let mixed = self.mix(addresses, u64::from(ports) << 8 | u64::from(header.protocol));
        self.mix(mixed, addresses) as u32
    }

    /// Hash of an IPv6 packet's addresses and flow label (RFC 6438); where there is no label, of protocol and ports
    /// as far as they follow directly. Data starts at the IPv6 header.
    pub(crate) fn ipv6(&self, packet: &Buf) -> u32 {
        let Ok((header, _)) = Ipv6::ref_from_prefix(packet.data()) else { return 0 };
        let [a, b] = halves(header.source);
        let [c, d] = halves(header.destination);
        let flow = match header.flow_label() {
            0 => u64::from(ports(packet, header.next_header, 40)) << 8 | u64::from(header.next_header),
            label => 1 << 63 | u64::from(label),
        };
        let addresses = self.mix(a, b).rotate_left(32) ^ self.mix(c, d);
        self.mix(self.mix(addresses, flow), addresses) as u32
    }
}

fn halves(address: [u8; 16]) -> [u64; 2] {
    let bits = u128::from_ne_bytes(address);
    [bits as u64, (bits >> 64) as u64]
}

/// Source and destination port, 0 where the protocol has none.
fn ports(packet: &Buf, protocol: u8, offset: usize) -> u32 {
    if !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return 0;
    }
    let bytes = packet.data().get(offset..).and_then(|bytes| bytes.first_chunk::<4>());
    bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use buffer::BufferPool;
    use etherparse::PacketBuilder;

    const KEY: FlowKey = FlowKey([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

    fn packet(bytes: &[u8]) -> Buf {
        let mut packet = BufferPool::from_heap(1).cache().allocate().expect("the pool has one buffer");
        packet.append(bytes).expect("it fits");
        packet
    }

    fn udp4(source_port: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(source_port, 53);
        builder.write(&mut bytes, b"x").expect("a vector takes all");
        bytes
    }

    fn udp6(source_port: u16, label: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv6([1; 16], [2; 16], 9).udp(source_port, 53);
        builder.write(&mut bytes, b"x").expect("a vector takes all");
        bytes[..4].copy_from_slice(&(6 << 28 | label).to_be_bytes());
        bytes
    }

    #[test]
    fn ports_make_flows_of_whole_packets_only() {
        assert_ne!(KEY.ipv4(&packet(&udp4(1))), KEY.ipv4(&packet(&udp4(2))));
        let fragment = |source_port, offset| {
            let mut bytes = udp4(source_port);
            (bytes[6], bytes[7]) = (0x20, offset);
            KEY.ipv4(&packet(&bytes))
        };
        assert_eq!(fragment(1, 0), fragment(2, 0));
        assert_eq!(fragment(1, 0), fragment(2, 9));
    }

    #[test]
    fn a_flow_label_stands_for_ports() {
        let hash = |source_port, label| KEY.ipv6(&packet(&udp6(source_port, label)));
        assert_ne!(hash(1, 0), hash(2, 0));
        assert_eq!(hash(1, 7), hash(2, 7));
        assert_ne!(hash(1, 7), hash(1, 8));
    }

    #[test]
    fn another_key_makes_another_hash() {
        let other = FlowKey::new([1, 2]);
        assert_ne!(KEY.ipv4(&packet(&udp4(1))), other.ipv4(&packet(&udp4(1))));
        assert_ne!(KEY.ipv6(&packet(&udp6(1, 0))), other.ipv6(&packet(&udp6(1, 0))));
    }
}
