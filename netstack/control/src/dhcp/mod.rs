//! DHCPv4 client (RFC 2131), sans IO: datagrams and time in, datagrams and a lease out.
//!
//! `client` is the state machine of RFC 2131 §4.4, `message` reads what servers say (RFC 2132, RFC 3442), `datagram`
//! writes what the client says, `terms` decides what of a lease is taken.
//!
//! Not here: INIT-REBOOT (a node does not remember its lease over a restart), DHCPINFORM, the ARP probe before use of an
//! address (RFC 2131 §2.2) and so DHCPDECLINE, DHCPRELEASE, option overloading.

mod client;
mod datagram;
mod message;
mod terms;
#[cfg(test)]
pub(crate) mod tests;

pub use client::{Client, Event, Lease, Output};
pub(crate) use message::is_for_client;
