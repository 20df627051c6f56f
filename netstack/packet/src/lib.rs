//! Wire formats and checksums of the fast path.
//!
//! A header is a `#[repr(C)]` structure of exactly its size on the wire, without alignment. Bytes become one by
//! `Header::ref_from_prefix(bytes)` and its relatives (crate `zerocopy`), which fail if there are too few. What comes
//! after a header, and whether its fields agree with each other, is checked by who uses it.
//!
//! * [`ethernet`], [`arp`]: link layer
//! * [`ipv4`], [`ipv6`]: network layer
//! * [`icmpv4`], [`icmpv6`], [`nd`]: control messages and neighbour discovery
//! * [`udp`], [`tcp`]: as far as a flow hash and a checksum need them
//! * [`checksum`]: the Internet checksum, whole and incremental
//!
//! What it does not do: options of TCP, reassembly, any policy about what is acceptable.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod tcp;
pub mod udp;

#[cfg(test)]
mod testing;

/// TTL, or hop limit, of packets that start here and say nothing else (RFC 1700).
pub const DEFAULT_TTL: u8 = 64;

/// Numbers of protocols above IP (<https://www.iana.org/assignments/protocol-numbers>).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPsec encapsulating security payload.
    pub const ESP: u8 = 50;
    /// IPsec authentication header.
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}
