//! Failsafe ports: what no policy closes on a host's own traffic, so that a mistake does not lock its owner out.

use alloc::vec::Vec;

use ipnet::IpNet;

use crate::model::{Direction, Packet, protocol};

/// The failsafe ports of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failsafe {
    /// Of packets to the host.
    pub inbound: Vec<OpenPort>,
    /// Of packets from the host.
    pub outbound: Vec<OpenPort>,
}

/// A destination port that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenPort {
    /// The protocol's number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
    /// Where the other end is; anywhere if none.
    pub net: Option<IpNet>,
}

impl OpenPort {
    const fn anywhere(protocol: u8, port: u16) -> OpenPort {
        OpenPort { protocol, port, net: None }
    }
}

/// Both ways: BGP, etcd, Typha, the Kubernetes API and etcd of old.
const BOTH: [OpenPort; 7] = [
    OpenPort::anywhere(protocol::TCP, 179),
    OpenPort::anywhere(protocol::TCP, 2379),
    OpenPort::anywhere(protocol::TCP, 2380),
    OpenPort::anywhere(protocol::TCP, 5473),
    OpenPort::anywhere(protocol::TCP, 6443),
    OpenPort::anywhere(protocol::TCP, 6666),
    OpenPort::anywhere(protocol::TCP, 6667),
];
/// SSH, and answers of DHCP.
const INBOUND: [OpenPort; 2] = [OpenPort::anywhere(protocol::TCP, 22), OpenPort::anywhere(protocol::UDP, 68)];
/// DNS and DHCP.
const OUTBOUND: [OpenPort; 2] =
    [OpenPort::anywhere(protocol::UDP, 53), OpenPort::anywhere(protocol::UDP, 67)];

impl Default for Failsafe {
    /// Calico's defaults.
    fn default() -> Failsafe {
        let with_both = |own: &[OpenPort]| [own, &BOTH].concat();
        Failsafe { inbound: with_both(&INBOUND), outbound: with_both(&OUTBOUND) }
    }
}

impl Failsafe {
    /// True if a host's own packet is to one of these ports.
    pub fn has(&self, direction: Direction, packet: &Packet) -> bool {
        let (ports, peer) = match direction {
            Direction::Ingress => (&self.inbound, packet.source),
            Direction::Egress => (&self.outbound, packet.destination),
        };
        ports.iter().any(|open| {
            (open.protocol, open.port) == (packet.protocol, packet.destination_port)
                && open.net.is_none_or(|net| net.contains(&peer))
        })
    }
}
