//! The setting of most experiments: the node is the gateway between two networks, a host in each, and a third
//! interface for management.
//!
//! ```text
//!   left host             node (eth0: management)             right host
//!   10.1.0.2/24 ------ eth1 10.1.0.1    eth2 10.2.0.1 ------ 10.2.0.2/24
//!   2001:db8:1::2/64   2001:db8:1::1    2001:db8:2::1   2001:db8:2::2/64
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{FrameSocket, Netns, Nic, Station, VmBuilder};

/// The token of the management API.
pub const TOKEN: &str = "laboratory-token-0123456789";

/// One of the two networks: the addresses of the node and of the host in it.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// The node's interface.
    pub interface: &'static str,
    /// The node's IPv4 address.
    pub node4: Ipv4Addr,
    /// The node's IPv6 address.
    pub node6: Ipv6Addr,
    /// The host's IPv4 address.
    pub host4: Ipv4Addr,
    /// The host's IPv6 address.
    pub host6: Ipv6Addr,
}

const fn side(interface: &'static str, number: u8) -> Side {
    Side {
        interface,
        node4: Ipv4Addr::new(10, number, 0, 1),
        node6: Ipv6Addr::new(0x2001, 0xdb8, number as u16, 0, 0, 0, 0, 1),
        host4: Ipv4Addr::new(10, number, 0, 2),
        host6: Ipv6Addr::new(0x2001, 0xdb8, number as u16, 0, 0, 0, 0, 2),
    }
}

/// The network behind eth1.
pub const LEFT: Side = side("eth1", 1);
/// The network behind eth2.
pub const RIGHT: Side = side("eth2", 2);

impl Side {
    /// The host's addresses, IPv4 first.
    pub fn hosts(&self) -> [IpAddr; 2] {
        [self.host4.into(), self.host6.into()]
    }

    /// The node's addresses, IPv4 first.
    pub fn nodes(&self) -> [IpAddr; 2] {
        [self.node4.into(), self.node6.into()]
    }

    /// Both networks, IPv4 first: `10.1.0.0/24`, `2001:db8:1::/64`.
    pub fn networks(&self) -> [String; 2] {
        let network4 = Ipv4Addr::from_bits(self.node4.to_bits() & (!0 << 8));
        let network6 = Ipv6Addr::from_bits(self.node6.to_bits() & (!0 << 64));
        [format!("{network4}/24"), format!("{network6}/64")]
    }

    /// The node's interface, as configured.
    pub fn interface_config(&self) -> Value {
        json!({ "name": self.interface, "addresses": [format!("{}/24", self.node4), format!("{}/64", self.node6)] })
    }
}

/// The node's configuration. Its management address is the one that QEMU forwards a port to.
pub fn config() -> Value {
    json!({
        "hostname": "gateway",
        "api": { "token": TOKEN },
        "interfaces": [
            { "name": "eth0", "addresses": ["10.0.2.15/24"] },
            LEFT.interface_config(),
            RIGHT.interface_config(),
        ],
    })
}

fn plug(nics: [Nic; 2], machine: VmBuilder, shape: impl Fn(Nic) -> Nic) -> VmBuilder {
    let machine = machine.nic(Nic::user(0).without_capture());
    nics.into_iter().fold(machine, |machine, nic| machine.nic(shape(nic)))
}

/// Hosts at the ends of two frame sockets: no root needed.
#[derive(Debug)]
pub struct Stations {
    /// The host in the left network.
    pub left: Station,
    /// The host in the right network.
    pub right: Station,
}

impl Stations {
    /// Makes both.
    ///
    /// # Errors
    /// A socket of theirs cannot be made.
    pub fn new() -> Result<Self> {
        let station = |number: u8, side: &Side| -> Result<Station> {
            Ok(Station::new(FrameSocket::new()?, number, side.host4, side.host6))
        };
        Ok(Self { left: station(1, &LEFT)?, right: station(2, &RIGHT)? })
    }

    /// The nodes' ends of both wires.
    pub fn nics(&self) -> [Nic; 2] {
        [self.left.wire().nic(), self.right.wire().nic()]
    }

    /// Plugs the machine's interfaces in, behind one for management. `shape` may change the two.
    pub fn plug(&self, machine: VmBuilder, shape: impl Fn(Nic) -> Nic) -> VmBuilder {
        plug(self.nics(), machine, shape)
    }
}

/// Hosts that are network namespaces of this machine: they need root.
#[derive(Debug)]
pub struct Hosts {
    /// The host in the left network.
    pub left: Netns,
    /// The host in the right network.
    pub right: Netns,
    taps: [String; 2],
}

impl Hosts {
    /// Makes both.
    ///
    /// # Errors
    /// A namespace cannot be made.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Interface names have 15 characters at most, and a process number up to seven digits.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let taps = ["l", "r"].map(|end| format!("fl{}{end}{count}", std::process::id()));
        Ok(Self { left: Netns::new("left")?, right: Netns::new("right")?, taps })
    }

    /// The nodes' ends of both wires.
    pub fn nics(&self) -> [Nic; 2] {
        self.taps.each_ref().map(Nic::tap)
    }

    /// Plugs the machine's interfaces in, behind one for management. `shape` may change the two.
    pub fn plug(&self, machine: VmBuilder, shape: impl Fn(Nic) -> Nic) -> VmBuilder {
        plug(self.nics(), machine, shape)
    }

    /// Takes the TAP devices of machines that have been started into the namespaces, with addresses and routes.
    ///
    /// # Errors
    /// A TAP device is not there, or `ip` refuses an address or a route.
    pub fn join(&self) -> Result<()> {
        for (host, tap, side) in [(&self.left, &self.taps[0], LEFT), (&self.right, &self.taps[1], RIGHT)] {
            host.adopt(tap, &[&format!("{}/24", side.host4), &format!("{}/64", side.host6)])?;
            let _ = host.ip(&["route", "add", "default", "via", &side.node4.to_string()])?;
            let _ = host.ip(&["-6", "route", "add", "default", "via", &side.node6.to_string()])?;
        }
        Ok(())
    }
}
