//! What a load balancer does to packets: translation and encapsulation, on bytes, without IO.
//!
//! Main path:
//! 1. [`View::parse`] says what a packet is: its flow's key, its place among fragments, an ICMP error about another one;
//! 2. [`translate`] gives a packet another flow's addresses and ports: NAT in both directions, and full NAT with a source
//!    out of a [`SourcePool`];
//! 3. [`translate_error`] does it to an ICMP error, so that the sender of the packet it is about knows the packet;
//! 4. [`Tunnel::put`] writes the outer header, of which most is ready, for direct server return by IPIP or GUE.
//!
//! [`Plain`] does the first two steps to the usual packet at a fraction of the cost.
//!
//! Checksums are updated incrementally (RFC 1624), so that a packet that was damaged before stays so. Direct server return
//! by the link layer changes no byte from the IP header on: it is a next hop's business, not this crate's.
//!
//! It does not choose backends, remember flows, fragment, or look beyond the transport header. SCTP's checksum covers the
//! whole packet, and is updated by its length, which of a packet in fragments somebody else has to know ([`translate_first`]).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod delta;
mod plain;
mod sctp;
mod source_pool;
mod translate;
mod tunnel;
mod tuple;
mod view;

pub use plain::Plain;
pub use source_pool::SourcePool;
pub use translate::{Refused, translate, translate_error, translate_first};
pub use tunnel::{IPV4_IN_IP, IPV6_IN_IP, NoEntry, Outer, Tunnel};
pub use tuple::Tuple;
pub use view::{Fragment, Malformed, Transport, View, transport_bytes};
