//! What routers on the path say about packets that are too long for it (RFC 4301 §8.2).
//!
//! Their word is not authentic. It is believed if the packet that they quote has the SPI of an SA that sends to that
//! destination, and never below what every path takes.

use crate::outer::Place;
use crate::{Sa, Snapshot};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use packet::ipv4::Ipv4;
use packet::ipv6::{Fragment, Ipv6};
use packet::protocol;
use packet::udp::Udp;
use zerocopy::FromBytes;

impl Snapshot {
    /// Takes a router's word that the packet which begins with `quoted` was longer than `mtu`. The SA that learnt from
    /// it, if it was of one.
    pub fn learn_path_mtu(&self, quoted: &[u8], mtu: u32, now_ns: u64) -> Option<&Sa> {
        let destination: IpAddr = match quoted.first()? >> 4 {
            4 => Ipv4Addr::from(Ipv4::ref_from_prefix(quoted).ok()?.0.destination).into(),
            _ => Ipv6Addr::from(Ipv6::ref_from_prefix(quoted).ok()?.0.destination).into(),
        };
        let esp = first_fragment_esp(quoted).or_else(|| Place::of(quoted).ok().map(|place| place.esp.into()));
        let spi = quoted.get(esp?..)?.first_chunk()?;
        let sa = self.outbound_to(u32::from_be_bytes(*spi), destination)?;
        sa.learn_path_mtu(mtu, now_ns);
        Some(sa)
    }
}

/// Where ESP starts in the first fragment of an outer packet over IPv6 as this node cuts them.
fn first_fragment_esp(quoted: &[u8]) -> Option<usize> {
    let (header, rest) = Ipv6::ref_from_prefix(quoted).ok()?;
    let (fragment, _) = Fragment::ref_from_prefix(rest).ok()?;
    let is_cut = header.version() == 6 && header.next_header == protocol::FRAGMENT;
    let is_first = is_cut && fragment.offset_bytes() == 0;
    let start = size_of::<Ipv6>() + size_of::<Fragment>();
    match fragment.next_header {
        protocol::ESP if is_first => Some(start),
        protocol::UDP if is_first => Some(start + size_of::<Udp>()),
        _ => None,
    }
}
