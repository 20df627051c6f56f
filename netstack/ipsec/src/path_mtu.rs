//! What routers on the path say about packets that are too long for it (RFC 4301 §8.2).
//!
//! Their word is not authentic. It is believed if the packet that they quote has the SPI of an SA that sends to that
//! destination, and never below what every path takes.

use crate::outer::Place;
use crate::{Sa, Snapshot};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use packet::ipv4::Ipv4;
use packet::ipv6::Ipv6;
use zerocopy::FromBytes;

impl Snapshot {
    /// Takes a router's word that the packet which begins with `quoted` was longer than `mtu`. The SA that learnt from
    /// it, if it was of one.
    pub fn learn_path_mtu(&self, quoted: &[u8], mtu: u32, now_ns: u64) -> Option<&Sa> {
        let destination: IpAddr = match quoted.first()? >> 4 {
            4 => Ipv4Addr::from(Ipv4::ref_from_prefix(quoted).ok()?.0.destination).into(),
            _ => Ipv6Addr::from(Ipv6::ref_from_prefix(quoted).ok()?.0.destination).into(),
        };
        let place = Place::of(quoted).ok()?;
        let spi = quoted.get(usize::from(place.esp)..)?.first_chunk()?;
        let sa = self.outbound_to(u32::from_be_bytes(*spi), destination)?;
        sa.learn_path_mtu(mtu, now_ns);
        Some(sa)
    }
}
