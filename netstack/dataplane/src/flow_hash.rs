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
