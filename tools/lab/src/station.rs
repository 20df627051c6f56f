//! A small host at the far end of a frame socket: it has addresses, answers who asks for them, and sends and
//! receives packets through a gateway. For experiments that need no TCP and no root.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::FrameSocket;
use crate::frame::{self, Ends, Mac, Payload, Seen};

/// How long the gateway may take to answer an address resolution, and how often it is asked.
const RESOLUTION_LIMIT: Duration = Duration::from_secs(1);
const RESOLUTION_ATTEMPTS: usize = 6;

/// A host with one address of each family.
#[derive(Debug)]
pub struct Station {
    wire: FrameSocket,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Whether it answers ARP requests and neighbour solicitations.
    pub answers: bool,
}

impl Station {
    /// A host whose Ethernet address ends in `number`.
    pub fn new(wire: FrameSocket, number: u8, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Self {
        Self { wire, mac: [0x02, 0xfa, 0, 0, 0, number], ipv4, ipv6, answers: true }
    }

    /// The wire, for raw frames.
    pub fn wire(&self) -> &FrameSocket {
        &self.wire
    }

    /// The Ethernet address of `neighbour` by ARP or neighbour discovery. Asks again while there is no answer, as hosts do:
    /// an address that is new is not answered for until nobody else has claimed it.
    ///
    /// # Errors
    /// No attempt is answered, or the wire fails.
    pub fn resolve(&self, neighbour: IpAddr) -> Result<Mac> {
        for _ in 0..RESOLUTION_ATTEMPTS {
            match neighbour {
                IpAddr::V4(target) => self.wire.send(&frame::arp_request((self.mac, self.ipv4), target))?,
                IpAddr::V6(target) => {
                    self.wire.send(&frame::neighbour_solicitation((self.mac, self.ipv6), target))?;
                }
            }
            let answer = self.receive(RESOLUTION_LIMIT, |seen| match seen {
                Seen::Arp { request: false, sender, .. } if IpAddr::V4(sender.1) == neighbour => {
                    Some(sender.0)
                }
                Seen::Ip(ends, Payload::Icmp { kind: frame::ICMP6_NEIGHBOUR_ADVERTISEMENT, data, .. })
                    if data.get(..16).is_some_and(|target| IpAddr::V6(neighbour_of(target)) == neighbour) =>
                {
                    Some(ends.source_mac)
                }
                _ => None,
            })?;
            if let Some(mac) = answer {
                return Ok(mac);
            }
        }
        bail!("{neighbour} answers no address resolution")
    }

    /// Both ends of a packet to `destination` that goes over the gateway with that Ethernet address.
    pub fn ends(&self, gateway: Mac, destination: IpAddr, hop_limit: u8) -> Ends {
        let source = match destination {
            IpAddr::V4(_) => self.ipv4.into(),
            IpAddr::V6(_) => self.ipv6.into(),
        };
        Ends { source_mac: self.mac, destination_mac: gateway, source, destination, hop_limit }
    }

    /// The first thing seen on the wire for which `wanted` gives something, or `None` after `limit`. Answers address
    /// resolution meanwhile; unreadable frames and those passed over are lost.
    ///
    /// # Errors
    /// The wire fails, or does not take an answer to address resolution.
    pub fn receive<T>(
        &self,
        limit: Duration,
        mut wanted: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut answer = Ok(());
        let found = self.wire.receive_some(limit, |frame| {
            let seen = frame::parse(frame)?;
            if self.answers && answer.is_ok() {
                answer = self.answer(&seen);
            }
            wanted(&seen)
        })?;
        answer.map(|()| found)
    }

    /// The first frame on the wire for which `wanted` gives something, as it is, or `None` after `limit`. Answers address
    /// resolution meanwhile; frames passed over are lost.
    ///
    /// # Errors
    /// As [`Station::receive`].
    pub fn receive_frame<T>(
        &self,
        limit: Duration,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut answer = Ok(());
        let found = self.wire.receive_some(limit, |frame| {
            if let Some(seen) = frame::parse(frame).filter(|_| self.answers && answer.is_ok()) {
                answer = self.answer(&seen);
            }
            wanted(frame)
        })?;
        answer.map(|()| found)
    }

    /// The data of the next UDP datagram to this port, with both ends.
    ///
    /// # Errors
    /// As [`Station::receive`].
    pub fn receive_udp(&self, port: u16, limit: Duration) -> Result<Option<(Ends, Vec<u8>)>> {
        self.receive(limit, |seen| match seen {
            Seen::Ip(ends, Payload::Udp { destination_port, data, .. }) if *destination_port == port => {
                Some((*ends, data.clone()))
            }
            _ => None,
        })
    }

    fn answer(&self, seen: &Seen) -> Result<()> {
        match seen {
            Seen::Arp { request: true, sender, target } if *target == self.ipv4 => {
                self.wire.send(&frame::arp_reply((self.mac, self.ipv4), *sender))
            }
            Seen::Ip(ends, Payload::Icmp { kind: frame::ICMP6_NEIGHBOUR_SOLICITATION, data, .. })
                if data.get(..16) == Some(&self.ipv6.octets()) =>
            {
                let IpAddr::V6(asker) = ends.source else { return Ok(()) };
                self.wire
                    .send(&frame::neighbour_advertisement((self.mac, self.ipv6), (ends.source_mac, asker)))
            }
            _ => Ok(()),
        }
    }
}

fn neighbour_of(target: &[u8]) -> Ipv6Addr {
    <[u8; 16]>::try_from(target).map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from)
}
