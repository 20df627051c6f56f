//! What the client says, as frames and packets.

use super::message::REQUESTED_OPTIONS;
use alloc::{vec, vec::Vec};
use core::net::Ipv4Addr;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress,
    EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

const OPTION_HOSTNAME: u8 = 12;
const ETHERNET_HEADER_BYTES: usize = 14;
/// The longest datagram that is taken (RFC 2132 §9.10).
const MAX_MESSAGE_BYTES: u16 = 1472;

/// A message of a client.
pub(super) struct Request<'a> {
    pub kind: DhcpMessageType,
    pub mac: [u8; 6],
    pub hostname: &'a str,
    pub transaction: u32,
    /// Since the client began to ask.
    pub seconds: u16,
    /// The client's address, when it has one.
    pub address: Option<Ipv4Addr>,
    pub requested: Option<Ipv4Addr>,
    pub server: Option<Ipv4Addr>,
}

impl Request<'_> {
    /// An Ethernet frame from no address to everybody, asking for an answer to everybody.
    pub fn broadcast_frame(&self) -> Vec<u8> {
        let packet = self.packet(self.address.unwrap_or(Ipv4Addr::UNSPECIFIED), Ipv4Addr::BROADCAST);
        let mut frame = vec![0; ETHERNET_HEADER_BYTES + packet.len()];
        let repr = EthernetRepr {
            src_addr: EthernetAddress(self.mac),
            dst_addr: EthernetAddress::BROADCAST,
            ethertype: EthernetProtocol::Ipv4,
        };
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
        repr.emit(&mut ethernet);
        ethernet.payload_mut().copy_from_slice(&packet);
        frame
    }

    /// An IPv4 packet from the client's address to a server.
    pub fn unicast_packet(&self, server: Ipv4Addr) -> Vec<u8> {
        self.packet(self.address.unwrap_or(Ipv4Addr::UNSPECIFIED), server)
    }

    fn packet(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let hostname = [DhcpOption { kind: OPTION_HOSTNAME, data: self.hostname.as_bytes() }];
        let dhcp = DhcpRepr {
            message_type: self.kind,
            transaction_id: self.transaction,
            secs: self.seconds,
            client_hardware_address: EthernetAddress(self.mac),
            client_ip: self.address.unwrap_or(Ipv4Addr::UNSPECIFIED),
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            // A node without address takes only what is for everybody.
            broadcast: self.address.is_none(),
            requested_ip: self.requested,
            client_identifier: Some(EthernetAddress(self.mac)),
            server_identifier: self.server,
            parameter_request_list: Some(REQUESTED_OPTIONS),
            dns_servers: None,
            max_size: Some(MAX_MESSAGE_BYTES),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            // RFC 2132 §3.14: at least one character; a longer name than an option takes is left out.
            additional_options: if (1..=255).contains(&self.hostname.len()) { &hostname } else { &[] },
        };
        let udp = UdpRepr { src_port: DHCP_CLIENT_PORT, dst_port: DHCP_SERVER_PORT };
        let ip = Ipv4Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + dhcp.buffer_len(),
            hop_limit: packet::DEFAULT_TTL,
        };
        let checksums = ChecksumCapabilities::default();
        let mut bytes = vec![0; ip.buffer_len() + ip.payload_len];
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
        ip.emit(&mut packet, &checksums);
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        let fill = |payload: &mut [u8]| {
            // The buffer is as long as the message wants.
            let _ = dhcp.emit(&mut DhcpPacket::new_unchecked(payload));
        };
        udp.emit(&mut datagram, &source.into(), &destination.into(), dhcp.buffer_len(), fill, &checksums);
        bytes
    }
}
