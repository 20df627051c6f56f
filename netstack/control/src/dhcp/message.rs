//! What DHCP servers say.

use alloc::vec::Vec;
use config::Ipv4Net;
use core::net::Ipv4Addr;
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOption, DhcpPacket, EthernetAddress, IpProtocol,
    Ipv4Packet, UdpPacket,
};

/// RFC 2131 §3.
const MAGIC_COOKIE: u32 = 0x6382_5363;
/// RFC 2132 §5.1: what no link goes below.
const MIN_MTU: u16 = 576;

const OPTION_MASK: u8 = 1;
const OPTION_ROUTER: u8 = 3;
const OPTION_MTU: u8 = 26;
const OPTION_LEASE_SECONDS: u8 = 51;
const OPTION_TYPE: u8 = 53;
const OPTION_SERVER: u8 = 54;
const OPTION_T1_SECONDS: u8 = 58;
const OPTION_T2_SECONDS: u8 = 59;
const OPTION_CLASSLESS_ROUTES: u8 = 121;

/// What a client asks servers to tell it. The classless routes come before the router (RFC 3442).
pub(super) const REQUESTED_OPTIONS: &[u8] = &[
    OPTION_MASK,
    OPTION_CLASSLESS_ROUTES,
    OPTION_ROUTER,
    OPTION_MTU,
    OPTION_LEASE_SECONDS,
    OPTION_T1_SECONDS,
    OPTION_T2_SECONDS,
];

/// A message of a server to this client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub kind: Option<DhcpMessageType>,
    pub address: Option<Ipv4Addr>,
    pub prefix_len: Option<u8>,
    pub server: Option<Ipv4Addr>,
    /// Networks with their routers: those of option 121 if it is there, else the default route of option 3.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    pub mtu: Option<u16>,
    pub lease_seconds: Option<u32>,
    pub t1_seconds: Option<u32>,
    pub t2_seconds: Option<u32>,
}

/// Whether an IPv4 packet is for a DHCP client.
pub(crate) fn is_for_client(packet: &[u8]) -> bool {
    udp_to_client(packet).is_some()
}

/// The message in an IPv4 packet, if it is one for the client with this MAC address and transaction.
pub(super) fn parse(packet: &[u8], mac: [u8; 6], transaction: u32) -> Option<Message> {
    let dhcp = DhcpPacket::new_checked(udp_to_client(packet)?).ok()?;
    let is_ours = dhcp.magic_number() == MAGIC_COOKIE
        && dhcp.hardware_len() == 6
        && dhcp.client_hardware_address() == EthernetAddress(mac)
        && dhcp.transaction_id() == transaction;
    if !is_ours {
        return None;
    }
    let address = dhcp.your_ip();
    let mut message = Message { address: is_host(address).then_some(address), ..Message::default() };
    let (mut router, mut classless) = (None, None);
    for option in dhcp.options() {
        match option.kind {
            OPTION_ROUTER => router = addresses(option.data).next().filter(|&address| is_host(address)),
            OPTION_CLASSLESS_ROUTES => classless = classless_routes(option.data),
            _ => message.take(&option),
        }
    }
    let default = || router.map(|router| (Ipv4Net::default(), router)).into_iter().collect();
    message.routes = classless.unwrap_or_else(default);
    Some(message)
}

impl Message {
    fn take(&mut self, option: &DhcpOption<'_>) {
        let seconds = || Some(u32::from_be_bytes(option.data.try_into().ok()?));
        match option.kind {
            OPTION_TYPE => self.kind = option.data.first().map(|&kind| DhcpMessageType::from(kind)),
            OPTION_MASK => self.prefix_len = addresses(option.data).next().and_then(prefix_len),
            OPTION_SERVER => self.server = addresses(option.data).next().filter(|&address| is_host(address)),
            OPTION_LEASE_SECONDS => self.lease_seconds = seconds(),
            OPTION_T1_SECONDS => self.t1_seconds = seconds(),
            OPTION_T2_SECONDS => self.t2_seconds = seconds(),
            OPTION_MTU => {
                let mtu = option.data.try_into().ok().map(u16::from_be_bytes);
                self.mtu = mtu.filter(|&mtu| mtu >= MIN_MTU);
            }
            _ => {}
        }
    }
}

/// The UDP payload of a whole packet from a DHCP server to a client.
///
/// The UDP checksum is not looked at: a server on the hypervisor's own host may leave it to a device that is not there.
/// Transaction identifier and cookie tell the message from anything else.
fn udp_to_client(packet: &[u8]) -> Option<&[u8]> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    if ip.version() != 4 || ip.more_frags() || ip.frag_offset() != 0 || ip.next_header() != IpProtocol::Udp {
        return None;
    }
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    let ports = (udp.src_port(), udp.dst_port());
    (ports == (DHCP_SERVER_PORT, DHCP_CLIENT_PORT)).then(|| udp.payload())
}

fn addresses(data: &[u8]) -> impl Iterator<Item = Ipv4Addr> {
    data.chunks_exact(4).filter_map(|bytes| Some(<[u8; 4]>::try_from(bytes).ok()?.into()))
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback())
}

/// The length of a contiguous mask.
fn prefix_len(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    (bits.leading_ones() + bits.trailing_zeros() == 32 || bits == u32::MAX)
        .then_some(bits.leading_ones() as u8)
}

/// RFC 3442: width, as many octets of the network as that needs, router. None if malformed. Routes through the unspecified
/// router, which mean networks on the link, are left out.
fn classless_routes(data: &[u8]) -> Option<Vec<(Ipv4Net, Ipv4Addr)>> {
    let (mut routes, mut rest) = (Vec::new(), data);
    while let Some((&width, after)) = rest.split_first() {
        let significant = usize::from(width.div_ceil(8));
        let mut octets = [0; 4];
        octets.get_mut(..significant)?.copy_from_slice(after.get(..significant)?);
        let router = addresses(after.get(significant..significant + 4)?).next()?;
        rest = after.get(significant + 4..)?;
        let network = Ipv4Net::new(octets.into(), width).ok()?.trunc();
        if is_host(router) {
            routes.push((network, router));
        }
    }
    Some(routes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn masks() {
        assert_eq!(prefix_len([255, 255, 255, 0].into()), Some(24));
        assert_eq!(prefix_len([255; 4].into()), Some(32));
        assert_eq!(prefix_len([0; 4].into()), Some(0));
        assert_eq!(prefix_len([255, 0, 255, 0].into()), None);
    }

    #[test]
    fn routes_of_rfc_3442() {
        let data = [0, 10, 0, 0, 1, 24, 10, 27, 129, 10, 27, 129, 1, 16, 10, 17, 0, 0, 0, 0];
        let routes = classless_routes(&data).unwrap();
        let text: Vec<String> = routes.iter().map(|(net, via)| format!("{net} {via}")).collect();
        assert_eq!(text, ["0.0.0.0/0 10.0.0.1", "10.27.129.0/24 10.27.129.1"]);
        assert_eq!(classless_routes(&data[..6]), None);
        assert_eq!(classless_routes(&[33, 1, 2, 3, 4, 5, 6, 7, 8, 9]), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes, [0; 6], 0);
            let _ = classless_routes(&bytes);
        }
    }
}
